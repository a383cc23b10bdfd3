"""`orochi verify` without a catalog: every file below the folder, and what is wrong with it."""

from __future__ import annotations

import json
import pathlib

import pyarrow as pa
import pytest
import typer.testing

from orochi import cli, pgtypes
from orochi.embedded import verification
from orochi.storage.columnar import writer


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    columns = [writer.StripeColumn("id", pgtypes.INT8), writer.StripeColumn("v", pgtypes.TEXT)]
    for number, name in enumerate(["node1/stripes/s1", "node2/stripes/s2", "stripes/s3"]):
        (tmp_path / name).mkdir(parents=True)
        batch = pa.RecordBatch.from_arrays([pa.array(range(50)), pa.array(["a", "b"] * 25)], ["id", "v"])
        writer.write_stripe(tmp_path / name / f"c{number}.stripe", [batch], columns)
    return tmp_path


def test_whole_and_damaged(folder: pathlib.Path) -> None:
    done: list[tuple[int, int]] = []
    report = verification.verify(folder, None, lambda *progress: done.append(progress))
    assert (report.stripes, report.column_chunks, report.findings, report.from_catalog) == (3, 6, [], False)
    assert done[-1] == (report.bytes, report.bytes)
    path = folder / "node2/stripes/s2/c1.stripe"
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    (finding,) = verification.verify(folder, None, quick=True).findings
    assert finding.path == str(path)
    assert 'column chunk "id", group 0' in finding.message


def test_command(folder: pathlib.Path) -> None:
    runner = typer.testing.CliRunner()
    whole = runner.invoke(cli.app, ["verify", "--data-dir", str(folder), "--json"])
    assert whole.exit_code == 0
    assert json.loads(whole.stdout)["stripes"] == 3
    path = folder / "stripes/s3/c2.stripe"
    path.write_bytes(path.read_bytes()[:-1])
    damaged = runner.invoke(cli.app, ["verify", "--data-dir", str(folder)])
    assert damaged.exit_code == 1
    assert f'{path}: stripe file "{path}" is corrupted' in damaged.stdout
    assert runner.invoke(cli.app, ["verify", "--data-dir", str(folder / "none")]).exit_code == 3
    failed = runner.invoke(cli.app, ["verify", "host=/nowhere", "--data-dir", str(folder)])
    assert (failed.exit_code, "catalog cannot be read" in failed.output) == (3, True)

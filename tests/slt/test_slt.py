"""Every `.slt` file of this folder, on every layout: what PostgreSQL wrote, Orochi answers."""

from __future__ import annotations

import os
import pathlib

import pytest

from tests.support import oracle, services, slt

_FILES = sorted(pathlib.Path(__file__).parent.glob("*.slt"))


@pytest.mark.parametrize("layout", slt.LAYOUTS)
@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.stem)
def test_file(pair: oracle.Pair, path: pathlib.Path, layout: str) -> None:
    slt.run(path, pair, layout)


def test_expectations_are_postgresqls(
    request: pytest.FixtureRequest, postgres_server: services.Server, tmp_path: pathlib.Path
) -> None:
    """PostgreSQL still answers what the files say; with --complete-slt it writes them."""
    writing = request.config.getoption("--complete-slt")
    assert not (writing and os.environ.get("CI")), "expectations are not rewritten under CI"
    for path in _FILES:
        with oracle.psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            target = path if writing else tmp_path / path.name
            target.write_text(path.read_text())
            slt.complete(target, connection)
            assert target.read_text() == path.read_text(), path.name

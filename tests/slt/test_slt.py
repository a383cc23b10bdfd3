"""Every `.slt` file of this folder, on every layout: what PostgreSQL wrote, Orochi answers.

Of the files that were made (`tests.support.slt_made`) each layout runs a seeded sample of one;
`make slt` runs all of them.
"""

from __future__ import annotations

import os
import pathlib

import pytest

from tests.support import oracle, services, slt

_ALL = os.environ.get("OROCHI_SLT") == "all"
_SAMPLE = 20
_MADE = sorted(pathlib.Path(__file__).parent.glob("made_*.slt"))
_FILES = sorted(set(pathlib.Path(__file__).parent.glob("*.slt")) - set(_MADE))


@pytest.mark.parametrize(
    ("path", "layout"),
    # each file on every other layout, files beside each other on the others; `make slt` runs all
    [
        pytest.param(path, layout, id=f"{path.stem}-{layout}")
        for number, path in enumerate(_FILES)
        for place, layout in enumerate(slt.LAYOUTS)
        if _ALL or (number + place) % 2 == 0
    ],
)
def test_file(pair: oracle.Pair, path: pathlib.Path, layout: str) -> None:
    slt.run(path, pair, layout)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("layout", slt.LAYOUTS)
@pytest.mark.parametrize("path", _MADE if _ALL else [None], ids=lambda path: path.stem if path else "sample")
def test_made(pair: oracle.Pair, path: pathlib.Path | None, layout: str) -> None:
    chosen = path or _MADE[slt.LAYOUTS.index(layout) * 3 % len(_MADE)]
    slt.run(chosen, pair, layout, sample=None if _ALL else _SAMPLE)


def test_expectations_are_postgresqls(
    request: pytest.FixtureRequest, postgres_server: services.Server, tmp_path: pathlib.Path
) -> None:
    """PostgreSQL still answers what the files say; with --complete-slt it writes them."""
    writing = request.config.getoption("--complete-slt")
    assert not (writing and os.environ.get("CI")), "expectations are not rewritten under CI"
    for path in _FILES + (_MADE if writing or _ALL else _MADE[:1]):
        with oracle.psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            target = path if writing else tmp_path / path.name
            target.write_text(path.read_text())
            slt.complete(target, connection)
            assert target.read_text() == path.read_text(), path.name

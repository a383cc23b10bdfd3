"""kill -9 in the middle of a COPY that becomes stripes: all of its rows or none, no file that is nobody's, and again."""

from __future__ import annotations

import contextlib
import pathlib

import psycopg
import pytest

from orochi import settings
from orochi.timeseries import upkeep
from tests.support import cluster as clusters
from tests.support import faults

_ROWS, _PIECES = 40_000, 40
_EACH = _ROWS // _PIECES
_SUM = _ROWS * (_ROWS - 1) // 2
#: Rows are read in pieces of 4 MiB: the first file is there when half of them have come.
_NOTE = "note " * 80
_LIMITS = "orochi.stripe_row_limit = 2000, orochi.chunk_group_row_limit = 1000"
_TABLES = {
    "columnar": (
        f"CREATE TABLE loads (at timestamptz NOT NULL, k int, n bigint, note text) USING columnar WITH ({_LIMITS})",
        "SELECT create_distributed_table('loads', 'k', 2)",
    ),
    "hypertable": (
        "CREATE TABLE loads (at timestamptz NOT NULL, k int, n bigint, note text)",
        "SELECT create_distributed_table('loads', 'k', 2)",
        "SELECT create_hypertable('loads', 'at', INTERVAL '1 day')",
        f"ALTER TABLE loads SET (orochi.compress, {_LIMITS})",
    ),
}


@pytest.mark.parametrize(
    ("role", "kind"), [("workers", "columnar"), ("gateway", "hypertable"), ("nodes", "hypertable")]
)
def test_a_load(victim: clusters.Cluster, role: str, kind: str) -> None:
    faults.answers_again(victim)
    with victim.connect() as connection:
        for statement in _TABLES[kind]:
            connection.execute(statement.encode())
    before = _files(victim)
    ended = _load(victim, role, before)
    faults.answers_again(victim)
    clusters.eventually(lambda: _is_whole(victim, committed=ended))
    clusters.eventually(lambda: _nothing_is_nobodys(victim))
    if _rows(victim) == (0, None):
        clusters.eventually(lambda: _load(victim, None, before))
        assert _rows(victim) == (_ROWS, _SUM)
    with victim.connect() as connection:
        connection.execute("DROP TABLE loads")


def _load(victim: clusters.Cluster, role: str | None, before: set[pathlib.Path]) -> bool:
    """Copy all rows, and kill every process of the role once a file of the load is there; whether it succeeded."""
    done = False
    with contextlib.suppress(psycopg.Error), victim.connect() as connection:
        with connection.cursor().copy("COPY loads FROM STDIN") as copy:
            for piece in range(_PIECES):
                rows = range(piece * _EACH, (piece + 1) * _EACH)
                copy.write(
                    "".join(f"2024-01-01 00:00:{n % 60:02d}+00\t{n % 50}\t{n}\t{_NOTE}\n" for n in rows)
                )
                if role is not None and piece == _PIECES // 2:
                    clusters.eventually(lambda: _files(victim) - before)
                    for pid in victim.pids(role):
                        clusters.kill(pid)
        done = True
    return done


def _rows(victim: clusters.Cluster) -> tuple[object, ...] | None:
    with victim.connect() as connection:
        return connection.execute("SELECT count(*), sum(n)::bigint FROM loads").fetchone()


def _is_whole(victim: clusters.Cluster, *, committed: bool) -> bool:
    """Never a part; and what the client was told to be there is there."""
    found = _rows(victim)
    assert found == (_ROWS, _SUM) or (found == (0, None) and not committed)
    return True


def _files(victim: clusters.Cluster) -> set[pathlib.Path]:
    return {path for path in victim.data_dir.glob("node*/stripes/**/*") if path.is_file()}


def _nothing_is_nobodys(victim: clusters.Cluster) -> bool:
    """After a sweep of both nodes, which passes over nothing that is young, the catalog knows all files."""
    with psycopg.connect(victim.coordinator_dsn, autocommit=True) as catalog:
        nodes = catalog.execute("SELECT node_id FROM orochi.orochi_nodes WHERE holds_shards").fetchall()
        for (node_id,) in nodes:
            own = settings.Settings(
                coordinator_dsn=victim.coordinator_dsn,
                data_dir=victim.data_dir / f"node{node_id}",
                orphan_grace=0,
            )
            upkeep.sweep(victim.coordinator_dsn, node_id, own)
        known = catalog.execute(
            "SELECT path FROM orochi.orochi_stripes UNION ALL"
            " SELECT path FROM orochi.orochi_cleanup WHERE path IS NOT NULL"
        ).fetchall()
    named = {path for (path,) in known}
    return all(str(path.relative_to(path.parents[1])) in named for path in _files(victim))

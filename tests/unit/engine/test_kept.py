"""Kept rows of scans: used while nothing changed, or nothing that they could hold, and read anew otherwise."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from orochi.engine import kept
from orochi.planner import fragment as fragments

COLUMN = fragments.OutputColumn("a", 23, -1, "integer")


@dataclasses.dataclass
class View:
    """A snapshot as a test wants it."""

    seen: str = "1:1:"
    gone: dict[int, Any] = dataclasses.field(default_factory=dict)
    empty: bool = True
    connection: object = None

    def snapshot(self) -> str:
        return self.seen

    def deleted(self) -> dict[int, Any]:
        return self.gone

    def are_empty(self, relations: list[str]) -> bool:
        return self.empty


class Reads:
    """Counts how often rows were read."""

    def __init__(self, heap_rows: int = 0) -> None:
        self.count = 0
        self.heap_rows = heap_rows

    def __call__(self) -> kept.Loaded:
        self.count += 1
        return kept.Loaded(pa.table({"a": pa.array([self.count], pa.int32())}), self.heap_rows, 3, 1)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "s1").write_bytes(b"stripe")
    return tmp_path


def _scan(relation: str = "r", stripe: bool = True, **more: Any) -> fragments.Scan:
    found = (fragments.StripeRef(1, "s1", 10),) if stripe else ()
    return fragments.Scan("orochi_scan_0", "t", relation, (COLUMN,), found, **more)


def test_the_same_snapshot_reads_once(folder: pathlib.Path) -> None:
    keeper, reads, view = kept.Keeper(1 << 20), Reads(heap_rows=5), View()
    first = keeper.rows([_scan()], view, folder, reads)
    assert keeper.rows([_scan()], view, folder, reads) is first
    assert reads.count == 1


def test_another_snapshot_reads_heap_rows_anew(folder: pathlib.Path) -> None:
    keeper, reads = kept.Keeper(1 << 20), Reads(heap_rows=5)
    for seen in ("1:1:", "1:2:", "1:2:"):
        keeper.rows([_scan()], View(seen), folder, reads)
    assert reads.count == 2


def test_stripes_alone_outlive_the_snapshot(folder: pathlib.Path) -> None:
    keeper, reads = kept.Keeper(1 << 20), Reads()
    gone = {1: np.array([3], np.int32)}
    keeper.rows([_scan()], View("1:1:", gone), folder, reads)
    keeper.rows([_scan()], View("1:2:", {1: np.array([3], np.int32), 2: gone[1]}), folder, reads)
    assert reads.count == 1
    keeper.rows([_scan()], View("1:3:", {1: np.array([3, 4], np.int32)}), folder, reads)
    assert reads.count == 2
    keeper.rows([_scan()], View("1:4:", {1: np.array([3, 4], np.int32)}, empty=False), folder, reads)
    assert reads.count == 3


def test_without_a_transaction_only_rows_of_the_same_snapshot_are_had(folder: pathlib.Path) -> None:
    keeper, reads = kept.Keeper(1 << 20), Reads()
    assert keeper.again([_scan()], View(), folder) is None
    held = keeper.rows([_scan()], View("1:1:"), folder, reads)
    assert keeper.again([_scan()], View("1:1:"), folder) is held
    assert keeper.again([_scan()], View("1:2:"), folder) is None
    assert keeper.again([_scan("s")], View("1:1:"), folder) is None
    assert keeper.again([_scan()], View("1:1:", connection="another"), folder) is None


def test_what_is_read_is_told_apart(folder: pathlib.Path) -> None:
    keeper, reads, view = kept.Keeper(1 << 20), Reads(), View()
    wanted = (fragments.Predicate("a", "=", (1,)),)
    others = (
        [_scan()],
        [_scan("s")],
        [_scan(), _scan("s")],
        [_scan(predicates=wanted)],
        [_scan(stripe=False)],
    )
    for parts in others:
        keeper.rows(parts, view, folder, reads)
    assert reads.count == len(others)
    (folder / "s1").write_bytes(b"another file")
    keeper.rows([_scan()], view, folder, reads)
    assert reads.count == len(others) + 1


def test_another_connection_begins_anew(folder: pathlib.Path) -> None:
    keeper, reads = kept.Keeper(1 << 20), Reads()
    keeper.rows([_scan()], View(connection="a"), folder, reads)
    keeper.rows([_scan()], View(connection="b"), folder, reads)
    assert reads.count == 2


def test_a_stripe_that_is_no_file_is_not_kept(tmp_path: pathlib.Path) -> None:
    keeper, reads, view = kept.Keeper(1 << 20), Reads(), View()
    for _ in range(2):
        keeper.rows([_scan()], view, tmp_path, reads)
    assert reads.count == 2

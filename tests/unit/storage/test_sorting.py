"""Row order inside stripes."""

from __future__ import annotations

import pyarrow as pa
import pytest

from orochi import errors
from orochi.storage.columnar import sorting

TABLE = pa.table(
    {
        "host": pa.array(["b", "a", None, "a", "b"]),
        "Time": pa.array([1, None, 3, 4, 5], pa.int64()),
        "up": pa.array([True, False, None, True, False]),
    }
)


def numbers(segmentby: list[str], orderby: list[sorting.SortKey | str]) -> list[int]:
    table = TABLE.append_column("n", pa.array(range(5)))
    return sorting.sort_rows(table, segmentby, orderby).column("n").to_pylist()


@pytest.mark.parametrize(
    ("segmentby", "orderby", "expected"),
    [
        ([], [], [0, 1, 2, 3, 4]),
        (["host"], [], [1, 3, 0, 4, 2]),
        (["host"], ['"Time" desc'], [1, 3, 4, 0, 2]),
        (["host"], ['"Time" desc nulls last'], [3, 1, 4, 0, 2]),
        ([], ['"Time"'], [0, 2, 3, 4, 1]),
        ([], ['"Time" ASC NULLS FIRST'], [1, 0, 2, 3, 4]),
        ([], [sorting.SortKey("Time", descending=True)], [1, 4, 3, 2, 0]),
        (["up"], [], [1, 4, 0, 3, 2]),
    ],
)
def test_order(segmentby: list[str], orderby: list[sorting.SortKey | str], expected: list[int]) -> None:
    assert numbers(segmentby, orderby) == expected


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Ts", sorting.SortKey("ts")),
        (" ts  desc ", sorting.SortKey("ts", True)),
        ('"a ""b"" c" nulls first', sorting.SortKey('a "b" c', False, True)),
    ],
)
def test_parse(text: str, key: sorting.SortKey) -> None:
    assert sorting.SortKey.parse(text) == key


@pytest.mark.parametrize("text", ["", "ts down", "ts desc nulls", '"ts', "ts, x"])
def test_malformed_keys(text: str) -> None:
    with pytest.raises(errors.InvalidParameter):
        sorting.SortKey.parse(text)


def test_unknown_column() -> None:
    with pytest.raises(errors.UndefinedColumn, match='"nope"'):
        sorting.sort_rows(TABLE, ["nope"], [])


def test_large_tables_are_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "TAKE_BYTES", 64)
    found = sorting.sort_rows(TABLE, ["host"], ['"Time" desc'])
    assert found.schema == TABLE.schema
    assert found.column("host").num_chunks > 1
    assert found.column("host").to_pylist() == ["a", "a", "b", "b", None]

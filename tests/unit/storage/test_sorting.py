"""Row order inside stripes."""

from __future__ import annotations

import numpy as np
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


def cpu(hosts: int = 40, steps: int = 50) -> pa.Table:
    numbers = np.arange(hosts * steps)
    return pa.table(
        {
            "time": numbers // hosts * 10,
            "region": [f"region_{number % hosts % 3}" for number in numbers],
            "host": [f"host_{number % hosts}" for number in numbers],
            "usage": numbers / 7,
            "id": numbers,
        }
    )


def test_series_key_is_found() -> None:
    table = cpu()
    assert sorting.series_key(table, "time") == "host"
    assert sorting.series_key(table.sort_by([("host", "ascending"), ("time", "ascending")]), "time") == "host"
    assert sorting.series_key(table, "time", {"region"}) == "region"
    assert sorting.series_key(table, "time", {"id"}) == "host"  # one row each is no series


def test_no_series_key() -> None:
    table = cpu()
    assert sorting.series_key(table.drop_columns(["host"]), "time") is None
    assert sorting.series_key(cpu(hosts=1), "time") is None
    assert sorting.series_key(table.slice(0, 20), "time") is None
    alone = table.set_column(0, "time", pa.array(range(2000)))  # times tell rows apart
    assert sorting.series_key(alone, "time") is None
    assert sorting.series_key(alone, "time", {"host"}) == "host"
    assert sorting.series_key(alone.slice(0, 0), "time") is None

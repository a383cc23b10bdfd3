"""Final steps in Arrow: the same rows as Python's own arithmetic gives, or none where PostgreSQL must decide."""

from __future__ import annotations

import collections
import decimal
import math
import random
from operator import ge, gt, le, lt
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from orochi import pgtypes
from orochi.engine import copybinary, native
from orochi.executor import finishing
from orochi.planner import finish
from orochi.planner import fragment as fragments

I0 = "FROM pg_temp.orochi_i0 AS orochi_i0"
_TYPES = {
    "int": (pgtypes.INT4, -1, "integer"),
    "big": (pgtypes.INT8, -1, "bigint"),
    "text": (pgtypes.TEXT, -1, "text"),
    "char": (pgtypes.BPCHAR, 8, "character(4)"),
    "bool": (pgtypes.BOOL, -1, "boolean"),
    "date": (pgtypes.DATE, -1, "date"),
    "numeric": (pgtypes.NUMERIC, -1, "numeric"),
    "float": (pgtypes.FLOAT8, -1, "double precision"),
    "interval": (pgtypes.INTERVAL, -1, "interval"),
}


def _columns(**kinds: str) -> tuple[fragments.OutputColumn, ...]:
    return tuple(fragments.OutputColumn(name, *_TYPES[kind]) for name, kind in kinds.items())


def _batches(
    columns: tuple[fragments.OutputColumn, ...], rows: list[tuple[Any, ...]], pieces: int = 3
) -> list[pa.RecordBatch]:
    schema = copybinary.schema(columns)
    made = []
    for at in range(pieces):
        part = rows[at::pieces]
        arrays = []
        for index, column in enumerate(columns):
            values = [row[index] for row in part]
            if column.type_oid == pgtypes.NUMERIC:
                values = [
                    v if v is None or isinstance(v, bytes) else native.numeric_binary(v) for v in values
                ]
            arrays.append(pa.array(values, schema.field(index).type))
        made.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return made


def _run(sql: str, columns: tuple[fragments.OutputColumn, ...], rows: list[tuple[Any, ...]]) -> Any:
    step = finish.of(sql, "orochi_i0")
    assert step is not None
    found = finishing.finished(step, columns, _batches(columns, rows))
    if found is None:
        return None
    made, batch = found
    lists = [
        [v if v is None else native.numeric_value(v) for v in array.to_pylist()]
        if column.type_oid == pgtypes.NUMERIC
        else array.to_pylist()
        for array, column in zip(batch.columns, made, strict=True)
    ]
    return list(zip(*lists, strict=True))


@pytest.mark.parametrize("kind", ["int", "big", "text", "char", "bool", "date", "numeric"])
@pytest.mark.parametrize("descends", [False, True])
def test_rows_are_sorted_and_cut_off(kind: str, descends: bool) -> None:
    chance = random.Random(f"{kind}{descends}")
    values: list[Any] = {
        "text": ["", "a", "A", "b ", "ä", "€", "\U0001f600", "ab"],
        "char": ["a", "b\x01", "b", "zz"],
        "bool": [True, False],
        "numeric": [decimal.Decimal(text) for text in ("-1.50", "0", "1.5", "12345678901.25", "-7.125")],
    }.get(kind, [-5, 0, 7, 2_000_000])
    rows = [(chance.choice(values), number) for number in range(300)]
    way = " DESC" if descends else ""
    sql = f"SELECT orochi_i0.b, orochi_i0.a {I0} ORDER BY orochi_i0.a{way}, orochi_i0.b DESC LIMIT 120"
    found = _run(sql, _columns(a=kind, b="int"), rows)
    key = (lambda v: v.encode()) if kind in ("text", "char") else lambda v: v
    wanted = sorted(sorted(rows, key=lambda r: -r[1]), key=lambda r: key(r[0]), reverse=descends)
    if descends:  # the second key descends either way
        wanted = sorted(rows, key=lambda r: (key(r[0]), r[1]), reverse=True)
    shown = [(b, a.ljust(4) if kind == "char" else a) for a, b in wanted[:120]]
    assert found == shown


def test_groups_are_added_up() -> None:
    chance = random.Random(5)
    columns = _columns(g0="text", g1="numeric", p0="numeric", p1="big", p2="big")
    scaled = [decimal.Decimal("1.5"), decimal.Decimal(2), None]
    rows = [
        (
            chance.choice(["x", "y", None]),
            chance.choice(scaled),
            decimal.Decimal(chance.randrange(-(10**17), 10**17)).scaleb(-4),
            chance.choice([None, 4]),
            2**62,
        )
        for _ in range(60)
    ]
    sql = (
        "SELECT sum(orochi_i0.p0), orochi_i0.g0, CAST(COALESCE(sum(orochi_i0.p1), 0) AS bigint), "
        f"sum(orochi_i0.p2), orochi_i0.g1 {I0} GROUP BY orochi_i0.g0, orochi_i0.g1"
    )
    groups: dict[Any, list[Any]] = collections.defaultdict(list)
    for row in rows:
        groups[row[0], row[1]].append(row)
    wanted = {
        (sum(r[2] for r in of), g0, sum(r[3] or 0 for r in of), sum(r[4] for r in of), g1)
        for (g0, g1), of in groups.items()
    }
    found = _run(sql, columns, rows)
    assert set(found) == wanted
    assert len(found) == len(wanted)


def test_blanks_at_the_end_of_characters_make_no_group() -> None:
    sql = f"SELECT orochi_i0.g0, CAST(sum(orochi_i0.p0) AS bigint) {I0} GROUP BY orochi_i0.g0"
    assert _run(sql, _columns(g0="char", p0="big"), [("a ", 1), ("a", 2)]) == [("a   ", 3)]


def test_rows_that_are_groups_already_are_not_grouped() -> None:
    columns = _columns(g0="text", g1="int", n0="big")
    rows = [(f"w{number % 7}", number, number % 11) for number in range(2_500)]
    step = finish.of(
        f"SELECT orochi_i0.g0, CAST(COALESCE(sum(orochi_i0.n0), 0) AS bigint), orochi_i0.g1 {I0} "
        "GROUP BY orochi_i0.g0, orochi_i0.g1 "
        "ORDER BY CAST(COALESCE(sum(orochi_i0.n0), 0) AS bigint) DESC, orochi_i0.g0, orochi_i0.g1",
        "orochi_i0",
    )
    assert step is not None
    found = finishing.finished(step, columns, _batches(columns, rows), ("g0", "g1"))
    assert found is not None
    shown = list(zip(*(array.to_pylist() for array in found[1].columns), strict=True))
    assert shown == [(g0, n0, g1) for g0, g1, n0 in sorted(rows, key=lambda row: (-row[2], row[0], row[1]))]


def test_nothing_adds_up_to_one_row_or_none() -> None:
    columns = _columns(g0="int", p0="numeric", p1="big")
    totals = "SELECT sum(orochi_i0.p0), CAST(COALESCE(sum(orochi_i0.p1), 0) AS bigint)"
    assert _run(f"{totals} {I0}", columns, []) == [(None, 0)]
    assert _run(f"{totals} {I0} GROUP BY orochi_i0.g0", columns, []) == []
    assert _run(f"SELECT orochi_i0.g0 {I0} ORDER BY orochi_i0.p0", columns, []) == []


@pytest.mark.parametrize("negative", [False, True])
def test_the_first_groups_of_many(negative: bool) -> None:
    """Those that cannot be among the first are left out before; ties of the last one all count."""
    chance = np.random.default_rng(11)
    columns = _columns(g0="int", g1="text", p0="numeric")
    rows = [
        (int(key), f"{key % 3}", decimal.Decimal(int(value) - 400 * negative).scaleb(-2))
        for key, value in zip(chance.integers(0, 900, 6_000), chance.integers(0, 1_000, 6_000), strict=True)
    ]
    sql = (
        f"SELECT orochi_i0.g0, sum(orochi_i0.p0), orochi_i0.g1 {I0} GROUP BY orochi_i0.g0, orochi_i0.g1 "
        "ORDER BY sum(orochi_i0.p0) DESC, orochi_i0.g0 LIMIT 15"
    )
    sums: collections.Counter[tuple[int, str]] = collections.Counter()
    for g0, g1, value in rows:
        sums[g0, g1] += value  # type: ignore[assignment]
    wanted = sorted(sums.items(), key=lambda item: (-item[1], item[0][0]))[:15]
    assert _run(sql, columns, rows) == [(g0, total, g1) for (g0, g1), total in wanted]


def test_totals_of_many_groups_are_multiplied_and_added() -> None:
    chance = random.Random(3)
    columns = _columns(g0="int", p0="numeric", p1="big")
    rows = [
        (
            key,
            None if key % 7 == 0 else decimal.Decimal(chance.randrange(-(10**9), 10**9)).scaleb(-2),
            key % 5,
        )
        for key in range(4_000)
    ]
    shown = "0.50 * sum(orochi_i0.p0) - (sum(orochi_i0.p1) + 3) * sum(orochi_i0.p0)"
    sql = f"SELECT orochi_i0.g0, {shown} {I0} GROUP BY orochi_i0.g0 ORDER BY {shown} DESC, orochi_i0.g0"
    half = decimal.Decimal("0.50")
    made = [(key, None if v is None else half * v - (n + 3) * v) for key, v, n in rows]
    wanted = sorted(made, key=lambda row: (row[1] is not None, -(row[1] or 0), row[0]))
    found = _run(sql, columns, rows)
    assert found == wanted
    assert {str(value).partition(".")[2].__len__() for _, value in found if value is not None} == {4}
    long = [(key, decimal.Decimal(10**16 + key).scaleb(-1), 1) for key in range(4_000)]
    product = " * ".join(["sum(orochi_i0.p0)"] * 3)
    assert _run(f"SELECT {product} {I0} GROUP BY orochi_i0.g0", columns, long) is None


@pytest.mark.parametrize("operator", ["<", "<=", ">", ">="])
def test_rows_are_compared_with_a_total(operator: str) -> None:
    columns = _columns(a="int", p0="numeric")
    numbers = [None, *(decimal.Decimal(value).scaleb(-2) for value in (-300, 0, 1, 149, 150, 151, 900))]
    rows = list(enumerate(numbers))
    compared = {"<": lt, "<=": le, ">": gt, ">=": ge}[operator]
    for factor in ("0.1426333016", "0.15", "0", "1", "100000000"):  # of 10.51; the second is 1.5765
        wanted = [
            (a, v)
            for a, v in rows
            if v is not None and compared(v, decimal.Decimal("10.51") * decimal.Decimal(factor))
        ]
        total = f"(SELECT sum(orochi_i0.p0) * {factor} {I0})"
        sql = f"SELECT orochi_i0.a, orochi_i0.p0 {I0} WHERE {{}} ORDER BY orochi_i0.a"
        assert _run(sql.format(f"orochi_i0.p0 {operator} {total}"), columns, rows) == wanted
        mirrored = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}[operator]
        assert _run(sql.format(f"{total} {mirrored} orochi_i0.p0"), columns, rows) == wanted
        assert _run(sql.format(f"orochi_i0.p0 {operator} {total}"), columns, rows[:1]) == []


def test_nulls_stand_where_each_key_says() -> None:
    columns = _columns(a="int", b="text", c="numeric", d="float")
    ones = [None, decimal.Decimal("2.50"), decimal.Decimal(-3)]
    rows = [
        (a, b, c, d) for a in (1, None, 2) for b in ("x", None, "ä") for c in ones for d in (0.5, None, -1.0)
    ]
    sql = f"SELECT orochi_i0.d, orochi_i0.a, orochi_i0.b {I0} ORDER BY orochi_i0.a DESC, orochi_i0.b, orochi_i0.c NULLS FIRST, orochi_i0.d DESC NULLS LAST LIMIT 40 OFFSET 5"

    def place(value: Any, *, first: bool, sign: int = 1) -> tuple[int, Any]:
        return (0 if first else 2, 0) if value is None else (1, value if sign > 0 else -value)

    wanted = sorted(
        rows,
        key=lambda r: (
            place(r[0], first=True, sign=-1),
            place(r[1], first=False),
            place(r[2], first=True),
            place(r[3], first=False, sign=-1),
        ),
    )
    assert _run(sql, columns, rows) == [(d, a, b) for a, b, _, d in wanted[5:45]]


@pytest.mark.parametrize(
    ("columns", "rows", "sql"),
    [
        (_columns(a="float"), [(1.0,), (math.nan,)], f"SELECT orochi_i0.a {I0} ORDER BY orochi_i0.a"),
        (_columns(a="float"), [(0.0,), (-0.0,)], f"SELECT orochi_i0.a {I0} GROUP BY orochi_i0.a"),
        (_columns(a="interval"), [], f"SELECT orochi_i0.a {I0} ORDER BY orochi_i0.a"),
        # the sum's decimals would be those of the summand with the most
        (
            _columns(a="numeric"),
            [(decimal.Decimal("1.5"),), (decimal.Decimal(1),)],
            f"SELECT sum(orochi_i0.a) {I0}",
        ),
        (
            _columns(a="numeric"),
            [(bytes.fromhex("00000000c0000000"),)],
            f"SELECT sum(orochi_i0.a) {I0}",
        ),  # NaN
        (_columns(a="big"), [(2**62,), (2**62,)], f"SELECT CAST(sum(orochi_i0.a) AS bigint) {I0}"),
        (_columns(a="numeric"), [(decimal.Decimal("1.5"),)], f"SELECT CAST(sum(orochi_i0.a) AS bigint) {I0}"),
        (_columns(a="int"), [(1,)], f"SELECT sum(orochi_i0.a) {I0}"),
        (_columns(a="int"), [(1,)], f"SELECT sum(orochi_i0.a) / 2 {I0}"),
        (_columns(a="big", b="big"), [(1, 0)], f"SELECT sum(orochi_i0.a) / sum(orochi_i0.b) {I0}"),
    ],
)
def test_what_postgresql_must_decide_is_declined(columns: Any, rows: Any, sql: str) -> None:
    assert _run(sql, columns, rows) is None


@pytest.mark.parametrize(
    "sql",
    [
        f"SELECT avg(orochi_i0.a) {I0}",
        f"SELECT orochi_i0.a, sum(orochi_i0.b) {I0} GROUP BY orochi_i0.c",
        f"SELECT DISTINCT orochi_i0.a {I0}",
        f"SELECT orochi_i0.a {I0} WHERE orochi_i0.a > 1",
        f'SELECT orochi_i0.a {I0} ORDER BY orochi_i0.a COLLATE "C"',
        f"SELECT orochi_i0.a {I0} LIMIT 1 OFFSET random()",
        f"SELECT orochi_i0.a {I0} ORDER BY orochi_i0.a LIMIT -1",
        f"SELECT orochi_i0.a {I0} ORDER BY orochi_i0.a OFFSET -1",
        f"SELECT orochi_i0.a {I0} ORDER BY orochi_i0.a FETCH FIRST 2 ROWS WITH TIES",
        f"SELECT sum(orochi_i0.a) OVER () {I0}",
        f"SELECT orochi_i0.a {I0} WHERE orochi_i0.a = (SELECT sum(orochi_i0.a) {I0})",
        f"SELECT orochi_i0.a {I0} WHERE orochi_i0.a > (SELECT sum(orochi_i0.a) {I0} WHERE orochi_i0.a > 1)",
        f"SELECT orochi_i0.a {I0} WHERE orochi_i0.a > (SELECT orochi_i0.a {I0})",
        f"SELECT sum(orochi_i0.a) {I0} WHERE orochi_i0.a > (SELECT sum(orochi_i0.a) {I0})",
        f"SELECT sum(DISTINCT orochi_i0.a) {I0}",
        f"SELECT sum(orochi_i0.a) FILTER (WHERE orochi_i0.b) {I0}",
        f"SELECT orochi_i0.a, sum(orochi_i0.b) {I0} GROUP BY orochi_i0.a HAVING sum(orochi_i0.b) > 1",
        f"SELECT orochi_i0.a {I0} GROUP BY ROLLUP (orochi_i0.a)",
        f"SELECT orochi_i0.a {I0} UNION SELECT orochi_i0.a {I0}",
        f"SELECT CAST(sum(orochi_i0.a) AS integer) {I0}",
        f"SELECT sum(orochi_i0.a) % 2 {I0}",
        f"SELECT sum(orochi_i0.a) * (2 / 3) {I0}",
        f"SELECT sum(orochi_i0.a) * 1e3 {I0}",
        f"SELECT sum(orochi_i0.a) / CAST(sum(orochi_i0.b) AS bigint) {I0}",
        f"SELECT -sum(orochi_i0.a) {I0}",
        f"SELECT NULLIF(sum(orochi_i0.a), 1) * 2 {I0}",
        f"SELECT orochi_i0.a {I0}, pg_temp.orochi_i1 AS orochi_i1",
        f"SELECT orochi_i0.a {I0} ORDER BY 1",
        f"SELECT * {I0}",
    ],
)
def test_what_is_more_than_adding_up_and_sorting_is_no_finish(sql: str) -> None:
    assert finish.of(sql, "orochi_i0") is None

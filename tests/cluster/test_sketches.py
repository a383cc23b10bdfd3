"""Sketches: accuracy, exactness of merging, and the same sketch whatever way the rows lie."""

from __future__ import annotations

import math
import random
from typing import Any

import psycopg
import pytest

from tests.support import oracle

_LAYOUTS = ("plain", "spread", "striped")
_ROWS = 3000


@pytest.fixture(scope="module")
def values(module_pair: oracle.Pair) -> list[tuple[int, float | None, str]]:
    """The same rows in one table for each layout: (key, heavy-tailed number of both signs, text)."""
    rng = random.Random(11)
    rows: list[tuple[int, float | None, str]] = [
        (n, None if n % 50 == 0 else rng.choice([1, 1, 1, -1]) * math.exp(rng.gauss(0, 2)), f"t{n % 1500}")
        for n in range(_ROWS)
    ]
    for layout in _LAYOUTS:
        module_pair.orochi(f"CREATE TABLE {layout} (k int, v float8, s text)")
        if layout == "striped":
            module_pair.orochi("ALTER TABLE striped SET ACCESS METHOD columnar")
        if layout != "plain":
            module_pair.orochi(f"SELECT create_distributed_table('{layout}', 'k', 4)")
        with module_pair.gateway.cursor() as cursor, cursor.copy(f"COPY {layout} FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
    module_pair.orochi("SELECT count(compress_chunk(c)) FROM show_chunks('striped') c")
    return rows


def test_counts(module_pair: oracle.Pair) -> None:
    """Exact up to 512; then within four standard errors; NULLs do not count."""
    for number in (0, 1, 512):
        query = f"SELECT approx_count_distinct(g % 512) FROM generate_series(0, {2 * number - 1}) g WHERE g % 512 < {number}"
        assert module_pair.orochi(query) == [(number,)]
    for number in (513, 5_000, 40_000):
        [(found,)] = module_pair.orochi(
            f"SELECT approx_count_distinct(g::bigint) FROM generate_series(1, {number}) g"
        )
        assert abs(found / number - 1) < 4 * 1.04 / 128
    assert module_pair.orochi("SELECT approx_count_distinct(NULL::text), hyperloglog(64, NULL::int)") == [
        (0, None)
    ]
    assert module_pair.orochi(
        "SELECT approx_count_distinct(n) FROM (VALUES (1.0), (1.00), (2), ('NaN')) t(n)"
    ) == [(3,)]
    assert module_pair.orochi(
        "SELECT distinct_count(approx_count_distinct(1)), stderror(hyperloglog(64, 1))"
    ) == [(1, 0)]


def test_merging_is_exact(module_pair: oracle.Pair) -> None:
    """A roll-up of sketches is the sketch of all rows: few or many, overlapping or not."""
    for size in (30, 700, 20_000):
        rows = f"(SELECT g % {size} AS g, g % 7 AS part FROM generate_series(1, {size * 3 // 2}) g) t"
        assert module_pair.orochi(
            f"SELECT (SELECT rollup(s) FROM (SELECT hyperloglog(4096, g) AS s FROM {rows} GROUP BY part) parts)"
            f" = (SELECT hyperloglog(4096, g) FROM {rows})"
        ) == [(True,)]
        assert module_pair.orochi(
            "SELECT (SELECT rollup(s) FROM (SELECT percentile_agg(power(-1.01, g % 1000)) AS s"
            f" FROM {rows} GROUP BY part) parts) = (SELECT percentile_agg(power(-1.01, g % 1000)) FROM {rows})"
        ) == [(True,)]


def _near(found: float, values: list[float], percentile: float, error: float) -> bool:
    """Whether a value of that rank is as near as the sketch says."""
    exact = sorted(values)[math.floor(percentile * (len(values) - 1))]
    return abs(found - exact) <= error * abs(exact) * 1.000001


@pytest.mark.parametrize("layout", _LAYOUTS)
def test_layouts(module_pair: oracle.Pair, values: list[tuple[int, float | None, str]], layout: str) -> None:
    known = [value for _, value, _ in values if value is not None]
    if layout != "plain":
        plan = module_pair.orochi(f"EXPLAIN SELECT approx_count_distinct(s), percentile_agg(v) FROM {layout}")
        assert plan[0][0].strip() == "Orochi Two-Phase Aggregate"
    [(sketch, digest, count, distinct)] = module_pair.orochi(
        "SELECT percentile_agg(v), tdigest(100, v), num_vals(percentile_agg(v)), approx_count_distinct(s)"
        f" FROM {layout}"
    )
    [(plain, texts)] = module_pair.orochi("SELECT percentile_agg(v), approx_count_distinct(s) FROM plain")
    assert (sketch, digest, count, distinct) == (plain, plain, len(known), texts)
    assert abs(texts / 1500 - 1) < 4 * 1.04 / 128
    [(error,)] = module_pair.orochi("SELECT error(%s::float8[])", (sketch,))
    assert 0 < error < 0.01
    for percentile in (0.01, 0.5, 0.999):
        [(found,)] = module_pair.orochi(
            f"SELECT approx_percentile(%s, percentile_agg(v)) FROM {layout}", (percentile,)
        )
        assert _near(found, known, percentile, error)
    grouped = module_pair.orochi(
        f"SELECT k % 3, approx_percentile(0.5, percentile_agg(v)), approx_count_distinct(s) FILTER (WHERE v > 0) FROM {layout}"
        " GROUP BY 1 HAVING approx_count_distinct(s) > 10 ORDER BY 1"
    )
    for key, median, some in grouped:
        mine = [value for k, value, _ in values if k % 3 == key and value is not None]
        exact = len({text for k, value, text in values if k % 3 == key and (value or 0) > 0})
        assert _near(median, mine, 0.5, error)
        assert abs(some / exact - 1) < 4 * 1.04 / 128
    assert len(grouped) == 3


def test_kept_sketches(module_pair: oracle.Pair, values: list[tuple[int, float | None, str]]) -> None:
    """Sketches in a distributed table, rolled up there."""
    del values
    module_pair.orochi("CREATE TABLE kept (part int, h bytea, p float8[])")
    module_pair.orochi("SELECT create_distributed_table('kept', 'part', 4)")
    module_pair.orochi(
        "INSERT INTO kept SELECT k % 10, hyperloglog(32768, s), percentile_agg(v) FROM spread GROUP BY 1"
    )
    assert module_pair.orochi("SELECT distinct_count(rollup(h)), rollup(p) FROM kept") == module_pair.orochi(
        "SELECT approx_count_distinct(s), percentile_agg(v) FROM plain"
    )


_EDGES: dict[str, Any] = {
    "approx_percentile(0.5, percentile_agg(v)) FROM (VALUES (1), (2), (10), (11)) t(v)": 6,  # as percentile_cont: few are exact
    "approx_percentile(0, percentile_agg(g)) FROM generate_series(-900, 900) g": pytest.approx(-900, rel=0.001),
    "approx_percentile(0.5, percentile_agg(g)) FROM generate_series(-900, 900) g": 0,
    "approx_percentile(1, percentile_agg(v)) FROM (SELECT g::float8 FROM generate_series(1, 999) g UNION ALL SELECT 'Infinity') t(v)": math.inf,
    "approx_percentile(0.5, percentile_agg(NULL))": None,
    "approx_percentile_rank(500, percentile_agg(g)) FROM generate_series(1, 1000) g": pytest.approx(0.5, abs=0.002),
    "approx_percentile_rank(2, percentile_agg(v)) FROM (VALUES (1), (2), (3), (4)) t(v)": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("number", range(len(_EDGES)))
def test_edges(module_pair: oracle.Pair, number: int) -> None:
    query = list(_EDGES)[number]
    assert module_pair.orochi(f"SELECT {query}")[0][0] == _EDGES[query]


@pytest.mark.parametrize(
    ("call", "state"),
    [
        ("approx_percentile(1.5, percentile_agg(1))", "22003"),
        ("hyperloglog(8, 1)", "22023"),
        ("distinct_count('\\x00'::bytea)", "22023"),
        ("approx_count_distinct('{}'::json)", "42883"),
    ],
)
def test_refused(module_pair: oracle.Pair, call: str, state: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        module_pair.gateway.execute(f"SELECT {call}")
    assert caught.value.sqlstate == state

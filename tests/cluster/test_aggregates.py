"""What is computed where the rows are, and finished on the coordinator, has PostgreSQL's own value.

The tests here are those that entries of `orochi.planner.aggregates` name.
"""

from __future__ import annotations

import pytest

from tests.support import layouts, oracle

_LAYOUTS = ("reference", "distributed", "hypertable", "both", "both-compressed")
_TABLE = """
    CREATE TABLE {t} (
        k integer NOT NULL, at timestamptz NOT NULL, g integer, i2 smallint, i4 integer, i8 bigint,
        n numeric(38, 10), u numeric, f double precision, r real, s text, b boolean, span interval,
        cash money, during int4range, arr integer[]
    )"""
#: Groups: 0 ordinary, 1 nulls only, 2 one value, 3 NaN, 4 infinities, 5 zeros of both signs, 6 large.
_FILL = """
    INSERT INTO {t}
    SELECT i % 9, timestamptz '2024-03-01 00:00+00' + i * interval '47 minutes', CASE WHEN i < 8 THEN i ELSE i % 3 * 10 END,
           i % 50, i * 7919 % 1000 - 300, i::bigint * 1000000007 * (i % 5 - 2), i * 1.0000000001 * (i % 7 - 3),
           (i % 13)::numeric / (i % 4 + 1), sqrt(i) * (i % 11 - 5), i / 3.0, 'kind ' || i % 6, i % 2 = 0,
           i * interval '3 hours 7 minutes', (i * 1.25)::numeric::money, int4range(i, i + 3), ARRAY[i % 3, i]
    FROM generate_series(8, 230) AS i
    UNION ALL
    SELECT j, timestamptz '2024-03-02 12:00+00' + j * interval '1 day', 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
           NULL, NULL, NULL, NULL FROM generate_series(0, 5) AS j
    UNION ALL
    SELECT 4, '2024-03-03 00:00+00', 2, 7, -12, 5000000000, 3.25, 0.125, 1.5, 2.5, 'one', true, '1 day', 3::money, '[1,3)', '{{1}}'
    UNION ALL
    SELECT j, timestamptz '2024-03-03 12:00+00' + j * interval '1 hour', v.*, j::text, j % 2 = 0, '1 month', j::money, NULL, '{{}}'
    FROM (VALUES
        (3, 1::smallint, 1, 1::bigint, 'NaN'::numeric, 'NaN'::numeric, 'NaN'::float8, 'NaN'::real),
        (3, 2, 2, 2, 5, 5, 5, 5),
        (4, 3, 3, 3, 4, 'Infinity', 'Infinity', 'Infinity'),
        (4, 3, 3, 3, 4, '-Infinity', 1, 1),
        (5, 0, 0, 0, 0, 0, '-0', '-0'),
        (5, 0, 0, 0, 0.0, 0.000, '0', '0'),
        (6, 32767, 2147483647, 9223372036854775807, 1234567890123456789012345678.0123456789, 1e30, 1e150, 1e18),
        (6, -32768, -2147483648, -9223372036854775808, 0.0000000001, 1e-30, 3e150, 3e18),
        (6, 32767, 2147483647, 9223372036854775807, -9876543210987654321098765432.0987654321, 7, 2e150, 2e18)
    ) AS v(g, i2, i4, i8, n, u, f, r), generate_series(0, 8) AS j"""


def _name(layout: str) -> str:
    return "m_" + layout.replace("-", "_")


@pytest.fixture(scope="module")
def tables(module_pair: oracle.Pair) -> oracle.Pair:
    """A table in every layout, and an empty one; some rows come after compression."""
    for layout in _LAYOUTS:
        table = _name(layout)
        module_pair.both(_TABLE.format(t=table))
        layouts.place(module_pair, table, layout, key="k", time="at", interval="5 days")
        module_pair.both(_FILL.format(t=table))
        layouts.compress(module_pair, table, layout, every=2)
    module_pair.both(_TABLE.format(t="m_empty"))
    layouts.place(module_pair, "m_empty", "distributed", key="k", time="at", interval="5 days")
    return module_pair


def _check(pair: oracle.Pair, statements: list[str]) -> None:
    """Each statement on the layouts where most can go wrong, and on one of the others in turn."""
    always = ("m_distributed", "m_both_compressed")
    others = ("m_hypertable", "m_both", "m_empty", "m_reference")
    for number, sql in enumerate(statements):
        for table in (*always, others[number % len(others)]):
            pair.same(sql.format(t=table))


def _strategy(pair: oracle.Pair, sql: str) -> str:
    return str(pair.orochi(f"EXPLAIN {sql.format(t='m_both_compressed')}")[0][0])


def test_same(tables: oracle.Pair) -> None:
    """Aggregates of aggregates: counts, extremes, logic, bits, ranges, bookends."""
    statements = [
        "SELECT count(*), count(g), count(b), count(*) FILTER (WHERE b), min(i2), max(n), min(s), max(at) FROM {t}",
        "SELECT g, count(*), min(i4), max(i8), min(span), max(arr) FROM {t} GROUP BY g",
        "SELECT g, min(f), max(r), max(f) FILTER (WHERE b) FROM {t} WHERE g <> 5 GROUP BY g",
        "SELECT g, bool_and(b), bool_or(b), every(i4 > 0), bit_and(i4), bit_or(i8), bit_xor(i2) FROM {t} GROUP BY g",
        "SELECT g, range_agg(during), range_intersect_agg(during) FILTER (WHERE i4 > 100) FROM {t} GROUP BY g",
        "SELECT b, any_value(1), min(DISTINCT i4), bool_or(DISTINCT b), count(i4 ORDER BY n) FROM {t} GROUP BY b",
    ]
    _check(tables, statements)
    assert all(_strategy(tables, sql) == "Orochi Two-Phase Aggregate" for sql in statements)
    firsts = tables.orochi(
        "SELECT g, first(s, at), last(i8, at) FILTER (WHERE b) FROM m_both_compressed"
        " WHERE g NOT BETWEEN 1 AND 6 GROUP BY g ORDER BY g"
    )
    expected = tables.plain.execute(
        "SELECT g, (array_agg(s ORDER BY at))[1], (array_agg(i8 ORDER BY at DESC) FILTER (WHERE b))[1]"
        " FROM m_both_compressed WHERE g NOT BETWEEN 1 AND 6 GROUP BY g ORDER BY g"
    ).fetchall()
    assert firsts == expected


def test_sums(tables: oracle.Pair) -> None:
    """Sums and averages: every digit of exact numbers, PostgreSQL's own merging of floats."""
    statements = [
        "SELECT sum(i2), sum(i4), sum(i8), sum(n), sum(u), sum(span), sum(cash) FROM {t}",
        "SELECT g, avg(i2), avg(i4), avg(i8), avg(n), avg(u), avg(span) FROM {t} GROUP BY g",
        "SELECT g, sum(f), avg(f), avg(r) FROM {t} WHERE g NOT IN (5, 6) GROUP BY g",
        "SELECT sum(n) FILTER (WHERE b), avg(f) FILTER (WHERE i4 > 100), avg(i4 * 2 + 1) FROM {t} WHERE g = 0",
        "SELECT s, sum(i4 / 7), avg(i8 % 1000), sum(n * u) FROM {t} WHERE g IN (0, 10, 20) GROUP BY s",
    ]
    _check(tables, statements)
    assert all(_strategy(tables, sql) == "Orochi Two-Phase Aggregate" for sql in statements)
    # what overflows in PostgreSQL's state overflows here
    for table in map(_name, _LAYOUTS):
        tables.same(f"SELECT avg(f * 1e150) FROM {table} WHERE g = 6")


def test_statistics(tables: oracle.Pair) -> None:
    """Variances and regressions, of exact numbers to the last digit."""
    statements = [
        f"SELECT g, {name}(i2), {name}(i4), {name}(i8), {name}(n), {name}(u) FROM {{t}} GROUP BY g"
        for name in ("variance", "var_samp", "var_pop", "stddev", "stddev_samp", "stddev_pop")
    ]
    statements += [
        "SELECT variance(i8), stddev(n), stddev_pop(u) FROM {t} WHERE u <> 'NaN'",
        "SELECT g, var_samp(f), var_pop(f), stddev(f), stddev_pop(r), variance(r) FROM {t} GROUP BY g",
        "SELECT stddev(i4) FILTER (WHERE b), var_pop(n + 1), stddev_samp(i4::numeric / 7) FROM {t} WHERE g IN (0, 2, 10)",
        "SELECT g, regr_count(f, r), regr_avgx(f, r), regr_avgy(f, r), regr_sxx(i4, f), regr_syy(i4, f), regr_sxy(i4, f) FROM {t} GROUP BY g",
        "SELECT corr(i4, i2), covar_pop(i4, i2), covar_samp(n, i4) FILTER (WHERE b) FROM {t} WHERE g IN (0, 10, 20)",
        "SELECT b, regr_slope(i4, i2), regr_intercept(i4, i2), regr_r2(i4, i2), corr(f, r) FROM {t} WHERE g IN (0, 10, 20) GROUP BY b",
        "SELECT k % 2, stddev(i4), count(*) FROM {t} GROUP BY 1 HAVING stddev(i4) > 100 ORDER BY stddev(i4) DESC",
    ]
    _check(tables, statements)
    assert all(_strategy(tables, sql) == "Orochi Two-Phase Aggregate" for sql in statements)


def test_distinct(tables: oracle.Pair) -> None:
    """Aggregates of distinct values beside others."""
    statements = [
        "SELECT count(DISTINCT s), count(*), sum(i4), avg(n) FROM {t}",
        "SELECT g, count(DISTINCT i4), count(DISTINCT s), sum(DISTINCT i8), avg(DISTINCT n), stddev(i4) FROM {t} GROUP BY g",
        "SELECT count(DISTINCT k), sum(DISTINCT k), avg(DISTINCT k), count(DISTINCT (k, s)) FROM {t}",
        "SELECT count(DISTINCT (g, s)), count(DISTINCT i4 % 7) FILTER (WHERE b), count(b) FROM {t}",
        "SELECT b, string_agg(DISTINCT s, ',' ORDER BY s), array_agg(DISTINCT g ORDER BY g DESC) FROM {t} GROUP BY b",
        "SELECT g, stddev(DISTINCT i4), bit_xor(DISTINCT i2), sum(DISTINCT span) FROM {t} GROUP BY g",
        "SELECT g, count(DISTINCT g), sum(DISTINCT g), max(s) FROM {t} GROUP BY g ORDER BY count(DISTINCT s), g",
        "SELECT count(DISTINCT k), count(DISTINCT i2), count(DISTINCT s) FILTER (WHERE k > 2) FROM {t}",
        "SELECT count(DISTINCT f), count(DISTINCT u) FROM {t}",
        "SELECT s, b, count(DISTINCT i4) AS c FROM {t} GROUP BY s, b HAVING count(DISTINCT i4) > 1 ORDER BY c DESC, s, b LIMIT 5",
        "SELECT g, count(DISTINCT s), count(DISTINCT s) + 1 AS more FROM {t} WHERE i2 < 30 GROUP BY g",
        "SELECT json_agg(DISTINCT s ORDER BY s), count(DISTINCT s) - 1 FROM {t} HAVING count(DISTINCT k) >= 0",
    ]
    _check(tables, statements)
    assert all(_strategy(tables, sql) == "Orochi Two-Phase Aggregate" for sql in statements)


def test_json_constructors(tables: oracle.Pair) -> None:
    """Aggregates that are no function calls by their syntax."""
    statements = [
        "SELECT JSON_ARRAYAGG(s ORDER BY s NULL ON NULL), count(*) FROM {t} WHERE k < 9",
        "SELECT g, JSON_OBJECTAGG(k: k + 1 RETURNING jsonb) FROM {t} WHERE k < 9 GROUP BY g",
        "SELECT b FROM {t} GROUP BY b HAVING JSON_ARRAYAGG(k ORDER BY k)::text > '[1' ORDER BY JSON_ARRAYAGG(k ORDER BY k)::text",
        "SELECT k, JSON_ARRAYAGG(k) OVER (ORDER BY k) FROM {t} WHERE k < 5",
        "SELECT * FROM (SELECT JSON_ARRAYAGG(k ORDER BY k) FILTER (WHERE k < 9) AS x FROM {t}) AS q",
        "SELECT k FROM {t} AS a WHERE k < 5 AND (SELECT JSON_ARRAYAGG(b.k) FROM {t} AS b WHERE b.k = a.k AND b.g = -1) IS NULL",
    ]
    _check(tables, statements)


def test_grouping_sets(tables: oracle.Pair) -> None:
    """Shards group by all columns, the coordinator makes the sets of groups."""
    statements = [
        "SELECT g, b, count(*), sum(i4), avg(n), GROUPING(g, b) FROM {t} GROUP BY ROLLUP (g, b)",
        "SELECT g, b, s, count(*), stddev(i4) FROM {t} WHERE g IN (0, 10) GROUP BY CUBE (g, b), s HAVING count(*) > 1",
        "SELECT b, k % 3 AS m, max(n), count(DISTINCT s) FROM {t} GROUP BY GROUPING SETS ((b), (m), (b, m), ())",
        "SELECT g, sum(g), count(DISTINCT g), GROUPING(g) FROM {t} GROUP BY ROLLUP (g) ORDER BY GROUPING(g), g",
        "SELECT b, s, count(DISTINCT k), sum(DISTINCT k), count(DISTINCT i4) FROM {t} GROUP BY CUBE (b, s)",
        "SELECT b, s, count(DISTINCT k), avg(DISTINCT k) FROM {t} GROUP BY ROLLUP (b, s)",
        "SELECT date_trunc('week', at) AS w, b, sum(i8) FROM {t} GROUP BY DISTINCT ROLLUP (w, b), ROLLUP (w)",
        "SELECT k, g, count(*) FROM {t} GROUP BY GROUPING SETS ((k, g), (k), ()) ORDER BY 1, 2, 3 LIMIT 20",
    ]
    _check(tables, statements)
    assert all(_strategy(tables, sql) == "Orochi Two-Phase Aggregate" for sql in statements)
    _check(tables, ["SELECT g, b, string_agg(s, ',' ORDER BY s, at) FROM {t} GROUP BY CUBE (g, b)"])


def test_windows(tables: oracle.Pair) -> None:
    """Windows in one shard each, over groups, and over rows that the coordinator gathers."""
    statements = [
        "SELECT k, at, row_number() OVER (PARTITION BY k ORDER BY at, i4), sum(n) OVER (PARTITION BY g, k) FROM {t}",
        "SELECT g, count(*), rank() OVER (ORDER BY sum(i4) DESC NULLS LAST), sum(count(*)) OVER () FROM {t} GROUP BY g",
        (
            "SELECT at, k, lag(i4, 2) OVER w, sum(i8) OVER (w ROWS 3 PRECEDING), ntile(4) OVER w FROM {t}"
            " WHERE g IN (0, 10) WINDOW w AS (ORDER BY at, k, i4) ORDER BY at, k, i4"
        ),
        "SELECT s, avg(n) OVER (PARTITION BY s), count(*) FILTER (WHERE b) OVER (PARTITION BY s) FROM {t}",
        "SELECT DISTINCT g, max(n) OVER (PARTITION BY g) AS m FROM {t} ORDER BY m DESC, g LIMIT 4",
        "SELECT b, s, stddev(i4), dense_rank() OVER (PARTITION BY b ORDER BY max(i8)) FROM {t} GROUP BY b, s",
        "SELECT percent_rank() OVER (ORDER BY i4), i4 FROM {t} WHERE b ORDER BY i4, k, at LIMIT 9 OFFSET 3",
    ]
    _check(tables, statements)
    for sql in statements:
        assert _strategy(tables, sql) != "Orochi Pull", sql


def test_rows(tables: oracle.Pair) -> None:
    """Aggregates that depend on the order of their input, over joined and filtered rows of the shards."""
    statements = [
        "SELECT g, array_agg(i4 ORDER BY i4, at), string_agg(s, '-' ORDER BY at DESC, k), count(*) FROM {t} GROUP BY g",
        (
            "SELECT b, percentile_cont(0.5) WITHIN GROUP (ORDER BY i4), percentile_disc(0.9) WITHIN GROUP (ORDER BY n) FROM {t}"
            " WHERE g <> 3 GROUP BY b"
        ),
        "SELECT mode() WITHIN GROUP (ORDER BY s), rank(100) WITHIN GROUP (ORDER BY i4), sum(i4) FROM {t} WHERE i4 > 0",
        (
            "SELECT g, jsonb_agg(s ORDER BY at, k) FILTER (WHERE b), json_object_agg(at, i4 ORDER BY at, k, i4) FROM {t}"
            " WHERE s IS NOT NULL GROUP BY g"
        ),
        (
            "SELECT t.g, array_agg(o.i4 ORDER BY o.at, o.i4) FROM {t} t JOIN {t} o ON o.k = t.k AND o.at = t.at AND o.i4 = t.i4"
            " WHERE t.g IN (0, 2) GROUP BY t.g"
        ),
        "SELECT k, random() < 2, at FROM {t} WHERE g = 10",
    ]
    _check(tables, statements)
    for sql in statements:
        assert _strategy(tables, sql) == "Orochi Pushdown", sql


def test_distinct_on(tables: oracle.Pair) -> None:
    """DISTINCT, DISTINCT ON, and the first rows of an order, cut on the shards and again."""
    statements = [
        "SELECT DISTINCT ON (g) g, at, k, i4 FROM {t} ORDER BY g, at DESC, k, i4",
        "SELECT DISTINCT ON (k) k, s, at FROM {t} ORDER BY k DESC, at, s NULLS FIRST, i4, i8 LIMIT 3",
        "SELECT DISTINCT ON (s, b) b, s AS name, i4 + 1 AS next FROM {t} ORDER BY name, b, next DESC LIMIT 5 OFFSET 2",
        "SELECT DISTINCT ON (g % 2) g % 2, max(n) FROM {t} GROUP BY g ORDER BY 1, 2 DESC",
        "SELECT DISTINCT g, b FROM {t} ORDER BY g DESC, b LIMIT 4 OFFSET 1",
        "SELECT DISTINCT s FROM {t} WHERE i4 > 100",
        "SELECT k, sum(i8), count(*) FROM {t} GROUP BY k ORDER BY 2 DESC, k LIMIT 3 OFFSET 1",
        "SELECT at, k, i4 FROM {t} ORDER BY i4 DESC NULLS LAST, at, k FETCH FIRST 3 ROWS WITH TIES",
        "SELECT count(*) FROM (SELECT DISTINCT k, s FROM {t}) AS d",
    ]
    _check(tables, statements)
    for sql in statements:
        assert _strategy(tables, sql) != "Orochi Pull", sql


def test_set_operations(tables: oracle.Pair) -> None:
    """Each branch by its own strategy; types, duplicates and order as PostgreSQL unites them."""
    statements = [
        "SELECT g, s FROM {t} WHERE b UNION SELECT i4, 'kind 3' FROM {t} ORDER BY 1, 2",
        "SELECT k, n FROM {t} WHERE g = 0 UNION ALL SELECT i2, u FROM {t} WHERE g = 10 UNION ALL SELECT 1, NULL",
        "SELECT s FROM {t} INTERSECT ALL SELECT 'kind ' || k FROM {t} WHERE b",
        "SELECT k, g FROM {t} EXCEPT SELECT k, g FROM {t} WHERE i4 > 0 ORDER BY k, g NULLS FIRST LIMIT 7 OFFSET 1",
        "SELECT g, stddev(i4) FROM {t} GROUP BY g UNION ALL SELECT NULL, sum(i8) FROM {t} UNION ALL SELECT k, 0 FROM {t}",
        "(SELECT at, s FROM {t} ORDER BY at DESC, s LIMIT 3) UNION (SELECT at, NULL FROM {t} ORDER BY at LIMIT 2)",
        "SELECT now() > at, current_user = session_user FROM {t} UNION SELECT b, at < now() FROM {t}",
        "SELECT x.k FROM {t} x JOIN {t} y ON x.i2 = y.i4 UNION SELECT k FROM {t} WHERE s = 'kind 1'",
        "SELECT f FROM {t} WHERE g = 10 UNION SELECT r FROM {t} WHERE g = 20 EXCEPT ALL SELECT i4 FROM {t}",
    ]
    _check(tables, statements)
    for sql in statements:
        expected = "Orochi Recursive" if " JOIN " in sql else "Orochi Set Operation"
        assert _strategy(tables, sql) == expected, sql


_GATED = (
    "SELECT 1 FROM {t} WHERE 1 / (i4 - i4) > 0 HAVING false",
    "SELECT 1 AS x FROM {t} WHERE 1 / (i4 - i4) > 0 HAVING 1 < 2",
    "SELECT row_number() OVER () FROM {t} WHERE 1 / (i4 - i4) > 0 HAVING true",
    "SELECT count(*) FROM {t} WHERE 1 / (i4 - i4) > 0 HAVING false",
    "SELECT count(*), max(k) FROM {t} WHERE 1 / (i4 - i4) > 0 HAVING now() < '2000-01-01'",
    "SELECT count(*) FROM {t} WHERE 1 / (i4 - i4) > 0 HAVING count(*) > 1000",
    "SELECT count(*) FROM {t} WHERE k > 2 HAVING 2 < 3 AND count(*) > 5",
    "SELECT k, (SELECT 1 FROM {t} AS x WHERE 1 / (x.k - x.k) > o.k HAVING o.k > 3) FROM {t} AS o WHERE i4 = 5",
    "SELECT tableoid::regclass, count(*) FROM {t} GROUP BY 1",
    "SELECT DISTINCT tableoid::regclass AS r FROM {t} WHERE tableoid = '{t}'::regclass",
    "SELECT x.tableoid::regclass, y.k FROM {t} AS x JOIN {t} AS y USING (k, at) WHERE k = 4",
    "SELECT tableoid::regclass FROM {t} WHERE k = 4 AND i4 = 5",
)


def test_known_before(tables: oracle.Pair) -> None:
    """HAVING that is decided before a row is read, and the OID that is every row's."""
    for layout in _LAYOUTS:
        for sql in _GATED:
            tables.same(sql.format(t=_name(layout)), ordered=False)

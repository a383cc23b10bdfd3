"""Functions that shards evaluate give PostgreSQL's answers under settings that change what they mean."""

from __future__ import annotations

import decimal
import random

import pytest

from orochi.executor import arithmetic
from tests.support import cluster as clusters
from tests.support import oracle

_TABLE = """
    CREATE TABLE p (k int NOT NULL, i int, n numeric, f float8, s text, at timestamptz, ts timestamp, d date,
                    tm time, span interval, j jsonb, arr int[], raw bytea)"""
_FILL = """
    INSERT INTO p
    SELECT i, i * 37 - 200, i * 1.25, i / 7.0::float8, CASE WHEN i % 5 > 0 THEN 'it''s ' || i END,
           timestamptz '2024-03-09 20:00+00' + i * interval '5 hours 7 minutes', timestamp '2024-10-26 22:00' + i * interval '1 hour',
           date '2024-02-27' + i, time '10:00' + i * interval '17 minutes', i * interval '1 day 3 hours',
           jsonb_build_object('a', i, 't', '2024-03-10 12:00:00+02'), ARRAY[i, NULL, -i], convert_to('x' || i, 'UTF8')
    FROM generate_series(1, 24) AS i"""
_SETTINGS = (
    "SET TimeZone TO 'America/New_York'",
    "SET DateStyle TO 'German'",
    "SET IntervalStyle TO 'iso_8601'",
    "SET extra_float_digits TO 0",
)

#: A use of each stable function that is pushed; of an aggregate, for each `k`.
STABLE = {
    "age": "age(at, timestamptz '2020-02-29'), age(ts, timestamp '2021-05-31')",
    "array_to_json": "array_to_json(arr)::text",
    "array_to_string": "array_to_string(arr, ',', '-'), array_to_string(ARRAY[at, NULL], ';')",
    "concat": "concat(k, s, at, span, f)",
    "concat_ws": "concat_ws('/', s, d, tm, n)",
    "convert": "convert(raw, 'UTF8', 'LATIN1')",
    "convert_from": "convert_from(raw, 'UTF8')",
    "convert_to": "convert_to(s, 'LATIN1')",
    "date": "date(at), date(ts)",
    "date_add": "date_add(at, interval '1 day'), date_add(at, interval '1 day', 'Europe/Berlin')",
    "date_bin": "date_bin('45 minutes', at, timestamptz '2024-01-01')",
    "date_part": "date_part('hour', at), date_part('dow', d), date_part('day', span)",
    "date_subtract": "date_subtract(at, interval '2 days')",
    "date_trunc": "date_trunc('day', at), date_trunc('week', at, 'Asia/Kolkata'), date_trunc('month', ts)",
    "extract": "extract(hour FROM at), extract(timezone FROM at), extract(epoch FROM ts)",
    "format": "format('%s|%L|%10s', at, s, i)",
    "generate_series": "generate_series(at, at + interval '2 days', interval '1 day')",
    "interval": "span::interval(0), (span + interval '1.26 seconds')::interval second(1)",
    "json_agg": "json_agg(at ORDER BY at)::text",
    "json_agg_strict": "json_agg_strict(s ORDER BY at)::text",
    "json_build_array": "json_build_array(at, d, span, f)::text",
    "json_build_object": "json_build_object('at', at, 'n', n)::text",
    "json_object_agg": "json_object_agg(k, at)::text",
    "json_object_agg_strict": "json_object_agg_strict(k, s)::text",
    "jsonb_agg": "jsonb_agg(ts ORDER BY ts)",
    "jsonb_agg_strict": "jsonb_agg_strict(s ORDER BY ts)",
    "jsonb_build_array": "jsonb_build_array(at, n)",
    "jsonb_build_object": "jsonb_build_object('at', at, 'f', f)",
    "jsonb_object_agg": "jsonb_object_agg(k, d)",
    "jsonb_object_agg_strict": "jsonb_object_agg_strict(k, s)",
    "jsonb_path_exists_tz": "jsonb_path_exists_tz(j, '$.t.datetime() ? (@ < \"2024-03-11\".datetime())')",
    "jsonb_path_match_tz": "jsonb_path_match_tz(j, '$.t.datetime() > \"2024-03-10 05:00:00\".datetime()')",
    "jsonb_path_query_array_tz": "jsonb_path_query_array_tz(j, '$.t.timestamp()')",
    "jsonb_path_query_first_tz": "jsonb_path_query_first_tz(j, '$.t.timestamp()')",
    "jsonb_path_query_tz": "jsonb_path_query_tz(j, '$.t.timestamp()')",
    "length": "length(s), length(raw)",
    "make_timestamptz": "make_timestamptz(2024, 3, k, 2, 30, 0)",
    "overlaps": "(at, span) OVERLAPS (timestamptz '2024-03-10 06:00', interval '2 days')",
    "quote_literal": "quote_literal(s), quote_literal(at)",
    "quote_nullable": "quote_nullable(s), quote_nullable(f)",
    "row_to_json": "row_to_json(ROW(at, span, s))::text",
    "text": "text(s::varchar), text(i > 0)",
    "time": "at::time, ts::time(0)",
    "time_bucket": "orochi.time_bucket('1 day', at), orochi.time_bucket(INTERVAL '2 hours', ts)",
    "timestamp": "at::timestamp, d::timestamp",
    "timestamptz": "ts::timestamptz, d::timestamptz",
    "timetz": "tm::timetz, at::timetz",
    "timezone": "at AT TIME ZONE 'Asia/Kolkata', timezone('UTC', ts)",
    "to_char": "to_char(at, 'YYYY-MM-DD HH24:MI TZ Day'), to_char(n, '9G999D99'), to_char(span, 'HH24:MI')",
    "to_date": "to_date('0' || k % 9 + 1 || ' Mar 2024', 'DD Mon YYYY')",
    "to_json": "to_json(at)::text, to_json(arr)::text",
    "to_jsonb": "to_jsonb(at), to_jsonb(span)",
    "to_number": "to_number(n::text, '999D99')",
    "to_timestamp": "to_timestamp(1710000000 + i * 1000.5), to_timestamp('10 Mar 2024 02:30', 'DD Mon YYYY HH24:MI')",
}

#: A use of each function that is evaluated once, as text.
FOLDED = {
    "current_catalog": "current_catalog",
    "current_database": "current_database()",
    "current_schema": "current_schema()",
    "current_schemas": "current_schemas(true)",
    "current_setting": "current_setting('TimeZone')",
    "current_user": "current_user",
    "inet_client_addr": "inet_client_addr()",
    "inet_client_port": "inet_client_port()",
    "inet_server_addr": "inet_server_addr()",
    "inet_server_port": "inet_server_port()",
    "now": "now()",
    "pg_backend_pid": "pg_backend_pid()",
    "session_user": "session_user",
    "statement_timestamp": "statement_timestamp()",
    "transaction_timestamp": "transaction_timestamp()",
    "version": "version()",
}


@pytest.fixture(scope="module")
def table(module_pair: oracle.Pair) -> oracle.Pair:
    module_pair.both(_TABLE)
    module_pair.orochi("SELECT create_distributed_table('p', 'k', 4)")
    module_pair.both(_FILL, *_SETTINGS)
    return module_pair


def test_stable(table: oracle.Pair) -> None:
    """The shards evaluate it, as PostgreSQL does under the client's settings."""
    for name, use in STABLE.items():
        grouped = " GROUP BY k" if "_agg" in name else ""
        sql = f"SELECT k, {use} FROM p WHERE k > 0{grouped}"
        plan = "\n".join(line for (line,) in table.orochi(f"EXPLAIN {sql}"))
        assert plan.startswith("Orochi Pushdown"), (name, plan)
        assert "Combine: rows as they come" in plan, (name, plan)
        if name != "time_bucket":
            table.same(sql)
    days = "SELECT k, orochi.time_bucket('1 day', ts) AS day FROM p ORDER BY k"
    assert (
        table.orochi(days)
        == table.plain.execute("SELECT k, date_trunc('day', ts) FROM p ORDER BY k").fetchall()
    )


def test_folded(table: oracle.Pair) -> None:
    """One value for all shards, the client's own."""
    table.gateway.execute("BEGIN")
    for name, use in FOLDED.items():
        found = table.orochi(
            f"SELECT DISTINCT ({use})::text FROM p WHERE k > 0 AND ({use})::text IS NOT DISTINCT FROM ({use})::text"
        )
        assert len(found) == 1, name
        if name != "statement_timestamp":
            assert found == table.orochi(f"SELECT ({use})::text"), name
    table.gateway.execute("COMMIT")


def test_sorted_by_the_gateway(table: oracle.Pair) -> None:
    """Rows of all shards in PostgreSQL's own order, whatever is NULL, NaN or equal."""
    table.both(
        "CREATE TABLE o (k int NOT NULL, b bool, i int2, f float8, s text, v varchar(9), d date, at timestamptz)"
    )
    table.orochi("SELECT create_distributed_table('o', 'k', 4)")
    table.both(
        """INSERT INTO o SELECT k, nullif(k % 3, 0) = 1, nullif(k % 5, 2),
               (ARRAY['-0', '0', '-Infinity', '1e300', '2.5', NULL])[k % 6 + 1]::float8,
               (ARRAY['ä', 'a', 'Z', '', '\U0001f600', '\uffee', NULL])[k % 7 + 1], nullif('v' || k % 4, 'v2'),
               (ARRAY['infinity', '-infinity', '2024-02-29', NULL])[k % 4 + 1]::date,
               timestamptz '2024-10-27' + k * interval '1 hour'
           FROM generate_series(1, 84) AS k"""
    )
    for sql in (
        "SELECT s, v, k FROM o ORDER BY s, v DESC, k",
        "SELECT f, d, b, i, k FROM o ORDER BY f DESC, d NULLS FIRST, b DESC NULLS LAST, i, k DESC",
        "SELECT at, k AS s FROM o ORDER BY s DESC OFFSET 80",
        "SELECT s AS x, s AS x FROM o ORDER BY at LIMIT 7 OFFSET 3",
        "SELECT k, max(f) AS m, count(*) FROM o GROUP BY k ORDER BY m DESC NULLS LAST, k LIMIT 40",
        "SELECT k, row_number() OVER (PARTITION BY k ORDER BY at) AS n, upper(s) FROM o ORDER BY upper(s), n, k",
        "SELECT k FROM o WHERE k < 0 ORDER BY k",
        "SELECT k FROM o ORDER BY k LIMIT 0",
    ):
        plan = "\n".join(line for (line,) in table.orochi(f"EXPLAIN {sql}"))
        assert "Combined by: gateway, if values suit" in plan, plan
        table.same(sql)
    by_postgresql = 'SELECT k, s FROM o ORDER BY s COLLATE "C" DESC, k'
    assert "Combined by" not in "\n".join(line for (line,) in table.orochi(f"EXPLAIN {by_postgresql}"))
    table.same(by_postgresql)
    table.both("UPDATE o SET f = 'NaN' WHERE k % 12 = 5")
    for sql in ("SELECT f, k FROM o ORDER BY f DESC, k", "SELECT f, k FROM o ORDER BY f, k DESC LIMIT 80"):
        table.same(sql)


def test_computed_by_the_gateway(table: oracle.Pair) -> None:
    """Averages, shares and the like of totals have the digits that PostgreSQL gives them."""
    table.both(
        "CREATE TABLE c (k int NOT NULL, g int, a numeric(38, 10), b numeric(9, 2), i int, l bigint, f float8)"
    )
    table.orochi("SELECT create_distributed_table('c', 'k', 4)")
    table.both(
        """INSERT INTO c SELECT k, k % 9, nullif(10 ^ (k % 19)::numeric * (k - 300) / 7, 0), (k % 40 - 20) * 7.13,
               nullif(k % 11, 3), CASE WHEN k % 9 <> 4 THEN 2 ^ (k % 60)::numeric END,
               CASE WHEN k % 9 <> 5 THEN (k % 9 - 3) * 0.125 END
           FROM generate_series(1, 600) AS k"""
    )
    terms = (
        "avg(a), avg(b), avg(l), sum(b) / 7.0, 100.00 * sum(b) / nullif(sum(a), 0), sum(a) * sum(b) - 0.5",
        "sum(l) / nullif(sum(b), 0), sum(b) + 1, 2 - avg(b) * 1.000, sum(b) / sum(b) - 1, avg(i), .5 * avg(a) / 3",
        "sum(b) / 99999999999.0, 1 / nullif(sum(a), 0), sum(a) / 10000, 9999 / avg(l), 0 * avg(b)",
        "avg(f), sum(f), avg(f) * 100 - 1.5, sum(b) / 3 / nullif(sum(f), 0), sum(f) / sum(b), 1 / (0.5 * avg(l) + sum(f))",
    )
    for listed in terms:
        for sql in (
            f"SELECT {listed} FROM c",
            f"SELECT {listed} FROM c WHERE k < 0",
            f"SELECT g, {listed} FROM c GROUP BY g ORDER BY g",
            f"SELECT g, {listed} FROM c GROUP BY g ORDER BY avg(b) DESC NULLS LAST, g LIMIT 5",
        ):
            plan = "\n".join(line for (line,) in table.orochi(f"EXPLAIN {sql}"))
            assert "Combined by: gateway, if values suit" in plan, plan
            table.same(sql)
    table.same("SELECT g, sum(b) / (sum(b) - sum(b)) FROM c GROUP BY g")
    table.same("SELECT g, count(*) / 7, sum(i) / 3 FROM c GROUP BY g ORDER BY g")
    table.same("SELECT g, 1e300 * sum(f) * sum(b) * 1e-300, sum(f) * 1e-200 FROM c GROUP BY g ORDER BY g")
    table.same("SELECT sum(f) * 1" + "0" * 300 + " * 10000000000 FROM c")
    table.both("UPDATE c SET f = '-0' WHERE g = 3", "UPDATE c SET f = 'NaN' WHERE g = 2 AND k > 300")
    table.same("SELECT g, sum(f), avg(f) / 3, sum(f) * 2 FROM c GROUP BY g ORDER BY g")
    table.both("UPDATE c SET a = 'NaN' WHERE k = 10")
    table.same("SELECT g, avg(a) / 3 FROM c GROUP BY g ORDER BY g")


def test_arithmetic_is_postgresqls(cluster: clusters.Cluster) -> None:
    chance = random.Random(7)

    def number() -> decimal.Decimal:
        digits = tuple(chance.choices(range(10), weights=[5, *[1] * 8, 5], k=chance.randrange(1, 38)))
        return decimal.Decimal((chance.randrange(2), digits, -chance.randrange(0, 30)))

    pairs = [(number(), number()) for _ in range(3_000)]
    with cluster.connect_coordinator("plain") as plain:
        for operator in "+-*/":
            wanted = plain.execute(
                f"SELECT CASE WHEN b <> 0 OR '{operator}' <> '/' THEN (a {operator} b)::text END"
                " FROM unnest(%s::numeric[], %s::numeric[]) WITH ORDINALITY AS t(a, b, n) ORDER BY n".encode(),
                ([a for a, _ in pairs], [b for _, b in pairs]),
            )
            for (left, right), (text,) in zip(pairs, wanted, strict=True):
                if text is not None:
                    found = arithmetic.applied(operator, left, right)
                    assert f"{found:f}" == text, (left, operator, right)

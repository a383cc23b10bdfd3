"""Sub-SELECTs, WITH queries and joins across shards, run in stages: PostgreSQL's answers, by every exchange."""

from __future__ import annotations

import concurrent.futures
import re
from collections.abc import Iterator

import pytest

from tests.support import cluster as clusters
from tests.support import layouts, oracle, pairs

_STATEMENTS = (
    # joins whose keys are not the distribution columns
    "SELECT e.id, o.v FROM events e JOIN other o ON o.ref = e.id WHERE e.amount > 20",
    "SELECT e.id, o.v FROM events e LEFT JOIN other o ON o.ref = e.id AND o.v > 10",
    "SELECT o.k, e.id FROM events e RIGHT JOIN other o ON o.ref = e.id",
    "SELECT o.k, e.id FROM events e FULL JOIN other o ON o.ref = e.id",
    "SELECT o.big, count(*), sum(e.amount) FROM other o JOIN events e ON e.tenant = o.big GROUP BY 1",
    "SELECT a.k, b.k FROM other a JOIN other b ON a.v = b.ref WHERE a.k < b.k",
    'SELECT e.id, w."Größe" FROM events e JOIN "Weiße Liste" w ON w.what = e.what ORDER BY 1, 2 LIMIT 9',
    # what an OR says of each table goes along with it
    "SELECT e.id, o.k FROM events e, other o WHERE (o.ref = e.id AND o.v > 12 AND e.what = 'b') OR (o.ref = e.id AND (o.v < 4 OR o.t = 'a') AND e.amount > 9)",
    "SELECT e.id, o.k FROM events e LEFT JOIN other o ON o.ref = e.id WHERE (o.v > 12 AND e.amount > 3) OR (o.v IS NULL AND e.amount < 9)",
    # semi and anti joins, with nulls on either side
    "SELECT id FROM events WHERE id IN (SELECT ref FROM other WHERE v > 3)",
    "SELECT id FROM events WHERE id NOT IN (SELECT ref FROM other WHERE ref IS NOT NULL)",
    "SELECT id FROM events WHERE id NOT IN (SELECT ref FROM other)",
    "SELECT id FROM events e WHERE NOT EXISTS (SELECT FROM other o WHERE o.ref = e.id)",
    "SELECT k FROM other o WHERE EXISTS (SELECT FROM events e WHERE e.what = o.t AND e.amount > o.v)",
    "SELECT k FROM other WHERE (ref, t) IN (SELECT id, what FROM events)",
    "SELECT count(*) FROM events WHERE what = ANY (SELECT t FROM other) OR amount > ALL (SELECT v FROM other)",
    # scalar sub-SELECTs
    "SELECT id, (SELECT max(v) FROM other) - id FROM events WHERE amount > (SELECT avg(v) FROM other)",
    "SELECT o.k, (SELECT sum(e.amount) FROM events e WHERE e.id = o.ref) FROM other o",
    "SELECT id FROM events e WHERE amount > (SELECT avg(x.amount) FROM events x WHERE x.what = e.what)",
    "SELECT (SELECT count(*) FROM other WHERE v > 10000), (SELECT v FROM other WHERE false), count(*) FROM events",
    # WITH
    "WITH t AS (SELECT what, sum(amount) AS s FROM events GROUP BY what) SELECT * FROM t JOIN t u USING (what) WHERE t.s > 100",
    "WITH t AS MATERIALIZED (SELECT id FROM events WHERE ratio > 20), u AS (SELECT count(*) AS n FROM t) SELECT o.k, n FROM other o, u WHERE o.ref IN (SELECT id FROM t)",
    "SELECT * FROM (WITH t AS MATERIALIZED (SELECT what, sum(amount) AS s FROM events GROUP BY what) SELECT t.what, u.s FROM t JOIN t u USING (what) WHERE t.s > 100) q",
    "WITH t AS (SELECT id FROM events WHERE ratio > 20) SELECT o.k, q.n FROM other o JOIN (WITH u AS (SELECT count(*) AS n, min(id) AS id FROM t) SELECT a.n, b.id FROM u a, u b) q ON q.id <= o.ref",
    "SELECT r.* FROM (WITH t AS (SELECT k, ref FROM other) SELECT q.n, t.k FROM t JOIN (WITH t AS (SELECT count(*) AS n, min(id) AS id FROM events) SELECT a.n, b.id FROM t a, t b) q ON q.id = t.ref) r",
    # the last row of a key, looked up by expressions
    "SELECT o.k, (SELECT e.what FROM events e WHERE e.tenant = o.ref AND e.ratio > 5 ORDER BY e.at DESC LIMIT 1) FROM other o",
    "SELECT k FROM other o WHERE v > (SELECT amount + ratio::numeric FROM events e WHERE o.ref = e.tenant AND at < '2024-03-12' ORDER BY at LIMIT 1)",
    "SELECT o.k FROM other o WHERE o.t IN (SELECT e.what FROM events e WHERE e.tenant = o.big ORDER BY e.at DESC LIMIT 1) OR EXISTS (SELECT FROM events e WHERE e.tenant = o.ref + 5 ORDER BY at LIMIT 1)",
    "SELECT q.what, count(*) FROM (SELECT what FROM events UNION ALL (WITH u AS MATERIALIZED (SELECT t FROM other) SELECT t FROM u)) q GROUP BY 1",
    "SELECT o.k, q.n FROM other o, LATERAL (WITH u AS MATERIALIZED (SELECT id FROM events e WHERE e.id = o.ref) SELECT count(*) AS n FROM u) q",
    "WITH t AS (SELECT id, row_number() OVER (ORDER BY id) AS r FROM events) SELECT r, o.k FROM t JOIN other o ON o.ref = t.r",
    "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT n.i, count(e.id) FROM n LEFT JOIN events e ON e.id % 7 = n.i GROUP BY 1",
    # sub-SELECTs in FROM, set operations, LATERAL
    "SELECT d.what, d.n, o.k FROM (SELECT what, count(*) AS n FROM events GROUP BY what) d JOIN other o ON o.t = d.what",
    "SELECT what FROM events WHERE id < 50 UNION SELECT t FROM other JOIN events ON ref = id",
    "SELECT * FROM (SELECT id FROM events EXCEPT SELECT ref FROM other) q WHERE id > 150",
    "SELECT q, q IS NULL AS n FROM (SELECT max(id) FROM events GROUP BY what ORDER BY what) q",
    "WITH q AS MATERIALIZED (SELECT k, t FROM other WHERE v > 20) SELECT q, row_to_json(q) FROM q LEFT JOIN events e ON e.id = q.k",
    "SELECT o.k, q FROM other o LEFT JOIN (SELECT max(id), what FROM events GROUP BY what LIMIT 100) q ON q.what = o.t",
    "SELECT o.k, l.id FROM other o, LATERAL (SELECT id FROM events e WHERE e.id = o.ref LIMIT 1) l",
    "SELECT id FROM events ORDER BY (SELECT count(*) FROM other WHERE ref = events.id), id LIMIT 5",
    # all rows of a reference table, each once
    "SELECT r.id, o.k FROM places r LEFT JOIN other o ON o.ref = r.id AND o.v > 10 WHERE r.big > 2",
    "SELECT r.id, e.id FROM events e FULL JOIN places r ON e.id = r.id",
    "SELECT r.what, count(e.id), sum(e.amount) FROM places r LEFT JOIN events e ON e.id < r.id AND e.what = r.what GROUP BY 1",
    "SELECT x.what, x.n, o.k FROM (SELECT what, count(*) AS n FROM places GROUP BY 1) x LEFT JOIN other o ON o.t = x.what",
    "SELECT id FROM places r WHERE NOT EXISTS (SELECT FROM other o WHERE o.ref = r.id)",
    "SELECT id, (SELECT sum(v) FROM other o WHERE o.ref < r.id) FROM places r WHERE EXISTS (SELECT FROM events e WHERE e.id = r.id)",
    # sub-SELECTs beside aggregates, LATERAL within the shard and for each row of a reference table
    "SELECT what, (SELECT max(k) FROM other), count(*) FROM events GROUP BY 1 HAVING count(*) IN (SELECT ref FROM other) OR sum(amount) > (SELECT avg(big) FROM places)",
    "SELECT o.max, n FROM (SELECT (SELECT max(k) FROM other), count(*) AS n FROM events) o",
    "SELECT e.id, l.n FROM events e LEFT JOIN LATERAL (SELECT x.id AS n FROM events x WHERE x.id = e.id AND x.tenant = e.tenant ORDER BY x.amount LIMIT 1) l ON l.n > 9",
    "SELECT r.id, l.k FROM places r, LATERAL (SELECT o.k FROM other o WHERE o.big = r.big ORDER BY o.k LIMIT 2) l",
    # an error that PostgreSQL never comes to, and one that it does
    "WITH unused AS (SELECT 1 / (id - id) FROM events) SELECT count(*) FROM other",
    "SELECT count(*) FROM other WHERE false AND v > (SELECT max(1 / (id - id)) FROM events)",
    "SELECT count(*) FROM other WHERE ref IN (SELECT 1 / (id - id) FROM events)",
    "SELECT count(*) FROM other WHERE ref = (SELECT id FROM events)",
)


def _is_ordered(sql: str) -> bool:
    return re.search(r"ORDER BY[^)]*(\(.*\))?[^)]*$", sql) is not None and "OVER" not in sql


@pytest.fixture(scope="module", params=["distributed", "both-compressed"])
def tables(request: pytest.FixtureRequest, cluster: clusters.Cluster) -> Iterator[oracle.Pair]:
    schema = "stages"
    pair = pairs.opened(cluster, schema)
    try:
        pair.both(f"CREATE SCHEMA {schema}")
        layouts.events(pair, request.param)
        pair.both(
            "CREATE TABLE other (k int NOT NULL, ref int, big bigint, t varchar(20), v numeric(38, 10))",
            'CREATE TABLE "Weiße Liste" (what text, "Größe" double precision)',
            "CREATE TABLE nothing (k int, ref int)",
            "CREATE TABLE places (id int, what text, big bigint)",
        )
        pair.orochi("SELECT create_distributed_table('other', 'k', 3)")
        pair.orochi("""SELECT create_distributed_table('"Weiße Liste"', 'what', 2)""")
        pair.orochi("SELECT create_distributed_table('nothing', 'k', 2)")
        pair.orochi("SELECT create_reference_table('places')")
        pair.both(
            "INSERT INTO other SELECT g, nullif(g * 7 % 90, 3), g % 9, CASE WHEN g % 4 > 0 THEN 'kind ' || g % 6 END,"
            " nullif(g, 12) * 1.0000000001 FROM generate_series(1, 60) g",
            "INSERT INTO places SELECT nullif(g * 3, 9), nullif('kind ' || g % 9, 'kind 4'), g % 5 FROM generate_series(1, 40) g",
            """INSERT INTO "Weiße Liste" VALUES ('kind 1', 1.5), ('kind 1', 'NaN'), ('kind 2', '-0'), (NULL, 4)""",
        )
        yield pair
    finally:
        pairs.close(pair, schema)


@pytest.mark.parametrize("strategy", ["", "broadcast", "repartition"])
def test_same(tables: oracle.Pair, strategy: str) -> None:
    tables.orochi(f"SET orochi.force_strategy = '{strategy}'")
    try:
        for sql in _STATEMENTS:
            tables.same(sql, ordered=_is_ordered(sql))
    finally:
        tables.orochi("RESET orochi.force_strategy")


def test_an_empty_side(tables: oracle.Pair) -> None:
    for sql in (
        "SELECT e.id, n.k FROM events e LEFT JOIN nothing n ON n.ref = e.id",
        "SELECT count(*), max(e.id) FROM events e JOIN nothing n ON n.ref = e.id",
        "SELECT count(*) FROM events WHERE id NOT IN (SELECT ref FROM nothing)",
        "WITH n AS (SELECT ref FROM nothing) SELECT count(*), (SELECT count(*) FROM n) FROM events WHERE id IN (SELECT ref FROM n)",
    ):
        tables.same(sql, ordered=False)


def test_groups_that_are_compared_with_their_totals_are_read_once(tables: oracle.Pair) -> None:
    listed = "SELECT what, count(*), sum(amount) AS s FROM events"
    some = "SELECT tenant AS t, what, max(id) FROM events e WHERE id > 9 GROUP BY tenant, e.what"
    both = "HAVING sum(e.amount) >= (SELECT sum(e.amount) / 30 - 0.5 FROM events e"
    joined = "FROM other o JOIN events e ON e.id = o.ref"
    for sql, expected in (
        (f"{listed} GROUP BY what HAVING sum(amount) > (SELECT sum(amount) * 0.2 FROM events)", True),
        (f"{listed} GROUP BY 1 HAVING (SELECT sum(amount) / 6 FROM events) >= sum(amount) ORDER BY s DESC", True),
        (f"{some} {both} WHERE id > 9) ORDER BY 3 DESC, t, what LIMIT 7 OFFSET 1", True),
        (f"SELECT o.t, sum(v) {joined} GROUP BY o.t HAVING sum(v) < (SELECT 0.3 * sum(v) {joined})", True),
        # no rows, and nothing but NULLs
        (f"{listed} WHERE id < 0 GROUP BY what HAVING sum(amount) >= (SELECT sum(amount) FROM events WHERE id < 0)", True),
        (
            f"{listed} WHERE amount IS NULL GROUP BY what HAVING sum(amount) <= (SELECT sum(amount) FROM events WHERE amount IS NULL)",
            True,
        ),
        # other rows, other totals, values that have to be told apart by PostgreSQL
        (f"{listed} WHERE id > 9 GROUP BY what HAVING sum(amount) > (SELECT sum(amount) * 0.2 FROM events)", False),
        (f"{listed} GROUP BY what HAVING sum(amount) > (SELECT avg(amount) FROM events)", False),
        (f"{listed} GROUP BY what HAVING sum(id) > (SELECT sum(id) * 0.2 FROM events)", False),
        (f"{listed} GROUP BY what HAVING sum(amount) > (SELECT sum(DISTINCT amount) * 0.2 FROM events)", False),
        (f"{listed} GROUP BY what HAVING sum(amount) > (SELECT sum(amount) FROM events LIMIT 0)", False),
    ):  # fmt: skip
        tables.same(sql, ordered="ORDER BY" in sql)
        text = "\n".join(str(row[0]) for row in tables.orochi(f"EXPLAIN {sql}"))
        assert ("FROM pg_temp.orochi_i0 AS orochi_i0 WHERE" in text) is expected, text


def test_what_moves_is_cut_to_what_has_partners_beside_it(tables: oracle.Pair) -> None:
    """Wide rows are sent on only if a co-located or a reference table, filtered, has one that they may meet."""
    tables.both(
        "CREATE TABLE long (k int, a text, b text, c text, d text)",
        "CREATE TABLE wide (id int, kind int, ref int, a text, b text, c text, d text)",
        "CREATE TABLE beside (id int, what text)",
    )
    for table, key in (("long", "k"), ("wide", "id"), ("beside", "id")):
        if table != "beside":
            tables.orochi(f"ALTER TABLE {table} SET ACCESS METHOD columnar")
        like = ", colocate_with => 'wide'" if table == "beside" else ", 3"
        tables.orochi(f"SELECT create_distributed_table('{table}', '{key}'{like})")
    tables.both(
        "INSERT INTO long SELECT nullif(g, 11), 'a' || g, NULL, '', 'd' FROM generate_series(1, 40000) g",
        "INSERT INTO wide SELECT nullif(g % 2000, 7), nullif(g % 50, 9), nullif(g % 211, 5), 'a' || g, NULL, '', 'd'"
        " FROM generate_series(1, 24000) g",
        "INSERT INTO beside SELECT nullif(g, 4), nullif('kind ' || g % 40, 'kind 3') FROM generate_series(1, 2000) g",
    )
    tables.orochi("SELECT compress_chunk(c) FROM show_chunks('long') c")
    tables.orochi("SELECT compress_chunk(c) FROM show_chunks('wide') c")
    joined, left = (
        "FROM long l, wide w, {} WHERE l.k = w.ref AND {}",
        "FROM long l JOIN wide w ON w.ref = l.k",
    )
    beside, places = "w.id = s.id AND s.what", "w.kind = p.id AND p.what"
    try:
        for conditions, expected in (
            (joined.format("beside s", f"{beside} = 'kind 2'"), True),
            (joined.format("places p", f"{places} > 'kind 5'"), True),
            (joined.format("places p, beside s", f"{places} IS NULL AND {beside} LIKE '%1'"), True),
            (joined.format("places p", f"{places} = 'nowhere'"), True),
            (joined.format("beside s, beside t", f"{beside} < 'kind 2' AND t.id = s.id AND t.what > 'kind 1'"), True),
            (f"{left} JOIN beside s ON s.id = w.id AND s.what = 'kind 2'", True),
            (f"{left} JOIN beside s ON s.id = w.id LEFT JOIN places p ON p.id = w.kind AND p.what = 'kind 1' WHERE s.id < 90", True),
            # nothing says that a partner must be there, or be like that
            (f"{left} LEFT JOIN beside s ON s.id = w.id AND s.what = 'kind 2'", False),
            (joined.format("places p", "(w.kind = p.id OR p.what = 'kind 1') AND p.big = 2"), False),
        ):  # fmt: skip
            used = ", ".join(f"min({of}.{name})" for of in "lw" for name in "abcd")
            sql = f"SELECT count(*), {used} {conditions}"
            tables.same(sql)
            text = "\n".join(str(row[0]) for row in tables.orochi(f"EXPLAIN {sql}"))
            stage = re.search(r"Statement: SELECT .* FROM stages.wide.*", text)
            assert stage is not None, text
            assert ("IN (SELECT" in stage[0]) is expected, text
    finally:
        tables.both("DROP TABLE long, wide, beside")


def test_a_block_reads_what_it_wrote(tables: oracle.Pair) -> None:
    tables.both(
        "BEGIN", "INSERT INTO other VALUES (1000, 5, 5, 'kind 1', 5)", "DELETE FROM events WHERE id = 7"
    )
    try:
        for sql in _STATEMENTS[:20]:
            tables.same(sql, ordered=_is_ordered(sql))
    finally:
        tables.both("ROLLBACK")


def test_clients_at_once(cluster: clusters.Cluster, tables: oracle.Pair) -> None:
    sql = "SELECT count(*), sum(o.v) FROM stages.events e JOIN stages.other o ON o.ref = e.id"
    expected = tables.plain.execute(sql).fetchall()

    def ask(_: int) -> list[object]:
        with cluster.connect() as client:
            return [client.execute(sql).fetchall() for _ in range(5)]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for answers in pool.map(ask, range(4)):
            assert answers == [expected] * 5


def test_a_plan_that_is_kept_follows_every_change(tables: oracle.Pair) -> None:
    asked = (
        (
            "SELECT o.*, e.what FROM events e JOIN other o ON o.ref = e.id WHERE e.at < timestamptz '2024-03-14 00:00'"
            " + interval '1 day' AND EXISTS (SELECT * FROM events x WHERE x.id = o.k)"
        ),
        "SELECT o.k, doubled(o.ref) FROM events e JOIN other o ON o.ref = e.id WHERE doubled(o.k) > 9",
        "SELECT count(*), max(current_setting('timezone')) FROM events e JOIN other o ON o.ref = e.id WHERE at < now()",
    )
    doubled = "CREATE OR REPLACE FUNCTION doubled(int) RETURNS int LANGUAGE sql AS"
    try:
        for change in (
            f"{doubled} 'SELECT 2 * $1'",
            "INSERT INTO other VALUES (101, 5, 5, 'kind 1', 5)",
            "SET timezone TO 'Asia/Tokyo'",
            "ALTER TABLE other ADD COLUMN more int DEFAULT 7",
            f"{doubled} 'SELECT 3 * $1'",
            "DELETE FROM events WHERE id = 7",
            "ALTER TABLE other DROP COLUMN more",
            "DELETE FROM other WHERE k > 100",
        ):
            tables.both(change)
            for sql in (*asked, *asked):
                tables.same(sql, ordered=False)
    finally:
        tables.both("RESET timezone", "DROP FUNCTION doubled(int)")

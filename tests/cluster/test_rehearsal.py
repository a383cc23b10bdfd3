"""Writes that no shard can do alone: rows that move, joins across shards, MERGE, WITH queries that modify."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import layouts, oracle

_AT = "timestamptz '2024-03-10 05:00+00'"
_NEW = "INSERT INTO events (tenant, at, id) VALUES (2, '2024-03-12', 5000), (3, '2024-03-12', 5001)"
_INSERT = f"{_NEW}, (1, '2024-03-10 02:56:00+00', 8), (3, '2024-03-10 04:10:00+00', 10)"
_STATEMENTS = {
    "move-one": "UPDATE events SET tenant = tenant + 1 WHERE id = 10 RETURNING *",
    "move-all": "UPDATE events SET tenant = tenant + 1",
    "move-time": "UPDATE events SET at = at + interval '40 days' WHERE id % 3 = 0 RETURNING id, at, tenant",
    "move-both": """UPDATE events SET tenant = 1 - tenant, at = at - interval '1 year', what = 'moved'
        WHERE tenant IN (1, 2) RETURNING id, what""",
    "move-null": "UPDATE events SET tenant = NULL WHERE id = 10",
    "move-null-time": "UPDATE events SET at = NULL WHERE id = 10",
    "move-check": "UPDATE events SET tenant = 3, amount = 1e8 WHERE id = 10",
    "move-duplicate": "UPDATE events SET tenant = 3, at = '2024-03-10', id = 5 WHERE id IN (7, 8)",
    "move-onto-another": "UPDATE events SET (tenant, at, id) = (1, '2024-03-10 02:56:00+00', 8) WHERE id = 9",
    "move-default": "UPDATE events SET tenant = DEFAULT WHERE id = 8",
    "move-old-new": """UPDATE events AS e SET tenant = 100 + e.tenant WHERE e.what = 'kind 1'
        RETURNING e.id, old.tenant, new.tenant""",
    "move-none": "UPDATE events SET tenant = 5 WHERE false",
    "correlated-set": """UPDATE events e SET amount = (SELECT sum(amount) FROM events x WHERE x.what = e.what)
        WHERE id < 30 RETURNING id, amount""",
    "correlated-delete": """DELETE FROM events e
        WHERE amount < (SELECT avg(amount) FROM events x WHERE x.tenant <> e.tenant) RETURNING id""",
    "join-across": "UPDATE events e SET what = f.what || '!' FROM events f WHERE f.id = e.id + 1 AND e.id < 50",
    "join-local": "UPDATE events SET what = notes.t FROM notes WHERE notes.a = events.id RETURNING *",
    "join-twice": "UPDATE events e SET what = 'twice' FROM events f WHERE f.tenant = e.tenant + 1 AND e.id < 9",
    "exists": "DELETE FROM events e WHERE EXISTS (SELECT FROM events x WHERE x.id = e.id * 2)",
    "with-update": """WITH w AS (SELECT max(id) AS m FROM events)
        UPDATE events SET what = 'max' FROM w WHERE id = m RETURNING *""",
    "with-delete": "WITH w AS (SELECT id FROM events WHERE id % 5 = 0) DELETE FROM events USING w WHERE w.id = events.id",
    "division": "UPDATE events e SET ratio = 1 / (f.id - 10) FROM events f WHERE f.id = e.id",
    "returning-sub-select": """UPDATE events e SET what = 'r' WHERE id < 5
        RETURNING id, (SELECT count(*) FROM events x WHERE x.what = e.what)""",
    "merge": f"""MERGE INTO events e USING (VALUES (1, 8), (3, 10), (77, 77)) s(t, i)
        ON e.tenant = s.t AND e.id = s.i WHEN MATCHED AND s.i = 8 THEN DELETE
        WHEN MATCHED THEN UPDATE SET what = 'merged', tenant = 55
        WHEN NOT MATCHED THEN INSERT (tenant, at, id) VALUES (s.t, {_AT}, s.i)
        RETURNING merge_action(), e.*, s.*""",
    "merge-by-source": """MERGE INTO events USING
        (SELECT tenant, max(at) AS at, count(*) AS n FROM events GROUP BY tenant) s
        ON events.tenant = s.tenant AND events.at = s.at WHEN MATCHED THEN UPDATE SET amount = n
        WHEN NOT MATCHED BY SOURCE AND id % 2 = 0 THEN DELETE
        WHEN NOT MATCHED BY SOURCE AND id % 3 = 0 THEN UPDATE SET what = 'lonely'""",
    "merge-do-nothing": """MERGE INTO events e USING events s ON e.id = s.id AND e.tenant = 3
        WHEN MATCHED THEN DO NOTHING WHEN NOT MATCHED AND s.id > 190
        THEN INSERT VALUES (s.tenant, s.at, s.id + 1000, 'copy', 1, 2)""",
    "merge-twice": """MERGE INTO events e USING (VALUES (1), (1)) s(t) ON e.tenant = s.t
        WHEN MATCHED THEN UPDATE SET what = 'x'""",
    "merge-null": """MERGE INTO events e USING (VALUES (99)) s(t) ON e.tenant = s.t
        WHEN NOT MATCHED THEN INSERT (tenant, at) VALUES (s.t, NULL)""",
    "merge-duplicate": """MERGE INTO events e USING (VALUES (1, 8)) s(t, i) ON false
        WHEN NOT MATCHED THEN INSERT (tenant, at, id) VALUES (1, '2024-03-10 02:56:00+00', 8)""",
    "merge-sub-selects": """MERGE INTO events e USING (VALUES (1, 8)) s(t, i) ON e.tenant = s.t
        WHEN MATCHED AND id > (SELECT avg(id) FROM events)
        THEN UPDATE SET amount = (SELECT max(amount) FROM events x WHERE x.tenant = e.tenant)
        RETURNING e.id, e.amount""",
    "cte-delete": """WITH d AS (DELETE FROM events WHERE tenant = 3 RETURNING *)
        SELECT count(*), sum(amount), (SELECT count(*) FROM events) AS before FROM d""",
    "cte-move": """WITH d AS (DELETE FROM events WHERE tenant = 3 RETURNING *)
        INSERT INTO events SELECT tenant + 20, at, id, what, amount, ratio FROM d RETURNING tenant, id""",
    "cte-replace": """WITH d AS (DELETE FROM events WHERE tenant = 3 AND id < 50 RETURNING *)
        INSERT INTO events SELECT tenant, at, id, 'again', amount, ratio FROM d""",
    "cte-several": f"""WITH u AS (UPDATE events SET what = 'u' WHERE id < 5 RETURNING id, what),
        i AS (INSERT INTO events (tenant, at, id) VALUES (1, {_AT}, 3000) RETURNING id, what),
        d AS (DELETE FROM events WHERE id BETWEEN 10 AND 12 RETURNING id, what)
        SELECT * FROM u UNION ALL SELECT * FROM i UNION ALL SELECT * FROM d""",
    "cte-two-updates": """WITH a AS (UPDATE events SET what = 'first' WHERE id = 7 RETURNING *)
        UPDATE events SET tenant = 31 FROM a WHERE events.id = a.id + 1 RETURNING a.what, events.tenant""",
    "cte-conflict": """WITH i AS (INSERT INTO events (tenant, at, id) SELECT tenant, at, id FROM events
        WHERE id < 20 ON CONFLICT (tenant, at, id) DO UPDATE SET what = 'conflict' RETURNING id, what)
        SELECT * FROM i ORDER BY id""",
    "cte-merge": """WITH m AS (MERGE INTO events e USING (VALUES (1, 8), (3, 10)) s(t, i)
        ON e.tenant = s.t AND e.id = s.i WHEN MATCHED THEN DELETE RETURNING e.id) SELECT * FROM m""",
    "cte-local": """WITH i AS (INSERT INTO notes VALUES (1, 'local') RETURNING *),
        u AS (UPDATE events SET what = i.t FROM i WHERE id = 9 RETURNING events.id) SELECT * FROM u, i""",
    "key-onto-compressed": "UPDATE events SET id = 8, at = '2024-03-10 02:56:00+00' WHERE id = 1",
    "key-change": "UPDATE events SET id = 1000 - id WHERE tenant = 1",
    "key-taken": "UPDATE events SET id = 15 WHERE at = '2024-03-10 07:15:00+00' OR id = 16",
    "conflict-sub-selects": f"""{_INSERT} ON CONFLICT (tenant, at, id) DO UPDATE
        SET what = (SELECT max(t) FROM notes),
        amount = (SELECT count(*) FROM events x WHERE x.tenant = excluded.tenant) RETURNING id, what, amount""",
    "conflict-constraint": f"""{_INSERT} ON CONFLICT ON CONSTRAINT events_pkey DO UPDATE
        SET amount = (SELECT sum(amount) FROM events x WHERE x.tenant = events.tenant)
        WHERE events.id = 8 RETURNING *""",
    "conflict-nothing": f"""{_INSERT} ON CONFLICT DO NOTHING
        RETURNING id, (SELECT count(*) FROM events x WHERE x.tenant = events.tenant)""",
    "conflict-move": f"{_INSERT} ON CONFLICT (tenant, at, id) DO UPDATE SET tenant = events.tenant + 1 RETURNING *",
    "conflict-move-time": """INSERT INTO events SELECT * FROM events WHERE id < 9 ON CONFLICT (tenant, at, id)
        DO UPDATE SET at = excluded.at + interval '90 days' RETURNING at, id""",
    "insert-returning-sub-select": f"{_NEW} RETURNING id, (SELECT count(*) FROM events), (SELECT max(t) FROM notes)",
    "lock": "SELECT * FROM events WHERE id < 20 FOR UPDATE",
    "lock-limit": """SELECT id, what FROM events ORDER BY amount DESC NULLS LAST, id LIMIT 5
        FOR UPDATE SKIP LOCKED""",
    "lock-join": """SELECT e.id, f.id FROM events e JOIN events f ON f.id = e.id + 1
        WHERE e.tenant = 3 FOR SHARE OF e NOWAIT""",
    "lock-sub-select": """SELECT id FROM (SELECT * FROM events WHERE what = 'kind 1') s WHERE id < 50
        FOR NO KEY UPDATE""",
    "lock-in-with": """WITH q AS (SELECT id FROM events ORDER BY id LIMIT 3 FOR UPDATE SKIP LOCKED)
        DELETE FROM events WHERE id IN (SELECT id FROM q) RETURNING id""",
    "lock-aggregate": "SELECT count(*) FROM events FOR UPDATE",
    "assign-one": "UPDATE events SET (what) = (SELECT max(t) FROM notes) WHERE id = 9 RETURNING id, what",
    "table-of-update": "UPDATE events SET what = 'x' WHERE id < 4 RETURNING tableoid::regclass, id",
    "table-of-insert": f"{_NEW} RETURNING events.tableoid::regclass, id",
    "view-update": "UPDATE shown SET w = w || '!' WHERE i < 20 RETURNING *",
    "view-move": "UPDATE shown SET tenant = tenant + 1, w = (SELECT max(t) FROM notes) WHERE i = 10 RETURNING *",
    "view-out-of-it": "UPDATE shown SET what = 5 WHERE i = 10",
    "view-delete": "DELETE FROM shown WHERE i % 3 = 0 RETURNING i, tenant",
    "view-insert": "INSERT INTO shown VALUES (7000, 'new', 4, '2024-03-12') RETURNING *",
    "view-insert-select": "INSERT INTO shown SELECT i + 7000, w, tenant, at FROM shown WHERE i < 10",
    "view-check": "INSERT INTO checked VALUES (3, 'no', 4, '2024-03-12')",
    "view-checked": "INSERT INTO checked VALUES (7000, 'yes', 4, '2024-03-12')",
    "view-check-update": "UPDATE checked SET tenant = -1 WHERE i = 9",
    "view-checked-update": "UPDATE checked AS c SET w = c.w || c.i, tenant = 6 WHERE i IN (9, 10) RETURNING *",
    "view-join": "UPDATE shown SET w = t FROM notes JOIN events e ON e.id = a WHERE i = a + 1 RETURNING i, w, t",
    "view-volatile": "DELETE FROM checked WHERE i < 20 AND random() < 2 RETURNING i",
    "view-conflict": """INSERT INTO checked (i, tenant, at, w) SELECT i, tenant, at, 'new' FROM shown WHERE i < 20 AND i > 5
        UNION ALL SELECT 7000, 4, '2024-03-12', 'x' ON CONFLICT (tenant, at, i) DO UPDATE SET w = excluded.w || checked.w
        RETURNING i, w""",
    "view-of-counts": "UPDATE counted SET n = 1",
    "unknown-column": "WITH d AS (DELETE FROM events WHERE id = -1) UPDATE events SET nonsense = 1",
}
#: Statements that are committed one after another, each changing what the next one finds.
_COMMITTED = (
    "move-both",
    "correlated-set",
    "join-across",
    "join-local",
    "merge",
    "cte-several",
    "cte-local",
    "merge-by-source",
    "cte-move",
    "conflict-sub-selects",
    "conflict-move-time",
    "lock-in-with",
    "correlated-delete",
)


def _fill(pair: oracle.Pair, layout: str) -> None:
    """The table in one layout, and a local one beside it."""
    pair.both("DROP TABLE IF EXISTS events, notes CASCADE")
    layouts.events(pair, layout)
    pair.both(
        "CREATE TABLE notes (a integer, t text)",
        "INSERT INTO notes VALUES (4, 'four'), (4, 'four'), (5, 'five')",
        "CREATE VIEW shown AS SELECT id AS i, what AS w, tenant, at FROM events WHERE id <> 13 AND tenant > 0",
        "CREATE VIEW checked AS SELECT * FROM shown WHERE i > 5 WITH CASCADED CHECK OPTION",
        "CREATE VIEW counted AS SELECT tenant, count(*) AS n FROM events GROUP BY tenant",
    )


@pytest.fixture(scope="module", params=["distributed", "both-compressed"])
def filled(request: pytest.FixtureRequest, module_pair: oracle.Pair) -> Iterator[oracle.Pair]:
    _fill(module_pair, request.param)
    yield module_pair
    module_pair.both("DROP TABLE events, notes CASCADE")


@pytest.mark.parametrize("name", _STATEMENTS)
def test_statement_rolled_back(filled: oracle.Pair, name: str) -> None:
    """In a block the change is seen at once; after ROLLBACK it is gone."""
    filled.both("BEGIN", "SAVEPOINT s")
    try:
        if filled.same(_STATEMENTS[name], ordered=False).sqlstate is None:
            filled.check_tables("events", "notes")
        filled.both("ROLLBACK TO s")
    finally:
        filled.both("ROLLBACK")


@pytest.mark.parametrize("layout", ["hypertable", "both-compressed", "reference"])
def test_statements_committed(pair: oracle.Pair, layout: str) -> None:
    """One after another, each by itself: what one did the next one finds."""
    _fill(pair, layout)
    for name in _COMMITTED:
        pair.same(_STATEMENTS[name], ordered=False)
    pair.check_tables("events", "notes")


def test_self_join_of_stripes(pair: oracle.Pair) -> None:
    """Both mentions of the table must find their rows, though the conditions are on one."""
    layouts.events(pair, "hypertable-compressed")
    pair.same(
        "DELETE FROM events e USING events f WHERE f.id = e.id + 4 AND e.tenant IN (7, 0) AND e.id > 47"
    )
    pair.same("UPDATE events e SET what = f.what FROM events f WHERE f.id = e.id + 100 AND e.id = 7")
    later = "(SELECT avg(amount) FROM events x WHERE x.id > e.id)"
    pair.same(f"DELETE FROM events e WHERE what IS NULL AND amount < {later}")
    pair.check_tables("events")


def test_parameters(filled: oracle.Pair) -> None:
    """The same prepared statements with other values."""
    for number in (3, 60):
        filled.same(
            "UPDATE events SET tenant = %s WHERE id = %s RETURNING *", (number * 2, number), prepare=True
        )
        filled.same(
            """MERGE INTO events e USING (SELECT %s::int AS i) s ON e.id = s.i
            WHEN MATCHED THEN UPDATE SET what = %s WHEN NOT MATCHED THEN DO NOTHING RETURNING e.id, e.what""",
            (number, f"p{number}"),
            prepare=True,
            binary=True,
        )
        filled.same(
            "WITH d AS (DELETE FROM events WHERE id = %s RETURNING *) SELECT id, what FROM d",
            (number + 100,),
            prepare=True,
        )
    filled.check_tables("events")


def test_read_only(filled: oracle.Pair) -> None:
    for name in ("move-one", "merge", "cte-replace", "lock"):
        filled.both("BEGIN READ ONLY")
        filled.same(_STATEMENTS[name])
        filled.both("ROLLBACK")


def test_cursor(filled: oracle.Pair) -> None:
    """A cursor FOR UPDATE over several shards."""
    filled.both("BEGIN")
    for sql in (
        "DECLARE c CURSOR FOR SELECT id, what FROM events WHERE id < 30 ORDER BY id FOR UPDATE",
        "FETCH 3 FROM c",
        "MOVE 2 IN c",
        "UPDATE events SET what = 'fetched' WHERE id = 2",
        "FETCH ALL FROM c",
        "CLOSE c",
    ):
        filled.same(sql)
    filled.both("ROLLBACK")


def test_generated_columns(pair: oracle.Pair) -> None:
    """Identity, defaults and generated columns of a table whose rows move."""
    pair.both(
        """CREATE TABLE parts (id integer PRIMARY KEY, serial bigint GENERATED ALWAYS AS IDENTITY,
        price numeric(10, 2) DEFAULT 5, twice numeric GENERATED ALWAYS AS (price * 2) STORED, tag char(4) NOT NULL)"""
    )
    pair.orochi("SELECT create_distributed_table('parts', 'id', 4)")
    for sql in (
        "INSERT INTO parts (id, tag) SELECT g, 'a' || g FROM generate_series(1, 20) AS g ORDER BY g",
        "UPDATE parts SET id = id + 100, price = id WHERE id % 3 = 0 RETURNING *",
        "UPDATE parts SET id = id + 1 WHERE id < 10",
        "UPDATE parts SET id = -id",
        "UPDATE parts SET twice = 5 WHERE id = 1",
        "UPDATE parts SET tag = NULL, id = 0 WHERE id = -1",
        "UPDATE parts SET price = DEFAULT, id = 50 WHERE id = -2 RETURNING *",
        """MERGE INTO parts USING (VALUES (-4, 'x'), (900, 'y')) AS s(i, t) ON id = i
        WHEN MATCHED THEN UPDATE SET tag = t, id = 300 WHEN NOT MATCHED THEN INSERT (id, tag) VALUES (i, t)
        RETURNING merge_action(), parts.*""",
        "WITH n AS (INSERT INTO parts (id, tag) VALUES (901, 'z') RETURNING *) SELECT * FROM n",
        """MERGE INTO parts USING (VALUES (950, 'u')) AS s(i, t) ON id = i WHEN NOT MATCHED
        THEN INSERT (serial, id, tag) OVERRIDING USER VALUE VALUES (7, i, t) RETURNING parts.*""",
    ):
        pair.same(sql)
        pair.check_tables("parts")


#: What each shard does for itself, and what looks like it but is not.
_COLOCATED = {
    "INSERT INTO more SELECT * FROM events WHERE what = 'kind 1'": "Insert",
    """INSERT INTO more (at, id, tenant)
        SELECT timestamptz '2025-01-01', count(*), tenant FROM events GROUP BY tenant""": "Insert",
    """INSERT INTO more (tenant, at, id) SELECT e.tenant, f.at, e.id FROM events e JOIN more f USING (tenant)
        WHERE f.id < 20 AND e.id < 9""": "Insert",
    "INSERT INTO more (tenant, at, id) SELECT tenant + 1, at, id + 900 FROM events": "staged",
    "INSERT INTO more (tenant, at, id) SELECT 5, at, id + 3000 FROM events WHERE tenant = 5": "staged",
    "INSERT INTO more (tenant, at, amount) SELECT tenant, at, 1e9 FROM events WHERE id = 7": "Insert",
    "INSERT INTO more SELECT * FROM events ORDER BY id LIMIT 3": "staged",
    """MERGE INTO more m USING events e ON m.tenant = e.tenant AND m.id = e.id AND m.at = e.at
        WHEN MATCHED THEN UPDATE SET what = m.what || e.what WHEN NOT MATCHED AND e.id < 40
        THEN INSERT VALUES (e.tenant, e.at, e.id + 100000, e.what)
        RETURNING merge_action(), m.tenant, m.id, m.what""": "Merge",
    """MERGE INTO more m USING events e ON m.tenant = e.tenant AND m.id = e.id WHEN MATCHED AND e.tenant = 2
        THEN DELETE WHEN NOT MATCHED BY SOURCE AND m.id > 900 THEN UPDATE SET ratio = 1""": "Merge",
    """MERGE INTO more m USING (SELECT tenant, max(id) AS id FROM events GROUP BY tenant) e
        ON m.tenant = e.tenant WHEN MATCHED AND m.id < e.id AND m.id % 10 = 0
        THEN UPDATE SET amount = e.id""": "Merge",
    """MERGE INTO more m USING (VALUES (1, 'x'), (4, 'y')) v(t, w) ON m.tenant = v.t
        WHEN MATCHED AND m.id < 90 THEN UPDATE SET what = v.w WHEN NOT MATCHED THEN DO NOTHING""": "Merge",
    """MERGE INTO more m USING (VALUES (1), (100)) v(t) ON m.tenant = v.t WHEN NOT MATCHED
        THEN INSERT (tenant, at) VALUES (v.t, '2024-01-01')""": "Rehearsal",
    "MERGE INTO more m USING events e ON m.tenant = e.tenant WHEN MATCHED THEN UPDATE SET what = 'z'": "Merge",
}


def test_colocated(pair: oracle.Pair) -> None:
    """INSERT ... SELECT and MERGE of co-located tables."""
    layouts.events(pair, "distributed")
    pair.both(layouts.EVENTS.replace("TABLE events", "TABLE more").replace("events_pkey", "more_pkey"))
    layouts.place(pair, "more", "distributed", key="tenant", time="at")
    for sql, way in _COLOCATED.items():
        plan = "\n".join(line for (line,) in pair.orochi(f"EXPLAIN {sql}"))
        if way == "staged":
            assert "Shards" not in plan, plan
        else:
            assert plan.startswith(f"Orochi {way}"), plan
            assert way == "Rehearsal" or "Shards" in plan, plan
        pair.same(sql)
        pair.check_tables("more")

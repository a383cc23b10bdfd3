"""Writes through the operations, on real databases; a plain PostgreSQL table is the oracle."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.operations import distribute, hypertable, recall
from orochi.pgwire import client
from orochi.planner import fragment
from tests.services import harness

SCHEMA = """
CREATE TABLE t (
    id int PRIMARY KEY, name text, n int DEFAULT 7, at timestamptz DEFAULT now(),
    g int GENERATED ALWAYS AS (n + 1) STORED, CHECK (n < 1000));
CREATE TABLE s (id bigint GENERATED ALWAYS AS IDENTITY, k varchar(5), v int NOT NULL);
CREATE TABLE f (
    time timestamptz NOT NULL, dest text, v int DEFAULT 5, id bigserial, PRIMARY KEY (dest, time, id));
CREATE TABLE r (a int PRIMARY KEY, b text DEFAULT 'x');
CREATE TABLE d (day date NOT NULL, v int, PRIMARY KEY (day));
CREATE TABLE source AS SELECT i AS a, 'l' || i AS b FROM generate_series(1, 50) i;
"""

#: Statement, parameters, CopyData.
STATEMENTS: list[tuple[str, tuple[str | None, ...], tuple[bytes, ...]]] = [
    (
        "INSERT INTO t (id, name) VALUES (1, 'a'), (2, 'b'), (3, $1) RETURNING id, name, n, g, t.id + 1 AS x",
        ("c",),
        (),
    ),
    ("INSERT INTO t (id, name, n) VALUES ($1, $2, $3)", ("4", "d", "9"), ()),
    ("INSERT INTO t (id, name, n) VALUES ($1, $2, $3)", ("4", "d", "9"), ()),
    ("INSERT INTO t (id, name, n, at) VALUES ($1, $2, 5000, '2020-01-01')", ("5", "d"), ()),
    ("INSERT INTO t VALUES (6 + 1, upper('q'), DEFAULT, '2020-01-01 10:00') RETURNING *", (), ()),
    ("INSERT INTO public.t AS x (id, name) VALUES (600, 'it''s \\ $1') RETURNING x.id, x.name", (), ()),
    (
        (
            "INSERT INTO t (id, n) VALUES (1, 1), (2, 2), (8, 3) ON CONFLICT (id) DO UPDATE "
            "SET n = t.n + excluded.n, id = excluded.id, at = now() WHERE t.n < $1 RETURNING id, n, g"
        ),
        ("100",),
        (),
    ),
    ("INSERT INTO t (id, n) VALUES (10, 1), (10, 2) ON CONFLICT (id) DO UPDATE SET n = 0", (), ()),
    ("INSERT INTO t (id, n) VALUES (1, 1), (9, 3) ON CONFLICT DO NOTHING RETURNING id", (), ()),
    ("INSERT INTO t (id, name) SELECT a, b FROM source WHERE a > 20", (), ()),
    ("INSERT INTO t (id, name) SELECT a, b FROM source WHERE a = 23", (), ()),
    (
        (
            "INSERT INTO t (id, name) SELECT a, b FROM source WHERE a > 20 ORDER BY a "
            "ON CONFLICT (id) DO UPDATE SET name = excluded.name || '!' RETURNING id, name"
        ),
        (),
        (),
    ),
    (
        "INSERT INTO t (id, name) SELECT a + $1, b FROM source WHERE a < 9 ORDER BY a DESC RETURNING id",
        ("100",),
        (),
    ),
    ("INSERT INTO t (id, at) VALUES (NULL, '2020-01-01')", (), ()),
    ("INSERT INTO t (id) VALUES ((SELECT max(a) FROM source) + 1000) RETURNING id", (), ()),
    ("INSERT INTO t (id) VALUES ('12x')", (), ()),
    ("WITH w AS (SELECT 3000 AS a) INSERT INTO t (id) SELECT a FROM w RETURNING id", (), ()),
    ("INSERT INTO s (k, v) VALUES ('x', 1), ('y', 2), ('z', 3) RETURNING *", (), ()),
    ("INSERT INTO s DEFAULT VALUES", (), ()),
    ("INSERT INTO s (k, v) VALUES ('abc    ', 1), (NULL, 2) RETURNING *", (), ()),
    ("INSERT INTO s (id, k, v) OVERRIDING SYSTEM VALUE VALUES (500, 'abcdefg', 1)", (), ()),
    ("INSERT INTO s (k, v) SELECT b, a FROM source ORDER BY a RETURNING id", (), ()),
    ("INSERT INTO s (id, k, v) OVERRIDING SYSTEM VALUE VALUES (77, NULL, 1) RETURNING *", (), ()),
    ("INSERT INTO s (id, k, v) OVERRIDING USER VALUE VALUES (77, 'u', 1) RETURNING *", (), ()),
    ("INSERT INTO s (id, k, v) VALUES (78, NULL, 1)", (), ()),
    ("INSERT INTO r (a) VALUES (1), (2) RETURNING *", (), ()),
    ("INSERT INTO r (a) SELECT a + 10 FROM source", (), ()),
    ("INSERT INTO r VALUES (1)", (), ()),
    ("INSERT INTO r VALUES (1, 'y') ON CONFLICT (a) DO UPDATE SET b = excluded.b RETURNING *", (), ()),
    (
        "INSERT INTO f (time, dest) VALUES ('2013-01-01 05:00', 'JFK'), ('2013-01-02', 'LAX'), ($1, 'LAX') RETURNING *",
        ("2013-01-03 01:00+00",),
        (),
    ),
    ("INSERT INTO f (time, dest) VALUES (NULL, 'JFK')", (), ()),
    ("INSERT INTO f (time, dest) VALUES ('Jan 5 2013 10:00', 'JFK') RETURNING time", (), ()),
    (
        "INSERT INTO f (time, dest, id) VALUES ('2013-01-05 10:00', 'JFK', 500), ('2013-01-05 10:00', 'JFK', 500)",
        (),
        (),
    ),
    (
        "INSERT INTO f (time, dest) SELECT '2014-01-01'::timestamptz + i * interval '7 hours', 'D' || i % 7 FROM generate_series(1, 100) i",
        (),
        (),
    ),
    ("INSERT INTO d VALUES ('2013-01-01', 1), ('1969-12-31', 2), ($1, 3) RETURNING *", ("2000-02-29",), ()),
    ("INSERT INTO d VALUES ('2013-01-01', 1)", (), ()),
    ("COPY t (id, name) FROM STDIN", (), (b"2001\tcopy\n2002\t\\N\n",)),
    (
        "COPY t (id, name) FROM STDIN WITH (FORMAT csv, HEADER) WHERE id > 2003",
        (),
        (b"id,name\n2003,c\n20", b"04,d\n"),
    ),
    (
        "COPY t (id, name) FROM STDIN CSV HEADER QUOTE '''' DELIMITER ';' NULL 'no'",
        (),
        (b"id;name\n2005;'a;b'\n2006;no\n",),
    ),
    ("COPY t (id, name) FROM STDIN", (), (b"2009\tcopy\nx\t\\N\n",)),
    ("COPY t (id, name, at) FROM STDIN", (), (b"2009\tcopy\t2020-01-01\n2001\tdup\t2020-01-01\n",)),
    ("COPY t (id, nope) FROM STDIN", (), ()),
    ("COPY s FROM STDIN CSV", (), (b"5,k,\n",)),
    ("COPY s FROM STDIN CSV", (), (b"5,k,4\n6,l,5\n",)),
    ("COPY f (time, dest) FROM STDIN CSV", (), (b"2015-01-01 00:00+00,A\n2015-01-09 00:00+00,B\n",)),
    ("COPY d FROM STDIN", (), (b"2016-01-01\t1\n2016-03-01\t2\n",)),
    ("UPDATE t SET name = upper(name), n = n + $1 WHERE id < 5 RETURNING id, name, n, g", ("3",), ()),
    ("UPDATE t SET n = 5000 WHERE id = 1", (), ()),
    ("UPDATE t SET n = n + 1", (), ()),
    (
        "UPDATE t x SET name = $2 WHERE x.id = $1 RETURNING x.id, x.name, x.name || '!' AS y",
        ("2", "zwei"),
        (),
    ),
    ("UPDATE t SET at = now() WHERE id = 3", (), ()),
    ("UPDATE t SET n = 1 / 0 WHERE id = 2", (), ()),
    ("UPDATE t SET n = 3 FROM r WHERE r.a = t.id AND r.a < 15 RETURNING t.id", (), ()),
    ("UPDATE t SET name = b FROM source WHERE a = id AND a < 4 RETURNING id, name", (), ()),
    ("DELETE FROM t WHERE id IN (SELECT a FROM source WHERE a > 45) RETURNING id", (), ()),
    ("DELETE FROM t WHERE id = $1", ("4",), ()),
    ("UPDATE r SET b = b || 'z' WHERE a < 3 RETURNING *", (), ()),
    ("DELETE FROM r WHERE a = 11", (), ()),
    ("UPDATE f SET v = v + 1 WHERE time >= '2014-01-05' AND time < '2014-01-09' RETURNING v", (), ()),
    ("DELETE FROM f WHERE time < '2014-01-03' AND dest = 'D1'", (), ()),
    ("DELETE FROM d WHERE day = '2016-03-01' RETURNING v", (), ()),
]
TABLES = ("t", "s", "f", "r", "d")


@pytest.fixture(scope="module")
def databases() -> Iterator[harness.Databases]:
    with harness.databases() as running:
        for name in ("co", "plain"):
            running.run(name, SCHEMA)
        yield running


async def make_tables(session: harness.Session) -> None:
    async def oid(name: str) -> int:
        result = await session.coordinator.fetch(f"SELECT '{name}'::regclass::oid::bigint")
        return int(result.rows[0][0] or b"0")

    await session.call(distribute.create_distributed_table, await oid("t"), "id", 4, None)
    await session.call(distribute.create_distributed_table, await oid("s"), "k", 4, None)
    await session.call(distribute.create_distributed_table, await oid("f"), "dest", 4, None)
    for name, column in (("f", "time"), ("d", "day")):
        await session.call(
            hypertable.create_hypertable, harness.Sink(), await oid(name), hypertable.Options(column)
        )
    await session.call(distribute.create_reference_table, await oid("r"))


def table(session: harness.Session, name: str) -> snapshots.Table:
    found = session.snapshot().table("public", name)
    assert found is not None
    return found


def rows(databases: harness.Databases, session: harness.Session, name: str, columns: str = "*") -> list[Any]:
    nodes = {node.node_id: node.dbname for node in session.snapshot().nodes.values()}
    found = [
        row
        for shard in table(session, name).shards
        for row in databases.run(
            nodes[shard.node_ids[-1]], f'SELECT {columns} FROM "{shard.schema}"."{name}"'
        )
    ]
    return sorted(found, key=repr)


def run(databases: harness.Databases, scenario: Callable[[harness.Session], Awaitable[None]]) -> None:
    async def whole() -> None:
        session = await harness.connect(databases)
        if not session.snapshot().tables:
            await make_tables(session)
        try:
            await scenario(session)
        finally:
            await session.runtime.nodes.close()
            session.coordinator.close()

    asyncio.run(whole())


async def outcome(run: Awaitable[tuple[str, Sequence[Any], Sequence[str]]]) -> Any:
    try:
        tag, values, names = await run
    except errors.OrochiError as error:
        detail = error.detail or ""
        if "now()" not in detail and "Failing row" in detail:
            detail = detail[:30]
        return error.sqlstate, error.message, detail
    return tag, values, names


async def plainly(
    connection: client.PgConnection, sql: str, values: Sequence[str | None], data: Sequence[bytes]
) -> tuple[str, Sequence[Any], Sequence[str]]:
    if sql.startswith("COPY"):
        return await connection.copy_in(sql, data), [], []
    result = await connection.fetch(
        sql, [None if v is None else v.encode() for v in values], (0,) * len(values)
    )
    found = [tuple(None if value is None else value.decode() for value in row) for row in result.rows]
    return result.tag, found, [field.name for field in result.fields]


async def through(
    session: harness.Session, sql: str, values: Sequence[str | None], data: Sequence[bytes]
) -> tuple[str, Sequence[Any], Sequence[str]]:
    sink = await session.execute(sql, *values, data=data)
    return sink.tag, sink.values, [field.name for field in sink.fields]


def test_every_statement_does_what_plain_postgresql_does(databases: harness.Databases) -> None:
    async def scenario(session: harness.Session) -> None:
        plain = await client.PgConnection.connect("127.0.0.1", databases.port, "orochi", None, "plain")
        for sql, values, data in STATEMENTS:
            expected = await outcome(plainly(plain, sql, values, data))
            found = await outcome(through(session, sql, values, data))
            if sql.startswith(("UPDATE", "DELETE")):
                found, expected = (
                    (tag, sorted(values), names) if isinstance(values, list) else (tag, values, names)
                    for tag, values, names in (found, expected)
                )
            assert found[:2] == expected[:2], sql
            if found[0] == "23505":
                assert found[2].startswith("Key ("), sql  # several rows are duplicates: any may be told of
            else:
                assert found == expected, sql
        for name in TABLES:
            columns = {"t": "id, name, n, g"}.get(name, "*")
            expected_rows = sorted(databases.run("plain", f"SELECT {columns} FROM {name}"), key=repr)
            if name == "f":
                expected_rows = [row[:3] for row in expected_rows]
                assert [row[:3] for row in rows(databases, session, name)] == expected_rows
            else:
                assert rows(databases, session, name, columns) == expected_rows, name
        plain.close()

    run(databases, scenario)
    assert databases.run("co", "SELECT gid FROM pg_prepared_xacts") == []
    for name in ("n1", "n2"):
        left = databases.run(
            name,
            "SELECT relname FROM pg_class WHERE relnamespace = 'orochi_data'::regnamespace AND relname LIKE 'stage%'",
        )
        assert left == []


def test_shards_hold_only_rows_of_their_hash(databases: harness.Databases) -> None:
    async def scenario(session: harness.Session) -> None:
        nodes = {node.node_id: node.dbname for node in session.snapshot().nodes.values()}
        for name, function in (
            ("t", "hashint4(id)"),
            ("s", "coalesce(hashtext(k), 0)"),
            ("f", "hashtext(dest)"),
        ):
            for shard in table(session, name).shards:
                wrong = databases.run(
                    nodes[shard.node_id],
                    f'SELECT count(*) FROM "{shard.schema}"."{name}" '
                    f"WHERE {function} NOT BETWEEN {shard.hash_min} AND {shard.hash_max}",
                )
                assert wrong == [(0,)]

    run(databases, scenario)


def test_a_block_is_all_or_nothing(databases: harness.Databases) -> None:
    async def scenario(session: harness.Session) -> None:
        before = {name: rows(databases, session, name) for name in TABLES}
        await session.begin()
        await session.execute("INSERT INTO t (id) SELECT g FROM generate_series(5000, 5050) g")
        await session.execute("COPY f (time, dest) FROM STDIN CSV", data=(b"2031-01-01 00:00+00,A\n",))
        await session.execute("INSERT INTO r VALUES (999)")
        await session.rollback()
        assert {name: rows(databases, session, name) for name in TABLES} == before
        await session.begin()
        await session.execute("INSERT INTO t (id) SELECT g FROM generate_series(5000, 5050) g")
        await session.execute("TRUNCATE r")
        assert await session.commit() == "COMMIT"
        assert len(rows(databases, session, "t")) == len(before["t"]) + 51
        assert rows(databases, session, "r") == []

    run(databases, scenario)


class Stripes:
    """Answers stripe scans as a worker would."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch = batch
        self.scans: list[fragment.Scan] = []

    async def run_scan(self, query_id: str, node_id: int, scan: fragment.Scan) -> list[pa.RecordBatch]:
        self.scans.append(scan)
        return [self.batch]


@pytest.fixture
def striped(databases: harness.Databases) -> Callable[[harness.Session], Awaitable[Stripes]]:
    """Put days 1 to 4 of 2020 of table `d` into a stripe."""

    async def make(session: harness.Session) -> Stripes:
        await session.execute("INSERT INTO d VALUES ('2020-01-01', 0)")
        node = {n.node_id: n.dbname for n in session.snapshot().nodes.values()}
        shard = table(session, "d").shards[0]
        chunk = next(c for c in shard.chunks if c.range_start <= 7305 < c.range_end)
        databases.run(
            node[shard.node_id],
            f"DELETE FROM \"{shard.schema}\".d WHERE day BETWEEN '2020-01-01' AND '2020-01-09'",
        )
        ((stripe_id,),) = databases.run(
            "co",
            "INSERT INTO orochi.orochi_stripes (chunk_id, node_id, path, row_count, size_bytes) "
            f"VALUES ({chunk.chunk_id}, {shard.node_id}, 'x', 4, 1) RETURNING stripe_id",
        )
        await session.runtime.refresh()
        arrays = [
            pa.array([7305] * 4, pa.int32()),
            pa.array([10, 20, 30, 40], pa.int32()),
            pa.array([stripe_id] * 4, pa.int64()),
            pa.array(range(4), pa.int32()),
        ]
        names = ["day", "v", "orochi_stripe_id", "orochi_row_number"]
        stripes = Stripes(pa.RecordBatch.from_arrays([arrays[0], *arrays[1:]], names=names).slice(0, 1))
        session.runtime.transport = stripes
        return stripes

    return make


def test_recall_finds_duplicates_in_stripes(
    databases: harness.Databases, striped: Callable[[harness.Session], Awaitable[Stripes]]
) -> None:
    async def scenario(session: harness.Session) -> None:
        stripes = await striped(session)
        with pytest.raises(errors.RemoteError) as caught:
            await session.execute("INSERT INTO d VALUES ('2020-01-01', 99)")
        assert caught.value.sqlstate == "23505"
        assert stripes.scans[0].predicates == (fragment.Predicate("day", "in", (7305,)),)
        with pytest.raises(errors.RemoteError):
            await session.execute("COPY d FROM STDIN", data=(b"2020-01-01\t7\n",))
        sink = await session.execute(
            "INSERT INTO d VALUES ('2020-01-01', 1) ON CONFLICT (day) DO UPDATE SET v = d.v + excluded.v RETURNING v"
        )
        assert sink.values == [("11",)]
        session.runtime.transport = stripes
        shard = table(session, "d").shards[0]
        await session.begin()
        # it is in the delete vector already: nothing comes back twice
        assert await recall.matching(session, table(session, "d"), shard, ()) == 0  # type: ignore[arg-type]
        await session.rollback()
        await session.execute("TRUNCATE d")
        await session.runtime.refresh()
        after = table(session, "d").shards[0]
        assert after.layout == shard.layout + 1
        assert not after.has_stripes
        assert rows(databases, session, "d") == []

    run(databases, scenario)

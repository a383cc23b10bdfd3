"""The fused aggregate gives PostgreSQL's groups over stripes, deleted rows and heap rows, or declines."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import random

import numpy as np
import psycopg
import pyarrow as pa
import pytest

from orochi import errors
from orochi.engine import copybinary, fused, native, newest, rows, stripes, surveys
from orochi.planner import fragment as fragments
from orochi.planner import plan as plans
from orochi.storage.columnar import cache, writer
from orochi.storage.objects import opening
from tests.support import planner_world

_COLUMNS = ("id", "made", "at", "day", "host", "region", "small", "whole", "big", "usage", "load", "flag")
_DDL = """
CREATE TABLE m (id int NOT NULL, made timestamptz NOT NULL, at timestamptz NOT NULL, day timestamp, host text, region varchar(8), small int2,
    whole int4, big int8, usage float8, load float4, flag bool)
"""
_ROWS = """
INSERT INTO plain.m
SELECT g, timestamptz '2024-03-30 20:00+00' + g * interval '1 second',
    timestamptz '2024-03-30 20:00+00' + g * interval '97 seconds',
    CASE WHEN g % 13 <> 0 THEN timestamp '2024-02-27 21:00' + g * interval '41 minutes' END,
    CASE WHEN g % 11 <> 0 THEN 'host_' || g % 9 END, (ARRAY['eu', 'us', NULL, 'ap', ''])[g % 5 + 1],
    (g % 17 - 8)::int2, CASE WHEN g % 6 <> 0 THEN g * 7919 % 100003 - 50000 END,
    CASE WHEN g % 7 <> 0 THEN g::int8 * 1000003 - 900000000 END,
    CASE WHEN g % 10 <> 0 THEN (g * 37 % 1000) / 8.0 END, CASE WHEN g % 4 <> 0 THEN (g % 90) / 4.0 END,
    CASE WHEN g % 3 <> 0 THEN g % 2 = 0 END
FROM generate_series(1, 1200) g
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Mixed:
    """The rows of `m`, most of them in stripes, some in the heap; deleted ones beside them."""

    world: planner_world.World
    folder: pathlib.Path
    stripes: tuple[fragments.StripeRef, ...]
    deleted: dict[int, np.ndarray]
    heap: str = "id > 1000"


@pytest.fixture(scope="module")
def mixed(_world: planner_world.World, tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    folder = tmp_path_factory.mktemp("stripes")
    _world.local(_DDL)
    _world.connection.execute(_ROWS)
    _world.local(_DDL.replace(" m ", " n "))
    _world.connection.execute("INSERT INTO plain.n SELECT * FROM plain.m")
    for name, shards in (("m", 1), ("n", 2)):
        _world.table(name, "distributed", "id", shards, time="made", interval=2_000_000_000, stripes=True)
    (table,) = (item for item in _world.tables.values() if item.name == "m")
    wanted = tuple(fragments.OutputColumn(c.name, c.type_oid, c.typmod, c.type_name) for c in table.columns)
    described = [writer.StripeColumn(c.name, c.type_oid, c.typmod) for c in wanted]
    options = writer.WriteOptions(chunk_group_row_limit=80)
    references, deleted = [], {}
    for number, (low, high) in enumerate(((1, 350), (351, 700), (701, 1000)), 1):
        # each fifth row a second time, as an UPDATE leaves it: deleted
        sql = (
            f"SELECT {', '.join(_COLUMNS)} FROM (SELECT *, false AS gone FROM plain.m UNION ALL "
            f"SELECT *, true FROM plain.m WHERE id % 5 = {number % 5}) x WHERE id BETWEEN {low} AND {high} "
            "ORDER BY host, id, gone"
        )
        table = pa.Table.from_batches(_copy(_world.connection, sql, wanted))
        path = folder / f"{number}.stripe"
        writer.write_stripe(path, table.to_batches(), described, options)
        references.append(fragments.StripeRef(number, path.name, table.num_rows))
        ids = table.column("id").to_numpy()
        deleted[number] = np.flatnonzero(np.concatenate(([False], ids[1:] == ids[:-1]))).astype(np.int32)
    return Mixed(_world, folder, tuple(references), deleted)


def _copy(
    connection: psycopg.Connection[object], sql: str, columns: tuple[fragments.OutputColumn, ...]
) -> list[pa.RecordBatch]:
    decoder = copybinary.Decoder(columns)
    batches = []
    with connection.cursor().copy(f"COPY ({sql}) TO STDOUT (FORMAT binary)".encode()) as copy:
        for data in copy:
            batches += decoder.feed(bytes(data))
    return batches + decoder.finish()


def _types(world: planner_world.World, item: plans.Intermediate) -> tuple[fragments.OutputColumn, ...]:
    if item.describe_sql is None:
        return item.columns
    found = world.connection.execute(f"SELECT * FROM ({item.describe_sql}) q LIMIT 0").description or []
    return tuple(
        fragments.OutputColumn(column.name, each.type_code, -1, each.type_display)
        for column, each in zip(item.columns, found, strict=True)
    )


def _rows(batches: list[pa.RecordBatch]) -> list[str]:
    def shown(value: object) -> object:
        return f"{value:.11g}" if isinstance(value, float) else value

    return sorted(
        repr([shown(value) for value in row.values()]) for batch in batches for row in batch.to_pylist()
    )


def _check(mixed: Mixed, sql: str) -> stripes.Counters:
    """The fused rows of the plan's fragment are those of its SQL."""
    world = mixed.world
    plan = world.plan(sql)
    assert isinstance(plan, plans.Distributed), sql
    part = plan.intermediates[0].fragments[0]
    assert part.fused is not None, sql
    assert part.fused.partial == (" n" in sql)
    assert fragments.from_json(fragments.to_json((part,))) == (part,)
    columns = _types(world, plan.intermediates[0])
    (scan,) = part.scans
    scan = dataclasses.replace(scan, stripes=mixed.stripes)
    listed = ", ".join(f'"{column.name}"' for column in scan.columns)
    heap = f"(SELECT * FROM plain.m WHERE {mixed.heap}) AS heap"
    whole = dataclasses.replace(part.fused, partial=False)
    mem = _copy(world.connection, f"SELECT {listed} FROM {heap}", scan.columns)
    # what the cache keeps of all rows serves all queries over the stripes, and must not hide a deletion
    undeleted = [
        fused.run(whole, scan, columns, mixed.folder, {}, mem, stripes.Counters(), lambda: False, kept)
        for kept in (cache.shared(), cache.shared(), cache.Cache(0))
    ]
    assert _rows(undeleted[:1]) == _rows(undeleted[1:2]) == _rows(undeleted[2:]), sql
    counters = stripes.Counters()
    answer = fused.run(whole, scan, columns, mixed.folder, mixed.deleted, mem, counters, lambda: False)
    exact = _copy(world.connection, part.sql.replace(scan.name, "plain.m"), columns)
    first_two = [at for at, o in enumerate(part.fused.outputs) if o.kind != "moment" or o.index < 3]
    names = [columns[at].name for at in first_two]
    assert _rows([answer.select(names)]) == _rows([batch.select(names) for batch in exact]), sql
    return counters


@pytest.fixture(autouse=True)
def _utc(mixed: Mixed) -> None:
    mixed.world.settings = {"timezone": "UTC"}
    mixed.world.connection.execute("SET timezone TO 'UTC'")


_ALL = (
    "count(*), count(host), count(usage), sum(small), sum(whole), sum(big), sum(usage), min(small), max(whole), "
    "min(big), max(usage), min(usage), max(load), min(at), max(day), avg(usage), avg(load), avg(small), avg(big)"
)
_KEYS = (
    "",
    "host",
    "region, host",
    "date_trunc('hour', at)",
    "date_trunc('week', day), region",
    "time_bucket('15 minutes', at), host",
    "time_bucket(INTERVAL '2 days', day)",
    "time_bucket('01:30:00'::interval, at), host",
    "time_bucket('00:00:07.5', day)",
    "whole",
    "flag, small",
    "day",
    "at, date_trunc('hour', at)",
    "time_bucket(10, id)",
)
_WHERE = (
    "",
    "at >= '2024-03-31 04:00+00' AND at < '2024-04-02'",
    "host = 'host_3'",
    "host IN ('host_1', 'host_7', 'nobody') AND usage > 50.5",
    "host IS NULL AND big IS NOT NULL",
    "usage BETWEEN 10 AND 90 AND whole <= 0",
    "at < '2001-01-01'",
    "region = '' AND load >= 3",
)


@pytest.mark.parametrize("keys", _KEYS)
def test_groups(mixed: Mixed, keys: str) -> None:
    for number, where in enumerate(_WHERE):
        head = f"{keys}, " if keys else ""
        tail = f" GROUP BY {keys}" if keys else ""
        table = "mn"[number % 2]
        _check(mixed, f"SELECT {head}{_ALL} FROM {table}{' WHERE ' + where if where else ''}{tail}")


def test_random(mixed: Mixed) -> None:
    chance = random.Random(11)
    calls = _ALL.split(", ")
    for _ in range(40):
        keys = chance.choice(_KEYS)
        where = " AND ".join(chance.sample(_WHERE[1:], chance.randrange(3)))
        chosen = ", ".join(chance.sample(calls, chance.randrange(1, 5)))
        head, tail = (f"{keys}, ", f" GROUP BY {keys}") if keys else ("", "")
        _check(
            mixed,
            f"SELECT {head}{chosen} FROM {chance.choice('mn')}{' WHERE ' + where if where else ''}{tail}",
        )


def test_distinct(mixed: Mixed) -> None:
    _check(mixed, "SELECT count(DISTINCT host), sum(DISTINCT small) FROM n")


def test_rows(mixed: Mixed) -> None:
    for where in _WHERE:
        sql = f"SELECT host, id, usage, host, flag, at FROM m{' WHERE ' + where if where else ''}"
        plan = mixed.world.plan(sql)
        part = plan.intermediates[0].fragments[0]
        assert part.fused is not None
        assert part.fused.rows
        scan = dataclasses.replace(part.scans[0], stripes=mixed.stripes)
        kept = cache.Cache(64 << 20)
        for gone in ({}, mixed.deleted):
            args = (mixed.folder, gone, stripes.Counters(), lambda: False, kept)
            found = list(rows.of_stripes(part.fused, scan, part.columns, *args))
        exact = f"({part.sql.replace(scan.name, '(SELECT * FROM plain.m WHERE id <= 1000)')})"
        assert _rows(found) == _rows(_copy(mixed.world.connection, exact[1:-1], part.columns)), sql


@pytest.mark.parametrize("key", ["host", "region", "small"])
def test_last_points(mixed: Mixed, key: str) -> None:
    for number, where in enumerate(_WHERE):
        condition = f" WHERE {where}" if where else ""
        way = (" DESC", "")[number % 2]
        sql = f"SELECT DISTINCT ON ({key}) host, id, at, usage FROM m{condition} ORDER BY {key}, at{way}"
        plan = mixed.world.plan(sql)
        part = plan.intermediates[0].fragments[0]
        assert part.fused is not None
        assert part.fused.best is not None
        scan = dataclasses.replace(part.scans[0], stripes=mixed.stripes)
        exact = part.sql.replace(scan.name, "(SELECT * FROM plain.m WHERE id <= 1000)")
        wanted = _rows(_copy(mixed.world.connection, exact, part.columns))
        kept = cache.Cache(64 << 20)
        assert where or newest.weight(part.fused, scan, mixed.folder, kept, 10_000) > 0
        for gone in ({}, mixed.deleted, mixed.deleted):  # what is kept of all rows must not hide a deletion
            found = newest.of_stripes(
                part.fused, scan, part.columns, mixed.folder, gone, stripes.Counters(), lambda: False, kept
            )
        assert _rows(found) == wanted, sql
        assert where or newest.weight(part.fused, scan, mixed.folder, kept, 10_000) == 0


def test_survey(mixed: Mixed) -> None:
    """What the skip lists rule out of a scan changes no group, and is not looked at: those files may be gone."""
    for where in ("at < '2024-03-30 22:00+00'", "id BETWEEN 400 AND 420", "id > 5000", "id > 900"):
        (item,) = mixed.world.plan(f"SELECT count(*), max(usage) FROM m WHERE {where}").intermediates
        part, columns = item.fragments[0], _types(mixed.world, item)
        assert part.fused is not None
        shape = dataclasses.replace(part.fused, partial=False)
        scan = dataclasses.replace(part.scans[0], stripes=mixed.stripes)
        kept, counters = cache.Cache(64 << 20), (stripes.Counters(), stripes.Counters())
        found = [surveys.survey(shape, scan, mixed.folder, kept, 10_000) for _ in range(2)]
        assert found[0] == found[1]
        assert len(found[0].stripes) < len(scan.stripes)
        fewer = tuple(stripe for stripe in scan.stripes if stripe.stripe_id in found[0].stripes)
        answers = [
            fused.run(shape, item, columns, mixed.folder, mixed.deleted, (), counter, lambda: False, kept)
            for item, counter in zip((scan, dataclasses.replace(scan, stripes=fewer)), counters, strict=True)
        ]
        assert answers[0].equals(answers[1])
        assert counters[0].total == counters[1].total + found[0].passed_over


def test_a_stripe_that_is_gone(mixed: Mixed) -> None:
    """It is missed when all are opened ahead, and none stays open."""
    (item,) = mixed.world.plan("SELECT host, max(usage) FROM m GROUP BY host").intermediates
    part, columns = item.fragments[0], _types(mixed.world, item)
    assert part.fused is not None
    shape = dataclasses.replace(part.fused, partial=False)
    gone = dataclasses.replace(mixed.stripes[0], stripe_id=10**6, path="gone.stripe")
    scan = dataclasses.replace(part.scans[0], stripes=(*mixed.stripes, gone))
    opened = len(os.listdir("/proc/self/fd"))
    with pytest.raises(errors.StalePlan, match="stripe 1000000"):
        fused.run(
            shape,
            scan,
            columns,
            mixed.folder,
            {},
            (),
            stripes.Counters(),
            lambda: False,
            cache.Cache(1 << 20),
        )
    assert len(os.listdir("/proc/self/fd")) == opened


@pytest.mark.parametrize("what", ["at, usage", "count(*), max(usage), sum(big)"])
def test_few_rows_are_kept(mixed: Mixed, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (item,) = mixed.world.plan(f"SELECT {what} FROM m WHERE host = 'host_3'").intermediates
    part, columns = item.fragments[0], _types(mixed.world, item)
    assert part.fused is not None
    shape = dataclasses.replace(part.fused, partial=False)
    scan = dataclasses.replace(part.scans[0], stripes=mixed.stripes)
    kept = cache.Cache(64 << 20)

    def answer(gone: dict[int, np.ndarray]) -> tuple[list[str], int, int]:
        counters = stripes.Counters()
        if shape.rows:
            args = (mixed.folder, gone, counters, lambda: False, kept)
            found = list(rows.of_stripes(shape, scan, columns, *args))
        else:
            args = (mixed.folder, gone, (), counters, lambda: False, kept)
            found = [fused.run(shape, scan, columns, *args)]
        return _rows(found), counters.total, counters.skipped

    first = answer({})
    with monkeypatch.context() as patch:
        patch.setattr(opening, "open_stripe", None)
        assert answer({}) == first
    assert answer(mixed.deleted)[0] != first[0]


def test_skips(mixed: Mixed) -> None:
    counters = _check(mixed, "SELECT count(*) FROM m WHERE at < '2024-03-30 22:00+00'")
    assert 0 < counters.skipped < counters.total


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT sum(load) FROM m",
        "SELECT max(host) FROM m",
        "SELECT host, sum(whole + 1) FROM m GROUP BY host",
        "SELECT count(*) FILTER (WHERE flag) FROM m",
        "SELECT count(*) FROM m WHERE usage > 5 OR host = 'host_1'",
        "SELECT count(*) FROM m WHERE usage > load",
        "SELECT date_trunc('month', at), count(*) FROM m GROUP BY 1",
        "SELECT time_bucket('1 month', at), count(*) FROM m GROUP BY 1",
        "SELECT usage, count(*) FROM m GROUP BY 1",
        "SELECT lower(host), count(*) FROM m GROUP BY 1",
    ],
)
def test_no_shape(mixed: Mixed, sql: str) -> None:
    plan = mixed.world.plan(sql)
    assert all(part.fused is None for item in plan.intermediates for part in item.fragments)


def test_zone(mixed: Mixed) -> None:
    mixed.world.settings = {"timezone": "Europe/Berlin"}
    plan = mixed.world.plan("SELECT date_trunc('day', at), count(*) FROM m GROUP BY 1")
    assert plan.intermediates[0].fragments[0].fused is None


@pytest.mark.parametrize("value", ["'NaN'", "'Infinity'", "1e200"])
def test_declined(mixed: Mixed, value: str) -> None:
    plan = mixed.world.plan("SELECT avg(usage) FROM m")
    (part,) = plan.intermediates[0].fragments
    batch = pa.RecordBatch.from_pydict({"usage": pa.array([1.0, float(value.strip("'"))])})
    assert part.fused is not None
    with pytest.raises(native.Unsupported):
        fused.run(
            part.fused,
            part.scans[0],
            part.columns,
            mixed.folder,
            {},
            [batch],
            stripes.Counters(),
            lambda: False,
        )

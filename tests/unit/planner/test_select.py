"""Each kind of query is answered the way it should be, and as PostgreSQL answers it."""

from __future__ import annotations

import dataclasses
import re

import pytest

from orochi import errors
from orochi.planner import existence, lasting, literals, parse, select
from orochi.planner import plan as plans
from tests.support import planner_world

_INT, _BIGINT, _TEXT = (23, "integer"), (20, "bigint"), (25, "text")
_TIME = (1184, "timestamp with time zone")

ROUTER = [
    "select id, n from b where id = 4 for update",
    "select key from c where key = 'k3'",
    "select key from c where (key = 'k3' and v > 0) or key = 'k3'",
    "select x.c1, x.c2 from b as x(c1, c2) where x.c1 = 4",
    "select b.id, r.name from public.b join public.r on r.k = b.k where b.id = 6",
    "select xmin is not null from only b where id = 4",
    "select (select count(*) from b b2 where b2.id = b.id) from b where id = 8",
    "select $$x$$ as d, U&'\\00e9' as u, E'a\\tb', id from b * where id = 2 -- the end",
    "with w as (select * from b where id = 4) select w.*, now() is null, current_user from w",
    "select count(*), sum(k), min(n) from b where id = 1 and id = 2",
    "select * from b where null",
    "select * from r where k = 3",
    "select r.k, r2.name from r join r r2 using (k)",
    "select id from b where id = 12::bigint and n is null union all select 1",
]
FRAGMENT = [
    "select id from a where id = 3 union select id from b where id = 3 order by 1",
    "select id, b.n from a right join b using (id) where id = 6",
]
PUSHDOWN = [
    "select b.id, q.* from b, lateral (select x.k, x.y from b x where x.id = b.id order by x.y limit 1) q",
    "select b.id, q.n from b left join lateral (select sum(x.y) as n from b x left join a on a.id = x.id where x.id = b.id) q on q.n > 3",
    "select * from va where id = 5",
    "select a1.id, count(*) from a a1, a a2 where a1.k = a2.k and a1.id = 3 and a2.id = 3 group by 1",
    "select id, ts from a where id = 3 order by ts desc limit 2",
    "select id, k + 1 as k from b where y > 0",
    "select * from a where ts > now() - interval '100 years' and ts < now() and id < 3",
    "select row_to_json(b) from b",
    "select b.id, b.n, count(*) from b join a on a.id = b.id group by b.id",
    "select id, rank() over (partition by id order by ts) from a",
    "select sum(y) over w, id from b window w as (partition by id)",
    "select id from a full join b using (id)",
    "select a.id from a left join b on a.id = b.id where b.id is null",
    "select a.id from a where exists (select from b where b.id = a.id and b.k = 3) and k in (select k from r)",
    "select id, (select max(b.k) from b where b.id = a.id), (select name from r where r.k = a.k) from a",
    "select * from (select id, max(ts) m from a group by id) q join b on b.id = q.id where b.k > 2",
    "select id, g from b, generate_series(1, b.id % 3) g",
    "select distinct k, n from b order by n, k limit 4",
    "select n || 'x' as n from b order by n desc nulls last, b.id limit 3 offset 2",
    "select id from b order by k nulls first, id fetch first 2 rows with ties",
    'select distinct n collate "C" as n from b order by n collate "C"',
    "select v.*, b.n from va v join b on b.id = v.id where v.dbl > 5",
    "select id from a where id = 3.5",
    "select id from b limit 0",
    "select id, random() < 2 from b",
    "select s, string_agg(id::text, ',' order by id, ts) from a group by s",
    "select distinct on (k) k, id from b order by k, id",
    "select id, sum(x) over (order by ts, id) from a",
    "select distinct on (n, k + 1) id, n as name from b order by n desc, k + 1, id desc limit 3 offset 1",
    "select distinct on (name) n as name, y from b order by name, y, id",
    "select n as name, array_agg(b.id order by b.id desc), count(*) from a join b using (id) group by name order by 1",
    (
        "select date_trunc('week', ts) w, percentile_cont(0.5) within group (order by x), grouping(k) from a"
        " group by rollup (date_trunc('week', ts), k) having count(*) > 1 order by 1, 2, k"
    ),
    "select k, mode() within group (order by y), row_number() over (order by count(*), k) from b group by 1",
    "select row_number() over () > 0 from b",
    "select id, first_value(n) over w from b window w as (partition by k order by y, id) order by 2 desc nulls last, id",
    "select k, json_object_agg(id, n order by id) from b where id in (select id from a where a.id = b.id) group by k",
]
AGGREGATE = [
    "select count(*), count(k), sum(k), avg(k), sum(y), avg(y), min(n), max(d) from b",
    "select sum(v), avg(v), sum(r), avg(r), every(v > 0), bit_and(v), bit_or(v), bit_xor(v), any_value(1) from c",
    "select sum(x), avg(x), sum(f), avg(f), max(ts), bool_and(b), count(*) filter (where b) from a",
    "select sum(r.w), avg(r.w) from a join r on r.k = a.k",
    "select count(*), sum(y), avg(y), min(n) from b where y > 100",
    "select k, n, count(*) from b group by k, n having count(*) > 1 order by 3 desc, k, n limit 3",
    "select id % 2 as odd, count(*) from b group by odd order by odd",
    "select grouping(k, n), k, n, count(*), avg(y) from b group by cube (k, n)",
    "select k, rank() over (order by sum(y)), sum(sum(y)) over (order by k nulls first) from b group by k",
    "select k + 1, k, sum(y) / count(*), sum(y)::float8 / count(*) from b group by k, k + 1",
    "select date_trunc('week', ts) w, count(*), count(distinct id) from a group by 1 order by 1",
    "select avg(n), max(m) from (select id, count(*) n, max(x) m from a group by id) q",
    'select n, count(*) from b group by n order by n collate "C" desc nulls first limit 2',
    "select count(*) from a a1 join a a2 on a1.id = a2.id and a1.ts < a2.ts join b on b.id = a2.id",
    "select now() is not null, current_user = session_user, count(*) from a where ts < current_timestamp",
    "select label, count(*) from va group by label",
    "select sum(y) from b having count(*) < 0",
    "select count(distinct k), count(distinct n) from b",
    "select x, k, sum(distinct id), count(distinct id) from a group by cube (x, k)",
    "select count(distinct id), sum(x) from a",
    "select k, stddev(y), var_pop(y), corr(y, id), count(distinct n), max(n) from b group by rollup (k)",
    "select distinct on (k) k, count(*), n from b group by k, n order by k, 2 desc, n",
]
STAGED_BRANCHES = [
    "select array_agg(id order by id) from b union select array[1, 2] union all select array_agg(k) from l join r on true where false",
    "select a.id from a join b on a.k = b.y union select id from a where k = 1",
    "select ts::date from a union select d from b where id in (select id from a)",
]
SET_OPERATION = [
    "select id, n from b where k > 2 union select id, s from a order by 1, 2",
    "select id from a union all select id from b order by id limit 5 offset 2",
    "select k from a intersect select k from b except select 3",
    "(select k, count(*) from b group by k order by 2 desc, 1 limit 3) union all select 100, 5 union all select k, y from r join b using (k)",
    "select 'x', null, id from a where ts > now() - interval '100 years' union select n, y, k from b where y > 1",
    "select id, 'all' from b union all (select k, n from b except all select id, note from l) order by 1, 2",
    "select avg(y), 'b' as which from b union all select stddev(x), 'a' from a union all values (1.5, 'v')",
    "select id from b where id = 4 union all select label_id from (select id as label_id from va) q where label_id < 9",
    "select key from c except (select key from c where v > 3 intersect select 'k3')",
]
PULL = [
    "select a from a where id = 3",
    "select q, count(q), row_to_json(q) from a left join b as q on a.k = q.y group by q",
    "select key, v, r, max(l.note) from c left join l on l.id = c.id group by c.key order by 2, 1",
    "select c.key, c.v, max(l.note) from c left join l on l.id = c.id group by 1",
    "select o.id, o.note, count(l.*) from o left join l on l.id = o.k group by o.id",
    "select id from b where random() >= 0 and id > 30",
    """with recursive w(i) as (select min(id) from b union all select i + 1 from w where i < 5)
        select w.i, (select count(*) from a where a.id = w.i) from w""",
    "select * from a natural join b",
    "select q.* from (a join b on a.id = b.id) as q(a1, a2, a3) where a1 = 4",
    "select public.b.id, c.key from public.b left join c on c.id = b.id and c.v > 3 where b.y < 2",
    "select count(*) from a where d < 'tomorrow'",
    "select t.id from b t tablesample bernoulli (100)",
    "select count(*) from pg_class c join b on b.id = c.relnatts where c.relname = 'pg_class'",
]
#: Statements of several stages, with the strategy of the last.
STAGED = {
    "select k, count(*) from b group by k having count(*) > (select avg(y) from a join b on a.k = b.y) order by 2, 1": "two-phase aggregate",
    "select k, (select max(k) from r), sum(y) from b group by 1 having k in (select k from a)": "two-phase aggregate",
    "select r.k, q.n from r, lateral (select count(*) as n from b where b.k = r.k) q": "pushdown",
    "select r.k, count(a.id) from r left join a on a.k = r.k group by r.k": "pushdown",
    "select id from a where (id, k) in (select id, k from b)": "pushdown",
    "select label, n from vv": "recursive",
    "select array(select k from b order by id)": "recursive",
    "select key from c where id not in (select id from a where x > 5) or id is null": "pushdown",
    "with w as materialized (select * from b where k > 2) select (select count(*) from w), id from w where y > 0": "recursive",
    "with w(i, j) as (select id, k from b) select w.i, c.key from w left join c on c.id = i": "pushdown",
    "with w as (select id from b), v as (select id from w where id > 8) select count(*) from v, w": "recursive",
    "select a.id, c.key from a join c on c.id = a.id where c.v < 6": "pushdown",
    "select a.id, c.key, c.v from a left join c on c.id = a.id and c.v > 3": "pushdown",
    "select a.id, c.key, c.v from c left join a on c.id = a.id and a.x > 3": "pushdown",
    "select c.key, a.id from c full join a using (id)": "pushdown",
    "select key from c where exists (select from a where a.id = c.id and x > 2)": "pushdown",
    "select key from c where not exists (select from a where a.id = c.id and x > 2)": "pushdown",
    "select id, k from b where y > (select avg(v) from c where c.id = b.id)": "pushdown",
    "select id, (select count(*) from c where c.id = b.id and v > 2) from b": "pushdown",
    "select id, (select coalesce(sum(v), 0) from c where c.id = b.id and v > 2) from b": "pushdown",
    "select id, (select sum(v) / 2 from c where b.k = c.v and c.id = b.id) from b": "pushdown",
    "select id, (select sum(v) from c where c.id = b.y) from b where n = 'x' and k = 2": "pushdown",
    "select id, y from b where n = 'x' and k = 2 and y >= (select count(*) from c where c.id = b.y and v > 2)": "pushdown",
    "select a.id, x.id from a left join b x on x.k = a.k and x.n = 'x' and x.k = 2 and x.y > (select avg(v) from c where c.id = x.y)": "pushdown",
    "select c.key, a.id from c left join a on c.id = a.id and a.s like '%z%' and a.b where c.v > 1": "pushdown",
    "select c.key, a.id, a.f from c, a where a.id = c.id and a.s is not null and (a.x > 2 or a.b) and a.f > 1": "pushdown",
    "select c.key, a.id from c right join a on c.id = a.id and c.v > 2 where a.s > 's' and c.r is null": "pushdown",
    "select s, count(*) from (select k, count(*) as s from c join b on b.id = c.id group by k) q group by s": "recursive",
    "select c.v, sum(a.x) from c, a, b where c.id = a.id and b.k = c.v group by 1": "two-phase aggregate",
    "select x1.id, x2.key from c x1 join c x2 on x1.id = x2.v": "pushdown",
    "select c.id from c join b on b.k = c.v union select id from a order by 1": "recursive",
    "select c.id from c join b on b.k = c.v except all select c.v from c, a where a.id = c.id": "recursive",
    "select key from c where v > all (select y from b where y is not null and y < 2)": "pushdown",
    "select key, v in (select y from b) from c": "pushdown",
    "select r.name, q.n from r join (select k, count(*) n from a group by k) q on q.k = r.k": "router",
}


@pytest.mark.parametrize("sql", STAGED)
@pytest.mark.parametrize("forced", ["", "broadcast", "repartition"])
def test_stages(world: planner_world.World, sql: str, forced: str) -> None:
    world.settings["orochi.force_strategy"] = forced
    answer = world.run(sql)
    assert answer.plan.stages
    assert answer.strategy == STAGED[sql], answer.plan
    expected = world.plain(sql)
    assert (answer.names, answer.types) == (expected.names, expected.types)
    assert answer.sorted_rows() == expected.sorted_rows()


def test_small_tables_are_joined_in_few_places(
    world: planner_world.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = {
        oid: dataclasses.replace(
            table, shards=tuple(dataclasses.replace(shard, row_count=10) for shard in table.shards)
        )
        for oid, table in world.tables.items()
    }
    monkeypatch.setattr(world, "tables", counted)
    sql = "select c.v, o.k, b.n from {} where b.id = c.id and o.k = c.v and c.key = 'k3'"
    for order in ("b, c, o", "o, c, b", "c, b, o"):
        answer = world.run(sql.format(order))
        assert answer.sorted_rows() == world.plain(sql.format(order)).sorted_rows()
        assert [len(item.fragments) for item in answer.plan.intermediates] == [1]


def test_only_keys_that_are_asked_for_are_grouped(world: planner_world.World) -> None:
    found = world.plan("select id, (select sum(v) from c where c.id = b.y) from b where n = 'x' and k = 2")
    assert any("IN (SELECT" in stage.sql and "GROUP BY" in stage.sql for stage in found.stages)
    found = world.plan("select id, (select sum(v) from c where c.id = b.y) from b where k > 2")
    assert not any("IN (SELECT" in stage.sql for stage in found.stages)


def test_what_each_case_says_of_a_table_filters_it_where_it_is(world: planner_world.World) -> None:
    sql = "select b.id, c.v from b, c where (b.k = c.v and {}) or (b.k = c.v and {})"
    found = world.plan(sql.format("b.k > 2 and c.v > 2", "b.k < 1 and c.v < 1"))
    assert [re.search("(k|v) > 2\\)? OR \\(?(k|v) < 1", stage.sql) is not None for stage in found.stages] == [
        True
    ]
    found = world.plan(sql.format("b.k > 2 and c.v > 2", "b.k < c.v"))
    assert not any("> 2" in stage.sql for stage in found.stages)


@pytest.mark.parametrize(
    ("sql", "strategy"),
    [
        (sql, strategy)
        for strategy, queries in (
            ("Router", ROUTER),
            ("router", FRAGMENT),
            ("pushdown", PUSHDOWN),
            ("two-phase aggregate", AGGREGATE),
            ("set operation", SET_OPERATION),
            ("recursive", STAGED_BRANCHES),
            ("pull", PULL),
        )
        for sql in queries
    ],
)
def test_answer(world: planner_world.World, sql: str, strategy: str) -> None:
    expected = world.plain(sql.replace("public.", "plain."))
    answer = world.run(sql)
    assert answer.strategy == strategy, answer.plan
    assert (answer.names, answer.sorted_rows()) == (expected.names, expected.sorted_rows())
    assert [oid for oid in answer.types if oid < 16384] == [oid for oid in expected.types if oid < 16384]


@pytest.mark.parametrize(
    "sql",
    [
        sql
        for sql in ROUTER + FRAGMENT + PUSHDOWN + AGGREGATE + SET_OPERATION + STAGED_BRANCHES
        if "update" not in sql and "xmin" not in sql
    ],
)
def test_pull_answers_everything(world: planner_world.World, sql: str) -> None:
    world.settings["orochi.force_strategy"] = "pull"
    expected = world.plain(sql.replace("public.", "plain."))
    answer = world.run(sql)
    assert answer.strategy == "pull"
    assert (answer.names, answer.types) == (expected.names, expected.types)
    assert answer.sorted_rows() == expected.sorted_rows()


@pytest.mark.parametrize(
    ("sql", "values"),
    [
        ("select id, x from a where id = $1 and s = $2", [(*_BIGINT, "7"), (*_TEXT, "x")]),
        ("select id from a where id = any ($1)", [(1007, "integer[]", "{1,2,NULL}")]),
        (
            "select id from a where ts >= $1 order by id, ts limit $2",
            [(*_TIME, "2020-01-20 00:00+00"), (*_BIGINT, "3")],
        ),
        ("select count(*) from a where id = $1", [(*_INT, None)]),
        ("select k + $1, count(*) from a group by k + $1", [(*_INT, "2")]),
        ("select $1 || n, $2 from b", [(*_TEXT, "it's \\ 'x'"), (1042, "character", "abc")]),
    ],
)
def test_parameters(world: planner_world.World, sql: str, values: list[tuple[int, str, str | None]]) -> None:
    bound = tuple(literals.Literal(*value) for value in values)
    plain = sql
    for number, value in enumerate(bound, start=1):
        plain = plain.replace(f"${number}", value.sql)
    expected = world.plain(plain)
    answer = world.run(sql, parameters=bound)
    assert (answer.types, answer.sorted_rows()) == (expected.types, expected.sorted_rows())


@pytest.mark.parametrize(
    ("zone", "sql"),
    [
        (
            "America/New_York",
            "select count(*), min(ts) from a where ts >= '2020-01-05' and ts < '2020-01-12 10:00'",
        ),
        ("Asia/Kolkata", "select date_trunc('day', ts), count(*) from a group by 1"),
        (
            "Europe/Berlin",
            "select count(*) from a where ts between date '2020-01-05' and timestamp '2020-01-12 12:00'",
        ),
        ("", "select count(*) from a where ts > '2020-01-05' and ts <= 'Jan 20 2020 15:00'"),
    ],
)
def test_time_zones(world: planner_world.World, zone: str, sql: str) -> None:
    world.settings = {"TimeZone": zone} if zone else {}
    world.connection.execute(f"SET timezone TO '{zone or 'Pacific/Auckland'}'")
    assert world.run(sql).sorted_rows() == world.plain(sql).sorted_rows()


def test_locks_need_one_shard(world: planner_world.World) -> None:
    with pytest.raises(errors.FeatureNotSupported) as caught:
        world.plan("select * from b for update")
    assert caught.value.hint


def test_writes_inside_with_are_refused(world: planner_world.World) -> None:
    with pytest.raises(errors.FeatureNotSupported):
        world.plan("with d as (delete from b where id = 2 returning id) select * from d")


@pytest.mark.parametrize(
    ("sql", "oids", "key"),
    [
        ("select * from b where id = $1", (23,), plans.ParamKey(1, 23)),
        ("select * from b where $2 = id and n = $1", (25, 20), plans.ParamKey(2, 20)),
        (
            "select * from a join b using (id) join r on r.k = a.k where b.id = $1",
            (21,),
            plans.ParamKey(1, 21),
        ),
        ("select * from c where key = $1", (1043,), plans.ParamKey(1, 1043)),
        ("select * from r where k = $1", (20,), plans.AnyKey()),
        ("select * from b where id = $1", (1700,), None),
        ("select * from b where k = $1", (20,), None),
        ("select * from b where id = $1 or k = 3", (23,), None),
        ("select * from a where id = $1 and ts < now()", (23,), None),
        ("select * from a, b where a.id = $1 and b.id = $2", (23, 23), None),
        ("select * from b where id = $1 and k = random()", (23,), None),
        ("select * from b, l where b.id = $1", (23,), None),
    ],
)
def test_template(world: planner_world.World, sql: str, oids: tuple[int, ...], key: plans.Key | None) -> None:
    found = select.template(parse.parse_one(sql), oids, world.context())
    assert (found.key if found else None) == key
    if found is not None:
        assert "$1" in found.sql
        distributed = [world.tables[oid].kind == "distributed" for oid in found.tables]
        assert distributed == sorted(distributed, reverse=True)


@pytest.mark.parametrize(
    "sql",
    [
        "select * from b where id = $1 for no key update",
        "select * from (select k from b where id = $1 for share) q",
    ],
)
def test_a_router_plan_tells_of_locks(world: planner_world.World, sql: str) -> None:
    found = select.template(parse.parse_one(sql), (23,), world.context())
    assert found is not None
    assert found.locks
    planned = world.plan(sql.replace("$1", "4"))
    assert isinstance(planned, plans.Router)
    assert planned.locks
    unlocked = world.plan("select * from b where id = 4")
    assert isinstance(unlocked, plans.Router)
    assert not unlocked.locks


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 1 WHERE EXISTS (SELECT * FROM a)", "SELECT 1 WHERE EXISTS (SELECT 1 FROM a)"),
        (
            "SELECT 1 FROM b WHERE NOT EXISTS (SELECT x, y FROM a WHERE EXISTS (SELECT a.* FROM c))",
            "SELECT 1 FROM b WHERE NOT EXISTS (SELECT 1 FROM a WHERE EXISTS (SELECT 1 FROM c))",
        ),
        *(
            (kept, kept)
            for kept in (
                "SELECT 1 WHERE EXISTS (SELECT 1 / 0 FROM a)",
                "SELECT 1 WHERE EXISTS (SELECT a.f FROM a)",
                "SELECT 1 WHERE EXISTS (SELECT x FROM a LIMIT 0)",
                "SELECT 1 WHERE EXISTS (SELECT x FROM a GROUP BY x HAVING x > 1)",
                "SELECT 1 WHERE EXISTS (SELECT * FROM a UNION SELECT * FROM b)",
                "SELECT 1 WHERE EXISTS (SELECT DISTINCT x FROM a)",
                "SELECT * FROM (SELECT * FROM a) AS b",
            )
        ),
    ],
)
def test_exists_reads_no_columns(sql: str, expected: str) -> None:
    found = existence.bare(parse.parse_one(sql))
    assert parse.deparse(found.tree) == parse.deparse(parse.parse_one(expected).tree)


def test_plans_last_of_what_is_built_in(world: planner_world.World) -> None:
    def lasts(sql: str) -> bool:
        return lasting.is_lasting(parse.parse_one(sql), world.context())

    assert lasts("SELECT count(*), sum(k::numeric) FROM b WHERE id = 3")
    assert lasts("WITH w AS (SELECT * FROM a) SELECT round(x, 1) FROM w")
    assert lasts("SELECT * FROM va")  # what the view means is the snapshot's
    for sql in (
        "SELECT mine(k) FROM b",
        "SELECT k::mytype FROM b",
        "SELECT * FROM b, l",
        "SELECT k OPERATOR(mine.+) 1 FROM b",
        'SELECT id FROM b ORDER BY n COLLATE "C"',
    ):
        assert not lasts(sql), sql

"""UPDATE and DELETE plans, run shard by shard, do what PostgreSQL does to the plain table."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from orochi import errors
from orochi.planner import classify, context, literals, modify, parse
from orochi.planner import plan as plans
from tests.support import planner_world


def _plan(world: planner_world.World, sql: str, **changes: Any) -> plans.Modify:
    statement, ctx = parse.parse_one(sql), world.context(**changes)
    for _ in range(5):
        try:
            return modify.plan(statement, ctx)
        except literals.NeedsFolding as needed:
            ctx = dataclasses.replace(ctx, folded={**ctx.folded, **world.fold(needed.expressions)})
        except modify.NeedsSubqueries as needed:
            results = {query: _subquery(world, query) for query in needed.queries}
            ctx = dataclasses.replace(ctx, subqueries={**ctx.subqueries, **results})
    raise AssertionError("planning did not settle")


def _subquery(world: planner_world.World, sql: str) -> context.SubqueryResult:
    reads = classify.tables_in(parse.parse_one(sql).tree, world.snapshot, ("public",))
    answer = world.run(sql) if reads else world.ask(sql)
    types = [
        world.connection.execute("SELECT format_type(%s, -1)", (oid,)).fetchone()[0]  # type: ignore[index]
        for oid in answer.types
    ]
    rows = tuple(tuple(None if value is None else str(value) for value in row) for row in answer.rows)
    return context.SubqueryResult(tuple(answer.names), tuple(types), rows)


@pytest.mark.parametrize(
    ("sql", "shards"),
    [
        ("update b set y = y + 1 where id = 4 returning id, b.y, n", 1),
        ("delete from b where b.id in (2, 4, 99)", 3),
        ("update b set k = 100 where d > now() - interval '100 years'", 4),
        ("update b as q set k = r.k + 1, n = r.name from r where r.k = q.k and q.id < 20 returning q.*", 4),
        ("update b set n = (select max(q.k)::text from b q where q.id = b.id and q.y > b.y - 1)", 4),
        ("delete from only b using c where c.id = b.id and c.v = 2 and b.id = 6", 1),
        ("delete from b where k in (select k from o where k < 4)", 4),
        ("delete from b where k not in (select k from o where k < 4)", 4),
        ("delete from b where id = (select max(k) from o)", 1),
        ("update b set y = -1 where exists (select 1 from l where id = 3) and id > 30", 4),
        ("update b set (y, n) = (select 7, 'seven') where id = 30", 1),
        ("update b set (y, n) = (select k, id from o where k = 5) where id = 30", 1),
        ("update b set y = o.k from o where o.k = b.id", 4),
        ("delete from b using (select k * 2 as twice from o) z where z.twice = b.id", 4),
        ("update b set y = 1 from l where l.id = b.k returning b.id, l.id", 4),
        ("delete from b where k = all (select id from l where id = 2)", 4),
        ("update b set n = array_length(array(select k from o order by k), 1)::text where id = 32", 1),
        ("update b set n = 'é''\\' where (k, y) = (select 3, 2)", 4),
        ("update r set name = upper(name) where k = 3 returning *", 1),
        ("update r set name = b.n from b where b.id = r.k", 1),
        ("delete from b where d between '2020-01-02' and '2020-01-05'", 4),
        ("delete from b where false", 0),
        ("delete from b", 4),
    ],
)
def test_same_as_postgresql(world: planner_world.World, sql: str, shards: int) -> None:
    plan = _plan(world, sql)
    table, connection = world.tables[plan.target], world.connection
    indexes = plan.shard_indexes
    assert len(indexes) == shards
    if plan.key is not None:
        assert isinstance(plan.key, plans.HashKey)
        assert [table.shard_for_hash(plan.key.value).index] == list(indexes)
    returned, count = [], 0
    with connection.transaction(force_rollback=True):
        for index in indexes:
            homes = [world.tables[oid] for oid in plan.tables]
            group = tuple(home.shards[index if home.kind == "distributed" else 0] for home in homes)
            cursor = connection.execute(plans.fill(plan.sql, group).encode())
            count += cursor.rowcount
            returned += cursor.fetchall() if plan.returning else []
        connection.execute("SET LOCAL search_path TO plain")
        cursor = connection.execute(sql.encode())
        assert count == cursor.rowcount
        assert sorted(map(repr, returned)) == sorted(map(repr, cursor.fetchall() if plan.returning else []))
        union = " UNION ALL ".join(f"SELECT * FROM {shard.schema}.{table.name}" for shard in table.shards)
        left = connection.execute(f"SELECT * FROM ({union}) u EXCEPT ALL SELECT * FROM plain.{table.name}")
        assert left.fetchall() == []


@pytest.mark.parametrize(
    "sql",
    [
        "update b set id = 5",
        "update a set ts = now() where id = 3",
        "update b set (y, id) = (1, 2)",
        "update b set y = 1 where k in (select k from c where c.v = b.y)",
        "with x as (select 1) delete from b",
        "update b set k = nextval('s') where id = 2",
        "update va set label = 'x'",
        "update r set name = random()::text",
        "delete from b where current of cursor",
    ],
)
def test_refused_with_a_hint(world: planner_world.World, sql: str) -> None:
    with pytest.raises(errors.FeatureNotSupported) as caught:
        _plan(world, sql)
    assert caught.value.hint


def test_predicates_for_recall(world: planner_world.World) -> None:
    plan = _plan(
        world, "delete from a where id = 3 and ts >= '2020-01-02 00:00' and k is not null and s in ('x', 'y')"
    )
    assert {(item.column, item.op, item.values) for item in plan.predicates} == {
        ("id", "=", (3,)),
        ("ts", ">=", (631_238_400_000_000,)),
        ("k", "notnull", ()),
        ("s", "in", ("x", "y")),
    }


@pytest.mark.parametrize(
    ("sql", "oids", "key"),
    [
        ("update b set y = $2 where id = $1", (23, 23), plans.ParamKey(1, 23)),
        ("delete from b where id = $1 and n = $2 returning *", (20, 25), plans.ParamKey(1, 20)),
        ("delete from b where k = $1", (20,), None),
        ("update b set y = $1 where id = $2 and d < now()", (23, 23), None),
        ("update r set name = $1 where k = $2", (25, 20), None),
        ("update b set y = (select max(k) from o) where id = $1", (23,), None),
    ],
)
def test_template(world: planner_world.World, sql: str, oids: tuple[int, ...], key: plans.Key | None) -> None:
    found = modify.template(parse.parse_one(sql), oids, world.context())
    assert (found.key if found else None) == key


def test_a_subquery_of_several_rows_is_an_error(world: planner_world.World) -> None:
    with pytest.raises(errors.OrochiError) as caught:
        _plan(world, "update b set y = (select k from o) where id = 2")
    assert caught.value.sqlstate == "21000"

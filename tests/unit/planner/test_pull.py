"""Whole statements rewritten over pulled rows: CREATE TABLE AS, INSERT into another table, COPY, cursors."""

from __future__ import annotations

import dataclasses

import pytest

from orochi.planner import literals, parse, pull
from orochi.planner import plan as plans
from tests.support import planner_snapshots, planner_world


def _rewritten(world: planner_world.World, sql: str, target: str | None = None) -> plans.Distributed:
    statement, ctx = parse.parse_one(sql), world.context()
    try:
        return pull.rewrite_any(statement, ctx, target=target)
    except literals.NeedsFolding as needed:
        ctx = dataclasses.replace(ctx, folded=world.fold(needed.expressions))
        return pull.rewrite_any(statement, ctx, target=target)


@pytest.mark.parametrize(
    ("sql", "read"),
    [
        ("create table made as select id, now() < '2000-01-01' as late, k from b where y > 0", "made"),
        ("create temp table made (one) as select q.id from (select * from a where id = 3) q", "pg_temp.made"),
        ("select b.id, r.name into made from b join r using (k)", "made"),
        (
            "insert into l (id, note) select id, s from a where ts > now() - interval '90 years' returning id",
            "l",
        ),
        ("update l set note = b.n from b where b.id = l.id", "l"),
        (
            "delete from l using public.b where public.b.id = l.id and exists (select from va where va.id = l.id)",
            "l",
        ),
        ("with x as (insert into l select id, n from b returning id) select count(*) from x", "l"),
    ],
)
def test_same_as_postgresql(world: planner_world.World, sql: str, read: str) -> None:
    plan = _rewritten(world, sql)
    with world.connection.transaction(force_rollback=True):
        world.execute(plan)
        ours = world.ask(f"SELECT * FROM {read}").sorted_rows()
    with world.connection.transaction(force_rollback=True):
        world.connection.execute("SET LOCAL search_path TO plain")
        world.connection.execute(sql.replace("public.", "plain.").encode())
        theirs = world.ask(f"SELECT * FROM {read}").sorted_rows()
    assert ours == theirs


def test_the_target_of_an_insert_may_be_another_table(world: planner_world.World) -> None:
    plan = _rewritten(
        world, "insert into public.b (id, k) select id + 1000, k from b where id < 9", "pg_temp.staged"
    )
    with world.connection.transaction(force_rollback=True):
        world.connection.execute("CREATE TEMP TABLE staged (LIKE b)")
        world.execute(plan)
        assert (
            world.ask("SELECT id FROM staged").sorted_rows()
            == world.plain("SELECT id + 1000 FROM b WHERE id < 9").sorted_rows()
        )


def test_rows_are_filtered_and_projected_where_they_are() -> None:
    statement = parse.parse_one(
        "SELECT e.level FROM events e LEFT JOIN orders o ON o.customer = e.level AND o.total > 5"
        " WHERE e.value > 1 AND o.note IS NULL AND random() < 2 AND lower(e.device) = 'x'"
    )
    plan = pull.rewrite_any(statement, planner_snapshots.shop_context())
    assert [item.fragments[0].sql for item in plan.intermediates] == [
        'SELECT "device", "value", "level" FROM orochi_scan_0 AS "events" WHERE (value > 1) AND (lower(device) = \'x\')',
        'SELECT "customer", "total", "note" FROM orochi_scan_0 AS "orders" WHERE (total > 5)',
    ]


def test_whole_table() -> None:
    snapshot = planner_snapshots.shop()
    plan = pull.whole_table(snapshot.tables[3], snapshot)  # type: ignore[index]
    (item,) = plan.intermediates
    assert plan.final_sql is None
    assert [column.name for column in item.columns] == ["device", "ts", "value", "level"]
    assert len(item.fragments) == 2
    assert {len(scan.stripes) for part in item.fragments for scan in part.scans} == {1}

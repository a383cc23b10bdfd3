"""Which conditions may be computed before policies, barriers against the others, and bodies that look past shells."""

from __future__ import annotations

import pytest

from orochi.planner import barrier, bodies, parse, placed, quiet
from tests.support import planner_snapshots

SHOP = planner_snapshots.shop()


def _is_quiet(condition: str, *policies: str) -> bool:
    statement = parse.parse_one(f"SELECT 1 FROM orders WHERE {condition}")
    table = SHOP.table("public", "orders")
    assert table is not None
    return quiet.is_quiet(statement.tree, table, policies)


@pytest.mark.parametrize(
    "condition",
    [
        "customer = 3",
        "((customer = ANY ('{1,3}'::integer[]))) AND ((note ~~ 'w%'::text))",
        "customer IN (1, 2) OR note IS NULL AND NOT id < 7",
        "((note)::text = $1::text)",
        "id = ((SELECT null::bigint))",
        "customer % 2 = 0",
        "total > 1.5",
    ],
)
def test_what_cannot_fail_is_quiet(condition: str) -> None:
    assert _is_quiet(condition)


@pytest.mark.parametrize(
    "condition",
    [
        "1000 / customer > 3",
        "note::integer = 3",
        "lower(note) = 'x'",
        "customer % id = 0",
        "customer OPERATOR(mine.=) 3",
        "total = 1.5::float8",
        "note ~~ 'a\\'",
        "note ~ '('",
        "customer = (SELECT max(customer) FROM orders)",
        "ctid = '(0,1)'",
    ],
)
def test_what_may_fail_is_not(condition: str) -> None:
    assert not _is_quiet(condition)


def test_a_policy_may_fail_where_nothing_else_does() -> None:
    policy = "((lower(note) = 'x'::text) OR ((10 / customer) > 2))"
    assert _is_quiet("customer = 3 AND (lower(note) = 'x' OR (10 / customer) > 2)", policy)
    assert not _is_quiet("lower(note) = 'y' AND (lower(note) = 'x' OR (10 / customer) > 2)", policy)
    assert not _is_quiet("lower(note) = 'x'", "customer = 3")


def test_barriers() -> None:
    statement = parse.parse_one(
        "WITH w AS (SELECT * FROM ONLY orders) SELECT o.id FROM orders AS o, big_orders, w, other WHERE o.id > 1"
    )
    assert barrier.only(statement.tree)
    assert barrier.behind(statement, planner_snapshots.shop_context()) == (
        'WITH w AS (SELECT * FROM (SELECT * FROM "public"."orders" OFFSET 0) AS "orders") SELECT o.id FROM'
        ' (SELECT * FROM "public"."orders" OFFSET 0) AS o, (SELECT * FROM "public"."big_orders" OFFSET 0)'
        ' AS "big_orders", w, other WHERE o.id > 1'
    )
    insert = parse.parse_one("INSERT INTO orders SELECT * FROM orders")
    assert barrier.behind(insert, planner_snapshots.shop_context()) == (
        'INSERT INTO orders SELECT * FROM (SELECT * FROM "public"."orders" OFFSET 0) AS "orders"'
    )


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("BEGIN PERFORM FROM ONLY orders; END", "orders"),
        ('BEGIN PERFORM FROM ONLY ("public"."orders"); END', "orders"),
        ("BEGIN COPY Orders (id) TO PROGRAM 'cat'; END", "orders"),
        ("BEGIN PERFORM FROM orders FETCH FIRST 3 ROWS ONLY; END", None),
        ("BEGIN PERFORM FROM ONLY local; COPY orders FROM PROGRAM 'cat'; END", None),
    ],
)
def test_bodies_that_look_past_the_shell(body: str, found: str | None) -> None:
    assert bodies.reads_past_children(parse.parse_one(f"DO $x$ {body} $x$"), SHOP) == found


def test_places() -> None:
    declare = parse.parse_one(
        "DECLARE c1 CURSOR FOR SELECT id, note, ctid FROM public.orders WHERE ((customer = 3)) FOR UPDATE"
    )
    assert placed.asks_for_places(declare)
    assert placed.locks(declare)
    plan = placed.plan(declare, planner_snapshots.shop_context())
    assert (plan.cursor, plan.copy.condition) == ("c1", "(customer = 3)")
    assert plan.sql("pg_temp.copy", "place") == (
        "DECLARE c1 CURSOR FOR SELECT id, note, (place)::pg_catalog.tid AS ctid FROM"
        ' pg_temp.copy AS "orders" WHERE ((customer = 3))'
    )
    update = parse.parse_one("UPDATE public.orders SET note = $2 WHERE ctid = $1 RETURNING note")
    assert placed.is_by_place(update)
    assert placed.assigned(update) == ("note",)
    assert placed.on_copy(update, "pg_temp.copy", 7, "2") == (
        "UPDATE pg_temp.copy AS \"orders\" SET note = $2 WHERE orochi_row = 7 AND cmin = '2'::pg_catalog.cid"
        " AND $1::pg_catalog.tid = $1::pg_catalog.tid RETURNING note"
    )
    assert not placed.is_by_place(parse.parse_one("DELETE FROM orders WHERE ctid = '(0,1)'"))

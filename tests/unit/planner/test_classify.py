"""Which statements concern Orochi, by their words and by their trees."""

from __future__ import annotations

import dataclasses

import pytest

from orochi.catalog import snapshot as snapshots
from orochi.planner import classify, known, parse
from tests.support import planner_snapshots

_LONG = "l" * 63
_SHOP = planner_snapshots.snapshot(
    *planner_snapshots.shop().tables.values(),
    planner_snapshots.table(8, "Odd Näme", planner_snapshots.columns(id="int4"), key="id"),
    planner_snapshots.table(9, _LONG, planner_snapshots.columns(id="int4"), key="id"),
    planner_snapshots.table(10, "orders", planner_snapshots.columns(id="int4"), key="id", schema="other"),
    views=(
        *planner_snapshots.shop().views.values(),
        snapshots.View("public", "bigger", " SELECT id FROM public.big_orders;", ("id",)),
    ),
)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT abalance FROM pgbench_accounts WHERE aid = 7", False),
        ("SELECT 1", False),
        ("SELECT preorders, orders_x FROM reorders", False),
        ("select * from orders", True),
        ("SELECT * FROM ORDERS", True),
        ('select * from "public"."orders"', True),
        ("select*from(orders)", True),
        ("select 1 from x; delete from public.orders", True),
        ("copy items from stdin", True),
        ("select * from big_orders", True),
        ('select * from "Odd Näme"', True),
        ("select create_distributed_table('x', 'y')", True),
        ("select orochi.create_hypertable('x', 'y')", True),
        ('select * from U&"\\006frders"', True),
        (f"select * from {_LONG}zzz", True),
        ("select 'orders'", True),
    ],
)
def test_touches(sql: str, expected: bool) -> None:
    functions = frozenset({"create_distributed_table", "create_hypertable"})
    assert classify.Classifier(_SHOP, functions).touches(sql) is expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select 1", set()),
        ("select 'orders' from local", set()),
        ("select * from orders, items i", {1, 2}),
        ("select * from other.orders", {10}),
        ("select * from pg_temp.orders", set()),
        ("with orders as (select 1) select * from orders", set()),
        ("with orders as (select * from orders) select * from orders", {1}),
        ("with recursive orders as (select 1 union select * from orders) select * from orders", set()),
        ("with x as (select 1), y as (select * from items) select * from x", {2}),
        ("select * from (with orders as (select 1) select 1) q, orders", {1}),
        ("select (select max(id) from items) from local where exists (table orders)", {1, 2}),
        ("select * from bigger", {1}),
        ("select * from local for update of orders", set()),
        ("insert into orders select * from items", {1, 2}),
        ("insert into local select 1 from orders", {1}),
        ("update local set a = items.id from items", {2}),
        ("delete from orders using local", {1}),
        ("truncate orders, local", {1}),
        ("copy orders (id) from stdin", {1}),
        ("copy (select * from items) to stdout", {2}),
        ("explain analyze select * from orders", {1}),
        ("prepare p as select * from orders where id = $1", {1}),
        ("declare c cursor for select * from orders", {1}),
        ("create table x as select * from orders", {1}),
        ("select * into x from orders", {1}),
        ("alter table orders add column x int", {1}),
        ("alter table public.orders rename to foo", {1}),
        ("create index on items (sku)", {2}),
        ("drop table if exists local, orders", {1}),
        ("drop table other.orders", {10}),
        ("drop trigger t on orders", {1}),
        ("comment on column orders.id is 'x'", {1}),
        ("create table x (id int references orders)", {1}),
        ("create table x (like orders)", set()),
        ("create view v as select * from orders", set()),
        ("drop view big_orders", set()),
        ("select * from generate_series(1, (select count(*) from orders))", {1}),
        ('select * from "ORDERS"', set()),
    ],
)
def test_tables_in(sql: str, expected: set[int]) -> None:
    found = classify.tables_in(parse.parse_one(sql).tree, _SHOP, ("public",))
    assert {table.oid for table in found} == expected


def test_what_hides_a_table() -> None:
    node = parse.parse_one("select * from orders").tree
    assert classify.tables_in(node, _SHOP, ("public",), frozenset({"orders"})) == ()
    assert [table.oid for table in classify.tables_in(node, _SHOP, ("other", "public"))] == [10]
    shadowed = dataclasses.replace(_SHOP, shadows=frozenset({("mine", "orders")}))
    assert classify.tables_in(node, shadowed, ("mine", "public")) == ()
    assert [table.oid for table in classify.tables_in(node, shadowed, ("public", "mine"))] == [1]
    assert classify.tables_in(node, _SHOP, ()) == ()


def test_facts_are_of_one_session_and_shape() -> None:
    (statement,) = parse.parse("select * from orders, big_orders b")
    public, hidden = ("public",), frozenset({"orders"})
    without = dataclasses.replace(
        _SHOP,
        names={name: oid for name, oid in _SHOP.names.items() if name != ("public", "orders")},
        views={},
        shape=object(),
    )
    for _ in range(2):
        both = known.facts(statement, _SHOP, public, frozenset())
        assert both.has_views
        assert set(both.tables) == {1}
        assert known.tables(statement, _SHOP, public, frozenset()) == (_SHOP.tables[1],)
        assert known.facts(statement, _SHOP, ("other",), frozenset()).tables == (10,)
        assert known.facts(statement, without, public, hidden).tables == ()
        assert not known.facts(statement, without, public, frozenset()).has_views

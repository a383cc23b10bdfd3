"""EXPLAIN's text of plans made from a fixed catalog."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable

import pytest

from orochi.executor import transport
from orochi.planner import context, explain, fragment, literals, modify, parse, select, staged
from orochi.planner import plan as plans
from tests.support import explained, explained_statements, planner_snapshots, tpch_queries, tpch_snapshot

FOLDED = {"now()": literals.Literal(0, "timestamp with time zone", "2024-01-03 12:00:00+00")}
_INTEGER = fragment.OutputColumn("level", 23, -1, "integer")
QUERIES = {
    "router": [
        "SELECT * FROM orders WHERE id = 42",
        "SELECT name FROM countries",
        "SELECT * FROM orders WHERE id = $1",
    ],
    "router_stripes": ["SELECT * FROM events WHERE device = 'd1' AND ts < '2024-01-02'"],
    "pushdown": [
        "SELECT id, note FROM orders WHERE customer = 7",
        "SELECT o.id, i.sku FROM orders o JOIN items i USING (id) ORDER BY o.total DESC LIMIT 10",
        "SELECT o.id, c.name FROM orders o LEFT JOIN countries c ON c.id = o.customer WHERE o.id IN (1, 2)",
        "SELECT id, total FROM big_orders WHERE id > 5",
        "SELECT customer, string_agg(note, ',' ORDER BY id), count(*) FROM orders WHERE total > 3 GROUP BY customer",
        "SELECT o.id, rank() OVER (ORDER BY o.total) FROM orders o JOIN items i ON i.id = o.id WHERE i.sku <> 'x'",
        "SELECT DISTINCT ON (customer) customer, id, total FROM orders ORDER BY customer, total DESC LIMIT 5",
        "SELECT id, rank() OVER (PARTITION BY id ORDER BY total) FROM orders",
        "SELECT id, random() AS chance FROM orders WHERE customer = 7",
    ],
    "aggregate": [
        "SELECT level, count(*), avg(level) FROM events WHERE ts >= '2024-01-02' GROUP BY level ORDER BY 2 DESC",
        "SELECT sum(total), max(note) FROM orders",
        "SELECT date_trunc('day', ts), sum(value) FROM events WHERE ts > now() GROUP BY 1",
        "SELECT count(*) FROM metrics WHERE value > 3",
        "SELECT customer, stddev(total), var_pop(id) FILTER (WHERE id > 3) FROM orders GROUP BY customer",
        "SELECT level, avg(value), corr(value, level) FROM events GROUP BY ROLLUP (level) HAVING count(*) > 1",
        "SELECT count(DISTINCT customer), count(DISTINCT id), sum(total) FROM orders",
        "SELECT level, string_agg(DISTINCT device, ',' ORDER BY device), max(value) FROM events GROUP BY level",
    ],
    "set_operation": [
        "SELECT customer, sum(total) FROM orders GROUP BY customer UNION ALL SELECT 'none', 0 ORDER BY 2 DESC LIMIT 3",
        "SELECT id, note FROM orders EXCEPT (SELECT id, 'x' FROM orders INTERSECT SELECT id, sku FROM items)",
        "SELECT level FROM events UNION SELECT o.id FROM orders o JOIN events e ON e.level = o.customer",
    ],
    "pull": [
        "SELECT e.level, count(*) FROM events e JOIN orders o ON o.customer = e.level WHERE e.device <> 'x' GROUP BY 1",
        "SELECT id FROM orders WHERE total > random()",
        "SELECT o.id, public.orders.note FROM orders, orders AS o WHERE o.customer = orders.customer AND o.id = 5",
    ],
    "modify": [
        "UPDATE orders SET total = total + 1 WHERE id = 42 RETURNING *",
        "DELETE FROM events WHERE ts < '2024-01-02'",
        "UPDATE countries SET name = lower(name)",
    ],
}


def _plan(sql: str) -> plans.SelectPlan | plans.Modify:
    statement = parse.parse_one(sql)
    ctx = dataclasses.replace(planner_snapshots.shop_context(), folded=FOLDED)
    if "$1" in sql:
        found = select.template(statement, (20,), ctx)
        assert found is not None
        return found
    while statement.kind is parse.Kind.SELECT:
        try:
            return select.plan(statement, ctx)
        except staged.NeedsColumns as wanted:
            described = dict.fromkeys(wanted.queries, (_INTEGER,))
            ctx = dataclasses.replace(ctx, described={**ctx.described, **described})
    return modify.plan(statement, ctx)


@pytest.mark.parametrize("name", QUERIES)
def test_text(name: str, golden: Callable[[str, str], None]) -> None:
    parts = []
    for sql in QUERIES[name]:
        lines = explain.text(_plan(sql), planner_snapshots.shop())
        parts.append("\n".join([f"-- {sql}", *lines]))
    golden(name, "\n\n".join(parts) + "\n")


def _golden_of(statements: Iterable[str], ctx: context.PlanContext) -> str:
    parts = ("\n".join([f"-- {sql.strip()}", *explained.text(sql, ctx)]) for sql in statements)
    return "\n\n".join(parts) + "\n"


@pytest.mark.parametrize("name", explained_statements.STATEMENTS)
def test_statements(name: str, golden: Callable[[str, str], None]) -> None:
    ctx = planner_snapshots.shop_context().forcing(explained_statements.FORCED.get(name, ""))
    golden(name, _golden_of(explained_statements.STATEMENTS[name], ctx))


@pytest.mark.parametrize("spread", [True, False], ids=["key", "reference"])
def test_tpch(spread: bool, golden: Callable[[str, str], None]) -> None:
    found = _golden_of(tpch_queries.QUERIES.values(), tpch_snapshot.tables(spread=spread))
    assert "Orochi Pull" not in found
    golden(f"tpch_{'key' if spread else 'reference'}", found)


def test_analyze(golden: Callable[[str, str], None]) -> None:
    plan = _plan("SELECT level, count(*) FROM events GROUP BY level")
    stats = {
        0: transport.FragmentStats(rows=3, bytes=96, seconds=0.0125, chunk_groups_total=7, chunk_groups_skipped=2, engine="duckdb"),
        1: transport.FragmentStats(rows=2, bytes=64, seconds=0.002, engine="postgres"),
    }  # fmt: skip
    lines = explain.text(plan, planner_snapshots.shop(), stats=stats)
    without = explain.text(plan, planner_snapshots.shop(), stats=stats, timing=False)
    golden("analyze", "\n".join([*lines, "", *without]) + "\n")


def test_json() -> None:
    plan = _plan("SELECT level, count(*) FROM events GROUP BY level")
    (found,) = json.loads(explain.to_json(plan, planner_snapshots.shop()))
    assert found["Plan"]["Node Type"] == "Orochi Two-Phase Aggregate"
    assert [item["Node Type"] for item in found["Plan"]["Plans"]] == ["orochi_i0 of public.events"]
    assert len(found["Plan"]["Plans"][0]["Fragments"]) == 2

from __future__ import annotations

import dataclasses

import pytest

from orochi import errors, ids, pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.planner import builtins as functions
from orochi.planner import conflict, insert, parse
from orochi.planner import plan as plans
from orochi.sharding import hashing
from tests.support import planner_snapshots


def column(name: str, number: int, oid: int, type_name: str, **more: object) -> snapshots.Column:
    return snapshots.Column(name, number, oid, oid, -1, type_name, False, **more)  # type: ignore[arg-type]


SHARDS = tuple(
    snapshots.Shard(
        ids.ShardId(index + 1),
        index,
        low,
        high,
        (ids.NodeId(1),),
        1,
        (snapshots.Chunk(ids.ChunkId(index + 10), ids.ShardId(index + 1), 0, 1000, 0),),
    )
    for index, (low, high) in enumerate(hashing.shard_ranges(4))
)
TABLE = snapshots.Table(
    oid=ids.TableId(1),
    schema="public",
    name="flights",
    kind=snapshots.TableKind.DISTRIBUTED,
    columns=(
        column("dest", 1, pgtypes.TEXT, "text"),
        column("at", 2, pgtypes.INT8, "bigint"),
        column("made", 3, pgtypes.TIMESTAMPTZ, "timestamptz", default_sql="now()", default_is_volatile=True),
        column("n", 4, pgtypes.INT4, "integer", default_sql="7"),
        column("twice", 5, pgtypes.INT4, "integer", default_sql="(n * 2)", generated="s"),
    ),
    shards=SHARDS,
    colocation_id=ids.ColocationId(1),
    distribution_column="dest",
    distribution_oid=pgtypes.TEXT,
    dimension=snapshots.TimeDimension("at", pgtypes.INT8, 1000),
)
SNAPSHOT = snapshots.Snapshot(1, {TABLE.oid: TABLE}, {("public", "flights"): TABLE.oid}, {}, {})


@dataclasses.dataclass
class Context:
    snapshot: snapshots.Snapshot = SNAPSHOT
    search_path: tuple[str, ...] = ("public",)
    temp_tables: frozenset[str] = frozenset()
    builtins: functions.Builtins = planner_snapshots.BUILTINS


def analyze(sql: str) -> insert.Values | insert.Staged:
    return insert.analyze(parse.parse_one(sql), SNAPSHOT, ("public",))


def test_defaults_are_filled_in_and_volatile_ones_are_evaluated() -> None:
    plan = analyze("INSERT INTO flights (dest, at) VALUES ('a', $1)")
    assert isinstance(plan, insert.Values)
    assert plan.columns == ("dest", "at", "made", "n")
    cells = plan.rows[0]
    assert [cell.is_expression for cell in cells] == [False, False, True, False]
    assert cells[1].parameter == 1
    assert cells[3].sql == "(7)"


@pytest.mark.parametrize("value", ["'now'", "'today'::timestamptz", "now()", "current_timestamp", "$1 + 1"])
def test_what_means_something_else_elsewhere_is_evaluated_first(value: str) -> None:
    plan = analyze(f"INSERT INTO flights (dest, made) VALUES ('a', {value})")
    assert isinstance(plan, insert.Values)
    assert plan.rows[0][plan.columns.index("made")].is_expression


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO flights SELECT * FROM flights",
        "INSERT INTO flights (dest) VALUES ((SELECT 'a'))",
        "WITH w AS (SELECT 1) INSERT INTO flights (dest) VALUES ('a')",
        "INSERT INTO flights (dest) VALUES ('a'), ('b') ORDER BY 1",
    ],
)
def test_what_only_postgresql_can_make_is_staged(sql: str) -> None:
    plan = analyze(sql)
    assert isinstance(plan, insert.Staged)
    assert "pg_temp.orochi_staging" in plan.statement.sql


def test_conflict_clause_is_fit_for_a_node() -> None:
    plan = analyze(
        "INSERT INTO flights (dest, at) VALUES ('a', 1) ON CONFLICT (dest, at) DO UPDATE "
        "SET made = now(), n = public.flights.n + 1, dest = excluded.dest RETURNING public.flights.n"
    )
    assert plan.folded == ("now()",)
    assert "public" not in plan.tail
    assert conflict.fill(plan.tail, {0: "CAST('x' AS timestamptz)"}).count("CAST('x'") == 1


def test_conflict_cannot_move_a_row() -> None:
    with pytest.raises(errors.FeatureNotSupported):
        analyze(
            "INSERT INTO flights (dest, at) VALUES ('a', 1) ON CONFLICT (dest, at) DO UPDATE SET dest = 'b'"
        )


@pytest.mark.parametrize(
    "tail",
    [
        "RETURNING own(n)",
        "RETURNING flights",
        "RETURNING lower((flights.*)::text)",
        "RETURNING n::mood",
        "ON CONFLICT (dest, at) DO UPDATE SET n = own(excluded.n)",
    ],
)
def test_what_nodes_lack_is_not_for_them(tail: str) -> None:
    statement = parse.parse_one(f"INSERT INTO flights (dest, at) VALUES ('a', 1) {tail}")
    with pytest.raises(errors.FeatureNotSupported):
        insert.analyze(statement, SNAPSHOT, ("public",), known=planner_snapshots.BUILTINS)


def test_template_routes_by_parameters() -> None:
    sql = "INSERT INTO flights (dest, at, made, n) VALUES ($1, $2, $3, 5)"
    oids = (pgtypes.TEXT, pgtypes.INT8, pgtypes.TIMESTAMPTZ)
    template = insert.template(parse.parse_one(sql), oids, Context())
    assert template is not None
    assert template.key == plans.ParamKey(1, pgtypes.TEXT)
    expected = TABLE.shard_for_hash(hashing.hash_value(pgtypes.TEXT, "JFK"))
    (chunk,) = expected.chunks
    values = (b"JFK", b"5", None)
    assert insert.choose(template, SNAPSHOT, values, (0, 0, 0), {}, alone=True) == (expected, chunk.schema)
    assert insert.choose(template, SNAPSHOT, values, (0, 0, 0), {}, alone=False) == (
        expected,
        expected.schema,
    )
    for odd in ((b"JFK", b"5000", None), (b"JFK", None, None)):  # no chunk yet, no time
        assert insert.choose(template, SNAPSHOT, odd, (0, 0, 0), {}, alone=True) is None


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO flights (dest, at) VALUES ($1, $2)",  # `made` is to be evaluated
        "INSERT INTO flights (dest, at, made) VALUES ('a', $1, $2)",
        "INSERT INTO flights (dest, at, made) VALUES ($1, $2, NULL), ($1, $2, NULL)",
        "INSERT INTO flights (dest, at, made) VALUES (upper($1), $2, NULL)",
    ],
)
def test_no_template_where_routing_needs_more(sql: str) -> None:
    assert insert.template(parse.parse_one(sql), (pgtypes.TEXT, pgtypes.INT8), Context()) is None

"""A catalog and a table of functions made up for tests that need no server."""

from __future__ import annotations

from orochi import ids, pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.planner import builtins, context
from orochi.sharding import hashing

DAY = 86_400_000_000
#: 2024-01-01 00:00 UTC in microseconds since 2000-01-01.
START = 757_382_400_000_000

_FUNCTIONS = {
    "count": "ia",
    "sum": "ia",
    "avg": "ia",
    "min": "ia",
    "max": "ia",
    "string_agg": "ia",
    "stddev": "ia",
    "var_pop": "ia",
    "corr": "ia",
    "lower": "if",
    "length": "if",
    "coalesce": "if",
    "now": "sf",
    "date_trunc": "sf",
    "current_setting": "sf",
    "random": "vf",
    "rank": "iw",
    "generate_series": "if",
    "extract": "if",
    "substring": "if",
    "round": "if",
    "upper": "if",
    "abs": "if",
    "to_char": "sf",
    "array_agg": "ia",
    "json_agg": "sa",
    "bool_and": "ia",
    "percentile_cont": "ia",
    "row_number": "iw",
    "dense_rank": "iw",
    "lag": "iw",
    "first_value": "iw",
    "clock_timestamp": "vf",
}
_TYPES = {
    "int4": (pgtypes.INT4, "integer"),
    "int8": (pgtypes.INT8, "bigint"),
    "text": (pgtypes.TEXT, "text"),
    "timestamptz": (pgtypes.TIMESTAMPTZ, "timestamp with time zone"),
    "timestamp": (pgtypes.TIMESTAMP, "timestamp without time zone"),
    "date": (pgtypes.DATE, "date"),
    "float4": (pgtypes.FLOAT4, "real"),
    "float8": (pgtypes.FLOAT8, "double precision"),
    "numeric": (pgtypes.NUMERIC, "numeric"),
    "uuid": (pgtypes.UUID, "uuid"),
    "bool": (pgtypes.BOOL, "boolean"),
}
BUILTINS = builtins.from_rows(
    [
        *(("pg_catalog", name, found[0], found[1], "false") for name, found in _FUNCTIONS.items()),
        ("orochi", "time_bucket", "is", "f", "false"),
        *(("type", name, "", "t", "false") for name in (*_TYPES, "interval", "varchar", "json", "regclass")),
        ("user", "mine", "", "u", "false"),
    ]
)
NODES = {
    ids.NodeId(n): snapshots.Node(ids.NodeId(n), "127.0.0.1", 5432, f"n{n}", "data", "active", True)
    for n in (1, 2)
}


def columns(**types: str) -> tuple[snapshots.Column, ...]:
    """Columns of built-in types; one called `id` or `ts` is NOT NULL."""
    return tuple(
        snapshots.Column(
            name, at, _TYPES[kind][0], _TYPES[kind][0], -1, _TYPES[kind][1], name in ("id", "ts")
        )
        for at, (name, kind) in enumerate(types.items(), start=1)
    )


def table(
    oid: int,
    name: str,
    listed: tuple[snapshots.Column, ...],
    *,
    key: str | None = None,
    shards: int = 1,
    kind: str = "distributed",
    chunks: int = 0,
    stripes: bool = False,
    schema: str = "public",
    group: int = 1,
) -> snapshots.Table:
    """A table; with `chunks`, a hypertable on `ts` of so many days from `START`, the first of each shard compressed."""
    built = []
    for index, (low, high) in enumerate(hashing.shard_ranges(shards)):
        number = oid * 100 + index
        parts = tuple(
            snapshots.Chunk(
                ids.ChunkId(number * 10 + day),
                ids.ShardId(number),
                START + day * DAY,
                START + (day + 1) * DAY,
                1,
                stripes=(snapshots.Stripe(ids.StripeId(number), f"{number}.stripe", 1000, 4096),)
                if stripes and day == 0
                else (),
            )
            for day in range(chunks)
        )
        nodes = (1, 2) if kind == "reference" else (1 + index % 2,)
        built.append(
            snapshots.Shard(ids.ShardId(number), index, low, high, tuple(map(ids.NodeId, nodes)), 1, parts)
        )
    types = {column.name: column.base_oid for column in listed}
    return snapshots.Table(
        oid=ids.TableId(oid),
        schema=schema,
        name=name,
        kind=snapshots.TableKind(kind),
        columns=listed,
        shards=tuple(built),
        colocation_id=ids.ColocationId(group) if kind == "distributed" else None,
        distribution_column=key,
        distribution_oid=types[key] if key else None,
        dimension=snapshots.TimeDimension("ts", types["ts"], DAY) if chunks else None,
        unique_keys=(("id",),) if key == "id" and not chunks else (),
    )


def snapshot(*tables: snapshots.Table, views: tuple[snapshots.View, ...] = ()) -> snapshots.Snapshot:
    """A catalog of these tables."""
    return snapshots.Snapshot(
        version=1,
        tables={item.oid: item for item in tables},
        names={(item.schema, item.name): item.oid for item in tables},
        nodes=NODES,
        views={(view.schema, view.name): view for view in views},
    )


def shop() -> snapshots.Snapshot:
    """Orders and items by customer, events over time, countries everywhere."""
    return snapshot(
        table(
            1, "orders", columns(id="int8", customer="int4", total="numeric", note="text"), key="id", shards=4
        ),
        table(2, "items", columns(id="int8", sku="text", amount="int4"), key="id", shards=4),
        table(
            3,
            "events",
            columns(device="text", ts="timestamptz", value="float8", level="int4"),
            key="device",
            shards=2,
            chunks=3,
            stripes=True,
            group=2,
        ),
        table(4, "countries", columns(id="int4", name="text"), kind="reference"),
        table(5, "metrics", columns(ts="timestamptz", value="int4"), kind="single", chunks=2, stripes=True),
        views=(
            snapshots.View(
                "public",
                "big_orders",
                " SELECT id,\n    total\n   FROM public.orders\n  WHERE total > (100)::numeric;",
                ("id", "total"),
            ),
        ),
    )


def shop_context(**settings: str) -> context.PlanContext:
    """A session over `shop`, in UTC."""
    return context.PlanContext(shop(), ("public",), BUILTINS, settings={"timezone": "UTC", **settings})

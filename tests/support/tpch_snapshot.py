"""TPC-H's tables as a catalog, at scale 1, for plans without a server."""

from __future__ import annotations

import dataclasses
import re

from orochi import ids, pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.planner import context
from tests.support import planner_snapshots, tpch

_ROWS = {
    "region": 5, "nation": 25, "supplier": 10_000, "customer": 150_000, "part": 200_000, "partsupp": 800_000,
    "orders": 1_500_000, "lineitem": 6_000_000,
}  # fmt: skip
_TYPES = {
    "integer": (pgtypes.INT4, "integer"),
    "date": (pgtypes.DATE, "date"),
    "char": (1042, "character"),
    "varchar": (pgtypes.VARCHAR, "character varying"),
    "numeric": (pgtypes.NUMERIC, "numeric"),
}
_COLUMN = re.compile(r"(\w+) (integer|date|char|varchar|numeric)(?:\((\d+)(?:,(\d+))?\))?")


def tables(*, spread: bool, shards: int = 2) -> context.PlanContext:
    """A session over the tables: lineitem and orders co-located.

    Args:
        spread: the larger others are distributed by their keys; else they are reference tables.
        shards: of each distributed table.
    """
    made = []
    for number, (name, definition) in enumerate(tpch.DDL.items(), start=1):
        key = tpch.KEYS.get(name) if spread or name in ("lineitem", "orders") else None
        table = planner_snapshots.table(
            number,
            name,
            _columns(definition),
            key=key,
            shards=shards if key else 1,
            kind="distributed" if key else "reference",
        )
        counted = tuple(
            dataclasses.replace(shard, row_count=_ROWS[name] // len(table.shards)) for shard in table.shards
        )
        colocation = table.colocation_id
        if key is not None and name not in ("lineitem", "orders"):
            colocation = ids.ColocationId(number)
        made.append(dataclasses.replace(table, shards=counted, colocation_id=colocation))
    return context.PlanContext(
        planner_snapshots.snapshot(*made),
        ("public",),
        planner_snapshots.BUILTINS,
        settings={"timezone": "UTC"},
    )


def _columns(definition: str) -> tuple[snapshots.Column, ...]:
    found = []
    for at, (name, kind, first, second) in enumerate(_COLUMN.findall(definition), start=1):
        oid, type_name = _TYPES[kind]
        modifier = -1
        if first and kind == "numeric":
            modifier = (int(first) << 16 | int(second or 0)) + 4
            type_name += f"({first},{second})"
        elif first:
            modifier = int(first) + 4
            type_name += f"({first})"
        found.append(snapshots.Column(name, at, oid, oid, modifier, type_name, True))
    return tuple(found)

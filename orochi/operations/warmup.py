"""What a gateway does before it says that it is ready: plan and answer statements over a catalog that does not exist.

See `orochi.executor.rehearsal` for why. Nothing of it is sent anywhere.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa

from orochi import ids, pgtypes
from orochi.catalog import api
from orochi.catalog import snapshot as snapshots
from orochi.executor import exchange, finishing, rehearsal, results
from orochi.operations import templates
from orochi.planner import (
    builtins,
    classify,
    coalesce,
    finish,
    lasting,
    literals,
    normalized,
    parse,
    select,
    staged,
)
from orochi.planner import context as planning
from orochi.planner import fragment as plan_fragment
from orochi.planner import plan as plans

_FUNCTIONS = builtins.from_rows(
    [
        *(("pg_catalog", name, "i", "a", "false") for name in ("avg", "count", "max", "sum")),
        ("pg_catalog", "date_trunc", "is", "f", "false"),
        ("orochi", "time_bucket", "i", "f", "false"),
        *(("type", name, "", "t", "false") for name in ("text", "timestamptz", "float8")),
    ]
)
_SETTINGS = {"timezone": "UTC", "datestyle": "ISO, MDY", "extra_float_digits": "1"}
_PATH = ("public", api.SCHEMA)
_SHARDS = 2
_HOUR = 3_600_000_000
_RANGE = "at >= '2000-01-01 00:10:00+00' AND at < '2000-01-01 00:50:00+00'"
#: Plans of the usual kinds: groups that shards have whole, groups that are added up, rows, one shard's rows, joins,
#: rows of a sub-SELECT, and stages.
_QUERIES = (
    f"SELECT time_bucket('1 minute', at) AS minute, series, avg(value) FROM rehearsal WHERE {_RANGE} GROUP BY 1, 2 ORDER BY 1, 2",
    f"SELECT date_trunc('hour', at), count(*), sum(value), avg(value) FROM rehearsal WHERE {_RANGE} GROUP BY 1 ORDER BY 1",
    f"SELECT * FROM rehearsal WHERE value > 90 AND {_RANGE}",
    "SELECT value FROM rehearsal WHERE series = 'series 1' ORDER BY at DESC LIMIT 1",
    """SELECT a.series, sum(a.value) AS total FROM rehearsal a, rehearsal b WHERE a.series = b.series
    AND a.at < '2000-01-01 00:50:00+00' AND EXISTS (SELECT 1 FROM rehearsal c WHERE c.series = a.series AND c.value > 1)
    GROUP BY a.series HAVING sum(a.value) > 3 ORDER BY total DESC LIMIT 10""",
    """SELECT minute, sum(amount), avg(amount) FROM (SELECT time_bucket('1 minute', at) AS minute, value * (1 - value) AS amount
    FROM rehearsal WHERE series LIKE '%1%') AS rows GROUP BY minute ORDER BY minute""",
    """SELECT a.series, a.value FROM rehearsal a, rehearsal b WHERE a.value = b.value AND a.series IN
    (SELECT series FROM rehearsal GROUP BY series HAVING sum(value) > 300)""",
)
#: Times that planning one of them may ask something.
_QUESTIONS = 4
_TEMPLATES = (
    ("SELECT value FROM rehearsal WHERE series = $1", (pgtypes.TEXT,)),
    (
        "INSERT INTO rehearsal (at, series, value) VALUES ($1, $2, $3)",
        (pgtypes.TIMESTAMPTZ, pgtypes.TEXT, pgtypes.FLOAT8),
    ),
)


def rehearse(stripes: int = 2) -> int:
    """Plan everything, and answer the first query over `stripes` made-up stripes; its rows."""
    catalog = _catalog()
    classifier = classify.Classifier(catalog, api.NAMES)
    context = planning.PlanContext(catalog, _PATH, _FUNCTIONS, settings=_SETTINGS)
    found = []
    for sql in _QUERIES:
        classifier.touches(sql)
        normalized.normalize(sql)
        statement = parse.parse_one(sql)
        found.append(_planned(statement, context))
        lasting.is_lasting(statement, context)
    for sql, oids in _TEMPLATES:
        templates.template(sql, oids, catalog, _PATH, _FUNCTIONS, collation="C")
    whole, added = found[:2]
    assert isinstance(whole, plans.Distributed)
    assert isinstance(added, plans.Distributed)
    _added(added)
    return _answered(whole, stripes)


def _planned(statement: parse.Statement, context: planning.PlanContext) -> plans.SelectPlan:
    """The plan; what is asked for it are doubles that are NULL, and series."""
    for _ in range(_QUESTIONS):
        try:
            return select.plan(statement, context)
        except literals.NeedsFolding as needed:
            told = dict.fromkeys(needed.expressions, literals.Literal(0, "double precision", None))
            context = dataclasses.replace(context, folded={**context.folded, **told})
        except staged.NeedsColumns as wanted:
            columns = dict.fromkeys(wanted.queries, (rehearsal.COLUMNS[1],))
            context = dataclasses.replace(context, described={**context.described, **columns})
    return select.plan(statement, context)


def _added(plan: plans.Distributed) -> None:
    """Add up two made-up rows of a group by time; this imports what pyarrow groups by."""
    (gathered,) = plan.intermediates
    key, *totals = gathered.columns
    columns = (
        dataclasses.replace(key, type_oid=pgtypes.TIMESTAMPTZ),
        *(dataclasses.replace(column, type_oid=column.type_oid or pgtypes.FLOAT8) for column in totals),
    )
    arrays = [pa.array(np.ones(2), pgtypes.carrier(column.type_oid)) for column in columns]
    batch = pa.RecordBatch.from_arrays(arrays, names=[column.name for column in columns])
    step = finish.of_plan(plan)
    if step is not None:
        finishing.finished(step, columns, [batch], None)


def _answered(plan: plans.Distributed, stripes: int) -> int:
    """The rows of a plan whose fragments are packed as for workers, and answered as if by one."""
    (gathered,) = plan.intermediates
    plan_fragment.to_json(tuple(coalesce.together(gathered.fragments, _SHARDS)))
    named = [column.name for column in gathered.columns]
    columns = tuple(
        dataclasses.replace(known, name=name) for name, known in zip(named, rehearsal.COLUMNS, strict=True)
    )
    batch = rehearsal.rehearse(stripes).rename_columns(named)
    answers, parts = exchange.Answers(), rehearsal.packed(batch)
    batches = [found for part in parts for found in answers.take(*exchange.unpack(part)) or ()]
    step = finish.of_plan(plan)
    made = None if step is None else finishing.finished(step, columns, batches, None)
    if made is None:
        return 0
    shown, rows = made
    return results.encode_rows(rows, shown, (), {**_SETTINGS, "client_encoding": "UTF8"})[1]


def _catalog() -> snapshots.Snapshot:
    """One hypertable in shards on as many nodes, each with a chunk that has a stripe."""
    oid = ids.TableId(1)
    nodes = {
        ids.NodeId(n): snapshots.Node(ids.NodeId(n), "", 0, "", "data", "active", holds_shards=True)
        for n in range(_SHARDS)
    }
    table = snapshots.Table(
        oid,
        "public",
        "rehearsal",
        snapshots.TableKind.DISTRIBUTED,
        tuple(
            snapshots.Column(c.name, n, c.type_oid, c.type_oid, -1, c.type_name, not_null=False)
            for n, c in enumerate(rehearsal.COLUMNS, 1)
        ),
        tuple(_shard(number) for number in range(_SHARDS)),
        colocation_id=None,
        distribution_column="series",
        distribution_oid=pgtypes.TEXT,
        dimension=snapshots.TimeDimension("at", pgtypes.TIMESTAMPTZ, _HOUR),
        storage_type="columnar",
    )
    return snapshots.Snapshot(0, {oid: table}, {("public", table.name): oid}, nodes, {})


def _shard(number: int) -> snapshots.Shard:
    width = 2**32 // _SHARDS
    low = number * width - 2**31
    shard_id = ids.ShardId(number)
    stripe = snapshots.Stripe(ids.StripeId(number), f"{number}.stripe", 1, 1)
    chunk = snapshots.Chunk(ids.ChunkId(number), shard_id, 0, _HOUR, 1, stripes=(stripe,))
    return snapshots.Shard(shard_id, number, low, low + width - 1, (ids.NodeId(number),), 1, (chunk,))

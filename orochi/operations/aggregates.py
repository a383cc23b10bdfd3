"""Continuous aggregates made, changed and dropped.

The user's view reads a hidden view, which is the query itself, so PostgreSQL keeps names, types, rights
and dependencies; what the gateway does for speed is to read finished buckets in its place
(`aggregate_state`). With `materialized_only` the view reads the table of finished buckets.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from orochi import errors, ids, pgtypes
from orochi.catalog import definition as definitions
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import (
    aggregate_log,
    aggregate_refresh,
    aggregate_turns,
    ddl,
    distribute,
    hypertable,
    privileges,
    shells,
)
from orochi.operations import storage_options as options
from orochi.planner import continuous, continuous_ddl, parse, quoting
from orochi.planner import ddl as ddl_plans
from orochi.timeseries import buckets, ranges

_SCHEMA = continuous.SCHEMA
_NO_BLOCK = "25001"
#: The table of buckets has chunks so many times as long as its source's.
_LONGER = 10


def concerns(session: context.Session, statement: parse.Statement) -> bool:
    """Whether the statement makes, alters or drops a continuous aggregate."""
    return _read(session, statement) is not None


async def execute(session: context.Session, statement: parse.Statement, sink: context.Sink) -> None:
    """Run such a statement to its command tag."""
    match _read(session, statement):
        case continuous_ddl.Create() as wanted:
            await create(session, sink, wanted)
            await sink.complete("CREATE MATERIALIZED VIEW")
        case continuous_ddl.Drop() as wanted:
            async with shells.transactional(session):
                await drop(session, wanted.aggregates, cascade=wanted.cascade)
            await sink.complete(wanted.tag)
        case continuous_ddl.Alter() as wanted:
            async with shells.transactional(session):
                await _alter(session, wanted)
            await sink.complete(wanted.tag)
        case continuous_ddl.Index() as wanted:
            await _index(session, wanted, sink)
            await sink.complete("CREATE INDEX")
    privileges.forget()


def _read(
    session: context.Session, statement: parse.Statement
) -> continuous_ddl.Create | continuous_ddl.Drop | continuous_ddl.Alter | continuous_ddl.Index | None:
    if statement.kind is parse.Kind.CREATE_TABLE_AS:
        return continuous_ddl.create(statement)
    snapshot = session.snapshot()
    if statement.kind is not parse.Kind.DDL or not snapshot.aggregates:
        return None
    where = (snapshot, session.search_path, session.temp_tables)
    return (
        continuous_ddl.drop(statement, *where)
        or continuous_ddl.alter(statement, *where)
        or continuous_ddl.index(statement, *where)
    )


async def create(
    session: context.Session, sink: context.Sink, wanted: continuous_ddl.Create
) -> snapshots.Aggregate | None:
    """Make a continuous aggregate, and fill it if asked to; None if it was there.

    Raises:
        FeatureNotSupported: its buckets could not be kept right.
        OrochiError: 25001, it is to be filled in a transaction block.
    """
    if wanted.with_data and session.transaction.in_block:
        raise errors.OrochiError(
            "a continuous aggregate cannot be filled inside a transaction block",
            sqlstate=_NO_BLOCK,
            hint="Make it WITH NO DATA, and refresh it after COMMIT.",
        )
    if wanted.if_not_exists and await _exists(session, wanted.name):
        await sink.notice(f"relation {wanted.name} already exists, skipping")
        return None
    async with shells.transactional(session):
        aggregate = await _create(session, sink, wanted)
    if wanted.with_data:
        try:
            await aggregate_refresh.refresh(session, sink, aggregate.view_oid, None, None)
        except errors.OrochiError:  # CREATE makes all or nothing
            async with shells.transactional(session):
                await drop(session, (aggregate,), cascade=False)
            raise
    return aggregate


async def _exists(session: context.Session, name: str) -> bool:
    answer = await session.coordinator.fetch("SELECT to_regclass($1)", (name.encode(),), (0,), (25,))
    return answer.rows[0][0] is not None


async def _create(
    session: context.Session, sink: context.Sink, wanted: continuous_ddl.Create
) -> snapshots.Aggregate:
    if session.coordinator.status == "I":
        await session.coordinator.query("BEGIN")
    columns = ", ".join(map(quoting.identifier, wanted.columns))
    head = f"{wanted.name} ({columns})" if columns else wanted.name
    await session.coordinator.query(f"CREATE VIEW {head} AS {wanted.query}")
    view_oid = await _number(session, f"SELECT {quoting.text(wanted.name)}::regclass::oid::bigint")
    await session.catalog_changed()
    view = await _view(session, view_oid, wanted.name)
    analysis = continuous.analyze(view.definition, view.columns, session.snapshot())
    continuous.template(view.definition)
    await _check_steady(session, view_oid)
    bucket = await _measured(session, view_oid, analysis)
    aggregate_id = await _number(
        session,
        "SELECT nextval(pg_get_serial_sequence('orochi.orochi_continuous_aggregates', 'aggregate_id'))",
        own=True,
    )
    query, table = f'{_SCHEMA}."query_{aggregate_id}"', f'{_SCHEMA}."aggregate_{aggregate_id}"'
    named = ", ".join(map(quoting.identifier, view.columns))
    owner = quoting.identifier(session.user)
    if not await _number(session, f"SELECT (to_regnamespace('{_SCHEMA}') IS NOT NULL)::integer"):
        # one at a time: PostgreSQL's IF NOT EXISTS does not wait for who creates it just now
        await session.catalog_execute("SELECT count(*) FROM pg_advisory_xact_lock(1330792264, 2)")
        await session.catalog_execute(
            f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA}; GRANT USAGE ON SCHEMA {_SCHEMA} TO PUBLIC"
        )
    await session.catalog_execute(f"CREATE VIEW {query} ({named}) AS {view.definition}")
    await session.catalog_execute(
        f"CREATE TABLE {table} AS TABLE {query} WITH NO DATA;"
        f" ALTER TABLE {table} ALTER {quoting.identifier(analysis.column)} SET NOT NULL"
    )
    await session.catalog_execute(
        f"ALTER VIEW {query} OWNER TO {owner}; ALTER TABLE {table} OWNER TO {owner}"
    )
    oid = await _number(session, f"SELECT {quoting.text(table)}::regclass::oid::bigint")
    await _place(session, sink, oid, analysis, bucket, wanted.chunk_interval)
    # an old snapshot might not show all chunks that are to have triggers
    bucket = dataclasses.replace(bucket, direct=session.transaction.isolation == "read committed")
    read_only = "true" if wanted.materialized_only else "false"
    config = definitions.quote_literal(json.dumps(dataclasses.asdict(bucket)))
    await shells.lock_layouts(session, analysis.table.oid)
    for other in sorted(bucket.others):
        await shells.lock_layouts(session, ids.TableId(other))
    await aggregate_log.install(session, aggregate_id, analysis.table.oid, bucket)
    await session.catalog_execute(
        "INSERT INTO orochi.orochi_continuous_aggregates (aggregate_id, view_oid, query_oid, table_oid,"
        " materialization_oid, bucket, materialized_only) OVERRIDING SYSTEM VALUE VALUES"
        f" ({aggregate_id}, {view_oid}, {quoting.text(query)}::regclass, {analysis.table.oid}, {oid},"
        f" {config}::jsonb, {read_only});"
        " INSERT INTO orochi.orochi_invalidation_log (aggregate_id, lowest, greatest)"
        f" VALUES ({aggregate_id}, {buckets.LOWEST}, {buckets.GREATEST})"
    )
    await session.catalog_changed()
    aggregate = aggregate_turns.find(session.snapshot(), view_oid)
    assert aggregate is not None
    await _define(session, aggregate, materialized_only=wanted.materialized_only)
    await session.catalog_changed()
    return aggregate


async def _number(session: context.Session, sql: str, *, own: bool = False) -> int:
    if own:
        return int(str((await session.catalog_execute(sql))[0][0]))
    return int((await session.coordinator.fetch(sql)).rows[0][0] or b"0")


async def _view(session: context.Session, oid: int, name: str) -> snapshots.View:
    answer = await session.coordinator.fetch(
        f"SELECT n.nspname, c.relname FROM pg_catalog.pg_class c"
        f" JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = {oid}"
    )
    schema, relation = ((value or b"").decode() for value in answer.rows[0])
    view = session.snapshot().views.get((schema, relation))
    if view is None:
        raise errors.InvalidTable(
            f"continuous aggregate {name} is over no hypertable",
            hint="Make its table a hypertable with create_hypertable().",
        )
    return view


async def _check_steady(session: context.Session, oid: int) -> None:
    """Refuse what would be stored for one moment or one session, and be something else for others."""
    answer = await session.coordinator.fetch(
        f"SELECT DISTINCT orochi._unsteady_parts({oid}) ORDER BY 1 LIMIT 1"
    )
    if answer.rows:
        part = (answer.rows[0][0] or b"").decode()
        raise errors.FeatureNotSupported(
            f"the query of a continuous aggregate has {part}, which is not immutable",
            detail="Its result depends on settings of the session or on the time when it is computed.",
            hint="Name the time zone (time_bucket(width, time, 'UTC'), AT TIME ZONE), or compute it when you read.",
        )


async def _measured(
    session: context.Session, view_oid: int, analysis: continuous.Analysis
) -> snapshots.Bucket:
    """The buckets' grid, from PostgreSQL's own time_bucket."""
    answer = await session.coordinator.fetch(
        "SELECT orochi._base_type(a.atttypid)::bigint FROM pg_catalog.pg_attribute a"
        f" WHERE a.attrelid = {view_oid} AND a.attname = $1",
        (analysis.column.encode(),),
        (0,),
        (19,),
    )
    type_oid = int(answer.rows[0][0] or b"0")
    assert analysis.table.dimension is not None
    if type_oid != analysis.table.dimension.type_oid:
        raise errors.FeatureNotSupported(
            "buckets of another type than the time column cannot be kept",
            hint="Do not cast the time column inside time_bucket().",
        )
    common = {
        "column": analysis.column,
        "type_oid": type_oid,
        "time": analysis.time,
        "expression": analysis.expression,
        "others": tuple(sorted(analysis.others)),
    }
    start = ranges.raw_sql(type_oid, f"({analysis.expression})")
    moment = buckets.literal(type_oid, 0)
    phase = f"(SELECT {start} FROM (SELECT {moment} AS {continuous.TIME}) AS moment)::text"
    if type_oid not in pgtypes.TIMES:
        answer = await session.coordinator.fetch(f"SELECT ({analysis.width})::bigint::text, {phase}")
        width, zero = (int(value or b"0") for value in answer.rows[0])
        return snapshots.Bucket(**common, width=width, phase=zero, slack=width)  # type: ignore[arg-type]
    answer = await session.coordinator.fetch(
        f"SELECT orochi._width_months(w)::text, orochi._interval_microseconds(w)::text, {phase}"
        f" FROM (SELECT ({analysis.width})::interval AS w) AS given"
    )
    months, length, zero = (int(value or b"0") for value in answer.rows[0])
    unit = ranges.MICROSECONDS_PER_DAY if type_oid == pgtypes.DATE else 1
    even = not months and not analysis.zoned and length % unit == 0
    # a bucket is at most a day further from its rows than it is long, by whatever time zone
    slack = (length + months * ranges.MICROSECONDS_PER_DAY + 2 * ranges.MICROSECONDS_PER_DAY) // unit + 1
    return snapshots.Bucket(
        **common,  # type: ignore[arg-type]
        width=length // unit if even else None,
        phase=zero,
        slack=slack,
    )


async def _place(
    session: context.Session,
    sink: context.Sink,
    oid: int,
    analysis: continuous.Analysis,
    bucket: snapshots.Bucket,
    chunk_interval: str | None,
) -> None:
    """Make the table of buckets a hypertable, beside its source's shards where groups stay in them."""
    source = analysis.table
    key = next(
        (
            name
            for name, origin in analysis.columns.items()
            if source.kind is snapshots.TableKind.DISTRIBUTED
            and not analysis.above
            and origin == (int(source.oid), source.distribution_column)
        ),
        None,
    )
    if key is not None:
        await distribute.create_distributed_table(
            session, oid, key, None, f"{quoting.relation(source.schema, source.name)}"
        )
    assert source.dimension is not None
    interval = hypertable.Interval(chunk_interval) if chunk_interval else None
    if interval is None:
        unit = ranges.MICROSECONDS_PER_DAY if bucket.type_oid == pgtypes.DATE else 1
        longest = min(source.dimension.interval * _LONGER, ranges.greatest(bucket.type_oid))
        interval = hypertable.Interval(str(longest * unit), "integer")
    await hypertable.create_hypertable(
        session, sink, oid, hypertable.Options(column=bucket.column, interval=interval)
    )


async def _define(
    session: context.Session, aggregate: snapshots.Aggregate, *, materialized_only: bool
) -> None:
    """Let the user's view read the query, or the finished buckets alone."""
    snapshot = session.snapshot()
    # the user may have renamed columns of the view
    called = zip(snapshot.views[aggregate.query].columns, snapshot.views[aggregate.view].columns, strict=True)
    columns = ", ".join(f"{quoting.identifier(own)} AS {quoting.identifier(name)}" for own, name in called)
    table = snapshot.current(aggregate.materialization_oid)
    finished, query = quoting.relation(table.schema, table.name), quoting.relation(*aggregate.query)
    definition = f"SELECT {columns} FROM {finished}"
    if not materialized_only:
        # what PostgreSQL reads by itself: all live, but for what has no rows any more
        column = quoting.identifier(aggregate.bucket.column)
        raw = ranges.raw_sql(aggregate.bucket.type_oid, column)
        history = f"orochi._is_history({aggregate.aggregate_id}, {raw})"
        definition = (
            f"SELECT {columns} FROM {query} WHERE NOT {history}"
            f" UNION ALL SELECT {columns} FROM {finished} WHERE {history}"
        )
    await session.coordinator.query(
        f"CREATE OR REPLACE VIEW {quoting.relation(*aggregate.view)} AS {definition}"
    )


async def _alter(session: context.Session, wanted: continuous_ddl.Alter) -> None:
    aggregate = await aggregate_turns.require(session, wanted.aggregate.view_oid)
    if session.coordinator.status == "I":
        await session.coordinator.query("BEGIN")
    if wanted.view_sql is not None:
        await session.coordinator.query(wanted.view_sql)
        await session.catalog_execute(f"SELECT orochi._follow_owner({aggregate.aggregate_id})")
    if wanted.materialized_only not in (None, aggregate.materialized_only):
        await _refuse_above(session, aggregate)
        only = bool(wanted.materialized_only)
        await session.catalog_execute(
            f"UPDATE orochi.orochi_continuous_aggregates SET materialized_only = {str(only).lower()}"
            f" WHERE aggregate_id = {aggregate.aggregate_id}"
        )
        await _define(session, aggregate, materialized_only=only)
    given: Mapping[str, str] = wanted.options
    if given:
        table = session.snapshot().current(aggregate.materialization_oid)
        await options.set_options(session, table, given)
    await session.catalog_changed()


async def _index(session: context.Session, wanted: continuous_ddl.Index, sink: context.Sink) -> None:
    """Make an index on the table of buckets, in whose schema the owner may otherwise create nothing."""
    await aggregate_turns.require(session, wanted.aggregate.view_oid)
    planned = ddl_plans.read(wanted.statement)
    if planned.concurrently:
        await sink.notice("CONCURRENTLY is ignored for continuous aggregates")
    owner = quoting.identifier(session.user)
    async with shells.transactional(session):
        if session.coordinator.status == "I":
            await session.coordinator.query("BEGIN")
        may = await _number(session, f"SELECT has_schema_privilege('{_SCHEMA}', 'CREATE')::integer")
        if not may:
            await session.catalog_execute(f"GRANT CREATE ON SCHEMA {_SCHEMA} TO {owner}")
        await ddl.run(session, wanted.statement, planned, sink)
        if not may:
            await session.catalog_execute(f"REVOKE CREATE ON SCHEMA {_SCHEMA} FROM {owner}")


async def _refuse_above(session: context.Session, aggregate: snapshots.Aggregate) -> None:
    """What lies over an aggregate follows the writes of its rows, or those of its finished buckets."""
    for item in session.snapshot().aggregates:
        view = session.snapshot().views.get(item.query)
        if item.view != aggregate.view and view is not None and _reads(session, view, aggregate):
            raise errors.FeatureNotSupported(
                f'materialized_only cannot be changed while continuous aggregate "{item.view[1]}" reads it',
                hint="Drop that one first, and make it anew.",
            )


def _reads(session: context.Session, view: snapshots.View, aggregate: snapshots.Aggregate) -> bool:
    found = session.snapshot()
    tables = {aggregate.materialization_oid} if aggregate.materialized_only else set()
    return continuous.reads(view.definition, aggregate.query, tables, found)


async def drop(
    session: context.Session, aggregates: tuple[snapshots.Aggregate, ...], *, cascade: bool
) -> None:
    """Drop continuous aggregates with all that they are made of, and with `cascade` what reads them."""
    before = session.snapshot()
    for item in aggregates:
        await aggregate_turns.require(session, item.view_oid)
    if session.coordinator.status == "I":
        await session.coordinator.query("BEGIN")
    listed = ", ".join(quoting.relation(*item.view) for item in aggregates)
    await session.coordinator.query(f"DROP VIEW {listed}{' CASCADE' if cascade else ''}")
    for item in aggregates:
        await session.catalog_execute(f"SELECT orochi._forget_aggregate({item.aggregate_id})")
    await session.catalog_changed()
    await aggregate_log.forget_gone(session, before)

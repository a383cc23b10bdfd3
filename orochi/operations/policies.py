"""Calls that add and remove policies: jobs of a table, one of each kind."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from orochi import errors, ids, pgtypes
from orochi.catalog import definition as definitions
from orochi.executor import context
from orochi.jobs import kinds
from orochi.operations import hypertable
from orochi.operations.arguments import Arguments

Rows = list[tuple[str | None, ...]]

_literal = definitions.quote_literal
_MY_OID = "(SELECT oid FROM pg_catalog.pg_roles WHERE rolname = {})"


@dataclasses.dataclass(frozen=True, slots=True)
class New:
    """A policy to be added.

    Attributes:
        kind: one of `kinds.KINDS`.
        table_oid: the Orochi table that it is about; its owner was checked.
        what: the policy in words, "retention policy".
        relation_name: what the user calls the relation.
        schedule_interval: an interval's text.
        initial_start: a timestamp's text, also the origin of the schedule; None is at once.
        if_not_exists: whether one that exists already is no error.
    """

    kind: str
    table_oid: int
    config: Mapping[str, Any]
    schedule_interval: str
    relation_name: str
    what: str
    initial_start: str | None = None
    timezone: str | None = None
    if_not_exists: bool = False


async def add(session: context.Session, sink: context.Sink, new: New) -> Rows:
    """Enter a policy into the catalog, in the client's transaction; the id of its job.

    Raises:
        OrochiError: 42710, there is one of the kind; 22023, it could never be due.
    """
    existing = await session.catalog_execute(
        f"SELECT job_id, config::text FROM orochi.orochi_jobs WHERE kind = '{new.kind}' AND table_oid = {new.table_oid}"
    )
    if existing:
        if not new.if_not_exists:
            raise errors.OrochiError(
                f'{article(new.what)} already exists for "{new.relation_name}"',
                sqlstate="42710",
                hint=f"Use if_not_exists => true, or remove_{new.what.replace(' ', '_')}() first.",
            )
        await sink.notice(f'{article(new.what)} already exists for "{new.relation_name}", skipping')
        return [(existing[0][0],)]
    await check_schedule(session, new.schedule_interval, new.timezone)
    start = "NULL" if new.initial_start is None else f"{_literal(new.initial_start)}::timestamptz"
    zone = "NULL" if new.timezone is None else _literal(new.timezone)
    rows = await session.catalog_execute(
        "INSERT INTO orochi.orochi_jobs (kind, table_oid, name, config, schedule_interval, initial_start,"
        " fixed_schedule, timezone, owner_oid, next_due)"
        f" VALUES ('{new.kind}', {new.table_oid}, {_literal(kinds.KINDS[new.kind].title)},"
        f" {_literal(json.dumps(dict(new.config)))}::jsonb, {_literal(new.schedule_interval)}::interval,"
        f" {start}, {start} IS NOT NULL, {zone}, {await my_oid(session)}, coalesce({start}, orochi._now()))"
        " RETURNING job_id"
    )
    return [(rows[0][0],)]


async def remove(
    session: context.Session,
    sink: context.Sink,
    kind: str,
    table_oid: int,
    *,
    if_exists: bool,
    what: str,
    name: str,
) -> bool:
    """Forget a table's policy of a kind; whether there was one.

    Raises:
        UndefinedObject: there is none.
    """
    rows = await session.catalog_execute(
        f"DELETE FROM orochi.orochi_jobs WHERE kind = '{kind}' AND table_oid = {table_oid} RETURNING job_id"
    )
    if not rows and not if_exists:
        raise errors.UndefinedObject(f'no {what} exists for "{name}"', hint="Use if_exists => true.")
    if not rows:
        await sink.notice(f'no {what} exists for "{name}", skipping')
    return bool(rows)


async def check_schedule(session: context.Session, interval: str, timezone: str | None) -> None:
    """Refuse a schedule on which nothing could ever run.

    Raises:
        InvalidParameter: the interval is not positive, or there is no such time zone.
    """
    checks = await session.catalog_execute(
        f"SELECT {_literal(interval)}::interval > interval '0',"
        f" {'true' if timezone is None else f'EXISTS (SELECT FROM pg_catalog.pg_timezone_names WHERE name = {_literal(timezone)})'}"
    )
    if checks[0][0] != "true":
        raise errors.InvalidParameter("schedule_interval must be positive")
    if checks[0][1] != "true":
        raise errors.InvalidParameter(f'invalid time zone "{timezone}"')


async def my_oid(session: context.Session) -> str:
    """The OID of the session's current role, as SQL."""
    result = await session.coordinator.query(f"SELECT {_MY_OID.format('current_user')}::bigint")
    return (result[-1].rows[0][0] or b"").decode()


def article(what: str) -> str:
    """`what` with its article."""
    return f"{'an' if what[:1] in 'aeiou' else 'a'} {what}"


async def add_compression_policy(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Compress chunks of a hypertable when they are older than `compress_after`; the job's id."""
    return await _add_aged(
        session, sink, call, kinds.COMPRESSION.name, "hypertable", "compress_after", "12 hours"
    )


async def remove_compression_policy(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Forget a hypertable's compression policy; whether there was one."""
    return [("t" if await _remove_aged(session, sink, call, kinds.COMPRESSION.name, "hypertable") else "f",)]


async def add_retention_policy(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Drop chunks of a hypertable when they are older than `drop_after`; the job's id."""
    return await _add_aged(session, sink, call, kinds.RETENTION.name, "relation", "drop_after", "1 day")


async def remove_retention_policy(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Forget a hypertable's retention policy."""
    await _remove_aged(session, sink, call, kinds.RETENTION.name, "relation")
    return [("",)]


async def _add_aged(
    session: context.Session,
    sink: context.Sink,
    call: Arguments,
    kind: str,
    relation: str,
    age_name: str,
    schedule: str,
) -> Rows:
    oid = await hypertable.rows_of(session, call.oid(relation))
    shell = await hypertable.hypertable(session, oid)
    table = session.snapshot().current(ids.TableId(oid))
    assert table.dimension is not None
    age = call.interval(age_name)
    if age is None:
        raise errors.InvalidParameter(f"{age_name} must not be NULL")
    is_time = table.dimension.type_oid in pgtypes.TIMES
    if is_time == (age.kind == "integer"):
        raise errors.InvalidParameter(
            f'invalid value for {age_name}: "{age.text}"',
            hint=f"Give {'an interval' if is_time else 'an integer'}, as the time column is of that kind.",
        )
    # whether it is a length of time at all, and an integer's now is known, PostgreSQL says
    await session.catalog_execute(
        f"SELECT orochi._policy_boundary({oid}::oid::regclass, {_literal(age.text)})"
    )
    new = New(
        kind=kind,
        table_oid=oid,
        config={age_name: age.text},
        schedule_interval=call.text("schedule_interval") or schedule,
        relation_name=hypertable.shown(session, shell),
        what=f"{kind} policy",
        initial_start=call.text("initial_start"),
        timezone=call.text("timezone"),
        if_not_exists=call.boolean("if_not_exists"),
    )
    return await add(session, sink, new)


async def _remove_aged(
    session: context.Session, sink: context.Sink, call: Arguments, kind: str, relation: str
) -> bool:
    oid = await hypertable.rows_of(session, call.oid(relation))
    shell = await hypertable.hypertable(session, oid)
    return await remove(
        session,
        sink,
        kind,
        oid,
        if_exists=call.boolean("if_exists"),
        what=f"{kind} policy",
        name=hypertable.shown(session, shell),
    )

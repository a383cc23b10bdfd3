"""Statements rehearsed in the client's session, then carried out on the shards.

PostgreSQL runs the client's own statement over copies (see `copies`); what it did to them is done to
the shards (see `changes`). If a row changed between its reading and its locking, the rehearsal is
taken back and held again over the rows of that moment, as PostgreSQL looks again at a row it had to
wait for. Locks stay, so this ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from orochi import errors, ids
from orochi.engine import placeholders
from orochi.executor import context, reduce
from orochi.operations import changes, copies, describe, own_changes, secured_copies, select, writes
from orochi.pgwire import messages
from orochi.planner import context as planning
from orochi.planner import parse, quoting, rehearsal, through

_ROUNDS = 50
#: Of one row they change nothing that what they call could see.
_OF_ROWS = frozenset({parse.Kind.UPDATE, parse.Kind.DELETE})
_SAVEPOINT = "orochi_rehearsal"
_STANDS_FOR = r"\bpg_temp\.orochi_w\d+\b|\borochi_constraint_\d+\b"
_CONSTRAINT_COLUMNS = """
SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY k.n)
FROM pg_catalog.pg_constraint c CROSS JOIN LATERAL pg_catalog.unnest(c.conkey) WITH ORDINALITY AS k(attnum, n)
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum
WHERE c.conrelid = $1::pg_catalog.oid AND c.conname = $2::pg_catalog.name
"""
_VERBS = {
    parse.Kind.INSERT: "INSERT",
    parse.Kind.UPDATE: "UPDATE",
    parse.Kind.DELETE: "DELETE",
    parse.Kind.MERGE: "MERGE",
    parse.Kind.DECLARE: "SELECT FOR UPDATE",
}


@dataclasses.dataclass(slots=True)
class _Round:
    """One rehearsal: what it made, what it ran, what it answered."""

    sql: str
    lock: str
    copied: list[copies.Copied]
    temporary: list[str]
    rows: writes.HeldRows
    tag: str


async def execute(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
    secured: AbstractSet[ids.TableId] = frozenset(),
) -> None:
    """Run any statement that writes Orochi tables or locks their rows, to its command tag.

    Policies of the tables in `secured` apply.
    """
    begun = session.coordinator.status == "I"
    if begun:
        await session.coordinator.query("BEGIN")
    try:
        if await reduce.is_read_only(session.coordinator):
            verb = _VERBS.get(statement.kind) or (
                "SELECT FOR UPDATE" if rehearsal.locks(statement.tree) else "SELECT"
            )
            raise errors.OrochiError(f"cannot execute {verb} in a read-only transaction", sqlstate="25006")
        done = await _settled(session, statement, parameters, sink, secured)
    except BaseException:
        coordinator = session.coordinator
        if begun and not coordinator.closed and not coordinator.busy and coordinator.status != "I":
            await coordinator.query("ROLLBACK")
        raise
    rows = (done.rows.data(), done.rows.count) if fields is not None or done.rows.count else None
    await writes.answer(session, sink, done.tag, fields, rows)


async def _settled(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    sink: context.Sink,
    secured: AbstractSet[ids.TableId],
) -> _Round:
    coordinator = session.coordinator

    def attempt(plan_context: planning.PlanContext) -> rehearsal.Rehearsal:
        target = getattr(statement.tree, "relation", None)
        if target is None or not isinstance(statement.tree, rehearsal.WRITES):
            return rehearsal.plan(statement, plan_context, (), secured)
        named, views = through.replaced(statement, plan_context)
        return rehearsal.plan(named, plan_context, views, secured)

    skipped: set[copies.Version] = set()
    cursor = statement.tree.portalname if statement.kind is parse.Kind.DECLARE else None
    for _ in range(_ROUNDS):
        plan = await select.with_folding(session, parameters, attempt)
        await coordinator.query(f"SAVEPOINT {_SAVEPOINT}")
        done = await _rehearse(session, statement, plan, sink.formats, skipped, cursor)
        if await _carry_out(session, done, skipped):
            await _end(session, done, statement)
            await coordinator.query(f"RELEASE SAVEPOINT {_SAVEPOINT}")
            return done
        await coordinator.query(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}; RELEASE SAVEPOINT {_SAVEPOINT}")
    raise errors.SerializationFailure(
        "rows changed again and again while the statement ran", hint="Run the transaction again."
    )


async def _end(session: context.Session, done: _Round, statement: parse.Statement) -> None:
    """Drop what was made; a cursor is opened anew, for its rows are locked now, and keeps it for the block."""
    coordinator = session.coordinator
    if statement.kind is parse.Kind.DECLARE:
        await coordinator.query(f"CLOSE {quoting.identifier(statement.tree.portalname)}")
        await coordinator.query(done.sql)
        return
    views = [f"pg_temp.{name}" for item in done.copied for name in (item.view, *item.above)]
    if views:
        await coordinator.query(f"DROP VIEW {', '.join(views)}")
    await reduce.drop_temp(coordinator, [*(f"pg_temp.{item.base}" for item in done.copied), *done.temporary])


async def _rehearse(
    session: context.Session,
    statement: parse.Statement,
    plan: rehearsal.Rehearsal,
    formats: tuple[int, ...],
    skipped: set[copies.Version],
    cursor: str | None,
) -> _Round:
    coordinator = session.coordinator
    await copies.recall_rows(session, plan.copies, plan.lock)
    reads = await describe.intermediates(session, plan.reads)
    loaded = await select.gather(session, reads)
    copied = [await copies.make(session, item, skipped) for item in plan.copies]
    names = await reduce.load_temp(coordinator, loaded, keys=select.keys_of(reads), on_commit_drop=True)
    assert reads.final_sql is not None
    known = {f"pg_temp.{item.plan.name}": f"pg_temp.{(item.view, *item.above)[-1]}" for item in copied}
    for item in plan.constraints:
        known[item.placeholder] = await _columns_of(session, item)
    sql = placeholders.substitute(
        reduce.rename(reads.final_sql, names), _STANDS_FOR, lambda name: known[name]
    )
    rows = writes.HeldRows()
    alone = len(copied) == 1 and len(copied[0].shards) < 2 and statement.kind in _OF_ROWS
    changed = () if alone else [item.table for item in plan.copies if not item.is_locked]
    try:
        async with own_changes.unseen(session, statement, changed):
            tag = await coordinator.stream(sql, (), (), (), formats, rows.append)
        if cursor is not None:
            await coordinator.query(f"MOVE ALL IN {quoting.identifier(cursor)}")
    except errors.RemoteError as error:
        raise copies.renamed(error, copied) from error
    return _Round(sql, plan.lock, copied, list(names.values()), rows, tag)


async def _columns_of(session: context.Session, constraint: rehearsal.Constraint) -> str:
    found = await session.coordinator.fetch(
        _CONSTRAINT_COLUMNS, (str(constraint.table).encode(), constraint.name.encode()), (0, 0)
    )
    return (found.rows[0][0] or b"").decode()


async def _carry_out(session: context.Session, done: _Round, skipped: set[copies.Version]) -> bool:
    """Lock what changed in the copies and change it in the shards; False if a row is not what it was."""
    for copied in done.copied:
        if copied.plan.is_locked and not await _lock(session, copied, done.lock, skipped):
            return False
        if copied.plan.has_policies and not copied.plan.is_locked:
            await secured_copies.take_off(session, copied.base)
    found = [await copies.observe(session, item) for item in done.copied if not item.plan.is_locked]
    for item in found:
        touched = np.unique(item.touched)
        if touched.size:
            strong = item.deleted.size or item.moved.size or item.copied.plan.keyed
            clause = "FOR UPDATE" if strong else "FOR NO KEY UPDATE"
            if len(await changes.lock(session, item.copied, touched, clause)) < len(touched):
                if session.transaction.isolation != "read committed":
                    raise errors.SerializationFailure("could not serialize access due to concurrent update")
                return False
    for item in found:
        await changes.apply(session, item)
    return True


async def _lock(
    session: context.Session, copied: copies.Copied, clause: str, skipped: set[copies.Version]
) -> bool:
    """Lock on the shards what the statement locked in a copy; rows that others have may be `skipped`."""
    if not len(copied.shards):
        return True
    wanted = await copies.locked(session, copied)
    got = await changes.lock(session, copied, wanted, clause)
    if len(got) == len(wanted):
        return True
    if clause.endswith("SKIP LOCKED"):
        skipped.update(copies.versions(copied, np.setdiff1d(wanted, got)))
    return False

"""Statements rehearsed in the client's session, then carried out on the shards.

PostgreSQL runs the client's own statement over copies (see `copies`); what it did to them is done to
the shards (see `changes`). If a row changed between its reading and its locking, the rehearsal is
taken back and held again over the rows of that moment, as PostgreSQL looks again at a row it had to
wait for. Locks stay, so this ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from orochi import errors
from orochi.engine import placeholders
from orochi.executor import context, reduce
from orochi.operations import changes, copies, select, writes
from orochi.pgwire import messages
from orochi.planner import context as planning
from orochi.planner import parse, rehearsal

_ROUNDS = 50
_SAVEPOINT = "orochi_rehearsal"
_COPY = r"\bpg_temp\.orochi_w\d+\b"
_VERBS = {
    parse.Kind.INSERT: "INSERT",
    parse.Kind.UPDATE: "UPDATE",
    parse.Kind.DELETE: "DELETE",
    parse.Kind.MERGE: "MERGE",
}


@dataclasses.dataclass(slots=True)
class _Round:
    """One rehearsal: what it made, what it answered."""

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
) -> None:
    """Run any statement that writes Orochi tables, to its command tag."""
    begun = session.coordinator.status == "I"
    if begun:
        await session.coordinator.query("BEGIN")
    try:
        if await reduce.is_read_only(session.coordinator):
            verb = _VERBS.get(statement.kind, "SELECT")
            raise errors.OrochiError(f"cannot execute {verb} in a read-only transaction", sqlstate="25006")
        done = await _settled(session, statement, parameters, sink)
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
) -> _Round:
    coordinator = session.coordinator

    def attempt(plan_context: planning.PlanContext) -> rehearsal.Rehearsal:
        return rehearsal.plan(statement, plan_context)

    for _ in range(_ROUNDS):
        plan = await select.with_folding(session, parameters, attempt)
        await coordinator.query(f"SAVEPOINT {_SAVEPOINT}")
        done = await _rehearse(session, plan, sink.formats)
        if await _carry_out(session, done):
            names = [*(f"pg_temp.{item.base}" for item in done.copied), *done.temporary]
            views = [f"pg_temp.{item.view}" for item in done.copied]
            if views:
                await coordinator.query(f"DROP VIEW {', '.join(views)}")
            await reduce.drop_temp(coordinator, names)
            await coordinator.query(f"RELEASE SAVEPOINT {_SAVEPOINT}")
            return done
        await coordinator.query(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}; RELEASE SAVEPOINT {_SAVEPOINT}")
    raise errors.SerializationFailure(
        "rows changed again and again while the statement ran", hint="Run the transaction again."
    )


async def _rehearse(session: context.Session, plan: rehearsal.Rehearsal, formats: tuple[int, ...]) -> _Round:
    coordinator = session.coordinator
    reads = await select.describe_intermediates(session, plan.reads)
    loaded = await select.gather(session, reads)
    copied = [await copies.make(session, item) for item in plan.copies]
    names = await reduce.load_temp(coordinator, loaded, keys=select.keys_of(reads))
    assert reads.final_sql is not None
    views = {f"pg_temp.{item.plan.name}": f"pg_temp.{item.view}" for item in copied}
    sql = placeholders.substitute(reduce.rename(reads.final_sql, names), _COPY, lambda name: views[name])
    rows = writes.HeldRows()
    try:
        tag = await coordinator.stream(sql, (), (), (), formats, rows.append)
    except errors.RemoteError as error:
        raise copies.renamed(error, copied) from error
    return _Round(copied, list(names.values()), rows, tag)


async def _carry_out(session: context.Session, done: _Round) -> bool:
    """Lock what changed in the copies and change it in the shards; False if a row is not what it was."""
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

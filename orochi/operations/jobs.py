"""Calls on jobs: `add_job`, `alter_job`, `delete_job`. They change the catalog, in the client's transaction."""

from __future__ import annotations

from orochi import errors
from orochi.catalog import definition as definitions
from orochi.executor import context
from orochi.jobs import kinds
from orochi.operations import policies
from orochi.operations.arguments import Arguments

Rows = list[tuple[str | None, ...]]

_literal = definitions.quote_literal
_PROCEDURE = """
SELECT p.prokind IN ('f', 'p') AND p.pronargs = 2 AND p.proargtypes::text = '23 3802',
    has_function_privilege(p.oid, 'EXECUTE'), p.oid::regprocedure
FROM pg_catalog.pg_proc p WHERE p.oid = {}
"""
#: Arguments of `alter_job` that are columns of the catalog, and their types.
_COLUMNS = {
    "schedule_interval": ("schedule_interval", "interval"),
    "max_runtime": ("max_runtime", "interval"),
    "max_retries": ("max_retries", "integer"),
    "retry_period": ("retry_period", "interval"),
    "scheduled": ("enabled", "boolean"),
    "config": ("config", "jsonb"),
    "next_start": ("next_due", "timestamptz"),
    "fixed_schedule": ("fixed_schedule", "boolean"),
    "initial_start": ("initial_start", "timestamptz"),
    "timezone": ("timezone", "text"),
    "job_name": ("name", "text"),
}
_ROW = (
    "job_id, schedule_interval, max_runtime, max_retries, retry_period, enabled, config, next_due, NULL::text,"
    " fixed_schedule, initial_start, timezone, name"
)


async def add_job(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Have a procedure called on a schedule, with the rights of who adds the job; its id."""
    proc = call.oid("proc")
    await _check_procedure(session, proc)
    await _check_config(session, call)
    interval = call.required("schedule_interval")
    await policies.check_schedule(session, interval, call.text("timezone"))
    start = _value(call, "initial_start", "timestamptz")
    rows = await session.catalog_execute(
        "INSERT INTO orochi.orochi_jobs (kind, proc_oid, name, config, schedule_interval, fixed_schedule,"
        " initial_start, timezone, enabled, owner_oid, retry_period, next_due)"
        f" VALUES ('{kinds.USER.name}', {proc}, {_value(call, 'job_name', 'text')}, {_value(call, 'config', 'jsonb')},"
        f" {_literal(interval)}::interval, {'true' if call.boolean('fixed_schedule') else 'false'},"
        f" coalesce({start}, orochi._now()), {_value(call, 'timezone', 'text')},"
        f" {'true' if call.boolean('scheduled') else 'false'}, {await policies.my_oid(session)},"
        f" interval '10 seconds', coalesce({start}, orochi._now())) RETURNING job_id"
    )
    return [(rows[0][0],)]


async def alter_job(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Change what is given and not NULL; the job as it is then, no row if there is none and that is no error."""
    job_id = int(call.required("job_id"))
    if not await find(session, job_id, "alter", missing_ok=call.boolean("if_exists")):
        await sink.notice(f"job {job_id} not found, skipping")
        return []
    interval = call.text("schedule_interval")
    if interval is not None or call.text("timezone") is not None:
        await policies.check_schedule(session, interval or "1 day", call.text("timezone"))
    await _check_config(session, call)
    changes = [
        f"{column} = {_literal(given)}::{kind}"
        for name, (column, kind) in _COLUMNS.items()
        if (given := call.text(name)) is not None
    ]
    if call.text("scheduled") == "true":
        changes.append("consecutive_failures = 0")
    # the row is locked even where nothing changes
    rows = await session.catalog_execute(
        f"UPDATE orochi.orochi_jobs SET {', '.join(changes) or 'enabled = enabled'}"
        f" WHERE job_id = {job_id} RETURNING {_ROW}"
    )
    return [_printed(row) for row in rows]


async def delete_job(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Forget a job and its history; a run under way ends at its next step."""
    job_id = int(call.required("job_id"))
    await find(session, job_id, "delete")
    await session.catalog_execute(f"DELETE FROM orochi.orochi_jobs WHERE job_id = {job_id}")
    return [("",)]


async def find(session: context.Session, job_id: int, what: str, *, missing_ok: bool = False) -> bool:
    """Whether there is such a job, which the session's role owns.

    Raises:
        UndefinedObject: there is none.
        OrochiError: 42501, it belongs to another role.
    """
    rows = await session.catalog_execute(
        f"SELECT owner_oid::bigint FROM orochi.orochi_jobs WHERE job_id = {job_id}"
    )
    if not rows:
        if missing_ok:
            return False
        raise errors.UndefinedObject(f"job {job_id} not found", hint="orochi.jobs lists them.")
    result = await session.coordinator.query(f"SELECT orochi._is_mine({rows[0][0]}::oid)")
    if result[-1].rows[0][0] != b"t":
        raise errors.OrochiError(
            f"insufficient permissions to {what} job {job_id}",
            sqlstate="42501",
            detail="It belongs to another role.",
        )
    return True


async def _check_procedure(session: context.Session, oid: int) -> None:
    result = await session.coordinator.query(_PROCEDURE.format(oid))
    fits, may, signature = result[-1].rows[0]
    name = (signature or b"").decode()
    if fits != b"t":
        raise errors.OrochiError(
            f"{name} cannot be run as a job",
            sqlstate="42883",
            hint="A job is a procedure or function with two arguments: job_id integer, config jsonb.",
        )
    if may != b"t":
        raise errors.OrochiError(f"permission denied for {name}", sqlstate="42501")


async def _check_config(session: context.Session, call: Arguments) -> None:
    """Call the function that the user gave to look at the configuration; it raises what it does not like."""
    if call.text("check_config") is None:
        return
    check = call.oid("check_config")
    result = await session.coordinator.query(
        f"SELECT format('%I.%I', n.nspname, p.proname), p.prokind FROM pg_catalog.pg_proc p"
        f" JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE p.oid = {check}"
    )
    name, kind = (value.decode() for value in result[-1].rows[0] if value is not None)
    verb = "CALL" if kind == "p" else "SELECT"
    await session.coordinator.query(f"{verb} {name}({_value(call, 'config', 'jsonb')})")


def _value(call: Arguments, name: str, kind: str) -> str:
    given = call.text(name)
    return f"NULL::{kind}" if given is None else f"{_literal(given)}::{kind}"


def _printed(row: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """A catalog row as the function's columns, the last of which names the application."""
    name = row[-1] or kinds.USER.title
    return (*row[:-1], f"{name} [{row[0]}]")

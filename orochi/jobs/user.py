"""Jobs of users: their procedure is called through the gateway, by a session that has its owner's rights only.

The session logs in as a role of Orochi's that is nothing but a member of the owner, and takes the
owner's role. So the body cannot become more than its owner (RESET ROLE leads to that member), and its own COMMIT
works, which it would not in a function with the owner's rights.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.types import json as json_types

from orochi import errors

if TYPE_CHECKING:
    from orochi.jobs import running

Connection = psycopg.Connection[Any]

_OWNER = "SELECT rolname, rolsuper, rolname = current_user FROM pg_catalog.pg_roles WHERE oid = %s"
_PROCEDURE = """
SELECT n.nspname, p.proname, p.prokind FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE p.oid = %s
"""
_MEMBER = """
SELECT r.rolcanlogin AND pg_has_role(r.oid, %s::oid, 'MEMBER') FROM pg_catalog.pg_roles r WHERE r.rolname = %s
"""
_SECRET = "SELECT secret FROM orochi.orochi_secret"


def call(run: running.Run) -> None:
    """Call the job's procedure with its id and configuration."""
    with run.catalog() as catalog:
        owner = catalog.execute(_OWNER, (run.claim.owner_oid,)).fetchone()
        found = catalog.execute(_PROCEDURE, (run.claim.proc_oid,)).fetchone()
        if owner is None:
            raise errors.UndefinedObject(f"the owner of job {run.job_id} does not exist any more")
        if found is None:
            raise errors.UndefinedObject(
                f"the procedure of job {run.job_id} does not exist any more", sqlstate="42883"
            )
        name, superuser, is_own = owner
        login = None if superuser else _login(catalog, run.claim.owner_oid, name)
    schema, procedure, kind = found
    verb = sql.SQL("CALL" if kind == "p" else "SELECT")
    statement = sql.SQL("{} {}(%s::integer, %s::jsonb)").format(verb, sql.Identifier(schema, procedure))
    config = None if run.claim.config is None else json_types.Jsonb(run.claim.config)
    with run.gateway(*(login or ())) as gateway:
        # the call is to end with this process, before the job's next run
        gateway.execute("SET client_connection_check_interval = '500ms'")
        if not is_own:
            gateway.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(name)))
        if run.claim.max_runtime:
            limit = max(1, int(run.claim.max_runtime * 1000))
            gateway.execute(sql.SQL("SET statement_timeout = {}").format(limit))
        gateway.execute(statement, (run.job_id, config), prepare=False)


def _login(catalog: Connection, owner_oid: int, owner: str) -> tuple[str, str]:
    """Name and password of the role that runs the owner's jobs, which is made if it does not exist.

    Raises:
        OrochiError: 42501, Orochi's own role may not make it.
    """
    role = f"orochi_job_{owner_oid}"
    row = catalog.execute(_SECRET).fetchone()
    assert row is not None
    password = hashlib.sha256(f"{row[0]}:job:{owner_oid}".encode()).hexdigest()
    known = catalog.execute(_MEMBER, (owner_oid, role)).fetchone()
    if known is not None and known[0]:
        return role, password
    try:
        with catalog.transaction():
            catalog.execute("SELECT pg_advisory_xact_lock(%s, %s)", (0x6F6A726F, 0))
            if catalog.execute(_MEMBER, (owner_oid, role)).fetchone() is None:
                create = sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB PASSWORD {}")
                catalog.execute(create.format(sql.Identifier(role), sql.Literal(password)))
            catalog.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(owner), sql.Identifier(role)))
    except psycopg.errors.InsufficientPrivilege as error:
        raise errors.OrochiError(
            f'no session for jobs of "{owner}" can be made',
            sqlstate="42501",
            hint="Give Orochi's own role the right to create roles, or make it the owner of the job.",
        ) from error
    return role, password

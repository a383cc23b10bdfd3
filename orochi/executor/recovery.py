"""Finishing two-phase commits that a gateway left unfinished.

A prepared transaction on a node is committed if and only if its decision is recorded in
`orochi.orochi_transactions`. The order of reading makes that safe while gateways work: P, what is
prepared; T, the decisions; Q, what is prepared again. A gateway prepares before it decides and
finishes after, so what is in T but not in Q is done and its row may go.

An undecided transaction must not be aborted between our look and its decision. Decision and abort
therefore exclude each other in the database: both insert the row (gid, `twophase.MARKER_NODE`), whose
primary key lets only one commit. So a slow gateway cannot be torn; that its session on the coordinator,
which would decide, is still there, and the grace period then, only spare it needless aborts. One recovery runs at a time, under an advisory lock. Running twice does no harm.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import psycopg
from psycopg import conninfo

from orochi import settings as process_settings
from orochi.catalog import store, twophase
from orochi.executor import node_pool

#: Seconds that a prepared, undecided transaction is left to its gateway while that may still decide.
GRACE_SECONDS = 10.0
#: The advisory lock that one recovery holds, in the coordinator database.
ADVISORY_LOCK = 0x6F726F63_68690001
_TOMBSTONE_AGE = "1 day"
_CONNECT_SECONDS = 5

_PREPARED = """
SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::float8
FROM pg_catalog.pg_prepared_xacts
WHERE starts_with(gid, %s) AND database = current_database()
"""
_FORGET = """
WITH done AS (
    DELETE FROM orochi.orochi_transactions t
    USING unnest(%s::text[], %s::int[]) AS u(gid, node_id)
    WHERE t.gid = u.gid AND t.node_id = u.node_id
    RETURNING t.gid, t.node_id)
DELETE FROM orochi.orochi_transactions m
WHERE m.node_id = %s AND m.gid IN (SELECT gid FROM done) AND NOT EXISTS (
    SELECT FROM orochi.orochi_transactions o
    WHERE o.gid = m.gid AND o.node_id <> m.node_id
      AND NOT EXISTS (SELECT FROM done d WHERE d.gid = o.gid AND d.node_id = o.node_id))
"""
_SWEEP_TOMBSTONES = """
DELETE FROM orochi.orochi_transactions m
WHERE m.node_id = %s AND m.created_at < now() - %s::interval AND NOT EXISTS (
    SELECT FROM orochi.orochi_transactions o WHERE o.gid = m.gid AND o.node_id <> m.node_id)
"""


@dataclasses.dataclass(slots=True)
class Outcome:
    """What one run did: numbers of prepared transactions, of forgotten decision rows, and nodes not reached."""

    committed: int = 0
    aborted: int = 0
    forgotten: int = 0
    unreachable: tuple[int, ...] = ()


def resolve(
    coordinator: str, nodes: Mapping[int, str], *, grace_seconds: float = GRACE_SECONDS
) -> Outcome | None:
    """Commit what is decided, abort what is undecided and old, forget what is done.

    Args:
        coordinator: connection string of the coordinator database, for Orochi's own role.
        nodes: connection string of every node by id.
        grace_seconds: leave younger undecided transactions alone whose owner is there, or unknown.

    Returns:
        What was done, or None when another recovery is running.
    """
    with psycopg.connect(coordinator, autocommit=True, connect_timeout=_CONNECT_SECONDS) as catalog:
        locked = catalog.execute("SELECT pg_try_advisory_lock(%s)", (ADVISORY_LOCK,)).fetchone()
        if locked is None or not locked[0]:
            return None
        with _connections(nodes) as connections:
            run = _Run(catalog, connections, grace_seconds)
            run.outcome.unreachable = tuple(sorted(set(nodes) - set(connections)))
            run.all_steps()
            return run.outcome


def run(settings: process_settings.Settings) -> Outcome | None:
    """`resolve` for the cluster that `settings` name, over the nodes in its catalog."""
    with psycopg.connect(settings.coordinator_dsn, connect_timeout=_CONNECT_SECONDS) as catalog:
        known = store.nodes_sync(catalog)
    service = node_pool.service_endpoint(settings)
    secret = settings.node_password
    nodes = {
        int(node.node_id): conninfo.make_conninfo(
            host=node.host,
            port=node.port,
            dbname=node.dbname,
            user=settings.node_user or service.user,
            password=service.password if secret is None else secret.get_secret_value(),
        )
        for node in known
    }
    return resolve(settings.coordinator_dsn, nodes)


@contextlib.contextmanager
def _connections(nodes: Mapping[int, str]) -> Iterator[dict[int, psycopg.Connection]]:
    with contextlib.ExitStack() as stack:
        found: dict[int, psycopg.Connection] = {}
        for node_id, dsn in nodes.items():
            try:
                connection = psycopg.connect(dsn, autocommit=True, connect_timeout=_CONNECT_SECONDS)
            except psycopg.OperationalError:
                continue
            found[node_id] = stack.enter_context(connection)
        yield found


class _Run:
    """One pass, under the lock."""

    def __init__(
        self, catalog: psycopg.Connection, nodes: Mapping[int, psycopg.Connection], grace_seconds: float
    ) -> None:
        self._catalog = catalog
        self._nodes = nodes
        self._grace = grace_seconds
        row = catalog.execute(twophase.CLUSTER_ID_SQL).fetchone()
        assert row is not None
        self._prefix = twophase.gid(row[0], "")
        self.outcome = Outcome()

    def all_steps(self) -> None:
        """P, T, Q, and then act."""
        before = self._prepared()
        decided = self._decisions()
        after = self._prepared()
        undecided: dict[str, list[tuple[int, str]]] = {}
        for node_id, branches in after.items():
            for branch, age in branches.items():
                if branch not in before.get(node_id, {}):
                    continue
                gid = twophase.gid_of(branch)
                if gid in decided:
                    self._finish(branch, node_id, commit=node_id in decided[gid])
                elif age >= self._grace or self._orphaned(gid):
                    undecided.setdefault(gid, []).append((node_id, branch))
        for gid, parts in undecided.items():
            self._abort(gid, parts)
        self._forget(decided)

    def _prepared(self) -> dict[int, dict[str, float]]:
        return {
            node_id: dict(connection.execute(_PREPARED, (self._prefix,)).fetchall())
            for node_id, connection in self._nodes.items()
        }

    def _orphaned(self, gid: str) -> bool:
        """Whether the session that would decide has ended: nobody else can."""
        owner = twophase.owner_of(gid)
        if owner is None:
            return False
        there = "SELECT FROM pg_catalog.pg_stat_activity WHERE pid = %s"
        return self._catalog.execute(there, (owner,)).fetchone() is None

    def _decisions(self, gid: str | None = None) -> dict[str, set[int]]:
        """Nodes by decided gid; a gid that has only the marker was aborted and maps to no node."""
        rows: Sequence[tuple[str, int]] = self._catalog.execute(
            "SELECT gid, node_id FROM orochi.orochi_transactions "
            "WHERE starts_with(gid, %(prefix)s) AND (%(gid)s::text IS NULL OR gid = %(gid)s)",
            {"prefix": self._prefix, "gid": gid},
        ).fetchall()
        found: dict[str, set[int]] = {}
        for key, node_id in rows:
            nodes = found.setdefault(key, set())
            if node_id != twophase.MARKER_NODE:
                nodes.add(node_id)
        return found

    def _abort(self, gid: str, parts: list[tuple[int, str]]) -> None:
        try:
            with self._catalog.transaction():
                # a gateway deciding at this moment holds the row: leave it to the next pass
                self._catalog.execute("SET LOCAL lock_timeout = '500ms'")
                self._catalog.execute(
                    "INSERT INTO orochi.orochi_transactions (gid, node_id) VALUES (%s, %s) "
                    "ON CONFLICT DO NOTHING",
                    (gid, twophase.MARKER_NODE),
                )
        except psycopg.errors.LockNotAvailable:
            return
        nodes_to_commit = self._decisions(gid)[gid]
        for node_id, branch in parts:
            self._finish(branch, node_id, commit=node_id in nodes_to_commit)

    def _finish(self, branch: str, node_id: int, *, commit: bool) -> None:
        command = "COMMIT PREPARED" if commit else "ROLLBACK PREPARED"
        try:
            self._nodes[node_id].execute(f"{command} {_literal(branch)}")
        except psycopg.errors.UndefinedObject:
            return  # its gateway was faster
        except psycopg.errors.ObjectNotInPrerequisiteState:
            return  # its gateway is at it
        if commit:
            self.outcome.committed += 1
        else:
            self.outcome.aborted += 1

    def _forget(self, decided: Mapping[str, set[int]]) -> None:
        """Drop decision rows of nodes where nothing is prepared under that name any more."""
        left = {
            node_id: {twophase.gid_of(branch) for branch in branches}
            for node_id, branches in self._prepared().items()
        }
        pairs = [
            (gid, node_id)
            for gid, node_ids in decided.items()
            for node_id in node_ids
            if node_id in left and gid not in left[node_id]
        ]
        if pairs:
            gids, node_ids_done = zip(*pairs, strict=True)
            self._catalog.execute(_FORGET, (list(gids), list(node_ids_done), twophase.MARKER_NODE))
            self.outcome.forgotten += len(pairs)
        self._catalog.execute(_SWEEP_TOMBSTONES, (twophase.MARKER_NODE, _TOMBSTONE_AGE))


def _literal(branch: str) -> str:
    return "'" + branch.replace("'", "''") + "'"

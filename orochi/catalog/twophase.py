"""What every two-phase commit of a cluster agrees on: names, and the rows that are the decision.

The gateway's transactions and the workers' (compression) follow it alike, so one recovery serves
both. A decision is one row a node plus one with `MARKER_NODE`, whose key excludes an abort.
"""

from __future__ import annotations

import re
import secrets

#: What tells a cluster from all others: the coordinator's server and database.
CLUSTER_ID_SQL = (
    "SELECT pg_catalog.to_hex(s.system_identifier) || '.' || pg_catalog.to_hex(d.oid::bigint) "
    "FROM pg_catalog.pg_control_system() s, pg_catalog.pg_database d "
    "WHERE d.datname = pg_catalog.current_database()"
)

#: The `node_id` of the row that makes a decision and an abort exclude each other.
MARKER_NODE = -1


_OWNER = re.compile(r"_p([1-9]\d*)\.[0-9a-f]+$")


def gid(cluster_id: str, unique: str) -> str:
    """A global transaction id; nodes may serve several clusters."""
    return f"orochi_{cluster_id}_{unique}"


def new_gid(cluster_id: str, owner: int) -> str:
    """A gid that never was; `owner` is the process on the coordinator whose session decides."""
    return gid(cluster_id, f"p{owner}.{secrets.token_hex(8)}")


def owner_of(gid: str) -> int | None:
    """The process that alone can decide the transaction; None if its name does not tell."""
    found = _OWNER.search(gid)
    return None if found is None else int(found[1])


def branch(gid: str, node_id: int) -> str:
    """What a node prepares its part of `gid` as: two nodes may be databases of one server."""
    return f"{gid}:{node_id}"


def gid_of(branch: str) -> str:
    """The global transaction id that a prepared part belongs to."""
    return branch.partition(":")[0]


#: Held shared, in the coordinator's database, from a decision until its last COMMIT PREPARED was
#: answered; exclusively by whoever takes one snapshot of several nodes.
COMMIT_LOCK = 0x6F726F63_68690002

#: In front of the decision, in the same query string: a client's own limits do not end a commit.
LOCK_COMMITS_SQL = f"SET LOCAL lock_timeout = 0; SELECT pg_catalog.pg_advisory_lock_shared({COMMIT_LOCK})"

#: Lets go of the lock, and says nothing where it is not held.
UNLOCK_COMMITS_SQL = (
    f"SELECT pg_catalog.pg_advisory_unlock_shared({COMMIT_LOCK}) FROM pg_catalog.pg_locks "
    "WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid() AND granted "
    f"AND classid = {COMMIT_LOCK >> 32} AND objid = {COMMIT_LOCK & 0xFFFFFFFF} AND objsubid = 1"
)

"""Putting the catalog into a coordinator and nodes into the catalog: `orochi migrate` and `orochi up`.

Every step may be repeated: on a cluster that has it all already, nothing changes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from urllib import parse

import psycopg
from psycopg import conninfo

from orochi import settings as settings_module
from orochi.catalog import bootstrap


def install(coordinator_dsn: str, node_dsns: Sequence[str]) -> list[int]:
    """Migrate the catalog, prepare the nodes, register them; their ids in the same order.

    Args:
        coordinator_dsn: the database that holds the catalog.
        node_dsns: the data nodes. The coordinator's own DSN makes it one; so does an empty list
            where no node is registered yet.
    """
    bootstrap.migrate(coordinator_dsn)
    if not node_dsns:
        known = _registered(coordinator_dsn)
        if known:
            return known
    ids = []
    for dsn in node_dsns or [coordinator_dsn]:
        bootstrap.prepare_node(dsn)
        ids.append(bootstrap.register_node(coordinator_dsn, dsn))
    return ids


def _registered(coordinator_dsn: str) -> list[int]:
    with psycopg.connect(coordinator_dsn) as connection:
        rows = connection.execute(
            "SELECT node_id FROM orochi.orochi_nodes WHERE holds_shards ORDER BY node_id"
        )
        return [int(row[0]) for row in rows]


def node_dsn(settings: settings_module.Settings, address: str) -> str:
    """The DSN of `HOST:PORT[/DBNAME]`, with the credentials that Orochi uses for nodes.

    Raises:
        ValueError: the address has another form.
    """
    split = parse.urlsplit(f"//{address}")
    try:
        host, port = split.hostname, split.port
    except ValueError as error:
        raise ValueError(f"not HOST:PORT[/DBNAME]: {address}") from error
    if not host or port is None or split.query or split.username:
        raise ValueError(f"not HOST:PORT[/DBNAME]: {address}")
    base = conninfo.conninfo_to_dict(settings.coordinator_dsn)
    base |= {"host": host, "port": port, "dbname": split.path.strip("/") or base.get("dbname", "orochi")}
    if settings.node_user is not None:
        base["user"] = settings.node_user
    if settings.node_password is not None:
        base["password"] = settings.node_password.get_secret_value()
    return conninfo.make_conninfo("", **base)


def wait_for(dsns: Sequence[str], seconds: float) -> None:
    """Wait until all servers take connections.

    Raises:
        TimeoutError: one does not; the message is what it last said.
    """
    deadline = time.monotonic() + seconds
    for dsn in dsns:
        while True:
            try:
                psycopg.connect(dsn, connect_timeout=5).close()
                break
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(str(error).strip()) from error
            time.sleep(0.5)

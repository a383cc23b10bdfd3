"""How Orochi itself reaches the node databases that the catalog names."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import conninfo

from orochi import settings as process_settings


def dsn(settings: process_settings.Settings, host: str, port: int, dbname: str) -> str:
    """A node's connection string: the coordinator's credentials, unless nodes have their own."""
    parts = conninfo.conninfo_to_dict(settings.coordinator_dsn)
    parts |= {"host": host, "port": port, "dbname": dbname}
    if settings.node_user is not None:
        parts["user"] = settings.node_user
        parts.pop("password", None)
    if settings.node_password is not None:
        parts["password"] = settings.node_password.get_secret_value()
    return conninfo.make_conninfo("", **parts)


def all_dsns(connection: psycopg.Connection[Any], settings: process_settings.Settings) -> dict[int, str]:
    """The connection string of every node in the catalog, by id."""
    rows = connection.execute("SELECT node_id, hostname, port, dbname FROM orochi.orochi_nodes").fetchall()
    return {int(node_id): dsn(settings, host, port, dbname) for node_id, host, port, dbname in rows}

"""A worker process's connections to its node: one for queries, and one for maintenance that yields to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

from orochi import errors
from orochi import settings as process_settings
from orochi.catalog import nodes
from orochi.timeseries import yielding

Connection = psycopg.Connection[Any]

CONNECT_SECONDS = 5
_NODE = "SELECT hostname, port, dbname FROM orochi.orochi_nodes WHERE node_id = %s"


class NodeLink:
    """For one task at a time."""

    def __init__(self, settings: process_settings.Settings, node_id: int) -> None:
        self._settings = settings
        self._node_id = node_id
        self._connections: dict[bool, Connection] = {}
        self._yields = False

    def give_way(self, yields: bool) -> None:
        """From now on this process, and the server's that reads for it, yield to others', or no more."""
        if yields != self._yields:
            self._yields = yields
            yielding.session(self._settings.maintenance_nice if yields else 0)

    def do(self, work: Callable[[], None]) -> None:
        """Do a task's work, giving way if it is to."""
        if self._yields:
            yielding.done(work, self._settings.maintenance_nice)
        else:
            work()

    @property
    def is_open(self) -> bool:
        """Whether the connection for such work is there."""
        found = self._connections.get(self._yields)
        return found is not None and not found.closed

    def connection(self) -> Connection:
        """The connection for such work, made if it is not there.

        Raises:
            UndefinedObject: there is no such node.
        """
        if not self.is_open:
            self._connections[self._yields] = made = connect_node(self._settings, self._node_id)
            if self._yields:
                yielding.serve(made, self._settings.maintenance_nice)
        return self._connections[self._yields]


def connect_node(settings: process_settings.Settings, node_id: int) -> Connection:
    """A connection to a node's database, where every name must be qualified, in autocommit mode.

    Raises:
        UndefinedObject: there is no such node.
    """
    with psycopg.connect(settings.coordinator_dsn, connect_timeout=CONNECT_SECONDS) as coordinator:
        row = coordinator.execute(_NODE, (node_id,)).fetchone()
    if row is None:
        raise errors.UndefinedObject(f"node {node_id} is not in the catalog")
    return psycopg.connect(
        nodes.dsn(settings, *row),
        autocommit=True,
        prepare_threshold=None,
        connect_timeout=CONNECT_SECONDS,
        application_name=f"orochi worker n{node_id}",
        options=f"-c search_path=pg_catalog -c statement_timeout={int(settings.fragment_timeout * 1000)}",
        client_encoding="UTF8",
    )

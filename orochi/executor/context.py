"""What a statement's executor is given: the client's session seen from below, as protocols.

The gateway implements these; `orochi.operations` uses them. Nothing here knows of sockets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from orochi import ids
    from orochi.catalog import snapshot as snapshots
    from orochi.executor import node_pool, transaction, transport
    from orochi.pgwire import client, messages
    from orochi.planner import builtins


@dataclasses.dataclass(frozen=True, slots=True)
class Parameters:
    """Bound parameters as the client sent them.

    Attributes:
        values: wire values, None for NULL.
        formats: 0 text or 1 binary, one for each value.
        type_oids: the coordinator's inferred types.
    """

    values: tuple[bytes | None, ...]
    formats: tuple[int, ...]
    type_oids: tuple[int, ...]


class Sink(Protocol):
    """Where a statement's answer goes. Awaiting `rows` waits while the client is slow."""

    formats: tuple[int, ...]  # result format of each column; () = all text, one = all alike

    async def columns(self, columns: Sequence[messages.FieldDescription]) -> None:
        """Announce the result's columns; a no-op where the client asked by Describe."""

    async def rows(self, data: bytes | memoryview, count: int) -> None:
        """Send `count` encoded DataRow messages, `data` holding whole messages."""

    async def complete(self, tag: str) -> None:
        """Send CommandComplete."""

    async def notice(self, message: str, *, severity: str = "NOTICE", hint: str | None = None) -> None:
        """Send a NoticeResponse."""

    def copy_in(self, overall_format: int, column_formats: Sequence[int]) -> AsyncIterator[bytes]:
        """Send CopyInResponse and yield CopyData payloads until CopyDone.

        Raises:
            QueryCanceled: the client sent CopyFail.
        """

    async def copy_out(self, overall_format: int, column_formats: Sequence[int]) -> None:
        """Send CopyOutResponse; `copy_data` and `copy_done` follow."""

    async def copy_data(self, payload: bytes) -> None:
        """Send one CopyData message."""

    async def copy_done(self) -> None:
        """Send CopyDone."""


class Runtime(Protocol):
    """The process-wide services, composed in `orochi.runtime`."""

    nodes: node_pool.NodePool
    transport: transport.Transport
    builtins: builtins.Builtins
    collation: str  # of the coordinator's database

    def snapshot(self) -> snapshots.Snapshot:
        """The newest committed catalog this process knows."""

    async def refresh(self) -> snapshots.Snapshot:
        """Reload the committed catalog if its version row moved; returns the newest."""

    def router_plan(
        self,
        sql: str,
        type_oids: tuple[int, ...],
        search_path: tuple[str, ...],
        snapshot: snapshots.Snapshot,
        temp_tables: frozenset[str] = frozenset(),
    ) -> Any:
        """The cached generic plan of a prepared statement (`orochi.operations.templates.Template`)."""

    def service(self) -> node_pool.Lease:
        """`async with runtime.service() as conn`: a pooled coordinator connection of Orochi's own role."""


class Session(Protocol):
    """One client's session, while a statement of it runs."""

    runtime: Runtime
    query_id: ids.QueryId
    user: str
    coordinator: client.PgConnection  # the client's own, idle and ours until the statement ends
    transaction: transaction.Transaction
    settings: Mapping[str, str]  # GUCs whose value differs from the server default
    search_path: tuple[str, ...]  # existing schemas in lookup order, pg_catalog left out
    temp_tables: frozenset[str]  # temporary relations that hide an Orochi table or view of their name

    @property
    def comes_back(self) -> bool:
        """Whether PostgreSQL itself is the client, for a function that it runs: docs/adr/0006."""

    @property
    def catalog_is_own(self) -> bool:
        """Whether the open transaction changed the catalog."""

    def snapshot(self) -> snapshots.Snapshot:
        """What this session plans against: its transaction's uncommitted catalog, if it changed it."""

    def plan_anew(self) -> None:
        """A block of one snapshot has used no node yet: take the newest catalog for it."""

    async def catalog_changed(self) -> None:
        """The session wrote catalog rows on its own connection: reload through it until the end of the transaction."""

    async def catalog_execute(self, sql: str) -> list[tuple[str | None, ...]]:
        """Run SQL on the client's connection, in its transaction, with Orochi's own rights."""

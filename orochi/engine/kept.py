"""Scans' rows that a worker keeps as tables of native types, for statements that read the same again.

A scan's rows are those of its stripes, less the delete vector, and those of its heap. Stripe files never change, and
the rest depends on the snapshot alone. So kept rows are right in a snapshot that sees the same transactions as the one
they were read in, and in any other if the heap is empty, as it was then, and the same rows are deleted. Which transactions a
number stands for only one server knows, without a crash in between: another connection begins with nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
from psycopg import sql as pgsql

from orochi import settings
from orochi.engine import contract, lasting, stripes
from orochi.storage.columnar import cache

#: What keeping rows costs beside them.
_OVERHEAD = 2_048
Deleted = Mapping[int, np.ndarray]


class View:
    """The snapshot of a fragment's transaction: what it shows of the scans, asked when it is first needed."""

    def __init__(
        self, connection: psycopg.Connection[Any], scans: Sequence[contract.Scan], deleted: Deleted | None
    ) -> None:
        """Look through a connection that is in a transaction with one snapshot.

        Args:
            connection: to the node's database.
            scans: whose delete vector is meant.
            deleted: that delete vector, if it is known.
        """
        self._connection = connection
        self._scans = scans
        self._deleted = deleted
        self._snapshot: str | None = None

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """Where it looks through."""
        return self._connection

    def snapshot(self) -> str:
        """Which transactions it sees."""
        if self._snapshot is None:
            row = self._connection.execute("SELECT pg_catalog.pg_current_snapshot()::text").fetchone()
            assert row is not None
            self._snapshot = str(row[0])
        return self._snapshot

    def deleted(self) -> Deleted:
        """Deleted rows by stripe."""
        if self._deleted is None:
            self._deleted = stripes.deleted_rows(self._connection, iter(self._scans))
        return self._deleted

    def are_empty(self, relations: Sequence[str]) -> bool:
        """Whether none of the heap relations has a row."""
        asked = " OR ".join(f"EXISTS (SELECT FROM {relation})" for relation in relations)
        row = self._connection.execute(pgsql.SQL(f"SELECT {asked}")).fetchone()
        return row is not None and not row[0]


@dataclasses.dataclass(slots=True)
class Loaded:
    """A scan's rows, and what reading them was.

    Attributes:
        rows: of native types; such as last if they are kept.
        heap_rows: how many came from heaps.
        groups, skipped: chunk groups that were considered, and ruled out.
    """

    rows: pa.Table | lasting.Rows
    heap_rows: int
    groups: int
    skipped: int


@dataclasses.dataclass(slots=True)
class _Kept:
    loaded: Loaded
    snapshot: str
    deleted: tuple[tuple[int, bytes], ...]


class Keeper:
    """The kept rows of one process, bounded in bytes; the least recently used go first."""

    def __init__(self, limit_bytes: int) -> None:
        """Keep at most so much."""
        self._cache = cache.Cache(limit_bytes)
        self._connection: psycopg.Connection[Any] | None = None

    def again(self, parts: Sequence[contract.Scan], view: View, stripe_dir: pathlib.Path) -> Loaded | None:
        """What scans of several shards read, if it is kept from a snapshot that sees the same transactions; else None."""
        if view.connection is not self._connection:
            return None
        key = _key(parts, stripe_dir)
        kept: _Kept | None = None if key is None else self._cache.get(key)
        return kept.loaded if kept is not None and kept.snapshot == view.snapshot() else None

    def rows(
        self,
        parts: Sequence[contract.Scan],
        view: View,
        stripe_dir: pathlib.Path,
        load: Callable[[], Loaded],
    ) -> Loaded:
        """What scans of several shards read together.

        Args:
            parts: scans that differ in where they read only.
            view: the snapshot.
            stripe_dir: where the node keeps its stripe files.
            load: reads the rows in that snapshot.
        """
        if view.connection is not self._connection:
            self._cache.clear()
            self._connection = view.connection
        key = _key(parts, stripe_dir)
        if key is None:
            return load()
        kept: _Kept | None = self._cache.get(key)
        if kept is not None and self._holds(kept, parts, view):
            return kept.loaded
        loaded = load()
        gone = _of(parts, view.deleted())
        assert isinstance(loaded.rows, pa.Table)
        rows = lasting.Rows(loaded.rows)
        keeping = _Kept(dataclasses.replace(loaded, rows=rows), view.snapshot(), gone)
        return keeping.loaded if self._cache.put(key, keeping, rows.size_bytes + _OVERHEAD) else loaded

    def _holds(self, kept: _Kept, parts: Sequence[contract.Scan], view: View) -> bool:
        if kept.snapshot == view.snapshot():
            return True
        if kept.loaded.heap_rows or kept.deleted != _of(parts, view.deleted()):
            return False
        if not view.are_empty([part.relation for part in parts]):
            return False
        kept.snapshot = view.snapshot()
        return True


def _key(parts: Sequence[contract.Scan], stripe_dir: pathlib.Path) -> Hashable | None:
    """What decides the rows, but for the snapshot; None if a stripe is no file of this node."""
    found, folder = [], os.fspath(stripe_dir)  # as text: there may be hundreds
    for part in parts:
        try:
            files = tuple(
                (stripe.stripe_id, cache.file_key(os.stat(os.path.join(folder, stripe.path))))
                for stripe in part.stripes
            )
        except OSError:
            return None
        found.append((part.relation, files, _conditions(part)))
    return tuple(found), _shape(parts[0])


def _conditions(scan: contract.Scan) -> Hashable:
    return tuple((item.column, item.op, tuple(item.values)) for item in scan.predicates)


def _shape(scan: contract.Scan) -> Hashable:
    return tuple((column.name, column.type_oid, column.typmod) for column in scan.columns)


def _of(parts: Sequence[contract.Scan], deleted: Deleted) -> tuple[tuple[int, bytes], ...]:
    """The delete vector of these scans' stripes."""
    wanted = sorted({stripe.stripe_id for part in parts for stripe in part.stripes} & set(deleted))
    return tuple((number, deleted[number].tobytes()) for number in wanted)


@functools.lru_cache(maxsize=1)
def shared() -> Keeper:
    """The process's keeper, of the size that the settings give."""
    return Keeper(settings.get().scan_cache_mb << 20)

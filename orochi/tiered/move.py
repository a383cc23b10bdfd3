"""Moves a chunk to a tier. Runs in the maintenance worker of the chunk's node.

hot is the heap (of a columnar table: local stripes), warm local stripes, cold stripes in the object
store, frozen stripes in its archive. Rows that gathered in the heap become stripes first. Then every
stripe that is elsewhere is copied to where the tier has it, under a name never used before, and compared
with what it was copied from. One transaction of the catalog names the copies in the place of the
originals, which go when no running query can need them. So a crash at any step leaves the chunk whole
where it was, or whole where it was going, and files that no catalog row names for the sweep. The
stripes keep their ids, so deleted rows stay deleted.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import structlog

from orochi import errors
from orochi import settings as process_settings
from orochi.catalog import twophase
from orochi.storage.columnar import reader, writer
from orochi.storage.objects import client, failures, places
from orochi.tiered import tiers
from orochi.timeseries import chunkstate, compression, connections, orphans, upkeep

log = structlog.get_logger()

Connection = chunkstate.Connection
Facts = dict[str, Any]
#: Told each step that was reached, by name; tests stop there.
Reached = Callable[[str], None]

_PATTERNS = {
    places.Place.LOCAL: "^(?!(s3|frozen):)",
    places.Place.COLD: "^s3:",
    places.Place.FROZEN: "^frozen:",
}
#: Stripes may come while others are copied: so often it is looked again.
_ROUNDS = 10

_CHUNK = """
SELECT c.shard_id, c.tier, t.storage_type = 'columnar' AND d.table_oid IS NULL, p.node_id
FROM orochi.orochi_chunks c JOIN orochi.orochi_shards s USING (shard_id)
JOIN orochi.orochi_shard_placements p ON p.shard_id = s.shard_id AND p.ordinal = 0
JOIN orochi.orochi_tables t ON t.table_oid = s.table_oid
LEFT JOIN orochi.orochi_dimensions d ON d.table_oid = t.table_oid AND d.ordinal = 1
WHERE c.chunk_id = %s
"""
_STRIPES = "SELECT stripe_id, path, row_count FROM orochi.orochi_stripes WHERE chunk_id = %s ORDER BY 1"


@dataclasses.dataclass(frozen=True, slots=True)
class _Chunk:
    chunk_id: int
    shard_id: int
    tier: str
    is_columnar: bool
    node_id: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Stripe:
    stripe_id: int
    path: str
    rows: int


def move_chunk(
    coordinator: str,
    chunk_id: int,
    tier: str,
    settings: process_settings.Settings,
    reached: Reached = lambda step: None,
) -> Facts:
    """Bring a chunk into a tier; that it is there already does no harm.

    Returns:
        `chunk_id`, `status` ('moved', 'unchanged', or 'restoring': ask again later), `from`, `to`,
        `stripes` and `bytes` that were copied; while restoring, `ready` and `total` objects.

    Raises:
        UndefinedObject: there is no such chunk.
        OrochiError: 55000, no store is configured, or constraints keep the rows in the heap; 55P03,
            others do not let go of the chunk; 58030, the store fails.
    """
    tiers.check(tier)
    with _alone(coordinator, chunk_id) as catalog:
        chunk = _load(catalog, chunk_id)
        if tiers.PLACES[tier] is not places.Place.LOCAL:
            client.shared()
        waiting = _thaw(_stripes(catalog, chunk_id), tier, settings)
        if waiting is not None:
            return {"chunk_id": chunk_id, "status": "restoring", "from": chunk.tier, "to": tier, **waiting}
        to_heap = tier == "hot" and not chunk.is_columnar
        if not to_heap:
            _gather(coordinator, catalog, chunk, settings)
            reached("gathered")
        stripes, size = _relocate(catalog, chunk, "warm" if to_heap else tier, settings, reached)
        if to_heap:
            reached("heap")
            compression.decompress_chunks(coordinator, [chunk_id], settings)
        reached("labelled")
        catalog.execute(
            "UPDATE orochi.orochi_chunks SET tier = %s WHERE chunk_id = %s AND tier <> %s",
            (tier, chunk_id, tier),
        )
    status = "unchanged" if chunk.tier == tier and not stripes else "moved"
    return {
        "chunk_id": chunk_id,
        "status": status,
        "from": chunk.tier,
        "to": tier,
        "stripes": stripes,
        "bytes": size,
    }


@contextlib.contextmanager
def _alone(coordinator: str, chunk_id: int) -> Iterator[Connection]:
    """A catalog connection while which nobody else moves the chunk, and nobody sweeps orphans."""
    with connections.borrowed(coordinator) as catalog:
        catalog.execute("SELECT pg_advisory_lock(hashtextextended('orochi.move.' || %s, 0))", (chunk_id,))
        catalog.execute("SELECT pg_advisory_lock_shared(%s)", (upkeep.LOADING_LOCK,))
        try:
            yield catalog
        finally:
            if not catalog.closed:
                with contextlib.suppress(Exception):
                    catalog.execute("ROLLBACK")
                catalog.execute("SELECT pg_advisory_unlock_all()")


def _load(catalog: Connection, chunk_id: int) -> _Chunk:
    row = catalog.execute(_CHUNK, (chunk_id,)).fetchone()
    if row is None:
        raise errors.UndefinedObject(
            f"chunk {chunk_id} does not exist", hint="show_chunks() lists the chunks of a table."
        )
    return _Chunk(chunk_id, int(row[0]), str(row[1]), bool(row[2]), int(row[3]))


def _stripes(catalog: Connection, chunk_id: int) -> list[_Stripe]:
    rows = catalog.execute(_STRIPES, (chunk_id,)).fetchall()
    return [_Stripe(int(stripe_id), str(path), int(count)) for stripe_id, path, count in rows]


def _thaw(stripes: Sequence[_Stripe], tier: str, settings: process_settings.Settings) -> Facts | None:
    """Ask for archived objects that are to leave the archive; how far that is, or None if all can be read."""
    frozen = [stripe for stripe in stripes if places.place_of(stripe.path) is places.Place.FROZEN]
    if tier == "frozen" or not frozen:
        return None
    return restoring([stripe.path for stripe in frozen], settings)


def restoring(paths: Sequence[str], settings: process_settings.Settings) -> Facts | None:
    """Ask for archived objects; `ready` and `total` of them, or None if all can be read."""
    store = client.shared()
    states = [store.restore(places.key_of(path), settings.restore_days) for path in paths]
    ready = states.count("done")
    return None if ready == len(states) else {"ready": ready, "total": len(states)}


def _gather(
    coordinator: str, catalog: Connection, chunk: _Chunk, settings: process_settings.Settings
) -> None:
    """Turn what is in the heap into stripes: beside those in the store, or together with local ones."""
    away = any(
        places.place_of(stripe.path) is not places.Place.LOCAL for stripe in _stripes(catalog, chunk.chunk_id)
    )
    gather = compression.add_stripes if away else compression.compress_chunks
    for facts in gather(coordinator, [chunk.chunk_id], settings):
        if facts["status"] == "kept":
            raise errors.OrochiError(
                f"chunk {chunk.chunk_id} cannot be compressed: constraints keep its rows in the heap",
                sqlstate=failures.NOT_READY,
                hint="Only compressed chunks leave the hot tier. Drop its foreign keys or exclusion constraints.",
            )


def _relocate(
    catalog: Connection, chunk: _Chunk, tier: str, settings: process_settings.Settings, reached: Reached
) -> tuple[int, int]:
    """Have every stripe where the tier has it; how many were copied, and their bytes."""
    total = size = 0
    missing: FileNotFoundError | None = None
    for _ in range(_ROUNDS):
        away = [
            stripe
            for stripe in _stripes(catalog, chunk.chunk_id)
            if places.place_of(stripe.path) is not tiers.PLACES[tier]
        ]
        if not away:
            return total, size
        mover = _Mover(catalog, chunk, tier, settings)
        try:
            for stripe in away:
                mover.copy(stripe)
                reached("copied")
            mover.repoint(away)
        except FileNotFoundError as error:
            mover.undo()
            missing = error  # replaced meanwhile, unless the catalog still says that it is there
            continue
        except Exception:
            mover.undo()
            raise
        reached("repointed")
        total, size = total + mover.count, size + mover.bytes
    if missing is not None:
        raise errors.OrochiError(
            f"a stripe of chunk {chunk.chunk_id} is missing: {missing}",
            sqlstate=failures.IO_ERROR,
            hint="`orochi verify` lists what is missing or damaged.",
        )
    raise errors.OrochiError(
        "the chunk is in use by other transactions", sqlstate="55P03", hint="Try again when fewer rows come."
    )


class _Mover:
    """Copies of one chunk's stripes, named by the catalog all at once."""

    def __init__(
        self, catalog: Connection, chunk: _Chunk, tier: str, settings: process_settings.Settings
    ) -> None:
        self._catalog = catalog
        self._chunk = chunk
        self._tier = tier
        self._settings = settings
        self._copies: dict[int, str] = {}
        self.count = 0
        self.bytes = 0

    def copy(self, stripe: _Stripe) -> None:
        """Copy a stripe to its new place, and see that the copy is right."""
        if tiers.PLACES[self._tier] is places.Place.LOCAL:
            self._download(stripe)
        elif places.place_of(stripe.path) is places.Place.LOCAL:
            self._upload(stripe)
        else:
            self._within(stripe)

    def _new_key(self, stripe: _Stripe, size: int) -> str:
        row = self._catalog.execute(twophase.CLUSTER_ID_SQL).fetchone()
        assert row is not None
        key = places.new_key(str(row[0]), self._chunk.shard_id, self._chunk.chunk_id, stripe.stripe_id, size)
        self._copies[stripe.stripe_id] = places.of_key(key, tiers.PLACES[self._tier])
        return key

    @property
    def _storage_class(self) -> str | None:
        return self._settings.s3_frozen_class if self._tier == "frozen" else None

    def _upload(self, stripe: _Stripe) -> None:
        path = self._settings.stripe_dir / stripe.path
        reader.check(path)
        size = path.stat().st_size
        key = self._new_key(stripe, size)
        self.bytes += size
        client.shared().put_file(key, path, self._storage_class)

    def _within(self, stripe: _Stripe) -> None:
        origin = places.key_of(stripe.path)
        size = places.size_of(origin)
        key = self._new_key(stripe, size)
        self.bytes += size
        client.shared().copy(origin, key, self._storage_class)

    def _download(self, stripe: _Stripe) -> None:
        key = places.key_of(stripe.path)
        size = places.size_of(key)
        path = places.new_path(self._chunk.shard_id, self._chunk.chunk_id, stripe.stripe_id)
        target = self._settings.stripe_dir / path
        self._copies[stripe.stripe_id] = path
        target.parent.mkdir(parents=True, exist_ok=True)
        with writer.publishing(target) as temporary:
            client.shared().get_file(key, temporary, size)
            reader.check(temporary)
        self.bytes += size

    def repoint(self, stripes: Sequence[_Stripe]) -> None:
        """Name the copies in the catalog; those of stripes that are gone meanwhile are removed."""
        catalog = self._catalog
        catalog.execute("BEGIN")
        catalog.execute(
            "SELECT FROM orochi.orochi_shards WHERE shard_id = %s FOR NO KEY UPDATE", (self._chunk.shard_id,)
        )
        moved: set[int] = set()
        for stripe in stripes:
            row = catalog.execute(
                "UPDATE orochi.orochi_stripes SET path = %s WHERE stripe_id = %s AND path = %s RETURNING stripe_id",
                (self._copies[stripe.stripe_id], stripe.stripe_id, stripe.path),
            ).fetchone()
            if row is not None:
                moved.add(stripe.stripe_id)
                catalog.execute(
                    "INSERT INTO orochi.orochi_cleanup (node_id, kind, object_id, path, not_before)"
                    " VALUES (%s, 'file', %s, %s, now() + %s * interval '1 second')",
                    (self._chunk.node_id, stripe.stripe_id, stripe.path, self._settings.retired_grace),
                )
        catalog.execute(
            "UPDATE orochi.orochi_chunks SET tier = %s WHERE chunk_id = %s AND tier <> %s"
            " AND NOT EXISTS (SELECT FROM orochi.orochi_stripes s WHERE s.chunk_id = orochi_chunks.chunk_id"
            "   AND s.path !~ %s)",
            (self._tier, self._chunk.chunk_id, self._tier, _PATTERNS[tiers.PLACES[self._tier]]),
        )
        catalog.execute("COMMIT")
        self.count += len(moved)
        unused = [path for stripe_id, path in self._copies.items() if stripe_id not in moved]
        self._copies = {}
        orphans.remove(unused, self._settings.stripe_dir)

    def undo(self) -> None:
        """Remove copies that the catalog does not name: after an error before, or in, the transaction."""
        if self._catalog.closed:
            return  # it may have been committed: the sweep knows
        with contextlib.suppress(Exception):
            self._catalog.execute("ROLLBACK")
            orphans.remove(list(self._copies.values()), self._settings.stripe_dir)

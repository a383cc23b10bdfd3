"""`orochi verify`: every stripe file of a cluster read, checked and compared with the catalog.

A file that is damaged, not there, or not what the catalog says is a finding. Files that the catalog
does not name (written and not yet published, or retired and not yet swept) are read by nobody and
are not looked into. Without a catalog, of a cluster that is stopped, all stripe files are.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

import psycopg

from orochi import errors
from orochi.embedded import state
from orochi.storage.columnar import reader
from orochi.storage.objects import client, connecting, places, remote

_CATALOG = """
SELECT s.stripe_id, s.node_id, s.path, s.row_count, s.size_bytes, t.table_oid::regclass::text
FROM orochi.orochi_stripes s JOIN orochi.orochi_chunks USING (chunk_id) JOIN orochi.orochi_shards h USING (shard_id)
JOIN orochi.orochi_tables t ON t.table_oid = h.table_oid ORDER BY 1
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Stripe:
    """A file or object to check, and what the catalog says of it, if anything."""

    path: pathlib.Path | str
    table: str | None = None
    stripe_id: int | None = None
    row_count: int | None = None
    size_bytes: int | None = None
    store: client.Store | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with a stripe."""

    path: str
    table: str | None
    message: str
    detail: str


@dataclasses.dataclass(slots=True)
class Report:
    """What was read, and what was found."""

    stripes: int = 0
    column_chunks: int = 0
    bytes: int = 0
    from_catalog: bool = False
    findings: list[Finding] = dataclasses.field(default_factory=list)


class Unreachable(Exception):
    """The catalog cannot be read."""


def verify(
    data_dir: pathlib.Path,
    dsn: str | None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    quick: bool = False,
) -> Report:
    """Check the stripes below a cluster's folder.

    Args:
        data_dir: the cluster's folder, or the folder of this host's workers.
        dsn: where the catalog is; None: the running cluster's own, or no catalog.
        progress: told how many bytes of how many are done.
        quick: compare checksums only; else decode every value and compare with the statistics too.

    Raises:
        FileNotFoundError: there is no such folder.
        Unreachable: the catalog cannot be read.
    """
    if not data_dir.is_dir():
        raise FileNotFoundError(f"no cluster in {data_dir}")
    dsn = dsn or _running(data_dir)
    stripes = _without_catalog(data_dir) if dsn is None else _listed(data_dir, dsn)
    report = Report(from_catalog=dsn is not None)
    total = sum(stripe.size_bytes or _size(stripe.path) for stripe in stripes)
    missing = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for stripe, outcome in zip(
            stripes, pool.map(lambda stripe: _check(stripe, quick=quick), stripes), strict=True
        ):
            if isinstance(outcome, Finding):
                report.findings.append(outcome)
            elif outcome is None:
                missing.append(stripe)
            else:
                report.column_chunks += outcome
            report.stripes += 1
            report.bytes += stripe.size_bytes or _size(stripe.path)
            progress(report.bytes, total)
    if missing:
        report.findings.extend(_missing(data_dir, dsn, missing))
    return report


def _check(stripe: Stripe, *, quick: bool) -> int | Finding | None:
    """How many column chunks are right, what is wrong, or None when there is no file."""
    try:
        if isinstance(stripe.path, str) and places.place_of(stripe.path) is places.Place.FROZEN:
            return _archived(stripe, places.key_of(stripe.path))
        with _open(stripe) as opened:
            if stripe.row_count not in (None, opened.row_count):
                detail = f"It has {opened.row_count} rows, the catalog says {stripe.row_count}."
                return Finding(str(stripe.path), stripe.table, "stripe file is not the catalog's", detail)
            return opened.check() if quick else opened.verify()
    except (FileNotFoundError, errors.StalePlan):
        return None
    except errors.DataCorrupted as error:
        return Finding(str(stripe.path), stripe.table, error.message, error.detail or "")
    except (OSError, errors.OrochiError) as error:
        return Finding(str(stripe.path), stripe.table, "stripe file cannot be read", str(error))


def _open(stripe: Stripe) -> reader.StripeReader:
    if isinstance(stripe.path, pathlib.Path):
        return reader.StripeReader(stripe.path)
    return reader.StripeReader(remote.RemoteObject(stripe.path, None, stripe.store))


def _archived(stripe: Stripe, key: str) -> int | Finding:
    """An archived object cannot be read; what can be told is whether it is there, and how large."""
    head = (stripe.store or client.shared()).head(key)
    if head.size == stripe.size_bytes:
        return 0
    detail = f"It has {head.size} bytes, the catalog says {stripe.size_bytes}."
    return Finding(str(stripe.path), stripe.table, "stripe file is not the catalog's", detail)


def _store(data_dir: pathlib.Path) -> client.Store | None:
    """The object store that a cluster brought itself; None for the one that the settings name."""
    known = state.load(data_dir) if state.is_locked(data_dir) else None
    own = None if known is None else known.info.get("s3")
    if not own:
        return None
    return client.Store(
        connecting.Config(
            bucket=own["bucket"],
            endpoint=own["endpoint"],
            access_key=own["access_key"],
            secret_key=own["secret_key"],
        )
    )


def _missing(data_dir: pathlib.Path, dsn: str | None, stripes: Sequence[Stripe]) -> Iterator[Finding]:
    """Those that the catalog still names: a stripe may be replaced while others are read."""
    named = {stripe.stripe_id for stripe in _listed(data_dir, dsn)} if dsn is not None else set()
    for stripe in stripes:
        if stripe.stripe_id in named:
            detail = (
                f"The catalog names it, with {stripe.row_count} rows. Files of other hosts are checked there."
            )
            yield Finding(str(stripe.path), stripe.table, "stripe file is missing", detail)


def _running(data_dir: pathlib.Path) -> str | None:
    known = state.load(data_dir) if state.is_locked(data_dir) else None
    return None if known is None else known.info.get("coordinator_dsn")


def _listed(data_dir: pathlib.Path, dsn: str) -> list[Stripe]:
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            rows = connection.execute(_CATALOG).fetchall()
    except psycopg.Error as error:
        raise Unreachable(f"the catalog cannot be read: {error}") from error
    found, store = [], None
    for stripe_id, node_id, path, row_count, size_bytes, table in rows:
        folder = data_dir / f"node{node_id}"
        folder = folder if folder.is_dir() else data_dir
        if places.place_of(path) is places.Place.LOCAL:
            found.append(Stripe(folder / "stripes" / path, table, stripe_id, row_count, size_bytes))
            continue
        store = store or _store(data_dir)
        found.append(Stripe(path, table, stripe_id, row_count, size_bytes, store))
    return found


def _without_catalog(data_dir: pathlib.Path) -> list[Stripe]:
    folders = [data_dir / "stripes", *sorted(data_dir.glob("node*/stripes"))]
    return [Stripe(path) for folder in folders for path in sorted(folder.rglob("*.stripe"))]


def _size(path: pathlib.Path | str) -> int:
    try:
        return pathlib.Path(path).stat().st_size
    except OSError:
        return 0

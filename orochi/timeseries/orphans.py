"""Files and objects that no catalog row names: left behind by processes that died, removed when they are old.

Whoever makes one before its row exists holds `upkeep.LOADING_LOCK`, so that an old one is not about to
get its row. What was removed is logged by name.
"""

from __future__ import annotations

import datetime as dt
import math
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import psycopg
import structlog

from orochi import errors
from orochi import settings as process_settings
from orochi.catalog import twophase
from orochi.storage.columnar import writer
from orochi.storage.objects import client, places

log = structlog.get_logger()

Connection = psycopg.Connection[Any]

#: A listing of all objects costs requests: so often within the grace, and never more often than that.
_LISTINGS, _MOST_SECONDS = 6, 600.0
_listed_at: dict[str, float] = {}

_KNOWN = """
SELECT path FROM orochi.orochi_stripes WHERE {0} UNION ALL
SELECT path FROM orochi.orochi_cleanup WHERE {0} AND kind IN ('stripe', 'file')
"""


def remove(paths: Sequence[str], stripe_dir: pathlib.Path) -> None:
    """Remove files and objects, by their catalog paths; those that are not there do not matter.

    Raises:
        OrochiError: 58030, the store did not remove one.
    """
    keys = []
    for path in paths:
        if places.place_of(path) is places.Place.LOCAL:
            (stripe_dir / path).unlink(missing_ok=True)
        else:
            keys.append(places.key_of(path))
    if keys:
        client.shared().delete(keys)


def is_removed(path: str, stripe_dir: pathlib.Path) -> bool:
    """Remove a file or object; False, for another time, if the store fails."""
    try:
        remove([path], stripe_dir)
    except errors.OrochiError as error:
        log.warning("objects.not_removed", path=path, error=error.message)
        return False
    return True


def sweep_files(catalog: Connection, node_id: int, settings: process_settings.Settings) -> int:
    """Remove a node's old stripe files that the catalog does not name; how many."""
    folder = settings.stripe_dir
    if not folder.is_dir():
        return 0
    oldest = time.time() - settings.orphan_grace
    old = [path for path in folder.rglob("*") if path.is_file() and _is_ours(path) and _age(path) < oldest]
    if not old:
        return 0
    known = {
        path for (path,) in catalog.execute(_KNOWN.format("node_id = %(node)s").encode(), {"node": node_id})
    }
    found = [path for path in old if str(path.relative_to(folder)) not in known]
    for path in found:
        log.warning("stripes.orphan_removed", path=str(path))
        path.unlink(missing_ok=True)
    return len(found)


def _is_ours(path: pathlib.Path) -> bool:
    return path.suffix == ".stripe" or writer.is_temporary(path.name)


def _age(path: pathlib.Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def sweep_objects(catalog: Connection, node_id: int, settings: process_settings.Settings) -> int:
    """Remove the cluster's old objects that the catalog does not name, on the first node; how many.

    That the store does not answer is no reason not to sweep other things.
    """
    first = catalog.execute("SELECT min(node_id) FROM orochi.orochi_nodes WHERE state <> 'down'").fetchone()
    if not client.is_configured() or first is None or first[0] != node_id:
        return 0
    try:
        return _sweep_objects(catalog, settings)
    except errors.OrochiError as error:
        log.warning("objects.not_swept", error=error.message)
        return 0


def _sweep_objects(catalog: Connection, settings: process_settings.Settings) -> int:
    row = catalog.execute(twophase.CLUSTER_ID_SQL).fetchone()
    assert row is not None
    store, prefix = client.shared(), places.prefix(str(row[0]))
    now = time.monotonic()
    if now - _listed_at.get(prefix, -math.inf) < min(settings.orphan_grace / _LISTINGS, _MOST_SECONDS):
        return 0
    _listed_at[prefix] = now
    before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=settings.orphan_grace)
    old = [item for item in store.listed(prefix) if item.modified < before]
    known = {
        places.key_of(path)
        for (path,) in (catalog.execute(_KNOWN.format("true").encode()) if old else ())
        if places.place_of(path) is not places.Place.LOCAL
    }
    found = [item for item in old if item.key not in known]
    for item in found:
        log.warning("objects.orphan_removed", key=item.key, bytes=item.size)
    store.delete([item.key for item in found])
    uploads = store.abort_uploads(prefix, before)
    if uploads:
        log.warning("objects.uploads_given_up", uploads=uploads)
    return len(found) + uploads

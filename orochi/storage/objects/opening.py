"""Opens stripes wherever they are: every reader of a stripe comes through here."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Hashable

from orochi import settings as process_settings
from orochi.storage.columnar import cache as caching
from orochi.storage.columnar import files, reader
from orochi.storage.objects import diskcache, failures, places, remote

#: Beside the folder of a node's stripes.
CACHE_FOLDER = "object-cache"


def open_stripe(
    stripe_dir: pathlib.Path, path: str, *, cache: caching.Cache | None = None
) -> reader.StripeReader:
    """A reader of the stripe that the catalog calls `path`.

    Args:
        stripe_dir: where the node keeps its own files; what it reads of objects is kept beside it.
        path: as in the catalog.
        cache: of decoded columns.

    Raises:
        FileNotFoundError: there is no such file.
        StalePlan: there is no such object.
        DataCorrupted: header, footer or trailer are damaged.
        OrochiError: 55000, it is archived, or no store is configured; 58030, the store fails.
    """
    match places.place_of(path):
        case places.Place.LOCAL:
            return reader.StripeReader(f"{stripe_dir}/{path}", cache=cache)
        case places.Place.FROZEN:
            raise failures.archived(places.key_of(path))
        case places.Place.COLD:
            folder = stripe_dir.parent / CACHE_FOLDER
            source = remote.RemoteObject(path, kept_in(folder, process_settings.get().cache_size_mb))
            return reader.StripeReader(source, cache=cache)


def key_of(stripe_dir: pathlib.Path, path: str) -> Hashable | None:
    """The `key` of the reader that `open_stripe` would give, without opening; None if it is no file here."""
    if places.place_of(path) is not places.Place.LOCAL:
        return None
    try:
        return caching.file_key(os.stat(f"{stripe_dir}/{path}"))
    except FileNotFoundError:
        return None


def foresee(stripe_dir: pathlib.Path, path: str) -> bool:
    """Whether the stripe is a file here; then what `open_stripe` reads of it is on its way."""
    if places.place_of(path) is not places.Place.LOCAL:
        return False
    files.foresee(f"{stripe_dir}/{path}")
    return True


@functools.lru_cache(maxsize=64)
def kept_in(folder: pathlib.Path, megabytes: int) -> diskcache.DiskCache:
    """The cache of objects in a folder."""
    return diskcache.DiskCache(folder, megabytes << 20)

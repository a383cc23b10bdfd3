"""Where a stripe is, as its catalog path says: on the node's disk, in the object store, or in its archive.

A local path is relative to the node's stripe directory. Objects are `s3:<key>`, archived ones
`frozen:<key>`; a key ends in the object's size, so that reading one needs no request for it. A key is
never written twice.
"""

from __future__ import annotations

import enum
import re
import secrets

#: What catalog paths of objects begin with.
COLD, FROZEN = "s3:", "frozen:"
_CHUNK = re.compile(r"/c(\d+)_[^/]*$")
_SIZE = re.compile(r"-(\d+)\.stripe$")


class Place(enum.Enum):
    """Kinds of places."""

    LOCAL = "local"
    COLD = "cold"
    FROZEN = "frozen"


def place_of(path: str) -> Place:
    """Where the stripe of a catalog path is."""
    if path.startswith(COLD):
        return Place.COLD
    return Place.FROZEN if path.startswith(FROZEN) else Place.LOCAL


def key_of(path: str) -> str:
    """The object's key.

    Raises:
        ValueError: the path is a local one.
    """
    if place_of(path) is Place.LOCAL:
        raise ValueError(f'"{path}" is no object')
    return path.partition(":")[2]


def size_of(key: str) -> int:
    """The object's size in bytes.

    Raises:
        ValueError: the key is not one of ours.
    """
    found = _SIZE.search(key)
    if found is None:
        raise ValueError(f'"{key}" does not end in a size')
    return int(found[1])


def chunk_of(path: str) -> str:
    """What users call the chunk of a stripe, by its catalog path or key."""
    found = _CHUNK.search(path)
    return f"orochi_chunks.chunk_{found[1]}" if found is not None else path


def of_key(key: str, place: Place) -> str:
    """The catalog path of an object."""
    return (FROZEN if place is Place.FROZEN else COLD) + key


def thawed(path: str) -> str:
    """The path by which an archived object that was restored is read."""
    return COLD + key_of(path) if place_of(path) is Place.FROZEN else path


def prefix(cluster_id: str) -> str:
    """What all keys of a cluster begin with."""
    return f"orochi/{cluster_id}/"


def new_key(cluster_id: str, shard_id: int, chunk_id: int, stripe_id: int, size: int) -> str:
    """A key that nobody has used."""
    name = f"c{chunk_id}_{stripe_id}_{secrets.token_hex(6)}-{size}.stripe"
    return f"{prefix(cluster_id)}s{shard_id}/{name}"


def new_path(shard_id: int, chunk_id: int, stripe_id: int) -> str:
    """A local path that nobody has used."""
    return f"s{shard_id}/c{chunk_id}_{stripe_id}_{secrets.token_hex(4)}.stripe"

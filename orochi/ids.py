"""Identifiers as types, so that a ShardId cannot be passed where a ChunkId is due.

`TableId` is the shell table's OID in the coordinator database; the others are catalog keys.
"""

from __future__ import annotations

import secrets
from typing import NewType

TableId = NewType("TableId", int)
ShardId = NewType("ShardId", int)
ChunkId = NewType("ChunkId", int)
StripeId = NewType("StripeId", int)
NodeId = NewType("NodeId", int)
ColocationId = NewType("ColocationId", int)
QueryId = NewType("QueryId", str)


def new_query_id() -> QueryId:
    """A fresh id, unique across gateways: 16 hexadecimal digits."""
    return QueryId(secrets.token_hex(8))

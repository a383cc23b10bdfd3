"""The table of API signatures, and a snapshot from what the database answers."""

from __future__ import annotations

import json

from orochi.catalog import api, store
from orochi.operations import calls, compression_calls


def test_every_function_has_a_handler() -> None:
    handled = set(calls.HANDLERS) | set(calls.OUTSIDE) | compression_calls.NAMES
    assert handled == api.NAMES


def test_result_columns_by_width() -> None:
    assert [name for name, _ in api.result_columns("create_hypertable", 2) or ()] == [
        "hypertable_id",
        "created",
    ]
    assert len(api.result_columns("create_hypertable", 4) or ()) == 4
    assert api.result_columns("drop_chunks") is None
    assert api.result_type("drop_chunks") == "text"


def test_snapshot_from_rows() -> None:
    column = ["id", 1, 23, 23, -1, "integer", True, None, None, False, "", ""]
    table = {
        "oid": 7, "schema": "public", "name": "t", "kind": "distributed", "owner": "o", "colocation": 3,
        "storage": "row", "segmentby": ["id"], "orderby": [], "distribution": ["id", 23],
        "dimension": ["ts", 1184, 100], "columns": [column], "unique": [["id", "ts"]], "indexes": ["t_pkey"],
    }  # fmt: skip
    rows = {
        "version": 5,
        "nodes": [[1, "h", 5432, "d", "data", "active", True]],
        "tables": [table],
        "shards": [
            [102008, 7, 0, -(2**31), -1, 2, [1], 12, 800],
            [102009, 7, 1, 0, 2**31 - 1, 1, [1, 2], 0, 0],
        ],
        "chunks": [[4, 102008, 0, 100, 1, "hot"], [5, 102008, 100, 2**63 - 1, 0, "hot"]],
        "stripes": [
            [9, 4, "p", 10, 200, 3, 70, None],
            [8, 5, "q", 10, 200, None, None, [[1, 2], [None, None]]],
        ],
        "views": None,
    }
    snapshot = store.from_rows(
        (kind, None if data is None else json.dumps(data)) for kind, data in rows.items()
    )
    found = snapshot.table("public", "t")
    assert found is not None
    assert [shard.schema for shard in found.shards] == ["orochi_s102008_2", "orochi_s102009_1"]
    first, last = found.shards[0].chunks
    assert (first.schema, first.name, first.is_compressed) == ("orochi_c4_1", "orochi_chunks.chunk_4", True)
    assert last.range_end == 2**63
    assert [(item.times, item.bounds) for chunk in (first, last) for item in chunk.stripes] == [
        ((3, 70), ()), (None, ((1, 2), None))
    ]  # fmt: skip
    assert found.dimension is not None
    assert (found.unique_keys, found.indexes) == ((("id", "ts"),), ("t_pkey",))
    assert snapshot.data_nodes[0].host == "h"

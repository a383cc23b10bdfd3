"""A made-up fragment over made-up stripes, run before the first real one.

What a process does for the first time costs more than all else of a short query: modules and tables that are made on
first use, and the pages that a forked process shares until it writes to them, the counts of references to code among
them. So each process that reads stripes runs a query nobody asked for before it says that it is ready.
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
import secrets
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import redis

from orochi import pgtypes
from orochi.engine import contract, fragments, fused, shapes, stripes
from orochi.executor import exchange, names
from orochi.planner import fragment as plan_fragment
from orochi.storage.columnar import cache, writer
from orochi.storage.columnar import format as layout

_ROWS, _GROUP_ROWS, _SERIES = 4_096, 2_048, 8
_SECOND = 1_000_000
_MINUTE = 60 * _SECOND
COLUMNS = (
    plan_fragment.OutputColumn("at", pgtypes.TIMESTAMPTZ, -1, "timestamp with time zone"),
    plan_fragment.OutputColumn("series", pgtypes.TEXT, -1, "text"),
    plan_fragment.OutputColumn("value", pgtypes.FLOAT8, -1, "double precision"),
)
#: In the place of a heap relation.
_NO_ROWS = '(SELECT NULL::timestamptz AS "at", NULL::text AS "series", NULL::float8 AS "value" WHERE false) AS "rows"'
_CACHE_BYTES = 1 << 20
#: Two stripes are what the threads of a process are started for.
_STRIPES = 2
_REQUEST_SECONDS = 10


def fragment(count: int) -> plan_fragment.Fragment:
    """A fused aggregate over `count` stripes that `files` makes, and over a heap without rows."""
    first, last = _SECOND * _ROWS // 4, _SECOND * _ROWS // 2  # begins and ends within chunk groups
    conditions = (shapes.Condition("at", ">=", (first,)), shapes.Condition("at", "<", (last,)))
    scan = plan_fragment.Scan(
        name="orochi_scan_0",
        table="rehearsal",
        relation=_NO_ROWS,
        columns=COLUMNS,
        stripes=tuple(plan_fragment.StripeRef(-1 - n, f"{n}.stripe", _ROWS) for n in range(count)),
        predicates=tuple(plan_fragment.Predicate(item.column, item.op, item.values) for item in conditions),
    )
    shape = shapes.Shape(
        keys=(shapes.Key("at", _MINUTE), shapes.Key("series")),
        outputs=(shapes.Output("key"), shapes.Output("key", index=1), shapes.Output("avg", "value")),
        conditions=conditions,
    )
    return plan_fragment.Fragment(
        number=0, node_id=0, shard_ids=(0,), scans=(scan,), sql="", columns=COLUMNS, fused=shape
    )


@contextlib.contextmanager
def files(count: int) -> Iterator[pathlib.Path]:
    """A folder with the stripes of `fragment(count)`, for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="orochi-") as name:
        for number in range(count):
            (pathlib.Path(name) / f"{number}.stripe").write_bytes(_stripe())
        yield pathlib.Path(name)


def rehearse(count: int = _STRIPES) -> pa.RecordBatch:
    """Run `fragment(count)` as a worker or a gateway would; its groups. With more than one stripe threads are started."""
    (asked,) = plan_fragment.from_json(plan_fragment.to_json((fragment(count),)))
    assert asked.fused is not None
    with files(count) as folder:
        return fused.run(
            asked.fused,
            asked.scans[0],
            asked.columns,
            folder,
            {},
            (),
            stripes.Counters(),
            lambda: False,
            cache.Cache(_CACHE_BYTES),
        )


def packed(batch: pa.RecordBatch) -> list[bytes]:
    """The parts of an answer, as a worker sends them."""
    parts: list[bytes] = []

    def send(part: bytes) -> int:
        parts.append(part)
        return 0

    answer = exchange.ResultWriter(
        {},
        send,
        inline_bytes=_CACHE_BYTES,
        folder=None,
        file_name="",
        cancelled=lambda: False,
        waiting=lambda: 0,
    )
    answer.write(batch)
    answer.finish({"beside": []})
    return parts


@contextlib.contextmanager
def request(client: redis.Redis) -> Iterator[tuple[dict[str, Any], Callable[..., contract.FragmentStats]]]:
    """A task's request to run `fragment`, which somebody waits for within the context, and what does so."""
    run, task = f"rehearsal.{secrets.token_hex(8)}", secrets.token_hex(8)
    keys = (names.query_key(run), names.result_key(run), names.lease_key(run, task))
    client.set(keys[0], "", ex=_REQUEST_SECONDS)
    try:
        with files(_STRIPES) as folder:

            def runner(asked: contract.Fragment, connection: Any, _: pathlib.Path, *rest: Any) -> Any:
                return fragments.run_fragment(asked, connection, folder, *rest)

            yield (
                {
                    "run": run,
                    "task": task,
                    "attempt": 1,
                    "fragments": plan_fragment.to_json((fragment(_STRIPES),)),
                    "inline_bytes": _CACHE_BYTES,
                    "folder": str(folder),
                    "token": "",
                },
                runner,
            )
    finally:
        client.unlink(*keys)


@functools.cache
def _stripe() -> bytes:
    """A stripe's bytes: made once, also for processes that are forked later."""
    numbers = np.arange(_ROWS)
    arrays = [
        pa.array(numbers // _SERIES * _SERIES * _SECOND, pa.int64()),
        pa.array([f"series {n % _SERIES}" for n in numbers.tolist()]),
        pa.array((numbers * 7_919 % 1_000) / 10),
    ]
    batch = pa.RecordBatch.from_arrays(arrays, names=[column.name for column in COLUMNS])
    described = [layout.StripeColumn(column.name, column.type_oid) for column in COLUMNS]
    with tempfile.TemporaryDirectory(prefix="orochi-") as folder:
        path = pathlib.Path(folder) / "made.stripe"
        # most values are not compressed again: the way of those is to be rehearsed too
        options = writer.WriteOptions(chunk_group_row_limit=_GROUP_ROWS, codecs={"value": "none"})
        writer.write_stripe(path, [batch], described, options)
        return path.read_bytes()

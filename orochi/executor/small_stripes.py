"""Fused aggregates over few column chunks, last points, and rows that are only filtered: threads of the gateway run them.

That is where it sees the nodes' stripe files.
Delete vectors and heap rows come from the node in one snapshot, as `small` brings them; the stripes are
read by a bounded pool of threads, with a cache of the gateway's own. Whatever speaks against it (more
chunks than are few, a heap that is not small, a file that is not here, values that the engine declines)
leaves the fragments to tasks: nothing has been handed on by then.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import functools
import pathlib
import time
from collections.abc import Hashable, Mapping, Sequence

import pyarrow as pa

from orochi import errors, pgtypes
from orochi import settings as process_settings
from orochi.engine import fused, heapfilter, native, newest, rows, shapes, stripes, surveys
from orochi.executor import context, small, transport
from orochi.planner import fragment as plan_fragment
from orochi.storage.columnar import cache
from orochi.storage.objects import places

_THREADS = 2
#: What last points decode is kept as rows, and not decoded again: it may be so many times more.
_KEPT = 8
#: Few rows of what fragments of some series decode are looked at further, and those are kept: it may be so many times more.
_SERIES = 4
#: Column chunks that are decoded without a look ahead at what the stripes have.
_QUICK = 16
_DELETED = (
    plan_fragment.OutputColumn("stripe_id", pgtypes.INT8, -1, "bigint"),
    plan_fragment.OutputColumn("row_number", pgtypes.INT4, -1, "integer"),
)


@functools.lru_cache(maxsize=1)
def _cache() -> cache.Cache:
    return cache.Cache(process_settings.get().gateway_cache_mb << 20)


@functools.lru_cache(maxsize=1)
def _pool() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="orochi-small")


async def run(
    session: context.Session, fragments: Sequence[plan_fragment.Fragment]
) -> list[transport.FragmentResult] | None:
    """Every fragment's result, or None: tasks are to run them."""
    limit = process_settings.get().small_query_column_chunks
    if not limit or not small.limit_of(session) or not all(_is_fused(part) for part in fragments):
        return None
    if all(_of_series(_shape(part)) for part in fragments):
        limit *= _SERIES
    loop = asyncio.get_running_loop()
    key = ("survey", limit, tuple(_surveyed_of(part) for part in fragments))
    known: _Survey | None = _cache().get(key) or _whole(fragments, min(limit, _QUICK))
    survey = known or await loop.run_in_executor(_pool(), _surveyed, fragments, limit)
    if survey is None:
        return None
    if known is None and survey.lasts:
        _cache().put(key, survey, 512 + 256 * sum(map(len, survey.stripes)))
    fragments = [_narrowed(part, kept) for part, kept in zip(fragments, survey.stripes, strict=True)]
    passed_over = dict(zip((part.number for part in fragments), survey.passed_over, strict=True))
    asked = [item for part in fragments for item in _asked(part)]
    answers = await small.run(session, asked, transport.NO_INPUTS, steady=True)
    if answers is None:
        return None
    found = {answer.fragment: answer.batches for answer in answers}
    return await loop.run_in_executor(_pool(), _answered, fragments, found, passed_over)


def _is_fused(part: plan_fragment.Fragment) -> bool:
    return bool(
        part.fused is not None and not part.snapshot and len(part.scans) == 1 and part.scans[0].stripes
    )


def _folder(node_id: int) -> pathlib.Path:
    """Where the stripe files of a node on this host are."""
    return process_settings.get().data_dir / f"node{node_id}" / "stripes"


def _shape(part: plan_fragment.Fragment) -> shapes.Shape:
    assert part.fused is not None
    return part.fused


@dataclasses.dataclass(frozen=True, slots=True)
class _Survey:
    """What fragments need not look at.

    Attributes:
        stripes: of each fragment, those that may hold rows it wants.
        passed_over: of each fragment, the chunk groups of all others.
        lasts: whether it would be the same the next time.
    """

    stripes: tuple[tuple[plan_fragment.StripeRef, ...], ...]
    passed_over: tuple[int, ...]
    lasts: bool


def _surveyed_of(part: plan_fragment.Fragment) -> Hashable:
    """What decides a fragment's part of a survey, quickly told from others."""
    return part.node_id, part.fused, tuple(stripe.path for stripe in part.scans[0].stripes)


def _is_here(part: plan_fragment.Fragment) -> bool:
    stripes_of = part.scans[0].stripes
    local = all(places.place_of(stripe.path) is places.Place.LOCAL for stripe in stripes_of)
    return local and _folder(part.node_id).is_dir()


def _surveyed(fragments: Sequence[plan_fragment.Fragment], limit: int) -> _Survey | None:
    """The stripes that matter; None if the fragments decode much."""
    if not all(_is_here(part) for part in fragments):
        return None
    likely = sum(surveys.likely_weight(_shape(part), part.scans[0].likely_rows) for part in fragments)
    if likely > limit:  # told without opening a file
        return None
    found, stripes_of, passed_over = 0, [], []
    try:
        for part in fragments:
            shape, (scan,), left = _shape(part), part.scans, limit - found
            kept, passed = scan.stripes, 0
            if shape.best is None:
                survey = surveys.survey(shape, scan, _folder(part.node_id), _cache(), left)
                found += survey.weight
                kept = tuple(stripe for stripe in scan.stripes if stripe.stripe_id in survey.stripes)
                passed = survey.passed_over
            else:
                enough = left * _KEPT
                found += newest.weight(shape, scan, _folder(part.node_id), _cache(), enough) // _KEPT
            stripes_of.append(kept)
            passed_over.append(passed)
            if found > limit:
                return None
    except (OSError, native.Unsupported, errors.DataCorrupted, errors.StalePlan):
        return None  # a worker will say what is wrong
    return _Survey(
        tuple(stripes_of), tuple(passed_over), all(_shape(part).best is None for part in fragments)
    )


def _whole(fragments: Sequence[plan_fragment.Fragment], limit: int) -> _Survey | None:
    """All stripes, where they have so few rows that a look at them would cost more than it can spare."""
    found = 0
    for part in fragments:
        rows = [stripe.row_count for stripe in part.scans[0].stripes]
        weights = [surveys.most_weight(_shape(part), count) for count in rows]
        found += sum(limit + 1 if weight is None else weight for weight in weights)
    if found > limit or not all(_is_here(part) for part in fragments):
        return None
    return _Survey(tuple(part.scans[0].stripes for part in fragments), (0,) * len(fragments), False)


def _of_series(shape: shapes.Shape) -> bool:
    return any(condition.op in ("=", "in") for condition in shape.conditions)


def _narrowed(
    part: plan_fragment.Fragment, stripes_left: tuple[plan_fragment.StripeRef, ...]
) -> plan_fragment.Fragment:
    return dataclasses.replace(part, scans=(dataclasses.replace(part.scans[0], stripes=stripes_left),))


def _asked(part: plan_fragment.Fragment) -> list[plan_fragment.Fragment]:
    """What to ask the node for a fragment: its heap's answer or rows, and its delete vectors."""
    (scan,) = part.scans
    scan = dataclasses.replace(scan, stripes=())
    wanted = ",".join(str(stripe.stripe_id) for stripe in part.scans[0].stripes)
    deleted = (
        "SELECT stripe_id, row_number FROM orochi_data.delete_vectors "
        f"WHERE stripe_id = ANY ('{{{wanted}}}'::bigint[]) ORDER BY 1, 2"
    )
    heap = dataclasses.replace(part, number=2 * part.number, scans=(scan,), fused=None, vector_sql=None)
    if not _shape(part).partial and not _shape(part).rows:
        heap = dataclasses.replace(heap, sql=heapfilter.rows_sql(scan), columns=scan.columns)
    vectors = dataclasses.replace(heap, number=2 * part.number + 1, scans=(), sql=deleted, columns=_DELETED)
    return [heap, vectors]


def _answered(
    fragments: Sequence[plan_fragment.Fragment],
    answers: Mapping[int, list[pa.RecordBatch]],
    passed_over: Mapping[int, int],
) -> list[transport.FragmentResult] | None:
    try:
        return [
            _one(
                part, answers[2 * part.number], answers[2 * part.number + 1], passed_over.get(part.number, 0)
            )
            for part in fragments
        ]
    except (OSError, native.Unsupported, errors.StalePlan, errors.DataCorrupted):
        return None


def _one(
    part: plan_fragment.Fragment, heap: list[pa.RecordBatch], vectors: list[pa.RecordBatch], passed_over: int
) -> transport.FragmentResult:
    started, shape = time.perf_counter(), _shape(part)
    pairs = [(row["stripe_id"], row["row_number"]) for batch in vectors for row in batch.to_pylist()]
    counters = stripes.Counters(passed_over)
    folder, deleted = _folder(part.node_id), stripes.by_stripe(pairs)
    if shape.rows:
        (scan,) = part.scans
        read = rows.of_stripes if shape.best is None else newest.of_stripes
        found = read(shape, scan, part.columns, folder, deleted, counters, lambda: False, _cache())
        batches = [*heap, *found]
    else:
        answer = fused.run(
            shape,
            part.scans[0],
            part.columns,
            folder,
            deleted,
            () if shape.partial else heap,
            counters,
            lambda: False,
            _cache(),
        )
        batches = [*heap, answer] if shape.partial else [answer]
    stats = transport.FragmentStats(
        rows=sum(batch.num_rows for batch in batches),
        bytes=sum(batch.nbytes for batch in batches),
        seconds=time.perf_counter() - started,
        chunk_groups_total=counters.total,
        chunk_groups_skipped=counters.skipped,
        engine="columns in gateway" if shape.rows else "fused in gateway",
    )
    return transport.FragmentResult(part.number, batches, stats)

"""Stages of a SELECT: each is run by its own plan, and its rows are kept as Arrow until the answer is sent.

A stage whose plan ends on the coordinator or on one node gives rows in binary wire form, which is
what binary COPY is made of; so all rows end up as carrier batches. Stages that do not read one
another's rows run at the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from orochi.engine import copybinary
from orochi.engine.kernels import dealing
from orochi.executor import context, counting, datarows, exchange, transport
from orochi.operations import sinks
from orochi.planner import fragment as plan_fragment
from orochi.planner import plan as plans
from orochi.sharding import hashing

#: Runs a plan into a sink, reading the rows of earlier stages; the command tag.
Run: TypeAlias = Callable[[plans.SelectPlan, context.Sink, transport.Inputs], Awaitable[str]]
#: Gives the batches of a plan that ends in fragments.
Gather: TypeAlias = Callable[[plans.Distributed, transport.Inputs], Awaitable[list[pa.RecordBatch]]]


async def run(
    stages: Sequence[plans.Stage], run_plan: Run, gather: Gather, *, beside: bool
) -> transport.Inputs:
    """Run the stages, each after those whose rows it reads; the rows of all of them, those dealt out in their parts.

    Args:
        stages: in an order in which each comes after what it reads.
        run_plan: runs a plan into a sink; only one such runs at a time.
        gather: gives the rows of fragments.
        beside: several may run at a time.

    Raises:
        OrochiError: that of the first stage that failed, once none runs any more.
    """
    found: dict[tuple[str, int | None], list[pa.RecordBatch]] = {}
    for group in waves(stages) if beside else [[stage] for stage in stages]:
        answers = await asyncio.gather(
            *(_parts(stage, run_plan, gather, found) for stage in group), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            found.update(answer)
    return found


def waves(stages: Sequence[plans.Stage]) -> list[list[plans.Stage]]:
    """Neighbours that do not read one another's rows, and of which at most one uses the session's own connection."""
    found: list[list[plans.Stage]] = []
    for stage in stages:
        if (
            not found
            or not _reads(stage.plan).isdisjoint(other.name for other in found[-1])
            or (not _ends_in_fragments(stage) and not all(map(_ends_in_fragments, found[-1])))
        ):
            found.append([stage])
        else:
            found[-1].append(stage)
    return found


def _reads(plan: plans.SelectPlan) -> set[str]:
    """The stages whose rows a plan reads."""
    if isinstance(plan, plans.Router):
        return set()
    parts = [part for item in plan.intermediates for part in item.fragments]
    named = {name for name, _ in plan_fragment.inputs_of(parts)}
    return named | {item.stage for item in plan.intermediates if item.stage is not None}


def _ends_in_fragments(stage: plans.Stage) -> bool:
    """Whether its rows are those of its fragments as they come."""
    plan = stage.plan
    if not isinstance(plan, plans.Distributed) or plan.final_sql is not None:
        return False
    kinds = [column.type_oid for column in plan.intermediates[0].columns]
    return kinds == [column.type_oid for column in stage.columns]


async def _parts(
    stage: plans.Stage, run_plan: Run, gather: Gather, inputs: transport.Inputs
) -> dict[tuple[str, int | None], list[pa.RecordBatch]]:
    """The rows of one stage as others read them."""
    batches = await _rows(stage, run_plan, gather, inputs)
    if stage.partition is None:
        return {(stage.name, None): batches}
    parts = await asyncio.to_thread(split, batches, stage.partition)
    return {(stage.name, number): part for number, part in enumerate(parts)}


async def _rows(
    stage: plans.Stage, run_plan: Run, gather: Gather, inputs: transport.Inputs
) -> list[pa.RecordBatch]:
    plan = stage.plan
    if isinstance(plan, plans.Distributed) and _ends_in_fragments(stage):
        return _cut(await gather(plan, inputs), plan.limit)
    sink = _Kept(stage.columns)
    await run_plan(plan, sink, inputs)
    return sink.finish()


def _cut(batches: list[pa.RecordBatch], limit: int | None) -> list[pa.RecordBatch]:
    if limit is None:
        return batches
    kept, left = [], limit
    for batch in batches:
        kept.append(batch.slice(0, left))
        left -= kept[-1].num_rows
    return kept


def split(batches: Sequence[pa.RecordBatch], partition: plans.Partition) -> list[list[pa.RecordBatch]]:
    """The batches' rows by the hash range that their key falls into; NULL keys go where NULLs are stored."""
    starts = np.array([low for low, _ in partition.ranges], np.int64)
    ends = np.empty(len(starts), np.int64)
    parts: list[list[pa.RecordBatch]] = [[] for _ in partition.ranges]
    for batch in batches:
        hashes = hashing.hash_column(partition.type_oid, batch.column(partition.column))
        order = np.empty(len(hashes), np.int64)
        dealing.deal(hashes, starts, order, ends)
        dealt = batch.take(pa.array(order))
        begin = 0
        for part, end in zip(parts, ends.tolist(), strict=True):
            if end > begin:
                part.append(dealt.slice(begin, end - begin))
            begin = end
    return parts


class _Kept(sinks.Keeping):
    """A sink that keeps rows as carrier batches."""

    def __init__(self, columns: Sequence[copybinary.Column]) -> None:
        self.formats: tuple[int, ...] = (1,)
        self._columns = columns
        self._whole: list[pa.RecordBatch] | None = None
        self._kept = datarows.Collector(columns)

    def finish(self) -> list[pa.RecordBatch]:
        """All rows."""
        return self._kept.finish() if self._whole is None else self._whole

    def keep(self, columns: Sequence[copybinary.Column], batch: pa.RecordBatch) -> bool:
        """Take all rows at once, unless their types are others than are wanted."""
        if [column.type_oid for column in columns] != [column.type_oid for column in self._columns]:
            return False
        schema = copybinary.schema(self._columns)
        self._whole = [pa.RecordBatch.from_arrays(batch.columns, schema=schema)]
        return True

    async def rows(self, data: bytes | memoryview, count: int) -> None:
        """Keep whole DataRow messages."""
        self._kept.rows(data, count)


def rows_for(plan: plans.Distributed, inputs: transport.Inputs) -> counting.Loaded:
    """Each intermediate with all rows of its stage, whether they were dealt out or not; empty if it has none."""
    return {
        item.name: (
            item.columns,
            exchange.Gathered(
                batch for (name, _), part in inputs.items() if name == item.stage for batch in part
            ),
        )
        for item in plan.intermediates
    }

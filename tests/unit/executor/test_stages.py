"""Which stages run at the same time, and what becomes of an error in one of them."""

from __future__ import annotations

import asyncio

import pyarrow as pa
import pytest

from orochi import errors, pgtypes
from orochi.executor import context, transport
from orochi.operations import stages
from orochi.planner import fragment as plan_fragment
from orochi.planner import plan as plans
from orochi.sharding import hashing

_COLUMNS = (plan_fragment.OutputColumn("a", pgtypes.INT8, -1, "bigint"),)


def _stage(name: str, *reads: str, final: bool = False) -> plans.Stage:
    scans = tuple(
        plan_fragment.Scan(f"orochi_scan_{n}", "t", "", _COLUMNS, input=plan_fragment.Input(read))
        for n, read in enumerate(reads)
    )
    part = plan_fragment.Fragment(0, 1, (), scans, "", _COLUMNS)
    held = plans.Intermediate("orochi_i0", _COLUMNS, (part,), 1, "t")
    plan = plans.Distributed("pushdown", (held,), "SELECT" if final else None)
    return plans.Stage(name, plan, _COLUMNS, "")


def _names(*made: plans.Stage) -> list[list[str]]:
    return [[stage.name for stage in group] for group in stages.waves(made)]


def test_stages_that_read_nothing_of_each_other_run_together() -> None:
    assert _names(_stage("x0"), _stage("x1"), _stage("x2", "x1"), _stage("x3")) == [
        ["x0", "x1"],
        ["x2", "x3"],
    ]


def test_one_at_a_time_uses_the_sessions_own_connection() -> None:
    made = (_stage("x0", final=True), _stage("x1"), _stage("x2", final=True), _stage("x3"))
    assert _names(*made) == [["x0", "x1"], ["x2", "x3"]]


async def _never(part: plans.SelectPlan, sink: context.Sink, inputs: transport.Inputs) -> str:
    raise AssertionError(f"{part} {sink} {inputs}")


def test_the_error_is_the_first_stages_and_comes_when_all_have_ended() -> None:
    made = [_stage("x0"), _stage("x1"), _stage("x2")]
    ended = []

    async def gather(plan: plans.Distributed, inputs: transport.Inputs) -> list[pa.RecordBatch]:
        (name,) = [stage.name for stage in made if stage.plan is plan]
        await asyncio.sleep({"x0": 0.02, "x1": 0.0, "x2": 0.03}[name])
        ended.append(name)
        if name != "x2":
            raise errors.OrochiError(name)
        return []

    with pytest.raises(errors.OrochiError, match="x0"):
        asyncio.run(stages.run(made, _never, gather, beside=True))
    assert ended == ["x1", "x0", "x2"]


@pytest.mark.parametrize("parts", [1, 2, 4, 7, 32])
def test_rows_are_dealt_out_by_the_hash_of_their_key(parts: int) -> None:
    partition = plans.Partition(1, pgtypes.INT4, tuple(hashing.shard_ranges(parts)))
    keys = [None if row % 11 == 0 else (row * 7919) % 1000 - 500 for row in range(400)]
    batches = [
        pa.record_batch(
            {"row": pa.array(range(low, high), pa.int64()), "key": pa.array(keys[low:high], pa.int32())}
        )
        for low, high in ((0, 150), (150, 150), (150, 151), (151, 400))
    ]
    wanted: list[list[int]] = [[] for _ in range(parts)]
    for row, key in enumerate(keys):
        hashed = hashing.hash_value(pgtypes.INT4, key)
        (number,) = [n for n, (low, high) in enumerate(partition.ranges) if low <= hashed <= high]
        wanted[number].append(row)
    dealt = stages.split(batches, partition)
    assert [[row for batch in part for row in batch.column(0).to_pylist()] for part in dealt] == wanted
    found = {
        row: key
        for part in dealt
        for batch in part
        for row, key in zip(*batch.to_pydict().values(), strict=True)
    }
    assert [found[row] for row in range(400)] == keys
    assert all(batch.num_rows for part in dealt for batch in part)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 16, 33])
def test_rows_are_dealt_out_by_the_range_of_their_hash(count: int) -> None:
    ranges = tuple(hashing.shard_ranges(count))
    values = [None, 0, -1, 2**63 - 1, -(2**63), *(value * 7_919 for value in range(-400, 400))]
    batch = pa.record_batch([pa.array(values, pa.int64())], ["a"])
    parts = stages.split([batch, batch.slice(3)], plans.Partition(0, pgtypes.INT8, ranges))
    found = [[row for piece in part for row in piece.column(0).to_pylist()] for part in parts]
    wanted: list[list[int | None]] = [[] for _ in ranges]
    for value in (*values, *values[3:]):
        hashed = hashing.hash_value(pgtypes.INT8, value)
        wanted[next(at for at, (low, high) in enumerate(ranges) if low <= hashed <= high)].append(value)
    assert found == wanted

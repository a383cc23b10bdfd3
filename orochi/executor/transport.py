"""How fragments reach workers and answers come back, as the rest of Orochi sees it."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import types
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

from orochi.engine import contract
from orochi.planner import fragment as plan_fragment

FragmentStats: TypeAlias = contract.FragmentStats
#: Rows of earlier stages, by stage and part (None where they are not dealt out).
Inputs: TypeAlias = Mapping[tuple[str, int | None], Sequence[pa.RecordBatch]]
NO_INPUTS: Inputs = types.MappingProxyType({})
#: Whether what is run is maintenance: workers, and servers for them, yield to queries while they do it.
yields: contextvars.ContextVar[bool] = contextvars.ContextVar("yields", default=False)


@contextlib.contextmanager
def yielding() -> Iterator[None]:
    """What is run inside the block is maintenance."""
    token = yields.set(True)
    try:
        yield
    finally:
        yields.reset(token)


@dataclasses.dataclass(frozen=True, slots=True)
class FragmentResult:
    """One fragment's whole answer, in carrier form."""

    fragment: int
    batches: list[pa.RecordBatch]
    stats: FragmentStats


class Transport(Protocol):
    """Runs work on nodes. Every error it raises is an `OrochiError` with its SQLSTATE."""

    def run(
        self,
        query_id: str,
        fragments: Sequence[plan_fragment.Fragment],
        *,
        deadline: float | None,
        inputs: Inputs = NO_INPUTS,
    ) -> AsyncIterator[FragmentResult]:
        """Each fragment's result once, in the order they finish.

        Args:
            query_id: what `cancel` takes.
            fragments: of one query, each with its own number.
            deadline: when to give up, as `time.monotonic` counts; None is never.
            inputs: what scans with an `input` read; kept until the run ends, so a fragment that was
                lost with its worker finds it again.
        """

    async def run_scan(self, query_id: str, node_id: int, scan: plan_fragment.Scan) -> list[pa.RecordBatch]:
        """A scan's stripe rows with `orochi_stripe_id` and `orochi_row_number`, deleted rows included."""

    async def run_task(
        self,
        node_id: int,
        task_name: str,
        arguments: Mapping[str, Any],
        *,
        timeout: float,
        inputs: Inputs = NO_INPUTS,
    ) -> dict[str, Any]:
        """Run a maintenance task of a node and wait for what it returns; `inputs` are rows that it reads."""

    async def post(self, queue: str, message: str) -> None:
        """Put a task's message into a queue; nobody waits for an answer."""

    async def cancel(self, query_id: str) -> None:
        """Stop the query's work; `run` then raises `QueryCanceled`."""

    async def close(self) -> None:
        """Let go of every connection."""

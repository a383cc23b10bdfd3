"""Which fragments run as one."""

from __future__ import annotations

import dataclasses

from orochi.engine import together
from orochi.planner import fragment as fragments

COLUMN = fragments.OutputColumn("a", 23, -1, "integer")


def _fragment(number: int, rows: int = 10) -> fragments.Fragment:
    scan = fragments.Scan(
        "s", "t", f"r{number}", (COLUMN,), (fragments.StripeRef(number, str(number), rows),)
    )
    return fragments.Fragment(number, 1, (number,), (scan,), "SELECT", (), vector_sql="SELECT 1")


def _numbers(made: list[fragments.Fragment]) -> list[list[int]]:
    return [[fragment.number for fragment in group] for group in together.groups(made)]


def test_the_same_over_other_shards() -> None:
    assert _numbers([_fragment(n) for n in range(3)]) == [[0, 1, 2]]


def test_another_statement_or_engine_is_another_group() -> None:
    made = [_fragment(n) for n in range(7)]
    made[1] = dataclasses.replace(made[1], vector_sql="SELECT 2")
    made[2] = dataclasses.replace(made[2], vector_sql=None)
    made[3] = dataclasses.replace(made[3], snapshot="x")
    made[4] = dataclasses.replace(made[4], scans=(dataclasses.replace(made[4].scans[0], stripes=()),))
    made[6] = dataclasses.replace(made[6], intermediate="the same read again")
    assert _numbers(made) == [[0, 5], [1], [2], [3], [4], [6]]


def test_a_group_reads_so_many_bytes() -> None:
    half = together.BYTES // 16
    assert _numbers([_fragment(n, half) for n in range(3)]) == [[0, 1], [2]]
    assert _numbers([_fragment(n, together.BYTES) for n in range(2)]) == [[0], [1]]

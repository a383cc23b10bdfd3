"""Fragments put together read what they read apart."""

from __future__ import annotations

import dataclasses

from orochi import pgtypes
from orochi.planner import coalesce
from orochi.planner import fragment as fragments

_COLUMN = fragments.OutputColumn("a", pgtypes.INT4, -1, "integer")


def _part(number: int, node: int = 1) -> fragments.Fragment:
    scan = fragments.Scan("orochi_scan_0", "public.t", f'"orochi_s{number}_1"."t"', (_COLUMN,))
    sql = "SELECT a FROM orochi_scan_0 WHERE b <> 'orochi_scan_0'"
    return fragments.Fragment(number, node, (number,), (scan,), sql, (_COLUMN,))


def test_the_parts_of_a_node_become_one_statement() -> None:
    joined = coalesce.together([_part(1), _part(2, node=2), _part(3)], 1)
    assert [(part.number, part.node_id, part.shard_ids) for part in joined] == [(1, 1, (1, 3)), (2, 2, (2,))]
    one, three = (f'SELECT a FROM "orochi_s{n}_1"."t" WHERE b <> \'orochi_scan_0\'' for n in (1, 3))
    assert joined[0].sql == f"({one}) UNION ALL ({three})"


def test_there_are_as_many_as_slots() -> None:
    joined = coalesce.together([_part(number) for number in range(7)], 3)
    assert [part.shard_ids for part in joined] == [(0, 3, 6), (1, 4), (2, 5)]


def test_stripes_and_other_columns_stay_apart() -> None:
    stripes = dataclasses.replace(
        _part(1), scans=(dataclasses.replace(_part(1).scans[0], stripes=(fragments.StripeRef(1, "x", 2),)),)
    )
    other = dataclasses.replace(_part(3), columns=(dataclasses.replace(_COLUMN, name="b"),))
    parts = [stripes, _part(2), other]
    assert coalesce.together(parts, 1) == parts

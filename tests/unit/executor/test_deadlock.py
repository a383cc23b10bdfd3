from __future__ import annotations

from orochi.executor import deadlock


def test_cycle_is_told_in_order() -> None:
    edges = [
        deadlock.Wait(1, 101, 102, "2", "ShareLock on transaction 7"),
        deadlock.Wait(None, 20, 10, "1", "ShareLock on transaction 9"),
    ]
    assert deadlock.describe((10, 20), edges).splitlines() == [
        "Process 10 waits for ShareLock on transaction 7 of node 1; blocked by process 20.",
        "Process 20 waits for ShareLock on transaction 9 of the coordinator; blocked by process 10.",
    ]


def test_find_cycle() -> None:
    assert deadlock.find_cycle({1: [2], 2: [3], 3: []}) == ()
    assert set(deadlock.find_cycle({1: [2], 2: [3], 3: [2]})) == {2, 3}

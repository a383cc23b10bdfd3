"""The bank, small: transfers between nodes while processes die at each point of a commit. See `make bank`."""

from __future__ import annotations

import threading

import pytest

from benchmarks.bank import kills, workload
from tests.support import cluster as clusters

#: What is killed at each point; `make bank` does all combinations, many times.
PLAN = ((1, "nodes"), (2, "gateway"), (3, "coordinator"), (4, "gateway"), (5, "nodes"), (6, "gateway"))
_SECONDS = 120.0


@pytest.fixture
def bank(victim: clusters.Cluster) -> workload.Bank:
    made = workload.Bank(victim.dsn, accounts=40)
    made.create()
    return made


def test_bank(victim: clusters.Cluster, bank: workload.Bank) -> None:
    killer = kills.Killer(victim.info, bank, seed=1)
    threads = [threading.Thread(target=bank.client, args=(number,)) for number in range(2)]
    threads.append(threading.Thread(target=bank.reader))
    for thread in threads:
        thread.start()
    told: dict[tuple[int, str], str] = {}
    try:
        for point, role in PLAN:
            kills.wait(killer.healthy, _SECONDS)
            told[point, role] = held(killer, point, role)
    finally:
        bank.stop.set()
        for thread in threads:
            thread.join()
    kills.wait(killer.healthy, _SECONDS)
    kills.wait(lambda: killer.oldest_prepared() == 0.0, _SECONDS)
    findings = kills.wait(bank.audit, _SECONDS)
    assert findings.faults == 0, findings
    present = kills.wait(lambda: ledger(bank), _SECONDS)
    assert len(killer.decided) >= 3  # more if a point was reached again, see `held`
    assert present.issuperset(killer.decided)
    assert present.issuperset(bank.book.acknowledged)
    # nobody was answered by a gateway that died
    assert {told[point, role] for point, role in PLAN if role == "gateway"} == {"unknown"}


def ledger(bank: workload.Bank) -> set[str]:
    """The tokens of all transfers that were committed."""
    with bank.connect() as connection:
        return {token for (token,) in connection.execute("SELECT token FROM bank.ledger").fetchall()}


def held(killer: kills.Killer, point: int, role: str) -> str:
    """What the client of the held transfer was told; again if a part died of an earlier kill."""
    for _ in range(5):
        try:
            return killer.at_point(point, role)
        except kills.Missed:
            kills.wait(killer.healthy, _SECONDS)
    raise AssertionError(f"point {point} was never reached")

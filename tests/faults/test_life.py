"""The life of chunks, small: they are compressed, moved and aggregated while processes die, and each answer is right.

See `make life`.
"""

from __future__ import annotations

import random
import threading

from benchmarks.life import __main__ as lives
from benchmarks.life import kills, steady, workload
from tests.support import cluster as clusters

#: What is killed in each round; `make life` does it hundreds of times.
ROUNDS = (("maintenance", "jobs"), ("gateway", "valkey", "s3"))
_SECONDS = 180.0


def test_life(victim: clusters.Cluster) -> None:
    life = workload.Life(victim.dsn, victim.coordinator_dsn, seed=1)
    life.create()
    fixed = steady.Steady(life, seed=1, rows=4_000)
    fixed.create()
    killer = kills.Killer(victim.info, life, seed=1, steady=fixed)
    kills.wait(killer.healthy, _SECONDS, "all processes")
    threads = [threading.Thread(target=writer.run) for writer in life.writers]
    threads += [threading.Thread(target=life.reader), *fixed.threads()]
    for thread in threads:
        thread.start()
    try:
        for victims in ROUNDS:
            lives.one_round(life, killer, random.Random(1), 12, victims, _SECONDS)
    finally:
        life.stop.set()
        for thread in threads:
            thread.join()
    assert kills.wait(lambda: [*fixed.check(), fixed], _SECONDS, "answers") == [fixed]
    assert life.book.faults == []
    assert killer.kills.total() >= len(ROUNDS)
    assert life.book.statements > 0
    assert fixed.asked.total() > 0
    with life.coordinator() as connection:
        connection.execute("SELECT orochi.reset_clock()")
        connection.execute(f"DROP DATABASE {steady.TWIN} WITH (FORCE)".encode())
    with life.connect() as connection:
        connection.execute("DROP SCHEMA life CASCADE")
        connection.execute("DROP SCHEMA fixed CASCADE")

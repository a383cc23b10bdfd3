"""Random sequences of writes, compressions and transactions: the table is PostgreSQL's after every step."""

from __future__ import annotations

import os
import random
import re

import pytest

from tests.support import layouts, oracle

_FIRST, _LAST = map(int, os.environ.get("OROCHI_TEST_WRITE_SEEDS", "1-3").split("-"))
_STEPS = 12
_LAYOUTS = ("both-compressed", "columnar", "both", "distributed-columnar", "hypertable-compressed")


class Writer:
    """Chooses the next step; what it chooses depends on the seed only."""

    def __init__(self, seed: int, pair: oracle.Pair) -> None:
        self.random = random.Random(seed)
        self.pair = pair
        self.ids = 10_000
        self.in_block = False

    def condition(self) -> str:
        pick = self.random
        return pick.choice(
            [
                f"tenant = {pick.randrange(8)}",
                f"id % {pick.choice([2, 3, 7])} = 0",
                f"at < timestamptz '2024-03-{pick.randint(9, 15):02d} 06:00+00'",
                f"tenant IN ({pick.randrange(8)}, {pick.randrange(8)}) AND id > {pick.randrange(200)}",
                "what IS NULL",
                f"amount > {pick.randrange(250)}",
                f"what = 'kind {pick.randrange(5)}' AND ratio < {pick.randrange(70)}",
                f"at BETWEEN '2024-03-{pick.randint(9, 12):02d}' AND '2024-03-{pick.randint(12, 15):02d}'",
                "false",
            ]
        )

    def write(self) -> str:
        pick, where, number = self.random, self.condition(), self.ids
        self.ids += 100
        returning = pick.choice(["", "", " RETURNING tenant, id, what", " RETURNING *"])
        day, tenant = pick.randint(1, 28), pick.randrange(9)
        copy = f"INSERT INTO events SELECT * FROM events WHERE {where}"
        update = "ON CONFLICT (tenant, at, id) DO UPDATE SET what = excluded.what || '+', amount = 0"
        values = (
            f"({tenant}, '2024-03-{day:02d}', {number}, 'v'), ({day % 9}, '2024-03-12', {number + 1}, NULL)"
        )
        if pick.random() < 0.45:
            return self.rehearsed(where, number, returning)
        return pick.choice(
            [
                f"UPDATE events SET what = 'step {number}' WHERE {where}{returning}",
                f"UPDATE events SET amount = amount + 1, ratio = NULL WHERE {where}{returning}",
                f"UPDATE events SET id = id + 100000 WHERE {where}",
                f"DELETE FROM events WHERE {where} AND id % 4 = {pick.randrange(4)}{returning}",
                f"INSERT INTO events (tenant, at, id) SELECT tenant, at, id + {number} FROM events WHERE {where}",
                f"INSERT INTO events (tenant, at, id, what) VALUES {values}{returning}",
                f"{copy} {update}{returning}",
                f"{copy} ON CONFLICT DO NOTHING",
                copy,
            ]
        )

    def rehearsed(self, where: str, number: int, returning: str) -> str:
        """A write that no shard can do alone."""
        pick = self.random
        tenant, days, step = pick.randrange(9), pick.choice([-400, -1, 1, 30]), pick.randrange(1, 5)
        alone = re.sub(r"\b(tenant|id|at|what|amount|ratio)\b", r"e.\1", where)
        joined = f"f.id = e.id + {step} AND {alone}"
        back = re.sub(r"\b(tenant|id|what)\b|\*", lambda found: f"e.{found.group()}", returning)
        source = f"(SELECT tenant, at, id + {step} AS id, what FROM events WHERE {where})"
        match = "ON e.tenant = s.tenant AND e.id = s.id AND e.at > s.at"
        fresh = f"INSERT (tenant, at, id, what) VALUES (s.tenant + {tenant}, s.at, s.id + {number}, s.what)"
        lock = pick.choice(["FOR UPDATE", "FOR SHARE SKIP LOCKED", "FOR NO KEY UPDATE NOWAIT"])
        return pick.choice(
            [
                f"UPDATE events SET tenant = tenant + {tenant} WHERE {where}{returning}",
                f"UPDATE events SET at = at + interval '{days} days' WHERE {where}{returning}",
                f"UPDATE events SET tenant = {tenant}, at = at - interval '{days} days' WHERE {where}",
                f"UPDATE events e SET what = 'after ' || f.id FROM events f WHERE {joined}{back}",
                f"DELETE FROM events e USING events f WHERE {joined} AND e.id % 3 = 0{back}",
                f"UPDATE events e SET amount = (SELECT count(*) FROM events x WHERE x.what = e.what) WHERE {alone}",
                f"DELETE FROM events e WHERE {alone} AND amount < (SELECT avg(amount) FROM events x WHERE x.id > e.id)",
                f"WITH w AS (SELECT id FROM events WHERE {where}) DELETE FROM events USING w WHERE events.id = w.id + 1",
                (
                    f"WITH d AS (DELETE FROM events WHERE {where} AND id % 3 = 1 RETURNING *) "
                    f"INSERT INTO events SELECT tenant + 1, at, id + {number}, what FROM d{returning}"
                ),
                f"WITH u AS (UPDATE events SET what = 'u{number}' WHERE {where} RETURNING *) SELECT count(*), max(id) FROM u",
                (
                    f"MERGE INTO events e USING {source} s {match} WHEN MATCHED AND e.id % 2 = 0 THEN DELETE "
                    f"WHEN MATCHED THEN UPDATE SET what = s.what || '~', tenant = {tenant}"
                ),
                (
                    f"MERGE INTO events e USING {source} s ON e.tenant = s.tenant AND e.id = s.id AND e.at = s.at "
                    f"WHEN MATCHED THEN UPDATE SET amount = 1 WHEN NOT MATCHED THEN {fresh}"
                ),
                (
                    f"MERGE INTO events e USING {source} s ON e.tenant = s.tenant AND e.id = s.id "
                    f"WHEN NOT MATCHED BY SOURCE AND e.id % 7 = {step} THEN UPDATE SET ratio = {number}"
                ),
                f"SELECT tenant, id, what FROM events WHERE {where} {lock}",
            ]
        )

    def step(self) -> None:
        chance = self.random.random()
        if chance < 0.1 and not self.in_block:
            self.pair.both("BEGIN", "SAVEPOINT s")
            self.in_block = True
        elif chance < 0.2 and self.in_block:
            self.pair.both(self.random.choice(["COMMIT", "ROLLBACK"]))
            self.in_block = False
        elif chance < 0.3 and self.in_block:
            self.pair.both("ROLLBACK TO s")
        elif chance < 0.3:
            self.rearrange()
        else:
            answer = self.pair.same(
                self.write(), details=False
            )  # which of several keys clashes first is open
            if self.in_block:
                self.pair.both("ROLLBACK TO s" if answer.sqlstate else "SAVEPOINT s")

    def rearrange(self) -> None:
        """Compress, decompress or recompress some chunks; rows stay as they are."""
        chunks = self.pair.orochi(
            "SELECT chunk_name, is_compressed FROM orochi.chunks WHERE hypertable = 'events'::regclass::text ORDER BY 1"
        )
        for chunk, compressed in self.random.sample(chunks, min(4, len(chunks))):
            call = (
                self.random.choice(["decompress_chunk", "recompress_chunk"])
                if compressed
                else "compress_chunk"
            )
            self.pair.orochi(f"SELECT {call}(%s)", (chunk,))


@pytest.mark.parametrize("seed", range(_FIRST, _LAST + 1))
def test_seed(pair: oracle.Pair, seed: int) -> None:
    layouts.events(pair, _LAYOUTS[seed % len(_LAYOUTS)])
    writer = Writer(seed, pair)
    for _ in range(_STEPS):
        writer.step()
        pair.check_tables("events")
        pair.same("SELECT tenant, count(*), sum(amount), max(at) FROM events GROUP BY tenant")
    if writer.in_block:
        pair.both("COMMIT")
    pair.check_tables("events")

"""The tables of the planner's tests."""

from __future__ import annotations

import datetime as dt
import random

from tests.support import planner_world

DAY = 86_400_000_000
DDL = (
    """CREATE TABLE a (id int NOT NULL, k bigint, x numeric(10,2), s text, ts timestamptz NOT NULL, f float8,
        b bool, d date, PRIMARY KEY (id, ts))""",
    "CREATE TABLE b (id int NOT NULL PRIMARY KEY, k bigint, y int, n varchar(10), d date)",
    "CREATE TABLE c (key text PRIMARY KEY, id int, v smallint, r real)",
    "CREATE TABLE r (k bigint PRIMARY KEY, name text, w interval)",
    "CREATE TABLE l (id int, note text)",
    "CREATE TABLE o (id text, k int, note json, PRIMARY KEY (id))",
)
_BASE = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def build(world: planner_world.World) -> None:
    """`a` (a hypertable, every second chunk a stripe) and `b` are co-located; `c` and `o` lie elsewhere; `l` is local."""
    for ddl in DDL:
        world.local(ddl)
    chance = random.Random(5)

    def some(value: object, missing: float = 0.1) -> object:
        return None if chance.random() < missing else value

    def day() -> object:
        return some(dt.date(2020, 1, 1) + dt.timedelta(days=chance.randrange(30)))

    with world.connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO plain.a VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            [
                (
                    number % 40,
                    some(chance.randrange(6)),
                    some(chance.randrange(1000) / 100),
                    some(chance.choice(["x", "y", "Zed", "é", "z z"])),
                    _BASE + dt.timedelta(hours=number * 7),
                    some(chance.randrange(400) / 4),
                    some(chance.random() < 0.5),
                    day(),
                )
                for number in range(160)
            ],
        )
        cursor.executemany(
            "INSERT INTO plain.b VALUES (%s, %s, %s, %s, %s)",
            [
                (
                    n,
                    some(chance.randrange(8)),
                    some(chance.randrange(-5, 5)),
                    some(chance.choice(["x", "y", "q"])),
                    day(),
                )
                for n in range(0, 60, 2)
            ],
        )
        cursor.executemany(
            "INSERT INTO plain.c VALUES (%s, %s, %s, %s)",
            [
                (
                    f"k{n}",
                    some(chance.randrange(40)),
                    some(chance.randrange(10)),
                    some(chance.randrange(8) / 8),
                )
                for n in range(40)
            ],
        )
        cursor.executemany(
            "INSERT INTO plain.r VALUES (%s, %s, %s)",
            [(n, some(f"name{n % 3}"), some(dt.timedelta(minutes=n))) for n in range(6)],
        )
        cursor.executemany(
            "INSERT INTO plain.o VALUES (%s, %s, %s)", [(str(n), n, f'{{"n": {n}}}') for n in range(1, 21)]
        )
    world.local("INSERT INTO l SELECT g, 'n' || g % 4 FROM generate_series(1, 30) g")
    world.table("a", "distributed", "id", 4, group="g", time="ts", interval=7 * DAY, stripes=True)
    world.table("b", "distributed", "id", 4, group="g")
    world.table("c", "distributed", "key", 3)
    world.table("o", "distributed", "id", 3)
    world.table("r", "reference")
    world.view("va", "SELECT id, s AS label, x * 2 AS dbl, ts FROM a WHERE b")
    world.view("vv", "SELECT label, count(*) AS n FROM va GROUP BY label")

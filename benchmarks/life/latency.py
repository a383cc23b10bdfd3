"""`make latency`: how long INSERTs take while chunks are compressed, moved to the object store and aggregated.

Short phases take turns: in one the clients insert and nothing else happens, in the next the same statements
run beside loops of `recompress_chunk`, `move_chunk_to_tier` and `refresh_continuous_aggregate`. So
whatever else the machine does meets both alike. The clients write at full speed: single rows and statements of
100 rows, half of them at the head of the table, half late, into the chunks that change. What is counted beside the
times does not depend on processors: statements that had to be planned again, catalogs that were read, and
the share of looks that found an insert waiting for a lock.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime as dt
import itertools
import json
import pathlib
import random
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import psycopg
from rich import box, console, table

from benchmarks import local

FOLDER = local.ROOT / ".latency"
out = console.Console(highlight=False)

_DAYS, _DEVICES, _BATCH = 10, 50, 100
_BEGIN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
_SETUP = (
    "DROP TABLE IF EXISTS readings CASCADE",
    "CREATE TABLE readings (at timestamptz NOT NULL, device int NOT NULL, v float8, w float8, note text)",
    "SELECT create_hypertable('readings', 'at', chunk_time_interval => interval '1 day')",
    "SELECT create_distributed_table('readings', 'device', 4)",
    (
        "CREATE MATERIALIZED VIEW hourly WITH (timescaledb.continuous) AS"
        " SELECT time_bucket(interval '1 hour', at) AS hour, device, avg(v), max(w), count(*)"
        " FROM readings GROUP BY 1, 2 WITH NO DATA"
    ),
)
_FILL = (
    "INSERT INTO readings SELECT '2026-01-01 00:00:00+00'::timestamptz + %s * interval '1 day'"
    " + g * interval '1 day' / %s, g %% 50, random(), random(), 'n' || g FROM generate_series(0, %s - 1) g"
)
_CHUNKS = "SELECT chunk_name FROM orochi.chunks WHERE hypertable::text = 'readings' ORDER BY 1"
_ROW = "('{at:%Y-%m-%d %H:%M:%S}+00', {device}, {v:.3f}, {w:.3f}, 'n{device}')"
_WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%INSERT INTO%readings%'"
    " AND pid <> pg_backend_pid()"
)
_COUNTERS = ("orochi_replans_total", "orochi_catalog_loads_total")
_LOOK_SECONDS = 0.05

Times = dict[str, list[float]]


class Background:
    """Loops that change chunks while they are let; counts what they did and what failed."""

    def __init__(self, dsn: str, chunks: Sequence[str]) -> None:
        """`chunks`: what they work on."""
        self.done: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self._dsn = dsn
        self._go, self._stop = threading.Event(), threading.Event()
        self._busy: set[str] = set()
        compress = [f"SELECT recompress_chunk('{chunk}', true)" for chunk in chunks]
        move = [
            f"SELECT move_chunk_to_tier('{chunk}', '{tier}')" for tier in ("cold", "warm") for chunk in chunks
        ]
        refresh = ["CALL refresh_continuous_aggregate('hourly', NULL, NULL)"]
        self._threads = [
            threading.Thread(target=self._loop, args=(name, statements), name=name)
            for name, statements in (("compressed", compress), ("moved", move), ("refreshed", refresh))
        ]
        for thread in self._threads:
            thread.start()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Let them work for the block, and wait for what they began."""
        self._go.set()
        try:
            yield
        finally:
            self._go.clear()
            while self._busy:
                time.sleep(0.01)

    def close(self) -> None:
        """End them."""
        self._stop.set()
        self._go.set()
        for thread in self._threads:
            thread.join()

    def _loop(self, name: str, statements: Sequence[str]) -> None:
        with local.connect(self._dsn) as connection:
            for statement in itertools.cycle(statements):
                self._go.wait()
                if self._stop.is_set():
                    return
                self._busy.add(name)
                try:
                    connection.execute(statement.encode())
                    self.done[name] += 1
                except psycopg.Error as error:
                    self.failures.append(f"{name}: {error!r}")
                finally:
                    self._busy.discard(name)


class Looks:
    """Looks from time to time at each server, whether an insert waits there for a lock."""

    def __init__(self, dsns: Sequence[str]) -> None:
        """`dsns`: of the coordinator and the nodes."""
        self.looks = self.waiting = 0
        self._dsns = dsns
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(local.connect(dsn)) for dsn in self._dsns]
            while not self._stop.wait(_LOOK_SECONDS):
                self.looks += 1
                self.waiting += sum(int(server.execute(_WAITING).fetchall()[0][0]) for server in servers)


class Inserts:
    """Clients that insert one statement after another."""

    def __init__(self, dsn: str, clients: int) -> None:
        """`clients`: connections that insert at once."""
        self.rows = 0
        self.errors: list[str] = []
        self._connections = [local.connect(dsn) for _ in range(clients)]
        self._lock = threading.Lock()

    def run(self, seconds: float, seed: int, times: Times) -> None:
        """Insert for so long; `times` gets milliseconds by kind of statement."""
        threads = [
            threading.Thread(
                target=self._client, args=(connection, seconds, random.Random(seed + 1000 * number), times)
            )
            for number, connection in enumerate(self._connections)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _client(
        self, connection: psycopg.Connection[Any], seconds: float, chance: random.Random, times: Times
    ) -> None:
        end = time.monotonic() + seconds
        kinds = itertools.cycle(((1, False), (1, True), (_BATCH, False), (_BATCH, True)))
        while time.monotonic() < end:
            count, late = next(kinds)
            day = chance.randrange(_DAYS) if late else _DAYS
            statement = f"INSERT INTO readings VALUES {', '.join(_row(chance, day) for _ in range(count))}"
            began = time.perf_counter()
            try:
                connection.execute(statement.encode())
            except psycopg.Error as error:
                with self._lock:
                    self.errors.append(repr(error))
                continue
            milliseconds = 1000 * (time.perf_counter() - began)
            with self._lock:
                self.rows += count
                times[f"{count} row{'s' * (count > 1)}, {'late' if late else 'head'}"].append(milliseconds)
                times[f"{count} row{'s' * (count > 1)}"].append(milliseconds)


def _row(chance: random.Random, day: int) -> str:
    at = _BEGIN + dt.timedelta(days=day, seconds=chance.randrange(86_400))
    return _ROW.format(at=at, device=chance.randrange(_DEVICES), v=chance.random(), w=chance.random())


def counters(port: int) -> dict[str, float]:
    """What the gateway has counted so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = dict.fromkeys(_COUNTERS, 0.0)
    for line in lines:
        name, _, value = line.rpartition(" ")
        if name in found:
            found[name] = float(value)
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def fill(dsn: str, rows: int) -> list[str]:
    """A table of ten days with an aggregate, compressed; its chunks."""
    with local.connect(dsn) as connection:
        for statement in _SETUP:
            connection.execute(statement.encode())
        for day in range(_DAYS):
            connection.execute(_FILL, (day, rows, rows))
        chunks = [str(row[0]) for row in connection.execute(_CHUNKS.encode()).fetchall()]
        for chunk in chunks:
            connection.execute("SELECT compress_chunk(%s)", (chunk,))
        connection.execute("CALL refresh_continuous_aggregate('hourly', NULL, NULL)")
    return chunks


def measure(info: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The phases on a running cluster: times, counts, and what went wrong."""
    dsn = str(info["dsn"])
    chunks = fill(dsn, options.rows)
    phases: dict[str, Times] = {name: collections.defaultdict(list) for name in ("idle", "busy")}
    counts: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in phases}
    background, inserts = Background(dsn, chunks), Inserts(dsn, options.clients)
    inserts.run(2.0, -1, collections.defaultdict(list))  # plans and connections are warm from here on

    def phase(name: str, seed: int) -> None:
        before = counters(options.metrics_port)
        with Looks([str(info["coordinator_dsn"]), *map(str, info["node_dsns"])]) as looks:
            inserts.run(options.seconds, seed, phases[name])
        for counter, value in counters(options.metrics_port).items():
            counts[name][counter] += int(value - before[counter])
        counts[name]["looks"] += looks.looks
        counts[name]["waiting"] += looks.waiting

    try:
        for number in range(options.rounds):
            phase("idle", 2 * number)
            with background.running():
                phase("busy", 2 * number + 1)  # other texts: none is known from the idle phase
    finally:
        background.close()
    with local.connect(dsn) as connection:
        found = int(connection.execute("SELECT count(*) FROM readings").fetchall()[0][0])
    expected = _DAYS * options.rows + inserts.rows
    return {
        "times": {
            name: {kind: _percentiles(values) for kind, values in times.items()}
            for name, times in phases.items()
        },
        "counts": counts,
        "background": background.done,
        "failures": background.failures,
        "errors": inserts.errors,
        "lost": expected - found,
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    names = {"p50": 50, "p99": 99, "max": 100}
    return {"n": len(values), **{name: float(np.percentile(values, at)) for name, at in names.items()}}


def show(report: dict[str, Any]) -> None:
    """Print what was found."""
    grid = table.Table(box=box.SIMPLE_HEAD, title="INSERT, milliseconds: idle, busy, ratio")
    for heading in ("statement", "n", "p50", "", "", "p99", "", "", "max", ""):
        grid.add_column(heading, justify="left" if heading == "statement" else "right")
    idle, busy = report["times"]["idle"], report["times"]["busy"]
    for kind in sorted(idle):
        before, after = idle[kind], busy[kind]
        cells = [kind, f"{before['n']} / {after['n']}"]
        for name in ("p50", "p99"):
            cells += [f"{before[name]:.1f}", f"{after[name]:.1f}", f"x{after[name] / before[name]:.1f}"]
        grid.add_row(*cells, f"{before['max']:.0f}", f"{after['max']:.0f}")
    out.print(grid)
    for name, counts in report["counts"].items():
        statements = sum(item["n"] for kind, item in report["times"][name].items() if "," not in kind)
        out.print(
            f"{name}: {statements} statements, {counts['orochi_replans_total']} planned again,"
            f" {counts['orochi_catalog_loads_total']} catalogs read,"
            f" {counts['waiting']} of {counts['looks']} looks found an insert waiting for a lock"
        )
    out.print(
        "in the background:", ", ".join(f"{count} {name}" for name, count in report["background"].items())
    )
    for what in ("errors", "failures"):
        out.print(f"{len(report[what])} {what}", *report[what][:5], sep="\n  ")
    out.print(f"{report['lost']} rows lost")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 1 if an INSERT failed or a row is missing."""
    parser = argparse.ArgumentParser(description=__doc__, prog="make latency")
    parser.add_argument("--rounds", type=int, default=6, help="pairs of an idle and a busy phase")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each phase")
    parser.add_argument("--rows", type=int, default=60_000, help="rows of a day before it begins")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--metrics-port", type=int, help="of the gateway; else a free one")
    parser.add_argument("--folder", type=pathlib.Path, default=FOLDER, help="where the cluster lives")
    parser.add_argument(
        "--running", type=pathlib.Path, help="use this cluster: what `orochi up --json` printed"
    )
    parser.add_argument("--output", type=pathlib.Path, help="write the report as JSON")
    options = parser.parse_args(arguments)
    options.metrics_port = options.metrics_port or _free_port()
    try:
        if options.running:
            report = measure(json.loads(options.running.read_text()), options)
        else:
            environment = {"OROCHI_METRICS_PORT": str(options.metrics_port)}
            with local.cluster(options.folder, nodes=2, extra=("--s3",), environment=environment) as info:
                report = measure(info, options)
    except KeyboardInterrupt:
        out.print("[yellow]Interrupted:[/] everything was stopped.")
        return 130
    except (local.Failed, psycopg.Error) as error:
        out.print(f"[bold red]Failed:[/] {error!r}")
        return 1
    show(report)
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if report["errors"] or report["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())

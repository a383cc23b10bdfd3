"""`make bench`: the same work on Orochi, on plain PostgreSQL and on DuckDB, in one run on one machine.

Two workloads: an aggregate over all flights (half of the chunks compressed), and point lookups by
named prepared statements on a distributed table. Each figure is the median of interleaved rounds;
CPU is that of all server processes of the side. Only ratios within one run mean something.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime as dt
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import duckdb
import psutil
import psycopg
from rich import box, console, table

from benchmarks import demo, flights, local

FOLDER = local.ROOT / ".bench"
out = console.Console(highlight=False)

AGGREGATE = """SELECT carrier, month, count(*), avg(dep_delay), max(arr_delay), sum(distance)
FROM flights GROUP BY carrier, month"""
LOOKUP = "SELECT * FROM planes WHERE tailnum = {}"
PLACEMENT = (
    *(call for call in demo.PLACEMENT if "planes" not in call),
    "SELECT create_distributed_table('planes', 'tailnum', 8)",
)


@dataclasses.dataclass
class Side:
    """A system under test: how to do each workload once, and the CPU seconds its processes used."""

    name: str
    aggregate: Callable[[], object]
    lookup: Callable[[str], object]
    cpu: Callable[[], float]


@dataclasses.dataclass
class Figure:
    """One workload on one side: medians of the rounds."""

    workload: str
    side: str
    milliseconds: float
    cpu_milliseconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--lookups", type=int, default=2000, help="point lookups a round")
    parser.add_argument("--output", type=pathlib.Path, help="write the figures as JSON")
    parser.add_argument("--compare", type=pathlib.Path, help="an earlier run's JSON")
    options = parser.parse_args(arguments)
    try:
        with local.cluster(FOLDER, nodes=2) as info, contextlib.ExitStack() as stack:
            figures = measure(prepare(info, stack), options.rounds, options.lookups)
    except KeyboardInterrupt:
        out.print("[yellow]Interrupted:[/] everything was stopped.")
        return 130
    except (local.Failed, psycopg.Error) as error:
        out.print(f"[bold red]Failed:[/] {error}")
        return 1
    report = describe(figures)
    old = json.loads(options.compare.read_text()) if options.compare else None
    show(figures, old)
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def prepare(info: dict[str, Any], stack: contextlib.ExitStack) -> list[Side]:
    """Load the flights everywhere."""
    with local.connect(info["coordinator_dsn"]) as admin:
        admin.execute("CREATE DATABASE plain")
    gateway = stack.enter_context(local.connect(info["dsn"]))
    plain = stack.enter_context(local.connect(info["coordinator_dsn"], "plain"))
    duck = stack.enter_context(duckdb.connect())
    for name, ddl in flights.DDL.items():
        for connection in (gateway, plain, duck):
            connection.execute(ddl)
        if name == "flights":
            for call in PLACEMENT:
                gateway.execute(call)
    for name in flights.DDL:
        for connection in (gateway, plain):
            with connection.cursor() as cursor, cursor.copy(flights.copy_sql(name)) as copy:
                for piece in flights.data(name):
                    copy.write(piece)
        _load_duck(duck, name)
    plain.execute("VACUUM ANALYZE")
    demo.compress(gateway)
    duck.execute("SET threads = 2")
    children = _processes(info)
    coordinator = [psutil.Process(pid) for pid in info["pids"]["coordinator"]]
    return [
        Side("orochi", _ask(gateway, AGGREGATE), _lookup(gateway), lambda: _cpu(children)),
        Side("postgresql", _ask(plain, AGGREGATE), _lookup(plain), lambda: _cpu(coordinator)),
        Side(
            "duckdb",
            lambda: duck.execute(AGGREGATE).fetchall(),
            lambda key: duck.execute(LOOKUP.format("?"), [key]).fetchall(),
            time.process_time,
        ),
    ]


def _load_duck(duck: duckdb.DuckDBPyConnection, name: str) -> None:
    path = FOLDER / f"{name}.csv"
    path.write_bytes(b"".join(flights.data(name)))
    duck.execute(f"COPY {name} FROM '{path}' (FORMAT csv, HEADER false, NULLSTR 'NA')")
    path.unlink()


def _ask(connection: psycopg.Connection[Any], sql: str) -> Callable[[], object]:
    return lambda: connection.execute(sql).fetchall()


def _lookup(connection: psycopg.Connection[Any]) -> Callable[[str], object]:
    return lambda key: connection.execute(LOOKUP.format("%s"), (key,), prepare=True).fetchall()


def _processes(info: dict[str, Any]) -> list[psutil.Process]:
    pids = {pid for group in info["pids"].values() for pid in group}
    return [psutil.Process(pid) for pid in pids]


def _cpu(roots: Sequence[psutil.Process]) -> float:
    """CPU seconds of the processes and of their children, living or waited for."""
    found = {process.pid: process for root in roots for process in (root, *root.children(recursive=True))}
    total = 0.0
    for process in found.values():
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def measure(sides: Sequence[Side], rounds: int, lookups: int) -> list[Figure]:
    """Interleaved rounds, so that a disturbance of the machine meets all sides alike."""
    keys = [line.split(b",")[0].decode() for piece in flights.data("planes") for line in piece.splitlines()]
    work: dict[str, tuple[int, Callable[[Side], object]]] = {
        "aggregate": (1, lambda side: side.aggregate()),
        "point lookup": (
            lookups,
            lambda side: [side.lookup(keys[n * 7 % len(keys)]) for n in range(lookups)],
        ),
    }
    figures = []
    for workload, (divisor, task) in work.items():
        samples: dict[str, list[tuple[float, float]]] = {side.name: [] for side in sides}
        for number in range(rounds + 1):
            for side in sides:
                cpu, began = side.cpu(), time.perf_counter()
                task(side)
                sample = (time.perf_counter() - began, side.cpu() - cpu)
                if number:  # the first round warms caches and plans
                    samples[side.name].append(sample)
        for name, pairs in samples.items():
            wall, cpu = (statistics.median(values) * 1000 / divisor for values in zip(*pairs, strict=True))
            figures.append(Figure(workload, name, wall, cpu))
    return figures


def describe(figures: Sequence[Figure]) -> dict[str, Any]:
    """The figures with what is needed to read them later."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=local.ROOT, capture_output=True, text=True, check=False
    )
    return {
        "when": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or None,
        "machine": {
            "cpus": os.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
        },
        "figures": [dataclasses.asdict(figure) for figure in figures],
    }


def show(figures: Sequence[Figure], old: dict[str, Any] | None) -> None:
    """A table of times and of ratios to Orochi."""
    grid = table.Table(box=box.SIMPLE_HEAD, title="medians; ratio > 1: slower than plain PostgreSQL")
    headings = ["workload", "side", "ms", "ratio", "CPU ms", "CPU ratio"]
    for heading in [*headings, "ms before"] if old else headings:
        grid.add_column(heading, justify="left" if heading in headings[:2] else "right")
    base = {figure.workload: figure for figure in figures if figure.side == "postgresql"}
    before = {(f["workload"], f["side"]): f["milliseconds"] for f in (old or {}).get("figures", [])}
    for figure in figures:
        reference = base[figure.workload]
        row = [
            figure.workload,
            figure.side,
            f"{figure.milliseconds:.2f}",
            f"{figure.milliseconds / reference.milliseconds:.2f}",
            f"{figure.cpu_milliseconds:.2f}",
            _ratio(figure.cpu_milliseconds, reference.cpu_milliseconds),
        ]
        if old:
            earlier = before.get((figure.workload, figure.side))
            row.append("" if earlier is None else f"{earlier:.2f} ({figure.milliseconds / earlier - 1:+.0%})")
        grid.add_row(*row)
    out.print(grid)


def _ratio(value: float, reference: float) -> str:
    """Empty where the reference is below what the system's clock ticks resolve."""
    return f"{value / reference:.2f}" if reference > 1e-4 else ""


if __name__ == "__main__":
    sys.exit(main())

"""`make versus`: TPC-H's 22 queries on columnar tables against DuckDB on a file of its own, the worst ratio first.

For finding what to mend: little data, a few interleaved rounds, least wall and CPU time of each query. The CPU is that of
gateway, workers and PostgreSQL servers together, with none of the periodic work between two looks. Answers are
compared; the exit status is 1 if any differ.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from rich import console, table

from benchmarks import data, local, run, systems, tpch_queries

out = console.Console(highlight=False)
_GROUPS = ("gateway", "coordinator", "nodes", "workers", "redis")


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """A query's least milliseconds on one system."""

    wall: float
    cpu: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Load, ask, compare, print; the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, prog="make versus")
    parser.add_argument("--scale", type=float, default=0.2, help="TPC-H's scale factor")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="worker slots of each node")
    parser.add_argument("--queries", type=int, nargs="+", default=list(tpch_queries.QUERIES))
    parser.add_argument("--plain", action="store_true", help="plain PostgreSQL too")
    parser.add_argument("--cluster", type=pathlib.Path, help="what `orochi up --json` printed: use that one")
    parser.add_argument("--output", type=pathlib.Path, help="a JSON file for the figures")
    options = parser.parse_args(arguments)
    if options.cluster is not None:
        return _measure(options, json.loads(options.cluster.read_text()))
    with local.cluster(run.FOLDER, nodes=options.nodes, workers=options.workers) as info:
        return _measure(options, info)


def _measure(options: argparse.Namespace, info: dict[str, Any]) -> int:
    folder = pathlib.Path(info["data_dir"]) / "versus"
    known = folder / f"{options.scale}-{options.seed}"
    is_loaded = known.exists()
    if options.plain and not is_loaded:
        systems.coordinator_database(info, "plain")
    asked: list[systems.System] = [
        systems.Wire("orochi", info["dsn"], None, systems.processes(info, *_GROUPS))
    ]
    if options.plain:
        pids = systems.processes(info, "coordinator")
        asked.append(systems.Wire("postgresql", info["coordinator_dsn"], "plain", pids))
    folder.mkdir(exist_ok=True)
    asked.append(systems.Duck(folder / "duck.db", options.nodes * options.workers))
    if not is_loaded:
        _load(asked, options, folder, info)
        known.touch()
    wanted = tpch_queries.queries(options.scale)
    figures: dict[int, dict[str, Measured]] = {}
    wrong = 0
    for number in options.queries:
        answers = [system.rows(system.ask(wanted[number])) for system in asked]
        for system, answer in zip(asked[1:], answers[1:], strict=True):
            if (found := systems.differ(answers[0], answer)) is not None:
                wrong += 1
                out.print(f"[bold red]Q{number}: orochi and {system.name}:[/] {found[:600]}")
        figures[number] = _asked(asked, wanted[number], options.rounds)
    _show(figures, [system.name for system in asked])
    if options.output is not None:
        kept = {n: {name: dataclasses.astuple(m) for name, m in of.items()} for n, of in figures.items()}
        options.output.write_text(json.dumps(kept))
    return 1 if wrong else 0


def _load(
    asked: Sequence[systems.System], options: argparse.Namespace, folder: pathlib.Path, info: dict[str, Any]
) -> None:
    for made in data.tpch_tables(options.scale, options.seed):
        file, _ = made.write(folder, lambda _: None)
        for system in asked:
            system.execute(made.ddl[system.name])
            for sql in made.before if system.name == "orochi" else ():
                system.execute(sql)
            system.load(made.name, file)
            for sql in made.after if system.name == "postgresql" else ():
                system.execute(sql)
        file.unlink()
    with local.connect(info["dsn"]) as connection:
        connection.execute("SELECT run_maintenance()")
    for system in asked:
        if isinstance(system, systems.Duck):
            system.reopen()
        elif system.name == "postgresql":
            system.execute("VACUUM ANALYZE")


def _asked(asked: Sequence[systems.System], sql: str, rounds: int) -> dict[str, Measured]:
    """The least of some interleaved rounds."""
    found: dict[str, list[tuple[float, float]]] = {system.name: [] for system in asked}
    for _ in range(rounds):
        for system in asked:
            found[system.name].append(run.timed(system, lambda system=system: system.ask(sql)))  # type: ignore[misc]
    return {
        name: Measured(*(min(values) for values in zip(*samples, strict=True)))
        for name, samples in found.items()
    }


def _show(figures: dict[int, dict[str, Measured]], names: Sequence[str]) -> None:
    shown = table.Table("query", *(f"{name} ms (CPU)" for name in names), "wall ratio", "CPU ratio")
    ratios = {
        number: (
            of["orochi"].wall / max(of["duckdb"].wall, 0.01),
            of["orochi"].cpu / max(of["duckdb"].cpu, 0.01),
        )
        for number, of in figures.items()
    }
    for number in sorted(figures, key=lambda number: -ratios[number][1]):
        cells = [f"{of.wall:.1f} ({of.cpu:.1f})" for of in (figures[number][name] for name in names)]
        shown.add_row(f"Q{number}", *cells, *(f"{ratio:.2f}" for ratio in ratios[number]))
    out.print(shown)
    means = (math.exp(sum(math.log(r[at]) for r in ratios.values()) / len(ratios)) for at in (0, 1))
    out.print("Geometric means of ratios: wall {:.2f}, CPU {:.2f}".format(*means))


if __name__ == "__main__":
    sys.exit(main())

"""`make bench`: the same data and queries on Orochi, on plain PostgreSQL and on DuckDB, in one run on one machine.

TSBS's cpu-only queries, TPC-H's 22, loading, sizes; the same with caches dropped; over 1, 4 and 16 times the
rows; with one worker and with two. A figure is the median of interleaved rounds, so that a disturbance of the
machine meets all systems alike; only ratios within one run mean something. Answers of the three systems are
compared in the same run, and the exit status is 1 if any differ.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from rich import console, progress

from benchmarks import data, local, report, systems, tpch_queries, tsbs

FOLDER = local.ROOT / ".bench"
out = console.Console(highlight=False)
if not out.is_terminal:
    out.width = 150

_COLD = ("double-groupby-1", "double-groupby-5", "double-groupby-all", "high-cpu-all")
_FULL_SCAN = (
    "SELECT {bucket} AS hour, hostname, {each} FROM {table} GROUP BY hour, hostname ORDER BY hour, hostname"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the process's exit status."""
    options = _options(arguments)
    old = json.loads(options.compare.read_text()) if options.compare else None
    try:
        with local.cluster(options.folder, nodes=options.nodes, workers=options.workers) as info:
            bench = Bench(options, info)
            try:
                found = bench.run()
            finally:
                bench.close()
    except KeyboardInterrupt:
        out.print("[yellow]Interrupted:[/] everything was stopped.")
        return 130
    except (local.Failed, psycopg.Error, systems.Refused) as error:
        out.print(f"[bold red]Failed:[/] {error}")
        return 1
    report.show(out, found, old)
    report.save(found, options.output)
    out.print(f"Written: {options.output / 'bench.json'}, {options.output / 'bench.svg'}")
    return 1 if found.differences else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="make bench")
    parser.add_argument("--quick", action="store_true", help="little data, few rounds: about two minutes")
    parser.add_argument("--hosts", type=int, help="TSBS's hosts (400; quick: 100)")
    parser.add_argument("--hours", type=int, help="TSBS's hours, 360 rows a host each (48; quick: 12)")
    parser.add_argument("--scale", type=float, help="TPC-H's scale factor (1; quick: 0.02)")
    parser.add_argument("--rounds", type=int, help="measured rounds of each query (5; quick: 2)")
    parser.add_argument("--seed", type=int, default=1, help="of all data and of the queries' parameters")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="worker slots of each node")
    parser.add_argument("--threads", type=int, help="DuckDB's threads (nodes times workers)")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=("tsbs", "tpch", "cold", "growth", "workers"),
        help="parts to run (all; quick: tsbs tpch cold growth)",
    )
    parser.add_argument("--folder", type=pathlib.Path, default=FOLDER, help="where the cluster lives")
    parser.add_argument(
        "--output", type=pathlib.Path, default=local.ROOT / "build", help="for bench.json and bench.svg"
    )
    parser.add_argument("--compare", type=pathlib.Path, help="an earlier run's bench.json")
    options = parser.parse_args(arguments)
    quick = options.quick
    defaults = {
        "hosts": 100 if quick else 400,
        "hours": 12 if quick else 48,
        "scale": 0.02 if quick else 1.0,
        "rounds": 2 if quick else 5,
        "threads": options.nodes * options.workers,
        "only": ["tsbs", "tpch", "cold", "growth"]
        if quick
        else ["tsbs", "tpch", "cold", "growth", "workers"],
    }
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


class Bench:
    """One run on one cluster."""

    def __init__(self, options: argparse.Namespace, info: dict[str, Any]) -> None:
        self.options = options
        self.info = info
        self.size = tsbs.Size(options.hosts, options.hours, options.seed)
        kept = {name: value for name, value in vars(options).items() if not isinstance(value, pathlib.Path)}
        self.report = report.Report(options=kept)
        self.files = pathlib.Path(info["data_dir"]) / "bench"
        self.files.mkdir()
        systems.coordinator_database(info, "plain")
        self.duck = systems.Duck(self.files / "duck.db", options.threads)
        self.wires = self._connect()

    def _connect(self) -> list[systems.Wire]:
        return [
            systems.Wire("orochi", self.info["dsn"], None, systems.processes(self.info)),
            systems.Wire(
                "postgresql",
                self.info["coordinator_dsn"],
                "plain",
                systems.processes(self.info, "coordinator"),
            ),
        ]

    @property
    def systems(self) -> list[systems.System]:
        """All three."""
        return [*self.wires, self.duck]

    def close(self) -> None:
        """End all connections."""
        for system in self.systems:
            system.close()

    def run(self) -> report.Report:
        """Everything that was asked for."""
        parts = self.options.only
        if {"tsbs", "cold", "growth", "workers"} & set(parts):
            self.load("TSBS", [data.cpu(self.size)])
        if "tsbs" in parts:
            self.queries("TSBS", self.tsbs_queries())
        if "growth" in parts:
            self.growth()
        if "tpch" in parts:
            self.load("TPC-H", data.tpch_tables(self.options.scale, self.options.seed))
            found = tpch_queries.queries(self.options.scale)
            names = [system.name for system in self.systems]
            self.queries("TPC-H", {f"Q{number}": dict.fromkeys(names, sql) for number, sql in found.items()})
        if "cold" in parts:
            self.cold()
        if "workers" in parts:
            self.workers()
        return self.report

    def tsbs_queries(self) -> dict[str, dict[str, str]]:
        """TSBS's queries by system."""
        dialects = {"orochi": tsbs.OROCHI, "postgresql": tsbs.POSTGRESQL, "duckdb": tsbs.DUCKDB}
        made = {
            name: tsbs.queries(self.size, dialect, self.options.seed) for name, dialect in dialects.items()
        }
        return {name: {system: made[system][name] for system in made} for name in made["orochi"]}

    # -- loading

    def load(self, group: str, tables: Sequence[data.Table]) -> None:
        """Make and fill the tables everywhere, and note time, CPU and size."""
        before = {system.name: self.disk(system.name) for system in self.systems}
        with bars() as shown:
            for table in tables:
                self._load(group, table, shown)
        self.settle()
        self.wires[1].execute("VACUUM ANALYZE")
        self.duck.reopen()
        for system in self.systems:
            used = self.disk(system.name) - before[system.name]
            self.report.sizes.append(report.Size(group, system.name, used))
        if group in ("TSBS", "TPC-H"):
            self._codecs([table.name for table in tables])

    def _load(self, group: str, table: data.Table, shown: progress.Progress) -> None:
        bar = shown.add_task(f"{table.name}: generating", total=table.rows)
        file, rows = table.write(self.files, lambda count: shown.advance(bar, count))
        for system in self.systems:
            shown.update(bar, description=f"{table.name}: {system.name}")
            system.execute(table.ddl[system.name])
            for sql in table.before if system.name == "orochi" else ():
                system.execute(sql)
            spent = self.timed(system, lambda system=system: system.load(table.name, file))  # type: ignore[misc]
            self._note("load", f"{group} {table.name}", system, [spent], rows)
            for sql in table.after if system.name == "postgresql" else ():
                system.execute(sql)
        shown.update(bar, description=table.name, completed=table.rows, total=table.rows)
        file.unlink()

    def settle(self) -> None:
        """Have everything in stripes."""
        with local.connect(self.info["dsn"]) as connection:
            connection.execute("SELECT run_maintenance()")
            open_chunks = connection.execute(
                "SELECT chunk_name FROM orochi.chunks WHERE NOT is_compressed AND range_start IS NOT NULL"
            ).fetchall()
            for (chunk,) in open_chunks:
                connection.execute("SELECT compress_chunk(%s)", (chunk,))

    def disk(self, system: str) -> int:
        """Bytes that a system's tables take."""
        if system == "duckdb":
            return self.duck.file.stat().st_size if self.duck.file.exists() else 0
        if system == "postgresql":
            return int(self.wires[1].ask("SELECT pg_database_size(current_database())").get_value(0, 0) or 0)
        with local.connect(self.info["coordinator_dsn"]) as connection:
            found = connection.execute(
                "SELECT coalesce(sum(size_bytes), 0) FROM orochi.orochi_stripes"
            ).fetchone()
        assert found is not None
        return int(found[0])

    def _codecs(self, tables: Sequence[str]) -> None:
        with local.connect(self.info["coordinator_dsn"]) as connection:
            rows = connection.execute(
                """SELECT h.hypertable || '.' || c.column_name, c.encoding || coalesce('+' || nullif(c.compression, 'none'), ''),
                    sum(c.row_count)::bigint, sum(c.size_bytes)::bigint
                FROM orochi.orochi_column_chunks AS c JOIN orochi.orochi_stripes AS s USING (stripe_id)
                JOIN orochi.chunks AS h USING (chunk_id)
                WHERE h.hypertable = ANY(%s) AND c.row_count > 0 GROUP BY 1, 2 ORDER BY 1, 3 DESC""",
                (list(tables),),
            ).fetchall()
        self.report.codecs += [report.Codec(*row) for row in rows]

    # -- measuring

    def timed(self, system: systems.System, task: Callable[[], object]) -> tuple[float, float]:
        """Wall and CPU milliseconds of a task."""
        return timed(system, task)

    def asked(self, system: systems.System, sql: str) -> tuple[float, float]:
        """Wall and CPU milliseconds of a query."""
        return self.timed(system, lambda: system.ask(sql))

    def _note(
        self, group: str, name: str, system: systems.System, samples: Sequence[tuple[float, float]], rows: int
    ) -> None:
        wall, cpu = (statistics.median(values) for values in zip(*samples, strict=True))
        self.report.figures.append(report.Figure(group, name, system.name, wall, cpu, rows))

    def queries(
        self, group: str, wanted: dict[str, dict[str, str]], asked: Sequence[str] | None = None
    ) -> None:
        """Every query on every system: once to warm and to compare the answers, then the rounds."""
        chosen = [system for system in self.systems if asked is None or system.name in asked]
        with bars() as shown:
            bar = shown.add_task(group, total=len(wanted) * (self.options.rounds + 1))
            for name, by_system in wanted.items():
                shown.update(bar, description=f"{group} {name}")
                answers = self._compared(f"{group} {name}", chosen, by_system)
                shown.advance(bar)
                samples: dict[str, list[tuple[float, float]]] = {system: [] for system in answers}
                for _ in range(self.options.rounds):
                    for system in chosen:
                        if system.name in answers:
                            sql = by_system[system.name]
                            samples[system.name].append(self.asked(system, sql))
                    shown.advance(bar)
                for system in chosen:
                    if system.name in answers:
                        self._note(group, name, system, samples[system.name], answers[system.name])
            shown.update(bar, description=group)

    def _compared(
        self, name: str, chosen: Sequence[systems.System], by_system: dict[str, str]
    ) -> dict[str, int]:
        """How many rows each system answers with; what is refused or different goes into the report."""
        first: list[systems.Row] | None = None
        counts = {}
        for system in chosen:
            try:
                rows = system.rows(system.ask(by_system[system.name]))
            except systems.Refused as error:
                self.report.refused.append(f"{name}: {error}")
                continue
            counts[system.name] = len(rows)
            if first is None:
                first = rows
            elif (found := systems.differ(first, rows)) is not None:
                self.report.differences.append(f"{name}: {chosen[0].name} and {system.name}: {found[:600]}")
        return counts

    # -- other conditions

    def restart(self, workers: int | None = None) -> None:
        """Stop and start the cluster, so that no process has anything cached."""
        for wire in self.wires:
            wire.close()
        folder = self.info["data_dir"]
        local.orochi("down", "--data-dir", folder)
        systems.forget(pathlib.Path(folder))
        slots = ["--workers", str(workers)] if workers else []
        self.info = json.loads(local.orochi("up", "--data-dir", folder, "--detach", "--json", *slots))
        self.wires = self._connect()

    def cold(self) -> None:
        """Queries over files that nothing has read since all processes started."""
        wanted = self.tsbs_queries()
        chosen = _COLD[2:3] if self.options.quick else _COLD
        for name in progress.track(chosen, "cold", console=out):
            self.restart()
            self.duck.reopen()
            systems.forget(self.duck.file)
            for system in self.systems:
                system.ask("SELECT 1")
                sql = wanted[name][system.name]
                self._note("cold", name, system, [self.asked(system, sql)], 0)

    def growth(self) -> None:
        """The same scan over 1, 4 and 16 times the rows; `cpu` is the last."""
        each = ", ".join(f"avg({metric})" for metric in tsbs.METRICS)
        wanted = {}
        for times in (1, 4, 16):
            size = dataclasses.replace(self.size, hours=max(self.size.hours * times // 16, 1))
            table = data.cpu(size, f"cpu_{times}" if times < 16 else "cpu")
            if times < 16:
                self.load(f"growth x{times}", [table])
            wanted[f"x{times}: {size.rows:,} rows"] = {
                system: _FULL_SCAN.format(bucket=dialect.bucket("hour"), each=each, table=table.name)
                for system, dialect in (("orochi", tsbs.OROCHI), ("duckdb", tsbs.DUCKDB))
            }
        self.queries("growth", wanted, ("orochi", "duckdb"))

    def workers(self) -> None:
        """The scan of the greatest growth, or of `cpu`, with half and with all of the worker slots."""
        if self.options.nodes * self.options.workers < 2:
            out.print("[yellow]One worker only:[/] there is nothing to compare.")
            return
        each = ", ".join(f"avg({metric})" for metric in tsbs.METRICS)
        sql = _FULL_SCAN.format(bucket=tsbs.OROCHI.bucket("hour"), each=each, table="cpu")
        for slots in dict.fromkeys((1, max(self.options.workers, 2))):
            self.restart(slots)
            self.queries("workers", {f"{slots * self.options.nodes} slots": {"orochi": sql}}, ("orochi",))


def timed(system: systems.System, task: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU milliseconds of a task."""
    cpu, began = system.cpu(), time.perf_counter()
    task()
    wall = time.perf_counter() - began
    return wall * 1000, (system.cpu() - cpu) * 1000


def bars() -> progress.Progress:
    """Progress bars of this run's look."""
    return progress.Progress(
        progress.TextColumn("{task.description:<34}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeElapsedColumn(),
        console=out,
    )


if __name__ == "__main__":
    sys.exit(main())

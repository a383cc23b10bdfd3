"""Figures of a run: as JSON, as tables of ratios, as a chart, and beside those of an earlier run."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box, console, table

from benchmarks import chart, local

PEERS = ("duckdb", "postgresql")


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One workload on one system.

    Attributes:
        group: `TSBS`, `TPC-H`, `load`, `cold`, `growth`, `workers`.
        milliseconds, cpu_milliseconds: medians of the rounds.
        rows: of the answer, or loaded.
    """

    group: str
    workload: str
    system: str
    milliseconds: float
    cpu_milliseconds: float
    rows: int


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """What a table takes on disk: bytes by system, and what stripes spend by codec and column."""

    tables: str
    system: str
    bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Codec:
    """The column chunks of one column in one codec."""

    column: str
    codec: str
    rows: int
    bytes: int


@dataclasses.dataclass
class Report:
    """All that a run found."""

    options: dict[str, Any]
    figures: list[Figure] = dataclasses.field(default_factory=list)
    sizes: list[Size] = dataclasses.field(default_factory=list)
    codecs: list[Codec] = dataclasses.field(default_factory=list)
    differences: list[str] = dataclasses.field(default_factory=list)
    refused: list[str] = dataclasses.field(default_factory=list)

    def json(self) -> str:
        """Everything, with what is needed to read it later."""
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=local.ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        machine = {
            "cpus": os.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
        }
        found = {
            "when": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "commit": commit.stdout.strip() or None,
            "machine": machine,
            "means": {f"{group} {peer}": value for group, peer, value in self.means()},
            **dataclasses.asdict(self),
        }
        return json.dumps(found, indent=1) + "\n"

    def ratios(self) -> list[tuple[Figure, str, float, float]]:
        """Orochi's figures, each with a peer, and the ratios of time and of CPU to that peer's."""
        others = {(item.group, item.workload, item.system): item for item in self.figures}
        found = []
        for item in self.figures:
            for peer in PEERS if item.system == "orochi" else ():
                other = others.get((item.group, item.workload, peer))
                if other is not None and other.milliseconds:
                    cpu = item.cpu_milliseconds / max(other.cpu_milliseconds, 0.01)
                    found.append((item, peer, item.milliseconds / other.milliseconds, cpu))
        return found

    def means(self) -> list[tuple[str, str, float]]:
        """Geometric means of the ratios of times."""
        grouped: dict[tuple[str, str], list[float]] = {}
        for item, peer, ratio, _ in self.ratios():
            if item.group in ("TSBS", "TPC-H"):
                grouped.setdefault((item.group, peer), []).append(math.log(ratio))
        return [(*key, math.exp(sum(logs) / len(logs))) for key, logs in grouped.items()]

    def svg(self) -> str:
        """The chart of the queries."""
        bars = [
            (item.workload, peer, ratio)
            for item, peer, ratio, _ in self.ratios()
            if item.group in ("TSBS", "TPC-H")
        ]
        return chart.ratios("Orochi's time by that of DuckDB and of PostgreSQL: to the left is faster", bars)


def show(out: console.Console, report: Report, old: dict[str, Any] | None) -> None:
    """Print everything."""
    before = {
        (f["group"], f["workload"], f["system"]): f["milliseconds"] for f in (old or {}).get("figures", [])
    }
    for group in dict.fromkeys(item.group for item in report.figures):
        _figures(out, report, group, before)
    for group, peer, mean in report.means():
        out.print(f"{group}: geometric mean of Orochi / {peer} [bold]{mean:.2f}[/]")
    _sizes(out, report.sizes)
    _codecs(out, report.codecs)
    for text in report.refused:
        out.print(f"[yellow]refused:[/] {text}")
    for text in report.differences:
        out.print(f"[bold red]different:[/] {text}")
    if not report.differences:
        out.print("[green]The systems' answers are equal.[/]")


def _figures(
    out: console.Console, report: Report, group: str, before: dict[tuple[str, str, str], float]
) -> None:
    figures = {(item.workload, item.system): item for item in report.figures if item.group == group}
    ratios = {
        (item.workload, peer): (ratio, cpu)
        for item, peer, ratio, cpu in report.ratios()
        if item.group == group
    }
    systems = [name for name in ("orochi", *PEERS) if any(system == name for _, system in figures)]
    grid = table.Table(
        box=box.SIMPLE_HEAD, title=f"{group}: ms (CPU ms); / is Orochi by the other, CPU in brackets"
    )
    grid.add_column("workload")
    headings = [
        *systems,
        *(f"/ {peer}" for peer in PEERS if peer in systems),
        *(["before"] if before else []),
    ]
    for heading in headings:
        grid.add_column(heading, justify="right")
    for workload in dict.fromkeys(name for name, _ in figures):
        cells = [workload]
        for system in systems:
            item = figures.get((workload, system))
            cells.append("" if item is None else f"{item.milliseconds:,.1f} ({item.cpu_milliseconds:,.1f})")
        for peer in PEERS:
            if peer in systems:
                pair = ratios.get((workload, peer))
                cells.append("" if pair is None else f"{pair[0]:.2f} ({pair[1]:.2f})")
        if before:
            earlier, now = before.get((group, workload, "orochi")), figures.get((workload, "orochi"))
            cells.append(
                ""
                if earlier is None or now is None
                else f"{earlier:,.1f} ({now.milliseconds / earlier - 1:+.0%})"
            )
        grid.add_row(*cells)
    out.print(grid)


def _sizes(out: console.Console, sizes: Sequence[Size]) -> None:
    if not sizes:
        return
    grid = table.Table(box=box.SIMPLE_HEAD, title="size on disk, MB")
    grid.add_column("tables")
    systems = list(dict.fromkeys(item.system for item in sizes))
    for system in systems:
        grid.add_column(system, justify="right")
    for tables in dict.fromkeys(item.tables for item in sizes):
        found = {item.system: item.bytes for item in sizes if item.tables == tables}
        grid.add_row(tables, *(f"{found[name] / 1e6:,.1f}" if name in found else "" for name in systems))
    out.print(grid)


def _codecs(out: console.Console, codecs: Iterable[Codec]) -> None:
    grid = table.Table(box=box.SIMPLE_HEAD, title="stripes by column and codec")
    grid.add_column("column")
    grid.add_column("codec")
    for heading in ("values", "bytes", "bits a value"):
        grid.add_column(heading, justify="right")
    for item in codecs:
        grid.add_row(
            item.column, item.codec, f"{item.rows:,}", f"{item.bytes:,}", f"{item.bytes * 8 / item.rows:.2f}"
        )
    if grid.row_count:
        out.print(grid)


def save(report: Report, folder: pathlib.Path) -> None:
    """Write `bench.json` and `bench.svg`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(report.json())
    (folder / "bench.svg").write_text(report.svg())

"""`python -m benchmarks.loading`: COPY of TSBS's cpu rows into a compressed hypertable and into a plain table.

Both over the wire by psycopg, interleaved, to one cluster: the plain table, without indexes, lies in a database
of its own on the coordinator's server. Printed are wall and CPU seconds of the processes' groups, the best
round of each, and the ratio.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import time
from typing import Any

from rich import console, table

from benchmarks import data, local, systems, tsbs

_GROUPS = ("gateway", "workers", "coordinator", "nodes", "redis")


def main() -> int:
    """Run it; the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=400)
    parser.add_argument("--hours", type=int, default=12, help="360 rows a host each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=pathlib.Path, default=local.ROOT / ".bench")
    options = parser.parse_args()
    size = tsbs.Size(options.hosts, options.hours)
    out = console.Console(highlight=False)
    with local.cluster(options.folder, nodes=2) as info:
        file, rows = data.cpu(size).write(options.folder, lambda _: None)
        out.print(f"{rows:,} rows, {file.stat().st_size / 1e6:,.0f} MB of CSV")
        systems.coordinator_database(info, "plain")
        rounds = [_round(info, size, file) for _ in range(options.rounds)]
    shown = table.Table("", "wall", "client", *_GROUPS)
    best = {name: min((found[name] for found in rounds), key=lambda one: one["wall"]) for name in rounds[0]}
    for name, spent in best.items():
        shown.add_row(name, *(f"{spent[key]:.2f}" for key in ("wall", "client", *_GROUPS)))
    out.print(shown)
    out.print(f"ratio of walls: {best['orochi']['wall'] / best['postgresql']['wall']:.2f}")
    return 0


def _round(info: dict[str, Any], size: tsbs.Size, file: pathlib.Path) -> dict[str, dict[str, float]]:
    """Load both once: seconds by system and group."""
    cpu = data.cpu(size)
    found = {}
    for name, dsn, dbname in (
        ("postgresql", info["coordinator_dsn"], "plain"),
        ("orochi", info["dsn"], None),
    ):
        wire = systems.Wire(name, dsn, dbname, ())
        wire.execute("DROP TABLE IF EXISTS cpu")
        wire.execute(cpu.ddl[name])
        for sql in cpu.before if name == "orochi" else ():
            wire.execute(sql)
        before, began = _spent(info), time.perf_counter()
        wire.load("cpu", file)
        wall = time.perf_counter() - began
        found[name] = {"wall": wall} | {group: now - before[group] for group, now in _spent(info).items()}
        wire.execute("DROP TABLE cpu")  # or autovacuum works on it while the other one is loaded
        wire.close()
    return found


def _spent(info: dict[str, Any]) -> dict[str, float]:
    """CPU seconds so far."""
    groups = {group: systems.Cpu(systems.processes(info, group)).seconds() for group in _GROUPS}
    return {"client": sum(os.times()[:2]), **groups}


if __name__ == "__main__":
    sys.exit(main())

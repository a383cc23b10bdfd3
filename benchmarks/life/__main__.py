"""`make life`: a table's chunks age, compress, move and expire while processes are killed; 1 if anything is wrong.

A round lets some hours go by, kills one or two processes while writers write and policies run, waits until all is
well again, and compares the table, its aggregate and its cold chunks with what the writers know. All the time others ask
for rows that never change, in chunks that always do, and no kill may give them a wrong answer. At
the end nothing may be stuck, in a wrong tier, or nobody's. The cluster lives in `.life`.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from rich import box, console, progress, table

from benchmarks import local
from benchmarks.life import kills, steady, workload

FOLDER = local.ROOT / ".life"
out = console.Console(highlight=False)

#: All must be well so long after a kill.
STUCK_SECONDS = 60.0
_GRACE = {"OROCHI_ORPHAN_GRACE": "20", "OROCHI_RETIRED_GRACE": "20"}
_JOBS_SECONDS = _SWEEP_SECONDS = 180.0
#: What goes by between two looks whether all jobs are done.
_TICK, _TICK_SECONDS = workload.dt.timedelta(seconds=15), 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the workload; the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, prog="make life")
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--hours", type=int, default=16, help="hours that go by in a round")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--victims", nargs="*", default=kills.VICTIMS, choices=kills.VICTIMS)
    parser.add_argument(
        "--seconds", type=float, default=STUCK_SECONDS, help="all must be well so long after a kill"
    )
    parser.add_argument("--folder", type=pathlib.Path, default=FOLDER, help="where the cluster lives")
    parser.add_argument("--output", type=pathlib.Path, help="write the findings as JSON")
    options = parser.parse_args(arguments)
    try:
        with local.cluster(options.folder, nodes=2, extra=("--s3",), environment=_GRACE) as info:
            return run(info, options)
    except KeyboardInterrupt:
        out.print("[yellow]Interrupted:[/] everything was stopped.")
        return 130
    except (local.Failed, psycopg.Error) as error:
        out.print(f"[bold red]Failed:[/] {error!r}")
        return 1


def run(info: dict[str, Any], options: argparse.Namespace) -> int:
    """The workload on a fresh cluster; 1 if anything is wrong."""
    life = workload.Life(str(info["dsn"]), str(info["coordinator_dsn"]), options.seed, options.writers)
    life.create()
    fixed = steady.Steady(life, options.seed)
    fixed.create()
    killer = kills.Killer(info, life, options.seed, fixed)
    slowest: dict[str, float] = {}
    threads = [threading.Thread(target=writer.run) for writer in life.writers]
    threads += [threading.Thread(target=life.reader), *fixed.threads()]
    for thread in threads:
        thread.start()
    try:
        with _bar() as bar:
            task = bar.add_task("kills", total=options.kills)
            chance, told = random.Random(options.seed), 0
            while killer.kills.total() < options.kills and len(life.book.faults) < 20:
                took = one_round(life, killer, chance, options.hours, options.victims, options.seconds)
                for fault in killer.hung():
                    life.book.fault(fault)
                slowest = max(slowest, took, key=lambda times: max(times.values(), default=0.0))
                bar.update(task, completed=killer.kills.total())
                for fault in life.book.faults[told:]:
                    out.print(f"[red]{fault}[/]", soft_wrap=True)
                told = len(life.book.faults)
        end(life, killer, fixed)
    except kills.Stuck as error:
        life.book.fault(str(error))
    finally:
        life.stop.set()
        life.paused.clear()
        for thread in threads:
            thread.join()
    _show(life, killer, fixed, slowest)
    if options.output:
        report = {
            "kills": killer.kills,
            "killed_during": killer.during,
            "asked": fixed.asked,
            "done": fixed.done,
            "statements": life.book.statements,
            "unknown": life.book.unknown,
            "happened": life.book.happened,
            "reads": life.book.reads,
            "rows": len(life.twin()),
            "slowest_seconds": slowest,
            "errors": life.book.errors,
            "faults": life.book.faults,
        }
        options.output.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if life.book.faults else 0


def one_round(
    life: workload.Life,
    killer: kills.Killer,
    chance: random.Random,
    hours: int,
    victims: Sequence[str],
    seconds: float = STUCK_SECONDS,
) -> dict[str, float]:
    """Time goes by, something is killed, all comes right; when each thing did, in seconds since the last kill.

    Raises:
        Stuck: it did not, within `seconds`.
    """
    life.advance(hours * workload.HOUR)
    for _ in range(chance.randint(1, 2)):
        killer.aim(chance.uniform(0.5, 4.0))
        killer.kill(chance.choice(victims))
    killed = time.monotonic()
    time.sleep(chance.uniform(0.0, 1.0))
    life.paused.set()
    found: list[list[str]] = []
    steps: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("the writers", life.is_idle),
        ("all processes", killer.healthy),
        ("prepared transactions", killer.settled),
        ("what was not answered", lambda: life.settle() is None),
        ("interrupted jobs", killer.runs_over),
        ("the comparison", lambda: found.append(life.compare()) is None),
    )
    came_right: dict[str, float] = {}
    for what, check in steps:
        kills.wait(check, seconds - (time.monotonic() - killed), what)
        came_right[what] = time.monotonic() - killed
    for fault in found[-1]:
        life.book.fault(fault)
    life.paused.clear()
    return came_right


def end(life: workload.Life, killer: kills.Killer, fixed: steady.Steady) -> None:
    """Nobody kills any more: jobs end well, chunks are where they belong, nothing is nobody's.

    Raises:
        Stuck: jobs did not.
    """
    life.paused.set()
    kills.wait(life.is_idle, STUCK_SECONDS, "the writers")

    def done() -> bool:
        life.advance(_TICK)  # a job that failed is due again some minutes later
        time.sleep(_TICK_SECONDS)
        return bool(killer.jobs_done())

    try:
        # a run that began in an earlier round decided by that round's time, and its next one is due after its end
        kills.wait(done, _JOBS_SECONDS, "jobs")
        life.advance(workload.HOUR)
        kills.wait(done, _JOBS_SECONDS, "jobs")
    except kills.Stuck:
        life.book.fault(f"jobs: {killer.jobs_told()}")
        raise
    faults = (*life.compare(), *fixed.check(), *killer.misplaced(), *killer.hung())
    for fault in (*faults, *killer.sweep(_SWEEP_SECONDS), *life.compare(), *fixed.check()):
        life.book.fault(fault)


def _bar() -> progress.Progress:
    return progress.Progress(
        progress.TextColumn("{task.description:>8}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        console=out,
    )


def _show(life: workload.Life, killer: kills.Killer, fixed: steady.Steady, slowest: dict[str, float]) -> None:
    rows = table.Table(box=box.SIMPLE_HEAVY, title="The life of a table")
    rows.add_column("what")
    rows.add_column("how many", justify="right")
    book = life.book
    rows.add_row("simulated days", f"{(life.now - workload.START) / workload.DAY:.1f}")
    rows.add_row("statements", f"{book.statements:,}")
    rows.add_row("  of unknown outcome", f"{book.unknown:,}")
    rows.add_row("  of them committed", f"{book.happened:,}")
    rows.add_row("rows at the end", f"{len(life.twin()):,}")
    rows.add_row("reads of the aggregate meanwhile", f"{book.reads:,}")
    rows.add_row("right answers meanwhile", f"{fixed.asked.total():,}")
    for name, count in sorted(fixed.done.items()):
        rows.add_row(f"  {name}, asked for", f"{count:,}")
    rows.add_row("slowest recovery, seconds", f"{max(slowest.values(), default=0.0):.1f}")
    for name, seconds in slowest.items():
        rows.add_row(f"  {name}", f"{seconds:.1f}")
    rows.add_row("kills", f"{killer.kills.total():,}")
    for name, count in sorted(killer.kills.items()):
        rows.add_row(f"  {name}", f"{count:,}")
    for name, count in sorted(killer.during.items()):
        rows.add_row(f"  during {name}", f"{count:,}")
    for name, count in sorted(book.errors.items()):
        rows.add_row(f"errors of {name}", f"{count:,}")
    rows.add_row("faults", f"[bold red]{len(book.faults)}[/]" if book.faults else "[green]0[/]")
    out.print(rows)
    for fault in book.faults:
        out.print(f"[red]{fault}[/]", markup=True, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())

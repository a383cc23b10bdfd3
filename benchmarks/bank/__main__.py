"""`make bank`: transfers between nodes while processes are killed; the exit status is 1 if anything is wrong.

Half of the kills hit a commit held at one of its six points, the others whatever runs at a random moment.
Everything lives in `.bank` and is stopped and deleted at the end.
"""

from __future__ import annotations

import argparse
import contextlib
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
from benchmarks.bank import kills, workload

FOLDER = local.ROOT / ".bank"
out = console.Console(highlight=False)

_HEALTHY_SECONDS = 180.0
_OLDEST_ALLOWED = 30.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the workload; the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, prog="make bank")
    parser.add_argument("--commits", type=int, default=2_000, help="acknowledged transfers to reach")
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--sums", type=int, default=200, help="sums to read, each from one snapshot")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--readers", type=int, default=1)
    parser.add_argument("--accounts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=pathlib.Path, default=FOLDER, help="where the cluster lives")
    parser.add_argument("--output", type=pathlib.Path, help="write the findings as JSON")
    options = parser.parse_args(arguments)
    try:
        with local.cluster(options.folder, nodes=2) as info:
            return run(info, options)
    except KeyboardInterrupt:
        out.print("[yellow]Interrupted:[/] everything was stopped.")
        return 130
    except (local.Failed, kills.Missed, psycopg.Error) as error:
        out.print(f"[bold red]Failed:[/] {error!r}")
        return 1


def run(info: dict[str, Any], options: argparse.Namespace) -> int:
    """The workload on a fresh cluster; 1 if anything is wrong."""
    bank = workload.Bank(str(info["dsn"]), options.accounts)
    bank.create()
    killer = kills.Killer(info, bank, options.seed)
    threads = [threading.Thread(target=bank.client, args=(number,)) for number in range(options.clients)]
    threads += [threading.Thread(target=bank.reader) for _ in range(options.readers)]
    oldest = [0.0]
    threads.append(threading.Thread(target=_watch, args=(bank, killer, oldest)))
    for thread in threads:
        thread.start()
    try:
        with _bar() as bar:
            _drive(bank, killer, options, bar)
    finally:
        bank.stop.set()
        for thread in threads:
            thread.join()
    kills.wait(killer.healthy, _HEALTHY_SECONDS)
    kills.wait(lambda: killer.oldest_prepared() == 0.0, _HEALTHY_SECONDS)
    findings = bank.audit()
    present = _present(bank)
    forgotten = [token for token in killer.decided if token not in present]
    wrong = findings.faults + len(forgotten) + (oldest[0] > _OLDEST_ALLOWED)
    _show(bank, killer, findings, forgotten, oldest[0])
    if options.output:
        report = {
            "acknowledged": len(bank.book.acknowledged),
            "unknown": len(bank.book.unknown),
            "refused": len(bank.book.refused),
            "sums": bank.book.sums,
            "torn": findings.torn,
            "lost": len(findings.lost) + len(forgotten),
            "doubled": len(findings.doubled),
            "kills": killer.kills,
            "oldest_prepared_seconds": oldest[0],
            "errors": bank.book.errors,
            "faults": wrong,
        }
        options.output.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if wrong else 0


def _drive(
    bank: workload.Bank, killer: kills.Killer, options: argparse.Namespace, bar: progress.Progress
) -> None:
    """Kill as commits come in, evenly, until there are enough of all."""
    chance = random.Random(options.seed)
    plan = [(point, *roles) for roles in kills.VICTIMS for point in kills.POINTS]
    goals = {"commits": options.commits, "kills": options.kills, "sums": options.sums}
    tasks = {name: bar.add_task(name, total=goal) for name, goal in goals.items()}
    values: dict[str, Callable[[], int]] = {
        "commits": lambda: len(bank.book.acknowledged),
        "kills": lambda: killer.count,
        "sums": lambda: bank.book.sums,
    }
    turn = 0
    while any(values[name]() < goal for name, goal in goals.items()):
        for name, task in tasks.items():
            bar.update(task, completed=values[name]())
        due = options.kills * len(bank.book.acknowledged) // max(1, options.commits)
        if killer.count >= min(options.kills, due + 1):
            time.sleep(0.1)
            continue
        turn += 1
        if turn % 2:
            kills.wait(killer.healthy, _HEALTHY_SECONDS)
            with contextlib.suppress(kills.Missed):
                killer.at_point(*plan[turn // 2 % len(plan)])
        else:
            time.sleep(chance.uniform(0.0, 0.5))
            killer.kill(chance.choice(kills.ROLES))
            if chance.random() < 0.5:
                killer.kill(chance.choice(kills.ROLES))
        kills.wait(killer.healthy, _HEALTHY_SECONDS)
    for name, task in tasks.items():
        bar.update(task, completed=values[name]())


def _watch(bank: workload.Bank, killer: kills.Killer, oldest: list[float]) -> None:
    while not bank.stop.wait(1.0):
        oldest[0] = max(oldest[0], killer.oldest_prepared())


def _present(bank: workload.Bank) -> set[str]:
    with bank.connect() as connection:
        return {token for (token,) in connection.execute("SELECT token FROM bank.ledger").fetchall()}


def _bar() -> progress.Progress:
    return progress.Progress(
        progress.TextColumn("{task.description:>8}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        console=out,
    )


def _show(
    bank: workload.Bank,
    killer: kills.Killer,
    findings: workload.Findings,
    forgotten: Sequence[str],
    oldest: float,
) -> None:
    rows = table.Table(box=box.SIMPLE_HEAVY, title="The bank")
    rows.add_column("what")
    rows.add_column("how many", justify="right")
    book = bank.book
    rows.add_row("commits acknowledged", f"{len(book.acknowledged):,}")
    rows.add_row("  lost", _judged(len(findings.lost)))
    rows.add_row("  doubled", _judged(len(findings.doubled)))
    rows.add_row("commits of unknown outcome", f"{len(book.unknown):,}")
    rows.add_row("  of them committed", f"{findings.resolved:,}")
    rows.add_row("  decided, but not committed", _judged(len(forgotten)))
    rows.add_row("transfers refused", f"{len(book.refused):,}")
    rows.add_row("  but in the ledger", _judged(len(findings.refused_but_there)))
    rows.add_row("accounts that differ from the ledger", _judged(len(findings.wrong_accounts)))
    rows.add_row("sums read", f"{book.sums:,}")
    rows.add_row("  torn", _judged(findings.torn))
    rows.add_row("oldest prepared transaction, seconds", f"{oldest:.1f}")
    rows.add_row("kills", f"{killer.count:,}")
    for name, count in sorted(killer.kills.items()):
        rows.add_row(f"  {name}", f"{count:,}")
    for name, count in sorted(book.errors.items()):
        rows.add_row(f"errors {name}", f"{count:,}")
    out.print(rows)


def _judged(count: int) -> str:
    return f"[bold red]{count}[/]" if count else "[green]0[/]"


if __name__ == "__main__":
    sys.exit(main())

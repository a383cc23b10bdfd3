"""What `orochi up` and `orochi status` show a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box, console, status, table

from orochi.embedded import control

_STYLES = {"up": "green", "starting": "yellow", "restarting": "red"}


class Progress:
    """A line that says what is being started; silent where nobody looks."""

    def __init__(self, out: console.Console) -> None:
        self._out = out
        self._status: status.Status | None = None
        self._healthy: set[str] = set()
        self._seen: set[str] = set()

    def report(self, event: str, details: Mapping[str, Any]) -> None:
        """Hear what the supervisor does."""
        if event == "service":
            self._service(details)
        elif event == "stopping":
            self._say("stopping")
        else:
            self.close()

    def _service(self, details: Mapping[str, Any]) -> None:
        name = str(details["name"])
        self._seen.add(name)
        if details["healthy"] and name not in self._healthy:
            self._healthy.add(name)
            self._out.print(
                f"  [green]✓[/] {name}" + (f" [dim]:{details['port']}[/]" if details["port"] else "")
            )
        waiting = sorted(self._seen - self._healthy)
        if waiting:
            self._say(f"starting {', '.join(waiting)}")
        else:
            self.close()

    def _say(self, text: str) -> None:
        if not self._out.is_terminal:
            return
        if self._status is None:
            self._status = self._out.status(text)
            self._status.start()
        else:
            self._status.update(text)

    def close(self) -> None:
        """Take the line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None


def show_up(out: console.Console, info: Mapping[str, Any]) -> None:
    """How to connect. Long lines are not wrapped: they are there to be copied."""
    out.print("\n[bold green]Orochi is up[/]")
    for heading, text in (
        ("SQL", f"psql {info['dsn']}"),
        ("tasks", info["flower_url"]),
        ("data", info["data_dir"]),
        ("stop", f"orochi down --data-dir {info['data_dir']}"),
    ):
        out.print(f"  [dim]{heading:<6}[/]{text}", soft_wrap=True, highlight=False)


def show_status(
    out: console.Console, phase: str, lines: Sequence[control.Line], info: Mapping[str, Any]
) -> None:
    """A row for each process."""
    rows = table.Table(box=box.SIMPLE_HEAD, title=f"Orochi: {phase}", title_justify="left")
    for heading, side in (("process", "left"), ("health", "left"), ("pid", "right"), ("port", "right")):
        rows.add_column(heading, justify="right" if side == "right" else "left")
    for heading in ("up for", "memory", "restarts"):
        rows.add_column(heading, justify="right")
    for line in lines:
        rows.add_row(
            line.name,
            f"[{_STYLES[line.health]}]{line.health}[/]",
            str(line.pid),
            "" if line.port is None else str(line.port),
            "" if line.uptime is None else _duration(line.uptime),
            "" if line.memory is None else f"{line.memory / 2**20:.0f} MB",
            str(line.restarts) if line.restarts else "",
        )
    out.print(rows)
    if "dsn" in info and lines:
        out.print(f"psql {info['dsn']}", soft_wrap=True, highlight=False)


def _duration(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

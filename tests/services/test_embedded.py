"""The servers of `orochi up`, each for itself, as whoever runs the tests (root or not).

pytest's temporary folders are private to their owner: as root, PostgreSQL's user cannot enter them,
which is the hard case.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator

import boto3
import botocore.config
import psutil
import psycopg
import pytest
import redis

from orochi.embedded import objectstore, ports, postgres, process, state, supervisor, valkey

_ROOT = pathlib.Path(__file__).parents[2]


def _server(folder: pathlib.Path, install: postgres.Install, name: str = "coordinator") -> postgres.Server:
    folder = folder / name
    folder.mkdir(exist_ok=True)
    return postgres.Server(
        name=name,
        role="coordinator",
        folder=folder,
        port=ports.assign(["p"], {}, {})["p"],
        password="s3cret",
        install=install,
        log=folder / "server.log",
    )


def _while_running(
    specs: list[process.Spec], body: Callable[[supervisor.Supervisor], Awaitable[None]]
) -> None:
    async def main() -> None:
        kept = supervisor.Supervisor(lambda _service: None)
        stop = asyncio.Event()
        try:
            await kept.start(specs)
            watching = asyncio.create_task(kept.watch(stop))
            await body(kept)
            stop.set()
            await watching
        finally:
            await kept.stop()

    asyncio.run(main())


async def _restarted(kept: supervisor.Supervisor, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not all(s.restarts and s.condition is supervisor.Condition.UP for s in kept.services):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def install() -> Iterator[postgres.Install]:
    found = postgres.find_install()
    yield found
    found.remove_copy()


def test_postgres_is_set_up_for_orochi(tmp_path: pathlib.Path, install: postgres.Install) -> None:
    server = _server(tmp_path, install)
    assert server.initialise()
    assert not server.initialise()
    assert [path.name for path in server.folder.iterdir()] == ["pgdata"]

    async def body(_kept: supervisor.Supervisor) -> None:
        await server.create_database()
        await server.create_database()
        async with await psycopg.AsyncConnection.connect(server.dsn(), autocommit=True) as connection:

            async def one(query: str) -> object:
                row = await (await connection.execute(query)).fetchone()  # type: ignore[call-overload]
                return row[0] if row else None

            assert int(str(await one("SHOW max_prepared_transactions"))) >= 200
            assert await one("SHOW TimeZone") == "UTC"
            assert await one("SHOW server_encoding") == "UTF8"
            assert await one("SHOW fsync") == "on"
            assert await one("SELECT 'B' < 'a' AND upper('é') = 'É'") is True
            assert await one(
                "SELECT rolpassword LIKE 'SCRAM-SHA-256%' FROM pg_authid WHERE rolname = 'orochi'"
            )
            await connection.execute("CREATE EXTENSION vector")
            assert await one("SELECT '[1,2]'::vector <-> '[1,4]'") == 2
        for wrong in (server.dsn().replace("s3cret", "guess"), server.dsn().replace(":s3cret", "")):
            with pytest.raises(psycopg.OperationalError, match="password"):
                await psycopg.AsyncConnection.connect(wrong)

    _while_running([server.spec(0)], body)


def test_postgres_never_runs_as_root_and_comes_back_with_its_data(
    tmp_path: pathlib.Path, install: postgres.Install
) -> None:
    server = _server(tmp_path, install)
    server.initialise()

    async def body(kept: supervisor.Supervisor) -> None:
        pid = kept.services[0].child.pid
        assert psutil.Process(pid).uids().effective != 0
        await server.create_database()
        async with await psycopg.AsyncConnection.connect(server.dsn(), autocommit=True) as connection:
            await connection.execute("CREATE TABLE t AS SELECT 42 AS answer")
        os.kill(pid, signal.SIGKILL)
        await _restarted(kept)
        async with await psycopg.AsyncConnection.connect(server.dsn()) as connection:
            assert await (await connection.execute("SELECT answer FROM t")).fetchone() == (42,)

    _while_running([server.spec(0)], body)
    # A pid file left by a crash whose pid is something else's now.
    (server.data / "postmaster.pid").write_text(f"{os.getpid()}\n")
    server.remove_stale_pid_file()
    assert not (server.data / "postmaster.pid").exists()


def test_a_copy_of_postgres_is_made_where_the_wheel_cannot_be_reached(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("an ordinary user runs the wheel in place")
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    package = postgres.wheel_folder()
    for folder in (package, package.with_name(f"{package.name}.libs")):
        subprocess.run(["cp", "-r", folder, private], check=True)
    monkeypatch.setattr(postgres, "wheel_folder", lambda: private / package.name)
    copied = postgres.find_install()
    assert copied.copy is not None
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    server = _server(tmp_path, copied)
    server.initialise()

    async def body(_kept: supervisor.Supervisor) -> None:
        assert await server.is_ready()

    _while_running([server.spec(0)], body)
    copied.remove_copy()
    assert not copied.copy.exists()


def test_valkey_wants_its_password_evicts_nothing_and_keeps_its_data(tmp_path: pathlib.Path) -> None:
    server = valkey.Server(tmp_path / "v", ports.assign(["p"], {}, {})["p"], "s3cret", tmp_path / "v.log")
    spec = server.spec(0)
    assert not any("s3cret" in argument for argument in spec.argv)
    assert stat.S_IMODE((tmp_path / "v" / "valkey.conf").stat().st_mode) == 0o600

    async def body(kept: supervisor.Supervisor) -> None:
        with redis.Redis(port=server.port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        with redis.Redis.from_url(server.url) as client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("bind") == {"bind": "127.0.0.1"}
            client.set("kept", "yes")
        await asyncio.sleep(1.2)  # appendfsync everysec
        kept.services[0].child.kill()
        await _restarted(kept)
        with redis.Redis.from_url(server.url) as client:
            assert client.get("kept") == b"yes"

    _while_running([spec], body)


def test_the_object_store_has_its_bucket_and_leaves_no_socket(tmp_path: pathlib.Path) -> None:
    numbers = ports.assign(list(objectstore.PORTS), {}, {})
    server = objectstore.Server(tmp_path / "s3", numbers, "s3cret-s3cret", tmp_path / "s3.log")

    async def body(_kept: supervisor.Supervisor) -> None:
        settings = server.settings()
        client = boto3.client(
            "s3",
            endpoint_url=settings["OROCHI_S3_ENDPOINT"],
            aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
            config=botocore.config.Config(retries={"max_attempts": 5}),
        )
        client.put_object(Bucket=objectstore.BUCKET, Key="k", Body=b"value")
        assert client.get_object(Bucket=objectstore.BUCKET, Key="k")["Body"].read() == b"value"
        client.close()

    _while_running([server.spec(0)], body)
    server.remove_sockets()
    assert not [
        path for port in numbers.values() for path in pathlib.Path("/tmp").glob(f"seaweedfs-*-{port}.sock")
    ]


def test_migrate_registers_nodes_once(tmp_path: pathlib.Path, install: postgres.Install) -> None:
    servers = [_server(tmp_path, install, name) for name in ("coordinator", "node1", "node2")]

    async def body(_kept: supervisor.Supervisor) -> None:
        await asyncio.gather(*(server.create_database() for server in servers))
        nodes = [f"--node=127.0.0.1:{server.port}" for server in servers[1:]]
        for arguments in (nodes, nodes, []):
            done = await asyncio.to_thread(_orochi, "migrate", *arguments, dsn=servers[0].dsn())
            assert "data nodes: 1, 2" in done.stderr, done.stderr
        refused = await asyncio.to_thread(_orochi, "migrate", "--node=nowhere", dsn=servers[0].dsn())
        assert refused.returncode == 1
        assert "not HOST:PORT" in refused.stderr

    asyncio.run(postgres.initialise_all(servers))
    _while_running([server.spec(0) for server in servers], body)


def _orochi(*arguments: str, dsn: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orochi.cli", *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(_ROOT), "OROCHI_COORDINATOR_DSN": dsn},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


_NURSERY = """
import os, pathlib, signal, sys
from orochi.embedded import fleet, nursery, process
folder = pathlib.Path(sys.argv[1])
process.adopt_orphans()
forks = nursery.open_nursery(fleet.python_environment(folder), folder / "nursery.log")
forks.wait_ready()
spec = process.Spec(name="v", role="v", tier=0, argv=[], environment={"OROCHI_DATA_DIR": str(folder)},
    cwd=folder, log=folder / "v.log", orochi=["--version"])
assert forks.spawn(spec).wait(90) == 0
import dataclasses
down = forks.spawn(dataclasses.replace(spec, orochi=["status"], log=folder / "s.log"))
assert down.wait(90) == 3, down.poll()
os.kill(forks._child.pid, signal.SIGKILL)
try:
    forks.spawn(spec)
except nursery.Gone:
    print("gone")
forks.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper")
def test_the_nursery_forks_commands_and_says_when_it_is_gone(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _NURSERY, str(tmp_path)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\ngone\n")
    assert (tmp_path / "v.log").read_text().startswith("orochi ")
    assert f"no cluster in {tmp_path}" in (tmp_path / "s.log").read_text()


def test_commands_without_a_cluster_say_so(tmp_path: pathlib.Path) -> None:
    shown = _orochi("status", "--data-dir", str(tmp_path))
    assert (shown.returncode, shown.stdout) == (3, "")
    assert "no cluster in" in shown.stderr
    stopped = _orochi("down", "--data-dir", str(tmp_path))
    assert stopped.returncode == 0
    assert "no cluster is running" in stopped.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_failed_start_says_why_and_leaves_nothing(tmp_path: pathlib.Path) -> None:
    port = ports.assign(["p"], {}, {})["p"]
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import socket; s = socket.create_server(('127.0.0.1', {port})); input()"],
        stdin=subprocess.PIPE,
    )
    try:
        while ports.is_free(port):
            assert holder.poll() is None
        for options in (["--detach"], []):
            failed = _orochi("up", "--data-dir", str(tmp_path / "c"), "--port", str(port), "--json", *options)
            assert (failed.returncode, failed.stdout) == (1, "")
            assert f"port {port} for gateway is in use" in failed.stderr
            assert not state.is_locked(tmp_path / "c")
    finally:
        holder.kill()
        holder.communicate()

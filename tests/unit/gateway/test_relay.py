"""The relay's decisions, on recorded sockets: what passes, what does not, whatever pieces it arrives in."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orochi.gateway import client_socket, relay, texts
from orochi.pgwire import client, messages


class Recorder:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.paused = False
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def close(self) -> None:
        self.closed = True

    def set_write_buffer_limits(self, high: int) -> None:
        return

    def get_extra_info(self, name: str) -> None:
        return


class Session:
    """Counts units."""

    settings_revert = False

    def __init__(self) -> None:
        self.units = 0
        self.blocks_ended = 0

    def start_unit(self) -> None:
        self.units += 1

    def block_ended(self) -> None:
        self.blocks_ended += 1

    def client_writable(self, writable: bool) -> None:
        return

    def try_hot(self, data: bytes, pos: int) -> int:
        return 0


class Catalog:
    """A classifier, and what holds it."""

    def touches(self, sql: str) -> bool:
        return "ours" in sql

    def classifier(self) -> Catalog:
        return self


class Setting:
    """A relay between two recorders."""

    def __init__(self) -> None:
        self.socket = client_socket.ClientSocket(lambda _: None)
        self.client, self.server = Recorder(), Recorder()
        self.socket.connection_made(self.client)  # type: ignore[arg-type]
        connection = client.PgConnection()
        connection.connection_made(self.server)  # type: ignore[arg-type]
        self.session: Any = Session()
        self.relay = relay.Relay(self.socket, connection, texts.Texts(Catalog()))
        self.relay.session = self.session
        self.relay.settings_dirty = False

    def send(self, data: bytes) -> None:
        self.socket.data_received(data)

    def answer(self, data: bytes) -> None:
        self.relay.from_server(data)


def in_loop(body: Any) -> Any:
    async def main() -> Any:
        return body()

    return asyncio.run(main())


def extended(sql: str, name: bytes = b"") -> bytes:
    return b"".join(
        (
            messages.parse(name, sql.encode()),
            messages.bind(b"", name, (), [], ()),
            messages.EXECUTE_ALL,
            messages.SYNC,
        )
    )


STREAM = (
    messages.query("SELECT 1")
    + extended("SELECT 2")
    + extended("SELECT 3", b"s")
    + messages.query("SELECT 4")
)


def test_relayed_bytes_are_the_same_at_every_split_point() -> None:
    def body() -> None:
        for cut in range(len(STREAM) + 1):
            setting = Setting()
            setting.send(STREAM[:cut])
            setting.send(STREAM[cut:])
            assert setting.server.written == STREAM
            assert setting.relay.pending == 4
            assert setting.session.units == 0

    in_loop(body)


@pytest.mark.parametrize(
    "unit", [messages.query("SELECT ours"), extended("SELECT ours"), extended("SAVEPOINT a")]
)
def test_a_unit_of_ours_stops_the_relay_at_every_split_point(unit: bytes) -> None:
    def body() -> None:
        stream = STREAM + unit + STREAM
        for cut in range(len(stream) + 1):
            setting = Setting()
            setting.send(stream[:cut])
            setting.send(stream[cut:])
            assert setting.server.written == STREAM
            assert setting.session.units == 1
            assert setting.relay.inbox.take() == unit + STREAM

    in_loop(body)


ANSWER = b"".join(
    (
        messages.parameter_status("TimeZone", "Asia/Tokyo"),
        messages.data_row([b"Z\0\0\0\x05T"]) * 3,
        messages.command_complete("SELECT 3"),
        messages.ready_for_query("T"),
        messages.command_complete("COMMIT"),
        messages.ready_for_query("I"),
    )
)


def test_answers_are_the_same_and_watched_at_every_split_point() -> None:
    def body() -> None:
        for cut in range(1, len(ANSWER)):
            setting = Setting()
            setting.send(messages.query("SELECT 1") + messages.query("COMMIT"))
            setting.answer(ANSWER[:cut])
            setting.answer(ANSWER[cut:])
            assert setting.client.written == ANSWER
            assert setting.relay.pending == 0
            assert setting.relay.server.status == "I"
            assert setting.relay.server.parameters["TimeZone"] == "Asia/Tokyo"
            assert setting.session.blocks_ended == 1

    in_loop(body)


def test_incomplete_unit_waits_and_a_flush_hands_over() -> None:
    def body() -> None:
        setting = Setting()
        setting.send(messages.parse(b"", b"SELECT 1"))
        assert setting.server.written == b""
        setting.send(messages.FLUSH)
        assert setting.session.units == 1

    in_loop(body)


def test_settings_and_prepared_statements_are_noted() -> None:
    def body() -> None:
        setting = Setting()
        setting.send(extended("SELECT 1", b"a") + messages.close(b"S", b"a") + extended("SELECT 2", b"b"))
        assert set(setting.relay.named) == {b"b"}
        assert not setting.relay.settings_dirty
        setting.send(messages.query("SET TimeZone = 'UTC'"))
        assert setting.relay.settings_dirty

    in_loop(body)


def test_copy_in_swallows_the_sync_behind_it() -> None:
    def body() -> None:
        setting = Setting()
        setting.send(extended("COPY t FROM STDIN"))
        setting.answer(
            messages.PARSE_COMPLETE + messages.BIND_COMPLETE + messages.copy_response(b"G", 0, [0])
        )
        data = messages.copy_data(b"1\n") + messages.COPY_DONE + messages.SYNC
        setting.send(data)
        assert setting.server.written.endswith(data)
        setting.answer(messages.command_complete("COPY 1") + messages.ready_for_query("I"))
        assert setting.relay.pending == 0

    in_loop(body)


def test_a_client_that_does_not_read_pauses_the_server() -> None:
    def body() -> None:
        setting = Setting()
        setting.socket.pause_writing()
        assert setting.server.paused
        setting.socket.resume_writing()
        assert not setting.server.paused
        setting.relay.busy = True
        setting.send(messages.query("x" * (2 << 20)))
        assert setting.client.paused

    in_loop(body)

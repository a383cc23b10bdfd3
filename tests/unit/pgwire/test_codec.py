"""Framing: impossible lengths are refused before anything is allocated for them."""

from __future__ import annotations

import struct

import pytest

from orochi import errors
from orochi.pgwire import codec, messages


@pytest.mark.parametrize("length", [0, 3, 7, 10_001, 2**31 - 1, -1, -(2**31)])
def test_startup_length_is_checked_at_once(length: int) -> None:
    with pytest.raises(errors.ProtocolViolation):
        codec.startup_packet(struct.pack("!i", length))


def test_startup_packet_is_cut_out() -> None:
    packet = messages.startup({"user": "u"})
    for size in range(len(packet)):
        assert codec.startup_packet(packet[:size]) is None
    found = codec.startup_packet(packet + b"rest")
    assert found is not None
    code, body, end = found
    assert (code, end) == (3 << 16, len(packet))
    assert messages.parse_startup(body) == {"user": "u"}


@pytest.mark.parametrize("length", [0, 3, -1, -(2**31), codec.MESSAGE_LIMIT + 1, 2**31 - 1])
def test_message_length_is_checked_at_once(length: int) -> None:
    splitter = codec.Splitter()
    splitter.feed(b"Q" + struct.pack("!i", length))
    with pytest.raises(errors.ProtocolViolation):
        splitter.next()


def test_splitter_takes_runs_and_rests() -> None:
    splitter = codec.Splitter()
    splitter.feed(b"".join(messages.copy_data(b"%d" % n) for n in range(5)) + messages.COPY_DONE + b"d\0")
    assert splitter.take_run(ord("d")) == [b"0", b"1", b"2", b"3", b"4"]
    assert splitter.next() == (ord("c"), b"")
    assert splitter.next() is None
    assert splitter.missing() == 3
    assert splitter.take() == b"d\0"
    assert len(splitter) == 0


def test_split_rows_counts_whole_messages() -> None:
    rows = [messages.data_row([b"x" * n, None]) for n in range(5)]
    data = b"".join(rows)
    assert codec.split_rows(data, 0, 3) == (len(b"".join(rows[:3])), 3)
    assert codec.split_rows(data[:-1], 0, 100) == (len(b"".join(rows[:4])), 4)

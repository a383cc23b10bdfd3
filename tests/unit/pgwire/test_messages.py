"""Messages: what is built is read back, and what does not add up is refused."""

from __future__ import annotations

import pytest

from orochi import errors
from orochi.pgwire import messages


def payload(message: bytes) -> bytes:
    assert int.from_bytes(message[1:5], "big") == len(message) - 1
    return message[5:]


def test_bind_round_trip() -> None:
    bind = messages.Bind(b"p", b"s", (0, 1), (b"a", None), (1,))
    built = messages.bind(b"p", b"s", (0, 1), (b"a", None), (1,))
    assert messages.parse_bind(payload(built)) == bind


@pytest.mark.parametrize("cut", range(1, 30))
def test_cut_bind_is_refused(cut: int) -> None:
    built = payload(messages.bind(b"p", b"s", (0, 1), (b"abc", None), (1,)))
    with pytest.raises(errors.ProtocolViolation):
        messages.parse_bind(built[: max(0, len(built) - cut)])


def test_bind_with_impossible_value_length_is_refused() -> None:
    built = payload(messages.bind(b"", b"", (), (b"abc",), ()))
    at = built.index(b"\0\0\0\x03abc")
    for length in (b"\x7f\xff\xff\xff", b"\xff\xff\xff\xfe", b"\x80\0\0\0"):
        with pytest.raises(errors.ProtocolViolation):
            messages.parse_bind(built[:at] + length + built[at + 4 :])


def test_row_description_round_trip_and_formats() -> None:
    fields = (
        messages.FieldDescription("a", 4_000_000_000, 1, 23, 4, -1, 0),
        messages.FieldDescription("é", 0, 0, 25, -1, 7, 0),
    )
    assert messages.parse_row_description(payload(messages.row_description(fields))) == fields
    assert [f.format for f in messages.with_formats(fields, (1,))] == [1, 1]
    assert [f.format for f in messages.with_formats(fields, (0, 1))] == [0, 1]
    assert messages.with_formats(fields, ()) == fields


def test_data_row_round_trip() -> None:
    values = (b"1", None, b"", b"x" * 300)
    assert messages.parse_data_row(payload(messages.data_row(values))) == values


def test_error_carries_every_field() -> None:
    fields = {
        "S": "ERROR",
        "V": "ERROR",
        "C": "23505",
        "M": "dup \udcff",
        "D": "detail",
        "n": "t_pkey",
        "t": "t",
    }
    built = messages.error_response(errors.RemoteError(fields))
    assert messages.parse_error(payload(built)).fields == fields
    own = messages.parse_error(
        payload(messages.error_response(errors.InvalidParameter("m", hint="h", detail="d")))
    )
    assert (own.sqlstate, own.message, own.hint, own.detail) == ("22023", "m", "h", "d")
    assert own.fields["S"] == "ERROR"
    changed = messages.parse_error(payload(messages.error_response(errors.ResultChanged("m"))))
    assert (changed.sqlstate, changed.fields["R"]) == ("0A000", "RevalidateCachedQuery")


@pytest.mark.parametrize("body", [b"", b"user", b"user\0x", b"user\0x\0y\0", b"\0\0\0"])
def test_malformed_startup_is_refused(body: bytes) -> None:
    with pytest.raises(errors.ProtocolViolation):
        messages.parse_startup(body)


def test_startup_with_an_empty_value() -> None:
    assert messages.parse_startup(b"user\0u\0options\0\0\0") == {"user": "u", "options": ""}

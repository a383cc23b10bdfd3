"""Whatever pieces a stream arrives in, the same messages come out of it."""

from __future__ import annotations

import asyncio
import itertools

import hypothesis
from hypothesis import strategies as st

from orochi import errors
from orochi.pgwire import client, codec, messages
from orochi.pgwire import reply as replies

KINDS = st.sampled_from(list(b"QPBDECSHXdcf"))
MESSAGES = st.lists(st.tuples(KINDS, st.binary(max_size=40)), max_size=12)
VALUES = st.lists(st.none() | st.binary(max_size=20), max_size=6)


@hypothesis.given(MESSAGES)
def test_splitter_at_every_split_point(expected: list[tuple[int, bytes]]) -> None:
    data = b"".join(messages.message(bytes((kind,)), payload) for kind, payload in expected)
    for cut in range(len(data) + 1):
        splitter, found = codec.Splitter(), []
        for piece in (data[:cut], data[cut:]):
            splitter.feed(piece)
            while (message := splitter.next()) is not None:
                found.append(message)
        assert found == expected
        assert len(splitter) == 0


@hypothesis.given(st.lists(VALUES, max_size=8), st.sets(st.integers(0, 400), max_size=10))
def test_client_reads_rows_at_any_split(rows: list[list[bytes | None]], cuts: set[int]) -> None:
    async def main() -> None:
        field = messages.FieldDescription("c", 0, 0, 25, -1, -1, 0)
        data = b"".join(
            (
                messages.parameter_status("TimeZone", "UTC"),
                messages.row_description([field]),
                *(messages.data_row(row) for row in rows),
                messages.notice_response("note"),
                messages.command_complete(f"SELECT {len(rows)}"),
                messages.ready_for_query("T"),
            )
        )
        connection, reply = client.PgConnection(), replies.Reply()
        connection._replies.append(reply)
        points = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
        for start, end in itertools.pairwise(points):
            if end > start:
                connection.data_received(data[start:end])
        assert reply.done.done()
        (result,) = reply.results
        assert result.rows == [tuple(row) for row in rows]
        assert (result.tag, result.fields) == (f"SELECT {len(rows)}", (field,))
        assert connection.status == "T"
        assert connection.parameters == {"TimeZone": "UTC"}
        assert not connection.busy

    asyncio.run(main())


@hypothesis.given(
    st.binary(max_size=5).filter(lambda name: b"\0" not in name),
    VALUES,
    st.lists(st.integers(0, 1), max_size=3),
)
def test_bind_round_trip(name: bytes, values: list[bytes | None], formats: list[int]) -> None:
    built = messages.bind(name, b"s", (), values, formats)
    found = messages.parse_bind(built[5:])
    assert found == messages.Bind(name, b"s", (), tuple(values), tuple(formats))


@hypothesis.given(st.binary(max_size=200))
def test_no_payload_breaks_a_parser(data: bytes) -> None:
    for parser in (
        messages.parse_bind,
        messages.parse_parse,
        messages.parse_execute,
        messages.parse_target,
        messages.parse_startup,
    ):
        try:
            parser(data)
        except errors.ProtocolViolation:
            continue

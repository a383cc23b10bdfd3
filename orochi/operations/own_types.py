"""Binary results of types whose binary form names other types by OID, where a node made them.

Arrays, rows and ranges hold the OIDs of what is in them, and a user's own types have another OID on
every server. Columns of such types are asked of a node as text and made binary by the coordinator,
so that the client sees the OIDs it knows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from orochi import pgtypes
from orochi.executor import context
from orochi.operations import sinks
from orochi.pgwire import messages

#: record, record[], anyarray: what is in them is told by the value alone.
_OPEN = frozenset({2249, 2287, 2277})
_KNOWN_KEPT = 10_000
#: By type OID of the coordinator; an OID is not given to another type while it is remembered.
_known: dict[int, bool] = {}

_KIND = """
SELECT t.oid::pg_catalog.int8 FROM pg_catalog.pg_type t
LEFT JOIN pg_catalog.pg_range r ON t.oid IN (r.rngtypid, r.rngmultitypid)
WHERE t.oid = ANY ($1::pg_catalog.oid[]) AND (t.typtype NOT IN ('e', 'b', 'r', 'm')
    OR t.typtype = 'b' AND t.typelem >= 16384 OR r.rngsubtype >= 16384)
"""


def _candidates(type_oids: Sequence[int], formats: Sequence[int]) -> list[int]:
    """The columns wanted in binary whose type may name others."""
    width = len(type_oids)
    wanted = formats if len(formats) == width else (formats[0] if formats else 0,) * width
    return [
        index
        for index, (oid, form) in enumerate(zip(type_oids, wanted, strict=True))
        if form and (oid >= pgtypes.FIRST_NORMAL_OID or oid in _OPEN)
    ]


def surely_plain(fields: Sequence[messages.FieldDescription] | None, formats: Sequence[int]) -> bool:
    """Whether a node's bytes are the client's, as far as is known without asking."""
    if not fields or not any(formats):
        return True
    oids = [field.type_oid for field in fields]
    return all(_known.get(oids[index]) is False for index in _candidates(oids, formats))


async def converting(
    session: context.Session, fields: Sequence[messages.FieldDescription] | None, sink: context.Sink
) -> context.Sink:
    """`sink`, or one before it that takes text for such columns: rows that a node made go in there."""
    if not fields:
        return sink
    columns = await affected(session, [field.type_oid for field in fields], sink.formats)
    return _Converting(session, sink, columns, len(fields)) if columns else sink


async def affected(
    session: context.Session, type_oids: Sequence[int], formats: Sequence[int]
) -> dict[int, int]:
    """The columns whose bytes from a node are not the client's, with their types."""
    if not any(formats):
        return {}
    candidates = _candidates(type_oids, formats)
    asked = sorted({type_oids[index] for index in candidates} - _known.keys())
    if asked:
        listed = "{" + ",".join(str(oid) for oid in asked) + "}"
        result = await session.coordinator.fetch(_KIND, (listed.encode(),), (0,))
        if len(_known) > _KNOWN_KEPT:
            _known.clear()
        found = {int(row[0] or b"0") for row in result.rows}
        _known.update({oid: oid in found or oid in _OPEN for oid in asked})
    return {index: type_oids[index] for index in candidates if _known[type_oids[index]]}


class _Converting(sinks.Forwarding):
    """A sink that makes some columns binary on their way to another."""

    def __init__(
        self, session: context.Session, sink: context.Sink, columns: dict[int, int], width: int
    ) -> None:
        super().__init__(sink)
        formats = sink.formats if len(sink.formats) == width else sink.formats * width
        self.formats = tuple(0 if index in columns else form for index, form in enumerate(formats))
        self._session = session
        self._columns = columns

    async def rows(self, data: bytes | memoryview, count: int) -> None:
        """Convert each column's values in one statement."""
        rows = list(_cells(bytes(data)))
        changed = {
            index: await self._binary(type_oid, [row[index] for row in rows])
            for index, type_oid in self._columns.items()
        }
        pieces = []
        for number, row in enumerate(rows):
            cells = [changed[i][number] if i in changed else cell for i, cell in enumerate(row)]
            body = struct.pack("!h", len(cells)) + b"".join(
                b"\xff\xff\xff\xff" if cell is None else struct.pack("!i", len(cell)) + cell for cell in cells
            )
            pieces.append(messages.message(b"D", body))
        await self._sink.rows(b"".join(pieces), count)

    async def _binary(self, type_oid: int, values: list[bytes | None]) -> list[bytes | None]:
        coordinator = self._session.coordinator
        name = (await coordinator.fetch(f"SELECT pg_catalog.format_type({type_oid}, NULL)")).rows[0][0] or b""
        items = [
            "NULL" if value is None else '"' + value.decode().replace("\\", "\\\\").replace('"', '\\"') + '"'
            for value in values
        ]
        result = await coordinator.fetch(
            f"SELECT v::{name.decode()} FROM pg_catalog.unnest($1::pg_catalog.text[]) WITH ORDINALITY AS u(v, n)"
            " ORDER BY n",
            (("{" + ",".join(items) + "}").encode(),),
            (0,),
            (),
            (1,),
        )
        return [row[0] for row in result.rows]


def _cells(data: bytes) -> Iterable[list[bytes | None]]:
    """The rows of whole DataRow messages."""
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("!i", data, at + 1)
        (count,) = struct.unpack_from("!h", data, at + 5)
        place, end = at + 7, at + 1 + length
        row: list[bytes | None] = []
        for _ in range(count):
            (size,) = struct.unpack_from("!i", data, place)
            place += 4
            row.append(None if size < 0 else data[place : place + size])
            place += max(size, 0)
        yield row
        at = end

"""Prepared statements and portals that the session runs itself.

Each such statement is prepared on the coordinator too, under the same name, which is where its
parameter types and result columns come from; its portals exist only here.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import IO

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.pgwire import codec, messages
from orochi.planner import calls, insert, parse
from orochi.planner import plan as plans

#: Rows of a portal read piece by piece stay in memory up to this size, then in a temporary file.
_SPOOL_MEMORY = 16 << 20
_SPOOL_READ = 1 << 18

Template = plans.Router | plans.Modify | insert.Template
ROUTER = plans.Router


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """Where one execution of a template runs: a node, and the statement with its shard's names.

    `key` is what a node's connection keeps it prepared under: the statement, its parameters' types, and its result
    columns, because a node refuses to run one that gives other columns since the table was altered.
    """

    node_id: int
    sql: str
    key: tuple[str, tuple[int, ...], object]


class Prepared:
    """One prepared statement.

    Attributes:
        server_sql: its text for the coordinator.
        statement: parsed; its kind may be one that the session runs itself (BEGIN, COMMIT, ...).
        described: whether `type_oids` and `fields` are known.
        described_in: the session's `meaning` when they were.
        asked: when PostgreSQL was last asked about it or its rights, in seconds of a monotonic clock.
        template, snapshot, targets: the generic plan, what it was made from, and where its
            executions went so far, by shard.
    """

    __slots__ = (
        "_descriptions",
        "asked",
        "described",
        "described_in",
        "fields",
        "name",
        "search_path",
        "server_sql",
        "snapshot",
        "sql",
        "statement",
        "targets",
        "temp_tables",
        "template",
        "type_oids",
    )

    def __init__(self, name: bytes, sql: bytes, statement: parse.Statement) -> None:
        self.name = name
        self.sql = sql
        self.statement = statement
        select = calls.as_select(statement)
        self.server_sql = sql if select is None else select.encode()
        self.described = False
        self.described_in: tuple[object, ...] = ()
        self.asked = time.monotonic()
        self.type_oids: tuple[int, ...] = ()
        self.fields: tuple[messages.FieldDescription, ...] | None = None
        self.template: Template | None = None
        self.snapshot: snapshots.Snapshot | None = None
        self.search_path: tuple[str, ...] = ()
        self.temp_tables: frozenset[str] = frozenset()
        self.targets: dict[object, Target | None] = {}
        self._descriptions: dict[tuple[int, ...], bytes] = {}

    def parse_message(self, payload: bytes) -> bytes:
        """The client's Parse for the coordinator, which knows a CALL of Orochi's API as a SELECT only."""
        if self.server_sql is self.sql:
            return messages.message(b"P", payload)
        return messages.parse(self.name, self.server_sql, messages.parse_parse(payload).type_oids)

    def describe(
        self,
        type_oids: tuple[int, ...],
        fields: tuple[messages.FieldDescription, ...] | None,
        meaning: tuple[object, ...] = (),
    ) -> None:
        """Take what the coordinator said of it, and by which `meaning` of names."""
        self.type_oids = type_oids
        self.fields = fields if self.server_sql is self.sql else None  # a CALL has no result
        self.described = True
        self.described_in = meaning
        self._descriptions.clear()
        self.snapshot = None

    def describe_again(
        self,
        type_oids: tuple[int, ...],
        fields: tuple[messages.FieldDescription, ...] | None,
        meaning: tuple[object, ...],
    ) -> None:
        """Like `describe`, where the client may have been told something before.

        Raises:
            OrochiError: in PostgreSQL's words: the result has other columns now.
        """
        if self.described and self.server_sql is self.sql and shape(fields) != shape(self.fields):
            raise errors.ResultChanged("cached plan must not change result type")
        self.describe(type_oids, fields, meaning)

    def description(self, formats: tuple[int, ...]) -> bytes:
        """RowDescription for a portal with these result formats, or NoData."""
        known = self._descriptions.get(formats)
        if known is None:
            if self.fields is None:
                known = messages.NO_DATA
            else:
                known = messages.row_description(messages.with_formats(self.fields, formats))
            if len(self._descriptions) < 64:
                self._descriptions[formats] = known
        return known

    def check(self, bind: messages.Bind) -> None:
        """Refuse a Bind that PostgreSQL would refuse.

        Raises:
            OrochiError: with PostgreSQL's SQLSTATE and text.
        """
        if len(bind.values) != len(self.type_oids):
            name = messages.decode(self.name)
            raise errors.ProtocolViolation(
                f'bind message supplies {len(bind.values)} parameters, but prepared statement "{name}" '
                f"requires {len(self.type_oids)}"
            )
        columns = len(self.fields or ())
        if len(bind.result_formats) > 1 and len(bind.result_formats) != columns:
            raise errors.ProtocolViolation(
                f"bind message has {len(bind.result_formats)} result formats but query has {columns} columns"
            )
        for form in (*bind.formats, *bind.result_formats):
            if form not in (0, 1):
                raise errors.InvalidParameter(f"unsupported format code: {form}")


def shape(
    fields: tuple[messages.FieldDescription, ...] | None,
) -> tuple[tuple[str, int, int], ...] | None:
    """What of a result's columns may not change while a statement stays prepared."""
    return None if fields is None else tuple((field.name, field.type_oid, field.typmod) for field in fields)


class Portal:
    """A statement with its parameters, and how far it was read.

    Attributes:
        started: it has been executed.
        spool: what is left of its rows, when they are read piece by piece.
    """

    __slots__ = ("bind", "parameters", "prepared", "spool", "started")

    def __init__(self, prepared: Prepared, bind: messages.Bind) -> None:
        formats = bind.formats
        if len(formats) != len(bind.values):
            formats = (formats[0] if formats else 0,) * len(bind.values)
        self.prepared = prepared
        self.bind = bind
        self.parameters = context.Parameters(bind.values, formats, prepared.type_oids)
        self.spool: Spool | None = None
        self.started = False

    @property
    def result_formats(self) -> tuple[int, ...]:
        """As the Bind said: none, one for all, or one a column."""
        return self.bind.result_formats

    def close(self) -> None:
        """Drop what it holds."""
        if self.spool is not None:
            self.spool.close()
            self.spool = None


class Spool:
    """Rows kept for a portal that is read piece by piece.

    Attributes:
        tag: the statement's command tag.
    """

    __slots__ = ("_file", "_rest", "tag")

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_SPOOL_MEMORY)  # noqa: SIM115
        self._rest = b""
        self.tag = ""

    def add(self, data: bytes | memoryview) -> None:
        """Keep whole DataRow messages."""
        self._file.write(data)

    def rewind(self) -> None:
        """All rows are here: begin to read."""
        self._file.seek(0)

    def take(self, limit: int) -> tuple[list[bytes], int, bool]:
        """Up to `limit` rows in pieces, how many they are, and whether rows are left; 0 takes all."""
        pieces, count = [], 0
        while not limit or count < limit:
            end, rows = codec.split_rows(self._rest, 0, limit - count if limit else 1 << 62)
            if rows:
                pieces.append(self._rest[:end])
                self._rest = self._rest[end:]
                count += rows
                continue
            more = self._file.read(_SPOOL_READ)
            if not more:
                break
            self._rest += more
        if not self._rest:
            self._rest = self._file.read(_SPOOL_READ)
        return pieces, count, bool(self._rest)

    def send(self, write: Callable[[bytes], None], limit: int) -> None:
        """Write up to `limit` rows, and how the Execute that asked for them ended."""
        pieces, count, more = self.take(limit)
        for piece in pieces:
            write(piece)
        write(messages.PORTAL_SUSPENDED if more else messages.command_complete(partial_tag(self.tag, count)))

    def close(self) -> None:
        """Free the memory or the file."""
        self._file.close()


def partial_tag(tag: str, count: int) -> str:
    """The tag of an Execute that returned `count` rows of a statement whose own tag is `tag`."""
    words: Sequence[str] = tag.split(" ")
    if words[-1].isdigit():
        return " ".join((*words[:-1], str(count)))
    return tag

"""PostgreSQL as the judge: the same statement on plain tables of the same server, compared byte for byte.

`Pair` holds two clients: one of the gateway, one of a second database `plain` of the coordinator's
own server, where the tables of the same names are ordinary. Compared are column names, type OIDs
and modifiers, the values as PostgreSQL prints them, the command tag, and SQLSTATE and message of
errors. Rows are compared in order only where the statement orders them. Sums of floats depend on
the order of their terms, so results of aggregates over floats may differ by 1e-12 relative.
"""

from __future__ import annotations

import dataclasses
import math
import re
import struct
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import pq

_FLOATS = frozenset({700, 701})
_FIRST_USER_OID = 16384
_TOLERANCE = 1e-12
_AGGREGATE = re.compile(r"\b(sum|avg|stddev\w*|var\w*|corr|covar\w*|regr_\w+)\s*\(", re.IGNORECASE)

Row = tuple[bytes | None, ...]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a server said to one statement."""

    tag: str
    names: tuple[str, ...] = ()
    types: tuple[tuple[int, int, int], ...] = ()  # OID (0 for the user's own types), modifier, size
    formats: tuple[int, ...] = ()
    rows: tuple[Row, ...] = ()
    sqlstate: str | None = None
    message: str | None = None
    detail: str | None = None
    hint: str | None = None
    status: str = ""

    @property
    def values(self) -> list[tuple[str | None, ...]]:
        """The rows as text, for reading in a failure or in a test."""
        return [
            tuple(None if v is None else v.decode(errors="backslashreplace") for v in row)
            for row in self.rows
        ]


def ask(
    connection: psycopg.Connection[Any],
    sql: str,
    parameters: Sequence[Any] | None = None,
    *,
    binary: bool = False,
    prepare: bool | None = None,
) -> Answer:
    """Run one statement and keep everything the server answered."""
    with connection.cursor(binary=binary) as cursor:
        try:
            cursor.execute(sql, parameters, prepare=prepare)
        except psycopg.Error as error:
            return Answer(
                tag="ERROR",
                sqlstate=error.sqlstate,
                message=error.diag.message_primary or str(error),
                detail=error.diag.message_detail,
                hint=error.diag.message_hint,
                status=connection.info.transaction_status.name,
            )
        while cursor.nextset():
            pass
        result = cursor.pgresult
        assert result is not None
        return dataclasses.replace(read(result), status=connection.info.transaction_status.name)


def read(result: pq.abc.PGresult) -> Answer:
    """A libpq result as an `Answer`."""
    columns = range(result.nfields)
    types = tuple((result.ftype(c), result.fmod(c), result.fsize(c)) for c in columns)
    return Answer(
        tag=(result.command_status or b"").decode(),
        names=tuple((result.fname(c) or b"").decode() for c in columns),
        types=tuple((oid if oid < _FIRST_USER_OID else 0, modifier, size) for oid, modifier, size in types),
        formats=tuple(result.fformat(c) for c in columns),
        rows=tuple(tuple(result.get_value(r, c) for c in columns) for r in range(result.ntuples)),
    )


def is_ordered(sql: str) -> bool:
    """Whether the statement itself (not a subquery of it) has an ORDER BY."""
    depth, outer = 0, []
    for character in re.sub(r"'[^']*'", "''", sql):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            outer.append(character)
    return re.search(r"\border\s+by\b", "".join(outer), re.IGNORECASE) is not None


def assert_same(
    sql: str, ours: Answer, theirs: Answer, *, ordered: bool | None = None, details: bool = True
) -> None:
    """Fail with a readable difference unless the gateway answered as PostgreSQL did."""
    where = f"\n{sql}\n"
    assert (ours.sqlstate, ours.message) == (theirs.sqlstate, theirs.message), (
        f"{where}gateway:    {ours.sqlstate} {ours.message} ({ours.detail}; {ours.hint})\n"
        f"PostgreSQL: {theirs.sqlstate} {theirs.message} ({theirs.detail}; {theirs.hint})"
    )
    assert not details or ours.detail == theirs.detail, (
        f"{where}detail {ours.detail!r}, PostgreSQL {theirs.detail!r}"
    )
    assert ours.names == theirs.names, where
    assert ours.types == theirs.types, where
    assert ours.formats == theirs.formats, where
    assert ours.tag == theirs.tag, f"{where}{ours.tag} instead of {theirs.tag}\n{difference(ours, theirs)}"
    assert ours.status == theirs.status, where
    keep_order = is_ordered(sql) if ordered is None else ordered
    approximate = {c for c, kind in enumerate(theirs.types) if kind[0] in _FLOATS and _AGGREGATE.search(sql)}
    if not _same_rows(ours, theirs, keep_order, approximate):
        raise AssertionError(f"{where}{difference(ours, theirs)}")


def _same_rows(ours: Answer, theirs: Answer, ordered: bool, approximate: set[int]) -> bool:
    if len(ours.rows) != len(theirs.rows):
        return False
    exact = [c for c in range(len(theirs.names)) if c not in approximate]
    key = lambda row: [(row[c] is None, row[c] or b"") for c in exact]  # noqa: E731
    left, right = list(ours.rows), list(theirs.rows)
    if not ordered:
        whole = lambda row: [(value is None, value or b"") for value in row]  # noqa: E731
        # whole rows first: those that are alike in all that is exact may stand in any order
        if sorted(left, key=whole) == sorted(right, key=whole):
            return True
        left, right = sorted(left, key=key), sorted(right, key=key)
    if any(key(a) != key(b) for a, b in zip(left, right, strict=True)):
        return False
    return all(
        _close(a[c], b[c], theirs.formats[c]) for a, b in zip(left, right, strict=True) for c in approximate
    )


def _close(ours: bytes | None, theirs: bytes | None, format_: int) -> bool:
    if ours == theirs or ours is None or theirs is None:
        return ours == theirs
    left, right = (_unpack(value) if format_ else float(value) for value in (ours, theirs))
    return math.isclose(left, right, rel_tol=_TOLERANCE, abs_tol=1e-15)


def _unpack(value: bytes) -> float:
    return float(struct.unpack(">d" if len(value) == 8 else ">f", value)[0])


def difference(ours: Answer, theirs: Answer, limit: int = 10) -> str:
    """The rows that only one of the two has."""
    left, right = list(ours.values), list(theirs.values)
    missing = [row for row in right if row not in left]
    extra = [row for row in left if row not in right]
    lines = [f"{len(left)} rows, PostgreSQL has {len(right)}"]
    lines += [f"  missing {row}" for row in missing[:limit]]
    lines += [f"  extra   {row}" for row in extra[:limit]]
    if not missing and not extra:
        lines += ["  same rows, another order or number of repetitions"]
        lines += [f"  ours   {row}" for row in left[:limit]] + [f"  theirs {row}" for row in right[:limit]]
    return "\n".join(lines)


@dataclasses.dataclass
class Pair:
    """A client of the gateway and one of plain PostgreSQL, given the same statements."""

    gateway: psycopg.Connection[Any]
    plain: psycopg.Connection[Any]

    def same(self, sql: str, parameters: Sequence[Any] | None = None, **options: Any) -> Answer:
        """Run on both, fail unless both answer alike; the gateway's answer."""
        ordered, details = options.pop("ordered", None), options.pop("details", True)
        ours = ask(self.gateway, sql, parameters, **options)
        theirs = ask(self.plain, sql, parameters, **options)
        assert_same(sql, ours, theirs, ordered=ordered, details=details)
        return ours

    def both(self, *statements: str) -> None:
        """Run on both, where success is all that matters."""
        for sql in statements:
            self.plain.execute(sql)
            self.gateway.execute(sql)

    def orochi(self, sql: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """Run on the gateway only; its rows."""
        cursor = self.gateway.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else []

    def copy_in(self, sql: str, data: bytes) -> None:
        """COPY the same bytes into both."""
        for connection in (self.plain, self.gateway):
            with connection.cursor() as cursor, cursor.copy(sql) as copy:
                copy.write(data)

    def copy_out(self, sql: str) -> tuple[bytes, bytes]:
        """What COPY TO STDOUT gives: the gateway's bytes, PostgreSQL's bytes."""
        answers = []
        for connection in (self.gateway, self.plain):
            with connection.cursor() as cursor, cursor.copy(sql) as copy:
                answers.append(b"".join(bytes(piece) for piece in copy))
        return answers[0], answers[1]

    def check_tables(self, *tables: str) -> None:
        """All rows of the tables are the same on both."""
        for table in tables:
            self.same(f"SELECT * FROM {table}")

"""INSERTs of many rows of plain constants, split into the texts of their rows without parsing them.

A text of a hundred rows makes a tree of thousands of nodes, though only two values of each row are looked at. What is
taken here is what a pattern reads as PostgreSQL's scanner does for certain: `INSERT INTO name (names) VALUES` and rows of
numbers, NULL, true, false and strings without a backslash. Anything else is not taken. The statement is planned by a
short one that stands for it, with a parameter in each place of one row; PostgreSQL itself still sees the whole text first.
"""

from __future__ import annotations

import dataclasses
import functools
import re

from orochi import errors, ids, pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.planner import insert, parse, quoting
from orochi.sharding import values

_SPACE = r"[ \t\r\n]*+"
_NAME = r'(?:[a-z_][a-z0-9_$]*+|"[^"\0]++")'
_HEAD = re.compile(
    rf"{_SPACE}insert[ \t\r\n]++into[ \t\r\n]++{_NAME}(?:\.{_NAME})?{_SPACE}"
    rf"(?:\({_SPACE}{_NAME}(?:{_SPACE},{_SPACE}{_NAME})*+{_SPACE}\){_SPACE})?values{_SPACE}(?=\()",
    re.IGNORECASE | re.ASCII,
)
_INTEGER = "-?[0-9]++"
_NUMBER = rf"{_INTEGER}(?:\.[0-9]++)?(?:e[+-]?[0-9]++)?"
_WORD = "(?:null|true|false)"
_STRING = r"'(?:[^'\\\0]|'')*+'"
#: A time that means the same at any moment: see `cells`.
_TIME_STRING = r"'[ \t]*+[+-]?[0-9](?:[^'\\\0]|'')*+'"
_CELL = re.compile(rf"{_SPACE}(?:{_NUMBER}|{_WORD}|{_STRING}){_SPACE}", re.IGNORECASE | re.ASCII)
_TEXTS = frozenset({pgtypes.TEXT, pgtypes.VARCHAR})
_TIMELY = pgtypes.TIMES | {pgtypes.TIME}
#: Types whose input means the same on a node.
_TYPES = (
    _TIMELY
    | pgtypes.INTEGERS
    | pgtypes.FLOATS
    | _TEXTS
    | {
        pgtypes.BOOL,
        pgtypes.BPCHAR,
        pgtypes.NUMERIC,
        pgtypes.UUID,
        pgtypes.JSON,
        pgtypes.JSONB,
        pgtypes.BYTEA,
        pgtypes.INTERVAL,
    }
)
#: Columns of a row, at most.
_WIDEST = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """A text as far as its first row: what comes before it and how many values are in it."""

    head: str
    width: int

    @property
    def sql(self) -> str:
        """The statement that stands for all of this shape."""
        return f"{self.head}({', '.join(f'${number}' for number in range(1, self.width + 1))})"


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How the rows of a shape are read and routed.

    Attributes:
        table: into which.
        key, time: place among a row's values, from 0, and type of the distribution column and the time column.
        after_schema: the INSERT of a shard's rows between its schema's name and the rows.
        row: reads one row and what follows it.
    """

    table: ids.TableId
    key: tuple[int, int] | None
    time: tuple[int, int] | None
    after_schema: str
    row: re.Pattern[str]


def shape(text: str) -> Shape | None:
    """The shape of an INSERT of two rows or more, as far as the first one tells; None if it is anything else."""
    found = _HEAD.match(text)
    if found is None:
        return None
    at, width = found.end(), 0
    while width < _WIDEST:
        cell = _CELL.match(text, at + 1)
        if cell is None:
            return None
        width, at = width + 1, cell.end()
        if text[at : at + 1] == ")":
            return Shape(found[0], width) if text[at + 1 :].lstrip(" \t\r\n").startswith(",") else None
        if text[at : at + 1] != ",":
            return None
    return None


def plan(statement: parse.Statement, context: insert.Context) -> Plan | None:
    """The plan of a shape, by the parsed statement that stands for it; None if its rows must be planned one by one."""
    tree = statement.tree
    try:
        found = insert.analyze(
            statement, context.snapshot, context.search_path, context.temp_tables, context.builtins
        )
    except errors.OrochiError:
        return None
    if not isinstance(found, insert.Values) or found.returning or found.on_conflict or tree.withClause:
        return None
    table, (row,) = found.table, found.rows
    if table.kind is snapshots.TableKind.REFERENCE or any(c.identity or c.generated for c in table.columns):
        return None
    numbers = [cell.parameter for cell in row]
    if sorted(numbers) != list(range(1, len(tree.selectStmt.valuesLists[0]) + 1)):
        return None
    named = {number: table.column(name) for number, name in zip(numbers, found.columns, strict=True)}
    columns = [column for number in sorted(named) if (column := named[number]) is not None]
    if len(columns) != len(named) or any(column.type_oid not in _TYPES for column in columns):
        return None
    key = _place(columns, table.distribution_column)
    time = _place(columns, None if table.dimension is None else table.dimension.column)
    if table.kind is snapshots.TableKind.DISTRIBUTED and key is None:
        return None
    if table.dimension is not None and time is None:
        return None
    listed = ", ".join(quoting.identifier(column.name) for column in columns)
    read = frozenset(place[0] for place in (key, time) if place is not None)
    return Plan(
        table=table.oid,
        key=key if table.kind is snapshots.TableKind.DISTRIBUTED else None,
        time=time,
        after_schema=f".{quoting.identifier(table.name)} ({listed}) VALUES ",
        row=_row(tuple(column.type_oid for column in columns), read),
    )


def _place(columns: list[snapshots.Column], name: str | None) -> tuple[int, int] | None:
    """Where a column's value is in a row, if it can be read there as PostgreSQL does."""
    for at, column in enumerate(columns):
        if column.name == name:
            plain = column.typmod < 0 and column.type_oid in pgtypes.DISTRIBUTABLE
            return (at, column.type_oid) if plain else None
    return None


@functools.lru_cache(maxsize=256)
def _row(oids: tuple[int, ...], read: frozenset[int]) -> re.Pattern[str]:
    """Reads a row of these types, its values at the places `read` by the groups `v<place>`, and what follows."""
    cells = []
    for at, oid in enumerate(oids):
        string = _TIME_STRING if oid in _TIMELY else _STRING
        if at not in read:
            cells.append(rf"(?:{string}|{_NUMBER}|{_WORD})")
        elif oid in pgtypes.INTEGERS:
            cells.append(rf"(?P<v{at}>{_INTEGER}|{string})")
        else:
            cells.append(rf"(?P<v{at}>{string})")
    body = rf"{_SPACE},{_SPACE}".join(cells)
    return re.compile(
        rf"(?P<row>\({_SPACE}{body}{_SPACE}\)){_SPACE}(?:,{_SPACE}|(?P<end>;?{_SPACE}\Z))",
        re.IGNORECASE | re.ASCII,
    )


def split(plan: Plan, text: str, at: int) -> parse.Lists | None:
    """The rows from `at` on, their values unquoted, "" where there is no such column; None if anything else is there."""
    key = "" if plan.key is None else f"v{plan.key[0]}"
    time = "" if plan.time is None else f"v{plan.time[0]}"
    found: list[tuple[str, str, str]] = []
    for match in plan.row.finditer(text, at):
        if match.start() != at:
            return None
        at = match.end()
        found.append(
            (match["row"], _unquoted(match[key]) if key else "", _unquoted(match[time]) if time else "")
        )
        if match["end"] is not None:
            return parse.Lists(text, tuple(found), plan)
    return None


def _unquoted(token: str) -> str:
    return token[1:-1].replace("''", "'") if token[0] == "'" else token


def raw_time(plan: Plan, token: str, timezone: str) -> int | None:
    """The raw time of a token; None if only the server can tell."""
    assert plan.time is not None
    found = values.from_text(plan.time[1], token, timezone)
    return found if isinstance(found, int) else None

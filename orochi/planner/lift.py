"""Literals of a simple statement as parameters, where that cannot change what it means.

Clients of the simple protocol write values into the text, so each text is new. `split` takes the
numbers and plain strings out of a text in microseconds, by a pattern; `template` decides, once for
all texts that differ in nothing else, whether the pattern saw what PostgreSQL's own scanner sees,
and whether a parameter of the literal's type in each place means the same as the literal. What is
left between literals decides how the scanner reads them, so that holds for all of them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from pglast import parser

from orochi import errors, pgtypes
from orochi.planner import parse, tree
from orochi.planner.tree import ast

_LITERAL = re.compile(rb"[0-9]+(?:\.[0-9]+)?|'[^'\\]*'")
#: Beside a digit these make it part of something else, before a quote an odd string of it.
_JOINED = frozenset(
    b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_$.&'\"" + bytes(range(128, 256))
)
#: Digits of an integer that is no more than eight bytes for certain, or four.
_DIGITS, _SURE_DIGITS = 18, 9
_LONGEST = 4_096
_MOST = 64
_INT4, _INT8_EDGE = 2_147_483_647, 2_147_483_648
_CONSTANTS = frozenset({"ICONST", "SCONST", "FCONST", "BCONST", "XCONST", "USCONST", "PARAM"})
_KINDS = frozenset({parse.Kind.SELECT, parse.Kind.INSERT, parse.Kind.UPDATE, parse.Kind.DELETE})
_INTEGERS, _STRINGS, _DECIMALS = {pgtypes.INT4, pgtypes.INT8}, {0}, {pgtypes.NUMERIC}
_COMPARISONS = frozenset({"=", "<>", "!=", "<", ">", "<=", ">="})
_OPERATORS = _COMPARISONS | {"+", "-", "*"}
#: What compares whole expressions, which two parameters of one value are not: the same.
_COMPARING = ("groupClause", "distinctClause", "windowClause", "havingClause")
#: Types whose input takes any text as it is.
TEXT_TYPES = frozenset({pgtypes.TEXT, pgtypes.VARCHAR})


@dataclasses.dataclass(frozen=True, slots=True)
class Lifted:
    """A text without its literals.

    Attributes:
        rest: what lies around the literals.
        type_oids: the type of each as PostgreSQL gives it, 0 for a string.
        values: the literals.
    """

    rest: tuple[bytes, ...]
    type_oids: tuple[int, ...]
    values: tuple[bytes, ...]

    @property
    def sql(self) -> bytes:
        """The text with `$n` for its literals."""
        pieces = [self.rest[0]]
        for number, piece in enumerate(self.rest[1:], 1):
            pieces += (b"$%d" % number, piece)
        return b"".join(pieces)


def split(sql: bytes) -> Lifted | None:
    """The text without its literals; None if it is too long, has none or too many, or an odd one."""
    if len(sql) > _LONGEST:
        return None
    rest, oids, values = [], [], []
    at = 0
    for match in _LITERAL.finditer(sql):
        start, end = match.span()
        if (start and sql[start - 1] in _JOINED) or (end < len(sql) and sql[end] in _JOINED):
            if sql[start] == 0x27:
                return None
            continue
        rest.append(sql[at:start])
        at = end
        if sql[start] == 0x27:
            oids.append(0)
            values.append(sql[start + 1 : end - 1])
            continue
        values.append(sql[start:end])
        if b"." in values[-1]:
            oids.append(pgtypes.NUMERIC)
            continue
        oids.append(pgtypes.INT4)
        if end - start > _SURE_DIGITS:
            number = int(values[-1])
            if end - start > _DIGITS or number == _INT8_EDGE:
                return None  # the edge: with a minus before it, it is an integer after all
            oids[-1] = pgtypes.INT4 if number <= _INT4 else pgtypes.INT8
    if not values or len(values) > _MOST:
        return None
    rest.append(sql[at:])
    return Lifted(tuple(rest), tuple(oids), tuple(values))


def template(sql: bytes, lifted: Lifted) -> parse.Statement | None:
    """The statement with parameters in place of `sql`'s literals, if it means the same for any of them."""
    try:
        text = sql.decode()
        if _as_scanned(text) != [value.decode() for value in lifted.values]:
            return None
        statements = parse.parse(lifted.sql.decode())
    except (UnicodeDecodeError, errors.OrochiError, parser.ParseError):
        return None
    if len(statements) != 1:
        return None
    (statement,) = statements
    if statement.kind not in _KINDS or any(
        getattr(node, name, None) for node in tree.walk(statement.tree) for name in _COMPARING
    ):
        return None
    safe = {node.number for node in _safe(statement.tree, lifted.type_oids)}
    found = [node.number for node in tree.walk(statement.tree) if isinstance(node, ast.ParamRef)]
    if sorted(found) != list(range(1, len(lifted.values) + 1)) or safe != set(found):
        return None
    return statement


def _as_scanned(text: str) -> list[str]:
    """All constants of the text as PostgreSQL's scanner finds them, strings without their quotes."""
    return [
        text[token.start : token.end + 1].removeprefix("'").removesuffix("'")
        for token in parser.scan(text)
        if token.name in _CONSTANTS
    ]


def _safe(root: tree.Node, type_oids: tuple[int, ...]) -> Iterator[tree.Node]:
    """Parameters whose type comes out as the literal's does, and that no one looks at when planning."""

    def parameters(nodes: tree.Node, *, strings: bool, decimals: bool = False) -> Iterator[tree.Node]:
        wanted = _INTEGERS | (_STRINGS if strings else set()) | (_DECIMALS if decimals else set())
        for node in nodes:
            if isinstance(node, ast.ParamRef) and type_oids[node.number - 1] in wanted:
                yield node

    for node in tree.walk(root):
        match type(node).__name__:
            case "A_Expr" if node.kind.name == "AEXPR_OP" and node.name[-1].sval in _OPERATORS:
                strings = node.name[-1].sval in _COMPARISONS
                yield from parameters((node.lexpr, node.rexpr), strings=strings)
            case "A_Expr" if node.kind.name in ("AEXPR_IN", "AEXPR_BETWEEN"):
                yield from parameters(node.rexpr, strings=False)
            case "SelectStmt":
                yield from parameters((node.limitCount, node.limitOffset), strings=False)
            case "UpdateStmt":
                yield from parameters((item.val for item in node.targetList), strings=True)
            case "InsertStmt" if node.selectStmt is not None:
                rows: tuple[tree.Node, ...] = node.selectStmt.valuesLists or ()
                if len(rows) == 1:
                    yield from parameters(rows[0], strings=True, decimals=True)
            case "InferClause" if node.whereClause is not None:
                return  # has to be proved from an index's own condition

"""SQL text to statements by PostgreSQL's own grammar, and trees back to text, checked.

`deparse` never returns text that means something else: what it prints is parsed again and must
give the same tree.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import threading

import pglast
from pglast import parser

from orochi import errors
from orochi.catalog import api
from orochi.planner import printing, tree
from orochi.planner.tree import ast

#: Characters of parsed texts kept; a tree takes some forty bytes for each.
_CACHE_LENGTH = 1_000_000
#: A batch longer than this is parsed each time.
_CACHE_MAX_LENGTH = 20_000


class Kind(enum.Enum):
    """What a statement does, as far as dispatch needs to know."""

    SELECT = "select"
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    MERGE = "merge"
    COPY = "copy"
    TRUNCATE = "truncate"
    CALL = "call"  # calls a function of Orochi's API
    EXPLAIN = "explain"
    PREPARE = "prepare"
    EXECUTE = "execute"
    DEALLOCATE = "deallocate"
    DECLARE = "declare"
    FETCH = "fetch"
    CLOSE = "close"
    TRANSACTION = "transaction"
    SET = "set"
    CREATE_TABLE_AS = "create table as"  # also SELECT INTO and CREATE MATERIALIZED VIEW
    DDL = "ddl"
    OTHER = "other"


@dataclasses.dataclass(frozen=True, slots=True)
class Lists:
    """The rows of a long INSERT, which a short statement stands for: see `value_lists`.

    Attributes:
        text: the whole statement as the client sent it.
        rows: each row's text, and its values of the distribution column and the time column.
        plan: what they were split by.
    """

    text: str
    rows: tuple[tuple[str, str, str], ...]
    plan: object


@dataclasses.dataclass(frozen=True, slots=True)
class Statement:
    """One statement: its own text, its tree (locations are character offsets into `sql`), its kind.

    Attributes:
        lists: what it stands for, if it is not the client's.
    """

    sql: str
    tree: tree.Node
    kind: Kind
    lists: Lists | None = None

    @property
    def text(self) -> str:
        """What the client sent."""
        return self.sql if self.lists is None else self.lists.text


class CannotDeparse(Exception):
    """The tree has no faithful text here; the caller keeps to the original text or does without."""


_KINDS: dict[str, Kind] = {
    "SelectStmt": Kind.SELECT,
    "InsertStmt": Kind.INSERT,
    "UpdateStmt": Kind.UPDATE,
    "DeleteStmt": Kind.DELETE,
    "MergeStmt": Kind.MERGE,
    "CopyStmt": Kind.COPY,
    "TruncateStmt": Kind.TRUNCATE,
    "ExplainStmt": Kind.EXPLAIN,
    "PrepareStmt": Kind.PREPARE,
    "ExecuteStmt": Kind.EXECUTE,
    "DeallocateStmt": Kind.DEALLOCATE,
    "DeclareCursorStmt": Kind.DECLARE,
    "FetchStmt": Kind.FETCH,
    "ClosePortalStmt": Kind.CLOSE,
    "TransactionStmt": Kind.TRANSACTION,
    "VariableSetStmt": Kind.SET,
    "CreateTableAsStmt": Kind.CREATE_TABLE_AS,
}
_DDL_PREFIXES = ("Create", "Alter", "Drop", "Rename", "Comment", "Grant", "Define", "SecLabel", "Import")
_DDL = frozenset(
    {"IndexStmt", "ViewStmt", "RuleStmt", "ReassignOwnedStmt", "CompositeTypeStmt", "ReindexStmt"}
)


def parse(sql: str) -> tuple[Statement, ...]:
    """The statements of `sql`, empty ones left out.

    Raises:
        RemoteError: 42601 with PostgreSQL's message and position.
    """
    return _parse(sql) if len(sql) > _CACHE_MAX_LENGTH else _known.statements(sql)


def parse_one(sql: str) -> Statement:
    """The only statement of `sql`."""
    (statement,) = parse(sql)
    return statement


def _parse(sql: str) -> tuple[Statement, ...]:
    try:
        trees = pglast.parse_sql(sql)
        if len(trees) == 1 and ";" not in sql:
            return (Statement(sql, trees[0].stmt, kind(trees[0].stmt)),)
        slices = parser.split(sql, only_slices=True) if trees else ()
    except parser.ParseError as error:
        raise syntax_error(error, sql) from error
    if len(slices) == 1:
        slices = (slice(0, slices[0].stop),)  # places in it are places in the client's text
    texts = [sql[piece] for piece in slices]
    return tuple(
        Statement(text, raw.stmt, kind(raw.stmt)) for text in texts for raw in pglast.parse_sql(text)
    )


class _Known:
    """Parsed texts, the least recently asked for going first; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: collections.OrderedDict[str, tuple[Statement, ...]] = collections.OrderedDict()
        self._length = 0

    def statements(self, sql: str) -> tuple[Statement, ...]:
        """As `parse`."""
        with self._lock:
            if (found := self._kept.get(sql)) is not None:
                self._kept.move_to_end(sql)
                return found
        made = _parse(sql)
        with self._lock:
            if sql not in self._kept:
                self._length += len(sql)
            self._kept[sql] = made
            while self._length > _CACHE_LENGTH:
                self._length -= len(self._kept.popitem(last=False)[0])
        return made


_known = _Known()


def syntax_error(error: parser.ParseError, sql: str) -> errors.RemoteError:
    """PostgreSQL's own error for text that does not parse."""
    message, position = str(error.args[0]), error.args[1] if len(error.args) > 1 else None
    at = len(sql) if position is None else int(position)
    return errors.RemoteError({"S": "ERROR", "V": "ERROR", "C": "42601", "M": message, "P": str(at + 1)})


def kind(node: tree.Node) -> Kind:
    """What the statement does."""
    name = type(node).__name__
    found = _KINDS.get(name)
    if found in (None, Kind.SELECT) and calls_api(node):
        return Kind.CALL
    if found is Kind.SELECT:
        return Kind.CREATE_TABLE_AS if _leftmost(node).intoClause is not None else Kind.SELECT
    if found is not None:
        return found
    return Kind.DDL if name in _DDL or name.startswith(_DDL_PREFIXES) else Kind.OTHER


def calls_api(node: tree.Node) -> bool:
    """Whether a function of Orochi's API is called, by its bare or `orochi.` name."""
    if not isinstance(node, (ast.SelectStmt, ast.CallStmt)):
        return False
    return any(is_api_call(call) for call in tree.walk(node) if isinstance(call, ast.FuncCall))


def is_api_call(call: tree.Node) -> bool:
    """Whether a FuncCall names a function of Orochi's API."""
    parts = tree.strings(call.funcname)
    return parts[-1] in api.NAMES and (len(parts) == 1 or parts[0] in ("orochi", api.SCHEMA))


def _leftmost(select: tree.Node) -> tree.Node:
    while select.larg is not None:
        select = select.larg
    return select


def deparse(node: tree.Node) -> str:
    """The text of a whole statement's tree.

    Raises:
        CannotDeparse: no text of ours parses back to the same tree.
    """
    try:
        text = printing.text(node)
        back = pglast.parse_sql(text)
    except Exception as error:
        raise CannotDeparse(str(error)) from error
    if len(back) != 1 or back[0].stmt != node:
        raise CannotDeparse(text)
    return text


def type_name(text: str) -> tree.Node:
    """The tree of a type's name."""
    select: tree.Node = pglast.parse_sql(f"SELECT NULL::{text}")[0].stmt
    return select.targetList[0].val.typeName


def deparse_expression(node: tree.Node) -> str:
    """The text of a scalar expression's tree, usable wherever an expression in parentheses is.

    Raises:
        CannotDeparse: as `deparse`.
    """
    try:
        text = printing.text(node)
        back: tree.Node = pglast.parse_sql(f"SELECT ({text})")
    except Exception as error:
        raise CannotDeparse(str(error)) from error
    targets = back[0].stmt.targetList
    if len(targets) != 1 or targets[0].val != node:
        raise CannotDeparse(text)
    return text


def inner(statement: Statement) -> Statement:
    """The statement inside EXPLAIN, PREPARE, DECLARE, COPY (query) or CREATE TABLE AS, as its own text.

    Raises:
        CannotDeparse: the inner statement could not be told from its surroundings.
    """
    node = statement.tree
    if isinstance(node, ast.SelectStmt):  # SELECT INTO: the text stays, and may be explained as it is
        return Statement(statement.sql, node, Kind.SELECT)
    query = getattr(node, "query", None)
    if query is None:
        raise CannotDeparse("nothing inside")
    tokens = parser.scan(statement.sql)
    for first in _inner_starts(node, tokens):
        text = statement.sql[tokens[first].start :]
        if isinstance(node, ast.CopyStmt):
            text = statement.sql[tokens[first].start : tokens[_closing(tokens, first - 1)].start]
        try:
            found = parse(text)
        except errors.OrochiError:
            continue
        if len(found) == 1 and found[0].tree == query:
            return found[0]
    return Statement(deparse(query), query, kind(query))


def _inner_starts(node: tree.Node, tokens: list[parser.Token]) -> list[int]:
    if isinstance(node, ast.ExplainStmt):
        if node.options and tokens[1].name == "ASCII_40":
            return [_closing(tokens, 1) + 1]
        return [1, 2, 3]
    words = {
        "PrepareStmt": "AS",
        "DeclareCursorStmt": "FOR",
        "CreateTableAsStmt": "AS",
        "CopyStmt": "ASCII_40",
    }
    word = words.get(type(node).__name__)
    return [index + 1 for index, token in enumerate(tokens) if token.name == word and index + 1 < len(tokens)]


def _closing(tokens: list[parser.Token], opening: int) -> int:
    depth = 0
    for index in range(opening, len(tokens)):
        depth += {"ASCII_40": 1, "ASCII_41": -1}.get(tokens[index].name, 0)
        if depth == 0:
            return index
    raise CannotDeparse("unbalanced parentheses")

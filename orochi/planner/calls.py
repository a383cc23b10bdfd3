"""Statements that call Orochi's functions, rewritten so that PostgreSQL evaluates the calls' arguments.

A call stands in a SELECT's target list by itself, once for each row, or inside expressions that read
nothing else (`count(compress_chunk(c))`), or it is the only item of FROM, or it is what CALL calls. In its
place goes the function's twin, which returns the call as JSON. What was executed then goes back as a value of
the target list, or as a VALUES list in FROM. A function that only reads may stand anywhere in a SELECT's own
clauses but FROM: each different call is executed once, then looked up by its JSON.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pglast import ast

from orochi import errors
from orochi.catalog import api
from orochi.planner import parse, quoting, tree

_HINT = "Call it as an output column of its own, or as the only item of FROM."


@dataclasses.dataclass(frozen=True, slots=True)
class TargetCalls:
    """Calls in the target list.

    Attributes:
        sql: the statement with twins; its rows hold JSON in `positions`.
        positions: the output columns that are calls, with the function's name.
    """

    sql: str
    positions: tuple[tuple[int, str], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class FromCall:
    """One call as the only item of FROM, or of CALL (`tree` is None then), or the one of a target list.

    Attributes:
        sql: returns the call, or those of all rows, as JSON.
        function: the function's name.
    """

    sql: str
    function: str
    tree: tree.Node | None


@dataclasses.dataclass(frozen=True, slots=True)
class Lookups:
    """Calls of one function that only reads, in any expressions of a SELECT.

    Attributes:
        sql: returns the calls, each different one once, as JSON.
        function: the function's name.
        calls: the calls, parts of `tree`.
        tree: the statement's tree.
    """

    sql: str
    function: str
    calls: tuple[tree.Node, ...]
    tree: tree.Node


def as_select(statement: parse.Statement) -> str | None:
    """The SELECT of the function that a CALL of Orochi's API calls: PostgreSQL, for which it is no procedure, knows that."""
    call = statement.tree
    if not isinstance(call, ast.CallStmt) or statement.kind is not parse.Kind.CALL:
        return None
    return f"SELECT {parse.deparse_expression(call.funccall)}"


def plan(statement: parse.Statement) -> TargetCalls | FromCall | Lookups:
    """Where the calls are, and the statement that collects them.

    Raises:
        FeatureNotSupported: a call stands where it cannot be executed once for each row.
    """
    node = statement.tree
    if isinstance(node, ast.CallStmt):
        return FromCall(_collect(node.funccall), _name(node.funccall), None)
    calls = [item for item in tree.walk(node) if _is_call(item)]
    in_from = _from_call(node)
    if in_from is not None and len(calls) == 1:
        return FromCall(_collect(in_from), _name(in_from), node)
    if len(calls) == 1 and (inside := _inside(node, calls[0])) is not None:
        return inside
    if (lookups := _lookups(node, calls)) is not None:
        return lookups
    positions = [
        (at, _name(target.val)) for at, target in enumerate(node.targetList or ()) if _is_call(target.val)
    ]
    if node.op.name != "SETOP_NONE" or len(positions) != len(calls) or _has_star(node, positions):
        raise not_here(node)
    for clause, what in ((node.groupClause, "GROUP BY"), (node.distinctClause, "DISTINCT")):
        if clause:
            raise errors.FeatureNotSupported(f"{_name(calls[0])}() cannot be called with {what}", hint=_HINT)
    targets = tuple(
        tree.changed(target, val=_twin(target.val)) if any(at == index for at, _ in positions) else target
        for index, target in enumerate(node.targetList)
    )
    return TargetCalls(_deparse(tree.changed(node, targetList=targets)), tuple(positions))


def not_here(node: tree.Node) -> errors.FeatureNotSupported:
    """The error for a statement whose first call stands where none can."""
    name = next(_name(item) for item in tree.walk(node) if _is_call(item))
    return errors.FeatureNotSupported(f"{name}() cannot be called here", hint=_HINT)


_FUNCTION_SELECT = parse.parse_one("SELECT * FROM f()").tree
_FUNCTION = _FUNCTION_SELECT.fromClause
_CLAUSES = (
    "groupClause",
    "distinctClause",
    "havingClause",
    "sortClause",
    "windowClause",
    "limitCount",
    "limitOffset",
)


def _inside(node: tree.Node, call: tree.Node) -> FromCall | None:
    """A call inside expressions of the target list that read nothing else: they are computed of its results."""
    name = _name(call)
    if (
        node.op.name != "SETOP_NONE"
        or api.result_columns(name) is not None
        or api.result_type(name) == "void"
    ):
        return None
    if any(target.val is call for target in node.targetList or ()):
        return None
    if any(getattr(node, clause) for clause in _CLAUSES):
        return None

    def replace(part: tree.Node) -> tree.Node | None:
        return tree.column(name) if part is call else None

    targets = tree.transform(node.targetList or (), replace)
    read: list[tree.Node] = [
        part for part in tree.walk(targets) if isinstance(part, (ast.ColumnRef, ast.SubLink))
    ]
    if len(read) != 1 or read[0] != tree.column(name):
        return None
    collected = tree.changed(node, targetList=(ast.ResTarget(val=_twin(call)),))
    outer = tree.changed(node, targetList=targets, fromClause=_FUNCTION, whereClause=None, withClause=None)
    return FromCall(_deparse(collected), name, outer)


def _lookups(node: tree.Node, calls: Sequence[tree.Node]) -> Lookups | None:
    """The calls, if all of them are of one function that only reads, outside of FROM and of what is nested."""
    called = {_name(call) for call in calls}
    if len(called) != 1 or not called <= api.READING or node.op.name != "SETOP_NONE":
        return None
    own = [
        item
        for clause in (
            "targetList",
            "whereClause",
            "groupClause",
            "havingClause",
            "sortClause",
            "distinctClause",
        )
        for item in tree.walk(getattr(node, clause) or (), stop=(ast.SelectStmt,))
        if _is_call(item)
    ]
    if len(own) != len(calls) or any(_is_call(item) for call in own for item in tree.walk(call.args or ())):
        return None
    terms = tree.conjuncts(node.whereClause)
    where = tree.conjunction(tuple(term for term in terms if not any(map(_is_call, tree.walk(term)))))
    bare = tree.changed(
        node, whereClause=where, limitOption=_FUNCTION_SELECT.limitOption, **dict.fromkeys(_CLAUSES)
    )
    collected = [_deparse(tree.changed(bare, targetList=(ast.ResTarget(val=_twin(call)),))) for call in own]
    return Lookups(" UNION ".join(f"({sql})" for sql in collected), called.pop(), tuple(own), node)


def with_results(plan: Lookups, results: Sequence[tuple[str, str | None]]) -> str:
    """The statement of `plan` with a lookup in each call's place; `results` are (the call's JSON, its result)."""
    kind = api.result_type(plan.function)
    listed = ", ".join(f"({_literal(call)}, {_literal(result)})" for call, result in results)
    rows = f"(VALUES {listed})" if listed else "(SELECT NULL::text, NULL::text WHERE false)"

    def lookup(call: tree.Node) -> tree.Node:
        key = parse.deparse_expression(_twin(call))
        found = f"(SELECT r::{kind} FROM {rows} AS calls (c, r) WHERE c = {key}::text)"
        return parse.parse_one(f"SELECT {found}").tree.targetList[0].val

    return _deparse(
        tree.transform(plan.tree, lambda part: next((lookup(c) for c in plan.calls if part is c), None))
    )


def with_rows(call: FromCall, rows: Sequence[Sequence[str | None]]) -> str:
    """The statement of `call` reading its results instead of calling the function."""
    assert call.tree is not None
    alias: tree.Node = call.tree.fromClause[0].alias or ast.Alias(aliasname=call.function)
    # the column of a function that returns a plain type is named by the alias
    plain = ((str(alias.aliasname), api.result_type(call.function)),)
    columns = api.result_columns(call.function, len(rows[0]) if rows else None) or plain
    select = parse.parse_one(values(columns, rows)).tree
    replaced = ast.RangeSubselect(lateral=False, subquery=select, alias=alias)
    return _deparse(tree.changed(call.tree, fromClause=(replaced,)))


def values(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str | None]]) -> str:
    """A SELECT of the rows, given as text; `columns` are names and types, `void` left as text."""
    casts = ", ".join(
        f"v{at}{'' if kind == 'void' else f'::text::{kind}'} AS {quoting.identifier(name)}"
        for at, (name, kind) in enumerate(columns)
    )
    names = ", ".join(f"v{at}" for at in range(len(columns)))
    if not rows:
        nulls = ", ".join(f"NULL::text AS v{at}" for at in range(len(columns)))
        return f"SELECT {casts} FROM (SELECT {nulls}) AS rows WHERE false"
    listed = ", ".join(f"({', '.join(_literal(value) for value in row)})" for row in rows)
    return f"SELECT {casts} FROM (VALUES {listed}) AS rows ({names})"


def _literal(value: str | None) -> str:
    return "NULL" if value is None else "'" + value.replace("'", "''") + "'"


def _from_call(node: tree.Node) -> tree.Node | None:
    """The FuncCall that is the only item of FROM, if it is Orochi's."""
    items: tuple[tree.Node, ...] = node.fromClause or ()
    item: tree.Node = items[0] if len(items) == 1 else None
    if type(item).__name__ != "RangeFunction" or item.ordinality or len(item.functions) != 1:
        return None
    call: tree.Node = item.functions[0][0]
    return call if _is_call(call) else None


def _has_star(node: tree.Node, positions: Sequence[tuple[int, str]]) -> bool:
    """Whether a star before a call makes its output position unknown."""
    last = max((at for at, _ in positions), default=-1)
    before: tuple[tree.Node, ...] = (node.targetList or ())[: max(last, 0)]
    return any(type(t.val).__name__ == "ColumnRef" and not tree.is_column(t.val) for t in before)


def _is_call(node: tree.Node) -> bool:
    return type(node).__name__ == "FuncCall" and parse.is_api_call(node)


def _name(call: tree.Node) -> str:
    return tree.strings(call.funcname)[-1]


def _twin(call: tree.Node) -> tree.Node:
    return tree.changed(call, funcname=tree.names("orochi", api.twin(_name(call))))


def _collect(call: tree.Node) -> str:
    return f"SELECT {parse.deparse_expression(_twin(call))}"


def _deparse(node: tree.Node) -> str:
    try:
        return parse.deparse(node)
    except parse.CannotDeparse as error:
        raise errors.FeatureNotSupported(
            "this form of calling an Orochi function is not supported", hint=_HINT
        ) from error

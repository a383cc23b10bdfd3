"""Expressions in the vectorised engine's SQL, each of a type that both engines agree on."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Protocol

from orochi import pgtypes
from orochi.planner import literals, prepare, safety, tree, vector_compare
from orochi.planner import vector_values as values
from orochi.planner.tree import ast
from orochi.planner.vector_values import Kind, NotVectorised, Value

AGGREGATES = frozenset({"count", "sum", "min", "max", "bool_and", "bool_or", "every"})
_ARITHMETIC = frozenset({"+", "-", "*"})
#: A text or a whole number, and nothing after it.
_LITERAL = re.compile(r"'(?:[^']|'')*'|-?[0-9]+")
_LIKE = {"~~": "LIKE", "!~~": "NOT LIKE"}
#: Parts of a date or timestamp that both engines count alike, in years after Christ.
_FIELDS = frozenset({"year", "quarter", "month", "day", "doy"})


class Select(Protocol):
    """Writes a sub-SELECT."""

    def __call__(
        self, stmt: tree.Node, outer: Scope | None, *, shown: bool = False, exists: bool = False
    ) -> tuple[str, list[Value]]:
        """Its SQL and its columns."""


@dataclasses.dataclass(slots=True)
class Scope:
    """The columns that names mean, by alias of their relation."""

    relations: dict[str, Mapping[str, Value]]
    outer: Scope | None

    def has(self, name: str) -> bool:
        """Whether a bare name is a column here."""
        return any(name in columns for columns in self.relations.values())

    def find(self, parts: tuple[str, ...]) -> Value:
        """The column of `name` or `alias.name`, here or further out."""
        scope: Scope | None = self
        while scope is not None:
            if len(parts) == 1:
                found = [columns[parts[0]] for columns in scope.relations.values() if parts[0] in columns]
                if len(found) > 1:
                    raise NotVectorised
                if found:
                    return found[0]
            elif len(parts) == 2 and parts[0] in scope.relations:
                if parts[1] not in scope.relations[parts[0]]:
                    raise NotVectorised
                return scope.relations[parts[0]][parts[1]]
            scope = scope.outer
        raise NotVectorised


class Writer:
    """Writes expressions; everything it does not know raises NotVectorised."""

    def __init__(self, prepared: prepare.Prepared, select: Select) -> None:
        self._prepared = prepared
        self._select = select
        self._zone = prepared.ctx.zone
        self._nodes: dict[type, Callable[[tree.Node, Scope, bool], Value]] = {
            ast.ColumnRef: self._column,
            ast.A_Expr: self._operator,
            ast.BoolExpr: self._logic,
            ast.NullTest: self._null_test,
            ast.CaseExpr: self._case,
            ast.CoalesceExpr: self._coalesce,
            ast.FuncCall: self._call,
            ast.SubLink: self._sublink,
            ast.TypeCast: self._cast,
        }

    def value(self, node: tree.Node, scope: Scope, *, aggregates: bool = False) -> Value:
        """An expression.

        Args:
            node: its tree.
            scope: what columns mean.
            aggregates: aggregate calls may stand in it.
        """
        found = self._constant(node)
        if found is not None:
            return found
        make = self._nodes.get(type(node))
        if make is None:
            raise NotVectorised
        return make(node, scope, aggregates)

    def condition(self, node: tree.Node, scope: Scope, *, aggregates: bool = False) -> str:
        """A condition, in parentheses."""
        found = self.value(node, scope, aggregates=aggregates)
        if found.kind is not Kind.BOOLEAN:
            raise NotVectorised
        return f"({found.sql})"

    def aggregates(self, stmt: tree.Node) -> bool:
        """Whether a SELECT may have aggregate calls of its own."""
        return any(isinstance(part, ast.FuncCall) for part in tree.walk(stmt.targetList or ()))

    def _constant(self, node: tree.Node) -> Value | None:
        found = literals.constant(node)
        if found is None and isinstance(node, (ast.A_Expr, ast.FuncCall, ast.TypeCast)):
            reads = any(isinstance(part, (ast.ColumnRef, ast.SubLink)) for part in tree.walk(node))
            if not reads and safety.is_foldable(node, self._prepared.ctx.builtins):
                found = self._prepared.analysis.constant(node)
        return None if found is None else values.constant(found)

    def _column(self, node: tree.Node, scope: Scope, _aggregates: bool) -> Value:
        if not tree.is_column(node):
            raise NotVectorised
        return scope.find(tree.strings(node.fields))

    # -- operators

    def _operator(self, node: tree.Node, scope: Scope, aggregates: bool) -> Value:
        kind = node.kind.name
        if kind in ("AEXPR_BETWEEN", "AEXPR_NOT_BETWEEN"):
            one = self.value(node.lexpr, scope, aggregates=aggregates)
            ends = [self.value(item, scope, aggregates=aggregates) for item in node.rexpr]
            tests = [self._compared(name, one, end) for name, end in zip((">=", "<="), ends, strict=True)]
            return _boolean(f"({'NOT ' if 'NOT' in kind else ''}({' AND '.join(tests)}))")
        if kind == "AEXPR_IN":
            return self._in(node, scope, aggregates)
        if kind == "AEXPR_LIKE":
            return self._like(node, scope)
        if kind != "AEXPR_OP":
            raise NotVectorised
        parts = tree.strings(node.name)
        name = parts[-1]
        if len(parts) > 1 and parts[0] != "pg_catalog":
            raise NotVectorised
        right = self.value(node.rexpr, scope, aggregates=aggregates)
        if node.lexpr is None:
            if name != "-":
                raise NotVectorised
            return values.negative(right)
        left = self.value(node.lexpr, scope, aggregates=aggregates)
        if name in vector_compare.NAMES:
            return _boolean(self._compared(name, left, right))
        if name in _ARITHMETIC:
            return values.arithmetic(name, left, right)
        raise NotVectorised

    def _compared(self, name: str, left: Value, right: Value) -> str:
        return vector_compare.compare(name, left, right, self._zone)

    def _in(self, node: tree.Node, scope: Scope, aggregates: bool) -> Value:
        one = self.value(node.lexpr, scope, aggregates=aggregates)
        tests = [self._compared("=", one, self.value(item, scope)) for item in node.rexpr]
        negated = tree.strings(node.name) == ("<>",)
        if not negated and tree.strings(node.name) != ("=",):
            raise NotVectorised
        same = f"({one.sql} = "
        listed = [test[len(same) : -1] for test in tests if test.startswith(same)]
        if len(listed) == len(tests) and all(map(_LITERAL.fullmatch, listed)):
            # an expression is then computed once
            return _boolean(f"({one.sql} {'NOT ' if negated else ''}IN ({', '.join(listed)}))")
        return _boolean(f"({'NOT ' if negated else ''}({' OR '.join(tests)}))")

    def _like(self, node: tree.Node, scope: Scope) -> Value:
        word = _LIKE.get(tree.strings(node.name)[-1])
        one, pattern = self.value(node.lexpr, scope), self._constant(node.rexpr)
        if word is None or pattern is None or one.kind not in (Kind.TEXT, Kind.PADDED):
            raise NotVectorised
        given = pattern.constant
        if given is None or given.text is None or given.oid not in (pgtypes.UNKNOWN, pgtypes.TEXT):
            raise NotVectorised
        if "\\" in given.text:  # a quoted character, which the engine knows only with ESCAPE
            raise NotVectorised
        return _boolean(f"({one.sql} {word} {values.text(given.text)})")

    def _logic(self, node: tree.Node, scope: Scope, aggregates: bool) -> Value:
        parts = [self.condition(item, scope, aggregates=aggregates) for item in node.args]
        if node.boolop.name == "NOT_EXPR":
            return _boolean(f"(NOT {parts[0]})")
        word = " AND " if node.boolop.name == "AND_EXPR" else " OR "
        return _boolean(f"({word.join(parts)})")

    def _null_test(self, node: tree.Node, scope: Scope, aggregates: bool) -> Value:
        found = self.value(node.arg, scope, aggregates=aggregates)
        if found.kind is Kind.UNKNOWN or node.argisrow:
            raise NotVectorised
        return _boolean(f"({found.sql} IS {'NULL' if node.nulltesttype.name == 'IS_NULL' else 'NOT NULL'})")

    # -- CASE and its like

    def _case(self, node: tree.Node, scope: Scope, aggregates: bool) -> Value:
        tests = []
        for item in node.args:
            if node.arg is None:
                tests.append(self.condition(item.expr, scope, aggregates=aggregates))
            else:
                subject = self.value(node.arg, scope, aggregates=aggregates)
                tests.append(self._compared("=", subject, self.value(item.expr, scope)))
        branches = [self.value(item.result, scope, aggregates=aggregates) for item in node.args]
        if node.defresult is not None:
            branches.append(self.value(node.defresult, scope, aggregates=aggregates))
        target = values.unified(branches, tests)
        listed = [values.cast(branch, target) for branch in branches]
        pairs = " ".join(f"WHEN {test} THEN {branch}" for test, branch in zip(tests, listed, strict=False))
        rest = f" ELSE {listed[-1]}" if node.defresult is not None else ""
        return dataclasses.replace(target, sql=f"(CASE {pairs}{rest} END)")

    def _coalesce(self, node: tree.Node, scope: Scope, aggregates: bool) -> Value:
        branches = [self.value(item, scope, aggregates=aggregates) for item in node.args]
        target = values.unified(branches, [])
        return dataclasses.replace(
            target, sql=f"coalesce({', '.join(values.cast(branch, target) for branch in branches)})"
        )

    def _cast(self, node: tree.Node, scope: Scope, aggregates: bool) -> Value:
        """Casts that change nothing but the type: to a wider integer, and of one to numeric."""
        found, oid = self.value(node.arg, scope, aggregates=aggregates), literals.type_oid(node.typeName)
        if found.kind is Kind.INTEGER and oid == pgtypes.NUMERIC:
            return values.as_decimal(found)
        if found.kind is Kind.INTEGER and oid in pgtypes.INTEGERS:
            return Value(values.cast(found, Value("", Kind.INTEGER, oid)), Kind.INTEGER, oid)
        if found.kind is Kind.DECIMAL and oid == pgtypes.NUMERIC:
            return found
        raise NotVectorised

    # -- calls

    def _call(self, node: tree.Node, scope: Scope, aggregates: bool) -> Value:
        parts = tree.strings(node.funcname)
        if (len(parts) > 1 and parts[0] != "pg_catalog") or node.over is not None or node.func_variadic:
            raise NotVectorised
        if parts[-1] in AGGREGATES:
            if not aggregates:
                raise NotVectorised
            return self._aggregate(node, parts[-1], scope)
        if node.agg_filter is not None or node.agg_distinct or node.agg_order or node.agg_star:
            raise NotVectorised
        if parts[-1] == "extract" and len(node.args) == 2:
            return self._extract(node, scope, aggregates)
        if parts[-1] in ("substring", "substr") and len(node.args) == 3:
            return self._substring(node, scope, aggregates)
        raise NotVectorised

    def _extract(self, node: tree.Node, scope: Scope, aggregates: bool) -> Value:
        field = literals.constant(node.args[0])
        source = self.value(node.args[1], scope, aggregates=aggregates)
        if field is None or field.text is None or field.text.lower() not in _FIELDS:
            raise NotVectorised
        if source.kind is not Kind.TIME or source.oid not in (pgtypes.DATE, pgtypes.TIMESTAMP):
            raise NotVectorised
        # numeric without decimals, as from PostgreSQL 14 on
        sql = f"CAST(extract({field.text.lower()} FROM {source.sql}) AS DECIMAL(9, 0))"
        return Value(sql, Kind.DECIMAL, digits=9)

    def _substring(self, node: tree.Node, scope: Scope, aggregates: bool) -> Value:
        source = values.as_text(self.value(node.args[0], scope, aggregates=aggregates))
        numbers = [literals.constant(item) for item in node.args[1:]]
        ends = []
        for number in numbers:
            if number is None or number.oid != pgtypes.INT4 or number.text is None:
                raise NotVectorised
            ends.append(int(number.text))
        if ends[0] < 1 or ends[1] < 0:
            raise NotVectorised
        return Value(f"substring({source.sql}, {ends[0]}, {ends[1]})", Kind.TEXT, pgtypes.TEXT)

    def _aggregate(self, node: tree.Node, name: str, scope: Scope) -> Value:
        if node.agg_order or node.agg_within_group or len(node.args or ()) > 1:
            raise NotVectorised
        kept = (
            f" FILTER (WHERE {self.condition(node.agg_filter, scope)})" if node.agg_filter is not None else ""
        )
        if not node.args:
            if name != "count" or not node.agg_star:
                raise NotVectorised
            return Value(f"count(*){kept}", Kind.INTEGER, pgtypes.INT8)
        self._refuse_outer(node.args[0], scope)
        argument = self.value(node.args[0], scope)
        distinct = "DISTINCT " if node.agg_distinct else ""
        if node.agg_distinct and argument.kind not in values.GROUPED:
            raise NotVectorised
        if argument.kind is Kind.UNKNOWN:
            if name != "count" or argument.constant is None or argument.constant.text is None:
                raise NotVectorised
            return Value(f"count(*){kept}", Kind.INTEGER, pgtypes.INT8)
        if name == "count":
            return Value(f"count({distinct}{argument.sql}){kept}", Kind.INTEGER, pgtypes.INT8)
        return _reduced(name, distinct, argument, kept, bytewise=self._zone.bytewise)

    def _refuse_outer(self, node: tree.Node, scope: Scope) -> None:
        """An aggregate of nothing but columns from outside belongs to the query that they are from."""
        columns = [part for part in tree.walk(node) if isinstance(part, ast.ColumnRef)]
        own = Scope(scope.relations, None)
        for part in columns:
            with contextlib.suppress(NotVectorised):
                own.find(tree.strings(part.fields))
                return
        if columns:
            raise NotVectorised

    # -- sub-SELECTs

    def _sublink(self, node: tree.Node, scope: Scope, _aggregates: bool) -> Value:
        kind = node.subLinkType.name
        if kind == "EXISTS_SUBLINK":
            sql, _ = self._select(node.subselect, scope, exists=True)
            return _boolean(f"EXISTS ({sql})")
        sql, columns = self._select(node.subselect, scope)
        if len(columns) != 1:
            raise NotVectorised
        if kind == "EXPR_SUBLINK":
            return dataclasses.replace(columns[0], sql=f"({sql})", constant=None)
        if kind != "ANY_SUBLINK" or node.operName is not None:
            raise NotVectorised
        one = self.value(node.testexpr, scope)
        if not (_alike(one, columns[0]) or {one.kind, columns[0].kind} <= values.NUMBERS):
            raise NotVectorised
        return _boolean(f"({one.sql} IN ({sql}))")


def _alike(one: Value, other: Value) -> bool:
    if one.kind is not other.kind:
        return False
    if one.kind is Kind.PADDED:
        return one.digits == other.digits
    return one.kind is Kind.TEXT or (one.kind in (Kind.TIME, Kind.BOOLEAN) and one.oid == other.oid)


def _boolean(sql: str) -> Value:
    return Value(sql, Kind.BOOLEAN, pgtypes.BOOL)


def _reduced(name: str, distinct: str, argument: Value, kept: str, *, bytewise: bool) -> Value:
    """Aggregates of a value other than count."""
    call = f"{'bool_and' if name == 'every' else name}({distinct}{argument.sql}){kept}"
    if name in ("bool_and", "bool_or", "every"):
        if argument.kind is not Kind.BOOLEAN:
            raise NotVectorised
        return _boolean(call)
    if name == "sum":
        if argument.kind is Kind.INTEGER:
            if argument.oid == pgtypes.INT8:
                return Value(f"CAST({call} AS DECIMAL(38, 0))", Kind.DECIMAL, digits=38)
            return Value(f"CAST({call} AS BIGINT)", Kind.INTEGER, pgtypes.INT8)
        if argument.kind is not Kind.DECIMAL or (argument.row_scale and distinct):
            raise NotVectorised
        # the scale of a sum is the greatest of what was added
        scale = f"max(CASE WHEN {argument.sql} IS NOT NULL THEN {argument.row_scale} END){kept}"
        return Value(
            call,
            Kind.DECIMAL,
            digits=38,
            scale=argument.scale,
            row_scale=scale if argument.row_scale else None,
        )
    sorted_kinds = values.EXACT | {Kind.TIME} | ({Kind.TEXT} if bytewise else set())
    if argument.kind not in sorted_kinds or argument.row_scale:
        raise NotVectorised
    return dataclasses.replace(argument, sql=call, constant=None)


def with_scale(value: Value) -> str:
    """A decimal whose rows have scales of their own, as text with just so many decimals."""
    cases = " ".join(
        f"WHEN {scale} THEN CAST(CAST({value.sql} AS DECIMAL(38, {scale})) AS VARCHAR)"
        for scale in range(value.scale + 1)
    )
    return f"(CASE {value.row_scale} {cases} END)"

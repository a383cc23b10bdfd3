"""A whole fragment in the vectorised engine's SQL: joins, sub-SELECTs, expressions, groups.

Made of the fragment's own tree over its scans, name by name and type by type; whatever is not known to
answer as PostgreSQL does leaves the fragment to PostgreSQL. Relations get names of ours, so that no
identifier of the user's can mean another thing, and columns of scans are the only names kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from orochi.planner import prepare, pull, scans, staged, tree, vector_expressions
from orochi.planner import vector_values as values
from orochi.planner.tree import ast
from orochi.planner.vector_expressions import Scope
from orochi.planner.vector_values import Kind, NotVectorised, Value

_JOINS = {
    "JOIN_INNER": "JOIN",
    "JOIN_LEFT": "LEFT JOIN",
    "JOIN_RIGHT": "RIGHT JOIN",
    "JOIN_FULL": "FULL JOIN",
}
_SORTED = values.EXACT | {Kind.TEXT, Kind.TIME}


def fragment(
    prepared: prepare.Prepared,
    body: tree.Node,
    order: Sequence[tuple[int, str, str]] = (),
    top: int | None = None,
) -> str | None:
    """The fragment as SQL of the engine; None if a part of it has no such form.

    Args:
        prepared: the statement.
        body: the fragment's SELECT over its scans (`pieces.over_scans`).
        order: how it is sorted: position of the column, collation, words.
        top: how many rows suffice.
    """
    if not prepared.ctx.vectorized or any(item.sampled for item in prepared.references):
        return None
    try:
        sql, columns = _Query(prepared).select(body, None, shown=True)
        if top is None:
            return sql
        sorted_by = [
            _sort_key(prepared, columns[position], position, collation, words)
            for position, collation, words in order
        ]
        tail = f" ORDER BY {', '.join(sorted_by)}" if sorted_by else ""
        return f"{sql}{tail} LIMIT {top}"
    except NotVectorised:
        return None


def _sort_key(prepared: prepare.Prepared, column: Value, position: int, collation: str, words: str) -> str:
    if collation or column.kind not in _SORTED or column.row_scale:
        raise NotVectorised
    if column.kind is Kind.TEXT and not prepared.ctx.bytewise:
        raise NotVectorised
    descending = " DESC" in words
    nulls = "FIRST" if "NULLS FIRST" in words or (descending and "NULLS LAST" not in words) else "LAST"
    return f"{position + 1} {'DESC' if descending else 'ASC'} NULLS {nulls}"


class _Query:
    """Writes one statement."""

    def __init__(self, prepared: prepare.Prepared) -> None:
        self._prepared = prepared
        self._count = 0
        self._scans: dict[str, Mapping[str, Value]] = {}
        used = pull.used_columns(prepared)
        names = scans.scan_names(len(prepared.references))
        for name, reference in zip(names, prepared.references, strict=True):
            table = reference.table
            columns = table.columns if staged.is_stage(table) else used[id(reference)]
            if reference.renamed or len({column.name.lower() for column in columns}) < len(columns):
                raise NotVectorised
            found = {}
            for column in columns:
                if column.type_oid != column.base_oid or column.collation is not None:
                    raise NotVectorised
                found[column.name] = values.column(_quoted(column.name), column.base_oid, column.typmod)
            self._scans[name] = found
        self.expressions = vector_expressions.Writer(prepared, self.select)

    def select(
        self, stmt: tree.Node, outer: Scope | None, *, shown: bool = False, exists: bool = False
    ) -> tuple[str, list[Value]]:
        """A SELECT, its columns called c0, c1, ...

        Args:
            stmt: the statement.
            outer: what it may refer to outside.
            shown: its rows are the fragment's.
            exists: only whether it has rows matters.
        """
        self._refuse(stmt)
        scope = Scope({}, outer)
        listed = ", ".join(self._item(item, scope) for item in stmt.fromClause)
        writer = self.expressions
        text = f" FROM {listed}"
        if stmt.whereClause is not None:
            text += f" WHERE {writer.condition(stmt.whereClause, scope)}"
        if exists and not stmt.groupClause and stmt.havingClause is None and not writer.aggregates(stmt):
            return f"SELECT 1{text}", []
        targets = [writer.value(item.val, scope, aggregates=True) for item in stmt.targetList or ()]
        if not targets or any(value.kind is Kind.UNKNOWN for value in targets):
            raise NotVectorised
        grouped = [writer.value(self._group(item, stmt, scope), scope) for item in stmt.groupClause or ()]
        if any(value.kind not in values.GROUPED or value.row_scale for value in grouped):
            raise NotVectorised
        if stmt.distinctClause and any(
            value.kind not in values.GROUPED or value.row_scale for value in targets
        ):
            raise NotVectorised
        if grouped:
            text += f" GROUP BY {', '.join(value.sql for value in grouped)}"
        if stmt.havingClause is not None:
            text += f" HAVING {writer.condition(stmt.havingClause, scope, aggregates=True)}"
        outputs = [_shown(value) for value in targets] if shown else [_inner(value) for value in targets]
        columns = ", ".join(f"{sql} AS c{index}" for index, sql in enumerate(outputs))
        return f"SELECT {'DISTINCT ' if stmt.distinctClause else ''}{columns}{text}", targets

    def _refuse(self, stmt: tree.Node) -> None:
        """What no SELECT here may have."""
        if not isinstance(stmt, ast.SelectStmt) or stmt.larg is not None or not stmt.fromClause:
            raise NotVectorised
        if stmt.withClause or stmt.windowClause or stmt.valuesLists or stmt.sortClause or stmt.lockingClause:
            raise NotVectorised
        if stmt.limitCount is not None or stmt.limitOffset is not None or stmt.groupDistinct:
            raise NotVectorised
        if any(item is not None for item in stmt.distinctClause or ()):
            raise NotVectorised

    def _group(self, item: tree.Node, stmt: tree.Node, scope: Scope) -> tree.Node:
        """What an item of GROUP BY stands for: a column comes before the name of an output."""
        if isinstance(item, ast.A_Const) and isinstance(item.val, ast.Integer):
            position = item.val.ival or 0
            if not 0 < position <= len(stmt.targetList):
                raise NotVectorised
            return stmt.targetList[position - 1].val
        if tree.is_column(item) and len(item.fields) == 1:
            (name,) = tree.strings(item.fields)
            if not scope.has(name):
                found = [target.val for target in stmt.targetList if target.name == name]
                if len(found) == 1:
                    return found[0]
        return item

    # -- FROM

    def _item(self, node: tree.Node, scope: Scope) -> str:
        if isinstance(node, ast.RangeVar):
            columns = self._scans.get(node.relname) if not node.schemaname else None
            if columns is None or (node.alias is not None and node.alias.colnames):
                raise NotVectorised
            return f"{node.relname} AS {self._added(_alias(node) or node.relname, columns, scope)}"
        if isinstance(node, ast.RangeSubselect) and not node.lateral and node.alias is not None:
            return self._subselect(node, scope)
        if isinstance(node, ast.JoinExpr) and not (node.isNatural or node.usingClause or node.alias):
            word = _JOINS.get(node.jointype.name)
            if word is None or node.quals is None:
                raise NotVectorised
            left, right = self._item(node.larg, scope), self._item(node.rarg, scope)
            return f"({left} {word} {right} ON {self.expressions.condition(node.quals, scope)})"
        raise NotVectorised

    def _subselect(self, node: tree.Node, scope: Scope) -> str:
        sql, targets = self.select(node.subquery, scope.outer)
        labels = [_label(item) for item in node.subquery.targetList]
        given = tree.strings(node.alias.colnames)
        labels[: len(given)] = given
        if len(set(labels)) < len(labels):
            raise NotVectorised
        columns = {
            label: dataclasses.replace(value, sql=f"c{index}", constant=None)
            for index, (label, value) in enumerate(zip(labels, targets, strict=True))
        }
        return f"({sql}) AS {self._added(node.alias.aliasname, columns, scope)}"

    def _added(self, alias: str, columns: Mapping[str, Value], scope: Scope) -> str:
        name = f"t{self._count}"
        self._count += 1
        if alias in scope.relations:
            raise NotVectorised
        scope.relations[alias] = {
            key: dataclasses.replace(value, sql=f"{name}.{value.sql}") for key, value in columns.items()
        }
        return name


def _label(target: tree.Node) -> str:
    """The name of an output column."""
    if target.name:
        return str(target.name)
    if tree.is_column(target.val):
        return tree.strings(target.val.fields)[-1]
    if isinstance(target.val, ast.FuncCall):
        return tree.strings(target.val.funcname)[-1]
    raise NotVectorised


def _alias(node: tree.Node) -> str | None:
    return node.alias.aliasname if node.alias is not None else None


def _shown(value: Value) -> str:
    """An output of the fragment, with the display scale of each of its values."""
    if value.kind not in values.SHOWN:
        raise NotVectorised
    if value.row_scale is None:
        return value.sql
    return vector_expressions.with_scale(value)


def _inner(value: Value) -> str:
    if value.row_scale is not None:
        raise NotVectorised
    return value.sql


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

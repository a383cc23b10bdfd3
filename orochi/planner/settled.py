"""Conditions that stages apply to the rows they give: the rest of the statement need not repeat them.

A condition about one table alone filters its rows before they are moved only where that is the same as filtering
later. So in the statement that reads the stage it holds of every row, and columns that only it names stay behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orochi.planner import names, prepare, pull, tree
from orochi.planner.tree import ast


def terms(moved: Iterable[names.Reference], prepared: prepare.Prepared) -> frozenset[int]:
    """The ids of the conditions that can be left out once the stages of `moved` have applied them."""
    joined = _joined(prepared.statement.tree)
    if "*" in joined:  # NATURAL: any column may be
        return frozenset()
    found = {
        id(term)
        for reference in moved
        for term, level, _ in pull.own_conditions(reference, prepared)
        if any(item is reference for item in level.references) and joined.isdisjoint(_names(term))
    }
    removable: set[int] = set()
    for node in tree.walk(prepared.statement.tree):
        if isinstance(node, ast.SelectStmt) and id(node.whereClause) in found:
            removable.add(id(node.whereClause))
        elif _is_and(node):
            own = [id(item) for item in node.args if id(item) in found]
            # one stays where there is nothing else: ON must have a condition
            removable.update(own if len(own) < len(node.args) else own[1:])
    return frozenset(removable)


def implied(reference: names.Reference, prepared: prepare.Prepared) -> list[str]:
    """What ORs about several tables say of this one in each of their cases, as SQL over its bare columns.

    A row for which that does not hold matters to none of the cases. The OR itself still has to be asked.
    """
    found = []
    for term, level in prepared.analysis.filters(reference):
        if not isinstance(term, ast.BoolExpr) or term.boolop.name != "OR_EXPR":
            continue
        if pull.is_own(term, level, reference, prepared):
            continue
        cases = [
            tree.conjunction(
                tuple(part for part in tree.conjuncts(case) if pull.is_own(part, level, reference, prepared))
            )
            for case in term.args
        ]
        if all(cases):
            found.append((tree.changed(term, args=tuple(cases)), level))
    return [sql for _, _, sql in pull.as_sql(found, reference, prepared)]


def _joined(node: tree.Node) -> set[str]:
    """Names of columns that are compared with others: what is known of them prunes shards of other tables."""
    found: set[str] = set()
    for part in tree.walk(node):
        if isinstance(part, ast.JoinExpr):
            found.update(tree.strings(part.usingClause))
            if part.isNatural:
                found.add("*")
        elif isinstance(part, ast.SubLink) and part.testexpr is not None:
            found |= _names(part.testexpr)
        elif isinstance(part, ast.A_Expr):
            left, right = _names(part.lexpr), _names(part.rexpr)
            found |= left | right if left and right else set()
    return found


def _names(node: tree.Node) -> set[str]:
    return {tree.strings(part.fields)[-1] for part in tree.walk(node) if isinstance(part, ast.ColumnRef)}


def columns(gone: frozenset[int], prepared: prepare.Prepared) -> frozenset[int]:
    """The ids of the column references in these conditions."""
    return frozenset(
        id(part)
        for node in tree.walk(prepared.statement.tree)
        if id(node) in gone
        for part in tree.walk(node)
        if isinstance(part, ast.ColumnRef)
    )


def without(node: tree.Node, gone: frozenset[int], replaced: Mapping[int, tree.Node]) -> tree.Node:
    """`node` less the conditions that are `gone`, and with the nodes of other ids replaced."""

    def change(part: tree.Node) -> tree.Node | None:
        if id(part) in replaced:
            return replaced[id(part)]
        if isinstance(part, ast.SelectStmt) and part.whereClause is not None and id(part.whereClause) in gone:
            return tree.transform(tree.changed(part, whereClause=None), change)
        if _is_and(part) and any(id(item) in gone for item in part.args):
            left = tuple(tree.transform(item, change) for item in part.args if id(item) not in gone)
            return left[0] if len(left) == 1 else tree.changed(part, args=left)
        return None

    return tree.transform(node, change)


def _is_and(node: tree.Node) -> bool:
    return isinstance(node, ast.BoolExpr) and node.boolop.name == "AND_EXPR"

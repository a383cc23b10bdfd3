"""Columns by name: which Orochi column a column reference means, through scopes and sub-SELECTs."""

from __future__ import annotations

from orochi.planner import continuous, labels, names, tree
from orochi.planner.tree import ast


def find_column(node: tree.Node, level: names.Level) -> tuple[names.Reference, str] | None:
    """The Orochi column that a plain column reference means; None if it is none, or not known."""
    parts = tree.strings(node.fields)
    if parts[-1] == "*":
        return None
    if len(parts) > 1:
        found = find_alias(parts[:-1], level)
        return None if found is None or parts[-1] not in found.visible else (found, found.visible[parts[-1]])
    current: names.Level | None = level
    while current is not None:
        if parts[0] in current.merged:
            return current.merged[parts[0]]
        hits = [item for item in current.references if parts[0] in item.visible and not item.hidden]
        if len(hits) == 1:
            return hits[0], hits[0].visible[parts[0]]
        if hits or any(isinstance(item, names.Other) for item in current.relations.values()):
            return None
        current = current.outer
    return None


def origin(node: tree.Node, level: names.Level) -> tuple[names.Reference, str] | None:
    """As `find_column`, but also through sub-SELECTs of FROM that hand a column on as it is."""
    found = find_column(node, level)
    parts = tree.strings(node.fields)
    if found is not None or parts[-1] == "*" or len(parts) > 2:
        return found
    current: names.Level | None = level
    while current is not None:
        for item in current.relations.values():
            if isinstance(item, names.Other) and (len(parts) == 1 or item.alias == parts[0]):
                inner = _handed_on(item, parts[-1])
                if inner is not None:
                    assert item.level is not None
                    return origin(inner, item.level)
                if len(parts) == 2:
                    return None
        if len(parts) == 1 and any(isinstance(item, names.Other) for item in current.relations.values()):
            return None
        current = current.outer
    return None


def _handed_on(item: names.Other, name: str) -> tree.Node | None:
    """The column reference inside a sub-SELECT of FROM whose value its output column `name` is."""
    if item.kind != "subquery" or item.level is None or not hands_on(item.level.stmt):
        return None
    targets = item.level.stmt.targetList or ()
    stars = [node for node in targets if labels.is_star(node)]
    renamed = tree.strings(item.node.alias.colnames) if item.node.alias is not None else ()
    if name in renamed:
        target = targets[renamed.index(name)] if not stars and len(renamed) <= len(targets) else None
        return target.val if target is not None and tree.is_column(target.val) else None
    found = [
        node
        for node in targets[len(renamed) :]
        if not labels.is_star(node) and labels.output_name(node) == name
    ]
    if renamed and stars:
        return None
    if len(found) == 1:
        return found[0].val if tree.is_column(found[0].val) else None
    for star in stars if not found else ():
        column = tree.column(*tree.strings(star.val.fields)[:-1], name)
        if _is_of(item.level, name) and origin(column, item.level) is not None:
            return column
    return None


def _is_of(level: names.Level, name: str) -> bool:
    """Whether a FROM item of the level itself has such a column: a star shows none of other levels."""
    return any(
        name in item.visible if isinstance(item, names.Reference) else _handed_on(item, name) is not None
        for item in level.relations.values()
    )


def of_parts(node: tree.Node, level: names.Level) -> tuple[names.Reference, str] | None:
    """The column of finished buckets that an output column of a continuous aggregate has the type of."""
    parts = tree.strings(node.fields)
    for item in level.relations.values():
        if not isinstance(item, names.Other) or item.kind != "subquery" or item.level is None:
            continue
        if len(parts) > 2 or (len(parts) == 2 and item.alias != parts[0]):
            continue
        if not item.level.arms or not continuous.is_of_parts(item.level.stmt) or item.node.alias is None:
            continue
        first = item.level.arms[0]
        shown = tree.strings(item.node.alias.colnames)
        if shown.count(parts[-1]) == 1 and len(shown) == len(first.stmt.targetList):
            return find_column(first.stmt.targetList[shown.index(parts[-1])].val, first)
    return None


def derived(node: tree.Node, level: names.Level) -> tuple[tree.Node, names.Level] | None:
    """The expression behind an output column of a sub-SELECT of FROM, and the level it stands in."""
    parts = tree.strings(node.fields)
    for item in level.relations.values():
        if not isinstance(item, names.Other) or item.kind != "subquery" or item.level is None:
            continue
        targets = item.level.stmt.targetList or ()
        if (len(parts) == 2 and item.alias != parts[0]) or len(parts) > 2 or item.level.stmt.larg is not None:
            continue
        renamed = item.node.alias is not None and item.node.alias.colnames
        if renamed or any(labels.is_star(target) for target in targets):
            continue
        found = [target.val for target in targets if labels.output_name(target) == parts[-1]]
        if len(found) == 1:
            return found[0], item.level
    return None


def hands_on(stmt: tree.Node) -> bool:
    """Whether output columns of a SELECT that are plain columns have the values of those columns."""
    grouped = stmt.groupClause or ()
    return stmt.larg is None and not any(isinstance(item, ast.GroupingSet) for item in grouped)


def find_alias(parts: tuple[str, ...], level: names.Level) -> names.Reference | None:
    """The Orochi table that the qualifier of a column reference means, or None."""
    current: names.Level | None = level
    while current is not None:
        for item in current.relations.values():
            if isinstance(item, names.Other):
                if len(parts) == 1 and item.alias == parts[0]:
                    return None
                continue
            if item.hidden:
                continue
            if len(parts) == 1 and item.alias == parts[0]:
                return item
            if (
                len(parts) > 1
                and item.node.alias is None
                and parts[-2:] == (item.table.schema, item.table.name)
            ):
                return item
        current = current.outer
    return None


def is_whole_row(node: tree.Node, level: names.Level) -> names.Reference | None:
    """The Orochi table whose whole row a column reference `t` or `t.*` means, or None."""
    parts = tree.strings(node.fields)
    if parts[-1] == "*":
        return find_alias(parts[:-1], level) if len(parts) > 1 else None
    if is_output_name(node, level.stmt):
        return None
    current: names.Level | None = level
    while current is not None:
        if any(parts[-1] in item.visible for item in current.references) and len(parts) == 1:
            return None
        current = current.outer
    return find_alias(parts, level)


def is_output_name(node: tree.Node, stmt: tree.Node) -> bool:
    """Whether a bare name is an item of ORDER BY, DISTINCT ON or GROUP BY that names an output column.

    There an output column comes before a table's whole row (findTargetlistEntrySQL92).
    """
    if not isinstance(stmt, ast.SelectStmt) or len(node.fields) != 1:
        return False
    items = [item.node for item in stmt.sortClause or ()]
    items += [item for part in (stmt.distinctClause, stmt.groupClause) for item in part or ()]
    if not any(item is node for item in items):
        return False
    while stmt.larg is not None:
        stmt = stmt.larg
    name = tree.strings(node.fields)[0]
    return any(
        not labels.is_star(target) and labels.output_name(target) == name for target in stmt.targetList or ()
    )

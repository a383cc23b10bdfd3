"""Walking and rebuilding parse trees, which are never changed in place: they are cached and shared.

pglast nodes carry their fields in `__slots__`; equality between nodes ignores source locations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from pglast import ast as typed_ast
from pglast import enums

#: A pglast node. Its attributes depend on its class, which type checkers cannot follow here.
Node: TypeAlias = Any

#: pglast's node classes. Their stubs make every attribute optional, which the grammar knows better.
ast: Any = typed_ast

#: How pglast puts a value into a node: checked, and made what it should be. Its parser's values are that already
#: (`tests/unit/planner/test_parse.py`), and so are ours; to check them takes most of the time of parsing.
checked_set: Callable[[Node, str, Any], None] = typed_ast.Node.__setattr__
del typed_ast.Node.__setattr__

_FIELDS: dict[type, tuple[str, ...]] = {}
_MEMBERS: dict[type, tuple[str, ...]] = {}


def fields(node: Node) -> tuple[str, ...]:
    """The names of the fields of `node` that can hold nodes."""
    kind = type(node)
    found = _FIELDS.get(kind)
    if found is None:
        found = _FIELDS[kind] = tuple(name for name, field in _slots(kind) if _holds_nodes(field.c_type))
    return found


def _slots(kind: type) -> Iterator[tuple[str, Any]]:
    for base in kind.__mro__:
        listed = base.__dict__.get("__slots__", {})
        yield from listed.items() if isinstance(listed, dict) else ()


def _holds_nodes(c_type: str) -> bool:
    return c_type.endswith("*") and c_type != "char*"


def walk(node: Node, stop: tuple[type, ...] = ()) -> Iterator[Node]:
    """`node` and all under it, parents first; a node of a class in `stop` is yielded but not entered."""
    stack = [node]
    while stack:
        current = stack.pop()
        if isinstance(current, tuple):
            stack.extend(current[::-1])
        elif isinstance(current, typed_ast.Node):
            yield current
            if stop and isinstance(current, stop):
                continue
            for name in fields(current)[::-1]:
                value = getattr(current, name)
                if value is not None:
                    stack.append(value)


def transform(node: Node, replace: Callable[[Node], Node | None]) -> Node:
    """A copy of `node` with parts replaced; unchanged parts are shared with the original.

    Args:
        node: a node or tuple of nodes.
        replace: given a node, answers its replacement, or None to look further down.
    """
    if isinstance(node, tuple):
        items = tuple(
            transform(item, replace) if isinstance(item, (ast.Node, tuple)) else item for item in node
        )
        return node if all(a is b for a, b in zip(items, node, strict=True)) else items
    replaced = replace(node)
    if replaced is not None:
        return replaced
    clone = None
    for name in fields(node):
        value = getattr(node, name)
        if isinstance(value, (ast.Node, tuple)):
            new = transform(value, replace)
            if new is not value:
                clone = clone or _copied(node)
                setattr(clone, name, new)
    return clone or node


def _copied(node: Node) -> Node:
    kind = type(node)
    members = _MEMBERS.get(kind)
    if members is None:
        members = _MEMBERS[kind] = tuple(name for name, _ in _slots(kind))
    clone = object.__new__(kind)
    for name in members:
        setattr(clone, name, getattr(node, name))
    return clone


def changed(node: Node, /, **values: Node) -> Node:
    """A shallow copy of `node` with the given fields set."""
    clone = _copied(node)
    for name, value in values.items():
        setattr(clone, name, value)
    return clone


def strings(items: Node) -> tuple[str, ...]:
    """The text of a list of String nodes, such as a name's parts; a star is `*`."""
    return tuple("*" if isinstance(item, ast.A_Star) else str(item.sval) for item in items or ())


def names(*parts: str) -> tuple[Node, ...]:
    """A list of String nodes."""
    return tuple(ast.String(sval=part) for part in parts)


def column(*parts: str) -> Node:
    """A column reference of the given name parts."""
    return ast.ColumnRef(fields=names(*parts))


def is_column(node: Node) -> bool:
    """Whether `node` is a plain column reference (no star)."""
    return isinstance(node, ast.ColumnRef) and not isinstance(node.fields[-1], ast.A_Star)


def conjuncts(node: Node) -> tuple[Node, ...]:
    """The terms of a condition joined by AND; none for no condition."""
    if node is None:
        return ()
    if isinstance(node, ast.BoolExpr) and node.boolop.name == "AND_EXPR":
        return tuple(term for item in node.args for term in conjuncts(item))
    return (node,)


def conjunction(terms: tuple[Node, ...]) -> Node | None:
    """The condition that all of `terms` hold; None for none."""
    if len(terms) <= 1:
        return terms[0] if terms else None
    return ast.BoolExpr(boolop=enums.BoolExprType.AND_EXPR, args=terms)


def operator(node: Node) -> str | None:
    """The name of a built-in binary operator used as `a op b`, else None."""
    if not isinstance(node, ast.A_Expr) or node.kind.name != "AEXPR_OP" or node.lexpr is None:
        return None
    parts = strings(node.name)
    if len(parts) == 2 and parts[0] != "pg_catalog":
        return None
    return parts[-1]

"""Whether conditions on a table with row-level security may be computed before its policies.

What comes back from the shells' children (docs/adr/0006) has a policy's conditions and the statement's own
in one list, in any order. An error in computing one for a row that the policy hides would tell of that row,
so only conditions go through that never fail on any row: comparisons of plain values; and, where they are
all else that is there, a policy's own.
"""

from __future__ import annotations

from collections.abc import Sequence

from orochi import pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.planner import parse, tree
from orochi.planner.tree import ast

_COMPARISONS = frozenset({"=", "<>", "!=", "<", "<=", ">", ">="})
_PATTERNS = frozenset({"~~", "!~~"})  # LIKE
_KINDS = frozenset({"AEXPR_OP", "AEXPR_OP_ANY", "AEXPR_OP_ALL", "AEXPR_DISTINCT", "AEXPR_NOT_DISTINCT"})
_SYSTEM = frozenset({"tableoid", "ctid", "xmin", "xmax", "cmin", "cmax"})
#: Types whose comparison cannot fail: bool, name, integers, floats, text, dates and times, numeric, uuid, bytea.
_PLAIN = frozenset(
    {16, 17, 18, 19, 20, 21, 23, 25, 26, 700, 701, 1042, 1043, 1082, 1083, 1114, 1184, 1186, 1266, 1700, 2950}
)


def is_quiet(node: tree.Node, table: snapshots.Table, policies: Sequence[str] = ()) -> bool:
    """Whether a statement on `table` alone computes nothing that can fail on a row that it leaves out.

    Args:
        node: the statement.
        table: the only table that it names.
        policies: conditions of the table's policies, which may fail.
    """
    if isinstance(node, ast.DeclareCursorStmt):
        return is_quiet(node.query, table, policies)
    if isinstance(node, ast.InsertStmt):
        return node.selectStmt is None or bool(node.selectStmt.valuesLists)
    if isinstance(node, ast.SelectStmt):
        return _plain_select(node, table) and _conditions(node.whereClause, table, policies)
    if isinstance(node, ast.DeleteStmt):
        return _conditions(node.whereClause, table, policies)
    if isinstance(node, ast.UpdateStmt):
        plain = all(_constant(item.val) for item in node.targetList)
        return plain and _conditions(node.whereClause, table, policies)
    return True


def terms(conditions: Sequence[str], table: snapshots.Table) -> list[str]:
    """Those of the conditions, SQL over the bare columns of `table`, that cannot fail on any row."""
    return [text for text in conditions if _condition(_parsed(text), table)]


def _parsed(condition: str) -> tree.Node:
    return parse.parse_one(f"SELECT 1 WHERE {condition}").tree.whereClause


def _conditions(node: tree.Node, table: snapshots.Table, policies: Sequence[str]) -> bool:
    loud = [term for term in tree.conjuncts(node) if not _condition(term, table)]
    if not loud or not policies:
        return not loud
    known = [term for policy in policies for term in _alternatives(_normal(_parsed(policy)))]
    return all(all(part in known for part in _alternatives(_normal(term))) for term in loud)


def _alternatives(node: tree.Node) -> list[tree.Node]:
    """The parts that AND and OR join: a role's policies come joined by them."""
    if isinstance(node, ast.BoolExpr) and node.boolop.name in ("AND_EXPR", "OR_EXPR"):
        return [part for item in node.args for part in _alternatives(item)]
    return [node]


def _normal(node: tree.Node) -> tree.Node:
    """Without what PostgreSQL and `postgres_fdw` print differently: names of types of constants, and of text."""

    def plain(found: tree.Node) -> tree.Node | None:
        if not isinstance(found, ast.TypeCast):
            return None
        text = tree.strings(found.typeName.names)[-1] in ("text", "varchar", "bpchar", "name")
        if text or isinstance(found.arg, ast.A_Const):
            return _normal(found.arg)
        return None

    return tree.transform(node, plain)


def _plain_select(node: tree.Node, table: snapshots.Table) -> bool:
    sources = node.fromClause or ()
    if (
        node.larg is not None
        or len(sources) > 1
        or not all(isinstance(item, ast.RangeVar) for item in sources)
    ):
        return False
    if node.groupClause or node.havingClause is not None or node.withClause is not None:
        return False
    sorts = all(_column(item.node, table) for item in node.sortClause or ())
    return sorts and all(isinstance(item.val, (ast.A_Const, ast.ColumnRef)) for item in node.targetList or ())


def _condition(node: tree.Node, table: snapshots.Table) -> bool:
    match node:
        case ast.BoolExpr():
            return all(_condition(item, table) for item in node.args)
        case ast.NullTest() | ast.BooleanTest():
            return _value(node.arg, table)
        case ast.A_Expr():
            if node.name[-1].sval in _PATTERNS:
                return _column(node.lexpr, table) and _pattern(node.rexpr)
            if node.kind.name == "AEXPR_IN":
                items = (node.lexpr, *(node.rexpr or ()))
                return node.name[-1].sval in _COMPARISONS and all(_value(item, table) for item in items)
            named = (
                node.kind.name in _KINDS and node.name[-1].sval in _COMPARISONS and _is_built_in(node.name)
            )
            return named and _value(node.lexpr, table) and _value(node.rexpr, table) and _fit(node, table)
        case ast.ColumnRef() | ast.A_Const():
            return _value(node, table)
    return False


def _is_built_in(name: tree.Node) -> bool:
    return tree.strings(name)[:-1] in ((), ("pg_catalog",))


def _fit(node: tree.Node, table: snapshots.Table) -> bool:
    """Whether neither side is made a float for the comparison where it may be too large for one."""
    kinds = set()
    for part in tree.walk((node.lexpr, node.rexpr)):
        if isinstance(part, ast.ColumnRef):
            column = table.column(part.fields[-1].sval)
            kinds.add(0 if column is None else int(column.base_oid))
        elif isinstance(part, ast.TypeCast):
            kinds |= {701 for name in tree.strings(part.typeName.names) if name.startswith("float")}
    return not (pgtypes.NUMERIC in kinds and kinds & {700, 701})


def _pattern(node: tree.Node) -> bool:
    """A constant without escapes: one at its end fails only where a row matches that far."""
    if isinstance(node, ast.TypeCast):
        return _pattern(node.arg)
    found = getattr(getattr(node, "val", None), "sval", None)
    return found is not None and "\\" not in found


def _value(node: tree.Node, table: snapshots.Table) -> bool:
    match node:
        case ast.ColumnRef():
            return _column(node, table)
        case ast.TypeCast() if isinstance(node.arg, ast.ColumnRef):
            # varchar compared as text
            return tree.strings(node.typeName.names)[-1] == "text" and _column(node.arg, table)
        case ast.A_Expr() if node.kind.name == "AEXPR_OP" and node.name[-1].sval == "%":
            divisor = getattr(getattr(node.rexpr, "val", None), "ival", None)
            return bool(divisor) and isinstance(node.lexpr, ast.ColumnRef) and _column(node.lexpr, table)
    return _constant(node)


def _constant(node: tree.Node) -> bool:
    """The same for all rows: a failure of it tells of none."""
    match node:
        case ast.A_Const() | ast.ParamRef():
            return True
        case ast.TypeCast():
            return _constant(node.arg)
        case ast.SubLink():  # how `postgres_fdw` writes a parameter that it does not know yet
            found = node.subselect
            listed: tree.Node = found.targetList or ()
            bare = found.fromClause is None and found.whereClause is None and len(listed) == 1
            return node.subLinkType.name == "EXPR_SUBLINK" and bare and _constant(listed[0].val)
        case ast.A_ArrayExpr():
            return all(_constant(item) for item in node.elements or ())
        case ast.A_Expr():
            operands = [item for item in (node.lexpr, node.rexpr) if item is not None]
            return node.name[-1].sval in ("-", "+") and all(_constant(item) for item in operands)
    return False


def _column(node: tree.Node, table: snapshots.Table) -> bool:
    if not isinstance(node, ast.ColumnRef) or isinstance(node.fields[-1], ast.A_Star):
        return False
    column = table.column(node.fields[-1].sval)
    return column is not None and int(column.base_oid) in _PLAIN


def hidden_by_children(node: tree.Node) -> str | None:
    """What in a statement PostgreSQL would compute otherwise over a shell's child than over a table, if anything."""
    for part in tree.walk(node):
        match part:
            case ast.RangeTableSample():
                return "TABLESAMPLE"
            case ast.ColumnRef() if part.fields and getattr(part.fields[-1], "sval", None) in _SYSTEM:
                return "a system column"
    return None

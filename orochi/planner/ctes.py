"""WITH queries put where they are read: as sub-SELECTs of FROM, or as stages that run once.

PostgreSQL evaluates a WITH query once if it is referenced more than once, said to be MATERIALIZED
or volatile; such a one becomes a stage. The others it folds into the query around them, and so do
we. One that nothing references is not run.
"""

from __future__ import annotations

from orochi.catalog import snapshot as snapshots
from orochi.planner import builtins, context, names, parse, recursive, spread, tree
from orochi.planner.tree import ast


def eliminate(stmt: tree.Node, builder: recursive.Builder) -> tree.Node:
    """The SELECT without its WITH clause.

    Raises:
        Unfit: a WITH query is recursive, or has a clause of its own that must stay.
        NeedsColumns: a stage's columns must be asked for.
    """
    clause = stmt.withClause
    if clause is None:
        return stmt
    _refuse_shadows(stmt)
    rest = tree.changed(stmt, withClause=None)
    known: dict[str, tuple[tree.Node, snapshots.Table | None]] = {}
    for position, item in enumerate(clause.ctes):
        if item.search_clause is not None or item.cycle_clause is not None:
            raise spread.Unfit("a WITH query with SEARCH or CYCLE")
        if not isinstance(item.ctequery, ast.SelectStmt):
            raise spread.Unfit("a WITH query modifies data")
        if clause.recursive and _mentions(item.ctequery, item.ctename):
            raise spread.Unfit("a recursive WITH query")
        later = (rest, *(other.ctequery for other in clause.ctes[position + 1 :]))
        count = sum(_mentions(node, item.ctename) for node in later)
        if count == 0:
            continue
        body = _inlined(item.ctequery, known)
        made = None
        if count > 1 or item.ctematerialized.name == "CTEMaterializeAlways" or is_volatile(body, builder.ctx):
            made = builder.add(body, tree.strings(item.aliascolnames))
        known[item.ctename] = (tree.changed(item, ctequery=body), made)
    return _inlined(rest, known)


def _refuse_shadows(stmt: tree.Node) -> None:
    seen: set[str] = set()
    for node in tree.walk(stmt):
        if isinstance(node, ast.CommonTableExpr):
            if node.ctename in seen:
                raise spread.Unfit("two WITH queries of one name")
            seen.add(node.ctename)


def _mentions(node: tree.Node, name: str) -> int:
    return sum(
        isinstance(part, ast.RangeVar) and part.schemaname is None and part.relname == name
        for part in tree.walk(node)
    )


def is_volatile(body: tree.Node, ctx: context.PlanContext) -> bool:
    """Whether what it calls may give something else each time, or has to run on the coordinator."""
    for node in tree.walk(body):
        if not isinstance(node, ast.FuncCall):
            continue
        function = ctx.builtins.function(tree.strings(node.funcname))
        if function is None or "v" in function.volatility:
            return True
        if function.place(len(node.args or ())) is builtins.Place.COORDINATOR:
            return True
    return False


def _inlined(node: tree.Node, known: dict[str, tuple[tree.Node, snapshots.Table | None]]) -> tree.Node:
    """`node` with each mention of a WITH query replaced by what it stands for."""

    def replace(part: tree.Node) -> tree.Node | None:
        if not isinstance(part, ast.RangeVar) or part.schemaname is not None or part.relname not in known:
            return None
        item, made = known[part.relname]
        alias = part.alias.aliasname if part.alias is not None else item.ctename
        own = tree.strings(part.alias.colnames) if part.alias is not None else ()
        if made is not None:
            return recursive.stage_relation(made, alias, own)
        given = tree.strings(item.aliascolnames)
        columns = (*own, *given[len(own) :])
        return ast.RangeSubselect(
            lateral=False,
            subquery=item.ctequery,
            alias=ast.Alias(aliasname=alias, colnames=tree.names(*columns) or None),
        )

    return tree.transform(node, replace) if known else node


def statement(stmt: tree.Node) -> parse.Statement:
    """A tree that was changed, as a statement with text and locations of its own."""
    return parse.parse_one(parse.deparse(stmt))


def refuse_qualified(scopes: names.Scopes) -> None:
    """Raise Unfit for columns named with a schema: after a relation is replaced, none would be found."""
    if any(len(node.fields) > 2 for node, _ in scopes.columns):
        raise spread.Unfit("a column is named with its schema")

"""Groups that HAVING compares with totals over all rows: the rows are read once, and the totals are those of the groups.

`SELECT k, sum(v) FROM t GROUP BY k HAVING sum(v) > (SELECT sum(v) * 0.01 FROM t)` asks for the same rows twice. The groups
become a stage, and what is left is a filter and a sum over it, which the gateway does (`finish`).
"""

from __future__ import annotations

from collections.abc import Callable

from orochi import pgtypes
from orochi.planner import cost, ctes, finish, labels, parse, prepare, recursive, spread, tree
from orochi.planner import plan as plans
from orochi.planner.tree import ast

#: The stage's name in what is left, where `finish` expects it.
_NAME = "orochi_i0"
#: All groups go to the gateway; no more are wanted than this, as guessed.
_GROUPS = 200_000
#: What a SELECT may have beside GROUP BY and HAVING, and what the sub-SELECT may.
_OUTER = frozenset(
    {"targetList", "fromClause", "whereClause", "groupClause", "havingClause", "sortClause", "limitCount", "limitOffset"}
)  # fmt: skip
_INNER = frozenset({"targetList", "fromClause", "whereClause"})


class _Other(Exception):
    """It is no such statement."""


def plan(
    prepared: prepare.Prepared, builder: recursive.Builder, choose: recursive.Choose
) -> plans.SelectPlan | None:
    """The plan of such a statement; None if it is another.

    Raises:
        NeedsColumns: the types of the groups must be asked for.
    """
    stmt = prepared.statement.tree
    if stmt.havingClause is None or not stmt.groupClause or cost.result_rows(prepared) > _GROUPS:
        return None
    trial = builder.fork()
    try:
        made = _Made(prepared)
        rest = made.rest()
        if finish.of(parse.deparse(rest(f"pg_temp.{_NAME}")), _NAME) is None:
            return None
        stage = trial.add(made.groups(), made.names())
        kinds = {column.name: column.base_oid for column in stage.columns}
        if any(kinds[name] != pgtypes.NUMERIC for name in made.totalled):
            return None
        statement = ctes.statement(rest(f"{stage.schema}.{stage.name}"))
        return trial.finish(choose(statement, trial.ctx))
    except (_Other, spread.Unfit, parse.CannotDeparse):
        return None


class _Made:
    """The two statements that one becomes."""

    def __init__(self, prepared: prepare.Prepared) -> None:
        self._prepared = prepared
        self._level = prepared.scopes.levels[0]
        self._stmt = prepared.statement.tree
        keys = spread.group_expressions(self._level)
        if keys is None or not _has_only(self._stmt, _OUTER) or spread.windows(self._stmt):
            raise _Other
        if not all(tree.is_column(key) for key in keys) or any(_is_select(n) for n in self._read()):
            raise _Other
        if ctes.is_volatile(self._read(), prepared.ctx) or ctes.is_volatile(self._shown(), prepared.ctx):
            raise _Other
        self._keys = [prepared.analysis.key(key, self._level) for key in keys]
        if None in self._keys:
            raise _Other
        self._columns: list[tree.Node] = list(keys)
        #: The stage's columns that are added up again.
        self.totalled: set[str] = set()

    def groups(self) -> tree.Node:
        """The groups with all that is asked of them; `rest` has said what that is."""
        targets = tuple(ast.ResTarget(val=column) for column in self._columns)
        return tree.changed(
            parse.parse_one("SELECT").tree,
            targetList=targets,
            fromClause=self._stmt.fromClause,
            whereClause=self._stmt.whereClause,
            groupClause=tuple(self._columns[: len(self._keys)]),
        )

    def names(self) -> tuple[str, ...]:
        """Those of the columns of `groups`."""
        return tuple(f"c{at}" for at in range(len(self._columns)))

    def rest(self) -> Callable[[str], tree.Node]:
        """What makes the statement that is left, of the SQL name of the groups' relation."""
        stmt = self._stmt
        if any(labels.is_star(target) for target in stmt.targetList):
            raise _Other
        targets = tuple(
            ast.ResTarget(name=labels.output_name(target), val=self._over_groups(target.val))
            for target in stmt.targetList
        )
        order = tuple(
            tree.changed(item, node=self._over_groups(spread.sort_expression(item.node, self._level)))
            for item in stmt.sortClause or ()
        )
        where = self._over_groups(stmt.havingClause)

        def made(relation: str) -> tree.Node:
            whole = parse.parse_one(f"SELECT FROM {relation} AS {_NAME}").tree

            def read(node: tree.Node) -> tree.Node | None:
                if isinstance(node, ast.SelectStmt):
                    return tree.changed(node, fromClause=whole.fromClause)
                return None

            return tree.changed(
                whole,
                targetList=targets,
                whereClause=tree.transform(where, read),
                sortClause=order or None,
                limitCount=stmt.limitCount,
                limitOffset=stmt.limitOffset,
                limitOption=stmt.limitOption,
            )

        return made

    def _read(self) -> tuple[tree.Node, ...]:
        return (self._stmt.fromClause, self._stmt.whereClause or ())

    def _shown(self) -> tuple[tree.Node, ...]:
        return (self._stmt.targetList, self._stmt.havingClause, self._stmt.sortClause or ())

    def _over_groups(self, node: tree.Node) -> tree.Node:
        """An expression of the outer level over the stage's columns."""

        def replace(part: tree.Node) -> tree.Node | None:
            if isinstance(part, ast.SubLink):
                return tree.changed(part, subselect=self._total(part))
            if isinstance(part, ast.ColumnRef):
                key = self._prepared.analysis.key(part, self._level)
                if key is None or key not in self._keys:
                    raise _Other
                return tree.column(_NAME, f"c{self._keys.index(key)}")
            if self._is_aggregate(part):
                return self._column(part)
            return None

        return tree.transform(node, replace)

    def _total(self, link: tree.Node) -> tree.Node:
        """The sub-SELECT of a total over the stage."""
        inner = link.subselect
        if link.subLinkType.name != "EXPR_SUBLINK" or not _has_only(inner, _INNER):
            raise _Other
        if (inner.fromClause, inner.whereClause) != (self._stmt.fromClause, self._stmt.whereClause):
            raise _Other
        level = next(item for item in self._prepared.scopes.levels if item.stmt is inner)
        if not recursive.is_closed(level, self._prepared) or len(inner.targetList) != 1:
            raise _Other

        def replace(part: tree.Node) -> tree.Node | None:
            if isinstance(part, (ast.ColumnRef, ast.SubLink)):
                raise _Other
            if not self._is_aggregate(part):
                return None
            if tree.strings(part.funcname) not in (("sum",), ("pg_catalog", "sum")) or not _is_plain(part):
                raise _Other
            column = self._column(part)
            self.totalled.add(tree.strings(column.fields)[-1])
            return tree.changed(part, args=(column,))

        target = inner.targetList[0]
        return tree.changed(
            inner,
            targetList=(tree.changed(target, val=tree.transform(target.val, replace)),),
            whereClause=None,
        )

    def _is_aggregate(self, node: tree.Node) -> bool:
        return isinstance(node, ast.FuncCall) and self._prepared.ctx.builtins.is_aggregate(
            tree.strings(node.funcname)
        )

    def _column(self, call: tree.Node) -> tree.Node:
        """The stage's column of an aggregate of each group."""
        if call not in self._columns:
            self._columns.append(call)
        return tree.column(_NAME, f"c{self._columns.index(call)}")


def _has_only(stmt: tree.Node, known: frozenset[str]) -> bool:
    if not isinstance(stmt, ast.SelectStmt) or stmt.op.name != "SETOP_NONE" or stmt.groupDistinct:
        return False
    return not any(getattr(stmt, name) for name in tree.fields(stmt) if name not in known)


def _is_plain(call: tree.Node) -> bool:
    return not (call.agg_distinct or call.agg_filter or call.agg_order or call.over or call.func_variadic)


def _is_select(node: tree.Node) -> bool:
    return any(isinstance(part, ast.SelectStmt | ast.RangeFunction) for part in tree.walk(node))

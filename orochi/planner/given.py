"""Sub-SELECTs beside aggregates: the final query reads their rows, which a stage has got before.

What a sub-SELECT gives that names nothing outside of itself is the same for every group, so the
final query may ask for it as the statement does: one value, IN, EXISTS, with PostgreSQL's rules.
"""

from __future__ import annotations

from collections.abc import Callable

from orochi.catalog import snapshot as snapshots
from orochi.planner import names, parse, prepare, recursive, scans, staged, tree
from orochi.planner import plan as plans
from orochi.planner.tree import ast


class Given:
    """The stages that the final query of one plan reads beside what shards give."""

    def __init__(self, prepared: prepare.Prepared) -> None:
        self._prepared = prepared
        self._tables: list[snapshots.Table] = []

    def sublink(self, node: tree.Node, expression: Callable[[tree.Node], tree.Node]) -> tree.Node | None:
        """A sub-SELECT of the final query; None if its rows are not at hand there.

        Args:
            node: a SubLink.
            expression: makes of what it is compared with an expression of the final query.
        """
        level = next((item for item in self._prepared.scopes.levels if item.stmt is node.subselect), None)
        if level is None:
            return None
        select = self._select(level)
        if select is None:
            return None
        test = expression(node.testexpr) if node.testexpr is not None else None
        return tree.changed(node, subselect=select, testexpr=test)

    def intermediates(self) -> tuple[plans.Intermediate, ...]:
        """The stages' rows, under the names that the final query has for them."""
        return tuple(
            plans.Intermediate(
                name=_name(index),
                columns=tuple(scans.output(column) for column in table.columns),
                fragments=(),
                shards_total=1,
                table=table.name,
                stage=table.name,
            )
            for index, table in enumerate(self._tables)
        )

    def _select(self, level: names.Level) -> tree.Node | None:
        if not level.relations and recursive.is_closed(level, self._prepared):
            return level.stmt
        if len(level.references) != 1 or len(level.relations) != 1:
            return None
        (reference,) = level.references
        if not staged.is_stage(reference.table) or level.stmt != recursive.stage_select(reference.table):
            return None
        if reference.table not in self._tables:
            self._tables.append(reference.table)
        name = _name(self._tables.index(reference.table))
        listed = ", ".join(f"{name}.{names.quoted(column.name)}" for column in reference.table.columns)
        return parse.parse_one(f"SELECT {listed} FROM pg_temp.{name} AS {name}").tree


def is_beside(level: names.Level) -> bool:
    """Whether a sub-SELECT stands where a final query evaluates it: in an output, HAVING or ORDER BY."""
    assert level.parent is not None
    stmt = level.parent.stmt
    parts = (stmt.targetList or (), stmt.havingClause or (), stmt.sortClause or ())
    return any(
        isinstance(node, ast.SubLink) and node.subselect is level.stmt
        for node in tree.walk(parts, stop=(ast.SelectStmt,))
    )


def _name(index: int) -> str:
    return f"orochi_i{index + 1}"

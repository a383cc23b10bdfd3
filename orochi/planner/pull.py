"""Pull: the rows of each Orochi table that can matter go to the coordinator, which runs the statement itself.

Each mention of a table becomes an intermediate, filtered and projected where its rows are, and the
statement is run as it was written with these in the tables' places. So it is exact for every shape
of query; other strategies are there because this one moves the most rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.planner import (
    builtins,
    context,
    edit,
    group_keys,
    labels,
    literals,
    lookup,
    names,
    parse,
    prepare,
    safety,
    scans,
    spread,
    staged,
    standins,
    tree,
)
from orochi.planner import (
    fragment as fragments,
)
from orochi.planner import (
    plan as plans,
)
from orochi.planner.tree import ast


def rewrite_any(
    statement: parse.Statement, ctx: context.PlanContext, *, target: str | None = None
) -> plans.Distributed:
    """Any statement that reads Orochi tables (CREATE TABLE AS, DECLARE, INSERT ... SELECT, ...), by pull.

    Args:
        statement: the whole statement.
        ctx: the planning context.
        target: an INSERT's table is replaced by this SQL name.

    Raises:
        FeatureNotSupported: no rewriting gives the statement's meaning.
    """
    return plan(prepare.prepare(statement, ctx), "the statement is not a plain SELECT", target=target)


def plan(
    prepared: prepare.Prepared,
    reason: str,
    *,
    target: str | None = None,
    copies: Mapping[int, str] | None = None,
) -> plans.Distributed:
    """The pull plan of a prepared statement; `reason` says why nothing better was found.

    Args:
        prepared: the statement.
        reason: for EXPLAIN.
        target: an INSERT's table is replaced by this SQL name.
        copies: SQL names, by the id of the relation's node, of what is read and written in its place;
            None if the statement may not write or lock.
    """
    if copies is None:
        _refuse(prepared)
    number = scans.Numbers()
    used = used_columns(prepared)
    editor = edit.Editor(prepared.statement)
    intermediates = []
    made: dict[Hashable, str] = {}
    shared = 0
    for index, reference in enumerate(prepared.references):
        if copies and id(reference.node) in copies:
            continue
        stage = reference.table.name if staged.is_stage(reference.table) else None
        columns = used[id(reference)] if stage is None else reference.table.columns
        key = group_keys.primary_key(reference, columns, prepared)
        groupable = all(group_keys.is_groupable(column) for column in columns)
        name = f"orochi_i{index - shared}"
        # of the same rows there is one: sub-SELECTs that are alike stay alike, as GROUP BY may need them to be
        like = (_rows_key(reference, columns, prepared), key if not groupable else ())
        known = made.setdefault(like, name)
        editor.relation(reference.node, _relation_sql(known, reference, columns))
        if key and groupable:
            _spell_groups_out(editor, reference, key, columns)
        if known != name:
            shared += 1
            continue
        intermediates.append(
            plans.Intermediate(
                name=name,
                columns=tuple(scans.output(column) for column in columns),
                fragments=() if stage else _fragments(reference, columns, prepared, number),
                shards_total=len(reference.table.shards),
                table=stage or f"{reference.table.schema}.{reference.table.name}",
                stage=stage,
                primary_key=() if groupable else key,
                needs_table=reference.sampled or (bool(key) and not groupable),
            )
        )
    _edit_columns(editor, prepared)
    _edit_folded(editor, prepared)
    if target is not None:
        editor.relation(prepared.statement.tree.relation, target)
    if copies:
        standins.put(editor, prepared.statement.tree, copies)
    return plans.Distributed("pull", tuple(intermediates), editor.result(), reason=reason)


def _rows_key(
    reference: names.Reference, columns: tuple[snapshots.Column, ...], prepared: prepare.Prepared
) -> Hashable:
    """What decides which rows a mention of a table is given."""
    table, pruned = reference.table, prepared.pruned[id(reference)]
    if staged.is_stage(table):
        return table.name
    shards = tuple(shard.index for shard in pruned.shards)
    terms = tuple(own_terms(reference, prepared))
    return (
        table.oid,
        columns,
        reference.sampled,
        shards,
        pruned.ranges,
        pruned.further,
        pruned.predicates,
        terms,
    )


def _spell_groups_out(
    editor: edit.Editor,
    reference: names.Reference,
    key: tuple[str, ...],
    columns: tuple[snapshots.Column, ...],
) -> None:
    """Where GROUP BY names a primary key and means the whole row, name the other columns too.

    The key decides them, so the groups stay the same; an intermediate has no key of its own.
    """
    alias = names.quoted(reference.alias)
    shown = {real: name for name, real in reference.visible.items()}
    others = [f"{alias}.{names.quoted(shown[c.name])}" for c in columns if c.name not in key]
    editor.group_by(reference.node, ", ".join(others))


def whole_table(table: snapshots.Table, snapshot: snapshots.Snapshot) -> plans.Distributed:
    """Every column of every row of `table`."""
    from orochi.planner import builtins

    ctx = context.PlanContext(snapshot, (), builtins.EMPTY)
    statement = parse.parse_one(f"SELECT * FROM {names.qualified(table)}")
    found = plan(prepare.prepare(statement, ctx), "the whole table")
    return plans.Distributed("pull", found.intermediates, None, reason=found.reason)


def _refuse(prepared: prepare.Prepared) -> None:
    if prepare.locking(prepared):
        raise errors.FeatureNotSupported(
            "row locks on Orochi tables need a query that one shard answers",
            hint="Compare the distribution column with a constant, or lock without joining other tables.",
        )
    prepare.refuse_writes_inside(prepared)
    for reference in prepared.references:
        if reference.target:
            raise errors.FeatureNotSupported(
                f'cannot modify the Orochi table "{reference.table.name}" in this statement',
                hint="Use UPDATE or DELETE as a statement of its own.",
            )


def _fragments(
    reference: names.Reference,
    columns: tuple[snapshots.Column, ...],
    prepared: prepare.Prepared,
    number: scans.Numbers,
) -> tuple[fragments.Fragment, ...]:
    pruned = prepared.pruned[id(reference)]
    terms = own_terms(reference, prepared)
    (placeholder,) = scans.scan_names(1)
    listed = ", ".join(names.quoted(column.name) for column in columns)
    sql = f"SELECT {listed} FROM {placeholder} AS {names.quoted(reference.table.name)}"
    if terms:
        sql += " WHERE " + " AND ".join(f"({term})" for term in terms)
    units = scans.units([reference], prepared.pruned, [shard.index for shard in pruned.shards])
    outputs = tuple(scans.output(column) for column in columns)
    return scans.build(units, [reference], prepared.pruned, [columns], sql, outputs, prepared.ctx, number)


def own_terms(reference: names.Reference, prepared: prepare.Prepared) -> list[str]:
    """The conditions that may filter the table's rows where they are, as SQL over its bare columns."""
    return [sql for _, _, sql in own_conditions(reference, prepared)]


def own_conditions(
    reference: names.Reference, prepared: prepare.Prepared
) -> list[tuple[tree.Node, names.Level, str]]:
    """The same conditions as nodes, each with the query level that it is of, and as that SQL."""
    return as_sql(prepared.analysis.filters(reference), reference, prepared)


def as_sql(
    terms: Iterable[tuple[tree.Node, names.Level]], reference: names.Reference, prepared: prepare.Prepared
) -> list[tuple[tree.Node, names.Level, str]]:
    """Those of the conditions that are about the one table and may run on a node, with their SQL."""
    found = []
    types = safety.node_types([reference], prepared.ctx.search_path)
    for term, level in terms:
        if not is_own(term, level, reference, prepared) or safety.problem(term, prepared.ctx, types):
            continue

        def bare(node: tree.Node, level: names.Level = level) -> tree.Node | None:
            if not isinstance(node, ast.ColumnRef):
                return None
            column = lookup.find_column(node, level)
            assert column is not None
            return tree.column(column[1])

        try:
            sql = parse.deparse_expression(tree.transform(safety.fold(term, prepared.ctx), bare))
        except parse.CannotDeparse:
            continue
        found.append((term, level, sql))
    return found


def is_own(
    term: tree.Node, level: names.Level, reference: names.Reference, prepared: prepare.Prepared
) -> bool:
    """Whether a condition is about columns of this one table and nothing else."""
    if isinstance(term, ast.A_Const):
        return False
    for node in tree.walk(term):
        if isinstance(node, (ast.SubLink, ast.GroupingFunc)):
            return False
        if isinstance(node, ast.ColumnRef):
            # not through sub-SELECTs: what hands its column on may be another level's, or LATERAL
            found = lookup.find_column(node, level)
            if found is None or found[0] is not reference:
                return False
    return True


def used_columns(
    prepared: prepare.Prepared, but: frozenset[int] = frozenset()
) -> dict[int, tuple[snapshots.Column, ...]]:
    """For each mention of a table, the columns the statement may read of it, in the table's order.

    `but`: ids of column references that do not count.
    """
    mentioned: set[str] = set()
    whole: set[int] = set()
    for node, level in prepared.scopes.columns:
        if id(node) in but:
            continue
        parts = tree.strings(node.fields)
        if parts == ("*",):
            whole.update(id(item) for item in level.references)
            continue
        found = lookup.is_whole_row(node, level)
        if found is not None:
            whole.add(id(found))
        elif parts[-1] == "*":
            whole.update(id(item) for item in prepared.references if item.hidden)
        mentioned.add(parts[-1])
    for node in tree.walk(prepared.statement.tree):
        if isinstance(node, ast.JoinExpr):
            mentioned.update(tree.strings(node.usingClause))
            if node.isNatural or node.alias is not None:
                inside = {id(part) for part in tree.walk(node) if isinstance(part, ast.RangeVar)}
                whole.update(id(item) for item in prepared.references if id(item.node) in inside)
    return {
        id(item): _columns_of(item.table, mentioned, whole=item.renamed or id(item) in whole)
        for item in prepared.references
    }


def _columns_of(table: snapshots.Table, mentioned: set[str], *, whole: bool) -> tuple[snapshots.Column, ...]:
    columns = tuple(column for column in table.columns if whole or column.name in mentioned)
    return columns or narrowest(table)


def narrowest(table: snapshots.Table) -> tuple[snapshots.Column, ...]:
    """One cheap column, to count rows by."""
    return (
        min(table.columns, key=lambda column: (not column.not_null, column.base_oid not in (21, 23, 1082))),
    )


def _relation_sql(name: str, reference: names.Reference, columns: tuple[snapshots.Column, ...]) -> str:
    alias = f" AS {names.quoted(reference.alias)}" if reference.node.alias is None else ""
    if not any(column.collation for column in columns):
        return f"pg_temp.{name}{alias}"
    listed = ", ".join(
        names.quoted(column.name)
        + (f" COLLATE {column.collation} AS {names.quoted(column.name)}" if column.collation else "")
        for column in columns
    )
    return f"(SELECT {listed} FROM pg_temp.{name} AS {name}){alias}"


def _edit_columns(editor: edit.Editor, prepared: prepare.Prepared) -> None:
    """Make column references fit: no schema, whole rows of the table's own type, no system columns."""
    targets = {
        id(node.val)
        for node in tree.walk(prepared.statement.tree)
        if isinstance(node, ast.ResTarget) and not node.name
    }
    given_back = arguments(prepared, given_back=True)
    rows = {
        id(node): row
        for node, level in prepared.scopes.columns
        if _is_row(node, given_back) and (row := lookup.is_whole_row(node, level)) is not None
    }
    plain = arguments(prepared) | _fields_of(prepared, rows)
    typed = {id(row) for node, row in rows.items() if node not in plain}  # all alike: GROUP BY compares them
    for node, level in prepared.scopes.columns:
        parts = tree.strings(node.fields)
        _refuse_system_column(parts, level)
        row = rows.get(id(node))
        if row is not None and id(row) in typed:
            label = f" AS {names.quoted(row.alias)}" if id(node) in targets else ""
            editor.column(node, _row_sql(row) + label)
        elif len(parts) > 2:
            found = lookup.find_alias(parts[:-1], level)
            if found is not None:
                last = parts[-1] if parts[-1] == "*" else names.quoted(parts[-1])
                editor.column(node, f"{names.quoted(found.alias)}.{last}")


def arguments(prepared: prepare.Prepared, *, given_back: bool = False) -> set[int]:
    """Arguments of built-in functions that take a row of any type and do not give it back; or those of all other functions."""
    found: set[int] = set()
    for node in tree.walk(prepared.statement.tree):
        if isinstance(node, ast.FuncCall):
            name = tree.strings(node.funcname)
            typed = prepared.ctx.builtins.function(name) is None or name[-1] in builtins.GIVING_BACK
            if typed == given_back:
                found.update(id(argument) for argument in node.args or ())
    return found


def _fields_of(prepared: prepare.Prepared, rows: dict[int, names.Reference]) -> set[int]:
    """Of mentions of a stage's whole rows those whose one field is taken: a record's fields have names by its alias alone."""
    return {
        id(node.arg)
        for node in tree.walk(prepared.statement.tree)
        if isinstance(node, ast.A_Indirection)
        and isinstance(node.indirection[0], ast.String)
        and (row := rows.get(id(node.arg))) is not None
        and staged.is_stage(row.table)
    }


def _is_row(node: tree.Node, given_back: set[int]) -> bool:
    """Whether a reference could be to a whole row that is a value; `t.*` is where a function takes it."""
    return tree.is_column(node) or id(node) in given_back


def refuse_rows(prepared: prepare.Prepared) -> None:
    """Raise Unfit where a whole row is a value: its type is another on every server."""
    plain, given_back = arguments(prepared), arguments(prepared, given_back=True)
    for node, level in prepared.scopes.columns:
        if (
            _is_row(node, given_back)
            and id(node) not in plain
            and lookup.is_whole_row(node, level) is not None
        ):
            raise spread.Unfit("a whole row is a value of the coordinator's type")
    for target in tree.walk(prepared.statement.tree):
        if (
            isinstance(target, ast.ResTarget)
            and isinstance(target.val, ast.A_Indirection)
            and isinstance(target.val.indirection[-1], ast.A_Star)
        ):
            raise spread.Unfit("only PostgreSQL knows the columns of a composite value")


def _row_sql(reference: names.Reference) -> str:
    """A whole row as a value of the table's type; NULL, not a row of nulls, where an outer join added it."""
    alias = names.quoted(reference.alias)
    columns = [names.quoted(shown) for shown in reference.visible]
    if staged.is_stage(reference.table):
        # of no type but `record`, whose columns keep their names
        named = ", ".join(f"{alias}.{column} AS {column}" for column in columns)
        value = f"(SELECT orochi_row FROM (SELECT {named}) AS orochi_row)"
    else:
        row = ", ".join(f"{alias}.{column}" for column in columns)
        value = f"ROW({row})::{names.qualified(reference.table)}"
    return f"(CASE WHEN {alias} IS DISTINCT FROM NULL THEN {value} END)"


def _refuse_system_column(parts: tuple[str, ...], level: names.Level) -> None:
    if parts[-1] not in names.SYSTEM_COLUMNS:
        return
    found = lookup.find_alias(parts[:-1], level) if len(parts) > 1 else None
    alone = (
        len(parts) == 1
        and bool(level.relations)
        and all(isinstance(item, names.Reference) for item in level.relations.values())
    )
    if found is not None or alone:
        raise system_column(parts[-1])


def system_column(name: str) -> errors.FeatureNotSupported:
    """The error for a system column whose values are of one shard."""
    return errors.FeatureNotSupported(
        f'system column "{name}" of an Orochi table has a meaning only within one shard',
        hint="Compare the distribution column with a constant, or use the table's own key.",
    )


def _edit_folded(editor: edit.Editor, prepared: prepare.Prepared) -> None:
    """Where a filter was given a value of `now()` or the like, the statement itself must use the same."""
    ctx = prepared.ctx
    if not ctx.folded:
        return
    shown = {
        id(node.val): labels.output_name(node)
        for node in tree.walk(prepared.statement.tree)
        if isinstance(node, ast.ResTarget) and not node.name
    }
    for call in safety.folded_calls(prepared.statement.tree, ctx):
        value = ctx.folded.get(parse.deparse_expression(call))
        if not isinstance(value, literals.Literal):
            continue
        label = f" AS {names.quoted(shown[id(call)])}" if id(call) in shown else ""
        try:
            editor.call(call, value.sql + label)
        except parse.CannotDeparse:
            continue

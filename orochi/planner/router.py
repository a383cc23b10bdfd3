"""Router: the whole statement runs on the one node that has every row it can need.

The statement is sent as it was written, with the shard's schema in front of each table's own name.
"""

from __future__ import annotations

from orochi import ids, pgtypes
from orochi.planner import (
    analyze,
    edit,
    labels,
    lookup,
    names,
    parse,
    pieces,
    prepare,
    pull,
    pushdown,
    safety,
    scans,
    spread,
    staged,
    tree,
)
from orochi.planner import (
    plan as plans,
)
from orochi.planner.tree import ast

_TEXTS = frozenset({pgtypes.TEXT, pgtypes.VARCHAR})


def plan(prepared: prepare.Prepared) -> plans.Router | list[scans.Unit]:
    """The router plan of one execution; what `fragment` takes, if its shard has stripes to read.

    Raises:
        Unfit: more than one shard, or the coordinator, is needed.
        CannotDeparse: the statement's text could not be changed.
    """
    check(prepared, prepared.references)
    if all(staged.is_stage(item.table) for item in prepared.references):
        raise spread.Unfit("it reads nothing but stages")
    index = shard_index(prepared, prepared.references)
    units = scans.units(prepared.references, prepared.pruned, [index or 0])
    stripes = any(
        staged.is_stage(item.table) or prepared.pruned[id(item)].stripes(shard)
        for item, shard in zip(prepared.references, units[0].shards, strict=True)
    )
    if stripes:
        _refuse_striped(prepared, units)
        return units
    key: plans.Key = plans.AnyKey()
    if index is not None:
        first = next(item for item in prepared.references if scans.is_distributed(item))
        key = plans.HashKey(first.table.shards[index].hash_min)
    return plans.Router(key, tables(prepared), rewrite(prepared), prepare.locking(prepared))


def template(prepared: prepare.Prepared, type_oids: tuple[int, ...]) -> plans.Router:
    """The router plan for any parameters.

    Raises:
        Unfit, CannotDeparse: as `plan`; also where a value must be folded.
    """
    check(prepared, prepared.references)
    if any(safety.folded_calls(prepared.statement.tree, prepared.ctx)):
        raise spread.Unfit("a value must be evaluated once for each execution")
    key = template_key(prepared, prepared.references, type_oids)
    return plans.Router(key, tables(prepared), rewrite(prepared), prepare.locking(prepared))


def check(prepared: prepare.Prepared, references: list[names.Reference]) -> None:
    """Raise Unfit unless nodes can run the statement and its tables are co-located."""
    for level in prepared.scopes.levels:
        for item in level.relations.values():
            if isinstance(item, names.Other) and item.kind == "local":
                raise spread.Unfit(f"relation {item.alias} is on the coordinator only")
    reason = safety.problem(
        prepared.statement.tree, prepared.ctx, safety.node_types(references, prepared.ctx.search_path)
    )
    if reason is not None:
        raise spread.Unfit(reason)
    if not scans.colocated(references):
        raise spread.Unfit("its tables are not co-located")
    for node, _ in prepared.scopes.columns:
        if tree.strings(node.fields)[-1] == "tableoid":
            raise spread.Unfit("tableoid is another on the node")


def shard_index(prepared: prepare.Prepared, references: list[names.Reference]) -> int | None:
    """The index of the only shard that can matter; None where no table is distributed.

    Raises:
        Unfit: several can.
    """
    kept: set[int] = set()
    spread_tables = [item for item in references if scans.is_distributed(item)]
    for item in spread_tables:
        kept.update(shard.index for shard in prepared.pruned[id(item)].shards)
    if not spread_tables:
        return None
    if len(kept) > 1:
        raise spread.Unfit("it needs rows of several shards")
    return kept.pop() if kept else 0


def template_key(
    prepared: prepare.Prepared, references: list[names.Reference], type_oids: tuple[int, ...]
) -> plans.Key:
    """What picks the shard: a constant, or a parameter that every distributed table's key equals.

    Raises:
        Unfit: neither does.
    """
    spread_tables = [item for item in references if scans.is_distributed(item)]
    if not spread_tables:
        return plans.AnyKey()
    numbers: set[int] | None = None
    for item in spread_tables:
        found = _parameters(item, prepared.analysis, type_oids)
        numbers = found if numbers is None else numbers & found
    if numbers:
        # the hash is taken of the value as it is bound: integers of all widths hash alike
        number = min(numbers)
        return plans.ParamKey(number, type_oids[number - 1])
    index = shard_index(prepared, references)
    assert index is not None
    return plans.HashKey(spread_tables[0].table.shards[index].hash_min)


def _parameters(
    reference: names.Reference, analysis: analyze.Analysis, type_oids: tuple[int, ...]
) -> set[int]:
    """The parameters that the table's distribution column equals, compared as its own type."""
    oid = reference.table.distribution_oid
    classes = analysis.classes(analysis.quals(reference))
    found = set()
    for member in classes.members((id(reference), str(reference.table.distribution_column))):
        if member[0] != "parameter" or not isinstance(member[1], int) or member[1] > len(type_oids):
            continue
        given = type_oids[member[1] - 1]
        if given == oid or {given, oid} <= pgtypes.INTEGERS or {given, oid} <= _TEXTS:
            found.add(member[1])
    return found


def tables(prepared: prepare.Prepared) -> tuple[ids.TableId, ...]:
    """The distinct tables: distributed ones first, so that the first one's shard tells the others', else as mentioned."""
    ordered = sorted(prepared.references, key=lambda item: not scans.is_distributed(item))
    return tuple(dict.fromkeys(item.table.oid for item in ordered))


def rewrite(prepared: prepare.Prepared) -> str:
    """The statement's text with placeholders for the shards' schemas."""
    order = {oid: index for index, oid in enumerate(tables(prepared))}
    editor = edit.Editor(prepared.statement)
    for item in prepared.references:
        schema = f"orochi_shard_{order[item.table.oid]}"
        editor.relation(item.node, f"{schema}.{names.quoted(item.table.name)}")
    for node, level in prepared.scopes.columns:
        parts = tree.strings(node.fields)
        found = lookup.find_alias(parts[:-1], level) if len(parts) > 2 else None
        if found is not None:
            last = "*" if parts[-1] == "*" else names.quoted(parts[-1])
            editor.column(node, f"{names.quoted(found.alias)}.{last}")
    edit_functions(editor, prepared)
    edit_types(editor, prepared)
    return editor.result()


def edit_functions(editor: edit.Editor, prepared: prepare.Prepared) -> None:
    """Put values in for `now()` and the like, and schemas in front of Orochi's functions."""
    root = prepared.statement.tree
    safety.fold(root, prepared.ctx)  # asks for the values that are missing
    shown = {
        id(node.val): labels.output_name(node)
        for node in tree.walk(root)
        if isinstance(node, ast.ResTarget) and not node.name and node.val is not None
    }
    for call in safety.folded_calls(root, prepared.ctx):
        value = prepared.ctx.folded[parse.deparse_expression(call)]
        sql = "NULL" if value is None else value.sql
        label = f" AS {names.quoted(shown[id(call)])}" if id(call) in shown else ""
        editor.call(call, sql + label)
    for node in tree.walk(root):
        if isinstance(node, ast.FuncCall) and len(node.funcname) == 1:
            function = prepared.ctx.builtins.function(tree.strings(node.funcname))
            if function is not None and function.schema != "pg_catalog":
                editor.function_name(node, f"{names.quoted(function.schema)}.{names.quoted(function.name)}")


def edit_types(editor: edit.Editor, prepared: prepare.Prepared) -> None:
    """Put schemas in front of the user's types: a node's own search path does not lead there."""
    known = safety.node_types(prepared.references, prepared.ctx.search_path)
    for node in tree.walk(prepared.statement.tree):
        if isinstance(node, ast.TypeName) and node.names and len(node.names) == 1:
            parts = tree.strings(node.names)
            if parts[0] in known and not prepared.ctx.builtins.is_type(parts):
                editor.token(node.location, known[parts[0]])


def _refuse_striped(prepared: prepare.Prepared, units: list[scans.Unit]) -> None:
    if prepare.locking(prepared):
        raise spread.Unfit("compressed rows cannot be locked")
    if any(item.sampled for item in prepared.references):
        raise spread.Unfit("TABLESAMPLE is of a table, not of rows that were read")
    for node, _ in prepared.scopes.columns:
        if tree.strings(node.fields)[-1] in names.SYSTEM_COLUMNS:
            raise spread.Unfit("compressed rows have no system columns")
    pull.refuse_rows(prepared)
    pushdown.refuse_keyless_groups(prepared, units)


def fragment(prepared: prepare.Prepared, units: list[scans.Unit]) -> plans.Distributed:
    """The whole statement as one fragment, for a shard with stripes.

    Raises:
        Unfit, CannotDeparse: as `plan`.
    """
    references = prepared.references
    folded = pieces.fold(prepared, prepared.statement.tree)
    sql = parse.deparse(pieces.over_scans(folded, prepared))
    describe = parse.deparse(pieces.over_shells(folded, prepared))
    used = pull.used_columns(prepared)
    columns = tuple(pieces.unknown(name) for name in _output_names(prepared))
    spread_tables = [item for item in references if scans.is_distributed(item)]
    built = scans.build(
        units,
        references,
        prepared.pruned,
        [used[id(item)] for item in references],
        sql,
        columns,
        prepared.ctx,
        scans.Numbers(),
    )
    intermediate = plans.Intermediate(
        name=pieces.RELATION,
        columns=columns,
        fragments=built,
        shards_total=len(spread_tables[0].table.shards) if spread_tables else 1,
        table=", ".join(dict.fromkeys(f"{item.table.schema}.{item.table.name}" for item in references)),
        describe_sql=describe,
    )
    return plans.Distributed("router", (intermediate,), None)


def _output_names(prepared: prepare.Prepared) -> list[str]:
    """Names for the columns of the whole statement, one each."""
    stmt = prepared.statement.tree
    while stmt.larg is not None:
        stmt = stmt.larg
    level = next(item for item in prepared.scopes.levels if item.stmt is stmt)
    if stmt.valuesLists:
        return [f"c{index}" for index in range(len(stmt.valuesLists[0]))]
    if not stmt.targetList:
        raise spread.Unfit("it has no columns")
    return [f"c{index}" for index in range(len(pieces.outputs(level)))]

"""INSERT into an Orochi table: what goes straight to shards, and what must be computed first.

`Values` are rows of cells that are routed one by one; each shard gets its own INSERT with the
original's ON CONFLICT and RETURNING. `Staged` is anything whose rows only PostgreSQL can make
(SELECT, sub-selects, array elements): they are written to a staging table of the client's session
first. `template` makes the prepared statement of the hot path.

Columns left out get their defaults here, explicitly, so that what must be computed once (sequences,
now()) is computed on the coordinator and nowhere else.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from pglast import ast, enums

from orochi import errors, pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.planner import builtins as functions
from orochi.planner import cells, conflict, heaps, names, parse
from orochi.planner import plan as plans
from orochi.planner import tree as trees
from orochi.sharding import hashing, values

#: More VALUES cells to evaluate than this go through staging: one SELECT has at most 1664 columns.
MAX_EXPRESSIONS = 1000
_MARKER = "orochi_values_marker"
_MARKED = parse.parse_one(f"INSERT INTO t VALUES ('{_MARKER}')")
_SPLIT = re.compile(rf"VALUES \('{_MARKER}'\)")
STAGING = "orochi_staging"
SHARD = "orochi_shard_0"


@dataclasses.dataclass(frozen=True, slots=True)
class Values:
    """Rows to route.

    Attributes:
        columns: the columns that get a value, defaults included, in the order of the cells.
        head, tail: the statement before and after `VALUES (...)`; the head names the shard's
            schema `orochi_shard_0`.
        folded: expressions of the tail to evaluate once; see `conflict`.
        rekeys: it may give an old row another unique key, which rows in stripes may have.
    """

    table: snapshots.Table
    columns: tuple[str, ...]
    rows: tuple[tuple[cells.Cell, ...], ...]
    head: str
    tail: str
    folded: tuple[str, ...]
    returning: bool
    on_conflict: bool
    may_update: bool
    rekeys: bool

    def column_index(self, name: str | None) -> int | None:
        """Where in a row the column's cell is; None if the column gets no value."""
        return self.columns.index(name) if name in self.columns else None


@dataclasses.dataclass(frozen=True, slots=True)
class Staged:
    """Rows to compute into `pg_temp.orochi_staging`, whose identity columns have plain defaults.

    Attributes:
        statement: the INSERT into the staging table, without ON CONFLICT and RETURNING.
        overridden: identity columns whose given values OVERRIDING USER VALUE discards.
        head, tail: of the INSERT into a shard, around its `SELECT`.
        folded: expressions of the tail to evaluate once; see `conflict`.
        rekeys: it may give an old row another unique key, which rows in stripes may have.
    """

    table: snapshots.Table
    statement: parse.Statement
    overridden: tuple[str, ...]
    head: str
    tail: str
    folded: tuple[str, ...]
    returning: bool
    on_conflict: bool
    may_update: bool
    rekeys: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Template:
    """A single-row INSERT of constants and parameters, for any parameters' values.

    Attributes:
        key: the distribution column's value; AnyKey for a table of one shard.
        time: the time column's value, for a hypertable.
        sql: names the shard's schema `orochi_shard_0`.
        direct: the row's chunk may be named in the place of the shard; see `heaps`.
    """

    key: plans.Key
    time: plans.ParamKey | None
    table: int
    sql: str
    returning: bool
    direct: bool = False


class Context(Protocol):
    """What a template is made in."""

    @property
    def snapshot(self) -> snapshots.Snapshot:
        """The catalog."""

    @property
    def search_path(self) -> Sequence[str]:
        """Schemas in lookup order."""

    @property
    def temp_tables(self) -> frozenset[str]:
        """Names of the session's temporary relations that come before them."""

    @property
    def builtins(self) -> functions.Builtins:
        """What nodes know as the coordinator does."""


def resolve(
    relation: trees.Node,
    snapshot: snapshots.Snapshot,
    search_path: Sequence[str],
    temp_tables: frozenset[str] = frozenset(),
) -> snapshots.Table:
    """The Orochi table that a target names.

    Raises:
        UndefinedObject: it is none.
    """
    found = names.find_relation(
        snapshot, tuple(search_path), temp_tables, relation.schemaname, relation.relname
    )
    if isinstance(found, snapshots.Table):
        return found
    if found is not None:
        raise errors.FeatureNotSupported(f'cannot write to view "{relation.relname}" over an Orochi table')
    raise errors.UndefinedObject(f'relation "{relation.relname}" is not an Orochi table', sqlstate="42P01")


def analyze(
    statement: parse.Statement,
    snapshot: snapshots.Snapshot,
    search_path: Sequence[str],
    temp_tables: frozenset[str] = frozenset(),
    known: functions.Builtins | None = None,
) -> Values | Staged:
    """What to do for an INSERT; `known`: see `conflict.prepare`.

    Raises:
        OrochiError: ON CONFLICT changes the distribution column, or the like.
    """
    tree = statement.tree
    table = resolve(tree.relation, snapshot, search_path, temp_tables)
    targets = _targets(tree, table)
    rows = None if targets is None else _value_rows(tree, table, targets)
    tail = conflict.prepare(tree, table, search_path, known)
    if rows is None:
        return _staged(tree, table, tail)
    columns, filled = rows
    count = sum(cell.is_expression for row in filled for cell in row)
    if count > MAX_EXPRESSIONS:
        return _staged(tree, table, tail)
    head, after = _frame(tree, table, columns, tail)
    return Values(
        table=table,
        columns=columns,
        rows=filled,
        head=head,
        tail=after,
        folded=tail.folded,
        returning=tree.returningClause is not None,
        on_conflict=tree.onConflictClause is not None,
        may_update=bool(_assigned(tree)),
        rekeys=bool(_assigned(tree)) and table.rekeyed_by(_assigned(tree)),
    )


def _assigned(tree: trees.Node) -> frozenset[str]:
    """The columns of an old row that ON CONFLICT DO UPDATE sets."""
    clause = tree.onConflictClause
    return frozenset(item.name for item in (clause.targetList or ())) if clause is not None else frozenset()


def staged(
    statement: parse.Statement,
    snapshot: snapshots.Snapshot,
    search_path: Sequence[str],
    temp_tables: frozenset[str] = frozenset(),
) -> Staged:
    """The same, by way of staging in any case."""
    table = resolve(statement.tree.relation, snapshot, search_path, temp_tables)
    return _staged(statement.tree, table, conflict.prepare(statement.tree, table, search_path))


def _targets(tree: trees.Node, table: snapshots.Table) -> tuple[snapshots.Column, ...] | None:
    """The listed columns; None if an element of a column is assigned."""
    if not tree.cols:
        return table.columns
    found = []
    for target in tree.cols:
        if target.indirection:
            return None
        column = table.column(target.name)
        if column is None:
            raise errors.UndefinedColumn(f'column "{target.name}" of relation "{table.name}" does not exist')
        found.append(column)
    return tuple(found)


def _value_rows(
    tree: trees.Node, table: snapshots.Table, targets: tuple[snapshots.Column, ...]
) -> tuple[tuple[str, ...], tuple[tuple[cells.Cell, ...], ...]] | None:
    """Columns and cells, defaults filled in; None if they cannot be told cell by cell."""
    source = tree.selectStmt
    if source is None:
        lists: Sequence[Sequence[trees.Node]] = [()]
        targets = ()
    elif source.valuesLists and not (
        source.sortClause or source.limitCount or source.limitOffset or tree.withClause
    ):
        lists = source.valuesLists
    else:
        return None
    width = len(lists[0])
    if any(len(row) != width for row in lists) or width > len(targets):
        return None  # PostgreSQL has its own words for that
    if any(cells.is_whole_row_source(item) for row in lists for item in row):
        return None
    targets = targets[:width]
    discard = tree.override == enums.OverridingKind.OVERRIDING_USER_VALUE
    given = {
        column.name: at
        for at, column in enumerate(targets)
        if not column.generated and not (discard and column.identity)
    }
    if any(
        column.generated and not isinstance(row[at], ast.SetToDefault)
        for at, column in enumerate(targets)
        for row in lists
    ):
        return None
    kept = [
        c
        for c in table.columns
        if c.name in given or (not c.generated and cells.default(table, c) is not None)
    ]
    rows = tuple(
        tuple(
            _cell(table, column, row[given[column.name]] if column.name in given else None) for column in kept
        )
        for row in lists
    )
    return tuple(column.name for column in kept), rows


def _cell(table: snapshots.Table, column: snapshots.Column, node: trees.Node | None) -> cells.Cell:
    if node is None or isinstance(node, ast.SetToDefault):
        return cells.default(table, column) or cells.NULL
    return cells.make(node, column)


def _frame(
    tree: trees.Node, table: snapshots.Table, columns: Sequence[str], tail: conflict.Tail
) -> tuple[str, str]:
    """The statement's text before and after VALUES."""
    framed = trees.changed(
        tree,
        relation=ast.RangeVar(
            schemaname=SHARD, relname=table.name, inh=True, relpersistence="p", alias=tree.relation.alias
        ),
        cols=tuple(ast.ResTarget(name=name) for name in columns),
        selectStmt=_MARKED.tree.selectStmt,
        withClause=None,
        override=(
            enums.OverridingKind.OVERRIDING_SYSTEM_VALUE
            if any(column.identity for column in table.columns)
            else enums.OverridingKind.OVERRIDING_NOT_SET
        ),
        onConflictClause=tail.on_conflict,
        returningClause=tail.returning,
    )
    parts = _SPLIT.split(_text(framed))
    if len(parts) != 2:
        raise errors.FeatureNotSupported("the INSERT could not be rewritten")
    return parts[0], parts[1]


def _text(node: trees.Node) -> str:
    try:
        return parse.deparse(node)
    except parse.CannotDeparse as error:
        raise errors.FeatureNotSupported(
            "the INSERT could not be rewritten", detail=str(error)[:200]
        ) from error


def _staged(tree: trees.Node, table: snapshots.Table, tail: conflict.Tail) -> Staged:
    discard = tree.override == enums.OverridingKind.OVERRIDING_USER_VALUE
    into = trees.changed(
        tree,
        relation=ast.RangeVar(schemaname="pg_temp", relname=STAGING, inh=True, relpersistence="p"),
        cols=tree.cols,
        override=enums.OverridingKind.OVERRIDING_NOT_SET,
        onConflictClause=None,
        returningClause=None,
    )
    stored = [column.name for column in table.columns if not column.generated]
    head, after = _frame(tree, table, stored, tail)
    return Staged(
        table=table,
        statement=parse.parse_one(_text(into)),  # parsed again: places in the tree refer to the text
        overridden=tuple(c.name for c in table.columns if c.identity) if discard else (),
        head=head,
        tail=after,
        folded=tail.folded,
        returning=tree.returningClause is not None,
        on_conflict=tree.onConflictClause is not None,
        may_update=bool(_assigned(tree)),
        rekeys=bool(_assigned(tree)) and table.rekeyed_by(_assigned(tree)),
    )


def template(statement: parse.Statement, type_oids: tuple[int, ...], context: Context) -> Template | None:
    """The template of a single-row INSERT whose routing needs only its parameters, or None."""
    tree = statement.tree
    try:
        plan = analyze(
            statement, context.snapshot, context.search_path, context.temp_tables, context.builtins
        )
    except errors.OrochiError:
        return None  # let the execution say what is wrong
    if not isinstance(plan, Values) or len(plan.rows) != 1 or plan.folded or tree.withClause:
        return None
    table, row = plan.table, plan.rows[0]
    if table.kind is snapshots.TableKind.REFERENCE or any(cell.is_expression for cell in row):
        return None
    key: plans.Key | None = plans.AnyKey()
    if table.kind is snapshots.TableKind.DISTRIBUTED:
        key = _parameter_key(plan, table.distribution_column, type_oids)
    time = None
    if table.dimension is not None:
        time = _parameter_key(plan, table.dimension.column, type_oids)
        if time is None:
            return None
    if key is None:
        return None
    values_sql = ", ".join(cell.sql for cell in row)
    sql = f"{plan.head}VALUES ({values_sql}){plan.tail}"
    direct = not plan.on_conflict and heaps.are_open(context.snapshot, table)
    return Template(key=key, time=time, table=table.oid, sql=sql, returning=plan.returning, direct=direct)


def _parameter_key(plan: Values, name: str | None, type_oids: tuple[int, ...]) -> plans.ParamKey | None:
    at = plan.column_index(name)
    column = plan.table.column(name or "")
    if at is None or column is None:
        return None
    cell = plan.rows[0][at]
    if not cell.parameter or cell.type_oid < 0 or cell.parameter > len(type_oids):
        return None
    oid = type_oids[cell.parameter - 1]
    if cell.type_oid not in (0, oid):
        return None
    same = oid == column.base_oid and column.typmod < 0
    integers = oid in pgtypes.INTEGERS and column.base_oid in pgtypes.INTEGERS
    texts = {oid, column.base_oid} <= {pgtypes.TEXT, pgtypes.VARCHAR} and column.typmod < 0
    return plans.ParamKey(cell.parameter, oid) if same or integers or texts else None


def choose(
    plan: Template,
    snapshot: snapshots.Snapshot,
    parameters: Sequence[bytes | None],
    formats: Sequence[int],
    settings: Mapping[str, str],
    *,
    alone: bool,
) -> tuple[snapshots.Shard, str] | None:
    """A template's row: its shard, and the schema of the relation to name; None if it must take the long way.

    `alone`: the statement is a transaction by itself.

    That is when its chunk does not exist yet, holds stripes that a unique key must be checked
    against, or only the server can read a value.
    """
    table = snapshot.tables[plan.table]  # type: ignore[index]
    shard = table.shards[0]
    if isinstance(plan.key, plans.ParamKey):
        at = plan.key.number - 1
        hashed = hashing.hash_wire(plan.key.type_oid, parameters[at], formats[at], settings)
        if hashed is None:
            return None
        shard = table.shard_for_hash(hashed)
    if plan.time is not None:
        at = plan.time.number - 1
        value = parameters[at]
        if value is None:
            return None
        raw = values.from_wire(plan.time.type_oid, value, formats[at], values.timezone(settings))
        chunk = chunk_at(shard, raw) if isinstance(raw, int) else None
        if chunk is None or (chunk.stripes and table.unique_keys):
            return None
        if plan.direct and alone:
            return shard, heaps.schema_of(shard, (chunk,))
    elif table.unique_keys and shard.has_stripes:
        return None
    return shard, shard.schema


def chunk_at(shard: snapshots.Shard, raw: int) -> snapshots.Chunk | None:
    """The chunk of `shard` that covers raw time `raw`, or None."""
    low, high = 0, len(shard.chunks)
    while low < high:
        middle = (low + high) // 2
        if shard.chunks[middle].range_end <= raw:
            low = middle + 1
        else:
            high = middle
    if low < len(shard.chunks) and shard.chunks[low].range_start <= raw:
        return shard.chunks[low]
    return None

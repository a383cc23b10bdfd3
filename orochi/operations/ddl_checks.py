"""What DDL may not do to an Orochi table, found from its definition before and after.

PostgreSQL checked the statement against the empty shell. What it could not see is rows: those of
other shards, and those in stripes, which no ALTER TABLE on a node rewrites or validates: they go
back to the heap first (`unstripe`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from orochi import errors, ids
from orochi.catalog import definition as definitions
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import shells
from orochi.planner import tree as trees
from orochi.sharding import colocation


async def allowed(
    session: context.Session,
    table: snapshots.Table,
    before: definitions.Definition,
    after: definitions.Definition,
    rewritten: Collection[str],
) -> None:
    """The change keeps the table distributable; `rewritten`: columns that get other values (USING).

    Raises:
        FeatureNotSupported: the distribution or time column, or a unique key, does not allow it.
        FeatureNotSupported: a foreign key cannot be enforced.
    """
    aggregates = session.snapshot().aggregates_of(table.oid)
    for name, role in _key_columns(table):
        if aggregates and _renamed(before, after, name) != name:
            raise errors.FeatureNotSupported(
                f'cannot rename {role} "{name}": continuous aggregate "{aggregates[0].view[1]}" reads it',
                hint="Drop the aggregate first.",
            )
        _check_key_column(before, after, name, role, rewritten=name in rewritten)
        if role == "time column" or len(table.shards) > 1:
            shells.check_keys(after, _renamed(before, after, name), role)
    for dimension in table.further:
        name = dimension.column
        _check_key_column(before, after, name, "dimension", rewritten=name in rewritten)
    colocation.check_foreign_keys(
        after,
        session.snapshot(),
        distribution_column=None
        if table.distribution_column is None
        else _renamed(before, after, table.distribution_column),
        colocation_id=table.colocation_id,
        node_id=table.shards[0].node_id if table.kind is snapshots.TableKind.SINGLE else None,
    )


async def no_local_references(session: context.Session, oids: Collection[int]) -> None:
    """No foreign key of a local table refers to one of these Orochi tables: it would see an empty shell.

    Raises:
        FeatureNotSupported: one does.
    """
    listed = ", ".join(str(oid) for oid in oids) or "0"
    result = await session.coordinator.query(
        "SELECT k.conname, k.conrelid::regclass, k.confrelid::regclass FROM pg_constraint k"
        f" WHERE k.contype = 'f' AND k.confrelid IN ({listed})"
        " AND NOT EXISTS (SELECT FROM orochi.orochi_tables t WHERE t.table_oid = k.conrelid)"
    )
    for name, local, target in result[-1].rows:
        texts = [(value or b"").decode() for value in (name, local, target)]
        raise errors.FeatureNotSupported(
            f'foreign key "{texts[0]}" of local table {texts[1]} cannot refer to Orochi table {texts[2]}',
            hint=f"Distribute {texts[1]} first.",
        )


def refers_to_shells(node: trees.Node, error: errors.RemoteError) -> None:
    """Say so where a local table's rows were looked for in an empty shell, to which they were to refer.

    Raises:
        FeatureNotSupported: that is what the error is about.
    """
    if error.sqlstate == "23503" and isinstance(node, trees.ast.AlterTableStmt):
        name = node.relation.relname
        raise errors.FeatureNotSupported(
            f'a foreign key of local table "{name}" cannot refer to an Orochi table',
            hint=f"Distribute {name} first.",
        ) from error


async def no_rows_refer(session: context.Session, oid: int, name: str) -> None:
    """No local table has rows whose foreign key is to a table that is about to have its rows elsewhere.

    An empty one may be on its way to become an Orochi table too; as long as it is none, nothing can be inserted.

    Raises:
        FeatureNotSupported: one has.
    """
    result = await session.coordinator.query(
        "SELECT DISTINCT k.conrelid::pg_catalog.regclass FROM pg_catalog.pg_constraint k"
        f" WHERE k.contype = 'f' AND k.confrelid = {oid} AND k.conrelid <> {oid}"
        " AND NOT EXISTS (SELECT FROM orochi.orochi_tables t WHERE t.table_oid = k.conrelid)"
    )
    for (local,) in result[-1].rows:
        text = (local or b"").decode()
        found = await session.coordinator.query(f"SELECT FROM {text} LIMIT 1")
        if found[-1].rows:
            raise errors.FeatureNotSupported(
                f'rows of local table {text} have a foreign key to table "{name}"',
                hint="Drop the foreign key, distribute both tables, and add it again.",
            )


def _key_columns(table: snapshots.Table) -> Iterator[tuple[str, str]]:
    if table.distribution_column is not None:
        yield table.distribution_column, "distribution column"
    if table.dimension is not None:
        yield table.dimension.column, "time column"


def _find(definition: definitions.Definition, attnum: int) -> definitions.Column | None:
    return next((column for column in definition.columns if column.attnum == attnum), None)


def _renamed(before: definitions.Definition, after: definitions.Definition, name: str) -> str:
    column = _find(after, before.column(name).attnum)
    assert column is not None
    return column.name


def _check_key_column(
    before: definitions.Definition, after: definitions.Definition, name: str, role: str, *, rewritten: bool
) -> None:
    former = before.column(name)
    column = _find(after, former.attnum)
    if column is None:
        raise errors.FeatureNotSupported(
            f'cannot drop {role} "{name}" of table "{before.name}"', hint="undistribute_table() first."
        )
    if rewritten or (column.type, column.collation) != (former.type, former.collation):
        raise errors.FeatureNotSupported(
            f'cannot alter the type of {role} "{name}" of table "{before.name}"',
            hint="undistribute_table() first.",
        )
    if role != "distribution column" and not column.not_null:
        raise errors.FeatureNotSupported(
            f'{role} "{name}" must stay NOT NULL', hint="Dimensions cannot have NULL values."
        )


async def needs_heap(
    session: context.Session,
    before: definitions.Definition,
    after: definitions.Definition,
    rewritten: Collection[str],
) -> bool:
    """Whether rows must be looked at or written again, which only PostgreSQL can do, with rows of its own."""
    return (
        bool(rewritten)
        or _of_columns(before, after)
        or _of_keys(before, after)
        or await _of_new_columns(session, before, after)
    )


def _of_columns(before: definitions.Definition, after: definitions.Definition) -> bool:
    for column in after.columns:
        former = _find(before, column.attnum)
        if former is None:
            if column.default is not None or column.identity or column.not_null or column.generated:
                return True
        elif (
            former.name != column.name
            or (former.type, former.collation) != (column.type, column.collation)
            or (column.not_null and not former.not_null)
            or (column.generated and former.default != column.default)
        ):
            return True
    return False


def _of_keys(before: definitions.Definition, after: definitions.Definition) -> bool:
    known = {item.oid for item in before.constraints} | {item.oid for item in before.indexes}
    pending = {item.oid for item in before.constraints if item.definition.endswith(" NOT VALID")}
    return any(
        (item.is_key and item.oid not in known)
        or (not item.definition.endswith(" NOT VALID") and (item.oid not in known or item.oid in pending))
        for item in after.constraints
    ) or any(index.unique and index.oid not in known for index in after.indexes)


async def _of_new_columns(
    session: context.Session, before: definitions.Definition, after: definitions.Definition
) -> bool:
    """A new column may have a domain's default, or find values of a dropped one of its name in old stripes."""
    known = {column.attnum for column in before.columns}
    for column in after.columns:
        if column.attnum in known:
            continue
        rows = await session.catalog_execute(
            "SELECT 1 FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid"
            f" WHERE a.attrelid = {before.oid} AND a.attnum = {column.attnum} AND t.typtype = 'd'"
            " UNION ALL"
            " SELECT 1 FROM orochi.orochi_column_chunks k JOIN orochi.orochi_stripes f USING (stripe_id)"
            " JOIN orochi.orochi_chunks c USING (chunk_id) JOIN orochi.orochi_shards s USING (shard_id)"
            f" WHERE s.table_oid = {ids.TableId(before.oid)}"
            f" AND k.column_name = {definitions.quote_literal(column.name)} LIMIT 1"
        )
        if rows:
            return True
    return False

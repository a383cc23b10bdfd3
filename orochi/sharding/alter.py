"""From a shell's definition before and after DDL to the statements that its shards need.

PostgreSQL has run the statement on the shell, so whatever it allowed, implied, named or defaulted is
in the definition; the shards follow the difference. Objects are matched by OID, columns by number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orochi.catalog import definition as definitions

Definition = definitions.Definition
_quote = definitions.quote


def statements(
    before: Definition,
    after: Definition,
    schema: str,
    *,
    using: Mapping[str, str] | None = None,
    fills: Mapping[str, str] | None = None,
    by_row: Mapping[str, str] | None = None,
    references: Mapping[int, str] | None = None,
    chunk_schemas: Sequence[str] = (),
) -> list[str]:
    """The statements that make a shard's relation in `schema` follow; names as they are before.

    Args:
        before: the shell as it was.
        after: the shell as it is.
        schema: the shard's schema.
        using: the USING expression of columns whose values are to change, be it that their type stays the same.
        fills: for new columns with a default that only the coordinator computes: its value, as SQL.
        by_row: for new columns of which each row gets another value: these, an array of text, as SQL.
        references: schemas of the shards that foreign keys refer to, by the shell's OID.
        chunk_schemas: of the shard's partitions. They follow their parent by themselves, but for
            names: a key or an index that is there already is adopted, with the name it has.
    """
    relation = f"{_quote(schema)}.{_quote(before.name)}"
    chunks = [(chunk, f"{_quote(chunk)}.{_quote(before.name)}") for chunk in chunk_schemas]
    found = [
        *_dropped(before, after, schema, relation),
        *_retyped(before, after, relation, using or {}),
        *_dropped_columns(before, after, relation),
        *_columns(before, after, relation, fills or {}, by_row or {}),
    ]
    for _, chunk in chunks:
        found += _added_indexes(before, after, chunk)
    found += _added_indexes(before, after, relation)  # before foreign keys that may refer to them
    found += _added_constraints(before, after, relation, references or {})
    found += _renamed(before, after, schema, relation, whole=True)
    for chunk_schema, chunk in chunks:
        found += _renamed(before, after, chunk_schema, chunk, whole=False)
    return found


def _dropped(before: Definition, after: Definition, schema: str, relation: str) -> list[str]:
    kept = {item.oid for item in after.constraints}
    found = [
        f"ALTER TABLE {relation} DROP CONSTRAINT IF EXISTS {_quote(item.name)} CASCADE"
        for item in before.constraints
        if item.oid not in kept
    ]
    kept = {item.oid for item in after.indexes}
    found += [
        f"DROP INDEX IF EXISTS {_quote(schema)}.{_quote(item.name)}"
        for item in before.indexes
        if item.oid not in kept
    ]
    return found


def _dropped_columns(before: Definition, after: Definition, relation: str) -> list[str]:
    numbers = {column.attnum for column in after.columns}
    return [
        f"ALTER TABLE {relation} DROP COLUMN IF EXISTS {_quote(column.name)} CASCADE"
        for column in before.columns
        if column.attnum not in numbers
    ]


def _retyped(before: Definition, after: Definition, relation: str, using: Mapping[str, str]) -> list[str]:
    """All in one statement: each USING sees the row as it was."""
    old = {column.attnum: column for column in before.columns}
    defaults, types = [], []
    for column in after.columns:
        former = old.get(column.attnum)
        if former is None or not (_changes_type(former, column) or former.name in using):
            continue
        name = _quote(former.name)
        if _loses_default(former, column):
            defaults.append(f"ALTER COLUMN {name} DROP DEFAULT")
        collate = f" COLLATE {column.collation}" if column.collation is not None else ""
        clause = f" USING {using[former.name]}" if former.name in using else ""
        types.append(f"ALTER COLUMN {name} TYPE {column.type}{collate}{clause}")
    return [f"ALTER TABLE {relation} {', '.join(actions)}" for actions in (defaults, types) if actions]


def _changes_type(former: definitions.Column, column: definitions.Column) -> bool:
    return (former.type, former.collation) != (column.type, column.collation)


def _loses_default(former: definitions.Column, column: definitions.Column) -> bool:
    """It may not cast to the new type."""
    return _changes_type(former, column) and former.node_default is not None and not former.generated


def _columns(
    before: Definition,
    after: Definition,
    relation: str,
    fills: Mapping[str, str],
    by_row: Mapping[str, str],
) -> list[str]:
    old = {column.attnum: column for column in before.columns}
    found = []
    for column in after.columns:
        former = old.get(column.attnum)
        if former is None:
            found += _new_column(column, relation, fills, by_row)
            continue
        if former.name != column.name:
            found.append(
                f"ALTER TABLE {relation} RENAME COLUMN {_quote(former.name)} TO {_quote(column.name)}"
            )
        found += [f"ALTER TABLE {relation} {action}" for action in _actions(former, column)]
    return found


def _new_column(
    column: definitions.Column, relation: str, fills: Mapping[str, str], by_row: Mapping[str, str]
) -> list[str]:
    plain = column.sql().removesuffix(" NOT NULL")
    if column.name in by_row:
        statements = [
            f"ALTER TABLE {relation} ADD COLUMN {plain}",
            _handed_out(column, relation, by_row[column.name]),
        ]
    elif column.name in fills:
        statements = [
            f"ALTER TABLE {relation} ADD COLUMN {plain} DEFAULT {fills[column.name]}",
            f"ALTER TABLE {relation} ALTER COLUMN {_quote(column.name)} DROP DEFAULT",
        ]
    else:
        return [f"ALTER TABLE {relation} ADD COLUMN {column.sql()}"]
    if column.not_null:
        statements.append(f"ALTER TABLE {relation} ALTER COLUMN {_quote(column.name)} SET NOT NULL")
    return statements


def _handed_out(column: definitions.Column, relation: str, values: str) -> str:
    """Each row gets the next of `values`; rows in the same order on all nodes that have them."""
    numbered = f"SELECT tableoid AS part, ctid AS place, row_number() OVER (ORDER BY r::text) AS n FROM {relation} AS r"
    return (
        f"UPDATE {relation} AS r SET {_quote(column.name)} = v.value::{column.type}"
        f" FROM ({numbered}) AS p, unnest({values}) WITH ORDINALITY AS v(value, n)"
        " WHERE r.tableoid = p.part AND r.ctid = p.place AND v.n = p.n"
    )


def _actions(former: definitions.Column, column: definitions.Column) -> list[str]:
    name = _quote(column.name)
    found = []
    default = None if _loses_default(former, column) else former.node_default
    if former.generated and not column.generated:
        found.append(f"ALTER COLUMN {name} DROP EXPRESSION")
    elif column.generated and former.default != column.default:
        found.append(f"ALTER COLUMN {name} SET EXPRESSION AS ({column.default})")
    if not column.generated and default != column.node_default:
        change = "DROP DEFAULT" if column.node_default is None else f"SET DEFAULT {column.node_default}"
        found.append(f"ALTER COLUMN {name} {change}")
    if former.not_null != column.not_null:
        found.append(f"ALTER COLUMN {name} {'SET' if column.not_null else 'DROP'} NOT NULL")
    return found


def _added_constraints(
    before: Definition, after: Definition, relation: str, references: Mapping[int, str]
) -> list[str]:
    """Checks, then foreign keys; those already there may have become valid."""
    old = {item.oid: item for item in before.constraints}
    checks = [item for item in after.constraints if item.type == "c"]
    found = []
    for item in [*checks, *after.foreign_keys()]:
        former = old.get(item.oid)
        if former is None:
            clause = definitions.foreign_key(item, references) if item.type == "f" else item.definition
            found.append(f"ALTER TABLE {relation} ADD CONSTRAINT {_quote(item.name)} {clause}")
        elif former.definition.endswith(" NOT VALID") and not item.definition.endswith(" NOT VALID"):
            found.append(f"ALTER TABLE {relation} VALIDATE CONSTRAINT {_quote(former.name)}")
    return found


def _added_indexes(before: Definition, after: Definition, relation: str) -> list[str]:
    """Keys and other indexes."""
    constraints = {item.oid for item in before.constraints}
    indexes = {item.oid for item in before.indexes}
    return [
        f"ALTER TABLE {relation} ADD CONSTRAINT {_quote(item.name)} {item.definition}"
        for item in after.constraints
        if item.is_key and item.oid not in constraints
    ] + [item.sql(relation) for item in after.indexes if item.oid not in indexes and item.valid]


def _renamed(before: Definition, after: Definition, schema: str, relation: str, *, whole: bool) -> list[str]:
    """Renames; in a partition only what does not follow the parent (`whole` is false)."""
    constraints = {item.oid: item.name for item in before.constraints}
    found = [
        f"ALTER TABLE {relation} RENAME CONSTRAINT {_quote(constraints[item.oid])} TO {_quote(item.name)}"
        for item in after.constraints
        if constraints.get(item.oid, item.name) != item.name and (whole or item.is_key)
    ]
    indexes = {item.oid: item.name for item in before.indexes}
    found += [
        f"ALTER INDEX {_quote(schema)}.{_quote(indexes[item.oid])} RENAME TO {_quote(item.name)}"
        for item in after.indexes
        if indexes.get(item.oid, item.name) != item.name
    ]
    if before.name != after.name:
        found.append(f"ALTER TABLE {relation} RENAME TO {_quote(after.name)}")
    return found

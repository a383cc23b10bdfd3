"""A shell table's definition, and the DDL of relations that hold its rows on nodes.

A shard's relation has the shell's name, columns, constraints and indexes, all under their original
names, in a schema of its own: so PostgreSQL's messages on a node read as they would on the shell.
Left out is what only the coordinator can compute: volatile defaults and identity.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orochi import errors

_GENERATED = {"s": "STORED", "v": "VIRTUAL"}
_KEYS = frozenset("pux")


def quote(name: str) -> str:
    """An SQL identifier, always quoted."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """An SQL string constant, whatever `standard_conforming_strings` is."""
    escaped = text.replace("'", "''")
    return f"E'{escaped.replace(chr(92), chr(92) * 2)}'" if "\\" in text else f"'{escaped}'"


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A column of the shell, types and expressions as SQL with every name qualified.

    `volatility` is that of the default: 'i', 's' or 'v'.
    """

    name: str
    attnum: int
    type: str
    base_oid: int
    not_null: bool
    collation: str | None
    deterministic: bool
    default: str | None
    volatility: str
    identity: str
    generated: str

    @property
    def node_default(self) -> str | None:
        """The default that a node can compute as well as the coordinator."""
        return None if self.generated or self.volatility != "i" else self.default

    def sql(self) -> str:
        """The column as in CREATE TABLE on a node."""
        parts = [quote(self.name), self.type]
        if self.collation is not None:
            parts.append(f"COLLATE {self.collation}")
        if self.generated:
            parts.append(f"GENERATED ALWAYS AS ({self.default}) {_GENERATED[self.generated]}")
        elif self.node_default is not None:
            parts.append(f"DEFAULT {self.node_default}")
        if self.not_null:
            parts.append("NOT NULL")
        return " ".join(parts)


@dataclasses.dataclass(frozen=True, slots=True)
class Constraint:
    """`type` as in pg_constraint; `definition` as `pg_get_constraintdef` prints it."""

    oid: int
    name: str
    type: str
    columns: tuple[str, ...]
    definition: str
    references: int | None = None
    referenced: str | None = None
    referenced_columns: tuple[str, ...] = ()

    @property
    def is_key(self) -> bool:
        """Whether it is a primary key, a unique or an exclusion constraint."""
        return self.type in _KEYS

    def sql_referencing(self, relation: str) -> str:
        """A foreign key's definition with another referenced relation."""
        before, _, after = self.definition.partition(f" REFERENCES {self.referenced}(")
        return f"{before} REFERENCES {relation}({after}"


@dataclasses.dataclass(frozen=True, slots=True)
class Index:
    """An index that belongs to no constraint; `definition` is what follows the relation's name."""

    oid: int
    name: str
    unique: bool
    valid: bool
    columns: tuple[str, ...]
    definition: str

    def sql(self, relation: str) -> str:
        """CREATE INDEX on `relation`."""
        unique = "UNIQUE " if self.unique else ""
        return f"CREATE {unique}INDEX {quote(self.name)} ON {relation} {self.definition}"


@dataclasses.dataclass(frozen=True, slots=True)
class Definition:
    """A table of the coordinator as `orochi._table_definition` describes it.

    Attributes:
        kind: relkind; `catalog_kind` is set when it is an Orochi table already.
        referencing: (constraint, table) of foreign keys that point here from other Orochi tables.
        is_referenced: whether any foreign key of another table points here.
        types: (schema, name, SQL) of user-defined types, in order of creation.
        extensions: (name, schema).
    """

    oid: int
    schema: str
    name: str
    kind: str
    persistence: str
    owner: str
    owned: bool
    is_partition: bool
    inherits: bool
    has_policies: bool
    options: tuple[str, ...]
    catalog_kind: str | None
    is_hypertable: bool
    columns: tuple[Column, ...]
    constraints: tuple[Constraint, ...]
    indexes: tuple[Index, ...]
    referencing: tuple[tuple[str, str], ...]
    is_referenced: bool
    triggers: tuple[str, ...]
    types: tuple[tuple[str, str, str], ...]
    extensions: tuple[tuple[str, str], ...]

    @property
    def relation(self) -> str:
        """The shell's quoted, qualified name."""
        return f"{quote(self.schema)}.{quote(self.name)}"

    def column(self, name: str) -> Column:
        """The column of that name.

        Raises:
            UndefinedColumn: there is none.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise errors.UndefinedColumn(
            f'column "{name}" of relation "{self.name}" does not exist',
            hint=f"It has the columns {', '.join(column.name for column in self.columns)}.",
        )

    def foreign_keys(self) -> tuple[Constraint, ...]:
        """Its foreign keys."""
        return tuple(item for item in self.constraints if item.type == "f")

    def unique_keys(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """(name, columns) of everything that is unique: constraints and indexes."""
        return tuple((item.name, item.columns) for item in self.constraints if item.is_key) + tuple(
            (item.name, item.columns) for item in self.indexes if item.unique
        )


def from_json(data: Mapping[str, Any]) -> Definition:
    """The definition from `orochi._table_definition`'s JSON."""
    return Definition(
        **{
            **data,
            "options": tuple(data["options"]),
            "columns": tuple(Column(**item) for item in data["columns"]),
            "constraints": tuple(_constraint(item) for item in data["constraints"]),
            "indexes": tuple(
                Index(**{**item, "columns": tuple(item["columns"])}) for item in data["indexes"]
            ),
            "referencing": tuple((name, table) for name, table in data["referencing"]),
            "triggers": tuple(data["triggers"]),
            "types": tuple((schema, name, sql) for schema, name, sql in data["types"]),
            "extensions": tuple((name, schema) for name, schema in data["extensions"]),
        }
    )


def _constraint(item: Mapping[str, Any]) -> Constraint:
    return Constraint(
        oid=item["oid"],
        name=item["name"],
        type=item["type"],
        columns=tuple(item["columns"]),
        definition=item["definition"],
        references=item["references"],
        referenced=item["referenced"],
        referenced_columns=tuple(item["referenced_columns"]),
    )


def prerequisites(definition: Definition) -> list[str]:
    """What a node needs before it can have the table: extensions and user-defined types."""
    statements = []
    for name, schema in definition.extensions:
        statements.append(f"CREATE SCHEMA IF NOT EXISTS {quote(schema)}")
        statements.append(f"CREATE EXTENSION IF NOT EXISTS {quote(name)} SCHEMA {quote(schema)}")
    for schema, name, sql in definition.types:
        statements.append(f"CREATE SCHEMA IF NOT EXISTS {quote(schema)}")
        body = f"BEGIN IF to_regtype({quote_literal(name)}) IS NULL THEN {sql}; END IF; END"
        statements.append(f"DO {quote_literal(body)}")
    return statements


def create_relation(
    definition: Definition,
    schema: str,
    *,
    time_column: str | None = None,
    references: Mapping[int, str] | None = None,
) -> list[str]:
    """The DDL of a shard's relation in a new schema.

    Args:
        definition: the shell's.
        schema: the shard's schema on the node.
        time_column: partition by ranges of this column: the shard of a hypertable.
        references: schemas of the shards that foreign keys refer to, by the shell's OID.
    """
    relation = f"{quote(schema)}.{quote(definition.name)}"
    suffix = (
        f" PARTITION BY RANGE ({quote(time_column)})" if time_column is not None else _storage(definition)
    )
    statements = _create(definition, schema, suffix)
    for constraint in definition.foreign_keys():
        clause = foreign_key(constraint, references or {})
        statements.append(f"ALTER TABLE {relation} ADD CONSTRAINT {quote(constraint.name)} {clause}")
    return statements


def foreign_key(constraint: Constraint, references: Mapping[int, str]) -> str:
    """A foreign key's definition between shards; `references` gives schemas by the shell's OID."""
    assert constraint.references is not None
    assert constraint.referenced is not None
    target = f"{quote(references[constraint.references])}.{_unqualified(constraint.referenced)}"
    return constraint.sql_referencing(target)


def create_partition(definition: Definition, parent_schema: str, schema: str, bounds: str) -> list[str]:
    """The DDL of a chunk: made beside the parent and attached, so that it keeps the original names.

    Args:
        definition: the shell's.
        parent_schema: the shard's schema.
        schema: the chunk's schema.
        bounds: as after FOR VALUES.
    """
    parent = f"{quote(parent_schema)}.{quote(definition.name)}"
    child = f"{quote(schema)}.{quote(definition.name)}"
    return [
        *_create(definition, schema, _storage(definition)),
        f"ALTER TABLE {parent} ATTACH PARTITION {child} FOR VALUES {bounds}",
    ]


def insertable(columns: Iterable[Column]) -> list[str]:
    """Quoted names of the columns that rows are copied with: all but generated ones."""
    return [quote(column.name) for column in columns if not column.generated]


def _create(definition: Definition, schema: str, suffix: str) -> list[str]:
    relation = f"{quote(schema)}.{quote(definition.name)}"
    columns = ", ".join(column.sql() for column in definition.columns)
    return [
        f"CREATE SCHEMA {quote(schema)}",
        f"CREATE TABLE {relation} ({columns}){suffix}",
        *(
            f"ALTER TABLE {relation} ADD CONSTRAINT {quote(item.name)} {item.definition}"
            for item in definition.constraints
            if item.type != "f"
        ),
        *(index.sql(relation) for index in definition.indexes if index.valid),
    ]


def _storage(definition: Definition) -> str:
    if not definition.options:
        return ""
    pairs = (option.partition("=") for option in definition.options)
    return f" WITH ({', '.join(f'{name}={quote_literal(value)}' for name, _, value in pairs)})"


def _unqualified(relation: str) -> str:
    """The last part of a qualified name as `quote_ident` prints it."""
    if relation.endswith('"'):
        at = len(relation) - 1
        while True:  # step over doubled quotes to the one that opens the last part
            at = relation.rindex('"', 0, at)
            if at == 0 or relation[at - 1] != '"':
                return relation[at:]
            at -= 1
    return relation.rpartition(".")[2]


def missing_from_keys(definition: Definition, column: str) -> Sequence[str]:
    """Names of the unique keys that do not contain `column`."""
    return [name for name, columns in definition.unique_keys() if column not in columns]

"""Statements that make, change and drop continuous aggregates, read from their trees."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.planner import ddl, names, parse, quoting, tree
from orochi.planner.tree import ast

_TRUE, _FALSE = frozenset({"", "true", "on", "yes", "1"}), frozenset({"false", "off", "no", "0"})
_MATERIALIZED = re.compile(r"\bmaterialized\b", re.IGNORECASE)
_KINDS = frozenset({"OBJECT_MATVIEW", "OBJECT_VIEW"})
_ALTERED = {"OBJECT_MATVIEW": "MATERIALIZED VIEW", "OBJECT_VIEW": "VIEW", "OBJECT_TABLE": "TABLE"}
#: What TimescaleDB's users write, and what changes nothing here.
_IGNORED = frozenset({"create_group_indexes", "finalized", "invalidate_using"})


@dataclasses.dataclass(frozen=True, slots=True)
class Create:
    """CREATE MATERIALIZED VIEW ... WITH (orochi.continuous).

    Attributes:
        name: SQL for the view's name; `columns` the names given to its columns.
        query: its SELECT.
        chunk_interval: an interval, or None.
    """

    name: str
    query: str
    columns: tuple[str, ...] = ()
    materialized_only: bool = False
    with_data: bool = True
    if_not_exists: bool = False
    chunk_interval: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Drop:
    """DROP MATERIALIZED VIEW of continuous aggregates."""

    aggregates: tuple[snapshots.Aggregate, ...]
    cascade: bool
    tag: str


@dataclasses.dataclass(frozen=True, slots=True)
class Alter:
    """ALTER of a continuous aggregate, as a materialised view, a view or a table.

    Attributes:
        materialized_only: what it is set to; None leaves it.
        options: storage options, for the table of its buckets.
        view_sql: the same statement for a view, where PostgreSQL has to do it.
    """

    aggregate: snapshots.Aggregate
    tag: str
    materialized_only: bool | None = None
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    view_sql: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Index:
    """CREATE INDEX on a continuous aggregate.

    Attributes:
        statement: the same on the table of its buckets.
    """

    aggregate: snapshots.Aggregate
    statement: parse.Statement


def create(statement: parse.Statement) -> Create | None:
    """The statement, if it makes a continuous aggregate.

    Raises:
        FeatureNotSupported: an option means nothing here.
    """
    node = statement.tree
    if not isinstance(node, ast.CreateTableAsStmt) or node.objtype.name != "OBJECT_MATVIEW":
        return None
    into = node.into
    own, rest = ddl.split_options(into.options or (), reset=False)
    if not truth(own.pop("continuous", "false")):
        return None
    only, interval = truth(own.pop("materialized_only", "false")), own.pop("chunk_interval", None)
    unknown = sorted(set(own) - _IGNORED)
    if unknown or rest:
        name = unknown[0] if unknown else rest[0].defname
        raise errors.FeatureNotSupported(
            f'option "{name}" of a continuous aggregate is not supported',
            hint="Give continuous, materialized_only or chunk_interval.",
        )
    return Create(
        name=_name(into.rel),
        query=parse.inner(statement).sql,
        columns=tree.strings(into.colNames),
        materialized_only=only,
        with_data=not into.skipData,
        if_not_exists=bool(node.if_not_exists),
        chunk_interval=interval,
    )


def drop(
    statement: parse.Statement, snapshot: snapshots.Snapshot, path: tuple[str, ...], temp: frozenset[str]
) -> Drop | None:
    """The statement, if it drops continuous aggregates.

    Raises:
        FeatureNotSupported: it drops something else as well.
    """
    node = statement.tree
    if not isinstance(node, ast.DropStmt) or node.removeType.name not in _KINDS:
        return None
    found = []
    for item in node.objects:
        parts = tree.strings(item)
        found.append(_find(snapshot, path, temp, parts[-2] if len(parts) > 1 else None, parts[-1]))
    wanted = tuple(item for item in found if item is not None)
    if not wanted:
        return None
    if len(wanted) < len(found):
        raise errors.FeatureNotSupported(
            "continuous aggregates and other views cannot be dropped by one statement", hint="Use two."
        )
    kind = "MATERIALIZED VIEW" if node.removeType.name == "OBJECT_MATVIEW" else "VIEW"
    return Drop(wanted, node.behavior.name == "DROP_CASCADE", f"DROP {kind}")


def alter(
    statement: parse.Statement, snapshot: snapshots.Snapshot, path: tuple[str, ...], temp: frozenset[str]
) -> Alter | None:
    """The statement, if it alters a continuous aggregate."""
    node = statement.tree
    kind = (
        getattr(node, "objtype", None)
        or getattr(node, "renameType", None)
        or getattr(node, "objectType", None)
    )
    relation = getattr(node, "relation", None)
    if (
        relation is None
        or kind is None
        or kind.name not in _ALTERED
        or isinstance(node, ast.CreateTableAsStmt)
    ):
        return None
    aggregate = _find(snapshot, path, temp, relation.schemaname, relation.relname)
    if aggregate is None:
        return None
    tag = f"ALTER {_ALTERED[kind.name]}"
    words = _MATERIALIZED.sub("", statement.sql, count=1) if kind.name == "OBJECT_MATVIEW" else statement.sql
    if not isinstance(node, ast.AlterTableStmt):
        return Alter(aggregate, tag, view_sql=words)
    options: dict[str, str] = {}
    for command in node.cmds:
        if command.subtype.name not in ("AT_SetRelOptions", "AT_ResetRelOptions"):
            return Alter(aggregate, tag, view_sql=words)
        own, rest = ddl.split_options(command.def_, reset=command.subtype.name == "AT_ResetRelOptions")
        if rest:
            raise errors.FeatureNotSupported(
                f'option "{rest[0].defname}" of a continuous aggregate is not supported',
                hint="Give options of orochi or timescaledb.",
            )
        options.update(own)
    only = options.pop("materialized_only", None)
    return Alter(aggregate, tag, None if only is None else truth(only), options)


def index(
    statement: parse.Statement, snapshot: snapshots.Snapshot, path: tuple[str, ...], temp: frozenset[str]
) -> Index | None:
    """The statement, if it makes an index on a continuous aggregate.

    Raises:
        FeatureNotSupported: the index is unique.
    """
    node = statement.tree
    if not isinstance(node, ast.IndexStmt):
        return None
    aggregate = _find(snapshot, path, temp, node.relation.schemaname, node.relation.relname)
    if aggregate is None:
        return None
    if node.unique:
        raise errors.FeatureNotSupported(
            "continuous aggregates do not support UNIQUE indexes",
            hint="Its groups are distinct already: make an index that is not unique.",
        )
    table = snapshot.tables[aggregate.materialization_oid]
    # the user may have renamed columns of the view
    own = dict(
        zip(snapshot.views[aggregate.view].columns, snapshot.views[aggregate.query].columns, strict=True)
    )

    def replace(part: tree.Node) -> tree.Node | None:
        match part:
            case ast.RangeVar():
                return tree.changed(part, schemaname=table.schema, relname=table.name)
            case ast.IndexElem() if part.name:
                return tree.changed(part, name=own.get(part.name, part.name))
            case ast.ColumnRef() if tree.is_column(part):
                name = tree.strings(part.fields)[-1]
                return tree.column(own.get(name, name))
        return None

    return Index(aggregate, parse.parse_one(parse.deparse(tree.transform(node, replace))))


def truth(text: str) -> bool:
    """A boolean option.

    Raises:
        InvalidParameter: it is none.
    """
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise errors.InvalidParameter(f'invalid value for a boolean option: "{text}"')


def _find(
    snapshot: snapshots.Snapshot,
    path: tuple[str, ...],
    temp: frozenset[str],
    schema: str | None,
    name: str,
) -> snapshots.Aggregate | None:
    view = names.find_relation(snapshot, path, temp, schema, name)
    if not isinstance(view, snapshots.View):
        return None
    key = (view.schema, view.name)
    return next((item for item in snapshot.aggregates if item.view == key), None)


def _name(relation: tree.Node) -> str:
    if relation.schemaname:
        return quoting.relation(relation.schemaname, relation.relname)
    return quoting.identifier(relation.relname)

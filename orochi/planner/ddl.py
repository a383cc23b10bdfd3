"""What a DDL statement does to Orochi tables, as far as text must tell: the rest is seen from its effect."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping

from orochi import errors
from orochi.planner import parse, tree

#: Actions of ALTER TABLE that shards can follow, or that concern the shell alone.
_ALTERATIONS = frozenset(
    {
        "AT_AddColumn",
        "AT_ColumnDefault",
        "AT_DropNotNull",
        "AT_SetNotNull",
        "AT_SetExpression",
        "AT_DropExpression",
        "AT_SetStatistics",
        "AT_SetOptions",
        "AT_ResetOptions",
        "AT_SetStorage",
        "AT_SetCompression",
        "AT_DropColumn",
        "AT_AddIndex",
        "AT_AddConstraint",
        "AT_ValidateConstraint",
        "AT_AddIndexConstraint",
        "AT_DropConstraint",
        "AT_AlterColumnType",
        "AT_ChangeOwner",
        "AT_AddIdentity",
        "AT_SetIdentity",
        "AT_DropIdentity",
        "AT_SetAccessMethod",
        "AT_SetRelOptions",
        "AT_ResetRelOptions",
        "AT_ReplicaIdentity",
        # the shell's alone: shards are logged, always, and never clustered
        "AT_SetLogged",
        "AT_SetUnLogged",
        "AT_ClusterOn",
        "AT_DropCluster",
    }
)
_ROW_SECURITY = frozenset(
    {"AT_EnableRowSecurity", "AT_DisableRowSecurity", "AT_ForceRowSecurity", "AT_NoForceRowSecurity"}
)
#: Statements that shards follow; all others concern the coordinator alone.
_FOLLOWED = frozenset({"AlterTableStmt", "IndexStmt", "DropStmt", "RenameStmt"})
_NO_TRIGGERS = (
    "Triggers do not run on shards. Use an INSTEAD OF INSERT trigger on a view, or statements of your own."
)
_REFUSED: Mapping[str, tuple[str, str]] = {
    "CreateTrigStmt": ("triggers on Orochi tables are not supported", _NO_TRIGGERS),
    "RuleStmt": ("rules on Orochi tables are not supported", "Use a view, or rewrite the query."),
}
_NAMESPACES = frozenset({"orochi", "columnar", "timescaledb"})


class Scope(enum.Enum):
    """Where a statement acts."""

    COORDINATOR = "coordinator"
    SHARDS = "shards"


@dataclasses.dataclass(frozen=True, slots=True)
class Ddl:
    """A DDL statement read.

    Attributes:
        sql: what to run on the shell; None if nothing is left of it.
        tag: its command tag when `sql` is None.
        using: USING expressions of ALTER COLUMN TYPE, by column.
        options: Orochi's own storage options, names as written, namespaces cut off.
        concurrently: it asked for CONCURRENTLY, which is left out of `sql`.
    """

    scope: Scope
    sql: str | None
    tag: str = "ALTER TABLE"
    using: Mapping[str, str] = dataclasses.field(default_factory=dict)
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    concurrently: bool = False


def read(statement: parse.Statement) -> Ddl:
    """What `statement`, which names an Orochi table, does.

    Raises:
        FeatureNotSupported: Orochi tables cannot do that.
    """
    node = statement.tree
    kind = type(node).__name__
    if kind in _REFUSED:
        message, hint = _REFUSED[kind]
        raise errors.FeatureNotSupported(message, hint=hint)
    if kind == "CreateStmt" and node.inhRelations:
        raise errors.FeatureNotSupported(
            "a table cannot inherit from an Orochi table", hint="Use LIKE to copy its columns."
        )
    if kind not in _FOLLOWED or _on_the_shell_alone(node):
        return Ddl(Scope.COORDINATOR, statement.sql)
    if kind == "AlterTableStmt":
        return _alter_table(statement)
    if kind in ("IndexStmt", "DropStmt") and node.concurrent:
        return Ddl(Scope.SHARDS, parse.deparse(tree.changed(node, concurrent=False)), concurrently=True)
    return Ddl(Scope.SHARDS, statement.sql)


def _on_the_shell_alone(node: tree.Node) -> bool:
    """Whether it concerns policies, which PostgreSQL applies over the shell."""
    if isinstance(node, tree.ast.AlterTableStmt):
        return all(command.subtype.name in _ROW_SECURITY for command in node.cmds)
    kind = getattr(node, "removeType", None) or getattr(node, "renameType", None)
    return kind is not None and kind.name == "OBJECT_POLICY"


def _alter_table(statement: parse.Statement) -> Ddl:
    node = statement.tree
    kept, options, using = [], {}, {}
    for command in node.cmds:
        name = command.subtype.name
        if name.startswith(
            ("AT_EnableTrig", "AT_DisableTrig", "AT_EnableAlwaysTrig", "AT_EnableReplicaTrig")
        ):
            raise errors.FeatureNotSupported("triggers on Orochi tables are not supported", hint=_NO_TRIGGERS)
        if name not in _ALTERATIONS | _ROW_SECURITY:
            raise errors.FeatureNotSupported(
                "this form of ALTER TABLE is not supported for Orochi tables",
                hint="undistribute_table() first, alter the table, and distribute it again.",
            )
        if name == "AT_AlterColumnType" and command.def_.raw_default is not None:
            using[command.name] = parse.deparse_expression(command.def_.raw_default)
        if name == "AT_SetAccessMethod":
            options["storage_type"] = _storage_of(command.name)
            continue
        if name in ("AT_SetRelOptions", "AT_ResetRelOptions"):
            own, rest = split_options(command.def_, reset=name == "AT_ResetRelOptions")
            options.update(own)
            if own and not rest:
                continue
            command = tree.changed(command, def_=rest) if own else command
        if name in ("AT_SetOptions", "AT_ResetOptions"):
            own, rest = split_options(command.def_, reset=name == "AT_ResetOptions")
            options.update({f"{option}.{command.name}": value for option, value in own.items()})
            if own and not rest:
                continue
            command = tree.changed(command, def_=rest) if own else command
        kept.append(command)
    if not options:
        return Ddl(Scope.SHARDS, statement.sql, using=using)
    sql = parse.deparse(tree.changed(node, cmds=tuple(kept))) if kept else None
    return Ddl(Scope.SHARDS, sql, using=using, options=options)


def _storage_of(method: str | None) -> str:
    """The storage type that an access method stands for; without a name it is the default."""
    if method not in (None, "heap", "columnar"):
        raise errors.FeatureNotSupported(
            f'access method "{method}" is not supported for Orochi tables', hint="Use columnar or heap."
        )
    return "columnar" if method == "columnar" else "row"


def split_options(
    definitions: Iterable[tree.Node], *, reset: bool
) -> tuple[dict[str, str], tuple[tree.Node, ...]]:
    """Orochi's own options, a reset one as '', and PostgreSQL's."""
    own: dict[str, str] = {}
    rest = []
    for item in definitions:
        if item.defnamespace not in _NAMESPACES:
            rest.append(item)
        else:
            own[_option_name(item)] = "" if reset else _option_value(item.arg)
    return own, tuple(rest)


def _option_name(item: tree.Node) -> str:
    name: str = item.defname
    if item.defnamespace == "timescaledb":
        renamed = {"compress_segmentby": "segmentby", "compress_orderby": "orderby"}
        return renamed.get(name, name)
    return name


def _option_value(node: tree.Node) -> str:
    if node is None:
        return "true"
    for attribute in ("sval", "ival", "fval", "boolval"):
        value = getattr(node, attribute, None)
        if value is not None:
            return str(value)
    parts = getattr(node, "names", None)
    return tree.strings(parts)[-1] if parts else ""

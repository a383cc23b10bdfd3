"""Statements that no shard can run alone: rehearsed by PostgreSQL over copies of the rows they may change.

Each table that a statement writes, or whose rows it locks, is stood for by a *copy*: a view in the
client's session over the rows that can matter, each numbered. What it only reads is pulled. The
statement itself stays as the user wrote it, so whatever it does (joins, WITH, MERGE, RETURNING) is
PostgreSQL's own doing; what became of the copies is then done to the shards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from pglast import enums

from orochi import errors, ids
from orochi.catalog import snapshot as snapshots
from orochi.planner import barrier, context, names, parse, prepare, prune, pull, quiet, standins, tree
from orochi.planner import fragment as fragments
from orochi.planner import plan as plans
from orochi.planner.tree import ast

WRITES = (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)


@dataclasses.dataclass(frozen=True, slots=True)
class Copy:
    """A table's rows that a statement may change or lock.

    Attributes:
        name: `orochi_w0`; appears in the SQL as `pg_temp.orochi_w0`.
        shard_indexes: the shards that can hold such rows.
        condition: SQL over the bare columns that the rows fulfil; empty for all rows.
        predicates: implied conditions, to find the stripe rows to recall.
        assigned: columns that may get another value.
        keyed: unique keys may be violated, or pick the row that an INSERT conflicts with.
        is_locked: rows are not changed but locked.
        above: the views through which the statement writes, from the table upwards.
        has_policies: it gets the table's policies, which apply to the session's role.
    """

    name: str
    table: ids.TableId
    shard_indexes: tuple[int, ...]
    condition: str
    predicates: tuple[fragments.Predicate, ...]
    assigned: tuple[str, ...]
    keyed: bool
    is_locked: bool = False
    above: tuple[snapshots.View, ...] = ()
    has_policies: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint that ON CONFLICT names; in the SQL its columns are to be put in the place of `placeholder`."""

    placeholder: str
    table: ids.TableId
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Rehearsal:
    """What to copy, what to read, and what to run over both.

    Attributes:
        reads: its `final_sql` names copies and intermediates.
        lock: for SELECT ... FOR UPDATE: the clause, such as `FOR NO KEY UPDATE NOWAIT`.
    """

    copies: tuple[Copy, ...]
    reads: plans.Distributed
    lock: str = ""
    constraints: tuple[Constraint, ...] = ()


def locks(node: tree.Node) -> bool:
    """Whether the statement asks for row locks."""
    return any(isinstance(part, ast.LockingClause) for part in tree.walk(node))


def writes_inside(
    node: tree.Node,
    snapshot: snapshots.Snapshot,
    search_path: tuple[str, ...],
    temp_tables: frozenset[str] = frozenset(),
) -> bool:
    """Whether a WITH query of the statement modifies an Orochi table."""
    clause = getattr(node, "withClause", None)
    return clause is not None and any(
        isinstance(item.ctequery, WRITES)
        and names.find_relation(
            snapshot,
            search_path,
            temp_tables,
            item.ctequery.relation.schemaname,
            item.ctequery.relation.relname,
        )
        is not None
        for item in clause.ctes
    )


def plan(
    statement: parse.Statement,
    ctx: context.PlanContext,
    views: Sequence[Copy] = (),
    secured: AbstractSet[ids.TableId] = frozenset(),
) -> Rehearsal:
    """The plan of any statement that writes Orochi tables, or locks their rows.

    Args:
        statement: the statement.
        ctx: the planning context.
        views: copies that the statement names already, in place of views that it writes through.
        secured: tables whose policies apply to the session's role. What is only read of them
            PostgreSQL reads itself, over the shell.

    Raises:
        NeedsFolding: provide the values, then call again.
        FeatureNotSupported: it modifies a view, or the like.
    """
    _refuse_views(statement.tree, ctx)
    statement = _without_overridden(statement, ctx)
    prepared = prepare.prepare(statement, ctx)
    _refuse(prepared)
    lock = _lock_clause(prepared)
    copies: dict[ids.TableId, Copy] = {}
    placed: dict[int, str] = {}
    for level, node, table in _targets(prepared):
        known = copies.get(table.oid)
        found = _copy(f"orochi_w{len(copies)}", level, node, table, prepared, secured)
        copies[table.oid] = found if known is None else _joined(known, found, table)
        placed[id(node)] = f"pg_temp.{copies[table.oid].name}"
    locked = _locked_copies(prepared, len(copies), secured) if lock else {}
    placed |= {node_id: f"pg_temp.{found.name}" for node_id, found in locked.items()}
    placed |= _read_over_shells(prepared, secured, placed)
    reads = pull.plan(prepared, "rows are changed as PostgreSQL says", copies=placed)
    return Rehearsal((*views, *copies.values(), *locked.values()), reads, lock, tuple(_constraints(prepared)))


def _read_over_shells(
    prepared: prepare.Prepared, secured: AbstractSet[ids.TableId], placed: Mapping[int, str]
) -> dict[int, str]:
    """Barriers in place of tables that are only read, by the ids of their nodes."""
    found = {}
    used = pull.used_columns(prepared) if secured else {}
    for reference in prepared.references:
        if reference.table.oid in secured and id(reference.node) not in placed:
            columns = tuple(column.name for column in used[id(reference)])
            found[id(reference.node)] = barrier.text(columns, names.qualified(reference.table))
    return found


def _terms(reference: names.Reference, prepared: prepare.Prepared, secured: AbstractSet[ids.TableId]) -> str:
    """The condition by which a copy leaves out rows, before policies do."""
    found = pull.own_terms(reference, prepared)
    if reference.table.oid in secured:
        found = quiet.terms(found, reference.table)
    return " AND ".join(f"({term})" for term in found)


def _constraints(prepared: prepare.Prepared) -> Iterator[Constraint]:
    for level, _, table in _targets(prepared):
        clause = getattr(level.stmt, "onConflictClause", None)
        if clause is not None and clause.infer is not None and clause.infer.conname:
            placeholder = f"{standins.CONSTRAINT}{clause.infer.location}"
            yield Constraint(placeholder, table.oid, clause.infer.conname)


def _targets(prepared: prepare.Prepared) -> Iterator[tuple[names.Level, tree.Node, snapshots.Table]]:
    """Every Orochi table that the statement writes, with the query level and the relation that say so."""
    for level in prepared.scopes.levels:
        if isinstance(level.stmt, WRITES):
            node = level.stmt.relation
            found = _find(node, prepared.ctx)
            if isinstance(found, snapshots.Table):
                yield level, node, found


def _find(node: tree.Node, ctx: context.PlanContext) -> snapshots.Table | snapshots.View | None:
    return names.find_relation(ctx.snapshot, ctx.search_path, ctx.temp_tables, node.schemaname, node.relname)


def _refuse_views(node: tree.Node, ctx: context.PlanContext) -> None:
    for part in tree.walk(node):
        if isinstance(part, WRITES):
            found = _find(part.relation, ctx)
            if isinstance(found, snapshots.View):
                raise errors.FeatureNotSupported(
                    f'cannot modify view "{found.name}" over an Orochi table', hint="Modify the table itself."
                )


def _without_overridden(statement: parse.Statement, ctx: context.PlanContext) -> parse.Statement:
    """MERGE without the identity columns that OVERRIDING USER VALUE takes no notice of."""
    if not isinstance(statement.tree, ast.MergeStmt):
        return statement
    table = _find(statement.tree.relation, ctx)

    def leave_out(node: tree.Node) -> tree.Node | None:
        if not isinstance(node, ast.MergeWhenClause) or node.override.name != "OVERRIDING_USER_VALUE":
            return None
        assert isinstance(table, snapshots.Table)
        columns = node.targetList or tuple(ast.ResTarget(name=column.name) for column in table.columns)
        identities = {column.name for column in table.columns if column.identity}
        pairs = [
            pair for pair in zip(columns, node.values or (), strict=False) if pair[0].name not in identities
        ]
        return tree.changed(
            node,
            override=enums.OverridingKind.OVERRIDING_NOT_SET,
            targetList=tuple(column for column, _ in pairs) or None,
            values=tuple(value for _, value in pairs) or None,
        )

    found = tree.transform(statement.tree, leave_out)
    if found is statement.tree:
        return statement
    try:
        return parse.parse_one(parse.deparse(found))
    except parse.CannotDeparse as error:
        raise errors.FeatureNotSupported(
            "OVERRIDING USER VALUE is not supported in this statement",
            hint="Leave the identity column out of the INSERT.",
        ) from error


def _refuse(prepared: prepare.Prepared) -> None:
    for part in tree.walk(prepared.statement.tree):
        if isinstance(part, ast.CurrentOfExpr):
            raise errors.FeatureNotSupported(
                "WHERE CURRENT OF a cursor over Orochi tables is not supported",
                hint="Name the row by its key.",
            )
        if isinstance(part, ast.InsertStmt):
            for column in tree.walk((part.returningClause or (), part.onConflictClause or ())):
                if (
                    isinstance(column, ast.ColumnRef)
                    and tree.strings(column.fields)[-1] in names.SYSTEM_COLUMNS
                ):
                    raise pull.system_column(tree.strings(column.fields)[-1])
        if isinstance(part, ast.InsertStmt) and part.override.name == "OVERRIDING_USER_VALUE":
            raise errors.FeatureNotSupported(
                "OVERRIDING USER VALUE is not supported in this statement",
                hint="Leave the identity column out of the INSERT.",
            )


def _copy(
    name: str,
    level: names.Level,
    node: tree.Node,
    table: snapshots.Table,
    prepared: prepare.Prepared,
    secured: AbstractSet[ids.TableId],
) -> Copy:
    stmt = level.stmt
    assigned = tuple(dict.fromkeys(_assigned(stmt)))
    keys = {column for key in table.unique_keys for column in key}
    if isinstance(stmt, ast.InsertStmt):
        conflicts = stmt.onConflictClause is not None
        shards = tuple(shard.index for shard in table.shards) if conflicts else ()
        return Copy(name, table.oid, shards, "", (), assigned, conflicts, has_policies=table.oid in secured)
    reference = level.relations[id(node)]
    assert isinstance(reference, names.Reference)
    pruned = prepared.pruned[id(reference)]
    return Copy(
        name=name,
        table=table.oid,
        shard_indexes=_indexes(pruned),
        condition=_terms(reference, prepared, secured),
        predicates=pruned.predicates,
        assigned=assigned,
        keyed=bool(keys.intersection(assigned)),
        has_policies=table.oid in secured,
    )


def _indexes(pruned: prune.Pruned) -> tuple[int, ...]:
    return tuple(shard.index for shard in pruned.shards)


def _joined(first: Copy, second: Copy, table: snapshots.Table) -> Copy:
    """One copy for two writes of the same table: PostgreSQL changes no row twice in one statement."""
    shards = set(first.shard_indexes) | set(second.shard_indexes)
    if not first.shard_indexes or not second.shard_indexes:
        kept = first if first.shard_indexes else second
    else:
        kept = dataclasses.replace(first, condition="", predicates=())
    return dataclasses.replace(
        kept,
        name=first.name,
        shard_indexes=tuple(sorted(shards)),
        assigned=tuple(dict.fromkeys(first.assigned + second.assigned)),
        keyed=first.keyed or second.keyed,
    )


def _assigned(stmt: tree.Node) -> Iterator[str]:
    """The columns that the statement's own SET clauses name."""
    match stmt:
        case ast.UpdateStmt():
            yield from (item.name for item in stmt.targetList)
        case ast.InsertStmt() if stmt.onConflictClause is not None:
            yield from (item.name for item in stmt.onConflictClause.targetList or ())
        case ast.MergeStmt():
            for clause in stmt.mergeWhenClauses:
                if clause.commandType.name == "CMD_UPDATE":
                    yield from (item.name for item in clause.targetList)


_STRENGTHS = {
    "LCS_FORKEYSHARE": "FOR KEY SHARE",
    "LCS_FORSHARE": "FOR SHARE",
    "LCS_FORNOKEYUPDATE": "FOR NO KEY UPDATE",
    "LCS_FORUPDATE": "FOR UPDATE",
}
_POLICIES = {"LockWaitBlock": "", "LockWaitSkip": " SKIP LOCKED", "LockWaitError": " NOWAIT"}


def _lock_clause(prepared: prepare.Prepared) -> str:
    """The strongest of the statement's row locks; none for no lock.

    Raises:
        FeatureNotSupported: some wait and some do not.
    """
    clauses = [
        clause
        for level in prepared.scopes.levels
        if isinstance(level.stmt, ast.SelectStmt)
        for clause in level.stmt.lockingClause or ()
    ]
    if not clauses:
        return ""
    policies = {_POLICIES[clause.waitPolicy.name] for clause in clauses}
    if len(policies) > 1:
        raise errors.FeatureNotSupported(
            "row locks on Orochi tables that wait and others that do not cannot be in one statement",
            hint="Give all of them NOWAIT, SKIP LOCKED, or neither.",
        )
    order = list(_STRENGTHS)
    strongest = max((clause.strength.name for clause in clauses), key=order.index)
    return _STRENGTHS[strongest] + policies.pop()


def _reached(level: names.Level | None) -> bool:
    """Whether a row lock of this query level, or of one that has it in FROM, may reach its tables."""
    while level is not None and isinstance(level.stmt, ast.SelectStmt):
        if level.stmt.lockingClause:
            return True
        if level.place not in ("from", "lateral"):
            return False
        level = level.parent
    return False


def _locked_copies(
    prepared: prepare.Prepared, first: int, secured: AbstractSet[ids.TableId]
) -> dict[int, Copy]:
    """A copy for each mention that may be locked: rows are, where the statement itself locks them."""
    found: dict[int, Copy] = {}
    for reference in prepared.references:
        if reference.target or not _reached(reference.level):
            continue
        pruned = prepared.pruned[id(reference)]
        found[id(reference.node)] = Copy(
            name=f"orochi_w{first + len(found)}",
            table=reference.table.oid,
            shard_indexes=_indexes(pruned),
            condition=_terms(reference, prepared, secured),
            predicates=pruned.predicates,
            assigned=(),
            keyed=False,
            is_locked=True,
            has_policies=reference.table.oid in secured,
        )
    return found

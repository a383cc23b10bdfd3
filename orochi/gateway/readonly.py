"""What a READ ONLY transaction refuses, as PostgreSQL would: nodes and the coordinator are asked too late."""

from __future__ import annotations

from typing import Any

from orochi import errors
from orochi.executor import context
from orochi.planner import names, parse

#: Kinds that write whatever they say, as PostgreSQL calls them.
WRITING = {
    parse.Kind.INSERT: "INSERT",
    parse.Kind.UPDATE: "UPDATE",
    parse.Kind.DELETE: "DELETE",
    parse.Kind.MERGE: "MERGE",
    parse.Kind.TRUNCATE: "TRUNCATE TABLE",
    parse.Kind.CREATE_TABLE_AS: "CREATE TABLE AS",
}
_MODIFYING = {
    "InsertStmt": "INSERT",
    "UpdateStmt": "UPDATE",
    "DeleteStmt": "DELETE",
    "MergeStmt": "MERGE",
}
#: Of DDL what does more than the statement itself; all else PostgreSQL refuses in its own words.
_DDL = {"IndexStmt": "CREATE INDEX", "AlterTableStmt": "ALTER TABLE"}
_STRENGTHS = {
    "LCS_FORKEYSHARE": "FOR KEY SHARE",
    "LCS_FORSHARE": "FOR SHARE",
    "LCS_FORNOKEYUPDATE": "FOR NO KEY UPDATE",
    "LCS_FORUPDATE": "FOR UPDATE",
}


def refuse(session: context.Session, statement: parse.Statement) -> None:
    """Fail if the statement writes; what it writes to the coordinator's own tables is left to PostgreSQL.

    Raises:
        OrochiError: 25006.
    """
    name = _name(statement)
    if name is not None and not _writes_there(session, statement):
        raise errors.OrochiError(f"cannot execute {name} in a read-only transaction", sqlstate="25006")


def _writes_there(session: context.Session, statement: parse.Statement) -> bool:
    """Whether the only table that the statement writes is the coordinator's: a temporary one may be written."""
    tree = statement.tree
    if type(tree).__name__ not in _MODIFYING or _modifies_inside(tree):
        return False
    target = tree.relation
    found = names.find_relation(
        session.snapshot(), session.search_path, session.temp_tables, target.schemaname, target.relname
    )
    return found is None


def _name(statement: parse.Statement) -> str | None:
    tree = statement.tree
    match statement.kind:
        case parse.Kind.COPY:
            return "COPY FROM" if tree.is_from else None
        case parse.Kind.EXPLAIN:
            return _written_by(tree.query) if _analyzes(tree.options) else None
        case parse.Kind.SELECT:
            return _written_by(tree)
        case parse.Kind.DDL:
            return _DDL.get(type(tree).__name__)
        case kind:
            return WRITING.get(kind)


def _written_by(tree: Any) -> str | None:
    """What PostgreSQL calls a statement that can be planned, if it writes."""
    name = type(tree).__name__
    if name in _MODIFYING:
        return _MODIFYING[name]
    if getattr(tree, "lockingClause", None):
        return f"SELECT {_STRENGTHS[tree.lockingClause[0].strength.name]}"
    return "SELECT" if _modifies_inside(tree) else None


def _modifies_inside(tree: Any) -> bool:
    clause = getattr(tree, "withClause", None)
    return clause is not None and any(type(cte.ctequery).__name__ in _MODIFYING for cte in clause.ctes)


def _analyzes(options: Any) -> bool:
    """Whether EXPLAIN runs the statement; the last of several ANALYZE counts."""
    found = False
    for option in options or ():
        if option.defname == "analyze":
            value = getattr(option.arg, "sval", getattr(option.arg, "ival", None))
            found = str(value).lower() not in ("false", "off", "0", "no", "f", "n")
    return found

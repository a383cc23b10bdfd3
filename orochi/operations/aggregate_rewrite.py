"""With `orochi.enable_aggregate_rewrite` on, queries that a continuous aggregate answers read it.

The query is printed by PostgreSQL, as the definitions of aggregates are, by making a view of it that
is rolled back; `planner/answered.py` compares the two. What comes of it is kept for the text. The
aggregate is then read in real time, its history without rows included: the answer is that of the rows.
In blocks of one snapshot, and in those that have written, queries read the rows.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import aggregate_state
from orochi.operations import parameters as bound
from orochi.pgwire import client, messages
from orochi.planner import answered, classify, parse, quoting, sources, tree
from orochi.planner.tree import ast

SETTING = "orochi.enable_aggregate_rewrite"
_TRUE = frozenset({"on", "true", "yes", "1"})
#: Settings that decide what a constant means.
_READING = ("timezone", "datestyle", "intervalstyle")
_KEPT, _QUESTIONS = 500, 40
#: No statement waits longer than this for a query to be printed; then it reads the rows.
_PATIENCE = "500ms"


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """A query over aggregates in the place of one over rows."""

    statement: parse.Statement
    aggregates: tuple[snapshots.Aggregate, ...]


_Key = tuple[str, tuple[str, ...], tuple[str | None, ...]]
_answers: collections.OrderedDict[_Key, tuple[snapshots.Snapshot, Answer | None]] = collections.OrderedDict()


async def find(
    session: context.Session, statement: parse.Statement, parameters: context.Parameters | None
) -> Answer | None:
    """The statement over continuous aggregates; None if it is not wanted, or none answers it for sure."""
    if session.settings.get(SETTING, "off").lower() not in _TRUE or not _may(session):
        return None
    found = session.snapshot()
    tables = classify.tables_in(statement.tree, found, session.search_path, session.temp_tables)
    oids = {table.oid for table in tables}
    if not any(item.table_oid in oids for item in found.aggregates) or session.temp_tables:
        return None
    if aggregate_state.reached(statement.tree, found, session.search_path, session.temp_tables):
        return None  # it says itself what it reads
    try:
        sql = await _with_values(session, statement, parameters)
    except parse.CannotDeparse:
        return None
    key = sql, session.search_path, tuple(session.settings.get(name) for name in _READING)
    known = _answers.get(key)
    if known is None or known[0] is not found:
        some = [sources.source(item, found) for item in found.aggregates if item.table_oid in oids]
        known = found, await _answer(session, sql, [item for item in some if item is not None])
        _answers[key] = known
        while len(_answers) > _KEPT:
            _answers.popitem(last=False)
    return known[1]


def _may(session: context.Session) -> bool:
    """Whether an aggregate's answer is that of the rows: outside of one snapshot, and before the block's own writes."""
    transaction = session.transaction
    if transaction.steady or transaction.wants_snapshot or session.comes_back or session.catalog_is_own:
        return False
    return not transaction.in_block or not (transaction.wrote or transaction.failed)


async def _with_values(
    session: context.Session, statement: parse.Statement, parameters: context.Parameters | None
) -> str:
    """The statement's text, values in the place of parameters."""
    if not any(isinstance(item, ast.ParamRef) for item in tree.walk(statement.tree)):
        return statement.sql
    values = await bound.resolve(session, parameters)

    def value(node: tree.Node) -> tree.Node | None:
        if not isinstance(node, ast.ParamRef):
            return None
        literal = values[node.number - 1]
        if literal is None:
            raise parse.CannotDeparse("a parameter without a value")
        return parse.parse_one(f"SELECT {literal.sql}").tree.targetList[0].val

    return parse.deparse(tree.transform(statement.tree, value))


async def _answer(session: context.Session, sql: str, given: list[sources.Source]) -> Answer | None:
    """Compare a query with what aggregates have, on a connection of Orochi's own: only texts are looked at."""
    if not given:
        return None
    given.sort(key=lambda item: item.aggregate.bucket.slack, reverse=True)
    try:
        async with session.runtime.service() as connection:
            try:
                await connection.query(f"BEGIN; SET LOCAL lock_timeout TO '{_PATIENCE}'")
                made = await _compared(session, connection, sql, tuple(given))
            finally:
                if not connection.closed and not connection.busy:
                    await connection.query("ROLLBACK")
    except errors.OrochiError:
        return None
    return None if made is None else Answer(parse.parse_one(made[0]), made[1])


async def _compared(
    session: context.Session, connection: client.PgConnection, sql: str, given: tuple[sources.Source, ...]
) -> tuple[str, tuple[snapshots.Aggregate, ...]] | None:
    settings = {item: session.settings[item] for item in _READING if item in session.settings}
    path = ", ".join(map(quoting.identifier, session.search_path)) or "''"
    await connection.query(
        f"SET LOCAL search_path TO {path}; "
        + "".join(f"SET LOCAL {item} TO {quoting.text(value)}; " for item, value in settings.items())
    )
    _, fields = await connection.describe(sql, ())
    if not fields:
        return None
    view = f'orochi."printed_{session.query_id}"'
    await connection.query(
        f"CREATE VIEW {view} ({', '.join(answered.output_names(len(fields)))}) AS {sql}\n; "
        + "".join(f"SET LOCAL {item} TO DEFAULT; " for item in (*settings, "search_path"))
    )
    printed = await _printed(connection, view)
    if printed is None:
        return None
    aggregates = await _aggregates_in(connection, printed)
    names = tuple(field.name for field in fields)
    facts: dict[str, bool] = {}
    for _ in range(_QUESTIONS):
        try:
            made = answered.rewritten(printed, names, given, aggregates, facts)
            break
        except answered.NeedsFact as needed:
            facts[needed.sql] = await _holds(connection, needed.sql)
    else:
        return None
    if made is None:
        return None
    _, now = await connection.describe(made[0], ())
    return made if _kinds(now or ()) == _kinds(fields) else None


def _kinds(fields: Sequence[messages.FieldDescription]) -> list[tuple[str, int, int]]:
    return [(field.name, field.type_oid, field.typmod) for field in fields]


async def _printed(connection: client.PgConnection, view: str) -> str | None:
    """The query as PostgreSQL prints it; None if it has parts that are not immutable."""
    oid = f"'{view}'::pg_catalog.regclass"
    answer = await connection.fetch(
        f"SELECT orochi._printed({oid}) WHERE NOT EXISTS (SELECT FROM orochi._unsteady_parts({oid}))"
    )
    return (answer.rows[0][0] or b"").decode() or None if answer.rows else None


async def _aggregates_in(connection: client.PgConnection, printed: str) -> frozenset[str]:
    """The names of functions in a query that mean aggregates for some arguments."""
    calls = {
        tree.strings(item.funcname)[-1]
        for item in tree.walk(parse.parse_one(printed).tree)
        if isinstance(item, ast.FuncCall)
    }
    names = ", ".join(map(quoting.text, sorted(calls))) or "''"
    answer = await connection.fetch(
        f"SELECT DISTINCT proname::text FROM pg_catalog.pg_proc WHERE prokind = 'a' AND proname IN ({names})"
    )
    return frozenset((row[0] or b"").decode() for row in answer.rows)


async def _holds(connection: client.PgConnection, sql: str) -> bool:
    await connection.query("SAVEPOINT asked")
    try:
        return (await connection.fetch(sql)).rows[0][0] == b"t"
    except errors.RemoteError:
        await connection.query("ROLLBACK TO SAVEPOINT asked")
        return False

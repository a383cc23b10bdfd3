"""UPDATE and DELETE that PostgreSQL plans itself over a shell, and so finds rows by their place in it.

What nodes cannot compute (joins, sub-SELECTs, `now()`) in the body of a function comes here from `postgres_fdw` as a
cursor over the candidate rows with their `ctid`, FOR UPDATE; then as one UPDATE or DELETE by `ctid` for each row. The
cursor is over a copy of the rows (see `copies`), locked on their shards, and the places are numbers of our own. Changes
are made to the copy; when the cursor is closed, at the end of PostgreSQL's statement, they are done to the shards.
"""

from __future__ import annotations

import dataclasses
import re
import weakref
from collections.abc import Sequence

import numpy as np

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.executor import context, reduce
from orochi.operations import changes, copies, select
from orochi.pgwire import messages
from orochi.planner import context as planning
from orochi.planner import names, parse, placed
from orochi.planner import tree as trees

_ROUNDS = 50
#: Rows from which on one is looked up by an index.
_MANY = 100
_PLACE = re.compile(rb"\((\d+),1\)")
_IS_OPEN = "SELECT FROM pg_catalog.pg_cursors WHERE name = $1"
_SECURED = "SELECT FROM pg_catalog.pg_class WHERE relrowsecurity AND oid = $1::pg_catalog.oid"


@dataclasses.dataclass(slots=True)
class _Open:
    """A cursor whose rows have places.

    Attributes:
        places: by row number of the copy.
        rows: the row numbers by place, if the rows may be changed.
        changed: whether a row was.
    """

    cursor: str
    copied: copies.Copied
    places: list[int]
    rows: dict[int, int] | None
    changed: bool = False


class Places:
    """The open cursors of one session that comes back from PostgreSQL.

    A row has one place in all cursors that are open at the same time, so that places can be compared.
    """

    def __init__(self) -> None:
        self._open: list[_Open] = []
        self._next = 0

    def add(self, cursor: str, copied: copies.Copied, *, locked: bool) -> _Open:
        """Give places to the rows of a copy."""
        total = len(copied.shards)
        places = list(range(self._next, self._next + total))
        self._next += total
        known: dict[tuple[object, ...], int] = {}
        for item in self._open:
            if item.copied.table.oid == copied.table.oid:
                known.update(zip(_origins(item.copied), item.places, strict=True))
        if known:
            own = zip(_origins(copied), places, strict=True)
            places = [known.get(origin, place) for origin, place in own]
        rows = {place: number for number, place in enumerate(places)} if locked else None
        made = _Open(cursor, copied, places, rows)
        self._open.append(made)
        return made

    def at(self, place: bytes | None) -> tuple[_Open, int]:
        """The cursor and the row's number in its copy.

        Raises:
            FeatureNotSupported: nobody gave such a place.
        """
        found = _PLACE.fullmatch(place or b"")
        number = -1 if found is None else int(found[1])
        for item in self._open:
            if item.rows is not None and number in item.rows:
                return item, item.rows[number]
        raise errors.FeatureNotSupported(
            "rows of an Orochi table have no ctid of their own", hint="Name the row by its key."
        )

    def others(self, table: snapshots.Table) -> list[str]:
        """Names of cursors over rows of this table that may be changed."""
        return [
            item.cursor for item in self._open if item.rows is not None and item.copied.table.oid == table.oid
        ]

    def pop(self, cursor: str) -> _Open | None:
        """The cursor of this name, which is no more."""
        found = next((item for item in self._open if item.cursor == cursor), None)
        if found is not None:
            self._open.remove(found)
        return found

    def has(self, cursor: str | None) -> bool:
        """Whether there is a cursor of this name."""
        return any(item.cursor == cursor for item in self._open)


def _origins(copied: copies.Copied) -> list[tuple[object, ...]]:
    columns = copied.shards.tolist(), copied.relations.tolist(), copied.tids.to_pylist()
    return list(zip(*columns, strict=True))


_places: weakref.WeakKeyDictionary[context.Session, Places] = weakref.WeakKeyDictionary()


def concerns(session: context.Session, statement: parse.Statement) -> bool:
    """Whether this is a CLOSE that is to be run here."""
    found = _places.get(session)
    return found is not None and statement.kind is parse.Kind.CLOSE and found.has(statement.tree.portalname)


async def run(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> bool:
    """Run a statement of the kinds above, of a session that comes back; False if it is another."""
    places = _places.setdefault(session, Places())
    if statement.kind is parse.Kind.DECLARE:
        places.pop(statement.tree.portalname)  # of a transaction that was rolled back
    match statement.kind:
        case parse.Kind.DECLARE if _wants(session, statement):
            await _declare(session, places, statement, parameters, sink)
        case parse.Kind.UPDATE | parse.Kind.DELETE if placed.is_by_place(statement):
            await _change(session, places, statement, parameters, fields, sink)
        case parse.Kind.CLOSE if concerns(session, statement):
            await _close(session, places, statement, sink)
        case parse.Kind.UPDATE | parse.Kind.DELETE:
            found = _find(session, statement.tree.relation)
            if isinstance(found, snapshots.Table):
                await _refuse_twice(session, places, found)
            return False
        case _:
            return False
    return True


def _find(session: context.Session, node: trees.Node) -> snapshots.Table | snapshots.View | None:
    path, temp = session.search_path, session.temp_tables
    return names.find_relation(session.snapshot(), path, temp, node.schemaname, node.relname)


def _wants(session: context.Session, statement: parse.Statement) -> bool:
    """Whether a cursor is over rows with their places: to change them, or whole rows that go with such."""
    if not placed.asks_for_places(statement):
        return False
    query = statement.tree.query
    found = _find(session, query.fromClause[0])
    return placed.locks(statement) or (
        isinstance(found, snapshots.Table) and len(query.targetList) == len(found.columns) + 1
    )


async def _declare(
    session: context.Session,
    places: Places,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    sink: context.Sink,
) -> None:
    coordinator = session.coordinator
    locks = placed.locks(statement)

    def attempt(plan_context: planning.PlanContext) -> placed.Candidates:
        return placed.plan(statement, plan_context)

    for _ in range(_ROUNDS):
        plan = await select.with_folding(session, parameters, attempt)
        if locks:
            await _refuse_twice(session, places, session.snapshot().current(plan.copy.table))
        await copies.recall_rows(session, [plan.copy])
        copied = await copies.make(session, plan.copy)
        numbers = np.arange(len(copied.shards), dtype=np.int64)
        if not locks or len(await changes.lock(session, copied, numbers, "FOR UPDATE")) == len(numbers):
            break
        await _drop(session, copied)
        if session.transaction.isolation != "read committed":
            raise errors.SerializationFailure("could not serialize access due to concurrent update")
    else:
        raise errors.SerializationFailure(
            "rows changed again and again while the statement ran", hint="Run the transaction again."
        )
    opened = places.add(plan.cursor, copied, locked=locks)
    if len(numbers) > _MANY and locks:
        await coordinator.query(f"CREATE UNIQUE INDEX ON pg_temp.{copied.base} ({copies.NUMBER.name})")
    listed = ",".join(map(str, opened.places))
    place = f"pg_catalog.format('(%s,1)', ('{{{listed}}}'::pg_catalog.int8[])[orochi_row + 1])"
    sql = plan.sql(f"pg_temp.{copied.base}", place)
    tag = await coordinator.stream(sql, (), (), (), sink.formats, sink.rows)
    await sink.complete(tag)


async def _refuse_twice(session: context.Session, places: Places, table: snapshots.Table) -> None:
    """A volatile function that changes the rows that the statement which calls it is changing.

    Raises:
        FeatureNotSupported: it does.
    """
    for cursor in places.others(table):
        found = await session.coordinator.fetch(_IS_OPEN, (cursor.encode(),), (0,))
        if found.rows:
            raise errors.FeatureNotSupported(
                f'a volatile function changes table "{table.name}", which the statement that calls it is changing',
                hint="Change it before or after that statement.",
            )


async def _change(
    session: context.Session,
    places: Places,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> None:
    assert parameters is not None
    opened, number = places.at(parameters.values[0])
    if statement.kind is parse.Kind.UPDATE:
        await _refuse_policies(session, opened.copied.table)
        assigned = tuple(dict.fromkeys((*opened.copied.plan.assigned, *placed.assigned(statement))))
        keys = {column for key in opened.copied.table.unique_keys for column in key}
        opened.copied.plan = dataclasses.replace(
            opened.copied.plan, assigned=assigned, keyed=bool(keys.intersection(assigned))
        )
    opened.changed = True
    sql = placed.on_copy(statement, f"pg_temp.{opened.copied.base}", number, opened.copied.loaded)
    if fields is not None:
        await sink.columns(fields)
    tag = await session.coordinator.stream(
        sql, parameters.values, parameters.formats, parameters.type_oids, sink.formats, sink.rows
    )
    await sink.complete(tag)


async def _refuse_policies(session: context.Session, table: snapshots.Table) -> None:
    """PostgreSQL does not look at WITH CHECK of a policy where it updates a foreign table."""
    found = await session.coordinator.fetch(_SECURED, (str(table.oid).encode(),), (0,))
    if found.rows:
        raise errors.FeatureNotSupported(
            f'UPDATE of table "{table.name}", which has row-level security, is not supported in this place',
            hint="Send it through the gateway as a statement of its own, on the table itself.",
        )


async def _close(
    session: context.Session, places: Places, statement: parse.Statement, sink: context.Sink
) -> None:
    opened = places.pop(statement.tree.portalname)
    tag = (await session.coordinator.query(statement.sql))[-1].tag
    assert opened is not None
    if opened.changed:
        await changes.apply(session, await copies.observe(session, opened.copied))
    await _drop(session, opened.copied)
    await sink.complete(tag)


async def _drop(session: context.Session, copied: copies.Copied) -> None:
    await session.coordinator.query(f"DROP VIEW pg_temp.{copied.view}")
    await reduce.drop_temp(session.coordinator, [f"pg_temp.{copied.base}"])

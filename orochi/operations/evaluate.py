"""Values that only PostgreSQL can tell, computed on the client's own session.

Results come back in binary and go to nodes in binary, so nothing is lost or read twice on the way.
What has a type of the coordinator's own travels as text, which is what input functions take.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Sequence

from orochi import pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import writes
from orochi.planner import cells as plan_cells
from orochi.planner import quoting
from orochi.sharding import values

Row = tuple[plan_cells.Cell, ...]
NO_PARAMETERS = context.Parameters((), (), ())


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluated:
    """Rows without expressions: each became a parameter after the client's own."""

    rows: tuple[Row, ...]
    parameters: context.Parameters


@contextlib.asynccontextmanager
async def one_moment(session: context.Session, wanted: bool) -> AsyncIterator[None]:
    """One transaction of the coordinator for what is evaluated inside, so that now() is the same in all of it.

    Nothing is done if it is not `wanted`, or if the client's transaction is open there.
    """
    coordinator = session.coordinator
    if not wanted or coordinator.status != "I":
        yield
        return
    await coordinator.query("BEGIN")
    try:
        yield
    except BaseException:
        if not coordinator.closed and not coordinator.busy:
            await coordinator.query("ROLLBACK")
        raise
    await coordinator.query("COMMIT")


async def expressions(
    session: context.Session,
    rows: Sequence[Row],
    columns: Sequence[snapshots.Column],
    parameters: context.Parameters | None,
) -> Evaluated:
    """Evaluate every expression of `rows`, in order, by one SELECT."""
    given = parameters or NO_PARAMETERS
    given = dataclasses.replace(given, formats=writes.all_formats(given))
    wanted = [
        (cell, column)
        for row in rows
        for cell, column in zip(row, columns, strict=True)
        if cell.is_expression
    ]
    if not wanted:
        return Evaluated(tuple(rows), given)
    sql = "SELECT " + ", ".join(cell.sql for cell, _ in wanted)
    formats = tuple(int(column.type_oid < pgtypes.FIRST_NORMAL_OID) for _, column in wanted)
    bound = _bind_for_coordinator(sql, given)
    result = await session.coordinator.fetch(sql, *bound, formats)
    types = [_type_for_node(field.type_oid) for field in result.fields]
    extended = context.Parameters(
        given.values + result.rows[0], given.formats + formats, given.type_oids + tuple(types)
    )
    numbers = iter(range(len(given.values) + 1, len(extended.values) + 1))
    replaced = tuple(
        tuple(_as_parameter(next(numbers)) if cell.is_expression else cell for cell in row) for row in rows
    )
    return Evaluated(replaced, extended)


async def folded(session: context.Session, sqls: Sequence[str]) -> dict[int, str]:
    """Each expression evaluated once, as a typed SQL literal."""
    if not sqls:
        return {}
    inner = ", ".join(f"{sql} AS v{at}" for at, sql in enumerate(sqls))
    outer = ", ".join(f"v{at}::text, pg_catalog.pg_typeof(v{at})::text" for at in range(len(sqls)))
    # OFFSET keeps the planner from evaluating an expression twice
    result = await session.coordinator.fetch(f"SELECT {outer} FROM (SELECT {inner} OFFSET 0) orochi_once")
    row = [None if value is None else value.decode() for value in result.rows[0]]
    found = {}
    for at in range(len(sqls)):
        text, type_name = row[2 * at], row[2 * at + 1]
        value = "NULL" if text is None else quoting.text(text)
        found[at] = f"CAST({value} AS {type_name})"
    return found


async def carrier_values(
    session: context.Session,
    evaluated: Evaluated,
    at: int | None,
    column: snapshots.Column,
    timezone: str,
) -> list[int | str | bytes | None]:
    """What each row stores in `column`, in carrier form, where `at` is the position of its cell.

    NULLs where the column gets no value. Where only the server can tell, it is asked.
    """
    if at is None:
        return [None] * len(evaluated.rows)
    found: list[int | str | bytes | None] = []
    asked: list[int] = []
    for number, row in enumerate(evaluated.rows):
        cell = row[at]
        value = None if is_null(cell, evaluated.parameters) else known(cell, column, evaluated, timezone)
        if value is None and not is_null(cell, evaluated.parameters):
            asked.append(number)
        found.append(value)
    for start in range(0, len(asked), 1000):
        part = asked[start : start + 1000]
        sql = "SELECT " + ", ".join(
            f"CAST({evaluated.rows[number][at].sql} AS {column.type_name})" for number in part
        )
        bound = _bind_for_coordinator(sql, evaluated.parameters)
        result = await session.coordinator.fetch(sql, *bound, (1,))
        for number, data in zip(part, result.rows[0], strict=True):
            found[number] = None if data is None else values.from_wire(column.base_oid, data, 1)
    return found


def is_null(cell: plan_cells.Cell, parameters: context.Parameters) -> bool:
    """Whether a cell without expressions is NULL for certain."""
    return cell.is_null or bool(cell.parameter and parameters.values[cell.parameter - 1] is None)


def known(
    cell: plan_cells.Cell, column: snapshots.Column, evaluated: Evaluated, timezone: str
) -> int | str | bytes | None:
    """What assigning a cell to `column` stores, if that needs no server."""
    if cell.type_oid < 0:
        return None
    target = column.base_oid
    value: int | str | bytes | None
    if cell.parameter:
        at = cell.parameter - 1
        data, oid = evaluated.parameters.values[at], evaluated.parameters.type_oids[at]
        if data is None or (cell.type_oid and cell.type_oid != oid):
            return None
        value = values.from_wire(oid, data, evaluated.parameters.formats[at], timezone)
    elif cell.text is not None:
        # a bare string is read as the column's type, without its length limit
        oid = target if cell.type_oid == pgtypes.UNKNOWN else cell.type_oid
        value = values.from_text(oid, cell.text, timezone)
    else:
        return None
    return None if value is None else values.convert(value, oid, target, column.typmod)


def _as_parameter(number: int) -> plan_cells.Cell:
    return plan_cells.Cell(f"${number}", parameter=number)


def _type_for_node(oid: int) -> int:
    return 0 if oid >= pgtypes.FIRST_NORMAL_OID else oid


def _bind_for_coordinator(sql: str, parameters: context.Parameters) -> writes.Bound:
    """All parameters, with the types that the coordinator itself inferred."""
    used = writes.referenced(sql)
    if not used:
        return writes.NOTHING_BOUND
    oids = tuple(
        oid or (0 if at + 1 in used else pgtypes.TEXT) for at, oid in enumerate(parameters.type_oids)
    )
    return parameters.values, parameters.formats, oids

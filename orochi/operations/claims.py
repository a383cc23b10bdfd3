"""Taking rows out of stripes: a row belongs to the transaction that enters it in the delete vector.

The delete vector's primary key decides between transactions that want the same row. One that comes
second finds it gone, or waits for the first to end; who is not to wait for rows (NOWAIT, SKIP LOCKED) does
not wait here either. What was claimed is inserted into the shard's heap by the same transaction, so
that every reader sees it once.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orochi import errors
from orochi.engine import copybinary
from orochi.pgwire import client
from orochi.planner import fragment as fragments
from orochi.planner import quoting

#: How long PostgreSQL waits for a lock that it is not to wait for; 0 would mean for ever.
_AT_ONCE_MS = 100
#: After so many waits for others' rows, what is left is skipped as it lies together.
_MOST_WAITS = 40
_SAVEPOINT = "orochi_claim"

_CLAIM = """
INSERT INTO orochi_data.delete_vectors (stripe_id, row_number)
SELECT * FROM unnest($1::pg_catalog.int8[], $2::pg_catalog.int4[])
ON CONFLICT DO NOTHING RETURNING stripe_id, row_number
"""


class Others(enum.Enum):
    """What to do about rows that another transaction has, which may keep them for long."""

    AWAIT = ""
    REFUSE = "NOWAIT"
    SKIP = "SKIP LOCKED"

    @classmethod
    def of(cls, clause: str) -> Others:
        """As a locking clause, such as `FOR UPDATE NOWAIT`, says."""
        return next(item for item in (cls.REFUSE, cls.SKIP, cls.AWAIT) if clause.endswith(item.value))


async def claimed(
    connection: client.PgConnection, name: str, columns: int, batch: pa.RecordBatch, others: Others
) -> pa.RecordBatch:
    """Claim stripe rows of the table `name`; those that we got: their stripe and number come after `columns`.

    Raises:
        RemoteError: 55P03, another transaction has one, and `others` says to refuse.
    """
    match others:
        case Others.AWAIT:
            return await _claim(connection, columns, batch)
        case Others.REFUSE:
            async with _at_once(connection):
                try:
                    return await _claim(connection, columns, batch)
                except errors.RemoteError as error:
                    if error.sqlstate != "55P03":
                        raise
                    message = f'could not obtain lock on row in relation "{name}"'
                    raise errors.RemoteError(
                        {"S": "ERROR", "V": "ERROR", "C": "55P03", "M": message}
                    ) from error
        case Others.SKIP:
            async with _at_once(connection):
                return await _claim_free(connection, columns, batch)


async def moved(
    connection: client.PgConnection,
    relation: str,
    columns: tuple[fragments.OutputColumn, ...],
    batch: pa.RecordBatch,
    *,
    logged: bool,
) -> int:
    """Insert claimed rows into the heap; how many there were.

    Where triggers log what writes change (`logged`), they are told that rows only move.
    """
    if not batch.num_rows:
        return 0
    kept = batch.select(list(range(len(columns))))
    names = ", ".join(quoting.identifier(column.name) for column in columns)
    if logged:
        await connection.query("SET LOCAL orochi.moving_rows = on")
    await connection.copy_in(
        f"COPY {relation} ({names}) FROM STDIN (FORMAT binary)", [copybinary.encode(kept, columns)]
    )
    if logged:
        await connection.query("SET LOCAL orochi.moving_rows = off")
    return int(batch.num_rows)


async def _claim(connection: client.PgConnection, columns: int, batch: pa.RecordBatch) -> pa.RecordBatch:
    stripe_ids = batch.column(columns).to_numpy(zero_copy_only=False).astype(np.int64)
    numbers = batch.column(columns + 1).to_numpy(zero_copy_only=False).astype(np.int64)
    found = await connection.fetch(_CLAIM, (_array(stripe_ids), _array(numbers)), (0, 0), (0, 0), (1, 1))
    got = np.array([_position(row) for row in found.rows], np.int64)
    return batch.filter(pa.array(np.isin((stripe_ids << 32) | numbers, got)))


async def _claim_free(connection: client.PgConnection, columns: int, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Claim what nobody else has, by halves where somebody has something."""
    todo, got, waits = [batch], [batch.slice(0, 0)], 0
    while todo:
        part = todo.pop()
        await connection.query(f"SAVEPOINT {_SAVEPOINT}")
        try:
            got.append(await _claim(connection, columns, part))
        except errors.RemoteError as error:
            if error.sqlstate != "55P03":
                raise
            await connection.query(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
            waits += 1
            if part.num_rows > 1 and waits < _MOST_WAITS:
                half = part.num_rows // 2
                todo += [part.slice(half), part.slice(0, half)]
        await connection.query(f"RELEASE SAVEPOINT {_SAVEPOINT}")
    return pa.concat_batches(got)


@contextlib.asynccontextmanager
async def _at_once(connection: client.PgConnection) -> AsyncIterator[None]:
    """Within it no lock is waited for; an error ends the transaction, or is rolled back inside of it."""
    result = await connection.query("SHOW lock_timeout")
    former = quoting.text((result[-1].rows[0][0] or b"0").decode())
    await connection.query(f"SET LOCAL lock_timeout = '{_AT_ONCE_MS}ms'")
    yield
    await connection.query(f"SET LOCAL lock_timeout = {former}")


def _position(row: tuple[bytes | None, ...]) -> int:
    stripe, number = row
    return (int.from_bytes(stripe or b"", "big") << 32) | int.from_bytes(number or b"", "big")


def _array(values: npt.NDArray[Any]) -> bytes:
    return ("{" + ",".join(map(str, values.tolist())) + "}").encode()

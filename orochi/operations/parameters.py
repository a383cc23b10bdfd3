"""Bound parameters as typed SQL literals, exactly: text is kept, binary goes through PostgreSQL."""

from __future__ import annotations

import struct

from orochi import pgtypes
from orochi.executor import context
from orochi.planner import literals

_BINARY = {pgtypes.INT2: ">h", pgtypes.INT4: ">i", pgtypes.INT8: ">q"}


async def resolve(
    session: context.Session, parameters: context.Parameters | None
) -> tuple[literals.Literal | None, ...]:
    """One literal for each parameter, None for NULL.

    A binary value of any but the simplest types, and the name of any type, is asked of the
    coordinator: its output function is the only exact one.
    """
    if parameters is None or not parameters.values:
        return ()
    texts: list[str | None] = []
    asked: list[int] = []
    for index, (value, fmt, oid) in enumerate(
        zip(parameters.values, parameters.formats, parameters.type_oids, strict=True)
    ):
        text = None if value is None else _local_text(value, fmt, oid)
        texts.append(text)
        if value is not None and text is None:
            asked.append(index)
    if asked:
        for index, text in zip(asked, await _ask(session, parameters, asked), strict=True):
            texts[index] = text
    names = await _type_names(session, parameters.type_oids)
    return tuple(
        literals.Literal(type_oid=oid, type_name=names[oid], text=text)
        for text, oid in zip(texts, parameters.type_oids, strict=True)
    )


def _local_text(value: bytes, fmt: int, oid: int) -> str | None:
    if fmt == 0 or oid in pgtypes.CHARACTER:
        return value.decode()
    if oid in _BINARY:
        return str(struct.unpack(_BINARY[oid], value)[0])
    if oid == pgtypes.BOOL:
        return "t" if value != b"\0" else "f"
    return None


async def _ask(
    session: context.Session, parameters: context.Parameters, asked: list[int]
) -> list[str | None]:
    sql = "SELECT " + ", ".join(f"${number}::text" for number in range(1, len(asked) + 1))
    result = await session.coordinator.fetch(
        sql,
        tuple(parameters.values[index] for index in asked),
        tuple(parameters.formats[index] for index in asked),
        tuple(parameters.type_oids[index] for index in asked),
    )
    return [None if value is None else value.decode() for value in result.rows[0]]


_NAMES: dict[int, str] = {
    pgtypes.BOOL: "boolean",
    pgtypes.INT2: "smallint",
    pgtypes.INT4: "integer",
    pgtypes.INT8: "bigint",
    pgtypes.FLOAT4: "real",
    pgtypes.FLOAT8: "double precision",
    pgtypes.TEXT: "text",
    pgtypes.VARCHAR: "character varying",
    pgtypes.NUMERIC: "numeric",
    pgtypes.DATE: "date",
    pgtypes.TIMESTAMP: "timestamp without time zone",
    pgtypes.TIMESTAMPTZ: "timestamp with time zone",
    pgtypes.UUID: "uuid",
    pgtypes.JSONB: "jsonb",
    pgtypes.BYTEA: "bytea",
    pgtypes.UNKNOWN: "text",
}


async def _type_names(session: context.Session, oids: tuple[int, ...]) -> dict[int, str]:
    names = {oid: _NAMES[oid] for oid in oids if oid in _NAMES}
    missing = sorted({oid for oid in oids if oid not in names})
    for oid in missing:
        # Qualified, whatever the session's search_path.
        result = await session.coordinator.fetch(
            "SELECT quote_ident(n.nspname) || '.' || quote_ident(t.typname) FROM pg_catalog.pg_type t "
            f"JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = {oid}"
        )
        names[oid] = (result.rows[0][0] or b"").decode()
    return names

"""How a table's rows are laid out and compressed in stripes: options of tables, columns and sessions.

An option that no stripe could be written with is refused when it is set. Stripes there are stay as
they are; `recompress_chunk` writes them anew. A new table takes `orochi.compression`,
`orochi.compression_level` and the row limits from the session's settings.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from orochi import errors, pgtypes
from orochi.catalog import definition as definitions
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import shells
from orochi.storage.columnar import sorting
from orochi.storage.compression import chooser, registry
from orochi.timeseries import stripes

_TRUE = frozenset({"true", "on", "yes", "1", "t", "y"})
_STORAGE_TYPES = ("row", "columnar")
PLAIN = frozenset({"compression", "compression_level", "stripe_row_limit", "chunk_group_row_limit"})


async def follow_names(
    session: context.Session,
    table: snapshots.Table,
    before: definitions.Definition,
    after: definitions.Definition,
) -> None:
    """Column names in the table's storage settings follow the columns."""
    now = {column.attnum: column.name for column in after.columns}
    names = {column.name: now.get(column.attnum) for column in before.columns}
    segmentby = [new for old in table.segmentby if (new := names.get(old)) is not None]
    orderby = []
    for text in table.orderby:
        key = sorting.SortKey.parse(text)
        new = names.get(key.column)
        if new is not None:
            orderby.append(order_text(dataclasses.replace(key, column=new)))
    await _follow_columns(session, table, names)
    if segmentby != list(table.segmentby) or any(new != old for old, new in names.items() if new is not None):
        await session.catalog_execute(
            f"UPDATE orochi.orochi_tables SET segmentby = {_array(segmentby)}, orderby = {_array(orderby)}"
            f" WHERE table_oid = {table.oid}"
        )


async def _follow_columns(
    session: context.Session, table: snapshots.Table, names: Mapping[str, str | None]
) -> None:
    """The same for options of single columns."""
    changed = {old: new for old, new in names.items() if new != old}
    if not changed:
        return
    old_names = _array([f"{stripes.COLUMN_OPTION}{name}" for name in changed])
    renamed = json.dumps({f"{stripes.COLUMN_OPTION}{old}": new for old, new in changed.items() if new})
    await session.catalog_execute(
        "UPDATE orochi.orochi_tables SET options = (options - " + old_names + ") || coalesce((SELECT"
        f" jsonb_object_agg('{stripes.COLUMN_OPTION}' || n.value, options -> n.key)"
        f" FROM jsonb_each_text({definitions.quote_literal(renamed)}::jsonb) n WHERE options ? n.key), '{{}}')"
        f" WHERE table_oid = {table.oid} AND options ?| {old_names}"
    )


def order_text(key: sorting.SortKey) -> str:
    """A sort key as the catalog keeps it."""
    nulls = "" if key.nulls_first is None else " nulls first" if key.nulls_first else " nulls last"
    return f"{definitions.quote(key.column)}{' desc' if key.descending else ''}{nulls}"


def _array(items: list[str]) -> str:
    return f"ARRAY[{', '.join(definitions.quote_literal(item) for item in items)}]::text[]"


async def set_options(session: context.Session, table: snapshots.Table, options: Mapping[str, str]) -> None:
    """Storage options of ALTER TABLE ... SET (orochi....); a reset one is ''."""
    shell = await shells.definition(session, table.oid)
    if not shell.owned:
        raise errors.OrochiError(f"must be owner of table {shell.name}", sqlstate="42501")
    changes = []
    plain = {name: value for name, value in options.items() if name in PLAIN or _is_of_column(name)}
    for name, value in options.items():
        if name == "segmentby":
            columns = [shell.column(part).name for part in _names(value)]
            changes.append(f"segmentby = {_array(columns)}")
        elif name == "orderby":
            keys = [sorting.SortKey.parse(part) for part in _names(value, keep_words=True)]
            for key in keys:
                shell.column(key.column)
            changes.append(f"orderby = {_array([order_text(key) for key in keys])}")
        elif name == "storage_type":
            if value and value not in _STORAGE_TYPES:
                raise errors.InvalidParameter(
                    f'unknown storage_type "{value}"', hint="It is row or columnar."
                )
        elif _is_of_column(name):
            _check_fits(shell.column(name.removeprefix(stripes.COLUMN_OPTION)), value)
        elif name == "compress":
            plain[name] = "true" if value.lower() in _TRUE else ""
        elif name not in PLAIN:
            raise errors.InvalidParameter(
                f'unrecognized parameter "orochi.{name}"',
                hint=f"Parameters are segmentby, orderby, storage_type, {', '.join(sorted(PLAIN))}.",
            )
    kept = {name: value for name, value in plain.items() if value}
    _check_write_options(kept)
    if plain:
        gone = _array([name for name, value in plain.items() if not value])
        added = definitions.quote_literal(json.dumps(kept))
        changes.append(f"options = (options - {gone}) || {added}::jsonb")
    if changes:
        await session.catalog_execute(
            f"UPDATE orochi.orochi_tables SET {', '.join(changes)} WHERE table_oid = {table.oid}"
        )


async def defaults(session: context.Session) -> str:
    """The options of a new table, from the session's settings: a jsonb literal.

    Raises:
        InvalidParameter: a setting is not valid.
    """
    found = {name: value for name in PLAIN if (value := session.settings.get(f"orochi.{name}"))}
    _check_write_options(found)
    return f"{definitions.quote_literal(json.dumps(found))}::jsonb"


def _is_of_column(name: str) -> bool:
    return name.startswith(stripes.COLUMN_OPTION)


def _check_fits(column: definitions.Column, named: str) -> None:
    """Whether a column can be compressed as it is asked to be; '' and block compressors fit all.

    Raises:
        InvalidParameter: 22023, the codec does not exist or is for other types.
    """
    fitting = chooser.fitting(pgtypes.carrier(column.base_oid))
    if column.base_oid != pgtypes.NUMERIC:
        fitting = tuple(name for name in fitting if name != "numeric")
    if not named or named in chooser.COMPRESSIONS or named in fitting:
        return
    known = f"It is one of {', '.join((*chooser.COMPRESSIONS, *fitting))}."
    if named not in registry.CODEC_IDS:
        raise errors.InvalidParameter(f'unknown compression "{named}"', hint=known)
    raise errors.InvalidParameter(
        f'compression "{named}" does not fit column "{column.name}" of type {column.type}', hint=known
    )


def _check_write_options(options: dict[str, str]) -> None:
    try:
        stripes.write_options(options)
    except ValueError as error:
        raise errors.InvalidParameter(f"invalid storage parameter: {error}") from error


def _names(text: str, *, keep_words: bool = False) -> list[str]:
    """The comma-separated parts of an option, quoted names respected."""
    parts, current, quoted = [], "", False
    for character in text:
        quoted ^= character == '"'
        if character == "," and not quoted:
            parts.append(current)
            current = ""
        else:
            current += character
    parts = [part.strip() for part in [*parts, current] if part.strip()]
    return parts if keep_words else [sorting.SortKey.parse(part).column for part in parts]

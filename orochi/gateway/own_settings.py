"""Orochi's own settings, of which PostgreSQL knows nothing: to it any `orochi.x` is a placeholder.

Their values are checked when they are set, and SHOW gives the default of one that is not. What is checked here is
what SET says by a statement of its own; by another way (`set_config()`, ALTER ROLE) a wrong value is met where the
setting is used.
"""

from __future__ import annotations

import re

from orochi import errors
from orochi import settings as process_settings
from orochi.catalog import definition
from orochi.pgwire import messages
from orochi.planner import parse, select
from orochi.storage.columnar import writer
from orochi.storage.compression import chooser, registry

_PREFIX = "orochi."
_WORDS = {
    "orochi.compression": (*chooser.COMPRESSIONS, *registry.CODEC_IDS),
    "orochi.force_strategy": select.STRATEGIES,
    "orochi.frozen_reads": ("error", "skip", "wait"),
}
_SWITCHES = frozenset(
    {
        "orochi.direct_compress",
        "orochi.enable_aggregate_rewrite",
        "orochi.enable_tiering",
        "orochi.enable_vectorized_execution",
        "orochi.snapshot_reads",
    }
)
#: Numbers, with the least that makes sense.
_NUMBERS = {
    "orochi.cache_size_mb": 0,
    "orochi.chunk_group_row_limit": 1,
    "orochi.compression_level": 1,
    "orochi.default_shard_count": 1,
    "orochi.parallel_workers": 1,
    "orochi.small_query_bytes": 0,
    "orochi.stripe_row_limit": 1,
}
_MOST = 2**31 - 1
#: What a process is started with; OROCHI_<NAME> says it.
_OF_PROCESSES = frozenset({"orochi.cache_size_mb"})
_OFF = frozenset({"orochi.enable_aggregate_rewrite", "orochi.snapshot_reads"})
_SHOW = re.compile(
    rb"\s*show\s+(?:orochi|\"orochi\")\s*\.\s*(?:([a-z_]+)|\"([a-z_]+)\")\s*;?\s*", re.IGNORECASE
)
_BOOLEANS = frozenset({"on", "off", "true", "false", "yes", "no", "1", "0"})


def _default(name: str) -> str:
    """What the setting is where nobody has set it.

    Raises:
        KeyError: there is none of that name.
    """
    plain = name.removeprefix(_PREFIX)
    match name:
        case "orochi.compression" | "orochi.force_strategy":
            return "auto"
        case "orochi.compression_level":
            return str(writer.WriteOptions().level)
        case "orochi.frozen_reads":
            return "error"
        case "orochi.chunk_group_row_limit" | "orochi.stripe_row_limit":
            return str(getattr(writer.WriteOptions(), plain))
        case _ if name in _SWITCHES:
            return "off" if name in _OFF else "on"
        case _ if name in _NUMBERS:
            return str(getattr(process_settings.get(), plain))
        case _:
            raise KeyError(name)


def shown(sql: bytes) -> bytes:
    """A SHOW of one of Orochi's settings as the SELECT that also knows its default; another text as it is."""
    found = _SHOW.fullmatch(sql)
    if found is None:
        return sql
    name = _PREFIX + (found[1] or found[2]).decode().lower()
    try:
        default = _default(name)
    except KeyError:
        return sql
    setting = f"nullif(pg_catalog.current_setting('{name}', true), '')"
    return f'SELECT coalesce({setting}, {definition.quote_literal(default)}) AS "{name}"'.encode()


def shown_by(payload: bytes) -> bytes:
    """A Parse message's payload, `shown`."""
    if b"orochi" not in payload[:200].lower():
        return payload
    parsed = messages.parse_parse(payload)
    sql = shown(parsed.sql)
    return payload if sql is parsed.sql else messages.parse(parsed.name, sql, parsed.type_oids)[5:]


def is_set(statement: parse.Statement) -> bool:
    """Whether the statement gives one of Orochi's settings a value."""
    tree = statement.tree
    return (
        statement.kind is parse.Kind.SET
        and tree.kind.name == "VAR_SET_VALUE"
        and (tree.name or "").lower().startswith(_PREFIX)
    )


def check(statement: parse.Statement) -> None:
    """Fail as PostgreSQL would for a setting of its own with such values.

    Raises:
        InvalidParameter: 22023.
    """
    name = statement.tree.name.lower()
    if name in _OF_PROCESSES:
        variable = name.upper().replace(".", "_")
        raise errors.OrochiError(
            f'parameter "{name}" cannot be changed without restarting Orochi',
            sqlstate="55P02",
            hint=f"Start gateway and workers with {variable} set.",
        )
    if len(statement.tree.args or ()) != 1:
        if name in _WORDS or name in _SWITCHES or name in _NUMBERS:
            raise errors.InvalidParameter(f"SET {name} takes only one argument")
        return
    value = getattr(statement.tree.args[0], "val", None)
    text = next(
        (
            str(found)
            for field in ("sval", "ival", "fval")
            if (found := getattr(value, field, None)) is not None
        ),
        "",
    )
    if name in _WORDS:
        if text and text.lower() not in _WORDS[name]:
            raise errors.InvalidParameter(
                f'invalid value for parameter "{name}": "{text}"',
                hint=f"Available values: {', '.join(_WORDS[name])}.",
            )
    elif name in _SWITCHES:
        if text.lower() not in _BOOLEANS:
            raise errors.InvalidParameter(f'parameter "{name}" requires a Boolean value')
    elif name in _NUMBERS:
        _check_number(name, text)


def _check_number(name: str, text: str) -> None:
    try:
        number = int(text)
    except ValueError:
        raise errors.InvalidParameter(f'invalid value for parameter "{name}": "{text}"') from None
    if not _NUMBERS[name] <= number <= _MOST:
        raise errors.InvalidParameter(
            f'{number} is outside the valid range for parameter "{name}" ({_NUMBERS[name]} .. {_MOST})'
        )

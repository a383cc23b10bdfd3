"""Values of Orochi's own settings, checked when they are set: to PostgreSQL any `orochi.x` is a placeholder.

What is checked here is what SET says by a statement of its own; by another way (`set_config()`, ALTER ROLE) a wrong
value is met where the setting is used.
"""

from __future__ import annotations

from orochi import errors
from orochi.planner import parse, select
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
    "orochi.cache_size_mb": 1,
    "orochi.chunk_group_row_limit": 1,
    "orochi.default_shard_count": 1,
    "orochi.parallel_workers": 1,
    "orochi.small_query_bytes": 0,
    "orochi.stripe_row_limit": 1,
}
_MOST = 2**31 - 1
_BOOLEANS = frozenset({"on", "off", "true", "false", "yes", "no", "1", "0"})


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

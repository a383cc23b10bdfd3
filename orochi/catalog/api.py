r"""The functions that only the gateway can run: one table of signatures, two functions from each.

`orochi.<name>` has the real signature and refuses, so that parse analysis, `\df` and error messages
are PostgreSQL's; its twin `orochi._call_<name>` has the same signature and returns the call as
JSON. The gateway puts the twin in the place of the function, runs the statement on the client's
session, where PostgreSQL resolves names, defaults and casts, and executes the calls it gets back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from orochi import errors
from orochi.catalog import api_aggregates, definition


@dataclasses.dataclass(frozen=True, slots=True)
class Function:
    """One overload.

    Attributes:
        arguments: (name, type, default as SQL or None).
        returns: as after RETURNS; a TABLE(...) or SETOF type may give several rows for one call.
        body: SQL that answers where no gateway does (in views and bodies, on direct connections); such a
            function only reads, so it may be called anywhere in a SELECT.
    """

    name: str
    arguments: tuple[tuple[str, str, str | None], ...]
    returns: str = "void"
    body: str | None = None


_BOOL_FALSE = ("boolean", "false")
_BOOL_TRUE = ("boolean", "true")
_TIME = "orochi.time_value"
_SIZES = "table_bytes bigint, index_bytes bigint, toast_bytes bigint, total_bytes bigint, node_name name"
_COMMANDS = "TABLE ({} bigint, success boolean, result text)"


def _on_chunk(name: str, flag: str) -> Iterator[Function]:
    for chunk_type in ("text", "bigint"):
        yield Function(name, (("chunk", chunk_type, None), (flag, *_BOOL_TRUE)), "text")


def _tiers() -> Iterator[Function]:
    for chunk_type in ("text", "bigint"):
        yield Function("move_chunk_to_tier", (("chunk", chunk_type, None), ("tier", "text", None)), "text")
    yield Function(
        "set_tiering_policy",
        (
            ("relation", "regclass", None),
            ("hot_after", _TIME, "'1 day'"),
            ("warm_after", _TIME, "'7 days'"),
            ("cold_after", _TIME, "'30 days'"),
            ("adaptive", *_BOOL_FALSE),
            ("recall_reads", "integer", "10"),
            ("idle_after", "interval", "'1 day'"),
            ("schedule_interval", "interval", "NULL"),
        ),
        "integer",
    )
    yield Function("remove_tiering_policy", (("relation", "regclass", None), ("if_exists", *_BOOL_FALSE)))


def _dimensions() -> Iterator[Function]:
    """What makes a hypertable be divided by a second column, or adds that later."""
    yield Function(
        "create_hypertable",
        (
            ("relation", "regclass", None),
            ("time_column_name", "name", None),
            ("partitioning_column", "name", None),
            ("number_partitions", "integer", None),
            ("chunk_time_interval", _TIME, "NULL"),
            ("if_not_exists", *_BOOL_FALSE),
            ("migrate_data", *_BOOL_TRUE),
            ("create_default_indexes", *_BOOL_TRUE),
        ),
        "TABLE (hypertable_id integer, schema_name name, table_name name, created boolean)",
    )
    yield Function(
        "add_dimension",
        (
            ("hypertable", "regclass", None),
            ("column_name", "name", None),
            ("number_partitions", "integer", "NULL"),
            ("chunk_time_interval", _TIME, "NULL"),
            ("if_not_exists", *_BOOL_FALSE),
        ),
        "TABLE (dimension_id integer, schema_name name, table_name name, column_name name, created boolean)",
    )
    yield Function(
        "add_dimension",
        (
            ("hypertable", "regclass", None),
            ("dimension", "orochi.dimension_info", None),
            ("if_not_exists", *_BOOL_FALSE),
        ),
        "TABLE (dimension_id integer, created boolean)",
    )


def _chunks() -> Iterator[Function]:
    """The chunks of hypertables."""
    yield Function(
        "drop_chunks",
        (
            ("relation", "regclass", None),
            ("older_than", _TIME, "NULL"),
            ("newer_than", _TIME, "NULL"),
            ("verbose", *_BOOL_FALSE),
            ("created_before", _TIME, "NULL"),
            ("created_after", _TIME, "NULL"),
        ),
        "SETOF text",
    )
    yield Function(
        "set_chunk_time_interval",
        (
            ("hypertable", "regclass", None),
            ("chunk_time_interval", _TIME, None),
            ("dimension_name", "name", "NULL"),
        ),
    )
    yield Function(
        "set_integer_now_func",
        (
            ("hypertable", "regclass", None),
            ("integer_now_func", "regproc", None),
            ("replace_if_exists", *_BOOL_FALSE),
        ),
    )
    yield Function(
        "hypertable_size",
        (("hypertable", "regclass", None),),
        "bigint",
        "SELECT sum(size_bytes)::bigint FROM orochi.orochi_shards WHERE table_oid = hypertable",
    )
    yield Function("hypertable_detailed_size", (("hypertable", "regclass", None),), f"TABLE ({_SIZES})")
    yield Function(
        "chunks_detailed_size",
        (("hypertable", "regclass", None),),
        f"TABLE (chunk_schema name, chunk_name name, {_SIZES})",
    )


def _policies() -> Iterator[Function]:
    for name, relation, age in (
        ("compression", "hypertable", "compress_after"),
        ("retention", "relation", "drop_after"),
    ):
        yield Function(
            f"add_{name}_policy",
            (
                (relation, "regclass", None),
                (age, _TIME, None),
                ("if_not_exists", *_BOOL_FALSE),
                ("schedule_interval", "interval", "NULL"),
                ("initial_start", "timestamptz", "NULL"),
                ("timezone", "text", "NULL"),
            ),
            "integer",
        )
    yield Function(
        "remove_compression_policy",
        (("hypertable", "regclass", None), ("if_exists", *_BOOL_FALSE)),
        "boolean",
    )
    # what retention policies call: some chunks of a table, by their ids
    yield Function(
        "_drop_chunks", (("relation", "regclass", None), ("chunk_ids", "bigint[]", None)), "SETOF text"
    )
    yield Function("remove_retention_policy", (("relation", "regclass", None), ("if_exists", *_BOOL_FALSE)))
    yield Function("run_maintenance", ())


_JOB_ROW = (
    "TABLE (job_id integer, schedule_interval interval, max_runtime interval, max_retries integer,"
    " retry_period interval, scheduled boolean, config jsonb, next_start timestamptz, check_config text,"
    " fixed_schedule boolean, initial_start timestamptz, timezone text, application_name text)"
)


def _jobs() -> Iterator[Function]:
    yield Function(
        "add_job",
        (
            ("proc", "regproc", None),
            ("schedule_interval", "interval", None),
            ("config", "jsonb", "NULL"),
            ("initial_start", "timestamptz", "NULL"),
            ("scheduled", *_BOOL_TRUE),
            ("check_config", "regproc", "NULL"),
            ("fixed_schedule", *_BOOL_TRUE),
            ("timezone", "text", "NULL"),
            ("job_name", "text", "NULL"),
        ),
        "integer",
    )
    yield Function(
        "alter_job",
        (
            ("job_id", "integer", None),
            ("schedule_interval", "interval", "NULL"),
            ("max_runtime", "interval", "NULL"),
            ("max_retries", "integer", "NULL"),
            ("retry_period", "interval", "NULL"),
            ("scheduled", "boolean", "NULL"),
            ("config", "jsonb", "NULL"),
            ("next_start", "timestamptz", "NULL"),
            ("if_exists", *_BOOL_FALSE),
            ("check_config", "regproc", "NULL"),
            ("fixed_schedule", "boolean", "NULL"),
            ("initial_start", "timestamptz", "NULL"),
            ("timezone", "text", "NULL"),
            ("job_name", "text", "NULL"),
        ),
        _JOB_ROW,
    )
    yield Function("delete_job", (("job_id", "integer", None),))
    yield Function("run_job", (("job_id", "integer", None),))


def _overloads() -> Iterator[Function]:
    yield Function(
        "create_distributed_table",
        (
            ("table_name", "regclass", None),
            ("distribution_column", "text", None),
            ("shard_count", "integer", "NULL"),
            ("colocate_with", "text", "NULL"),
        ),
    )
    yield Function(
        "create_distributed_table",
        (
            ("table_name", "regclass", None),
            ("distribution_column", "text", None),
            ("distribution_type", "text", None),
            ("colocate_with", "text", "NULL"),
            ("shard_count", "integer", "NULL"),
        ),
    )
    yield Function("create_reference_table", (("table_name", "regclass", None),))
    yield Function("undistribute_table", (("table_name", "regclass", None),))
    yield Function(
        "create_hypertable",
        (
            ("relation", "regclass", None),
            ("time_column_name", "name", None),
            ("chunk_time_interval", _TIME, "NULL"),
            ("if_not_exists", *_BOOL_FALSE),
            ("migrate_data", *_BOOL_TRUE),
            ("create_default_indexes", *_BOOL_TRUE),
        ),
        "TABLE (hypertable_id integer, schema_name name, table_name name, created boolean)",
    )
    yield Function(
        "create_hypertable",
        (
            ("relation", "regclass", None),
            ("dimension", "orochi.dimension_info", None),
            ("create_default_indexes", *_BOOL_TRUE),
            ("if_not_exists", *_BOOL_FALSE),
            ("migrate_data", *_BOOL_TRUE),
        ),
        "TABLE (hypertable_id integer, created boolean)",
    )
    yield from _dimensions()
    yield from _on_chunk("compress_chunk", "if_not_compressed")
    yield from _on_chunk("decompress_chunk", "if_compressed")
    yield from _on_chunk("recompress_chunk", "if_not_compressed")
    yield from _tiers()
    yield from _chunks()
    yield from _policies()
    yield from _jobs()
    for name in ("add_node", "citus_add_node"):
        yield Function(
            name,
            (
                ("hostname", "text", None),
                ("port", "integer", "5432"),
                ("dbname", "text", "current_database()"),
            ),
            "integer",
        )
    yield Function("remove_node", (("node_id", "integer", None),))
    yield Function("run_command_on_nodes", (("command", "text", None),), _COMMANDS.format("node_id"))
    yield Function(
        "run_command_on_shards",
        (("table_name", "regclass", None), ("command", "text", None)),
        _COMMANDS.format("shard_id"),
    )


FUNCTIONS: tuple[Function, ...] = (
    *_overloads(),
    *(Function(*signature) for signature in api_aggregates.SIGNATURES),
)

#: Where functions stand once more, for the search_path.
SCHEMA = "orochi_api"
#: What the classifier looks for in a statement.
NAMES: frozenset[str] = frozenset(function.name for function in FUNCTIONS)
#: Functions that change nothing and return one value.
READING: frozenset[str] = frozenset(function.name for function in FUNCTIONS if function.body is not None)


def result_columns(name: str, width: int | None = None) -> tuple[tuple[str, str], ...] | None:
    """(name, type) of the columns of a function that returns TABLE; None if it returns a plain type.

    Args:
        name: the function.
        width: how many columns, where overloads differ.
    """
    for function in FUNCTIONS:
        if function.name == name and function.returns.startswith("TABLE ("):
            parts = [part.strip().split(" ", 1) for part in function.returns[len("TABLE (") : -1].split(",")]
            if width is None or len(parts) == width:
                return tuple((part[0], part[1]) for part in parts)
    return None


def result_type(name: str) -> str:
    """The type of a function that returns a plain type, SETOF left off."""
    return next(function.returns for function in FUNCTIONS if function.name == name).removeprefix("SETOF ")


def twin(name: str) -> str:
    """The name of the function that describes a call of `name`."""
    return f"_call_{name}"


def install_sql() -> str:
    """SQL that creates every function and its twin."""
    return "\n".join(_render(function) for function in FUNCTIONS)


#: What a body of a function, procedure or DO block may call: it is done in a transaction of its own.
IN_BODIES = frozenset(
    {
        "compress_chunk",
        "decompress_chunk",
        "drop_chunks",
        "move_chunk_to_tier",
        "recompress_chunk",
        "refresh_continuous_aggregate",
        "run_job",
        "run_maintenance",
    }
)


def from_body(name: str, arguments: Mapping[str, tuple[str, str | None]]) -> str:
    """The SELECT of a call that a body made; `arguments`: type and text of each, by name.

    Raises:
        UndefinedObject: it is none that bodies may make.
    """
    if name in IN_BODIES:
        for function in FUNCTIONS:
            known = {(argument, kind) for argument, kind, _ in function.arguments}
            if function.name == name and known == {(each, kind) for each, (kind, _) in arguments.items()}:
                listed = ", ".join(
                    f'"{each}" => '
                    + ("NULL" if text is None else definition.quote_literal(text))
                    + f"::{kind}"
                    for each, (kind, text) in arguments.items()
                )
                return f"SELECT orochi.{name}({listed})"
    raise errors.UndefinedObject(f'no function "{name}" is called like that', sqlstate="42883")


def _relayed(function: Function) -> str:
    """The body of a function that the gateway does for another body, and nobody at the top of a statement."""
    pairs = ", ".join(
        f"'{name}', jsonb_build_array('{kind}', {function.name}.\"{name}\"{'::oid' if kind == 'regclass' else ''}::text)"
        for name, kind, _ in function.arguments
    )
    call = f"orochi._from_body('{function.name}', jsonb_build_object({pairs}), context) AS answer"
    match function.returns:
        case "void":
            answered = f"PERFORM answer FROM {call}"
        case kind if kind.startswith("SETOF "):
            answered = f"RETURN QUERY SELECT answer FROM {call}"
        case _:
            answered = f"RETURN (SELECT answer FROM {call})"
    return f"""plpgsql AS $body$
DECLARE
    context text;
BEGIN
    GET DIAGNOSTICS context = PG_CONTEXT;
    {answered};
END $body$"""


def _refusal(function: Function) -> str:
    if function.body is not None:
        return f"sql STABLE AS $body$ {function.body} $body$"
    if function.name in IN_BODIES:
        return _relayed(function)
    columns = result_columns(function.name) or ()
    if {name for name, _, _ in function.arguments} & {name for name, _ in columns}:
        # PL/pgSQL would take an argument and a column of one name for one variable
        nulls = ", ".join(f"NULL::{kind}" for _, kind in columns)
        return f"sql AS $body$ SELECT orochi._refuse_call('{function.name}'); SELECT {nulls} $body$"
    return f"""plpgsql AS $body$
BEGIN
    PERFORM orochi._refuse_call('{function.name}');
END $body$"""


def _render(function: Function) -> str:
    arguments = ", ".join(
        f'"{name}" {kind}' + (f" DEFAULT {default}" if default is not None else "")
        for name, kind, default in function.arguments
    )
    pairs = ", ".join(
        f"'{name}', orochi._argument({twin(function.name)}.\"{name}\")" for name, _, _ in function.arguments
    )
    return f"""
CREATE OR REPLACE FUNCTION orochi.{function.name}({arguments}) RETURNS {function.returns}
LANGUAGE {_refusal(function)};
CREATE OR REPLACE FUNCTION orochi.{twin(function.name)}({arguments}) RETURNS jsonb
LANGUAGE sql AS $body$
    SELECT jsonb_build_object('function', '{function.name}', 'arguments', jsonb_build_object({pairs}))
$body$;
"""

"""Which functions exist on every node alike, and where calls of them may run.

The table is read once from a server's own catalog (`QUERY`). A function that is not in it may be a
user's: it exists on the coordinator only, and the statement part that calls it stays there.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping, Sequence

from orochi.catalog import api

QUERY = """
SELECT n.nspname::text, p.proname::text, string_agg(DISTINCT p.provolatile::text, ''),
       string_agg(DISTINCT p.prokind::text, ''), bool_or(p.proretset)::text
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname IN ('pg_catalog', 'orochi') GROUP BY 1, 2
UNION ALL
SELECT 'type', t.typname::text, '', 't', 'false' FROM pg_catalog.pg_type t
WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typrelid = 0
UNION ALL
SELECT DISTINCT 'user', p.proname::text, '', 'u', 'false' FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname NOT IN ('pg_catalog', 'orochi', 'orochi_api', 'information_schema') AND p.prokind IN ('f', 'a', 'w')
  AND NOT EXISTS (SELECT FROM pg_catalog.unnest(p.proargtypes) a JOIN pg_catalog.pg_type t ON t.oid = a
                  WHERE t.typnamespace <> 'pg_catalog'::regnamespace)
"""

#: Stable functions whose answer is one value for a statement and depends on the client's session:
#: they are evaluated once, there. `age` of one argument reads the clock too, but is not a constant.
FOLDED = frozenset(
    {
        "now",
        "transaction_timestamp",
        "statement_timestamp",
        "current_setting",
        "current_database",
        "current_schema",
        "current_schemas",
        "current_catalog",
        "current_user",
        "session_user",
        "version",
        "pg_backend_pid",
        "inet_client_addr",
        "inet_client_port",
        "inet_server_addr",
        "inet_server_port",
    }
)

#: Stable functions that depend on nothing but their arguments and settings that every node
#: connection is given (TimeZone, DateStyle, IntervalStyle, ...).
SESSION_STABLE = frozenset(
    {
        "age",
        "array_to_json",
        "array_to_string",
        "concat",
        "concat_ws",
        "convert",
        "convert_from",
        "convert_to",
        "date",
        "date_add",
        "date_bin",
        "date_part",
        "date_subtract",
        "date_trunc",
        "extract",
        "format",
        "generate_series",
        "interval",
        "json_agg",
        "json_agg_strict",
        "json_build_array",
        "json_build_object",
        "json_object_agg",
        "json_object_agg_strict",
        "jsonb_agg",
        "jsonb_agg_strict",
        "jsonb_build_array",
        "jsonb_build_object",
        "jsonb_object_agg",
        "jsonb_object_agg_strict",
        "jsonb_path_exists_tz",
        "jsonb_path_match_tz",
        "jsonb_path_query_array_tz",
        "jsonb_path_query_first_tz",
        "jsonb_path_query_tz",
        "length",
        "make_timestamptz",
        "overlaps",
        "quote_literal",
        "quote_nullable",
        "row_to_json",
        "text",
        "time",
        "time_bucket",
        "timestamp",
        "timestamptz",
        "timetz",
        "timezone",
        "to_char",
        "to_date",
        "to_json",
        "to_jsonb",
        "to_number",
        "to_timestamp",
    }
)

#: Functions of schema orochi that are installed on every node.
NODE_FUNCTIONS = frozenset(
    {
        "approx_count_distinct", "approx_percentile", "approx_percentile_rank", "distinct_count",
        "error", "first", "histogram", "hyperloglog", "last", "num_vals", "percentile_agg", "rollup", "stderror",
        "tdigest", "time_bucket", "time_bucket_gapfill", "uddsketch",
    }
)  # fmt: skip

#: Functions whose value is of the type of what they are given.
GIVING_BACK = frozenset(
    {
        "any_value", "array_agg", "array_append", "array_prepend", "first", "first_value", "json_populate_record",
        "json_populate_recordset", "jsonb_populate_record", "jsonb_populate_recordset", "lag", "last", "last_value",
        "lead", "max", "min", "nth_value",
    }
)  # fmt: skip

#: Volatile functions that may run on a node for each row that is changed there.
NODE_VOLATILE = frozenset({"random", "gen_random_uuid", "uuidv4", "uuidv7", "clock_timestamp"})

#: Types whose values name objects of one server's catalog.
LOCAL_TYPES = frozenset(
    {
        "regclass", "regproc", "regprocedure", "regoper", "regoperator", "regtype", "regrole",
        "regnamespace", "regconfig", "regdictionary", "regcollation", "regdatabase", "cid", "xid",
        "xid8", "tid", "refcursor", "pg_snapshot", "txid_snapshot", "aclitem", "pg_lsn",
    }
)  # fmt: skip


class Place(enum.Enum):
    """Where a call may be evaluated."""

    ANYWHERE = "anywhere"  # the same answer on every node
    SESSION = "session"  # once, on the client's session, then a constant
    COORDINATOR = "coordinator"  # for each row, but on the coordinator only


@dataclasses.dataclass(frozen=True, slots=True)
class Function:
    """All functions of one schema and name.

    Attributes:
        volatility: the letters of `provolatile` found.
        kinds: the letters of `prokind` found: f function, a aggregate, w window function.
        returns_set: some of them return sets.
    """

    schema: str
    name: str
    volatility: str
    kinds: str
    returns_set: bool

    def place(self, arguments: int) -> Place:
        """Where a call with so many arguments may run."""
        if self.name == "age" and arguments == 1:
            return Place.COORDINATOR
        if "v" in self.volatility:
            return Place.COORDINATOR
        if "s" not in self.volatility or self.name in SESSION_STABLE:
            return Place.ANYWHERE
        return Place.SESSION if self.name in FOLDED and self.schema == "pg_catalog" else Place.COORDINATOR


@dataclasses.dataclass(frozen=True, slots=True)
class Builtins:
    """Functions and types that are the same on every server."""

    functions: Mapping[tuple[str, str], Function]
    types: frozenset[str]
    shadowed: frozenset[str]  # names that users gave to functions of theirs, with built-in argument types

    def function(self, parts: Sequence[str]) -> Function | None:
        """The functions that a call by this name means; None if a user's may be meant."""
        name = parts[-1]
        if len(parts) == 1:
            if name in self.shadowed:
                return None
            return self.functions.get(("pg_catalog", name)) or self.functions.get(("orochi", name))
        schema = "orochi" if parts[-2] == api.SCHEMA else parts[-2]
        return self.functions.get((schema, name))

    def is_aggregate(self, parts: Sequence[str]) -> bool:
        """Whether the name is an aggregate's."""
        found = self.function(parts)
        return found is not None and "a" in found.kinds

    def is_type(self, parts: Sequence[str]) -> bool:
        """Whether the name is that of a type every server has, with the same meaning of its values."""
        if len(parts) > 1 and parts[0] != "pg_catalog":
            return False
        return parts[-1] in self.types and parts[-1] not in LOCAL_TYPES


EMPTY = Builtins({}, frozenset(), frozenset())


def from_rows(rows: Iterable[Sequence[str | None]]) -> Builtins:
    """The table from the rows of `QUERY`."""
    functions: dict[tuple[str, str], Function] = {}
    types, shadowed = set(), set()
    for schema, name, volatility, kinds, returns_set in rows:
        assert schema is not None
        assert name is not None
        if kinds == "t":
            types.add(name)
        elif kinds == "u":
            shadowed.add(name)
        elif schema != "orochi" or name in NODE_FUNCTIONS:
            functions[schema, name] = Function(
                schema, name, volatility or "", kinds or "", (returns_set or "").startswith("t")
            )
    return Builtins(functions, frozenset(types), frozenset(shadowed))

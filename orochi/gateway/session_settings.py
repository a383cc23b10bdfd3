"""What node connections and the planner must know of a session: settings, search path, isolation.

All of it is asked of the coordinator in one statement, and asked again only after something that
may have changed it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from orochi.catalog import snapshot as snapshots
from orochi.executor import node_pool
from orochi.pgwire import client
from orochi.planner import names

#: Settings that change what SQL means or how values print: told even if they have their default, as
#: a node's default may be another.
ALWAYS = frozenset(
    {
        "bytea_output",
        "client_encoding",
        "datestyle",
        "default_text_search_config",
        "extra_float_digits",
        "intervalstyle",
        "lc_monetary",
        "lc_numeric",
        "lc_time",
        "standard_conforming_strings",
        "timezone",
    }
)
#: Settings of Orochi, and of extensions whose meaning it has.
OWN = (
    "default_table_access_method",
    "orochi.chunk_group_row_limit",
    "orochi.compression",
    "orochi.compression_level",
    "orochi.default_shard_count",
    "orochi.direct_compress",
    "orochi.enable_aggregate_rewrite",
    "orochi.enable_tiering",
    "orochi.enable_vectorized_execution",
    "orochi.force_strategy",
    "orochi.frozen_reads",
    "orochi.parallel_workers",
    "orochi.small_query_bytes",
    "orochi.snapshot_reads",
    "orochi.stripe_row_limit",
    "hnsw.ef_search",
    "ivfflat.probes",
)


def _names(values: frozenset[str] | tuple[str, ...]) -> str:
    return ", ".join(f"'{value}'" for value in sorted(values))


_SQL = f"""SELECT pg_catalog.lower(name), setting FROM pg_catalog.pg_settings
WHERE pg_catalog.lower(name) IN ({_names(ALWAYS)})
   OR (pg_catalog.lower(name) IN ({_names(node_pool.MIRRORED)})
       AND source IN ('client', 'session', 'interactive', 'user', 'database', 'database user'))
UNION ALL
SELECT name, pg_catalog.current_setting(name, true) FROM pg_catalog.unnest(ARRAY[{_names(OWN)}]) AS name
WHERE pg_catalog.current_setting(name, true) <> ''
UNION ALL
VALUES ('', pg_catalog.json_build_array(
    current_user, pg_catalog.array_to_json(pg_catalog.current_schemas(false)),
    pg_catalog.array_to_json(pg_catalog.current_schemas(true)),
    (SELECT pg_catalog.json_object_agg(relname, relkind) FROM pg_catalog.pg_class WHERE pg_catalog.pg_my_temp_schema() <> 0
     AND relnamespace = pg_catalog.pg_my_temp_schema() AND pg_catalog.pg_table_is_visible(oid)),
    pg_catalog.current_setting('transaction_isolation'),
    pg_catalog.current_setting('default_transaction_isolation'),
    pg_catalog.current_setting('transaction_read_only'))::text)"""


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """A session's settings at one moment.

    Attributes:
        values: by lower-case name, those of `ALWAYS` and those that differ from the default.
        signature: the part that node connections get.
        search_path: existing schemas in lookup order, the one of temporary relations where it stands.
        temp_relations: names that mean the session's own temporary relations, with their `relkind`.
        isolation: of the transaction that was open, or of the next one.
    """

    values: Mapping[str, str]
    signature: node_pool.Signature
    user: str
    search_path: tuple[str, ...]
    temp_relations: Mapping[str, str]
    isolation: str
    default_isolation: str
    read_only: bool


async def read(connection: client.PgConnection) -> View:
    """Ask the session's own connection."""
    result = await connection.fetch(_SQL)
    values: dict[str, str] = {}
    facts: list[object] = []
    for name, value in result.rows:
        text = (value or b"").decode("utf-8", "surrogateescape")
        if name:
            values[name.decode()] = text
        else:
            facts = json.loads(text)
    user, named, schemas, temporary, isolation, default_isolation, read_only = facts
    return View(
        values=values,
        signature=node_pool.mirrored(values),
        user=str(user),
        search_path=_search_path(named, schemas),
        temp_relations=temporary if isinstance(temporary, dict) else {},
        isolation=str(isolation),
        default_isolation=str(default_isolation),
        read_only=read_only == "on",
    )


def _search_path(named: object, schemas: object) -> tuple[str, ...]:
    """The schemas looked into, but pg_catalog where nobody named it."""
    if not isinstance(named, list) or not isinstance(schemas, list):
        return ()
    return tuple(str(schema) for schema in schemas if schema != "pg_catalog" or schema in named)


def visible(
    temp_relations: Mapping[str, str], path: tuple[str, ...], snapshot: snapshots.Snapshot
) -> tuple[frozenset[str], tuple[str, ...]]:
    """Which names of the catalog a session's temporary relations hide, and the path for planning.

    A temporary view may be one of Orochi's. Only for such a view does the schema of temporary relations
    stay on the path: plans are shared by sessions of one path.
    """
    hiding: set[str] = set()
    own = names.temp_schema(path)
    views = False
    if temp_relations:
        known = {name for _, name in snapshot.names} | {name for _, name in snapshot.views}
        for name in known.intersection(temp_relations):
            if temp_relations[name] == "v" and (own, name) in snapshot.views:
                views = True
            else:
                hiding.add(name)
    return frozenset(hiding), tuple(schema for schema in path if views or schema != own)

"""A pretend cluster inside one PostgreSQL: shells in `public`, shards in their node schemas, a plain copy in `plain`.

Plans are carried out the way the executor would, with SQL only, so that every fragment, every
predicate and every final query runs on the real server and is compared with the plain tables.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.types import string

from orochi import ids, pgtypes
from orochi.catalog import bootstrap
from orochi.catalog import snapshot as snapshots
from orochi.planner import builtins, context, fragment, literals, names, parse, select, staged
from orochi.planner import plan as plans
from orochi.sharding import hashing

_COLUMNS = """
SELECT a.attname, a.attnum, a.atttypid::int, coalesce(nullif(t.typbasetype, 0), a.atttypid)::int, a.atttypmod,
       format_type(a.atttypid, a.atttypmod), a.attnotnull,
       (SELECT 'pg_catalog.' || quote_ident(c.collname) FROM pg_collation c WHERE c.oid = a.attcollation AND a.attcollation <> t.typcollation)
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_KEYS = """
SELECT array_agg(a.attname::text ORDER BY k.n) FROM pg_constraint c, unnest(c.conkey) WITH ORDINALITY k(attnum, n)
JOIN pg_attribute a ON a.attnum = k.attnum
WHERE a.attrelid = c.conrelid AND c.conrelid = %s::regclass AND c.contype IN ('p', 'u') GROUP BY c.oid
"""


@dataclasses.dataclass
class Answer:
    """What a statement gave, and how it was planned."""

    rows: list[tuple[Any, ...]]
    names: list[str]
    types: list[int]
    plan: Any = None

    def rounded(self) -> list[tuple[str, ...]]:
        """The rows as text, floats to nine digits: their sums depend on the order of adding."""
        return [
            tuple(f"{value:.9g}" if isinstance(value, float) else repr(value) for value in row)
            for row in self.rows
        ]

    def sorted_rows(self) -> list[tuple[str, ...]]:
        """The same in no particular order."""
        return sorted(self.rounded())

    @property
    def strategy(self) -> str:
        """How it was planned, in one word."""
        return getattr(self.plan, "strategy", type(self.plan).__name__)


class World:
    """The pretend cluster."""

    def __init__(self, connection: psycopg.Connection[Any], nodes: int = 2) -> None:
        self.connection = connection
        connection.prepare_threshold = None
        for name in ("interval", "json"):
            connection.adapters.register_loader(name, string.TextLoader)
        self.tables: dict[ids.TableId, snapshots.Table] = {}
        self.views: dict[tuple[str, str], snapshots.View] = {}
        self.nodes = {
            ids.NodeId(n): snapshots.Node(ids.NodeId(n), "127.0.0.1", 5432, "x", "data", "active", True)
            for n in range(1, nodes + 1)
        }
        self._shards = itertools.count(1)
        self._chunks = itertools.count(1)
        self._colocation: dict[str, int] = {}
        self.settings: dict[str, str] = {"timezone": "UTC"}
        self.collation = "C.UTF-8"
        connection.execute(bootstrap.node_sql().encode())
        connection.execute("CREATE SCHEMA IF NOT EXISTS plain")
        connection.execute("CREATE SCHEMA IF NOT EXISTS stripes")
        rows = connection.execute(builtins.QUERY).fetchall()
        self.builtins = builtins.from_rows(rows)

    @property
    def snapshot(self) -> snapshots.Snapshot:
        """The catalog."""
        return snapshots.Snapshot(
            1,
            self.tables,
            {(t.schema, t.name): oid for oid, t in self.tables.items()},
            self.nodes,
            self.views,
        )

    def context(self, **changes: Any) -> context.PlanContext:
        """A planning context."""
        base = context.PlanContext(
            self.snapshot,
            ("public",),
            self.builtins,
            collation=self.collation,
            settings=self.settings,
        )
        return dataclasses.replace(base, **changes)

    def local(self, ddl: str) -> None:
        """Run DDL on both sides."""
        for schema in ("public", "plain"):
            self.connection.execute(f"SET search_path TO {schema}")
            self.connection.execute(ddl)
        self.connection.execute("SET search_path TO public")

    def view(self, name: str, query: str) -> None:
        """A view over Orochi tables."""
        self.local(f"CREATE VIEW {name} AS {query}")
        self.connection.execute("SET search_path TO ''")
        (definition,) = self.connection.execute(
            "SELECT pg_get_viewdef(%s::regclass)", (f"public.{name}",)
        ).fetchone()
        columns = [row[0] for row in self.connection.execute(_COLUMNS, (f"public.{name}",)).fetchall()]
        self.connection.execute("SET search_path TO public")
        self.views["public", name] = snapshots.View("public", name, definition, tuple(columns))

    def table(
        self,
        name: str,
        kind: str,
        column: str | None = None,
        shards: int = 1,
        *,
        group: str | None = None,
        time: str | None = None,
        interval: int = 0,
        stripes: bool = False,
    ) -> None:
        """Spread the rows of `plain.<name>` over shards; every second chunk is put into a stripe."""
        connection = self.connection
        (oid,) = connection.execute("SELECT %s::regclass::oid::int", (f"public.{name}",)).fetchone()
        columns = tuple(
            snapshots.Column(*row) for row in connection.execute(_COLUMNS, (f"public.{name}",)).fetchall()
        )
        by_name = {item.name: item for item in columns}
        cursor = connection.execute(f"SELECT * FROM plain.{name}")
        rows = cursor.fetchall()
        count = shards if kind == "distributed" else 1
        where = {item.name: index for index, item in enumerate(columns)}
        built = []
        for index, (low, high) in enumerate(hashing.shard_ranges(count)):
            mine = rows
            if kind == "distributed":
                key = by_name[column].base_oid
                mine = [r for r in rows if low <= hashing.hash_value(key, raw(key, r[where[column]])) <= high]
            built.append(self._shard(name, kind, index, low, high, mine, columns, time, interval, stripes))
        colocation = None
        if kind == "distributed":
            colocation = self._colocation.setdefault(group or name, len(self._colocation) + 1)
        keys = connection.execute(_KEYS, (f"public.{name}",)).fetchall()
        self.tables[ids.TableId(oid)] = snapshots.Table(
            oid=ids.TableId(oid),
            schema="public",
            name=name,
            kind=snapshots.TableKind(kind),
            columns=columns,
            shards=tuple(built),
            colocation_id=colocation,
            distribution_column=column,
            distribution_oid=by_name[column].base_oid if column else None,
            dimension=snapshots.TimeDimension(time, by_name[time].base_oid, interval) if time else None,
            unique_keys=tuple(tuple(row[0]) for row in keys),
        )

    def _shard(self, name, kind, index, low, high, rows, columns, time, interval, stripes):  # type: ignore[no-untyped-def]
        number = next(self._shards)
        schema = f"orochi_s{number}_1"
        self.connection.execute(f"CREATE SCHEMA {schema}")
        self.connection.execute(f"CREATE TABLE {schema}.{name} (LIKE public.{name} INCLUDING ALL)")
        chunks = []
        heap = rows
        if time:
            position = next(i for i, item in enumerate(columns) if item.name == time)
            oid = columns[position].base_oid
            buckets: dict[int, list[Any]] = {}
            for row in rows:
                buckets.setdefault(raw(oid, row[position]) // interval * interval, []).append(row)
            heap = []
            for turn, (start, part) in enumerate(sorted(buckets.items())):
                chunk, made = next(self._chunks), ()
                if stripes and turn % 2 == 0:
                    self.connection.execute(f"CREATE TABLE stripes.s{chunk} (LIKE public.{name})")
                    self._insert(f"stripes.s{chunk}", part)
                    made = (snapshots.Stripe(ids.StripeId(chunk), f"s{chunk}", len(part), 0),)
                else:
                    heap += part
                chunks.append(
                    snapshots.Chunk(
                        ids.ChunkId(chunk), ids.ShardId(number), start, start + interval, 1, stripes=made
                    )
                )
        self._insert(f"{schema}.{name}", heap)
        nodes = sorted(self.nodes)
        placed = tuple(nodes) if kind == "reference" else (nodes[index % len(nodes)],)
        return snapshots.Shard(ids.ShardId(number), index, low, high, placed, 1, tuple(chunks))

    def _insert(self, relation: str, rows: Sequence[Any]) -> None:
        with self.connection.cursor() as cursor:
            if rows:
                cursor.executemany(
                    f"INSERT INTO {relation} VALUES ({', '.join(['%s'] * len(rows[0]))})", rows
                )

    def plain(self, sql: str) -> Answer:
        """PostgreSQL's own answer."""
        self.connection.execute("SET search_path TO plain")
        try:
            return self.ask(sql)
        finally:
            self.connection.execute("SET search_path TO public")

    def plan(self, sql: str, **changes: Any) -> Any:
        """The plan, asking the server for what it needs."""
        statement = parse.parse_one(sql)
        ctx = self.context(**changes)
        for _ in range(60):
            try:
                return select.plan(statement, ctx)
            except literals.NeedsFolding as needed:
                ctx = dataclasses.replace(ctx, folded={**ctx.folded, **self.fold(needed.expressions)})
            except staged.NeedsColumns as wanted:
                described = {query: self.describe(query) for query in wanted.queries}
                ctx = dataclasses.replace(ctx, described={**ctx.described, **described})
        raise AssertionError("planning did not settle")

    def describe(self, sql: str) -> tuple[fragment.OutputColumn, ...]:
        """The columns of a SELECT."""
        result = self.connection.execute(f"SELECT * FROM ({sql}) q LIMIT 0").pgresult
        assert result is not None
        found = []
        for at in range(result.nfields):
            oid, typmod = result.ftype(at), result.fmod(at)
            (shown,) = self.connection.execute("SELECT format_type(%s, %s)", (oid, typmod)).fetchone()
            found.append(fragment.OutputColumn((result.fname(at) or b"").decode(), oid, typmod, shown))
        return tuple(found)

    def fold(self, expressions: Sequence[str]) -> dict[str, literals.Literal]:
        """What the client's session says."""
        found = {}
        for sql in expressions:
            text, kind = self.connection.execute(f"SELECT ({sql})::text, pg_typeof({sql})::text").fetchone()
            found[sql] = literals.Literal(0, kind, text)
        return found

    def run(self, sql: str, **changes: Any) -> Answer:
        """The answer through the planner."""
        plan = self.plan(sql, **changes)
        answer = self.execute(plan)
        answer.plan = plan
        if isinstance(plan, plans.Distributed) and plan.final_sql is None and "$" not in sql:
            answer.names = self.ask(f"SELECT * FROM ({sql}) q LIMIT 0").names  # as Describe tells
        return answer

    def execute(self, plan: Any) -> Answer:
        """Carry out a plan, its stages before it."""
        stages = getattr(plan, "stages", ())
        try:
            for stage in stages:
                self._stage(stage)
            return self._carry_out(plan)
        finally:
            if stages:
                self.connection.execute("DROP SCHEMA IF EXISTS stages CASCADE")

    def _stage(self, stage: plans.Stage) -> None:
        listed = ", ".join(f"{names.quoted(c.name)} {c.type_name}" for c in stage.columns)
        self.connection.execute("CREATE SCHEMA IF NOT EXISTS stages")
        self.connection.execute(f"CREATE TABLE stages.{stage.name} ({listed})")
        self._carry_out(stage.plan, f"INSERT INTO stages.{stage.name} ")
        if stage.partition is None:
            return
        key = names.quoted(stage.columns[stage.partition.column].name)
        rows = self.connection.execute(f"SELECT ctid::text, {key} FROM stages.{stage.name}").fetchall()
        oid = stage.partition.type_oid
        hashes = {place: hashing.hash_value(oid, raw(oid, value)) for place, value in rows}
        for number, (low, high) in enumerate(stage.partition.ranges):
            places = [place for place, hashed in hashes.items() if low <= hashed <= high]
            self.connection.execute(
                f"CREATE TABLE stages.{stage.name}_{number} AS SELECT * FROM stages.{stage.name}"
                " WHERE ctid = ANY (%s::tid[])",
                (places,),
            )

    def _carry_out(self, plan: Any, prefix: str = "") -> Answer:
        if isinstance(plan, plans.Router):
            hashed = plan.key.value if isinstance(plan.key, plans.HashKey) else 0
            shards = tuple(self.tables[oid].shard_for_hash(hashed) for oid in plan.tables)
            assert set.intersection(*(set(shard.node_ids) for shard in shards))
            return self.ask(prefix + plans.fill(plan.sql, shards))
        try:
            for item in plan.intermediates:
                self._load(item)
            final = plan.final_sql
            if final is None:
                final = "SELECT * FROM pg_temp.orochi_i0"
                if plan.limit is not None:
                    final += f" LIMIT {plan.limit}"
            return self.ask(prefix + final)
        finally:
            for item in plan.intermediates:
                self.connection.execute(f"DROP TABLE IF EXISTS pg_temp.{item.name}")

    def _load(self, item: plans.Intermediate) -> None:
        columns = item.columns
        if item.describe_sql is not None:
            described = self.connection.execute(f"SELECT * FROM ({item.describe_sql}) q LIMIT 0").description
            types = [
                self.connection.execute("SELECT format_type(%s, %s)", (column.type_code, -1)).fetchone()[0]
                for column in described
            ]
            assert len(types) == len(columns)
        else:
            types = [column.type_name for column in columns]
        key = f", PRIMARY KEY ({', '.join(item.primary_key)})" if item.primary_key else ""
        listed = ", ".join(f"{names.quoted(c.name)} {t}" for c, t in zip(columns, types, strict=True))
        self.connection.execute(f"CREATE TEMP TABLE {item.name} ({listed}{key})")
        if item.stage is not None:
            parts = self.connection.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = 'stages'::regnamespace AND relname = %s",
                (item.stage,),
            ).fetchall()
            for (name,) in parts:
                self.connection.execute(f"INSERT INTO pg_temp.{item.name} SELECT * FROM stages.{name}")
        for part in item.fragments:
            assert fragment.from_json(fragment.to_json((part,))) == (part,)
            sql = part.sql
            for scan in part.scans:
                sql = sql.replace(scan.name, self._source(scan))
            self.connection.execute(f"INSERT INTO pg_temp.{item.name} {sql}")

    def _source(self, scan: fragment.Scan) -> str:
        if scan.input is not None:
            return f"stages.{scan.input.stage}" + ("" if scan.input.part is None else f"_{scan.input.part}")
        listed = ", ".join(names.quoted(column.name) for column in scan.columns)
        where = "".join(f" AND {_predicate(scan, item)}" for item in scan.predicates)
        pieces = [f"SELECT {listed} FROM {scan.relation} WHERE true{where}"]
        pieces += [f"SELECT {listed} FROM stripes.{stripe.path} WHERE true{where}" for stripe in scan.stripes]
        if not scan.stripes:
            return scan.relation
        return f"({' UNION ALL '.join(pieces)})"

    def ask(self, sql: str) -> Answer:
        cursor = self.connection.execute(sql.encode())
        description = cursor.description or []
        rows = cursor.fetchall() if description else []
        return Answer(rows, [c.name for c in description], [c.type_code for c in description])


def _predicate(scan: fragment.Scan, item: fragment.Predicate) -> str:
    column = next((c for c in scan.columns if c.name == item.column), None)
    if column is None:
        return "true"
    name = names.quoted(item.column)
    if item.op in ("isnull", "notnull"):
        return f"{name} IS {'NOT ' if item.op == 'notnull' else ''}NULL"
    if column.type_oid in (pgtypes.TIMESTAMP, pgtypes.TIMESTAMPTZ):
        zone = " AT TIME ZONE 'UTC'" if column.type_oid == pgtypes.TIMESTAMPTZ else ""
        name = f"((extract(epoch from {name}{zone}) - 946684800) * 1000000)"
    elif column.type_oid == pgtypes.DATE:
        name = f"({name} - date '2000-01-01')"
    values = ", ".join(literals.quote(v) if isinstance(v, str) else repr(v) for v in item.values)
    if item.op == "in":
        return f"{name} IN ({values})" if item.values else "false"
    return f"{name} {item.op} {values}"


_EPOCH = dt.datetime(2000, 1, 1)  # noqa: DTZ001


def raw(oid: int, value: Any) -> Any:
    """A Python value as a carrier value."""
    if isinstance(value, dt.datetime):
        moment = value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value
        return (moment - _EPOCH) // dt.timedelta(microseconds=1)
    if isinstance(value, dt.date):
        return (value - _EPOCH.date()).days
    return value

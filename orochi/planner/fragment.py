"""Fragments: the parts of a distributed SELECT that run where the rows are, as plain data.

A `Fragment` is everything a worker needs; it reads no catalog. It crosses the wire as versioned
JSON (`to_json`, `from_json`), never pickle; a worker refuses a version it does not know.

In `sql`, each relation to be read is the placeholder name of a `Scan` (`orochi_scan_0`, ...). The
worker replaces it by the heap relation when there are no stripes, and otherwise by a subquery
over heap rows and stripe rows less those in the delete vector. A scan with an `input` reads the
rows of an earlier stage, which are brought to the node for it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from orochi import errors
from orochi.engine import shapes

VERSION = 4


@dataclasses.dataclass(frozen=True, slots=True)
class OutputColumn:
    """A column of a fragment's result or of a scan; `type_name` as `format_type` prints it."""

    name: str
    type_oid: int
    typmod: int
    type_name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Predicate:
    """`column op values`, in raw carrier units (`orochi.pgtypes`), implied by the query's WHERE.

    `op` is one of `= < <= > >= in isnull notnull`. Rows that fail it cannot matter to the query,
    so a scan may prune by it and may drop them; the query's own WHERE is still applied.
    """

    column: str
    op: str
    values: tuple[int | float | str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class StripeRef:
    """A stripe to read: `path` relative to the stripe directory of the node that runs the fragment."""

    stripe_id: int
    path: str
    row_count: int


@dataclasses.dataclass(frozen=True, slots=True)
class Input:
    """Rows of an earlier stage that a fragment reads.

    Attributes:
        stage: the stage's name.
        part: which hash range of its rows; None for all of them.
        indexes: columns by which rows are looked up one at a time, each a tuple for one index.
    """

    stage: str
    part: int | None = None
    indexes: tuple[tuple[str, ...], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Scan:
    """One relation a fragment reads.

    Attributes:
        name: the placeholder in `Fragment.sql`, e.g. `orochi_scan_0`.
        table: `schema.name` of the Orochi table, for EXPLAIN and messages.
        relation: quoted heap relation on the node, e.g. `"orochi_s7_1"."flights"`.
        columns: the columns the query needs (at least one).
        chunks_total, chunks_kept: for EXPLAIN; 0 and 0 without a time dimension.
        stripes_excluded: those of the kept chunks that are excluded by what is in them; for EXPLAIN.
        likely_rows: about how many rows of stripes a fused aggregate wants; 0 where planning does not know.
        heap: those of its partitions that can hold rows that matter, quoted, where they are few; None is all.
        input: set if the rows are those of an earlier stage: then there is no heap relation, and
            `columns` are all of the stage's.
    """

    name: str
    table: str
    relation: str
    columns: tuple[OutputColumn, ...]
    stripes: tuple[StripeRef, ...] = ()
    predicates: tuple[Predicate, ...] = ()
    chunks_total: int = 0
    chunks_kept: int = 0
    heap: tuple[str, ...] | None = None
    input: Input | None = None
    stripes_excluded: int = 0
    likely_rows: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Fragment:
    """One unit of work on one node.

    Attributes:
        sql: PostgreSQL SQL over the scans' placeholders; always correct.
        vector_sql: the same for the vectorised engine (DuckDB over carrier columns turned into
            native types), present only when every expression is on the allow-list.
        fused: the same as one pass over decoded columns, present only for that shape.
        columns: the result's shape, equal for all fragments of one `Intermediate`.
        settings: session settings that change what `sql` means (TimeZone, DateStyle, ...).
        snapshot: the exported snapshot of the node that it must read; empty for one of its own.
        intermediate: whose rows its result is; set as fragments are sent.
    """

    number: int
    node_id: int
    shard_ids: tuple[int, ...]
    scans: tuple[Scan, ...]
    sql: str
    columns: tuple[OutputColumn, ...]
    vector_sql: str | None = None
    settings: tuple[tuple[str, str], ...] = ()
    snapshot: str = ""
    fused: shapes.Shape | None = None
    intermediate: str = ""


def inputs_of(fragments: Iterable[Fragment]) -> set[tuple[str, int | None]]:
    """The stages that fragments read, each with the part."""
    return {
        (scan.input.stage, scan.input.part)
        for fragment in fragments
        for scan in fragment.scans
        if scan.input is not None
    }


def to_json(fragments: tuple[Fragment, ...]) -> str:
    """Fragments as versioned JSON."""
    return json.dumps({"version": VERSION, "fragments": fragments}, separators=(",", ":"), default=_fields)


def _fields(value: Any) -> dict[str, Any]:
    """One level of `dataclasses.asdict`, without its copies of all that lies below."""
    return {name: getattr(value, name) for name in value.__slots__}


def from_json(text: str) -> tuple[Fragment, ...]:
    """The inverse of `to_json`.

    Raises:
        OrochiError: the JSON is of another version.
    """
    data = json.loads(text)
    if data.get("version") != VERSION:
        raise errors.OrochiError(f"fragment version {data.get('version')} is not {VERSION}")
    return tuple(_fragment(item) for item in data["fragments"])


def _fragment(item: dict[str, Any]) -> Fragment:
    return Fragment(
        number=item["number"],
        node_id=item["node_id"],
        shard_ids=tuple(item["shard_ids"]),
        scans=tuple(_scan(scan) for scan in item["scans"]),
        sql=item["sql"],
        columns=tuple(OutputColumn(**column) for column in item["columns"]),
        vector_sql=item["vector_sql"],
        settings=tuple((name, value) for name, value in item["settings"]),
        snapshot=item.get("snapshot", ""),
        fused=shapes.from_dict(item["fused"]),
        intermediate=item["intermediate"],
    )


def _scan(item: dict[str, Any]) -> Scan:
    return Scan(
        name=item["name"],
        table=item["table"],
        relation=item["relation"],
        columns=tuple(OutputColumn(**column) for column in item["columns"]),
        stripes=tuple(StripeRef(**stripe) for stripe in item["stripes"]),
        predicates=tuple(
            Predicate(column=p["column"], op=p["op"], values=tuple(p["values"])) for p in item["predicates"]
        ),
        chunks_total=item["chunks_total"],
        chunks_kept=item["chunks_kept"],
        heap=None if item.get("heap") is None else tuple(item["heap"]),
        input=_input(item["input"]),
        stripes_excluded=item["stripes_excluded"],
        likely_rows=item.get("likely_rows", 0),
    )


def _input(item: dict[str, Any] | None) -> Input | None:
    if item is None:
        return None
    return Input(item["stage"], item["part"], tuple(tuple(index) for index in item["indexes"]))

"""One table, every way Orochi can hold it: the same statements must give the same answers on each."""

from __future__ import annotations

from tests.support import oracle

#: From a table the catalog does not know to one that is sharded, chunked and columnar.
LAYOUTS = (
    "local",
    "reference",
    "distributed",
    "hypertable",
    "both",
    "hypertable-compressed",
    "both-compressed",
    "columnar",
    "distributed-columnar",
)

EVENTS = """
    CREATE TABLE events (
        tenant integer NOT NULL,
        at timestamptz NOT NULL,
        id integer NOT NULL DEFAULT 0,
        what text DEFAULT 'nothing',
        amount numeric(12, 3),
        ratio double precision,
        CONSTRAINT events_pkey PRIMARY KEY (tenant, at, id),
        CONSTRAINT amount_is_sane CHECK (amount < 1000000)
    )"""

FILL = """
    INSERT INTO events (tenant, at, id, what, amount, ratio)
    SELECT g % 7, timestamptz '2024-03-09 22:00+00' + g * interval '37 minutes', g,
           CASE WHEN g % 11 = 0 THEN NULL ELSE 'kind ' || g % 5 END,
           CASE WHEN g % 13 = 0 THEN NULL ELSE g * 1.375 END, g / 3.0::float8
    FROM generate_series(1, 200) AS g"""


def place(
    pair: oracle.Pair, table: str, layout: str, *, key: str, time: str, interval: str = "1 day"
) -> None:
    """Give the (empty or filled) table of the gateway's side its layout."""
    kind = layout.removesuffix("-compressed").removesuffix("-columnar")
    if layout.endswith("columnar"):
        pair.orochi(f"ALTER TABLE {table} SET ACCESS METHOD columnar")
    if kind == "reference":
        pair.orochi("SELECT create_reference_table(%s)", (table,))
    if kind in {"distributed", "both"}:
        pair.orochi("SELECT create_distributed_table(%s, %s, 4)", (table, key))
    if kind in {"hypertable", "both"}:
        pair.orochi(f"SELECT create_hypertable(%s, %s, INTERVAL '{interval}')", (table, time))


def compress(pair: oracle.Pair, table: str, layout: str, *, every: int = 1) -> int:
    """Make stripes of what each n-th chunk holds, if the layout says so; how many that were.

    A columnar table without a time column has a chunk for each shard. Rows that come later stay in
    the heap, beside the stripes.
    """
    if not layout.endswith(("-compressed", "columnar")):
        return 0
    chunks = pair.orochi("SELECT show_chunks(%s)", (table,))[::every]
    for (chunk,) in chunks:
        pair.orochi("SELECT compress_chunk(%s)", (chunk,))
    return len(chunks)


def events(pair: oracle.Pair, layout: str) -> None:
    """The table `events`, filled, in a layout."""
    pair.both(EVENTS)
    place(pair, "events", layout, key="tenant", time="at")
    pair.both(FILL)
    compress(pair, "events", layout)

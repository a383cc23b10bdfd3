"""`make demo`: a small cluster, real flights, and what Orochi does with them, in a few minutes.

Everything lives in `.demo` and is stopped and deleted at the end; `--keep` leaves it running. The
exit status is 1 if an answer differs from plain PostgreSQL's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from rich import box, console, panel, progress, syntax, table

from benchmarks import flights, local

FOLDER = local.ROOT / ".demo"
out = console.Console(highlight=False)

PLACEMENT = (
    "SELECT create_distributed_table('flights', 'dest', 8)",
    "SELECT create_hypertable('flights', 'time_hour', INTERVAL '30 days')",
    "SELECT create_distributed_table('airports', 'faa', colocate_with => 'flights')",
    "SELECT create_distributed_table('weather', 'origin', 4)",
    "SELECT create_reference_table('airlines')",
    "SELECT create_reference_table('planes')",
)

ROUTED = "SELECT name, alt, tzone FROM airports WHERE faa = 'HNL'"
AGGREGATE = """SELECT carrier, count(*) AS flights, round(avg(dep_delay), 2) AS delay
FROM flights GROUP BY carrier ORDER BY flights DESC LIMIT 5"""
COLOCATED = """SELECT a.name AS airport, count(*) AS flights, round(avg(f.arr_delay), 2) AS delay
FROM flights AS f JOIN airports AS a ON a.faa = f.dest
GROUP BY a.name ORDER BY flights DESC, airport LIMIT 5"""
REFERENCE = """SELECT l.name AS airline, count(DISTINCT f.tailnum) AS planes, sum(f.distance) AS miles
FROM flights AS f JOIN airlines AS l USING (carrier)
GROUP BY l.name ORDER BY miles DESC LIMIT 5"""
TIMEZONE = """SELECT date_trunc('day', time_hour, 'America/New_York') AS day, count(*) AS flights
FROM flights WHERE time_hour >= '2013-03-09' AND time_hour < '2013-03-12' GROUP BY 1 ORDER BY 1"""
WINDOW = """SELECT month, carrier, n, rank() OVER (PARTITION BY month ORDER BY n DESC, carrier) AS place
FROM (SELECT month, carrier, count(*) AS n FROM flights GROUP BY month, carrier) AS m ORDER BY month, place"""
JOIN_ALL = """SELECT l.name, p.manufacturer, a.tzone, count(*), avg(f.arr_delay), min(w.visib)
FROM flights AS f JOIN airlines AS l USING (carrier) JOIN planes AS p USING (tailnum)
JOIN airports AS a ON a.faa = f.dest JOIN weather AS w ON w.origin = f.origin AND w.time_hour = f.time_hour
WHERE f.month = 7 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"""

COMPARED = {
    "delay by airline and month": """SELECT l.name, f.month, count(*), avg(f.dep_delay), max(f.arr_delay)
        FROM flights AS f JOIN airlines AS l USING (carrier) GROUP BY 1, 2 ORDER BY 1, 2""",
    "rank of carriers each month": WINDOW,
    "five tables joined": JOIN_ALL,
}

Gateway = psycopg.Connection[tuple[Any, ...]]


def main() -> int:
    """Run the demo; the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the cluster running")
    keep = parser.parse_args().keep
    started = time.monotonic()
    try:
        with local.cluster(FOLDER, nodes=2, keep=keep) as info:
            same = show(info)
            if not same:
                return 1
            out.print(f"\n[bold green]Done[/] in {time.monotonic() - started:.0f} s.", end=" ")
            if keep:
                say_how_to_connect(info)
            else:
                out.print("Stopping everything ...")
    except KeyboardInterrupt:
        out.print("\n[yellow]Interrupted:[/] everything was stopped.")
        return 130
    except (local.Failed, psycopg.Error) as error:
        out.print(f"\n[bold red]Failed:[/] {error}")
        return 1
    return 0


def show(info: dict[str, Any]) -> bool:
    """All chapters; whether every compared answer was PostgreSQL's."""
    with local.connect(info["coordinator_dsn"]) as admin:
        admin.execute("CREATE DATABASE plain")
    with (
        local.connect(info["dsn"]) as gateway,
        local.connect(info["coordinator_dsn"], "plain") as plain,
    ):
        chapter(
            "A cluster",
            "a coordinator and two data nodes: plain PostgreSQL servers, a Celery worker on each node",
        )
        show_rows(gateway, "SELECT node_id, hostname, port, role, state FROM orochi.nodes ORDER BY node_id")
        chapter("Tables", "flights are sharded by destination and chunked by time; airports lie beside them")
        create(gateway, plain)
        load(gateway, plain)
        chapter("Shards and chunks", "each shard of a node holds a chunk for every 30 days")
        show_shards(gateway)
        chapter("Compression", "half of the chunks become columnar stripes; the others stay rows")
        compress(gateway)
        chapter("Queries", "plain SQL through the PostgreSQL protocol")
        ask(gateway, "routed to one shard, no task", ROUTED)
        ask(gateway, "fanned out to the workers, partial aggregates combined", AGGREGATE)
        ask(gateway, "joined where the rows lie: flights and airports are co-located", COLOCATED)
        ask(gateway, "joined with a reference table, which every node has", REFERENCE)
        ask(gateway, "a time zone that changes to summer time, one chunk read", TIMEZONE)
        chapter("Writes", "also to rows in stripes, in one transaction")
        write(gateway)
        chapter("EXPLAIN", "what the gateway plans")
        explain(gateway, AGGREGATE)
        chapter(
            "The same answers as PostgreSQL",
            "the statements run on plain tables too, and every row is compared",
        )
        return compare(gateway, plain)


def chapter(title: str, text: str) -> None:
    """A heading."""
    out.print()
    out.rule(f"[bold cyan]{title}[/]", align="left")
    out.print(f"[dim]{text}[/]")


def create(gateway: Gateway, plain: Gateway) -> None:
    """The five tables, on both sides; placed by Orochi on one."""
    for ddl in flights.DDL.values():
        gateway.execute(ddl)
        plain.execute(ddl)
    for call in PLACEMENT:
        out.print(syntax.Syntax(call + ";", "sql", background_color="default", word_wrap=True))
        gateway.execute(call)


def load(gateway: Gateway, plain: Gateway) -> None:
    """COPY every row through the gateway; and into the plain tables, for the comparison."""
    columns = (
        progress.TextColumn("  {task.description:<10}"),
        progress.BarColumn(),
        progress.TextColumn("{task.fields[rows]:>9,} rows  {task.fields[spent]}"),
    )
    with progress.Progress(*columns, console=out) as bars:
        for name in flights.DDL:
            pieces = list(flights.data(name))
            bar = bars.add_task(name, total=len(pieces) + 1, rows=0, spent="")
            began = time.perf_counter()
            rows = _copy(gateway, name, pieces, lambda done, bar=bar: bars.update(bar, advance=1, rows=done))
            spent = time.perf_counter() - began
            bars.update(bar, advance=1, spent=f"{spent:5.2f} s {rows / spent:>9,.0f} rows/s")
            _copy(plain, name, pieces, lambda _: None)
    plain.execute("ANALYZE")


def _copy(connection: Gateway, name: str, pieces: Sequence[bytes], tell: Callable[[int], None]) -> int:
    """COPY the pieces; how many rows landed, which must be all."""
    rows = 0
    with connection.cursor() as cursor:
        with cursor.copy(flights.copy_sql(name)) as copy:
            for piece in pieces:
                copy.write(piece)
                rows += piece.count(b"\n")
                tell(rows)
        if cursor.rowcount != rows:
            raise local.Failed(f"{cursor.rowcount} of {rows} rows of {name} landed")
    return rows


def show_shards(gateway: Gateway) -> None:
    """Where the shards are, and how much each holds."""
    show_rows(
        gateway,
        """SELECT s.shard_index AS shard, 'n' || s.node_id AS node, s.hash_min, s.hash_max, count(c.chunk_id) AS chunks
        FROM orochi.shards AS s LEFT JOIN orochi.chunks AS c USING (shard_id)
        WHERE s.table_name = 'flights' GROUP BY 1, 2, 3, 4 ORDER BY 1""",
    )


def compress(gateway: Gateway) -> None:
    """Every second time range, on all its shards."""
    chunks = gateway.execute(
        """SELECT chunk_name, range_start FROM (
            SELECT *, dense_rank() OVER (ORDER BY range_start) AS number FROM orochi.chunks WHERE hypertable = 'flights') AS c
        WHERE number % 2 = 1 ORDER BY range_start"""
    ).fetchall()
    for chunk, _start in progress.track(chunks, "  compressing", console=out):
        gateway.execute("SELECT compress_chunk(%s)", (chunk,))
    row = gateway.execute(
        """SELECT total_chunks, number_compressed_chunks, before_compression_total_bytes, after_compression_total_bytes
        FROM hypertable_compression_stats('flights')"""
    ).fetchone()
    assert row is not None
    total, compressed, before, after = row
    grid = table.Table(box=box.SIMPLE_HEAD)
    for heading in ("chunks", "compressed", "as rows", "as stripes", "ratio"):
        grid.add_column(heading, justify="right")
    grid.add_row(
        str(total),
        str(compressed),
        _size(before),
        _size(after),
        f"[bold green]{before / max(after, 1):.1f} : 1[/]",
    )
    out.print(grid)


def _size(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"


def ask(gateway: Gateway, what: str, sql: str) -> None:
    """A query, its rows, and how long it took."""
    out.print(f"\n[bold]{what}[/]")
    out.print(syntax.Syntax(sql + ";", "sql", background_color="default", word_wrap=True))
    began = time.perf_counter()
    show_rows(gateway, sql)
    out.print(f"  [dim]{(time.perf_counter() - began) * 1000:.1f} ms[/]")


def show_rows(gateway: Gateway, sql: str) -> None:
    """The result of a query as a table."""
    cursor = gateway.execute(sql)
    rows = cursor.fetchall()
    grid = table.Table(box=box.SIMPLE_HEAD, pad_edge=True)
    for number, column in enumerate(cursor.description or ()):
        numeric = bool(rows) and isinstance(rows[0][number], int | float)
        grid.add_column(column.name, justify="right" if numeric else "left")
    for row in rows:
        grid.add_row(*("" if value is None else str(value) for value in row))
    out.print(grid)


def write(gateway: Gateway) -> None:
    """A transaction over both forms of storage, taken back."""
    counting = "SELECT count(*) FROM flights WHERE dep_delay > 1000"
    statements = (
        "UPDATE flights SET dep_delay = 2000 WHERE dest = 'HNL' AND month IN (1, 2, 3) AND dep_delay > 60",
        "DELETE FROM flights WHERE carrier = 'OO'",
    )
    before = gateway.execute(counting).fetchone()
    gateway.execute("BEGIN")
    for sql in statements:
        began = time.perf_counter()
        done = gateway.execute(sql)
        out.print(
            f"  {done.statusmessage:<12}[dim]{(time.perf_counter() - began) * 1000:8.1f} ms  {sql}[/]",
            soft_wrap=True,
        )
    during = gateway.execute(counting).fetchone()
    gateway.execute("ROLLBACK")
    after = gateway.execute(counting).fetchone()
    if before != after or before == during:
        raise local.Failed(
            f"delays over 1000 minutes: {before}, in the transaction {during}, rolled back {after}"
        )
    out.print(
        f"  ROLLBACK    [dim]flights delayed by more than 1000 minutes: {before[0]} → {during[0]} → {after[0]}[/]"
    )


def explain(gateway: Gateway, sql: str) -> None:
    """EXPLAIN ANALYZE of a query."""
    lines = "\n".join(str(row[0]) for row in gateway.execute(f"EXPLAIN (ANALYZE) {sql}"))
    out.print(panel.Panel(lines, box=box.ROUNDED, expand=False, border_style="dim"))


def compare(gateway: Gateway, plain: Gateway) -> bool:
    """Whether names, types and rows are the same, byte for byte."""
    grid = table.Table(box=box.SIMPLE_HEAD)
    for heading in ("query", "rows", "Orochi", "plain PostgreSQL", ""):
        grid.add_column(heading, justify="left" if heading in ("query", "") else "right")
    same = True
    for name, sql in COMPARED.items():
        ours, our_time = _answer(gateway, sql)
        theirs, their_time = _answer(plain, sql)
        equal = ours == theirs
        same &= equal
        verdict = "[bold green]identical[/]" if equal else "[bold red]DIFFERENT[/]"
        grid.add_row(name, str(len(ours[1])), f"{our_time:.0f} ms", f"{their_time:.0f} ms", verdict)
    out.print(grid)
    if same:
        out.print("[green]Rows, column names and types are those of plain PostgreSQL.[/]")
    return same


def _answer(connection: Gateway, sql: str) -> tuple[tuple[Sequence[object], Sequence[object]], float]:
    began = time.perf_counter()
    cursor = connection.execute(sql)
    result = cursor.pgresult
    assert result is not None
    fields = [(result.fname(c), result.ftype(c), result.fmod(c)) for c in range(result.nfields)]
    rows = [[result.get_value(r, c) for c in range(result.nfields)] for r in range(result.ntuples)]
    return (fields, rows), (time.perf_counter() - began) * 1000


def say_how_to_connect(info: dict[str, Any]) -> None:
    """What to type next."""
    out.print("The cluster keeps running:\n")
    for what, text in (
        ("SQL", f"psql '{info['dsn']}'"),
        ("tasks", info["flower_url"]),
        (
            "plain PostgreSQL",
            f"psql '{psycopg.conninfo.make_conninfo(info['coordinator_dsn'], dbname='plain')}'",
        ),
        ("stop it", f"make down DATA={FOLDER.name}"),
    ):
        out.print(f"  [bold]{what:<18}[/]{text}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())

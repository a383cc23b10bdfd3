"""What a benchmark loads: which tables, placed how, from which files, into which system."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator

from benchmarks import tpch, tsbs

SHARDS = 4
_REFERENCE = frozenset({"supplier", "nation", "region"})
_PLAIN_INDEXES = (
    "CREATE INDEX ON orders (o_custkey)",
    "CREATE INDEX ON lineitem (l_partkey, l_suppkey)",
    "CREATE INDEX ON partsupp (ps_suppkey)",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """A table of a workload.

    Attributes:
        ddl: what makes it, by system.
        before: what Orochi places it with, before it is loaded.
        after: what plain PostgreSQL indexes it with, after it is loaded.
        pieces: its rows as CSV, each piece with its count.
        rows: about how many.
    """

    name: str
    ddl: dict[str, str]
    before: tuple[str, ...]
    after: tuple[str, ...]
    pieces: Callable[[], Iterator[tuple[int, bytes]]]
    rows: int

    def write(self, folder: pathlib.Path, tell: Callable[[int], None]) -> tuple[pathlib.Path, int]:
        """The rows in a file, and how many they are."""
        path, total = folder / f"{self.name}.csv", 0
        with path.open("wb") as file:
            for rows, data in self.pieces():
                file.write(data)
                total += rows
                tell(rows)
        return path, total


def cpu(size: tsbs.Size, name: str = "cpu") -> Table:
    """TSBS's table, columnar, by host and in chunks of half a day."""
    ddl = tsbs.DDL.replace("TABLE cpu", f"TABLE {name}")
    return Table(
        name,
        {"postgresql": ddl, "duckdb": ddl, "orochi": f"{ddl} USING columnar"},
        (
            f"SELECT create_distributed_table('{name}', 'hostname', {SHARDS})",
            f"SELECT create_hypertable('{name}', 'time', INTERVAL '1 day')",
        ),
        tuple(index.replace("ON cpu", f"ON {name}") for index in tsbs.INDEXES),
        lambda: tsbs.csv_pieces(size),
        size.rows,
    )


def tpch_tables(scale: float, seed: int) -> list[Table]:
    """TPC-H's tables: orders with their lines, parts with their suppliers, and customers are columnar."""
    found = []
    for name, ddl in tpch.DDL.items():
        keyed = f"{ddl.rstrip()[:-1]}, PRIMARY KEY ({tpch.PRIMARY_KEYS[name]}))"
        reference = name in _REFERENCE
        found.append(
            Table(
                name,
                {
                    "postgresql": keyed,
                    "duckdb": ddl,
                    "orochi": keyed if reference else f"{ddl} USING columnar",
                },
                (_placement(name),),
                tuple(index for index in _PLAIN_INDEXES if f"ON {name} " in index),
                lambda name=name: tpch.csv_pieces(name, scale, seed),  # type: ignore[misc]
                tpch.keys(name, scale) * 4 if name in ("lineitem", "partsupp") else tpch.keys(name, scale),
            )
        )
    # a table comes after the one it lies beside
    return sorted(found, key=lambda table: "colocate_with" in table.before[0])


def _placement(name: str) -> str:
    if name in _REFERENCE:
        return f"SELECT create_reference_table('{name}')"
    key = tpch.PRIMARY_KEYS[name].split(",")[0]
    beside = {"lineitem": "orders", "partsupp": "part"}.get(name)
    if beside:
        return f"SELECT create_distributed_table('{name}', '{key}', colocate_with => '{beside}')"
    return f"SELECT create_distributed_table('{name}', '{key}', {SHARDS})"

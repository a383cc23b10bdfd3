"""Distances over carrier columns agree with pgvector's own."""

from __future__ import annotations

import numpy as np
import psycopg
import pyarrow as pa
import pytest

from orochi import errors
from orochi.engine import copybinary
from orochi.planner import fragment
from orochi.vector import distance
from tests.support import services


def _table(server: services.Server, rows: list[str]) -> tuple[pa.Array, dict[distance.Metric, list[float]]]:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute("CREATE TEMP TABLE v (id int, e vector)")
        for number, text in enumerate(rows):
            connection.execute("INSERT INTO v VALUES (%s, %s)", (number, text))
        with connection.cursor().copy("COPY (SELECT e FROM v ORDER BY id) TO STDOUT (FORMAT binary)") as copy:
            data = b"".join(bytes(part) for part in copy)
        oracle = {}
        for metric in distance.Metric:
            found = connection.execute(
                f"SELECT e {metric.value} %s FROM v ORDER BY id", (rows[0],)
            ).fetchall()
            oracle[metric] = [value for (value,) in found]
    column = fragment.OutputColumn("e", 70_000, -1, "vector")
    return copybinary.decode(data, [column]).column(0), oracle


def test_distances_are_pgvectors(postgres_server: services.Server) -> None:
    rng = np.random.default_rng(7)
    values = rng.normal(size=(40, 16)).astype(np.float32)
    values[5] = 0
    column, oracle = _table(postgres_server, [str(row.tolist()) for row in values])
    vectors = distance.matrix(column)
    assert (vectors == values).all()
    for metric, expected in oracle.items():
        found = distance.distances(vectors, vectors[0], metric)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_a_sliced_column_and_none(postgres_server: services.Server) -> None:
    column, _ = _table(postgres_server, ["[1,2]", "[3,4]", "[5,6]"])
    assert distance.matrix(column.slice(1, 1)).tolist() == [[3.0, 4.0]]
    assert distance.matrix(column.slice(0, 0)).shape == (0, 0)


def test_bad_input_is_refused(postgres_server: services.Server) -> None:
    column, _ = _table(postgres_server, ["[1,2]", "[3,4]"])
    with pytest.raises(errors.InvalidParameter, match="different vector dimensions"):
        distance.distances(distance.matrix(column), np.zeros(3, np.float32), distance.Metric.L2)
    with pytest.raises(errors.DataCorrupted):
        distance.matrix(pa.array([b"\x00\x03\x00\x00\x00"], pa.binary()))

"""What the benchmarks generate is the same each time, and its keys match."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest

from benchmarks import tpch, tpch_queries, tsbs

_SCALE, _SEED = 0.01, 3


@pytest.fixture(scope="module")
def tables() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"threads": "1"})
    for name, ddl in tpch.DDL.items():
        connection.execute(ddl)
        connection.register("made", pa.Table.from_batches(tpch.batches(name, _SCALE, _SEED)))
        connection.execute(f"INSERT INTO {name} SELECT * FROM made")
    return connection


@pytest.mark.parametrize(("name", "key"), tpch.PRIMARY_KEYS.items())
def test_keys_are_unique(tables: duckdb.DuckDBPyConnection, name: str, key: str) -> None:
    found = tables.execute(f"SELECT count(*), count(DISTINCT ({key})) FROM {name}").fetchone()
    assert found is not None
    assert found[0] == found[1] > 0


def test_lines_belong_to_orders_and_partsupp(tables: duckdb.DuckDBPyConnection) -> None:
    lost = tables.execute(
        """SELECT count(*) FROM lineitem LEFT JOIN orders ON o_orderkey = l_orderkey
        LEFT JOIN partsupp ON ps_partkey = l_partkey AND ps_suppkey = l_suppkey
        LEFT JOIN customer ON c_custkey = o_custkey LEFT JOIN nation ON n_nationkey = c_nationkey
        WHERE n_name IS NULL OR ps_partkey IS NULL"""
    ).fetchone()
    assert lost == (0,)
    unequal = tables.execute(
        """SELECT count(*) FROM (SELECT abs(o_totalprice - sum(l_extendedprice * (1 - l_discount) * (1 + l_tax))) AS off
        FROM orders JOIN lineitem ON o_orderkey = l_orderkey GROUP BY o_orderkey, o_totalprice) WHERE off > 0.005"""
    ).fetchone()
    assert unequal == (0,)


def test_queries_run(tables: duckdb.DuckDBPyConnection) -> None:
    few = {2, 17, 18, 19, 20, 21}  # these choose rarely, and this is little data
    for number, sql in tpch_queries.queries(_SCALE).items():
        assert tables.execute(sql).fetchall() or number in few


def test_the_same_rows_again() -> None:
    size = tsbs.Size(hosts=3, hours=1, seed=5)
    first, again = (pa.Table.from_batches(tsbs.batches(size)) for _ in range(2))
    assert first.equals(again)
    assert first.num_rows == size.rows == 3 * 360
    assert not first.equals(pa.Table.from_batches(tsbs.batches(tsbs.Size(3, 1, 6))))
    assert b"".join(text for _, text in tsbs.csv_pieces(size)).count(b"\n") == size.rows
    assert tsbs.queries(size, tsbs.OROCHI).keys() == tsbs.queries(size, tsbs.DUCKDB).keys()


def test_pieces_do_not_depend_on_each_other() -> None:
    rows = sum(count for count, _ in tpch.csv_pieces("lineitem", _SCALE, _SEED))
    assert rows == sum(batch.num_rows for batch in tpch.batches("lineitem", _SCALE, _SEED))
    assert next(tpch.batches("orders", 1, 1)).equals(next(tpch.batches("orders", 1, 1)))

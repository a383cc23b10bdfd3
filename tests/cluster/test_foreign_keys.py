"""Foreign keys hold for rows in stripes as for those in the heap."""

from __future__ import annotations

import pytest

from tests.support import layouts, oracle

_STATEMENTS = (
    "DELETE FROM device WHERE k = 1",
    "UPDATE device SET k = 77 WHERE k = 1",
    "UPDATE device SET name = 'x' WHERE k = 1",
    "DELETE FROM device WHERE k = 7",
    "MERGE INTO device USING (VALUES (3), (8)) AS s(k) ON device.k = s.k WHEN MATCHED THEN DELETE",
    "MERGE INTO device USING (VALUES (8)) AS s(k) ON device.k = s.k WHEN MATCHED THEN DELETE",
    "WITH d AS (DELETE FROM device WHERE k = 4 RETURNING *) SELECT * FROM d",
    "WITH d AS (DELETE FROM device WHERE k = 9 RETURNING *) SELECT * FROM d",
    "BEGIN",
    "DELETE FROM reading WHERE k = 2",
    "DELETE FROM device WHERE k = 2",
    "SELECT count(*) FROM reading",
    "ROLLBACK",
    "ALTER TABLE reading DROP CONSTRAINT reading_k_fkey",
    "ALTER TABLE reading ADD CONSTRAINT fk FOREIGN KEY (k) REFERENCES device ON DELETE CASCADE ON UPDATE CASCADE",
    "DELETE FROM device WHERE k = 1",
    "UPDATE device SET k = 20 WHERE k = 2",
    "SELECT k, count(*) FROM reading GROUP BY k ORDER BY k",
    "SELECT k, name FROM device ORDER BY k",
)


@pytest.mark.parametrize("layout", ["both-compressed", "hypertable-compressed"])
def test_rows_in_stripes_refer(pair: oracle.Pair, layout: str) -> None:
    pair.both("CREATE TABLE device (k int PRIMARY KEY, name text)")
    pair.orochi("SELECT create_reference_table('device')")
    pair.both(
        "INSERT INTO device SELECT g, 'n' FROM generate_series(0, 9) AS g",
        "CREATE TABLE reading (id int, at timestamptz NOT NULL, k int REFERENCES device)",
    )
    layouts.place(pair, "reading", layout, key="id", time="at")
    pair.both(
        "INSERT INTO reading SELECT g, timestamptz '2024-01-01' + g * interval '7 hours', g % 5"
        " FROM generate_series(1, 30) AS g"
    )
    assert layouts.compress(pair, "reading", layout)
    for sql in _STATEMENTS:
        pair.same(sql)


def test_a_distributed_table_referred_to(pair: oracle.Pair) -> None:
    pair.both("CREATE TABLE site (id int PRIMARY KEY, name text)")
    layouts.place(pair, "site", "distributed", key="id", time="")
    pair.both(
        "INSERT INTO site SELECT g, 'n' FROM generate_series(1, 9) AS g",
        "CREATE TABLE seen (id int REFERENCES site, at timestamptz NOT NULL, x int)",
    )
    layouts.place(pair, "seen", "both", key="id", time="at")
    pair.both(
        "INSERT INTO seen SELECT g, timestamptz '2024-01-01' + g * interval '7 hours', g FROM generate_series(1, 5) g"
    )
    assert layouts.compress(pair, "seen", "both-compressed")
    for key in (3, 8, 3):
        pair.same("UPDATE site SET name = 'm' WHERE id = %s RETURNING *", (key,), prepare=True)
        pair.same("DELETE FROM site WHERE id = %s", (key,), prepare=True)
    pair.check_tables("site", "seen")


def test_local_rows_that_refer_keep_a_table_local(pair: oracle.Pair) -> None:
    """Its rows would go where PostgreSQL does not look for them; an empty table may follow."""
    pair.both(
        "CREATE TABLE owner (id int PRIMARY KEY)",
        "INSERT INTO owner VALUES (1), (2)",
        "CREATE TABLE thing (id int REFERENCES owner, n int)",
        "INSERT INTO thing VALUES (1, 1)",
    )
    for call in ("create_distributed_table('owner', 'id')", "create_reference_table('owner')"):
        refused = oracle.ask(pair.gateway, f"SELECT {call}")
        assert refused.sqlstate == "0A000"
        assert "local table thing" in (refused.message or "")
    pair.both("DELETE FROM thing")
    pair.orochi("SELECT create_distributed_table('owner', 'id')")
    pair.orochi("SELECT create_distributed_table('thing', 'id')")
    pair.both("INSERT INTO thing VALUES (2, 1)")
    for sql in (
        "DELETE FROM owner WHERE id = 2",
        "INSERT INTO thing VALUES (7, 1)",
        "DELETE FROM owner WHERE id = 1",
    ):
        pair.same(sql)

"""DDL on Orochi tables reaches their shards, or is refused with a reason; nothing half-way."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.support import cluster as clusters
from tests.support import layouts, oracle

_CHANGES = {
    "add-column": "ALTER TABLE events ADD COLUMN extra int",
    "add-column-default": "ALTER TABLE events ADD COLUMN extra text DEFAULT 'x' NOT NULL",
    "drop-column": "ALTER TABLE events DROP COLUMN ratio",
    "rename-column": "ALTER TABLE events RENAME COLUMN what TO kind",
    "set-default": "ALTER TABLE events ALTER COLUMN what SET DEFAULT 'something else'",
    "drop-default": "ALTER TABLE events ALTER COLUMN what DROP DEFAULT",
    "set-not-null": "ALTER TABLE events ALTER COLUMN ratio SET NOT NULL, ALTER ratio SET DEFAULT 7",
    "type": "ALTER TABLE events ALTER COLUMN ratio TYPE numeric(20, 4)",
    "add-check": "ALTER TABLE events ADD CONSTRAINT positive CHECK (id >= 0)",
    "drop-check": "ALTER TABLE events DROP CONSTRAINT amount_is_sane",
    "index": "CREATE INDEX events_what_idx ON events (what)",
    "unique-index": "CREATE UNIQUE INDEX events_all_idx ON events (tenant, at, id, what)",
    "rename-table": "ALTER TABLE events RENAME TO incidents",
    "rename-constraint": "ALTER TABLE events RENAME CONSTRAINT amount_is_sane TO sane",
    "rename-key": "ALTER TABLE events RENAME CONSTRAINT events_pkey TO events_key",
    "add-column-checked": "ALTER TABLE events ADD COLUMN level int DEFAULT 3 CHECK (level > 0)",
    "add-column-stable": "ALTER TABLE events ADD COLUMN day date DEFAULT current_date",
    "add-generated": "ALTER TABLE events ADD COLUMN twice numeric GENERATED ALWAYS AS (amount * 2) STORED",
    "type-using": "ALTER TABLE events ALTER COLUMN what DROP DEFAULT,"
    " ALTER COLUMN what TYPE int USING length(what), ALTER COLUMN what SET DEFAULT 3",
    "values-using": "ALTER TABLE events ALTER COLUMN ratio TYPE float8 USING ratio * 3",
    "swap-using": "ALTER TABLE events ALTER COLUMN what DROP DEFAULT, ALTER COLUMN what TYPE text USING ratio::text,"
    " ALTER COLUMN ratio TYPE int USING length(what)",
    "drop-using": "ALTER TABLE events DROP COLUMN ratio, ALTER COLUMN what TYPE text USING what || ratio",
    "many": "ALTER TABLE events DROP COLUMN amount, ADD COLUMN amount text DEFAULT 'again',"
    " ALTER COLUMN ratio TYPE text, ADD CHECK (id > 0)",
    "add-unique": "ALTER TABLE events ADD CONSTRAINT once UNIQUE (tenant, at, ratio)",
    "bad-unique": "ALTER TABLE events DROP CONSTRAINT events_pkey, ALTER COLUMN at TYPE timestamptz,"
    " ADD PRIMARY KEY (tenant, at, id, what)",
    "comment": "COMMENT ON TABLE events IS 'what happened'",
    "bad-check": "ALTER TABLE events ADD CONSTRAINT never CHECK (id < 0)",
    "bad-column": "ALTER TABLE events ADD COLUMN tenant int",
    "bad-not-null": "ALTER TABLE events ALTER COLUMN amount SET NOT NULL",
    "bad-type": "ALTER TABLE events ALTER COLUMN what TYPE int USING what::int",
}


@pytest.fixture(scope="module", params=["distributed", "both-compressed", "reference"])
def kept(module_pair: oracle.Pair, request: pytest.FixtureRequest) -> Iterator[oracle.Pair]:
    """The table of the layout, as it was made when each test begins and ends."""
    layouts.events(module_pair, request.param)
    yield module_pair
    module_pair.both("DROP TABLE events")


@pytest.fixture
def filled(pair: oracle.Pair, request: pytest.FixtureRequest) -> oracle.Pair:
    layouts.events(pair, "both-compressed")
    return pair


@pytest.mark.parametrize("name", _CHANGES)
def test_change(kept: oracle.Pair, name: str) -> None:
    kept.same("BEGIN")
    changed = kept.same(_CHANGES[name], details=False)
    assert (changed.sqlstate is not None) == name.startswith("bad-")
    if changed.sqlstate is not None:
        kept.same("ROLLBACK")
        kept.check_tables("events")
        return
    table = "incidents" if name == "rename-table" else "events"
    kept.check_tables(table)
    kept.both(f"INSERT INTO {table} (tenant, at, id) VALUES (3, '2024-03-10', 9999)")
    kept.check_tables(table)
    kept.same(f"SELECT tenant, count(*) FROM {table} GROUP BY tenant")
    kept.same("ROLLBACK")
    kept.same("SELECT tenant, count(*), sum(amount), max(what) FROM events GROUP BY tenant")


def _compressed(pair: oracle.Pair) -> int:
    found = pair.orochi("SELECT count(*) FROM orochi.chunks WHERE is_compressed AND hypertable = 'events'")
    return int(found[0][0])


def test_changes_committed(filled: oracle.Pair) -> None:
    chunks = _compressed(filled)
    assert chunks
    for name in ("add-column-default", "rename-column", "type", "many", "rename-key"):
        filled.same(_CHANGES[name])
        filled.check_tables("events")
        assert _compressed(filled) == chunks, name  # by the end of the statement
    filled.both("BEGIN", _CHANGES["add-generated"].replace("amount", "id"), "COMMIT")
    filled.check_tables("events")
    assert _compressed(filled) == chunks
    filled.same(_CHANGES["bad-check"])
    filled.same("ALTER TABLE events ADD CONSTRAINT later CHECK (id > 1) NOT VALID")
    assert _compressed(filled) == chunks
    filled.same("ALTER TABLE events VALIDATE CONSTRAINT later")
    filled.both("ALTER TABLE events DROP CONSTRAINT later")
    filled.same("INSERT INTO events (tenant, at, id) VALUES (1, '2024-03-10', 1)", details=False)
    filled.same("ALTER TABLE events ALTER what SET NOT NULL", details=False)
    filled.check_tables("events")


@pytest.mark.parametrize("column", ["tenant", "at"])
def test_rows_stay_in_their_shards_and_chunks(filled: oracle.Pair, column: str) -> None:
    kind = {"tenant": "int USING tenant + 1", "at": "timestamptz USING at + interval '1 year'"}[column]
    with pytest.raises(psycopg.errors.FeatureNotSupported, match=f'cannot alter the type of .*"{column}"'):
        filled.orochi(f"ALTER TABLE events ALTER COLUMN {column} TYPE {kind}")
    filled.check_tables("events")


def test_truncate_and_drop(filled: oracle.Pair) -> None:
    filled.same("TRUNCATE events")
    filled.check_tables("events")
    filled.both(layouts.FILL)
    filled.check_tables("events")
    filled.same("DROP TABLE events")
    filled.same("SELECT * FROM events")
    filled.both(layouts.EVENTS)
    filled.check_tables("events")


def test_wide_table(pair: oracle.Pair) -> None:
    wide = ", ".join(f"w{n} {('int', 'text', 'float8', 'numeric(38,10)')[n % 4]}" for n in range(100))
    pair.both(f"CREATE TABLE wide (k int, at date NOT NULL, {wide})")
    layouts.place(pair, "wide", "both", key="k", time="at")
    for row in range(30):
        values = ", ".join("NULL" if (row + n) % 9 == 0 else str(row * n) for n in range(100))
        pair.both(f"INSERT INTO wide VALUES ({row}, '2024-01-0{1 + row % 3}', {values})")
    layouts.compress(pair, "wide", "both-compressed", every=2)
    pair.check_tables("wide")
    pair.same("SELECT " + ", ".join(f"count(w{n}), sum(w{n}::numeric)" for n in range(100)) + " FROM wide")


def test_empty_tables(pair: oracle.Pair) -> None:
    for number, layout in enumerate(layouts.LAYOUTS):
        name = f"empty_{number}"
        pair.both(f"CREATE TABLE {name} (k int, at timestamptz NOT NULL, v numeric)")
        layouts.place(pair, name, layout, key="k", time="at")
        pair.check_tables(name)
        pair.same(f"SELECT count(*), sum(v), max(at), array_agg(k) FROM {name}")
        pair.same(f"SELECT k, count(*) FROM {name} GROUP BY k")
        pair.same(f"SELECT * FROM {name} WHERE k = 1")
        pair.same(f"UPDATE {name} SET v = 1")
        pair.same(f"DELETE FROM {name}")


def test_no_columns_but_two(pair: oracle.Pair) -> None:
    pair.both("CREATE TABLE narrow (at timestamptz NOT NULL)")
    layouts.place(pair, "narrow", "hypertable", key="at", time="at")
    pair.both(
        "INSERT INTO narrow SELECT timestamptz '2024-01-01' + g * interval '7 hours' FROM generate_series(1, 20) g"
    )
    layouts.compress(pair, "narrow", "hypertable-compressed", every=2)
    pair.check_tables("narrow")
    pair.same("SELECT count(*) FROM narrow")
    pair.same("SELECT FROM narrow")


def test_foreign_keys(pair: oracle.Pair) -> None:
    pair.both(
        "CREATE TABLE kinds (id int PRIMARY KEY, name text)", "INSERT INTO kinds VALUES (1, 'a'), (2, 'b')"
    )
    pair.orochi("SELECT create_reference_table('kinds')")
    pair.both("CREATE TABLE things (k int, kind int REFERENCES kinds (id))")
    answer = oracle.ask(pair.gateway, "SELECT create_distributed_table('things', 'k', 4)")
    if answer.sqlstate is not None:
        assert answer.hint, answer
        return
    pair.same("INSERT INTO things VALUES (1, 1), (2, 2), (3, NULL)")
    pair.same("INSERT INTO things VALUES (4, 99)")
    pair.same("DELETE FROM kinds WHERE id = 1")
    pair.check_tables("things", "kinds")


def test_sequences_and_volatile_defaults(pair: oracle.Pair) -> None:
    pair.both(
        "CREATE TABLE numbered (k int, n bigserial, i int GENERATED BY DEFAULT AS IDENTITY, made timestamptz DEFAULT now())"
    )
    pair.orochi("SELECT create_distributed_table('numbered', 'k', 4)")
    pair.both(
        "INSERT INTO numbered (k) SELECT g FROM generate_series(1, 20) AS g",
        "INSERT INTO numbered (k) VALUES (100), (101)",
    )
    pair.same(
        "SELECT count(*), count(DISTINCT n), count(DISTINCT i), min(n), max(n), count(made) FROM numbered"
    )
    pair.same("SELECT k, n FROM numbered WHERE k >= 100")


def test_views(pair: oracle.Pair) -> None:
    layouts.events(pair, "both-compressed")
    pair.both(
        "CREATE VIEW v AS SELECT tenant, count(*) AS n FROM events GROUP BY tenant",
        "CREATE VIEW w AS SELECT * FROM v WHERE n > 28",
    )
    pair.same("SELECT * FROM w")
    pair.same("SELECT e.id, v.n FROM events AS e JOIN v USING (tenant) WHERE e.id < 10")
    pair.both("DELETE FROM events WHERE tenant = 1")
    pair.same("SELECT * FROM w")
    pair.both("DROP VIEW v CASCADE")


def test_drop_beside_a_drop(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    """DROP looks at every Orochi table, as CASCADE may reach any; another may be gone before the catalog says so."""
    schema = pair.orochi("SELECT current_schema()")[0][0]
    with cluster.connect_coordinator() as direct:
        for _ in range(4):
            for name in ("mine", "theirs"):
                pair.orochi(f"CREATE TABLE {name} (a int)")
                pair.orochi("SELECT create_reference_table(%s::regclass)", (name,))
            direct.execute(f"DROP TABLE {schema}.theirs")
            pair.orochi("DROP TABLE mine")
            assert pair.orochi("SELECT to_regclass('mine'), to_regclass('theirs')") == [(None, None)]


def test_a_dropped_table_refers_to_nothing(pair: oracle.Pair) -> None:
    pair.both("CREATE TABLE parent (k int PRIMARY KEY); CREATE TABLE child (k int REFERENCES parent)")
    for table in ("parent", "child"):
        pair.orochi("SELECT create_distributed_table(%s, 'k', 4)", (table,))
    pair.both("INSERT INTO parent VALUES (1), (2)")
    pair.both("INSERT INTO child VALUES (1)")
    pair.same("DROP TABLE child")
    pair.same("DELETE FROM parent WHERE k = 1")


def test_drop_beside_a_block_with_ddl(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    """CASCADE may reach any table, but waits for none that it does not reach, and leaves its shards alone."""
    pair.orochi("CREATE TABLE mine (a int DEFAULT 1); CREATE TABLE theirs (a int DEFAULT 2)")
    for table in ("mine", "theirs"):
        pair.orochi("SELECT create_distributed_table(%s, 'a', 2)", (table,))
    schema = pair.orochi("SELECT current_schema()")[0][0]
    with cluster.connect() as other:
        other.execute(f"SET search_path TO {schema}, orochi, public; BEGIN")
        other.execute("ALTER TABLE theirs ADD COLUMN b int DEFAULT 3")
        pair.orochi("SET statement_timeout = '100s'")
        pair.orochi("DROP TABLE mine CASCADE")
        other.execute("COMMIT")
    pair.orochi("INSERT INTO theirs DEFAULT VALUES")
    assert pair.orochi("SELECT * FROM theirs") == [(2, 3)]

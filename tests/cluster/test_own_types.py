"""A user's own types keep their values on every way that rows take: their OIDs differ from server to server."""

from __future__ import annotations

import enum
from collections.abc import Iterator

import pytest
from psycopg.types import enum as types_enum

from tests.support import layouts, oracle

_TYPES = (
    "CREATE TYPE mood AS ENUM ('sad', 'so so', 'happy')",
    "CREATE DOMAIN price AS numeric(10, 2) CHECK (value >= 0)",
    "CREATE DOMAIN tags AS text[] CHECK (cardinality(value) < 5)",
    "CREATE TYPE spot AS (x int, at date, feel mood, cost price)",
    "CREATE TYPE span AS RANGE (subtype = float8)",
)
_TABLE = """
    CREATE TABLE own (
        k int NOT NULL,
        at timestamptz NOT NULL,
        feel mood,
        feels mood[],
        cost price,
        costs price[],
        labels tags,
        place spot,
        places spot[],
        wide span,
        plain text[]
    )"""
_FILL = """
    SELECT g, timestamptz '2024-03-01' + g * interval '7 hours',
           (enum_range(NULL::mood))[g % 3 + 1],
           CASE WHEN g % 5 <> 0 THEN ARRAY[(enum_range(NULL::mood))[g % 3 + 1], NULL, 'happy'] END,
           g * 1.25, ARRAY[g, g + 0.5]::price[], ARRAY['a' || g, 'b,"c'],
           CASE WHEN g % 4 <> 0 THEN ROW(g, date '2024-01-01' + g, 'so so', g)::spot END,
           ARRAY[ROW(g, NULL, 'sad', NULL)::spot, NULL],
           span(g, g + 1.5), ARRAY['p' || g]
    FROM generate_series(1, 40) AS g"""
_LAYOUTS = ("distributed", "both", "both-compressed", "hypertable-compressed", "reference")
_COLUMNS = ("feel", "feels", "cost", "costs", "labels", "place", "places", "wide", "plain")
_STRATEGIES = ("", "pull", "pushdown", "two_phase")


@pytest.fixture(scope="module", params=_LAYOUTS)
def own(request: pytest.FixtureRequest, module_pair: oracle.Pair) -> Iterator[oracle.Pair]:
    pair = module_pair
    pair.orochi("CREATE TABLE IF NOT EXISTS padding (a int)")  # OIDs drift apart
    pair.both(*_TYPES, _TABLE)
    layouts.place(pair, "own", request.param, key="k", time="at")
    pair.both("INSERT INTO own " + _FILL)
    layouts.compress(pair, "own", request.param, every=2 if request.param == "both-compressed" else 1)
    yield pair
    for connection in (pair.gateway, pair.plain):
        connection.execute("RESET orochi.force_strategy")
    pair.both(
        "DROP TABLE own", *(f"DROP TYPE {name} CASCADE" for name in ("span", "spot", "tags", "price", "mood"))
    )


@pytest.mark.parametrize("strategy", _STRATEGIES)
@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_reads(own: oracle.Pair, strategy: str, binary: bool) -> None:
    own.orochi(f"SET orochi.force_strategy = '{strategy}'")
    listed = ", ".join(_COLUMNS)
    if binary:
        # a binary array or row holds the OIDs of its server: those of the two databases differ
        listed = "feel, cost, labels, wide, plain, " + ", ".join(
            f"{c}::text" for c in ("feels", "costs", "place", "places")
        )
    try:
        own.same(f"SELECT k, {listed} FROM own ORDER BY k", binary=binary)
        own.same(f"SELECT k, {listed} FROM own WHERE k = 7", binary=binary)
        own.same(
            "SELECT feel, count(*), max(cost), sum(cost), min(feels), max(labels) FROM own GROUP BY feel",
            binary=False,
        )
        own.same("SELECT feels, count(*) FROM own GROUP BY feels")
        own.same("SELECT place, count(*) FROM own GROUP BY place")
        own.same("SELECT array_agg(feels ORDER BY k) FROM own WHERE k IN (2, 12)")
        own.same("SELECT array_agg(place ORDER BY k), array_agg(feel ORDER BY k) FROM own")
        own.same("SELECT count(DISTINCT feels), count(DISTINCT places) FROM own")
        own.same("SELECT k, (place).feel, (places[1]).x, feels[1] FROM own ORDER BY feels, k")
        own.same("SELECT a.k, b.feels, b.places FROM own a JOIN own b ON a.k = b.k + 1 ORDER BY 1")
        own.same(
            "SELECT k FROM own WHERE 'sad' = ANY (feels) AND place > ROW(1, '2024-01-01', 'sad', 0)::spot ORDER BY k"
        )
        own.same("SELECT k FROM own WHERE feels = %s::mood[] ORDER BY k", ("{sad,NULL,happy}",))
        own.same("SELECT pg_typeof(feels), pg_typeof(place), pg_typeof(costs) FROM own WHERE k = 1")
    finally:
        own.orochi("RESET orochi.force_strategy")


@pytest.mark.parametrize("strategy", _STRATEGIES)
def test_binary_results_carry_the_coordinators_oids(own: oracle.Pair, strategy: str) -> None:
    own.orochi(f"SET orochi.force_strategy = '{strategy}'")
    try:
        for connection in (own.gateway,):
            known = connection.execute(
                "SELECT 'mood'::regtype::oid, 'spot'::regtype::oid, 'price'::regtype::oid"
            ).fetchone()
            assert known is not None
            for where in ("WHERE k = 1", "ORDER BY k LIMIT 1", "WHERE k < 2"):
                with connection.cursor(binary=True) as cursor:
                    cursor.execute(f"SELECT feels, places, costs FROM own {where}")
                    result = cursor.pgresult
                    assert result is not None
                    found = [int.from_bytes((result.get_value(0, c) or b"")[8:12], "big") for c in range(3)]
                assert found == list(known), where
    finally:
        own.orochi("RESET orochi.force_strategy")


def test_writes(own: oracle.Pair) -> None:
    own.both("BEGIN")
    try:
        own.same(
            "INSERT INTO own (k, at, feel, feels, place, places, cost) VALUES (100, '2024-03-05', 'sad', '{happy,sad}', "
            "ROW(1, '2024-01-01', 'sad', 3), ARRAY[ROW(1, NULL, NULL, 2)::spot], 5) RETURNING *"
        )
        own.same(
            "INSERT INTO own SELECT k + 200, at, feel, feels, cost, costs, labels, place, places, wide, plain FROM own WHERE k < 6"
        )
        own.same("SELECT * FROM own WHERE k > 90 ORDER BY k")
        own.same("UPDATE own SET feels = feels || 'sad'::mood, place.feel = 'happy' WHERE k < 10")
        own.same(
            "INSERT INTO own (k, at, feels, place) VALUES (%s, '2024-03-05', %s::mood[], %s::spot) RETURNING feels, place",
            (101, "{sad}", "(1,2024-01-01,happy,1.5)"),
        )
        own.same("DELETE FROM own WHERE feels[1] = 'sad' RETURNING k, feels, places")
        own.same("SELECT * FROM own ORDER BY k")
        own.same("CREATE TEMP TABLE made AS SELECT * FROM own")
        own.same("SELECT * FROM made ORDER BY k")
    finally:
        own.both("ROLLBACK")


def test_enum_array_of_the_wrong_value(own: oracle.Pair) -> None:
    own.same("INSERT INTO own (k, at, feels) VALUES (1, '2024-03-05', '{angry}')")
    own.same("INSERT INTO own (k, at, cost) VALUES (1, '2024-03-05', -3)")
    own.same("INSERT INTO own (k, at, feel) SELECT 1, '2024-03-05', 'angry'")


@pytest.mark.parametrize("form", ["text", "csv", "binary"])
def test_copy(own: oracle.Pair, form: str) -> None:
    columns = "k, at, " + ", ".join(_COLUMNS)
    ours, theirs = own.copy_out(f"COPY (SELECT {columns} FROM own ORDER BY k) TO STDOUT (FORMAT {form})")
    if form != "binary":
        assert ours == theirs
    for connection, data in ((own.gateway, ours), (own.plain, theirs)):
        connection.execute("BEGIN")
        connection.execute("DELETE FROM own")
        with (
            connection.cursor() as cursor,
            cursor.copy(f"COPY own ({columns}) FROM STDIN (FORMAT {form})") as copy,
        ):
            copy.write(data)
    try:
        own.same("SELECT * FROM own ORDER BY k")
    finally:
        own.both("ROLLBACK")


def test_hot_path(own: oracle.Pair) -> None:
    for number in range(4):
        own.same("SELECT feels, place, costs FROM own WHERE k = %s", (number,), prepare=True)


def test_hot_path_in_binary(own: oracle.Pair) -> None:
    known = own.orochi("SELECT 'mood'::regtype::oid, 'spot'::regtype::oid, 'price'::regtype::oid")
    for number in range(1, 4):
        with own.gateway.cursor(binary=True) as cursor:
            cursor.execute("SELECT feels, places, costs, feel FROM own WHERE k = %s", (number,), prepare=True)
            result = cursor.pgresult
            assert result is not None
            found = [int.from_bytes((result.get_value(0, c) or b"")[8:12], "big") for c in range(3)]
        assert [tuple(found)] == known
        own.same("SELECT feel, cost FROM own WHERE k = %s", (number,), prepare=True, binary=True)


def test_returning_in_binary(own: oracle.Pair) -> None:
    [known] = own.orochi("SELECT 'mood'::regtype::oid, 'spot'::regtype::oid")
    own.orochi("BEGIN")
    try:
        for sql in (
            (
                "UPDATE own SET feels = ARRAY['sad'::mood], places = ARRAY[ROW(1, NULL, NULL, NULL)::spot] WHERE k < 5"
                " RETURNING feels, places, k"
            ),
            (
                "INSERT INTO own (k, at, feels, places) VALUES (500, '2024-03-05', '{sad}', '{\"(1,,,)\"}')"
                " RETURNING feels, places, k"
            ),
            "DELETE FROM own WHERE k < 5 RETURNING feels, places, k",
        ):
            with own.gateway.cursor(binary=True) as cursor:
                cursor.execute(sql)
                result = cursor.pgresult
                assert result is not None
                for row in range(result.ntuples):
                    found = [int.from_bytes((result.get_value(row, c) or b"")[8:12], "big") for c in range(2)]
                    assert tuple(found) == known
                assert result.ntuples == (1 if "INSERT" in sql else 4)
    finally:
        own.orochi("ROLLBACK")


def test_binary_parameters(own: oracle.Pair) -> None:
    """psycopg sends arrays of a registered enum in binary, with the OID that the gateway told it."""

    class Mood(enum.Enum):
        sad = 1
        happy = 2

    own.both("BEGIN")
    try:
        for connection in (own.gateway, own.plain):
            info = types_enum.EnumInfo.fetch(connection, "mood")
            assert info is not None
            types_enum.register_enum(info, connection, Mood)
        for number in range(3):
            values = (600 + number, "2024-03-05", [Mood.sad, Mood.happy])
            for connection in (own.gateway, own.plain):
                connection.execute("INSERT INTO own (k, at, feels) VALUES (%s, %s, %b)", values, prepare=True)
                connection.execute(
                    "UPDATE own SET feels = feels || %b WHERE k = %s", ([Mood.sad], 600 + number)
                )
            own.same(
                "SELECT k FROM own WHERE feels = %b AND k = %s",
                ([Mood.sad, Mood.happy, Mood.sad], 600 + number),
            )
        own.same("SELECT * FROM own WHERE k >= 600 ORDER BY k")
    finally:
        own.both("ROLLBACK")


def test_conflict(pair: oracle.Pair) -> None:
    pair.both(
        "CREATE TYPE mood AS ENUM ('sad', 'happy')",
        "CREATE TABLE kept (k int PRIMARY KEY, feel mood, feels mood[])",
    )
    pair.orochi("SELECT create_distributed_table('kept', 'k', 4)")
    for _ in range(2):
        pair.same(
            "INSERT INTO kept VALUES (1, 'sad', '{sad}') ON CONFLICT (k) DO UPDATE "
            "SET feel = 'happy'::mood, feels = kept.feels || 'happy'::mood RETURNING *, 'sad'::mood"
        )
        pair.same(
            "INSERT INTO kept SELECT g, 'sad', '{sad}' FROM generate_series(1, 5) AS g ON CONFLICT (k) DO UPDATE "
            "SET feels = kept.feels || excluded.feel WHERE excluded.feel = 'sad'::mood RETURNING *"
        )
    pair.check_tables("kept")

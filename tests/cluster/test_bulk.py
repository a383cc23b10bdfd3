"""Loads that become stripes at once: PostgreSQL's values, tags and errors, and all or nothing of them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import psycopg
import pytest

from orochi.operations import copy_direct
from tests.support import layouts, oracle

_ROWS = 18_000
_METRICS = """CREATE TABLE metrics (
    at timestamptz NOT NULL, host text NOT NULL, n int, big bigint, f double precision, r real,
    amount numeric(12, 3), note varchar(12), day date, ok boolean)"""
_COLUMNS = "at, host, n, big, f, r, amount, note, day, ok"
_TABLES = ("both", "columnar")


@pytest.fixture(scope="module", params=_TABLES)
def loaded(request: pytest.FixtureRequest, module_pair: oracle.Pair) -> Iterator[oracle.Pair]:
    """The empty table; with `both`, its settings say that it is to be compressed."""
    module_pair.both("DROP TABLE IF EXISTS metrics", _METRICS)
    layouts.place(module_pair, "metrics", request.param, key="host", time="at", interval="1 day")
    if request.param == "both":
        module_pair.orochi("ALTER TABLE metrics SET (orochi.compress, orochi.segmentby = 'host')")
    yield module_pair
    module_pair.both("DROP TABLE metrics")


def _rows(seed: int, count: int = _ROWS) -> list[list[str | None]]:
    rng = random.Random(seed)
    rows: list[list[str | None]] = []
    for at in range(count):
        row: list[str | None] = [
            f"2024-03-0{1 + (at * 5 // count == 4)} {at % 24:02d}:{at % 60:02d}:{at % 59:02d}+00",
            f"host_{rng.choice((0, 0, 0, 0, 0, 0, 0, 0, 1, 2))}",
            str(rng.randrange(-(2**31), 2**31)),
            str(rng.randrange(-(2**62), 2**62)),
            repr(rng.choice((rng.random(), rng.gauss(0, 1e9), 0.1, -0.0))),
            f"{rng.uniform(-100, 100):.3f}",
            f"{rng.randrange(10**8) / 1000:.{rng.randrange(4)}f}",
            rng.choice(("", "plain", "grün", "a,b", 'q"q')),
            f"20{rng.randrange(10, 30)}-0{rng.randrange(1, 10)}-1{rng.randrange(10)}",
            rng.choice("tf"),
        ]
        for column in range(2, 10):
            if rng.random() < 0.05:
                row[column] = None
        rows.append(row)
    return rows


def _text(rows: list[list[str | None]]) -> bytes:
    return "".join("\t".join("\\N" if v is None else v for v in row) + "\n" for row in rows).encode()


def _csv(rows: list[list[str | None]]) -> bytes:
    def field(value: str | None) -> str:
        if value is None:
            return ""
        return '"' + value.replace('"', '""') + '"' if value == "" or set(value) & set(',"\n') else value

    return "".join(",".join(map(field, row)) + "\n" for row in rows).encode()


def _stripes(pair: oracle.Pair) -> int:
    """How many rows lie in stripes."""
    return int(
        pair.orochi(
            "SELECT coalesce(sum(f.row_count), 0) FROM orochi.orochi_stripes f JOIN orochi.orochi_chunks USING (chunk_id)"
            " JOIN orochi.orochi_shards s USING (shard_id) WHERE s.table_oid = 'metrics'::regclass"
        )[0][0]
    )


def _empty(pair: oracle.Pair) -> None:
    pair.both("TRUNCATE metrics")


def test_every_format_is_read_alike(loaded: oracle.Pair) -> None:
    rows = _rows(1)
    with_escapes = _text(rows[:-1]) + _text([[*rows[-1][:7], "tab\\there", *rows[-1][8:]]])
    in_crlf = _text(rows[:99]).replace(b"\n", b"\r\n")
    ended = _text(rows[:99]) + b"\\.\nnot a row\n"
    for sql, data in (
        (f"COPY metrics ({_COLUMNS}) FROM STDIN", _text(rows)),
        ("COPY metrics FROM STDIN WITH (FORMAT csv, HEADER)", b'"at",host,"n\n"\n' + _csv(rows[:99])),
        ("COPY metrics FROM STDIN WITH (FORMAT csv, DELIMITER '|', QUOTE '''', NULL 'nil')", _csv(rows[:9])),
        ("COPY metrics FROM STDIN", with_escapes),
        ("COPY metrics FROM STDIN", in_crlf),
        ("COPY metrics FROM STDIN", ended),
        ("COPY metrics (host, at) FROM STDIN", b"x\t2024-03-01\ny\t2024-03-02 10:00+05:30"),
        ("COPY metrics FROM STDIN WHERE n > 0", _text(rows[:99])),
    ):
        _copy(loaded, sql, data)
    assert _stripes(loaded) > _ROWS
    loaded.same("SELECT * FROM metrics WHERE host = 'host_0' AND n > 0 AND at < '2024-03-01 01:00+00'")
    loaded.same(
        "SELECT count(*), sum(n), sum(big), min(f), max(r), sum(amount), count(note), min(day) FROM metrics"
    )
    loaded.check_tables("metrics")
    loaded.same("UPDATE metrics SET note = 'changed' WHERE n BETWEEN 0 AND 1000000")
    loaded.same("DELETE FROM metrics WHERE host = 'host_2'")
    before = _stripes(loaded)
    loaded.same("DELETE FROM metrics WHERE big < 0")
    loaded.orochi("SELECT run_maintenance()")
    assert _stripes(loaded) < before  # written anew without what was deleted
    loaded.same("SELECT host, note, count(*), sum(amount) FROM metrics GROUP BY 1, 2 ORDER BY 1, 2")
    _empty(loaded)
    loaded.check_tables("metrics")


def _copy(pair: oracle.Pair, sql: str, data: bytes) -> None:
    """The same COPY on both; rows counted, or errors and where they are, alike."""
    told = []
    for connection in (pair.gateway, pair.plain):
        try:
            with connection.cursor() as cursor:
                with cursor.copy(sql) as copy:
                    copy.write(data)
                told.append((cursor.rowcount, cursor.statusmessage))
        except psycopg.Error as error:
            diag = error.diag
            told.append((diag.sqlstate, diag.message_primary, diag.message_detail, diag.context))
    assert told[0] == told[1], sql


def test_errors_are_postgresqls_and_change_nothing(loaded: oracle.Pair) -> None:
    good = _text(_rows(2, 100))
    many = good * (copy_direct.PIECE_BYTES // len(good) + 2)
    row = ["2024-03-01", "host", "1", "1", "1", "1", "1", "x", "2024-01-01", "t"]
    for column, value in (
        (0, "never"),
        (1, "\\N"),
        (2, "2147483648"),
        (4, "1e999"),
        (6, "1234567890"),
        (7, "longer than twelve"),
        (9, "maybe"),
        (9, "t\tmore"),
    ):
        bad = "\t".join([*row[:column], value, *row[column + 1 :]]).encode() + b"\n"
        _copy(loaded, "COPY metrics FROM STDIN", good + bad)
    _copy(loaded, "COPY metrics FROM STDIN", many + b"2024-03-01\tx\r\n")
    _copy(loaded, "COPY metrics FROM STDIN (FORMAT csv)", _csv(_rows(2, 100)) + b'2024-03-01,"x\n')
    _copy(loaded, "COPY metrics FROM STDIN", b"2024-03-01\t\xff\n")
    assert _stripes(loaded) == 0
    loaded.same("SELECT count(*) FROM metrics")


def test_a_block_sees_its_own_load_and_others_see_it_whole(loaded: oracle.Pair) -> None:
    data = _text(_rows(3))
    other = psycopg.connect(loaded.gateway.info.dsn, password=loaded.gateway.info.password, autocommit=True)
    schema = loaded.gateway.execute("SELECT current_schema()").fetchone()
    assert schema is not None
    counted = f"SELECT count(*) FROM {schema[0]}.metrics"
    with other:
        loaded.both("BEGIN")
        _copy(loaded, "COPY metrics FROM STDIN", data)
        loaded.both("SAVEPOINT one")
        _copy(loaded, "COPY metrics FROM STDIN", data)
        loaded.same("SELECT count(*), sum(n) FROM metrics")
        assert other.execute(counted).fetchone() == (0,)
        loaded.both("ROLLBACK TO one")
        loaded.same("SELECT count(*), sum(n) FROM metrics")
        loaded.same("UPDATE metrics SET note = 'mine' WHERE n > 2000000000")
        loaded.same("SELECT note, count(*) FROM metrics GROUP BY note ORDER BY note")
        loaded.both("ROLLBACK")
        assert other.execute(counted).fetchone() == (0,)
        loaded.same("SELECT count(*) FROM metrics")
        loaded.both("BEGIN")
        _copy(loaded, "COPY metrics FROM STDIN", data)
        loaded.both("COMMIT")
        assert other.execute(counted).fetchone() == (_ROWS,)
    loaded.check_tables("metrics")
    assert _stripes(loaded) > _ROWS // 2
    loaded.same("INSERT INTO metrics SELECT * FROM metrics ORDER BY at LIMIT 15000")
    loaded.check_tables("metrics")
    _empty(loaded)


def test_it_can_be_turned_off(loaded: oracle.Pair) -> None:
    loaded.gateway.execute("SET orochi.direct_compress = off")
    _copy(loaded, "COPY metrics FROM STDIN", _text(_rows(4, 10_500)))
    loaded.gateway.execute("RESET orochi.direct_compress")
    loaded.check_tables("metrics")
    _empty(loaded)

"""Writes tests/slt/made_*.slt: queries of the grammar, with the answers of a plain PostgreSQL.

`python -m tests.support.slt_made [FILES [RECORDS]]` makes the same files each time. Long queries and
long answers are left out, so that the files stay small enough to read.
"""

from __future__ import annotations

import pathlib
import sys

import psycopg

from tests.support import grammar, oracle, services, slt

FOLDER = pathlib.Path(__file__).parents[1] / "slt"
_LONGEST_QUERY, _LONGEST_ANSWER = 260, 220


def make(number: int, count: int, connection: psycopg.Connection[tuple[object, ...]]) -> str:
    """The text of a file with so many queries."""
    records = []
    for table, (columns, _) in grammar.TABLES.items():
        records.append(_statement(f"CREATE TABLE {table} ({columns})"))
    for table, (columns, key) in grammar.TABLES.items():
        if "at timestamptz" in columns:
            records.append(slt.Record(["table", table, key, "at", "3", "days"], "", [], 0))
    fill = [_statement(sql) for sql in grammar.fill(number)]
    records += fill
    records += [slt.Record(["compress", table], "", [], 0) for table in ("p", "q", "s")]
    for record in records:
        if record.sql:
            connection.execute(record.sql)
    seed, found = number * 1_000_000, 0
    while found < count:
        seed += 1
        sql = grammar.Grammar(seed).query()
        if len(sql) > _LONGEST_QUERY:
            continue
        answer = oracle.ask(connection, sql)
        assert answer.sqlstate is None, f"{sql}: {answer.message}"
        order = "nosort" if oracle.is_ordered(sql) else "rowsort"
        expected = slt.render(answer, order)
        if sum(map(len, expected)) + len(expected) <= _LONGEST_ANSWER:
            records.append(slt.Record(["query", order], sql, expected, 0))
            found += 1
    for record in records:
        record.comment = [""]
    records[0].comment = ["# Made by `python -m tests.support.slt_made`; PostgreSQL wrote the answers.", ""]
    return slt.write(records)


def _statement(sql: str) -> slt.Record:
    return slt.Record(["statement", "ok"], sql, [], 0)


def main(files: int = 20, count: int = 1000) -> None:
    """Write all files."""
    with services.postgres() as server, psycopg.connect(server.dsn, autocommit=True) as connection:
        for number in range(1, files + 1):
            connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            (FOLDER / f"made_{number:02d}.slt").write_text(make(number, count, connection))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))

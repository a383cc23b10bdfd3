"""A small sqllogictest: records of statements and queries whose expectations real PostgreSQL wrote.

A file is records separated by blank lines; `#` starts a comment line. Records are

    statement ok                  the SQL below succeeds
    statement error 23505         it fails with this SQLSTATE
    query nosort|rowsort          SQL, `----`, then one line of `name:type` and a line for each row
    table NAME KEY TIME INTERVAL  place the (new) table in the layout the file runs under
    compress NAME                 compress all chunks of the table, if the layout has any

In these two a `_` stands for a space in a quoted name.

Values are separated by tabs, null is `NULL`, an empty text is `(empty)`; backslash, tab and newline
inside a value are escaped. `complete` writes the expectations anew from plain PostgreSQL, where the
last two records do nothing; a run against Orochi only compares.
"""

from __future__ import annotations

import dataclasses
import pathlib
import random
from typing import Any

import psycopg

from tests.support import layouts, oracle

#: The layouts each file runs under.
LAYOUTS = ("local", "hypertable", "distributed", "both-compressed", "columnar", "distributed-columnar")


@dataclasses.dataclass
class Record:
    """One record: its first line in words, its SQL, what is expected, and where it stands."""

    head: list[str]
    sql: str
    expected: list[str]
    line: int
    comment: list[str] = dataclasses.field(default_factory=list)


def parse(text: str) -> list[Record]:
    """The records of a file."""
    records: list[Record] = []
    comment: list[str] = []
    lines = text.split("\n")
    position = 0
    while position < len(lines):
        line = lines[position]
        if not line.strip() or line.startswith("#"):
            comment.append(line)
            position += 1
            continue
        start = position
        block = []
        while position < len(lines) and lines[position].strip():
            block.append(lines[position])
            position += 1
        head, *rest = block
        cut = rest.index("----") if "----" in rest else len(rest)
        records.append(Record(head.split(), "\n".join(rest[:cut]), rest[cut + 1 :], start + 1, comment))
        comment = []
    return records


def write(records: list[Record]) -> str:
    """The text of a file with these records."""
    out: list[str] = []
    for record in records:
        out += record.comment
        out.append(" ".join(record.head))
        out += [record.sql] if record.sql else []
        out += ["----", *record.expected] if record.head[0] == "query" else []
    return "\n".join(out) + "\n"


def run(path: pathlib.Path, pair: oracle.Pair, layout: str, *, sample: int | None = None) -> None:
    """Run a file on the gateway's side of `pair`; all differences are told at once.

    With `sample`, only so many of its queries are run, always the same of a file and layout.
    """
    failures = []
    records = parse(path.read_text())
    if sample is not None:
        queries = [record for record in records if record.head[0] == "query"]
        chosen = random.Random(path.name + layout).sample(queries, min(sample, len(queries)))
        lines = {record.line for record in chosen}
        records = [record for record in records if record.head[0] != "query" or record.line in lines]
    for record in records:
        problem = _step(record, pair, layout)
        if problem:
            failures.append(f"{path.name}:{record.line}: {problem}\n{record.sql}")
    if failures:
        raise AssertionError("\n\n".join(failures))


def _step(record: Record, pair: oracle.Pair, layout: str) -> str | None:
    kind, *words = record.head
    if kind == "table":
        key = words[1].replace("_", " ")
        layouts.place(pair, _name(words[0]), layout, key=key, time=words[2], interval=" ".join(words[3:]))
        return None
    if kind == "compress":
        layouts.compress(pair, _name(words[0]), layout)
        return None
    answer = oracle.ask(pair.gateway, record.sql)
    if kind == "statement":
        wanted = None if words[0] == "ok" else words[1]
        return None if answer.sqlstate == wanted else f"{answer.sqlstate} {answer.message}, expected {wanted}"
    if answer.sqlstate is not None:
        return f"{answer.sqlstate} {answer.message}"
    found = render(answer, words[0])
    return None if found == record.expected else _difference(found, record.expected)


def _name(word: str) -> str:
    return word.replace("_", " ") if word.startswith('"') else word


def render(answer: oracle.Answer, sort: str) -> list[str]:
    """The lines that stand below `----`."""
    names = "\t".join(f"{name}:{kind[0]}" for name, kind in zip(answer.names, answer.types, strict=True))
    rows = ["\t".join(_value(value) for value in row) for row in answer.values]
    return [names, *(sorted(rows) if sort == "rowsort" else rows)]


def _value(value: str | None) -> str:
    if value is None:
        return "NULL"
    escaped = value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")
    return escaped or "(empty)"


def _difference(found: list[str], expected: list[str]) -> str:
    extra = [line for line in found if line not in expected]
    missing = [line for line in expected if line not in found]
    if not extra and not missing:
        return f"other order or repetitions: {found[:5]} ..., expected {expected[:5]} ..."
    return f"{len(found) - 1} rows of {len(expected) - 1}; extra {extra[:5]}, missing {missing[:5]}"


def complete(path: pathlib.Path, connection: psycopg.Connection[Any]) -> None:
    """Write every expectation of a file as plain PostgreSQL answers."""
    records = parse(path.read_text())
    for record in records:
        if record.head[0] in {"table", "compress"}:
            continue
        answer = oracle.ask(connection, record.sql)
        if record.head[0] == "statement":
            record.head = (
                ["statement", "ok"] if answer.sqlstate is None else ["statement", "error", answer.sqlstate]
            )
        else:
            assert answer.sqlstate is None, f"{path.name}:{record.line}: {answer.message}"
            record.head = ["query", "nosort" if oracle.is_ordered(record.sql) else "rowsort"]
            record.expected = render(answer, record.head[1])
    path.write_text(write(records))

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orochi import errors, ids, pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.planner import parse, value_lists
from orochi.planner import tree as trees
from tests.unit.planner import test_insert

TABLE = dataclasses.replace(
    test_insert.TABLE,
    columns=(
        test_insert.column("dest", 1, pgtypes.TEXT, "text"),
        test_insert.column("at", 2, pgtypes.INT8, "bigint"),
        test_insert.column("made", 3, pgtypes.TIMESTAMPTZ, "timestamptz"),
    ),
)
CONTEXT = test_insert.Context(
    snapshots.Snapshot(1, {ids.TableId(1): TABLE}, {("public", "flights"): ids.TableId(1)}, {}, {})
)


def read(text: str) -> parse.Lists | None:
    shape = value_lists.shape(text)
    if shape is None:
        return None
    plan = value_lists.plan(parse.parse_one(shape.sql), CONTEXT)
    return None if plan is None else value_lists.split(plan, text, len(shape.head))


def test_rows_are_told_apart() -> None:
    text = "insert INTO flights (made, dest,at) VALUES ('2024-01-01', 'it''s', -5) ,\n(NULL,',(',7 );"
    found = read(text)
    assert found is not None
    assert found.rows == (
        ("('2024-01-01', 'it''s', -5)", "it's", "-5"),
        ("(NULL,',(',7 )", ",(", "7"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO flights VALUES ('a', 1, NULL)",
        "INSERT INTO flights VALUES ('a', 1, NULL), ('b', 2, 'now')",
        "INSERT INTO flights VALUES ('a', 1, NULL), ('b', 2)",
        "INSERT INTO flights VALUES ('a', 1, NULL), ('b', 2, NULL) RETURNING at",
        "INSERT INTO flights VALUES ('a', 1, NULL), ('b', 2, NULL); SELECT 1",
        "INSERT INTO flights VALUES ('a', 1, NULL), (E'b', 2, NULL)",
        "INSERT INTO flights VALUES ('a', 1, NULL), ('b\\', 2, NULL)",
        "INSERT INTO flights VALUES ('a', 1, NULL), (NULL, 2, NULL)",
        "INSERT INTO flights VALUES ('a', 1, NULL), (3, 2, NULL)",
        "INSERT INTO flights VALUES ('a', 1, NULL), ('b', 2.0, NULL)",
        "INSERT INTO flights VALUES ('a', 1, NULL), /* x */ ('b', 2, NULL)",
        "INSERT INTO flights AS f VALUES ('a', 1, NULL), ('b', 2, NULL)",
        "INSERT INTO flights (dest, made) VALUES ('a', NULL), ('b', NULL)",
        "INSERT INTO nowhere VALUES ('a', 1, NULL), ('b', 2, NULL)",
        "INSERT INTO table VALUES ('a', 1, NULL), ('b', 2, NULL)",
    ],
)
def test_anything_else_is_parsed(text: str) -> None:
    try:
        assert read(text) is None
    except errors.OrochiError:
        assert "INTO table" in text


_PIECES = st.sampled_from(
    [
        "'",
        "''",
        "'a'",
        "'2024-01-01'",
        "1",
        "-2",
        "e5",
        ".5",
        ",",
        "(",
        ")",
        "), (",
        " ",
        "\n",
        "NULL",
        "\\",
        "--",
        "/*",
        "$",
        ";",
        "x",
    ]
)
_ROW = st.tuples(
    st.text("a'(,)\n;-", max_size=4).map(lambda text: "'" + text.replace("'", "''") + "'"),
    st.integers(-(2**63), 2**63 - 1).map(str),
    st.sampled_from(["NULL", "'2024-01-01 10:00'", "true", "5"]),
).map(list)


@given(st.lists(_ROW, min_size=2, max_size=4), st.data())
def test_what_is_taken_is_what_the_grammar_reads(rows: list[list[str]], data: st.DataObject) -> None:
    text = "INSERT INTO flights VALUES " + ", ".join(f"({', '.join(row)})" for row in rows)
    if data.draw(st.booleans()):
        at = data.draw(st.integers(26, len(text)))
        text = text[:at] + data.draw(_PIECES) + text[at + data.draw(st.integers(0, 2)) :]
    found = read(text)
    if found is None:
        return
    lists = parse.parse_one(text).tree.selectStmt.valuesLists
    assert len(lists) == len(found.rows)
    for row, (sql, key, time) in zip(lists, found.rows, strict=True):
        (alone,) = parse.parse_one(f"VALUES {sql}").tree.valuesLists
        assert parse.deparse_expression(alone[2]) == parse.deparse_expression(row[2])
        assert row[0].val.sval == key
        assert _number(row[1]) == int(time)


def _number(node: trees.Node) -> int:
    value = node.val
    if isinstance(value, trees.ast.String):
        return int(value.sval)
    return int(value.ival) if isinstance(value, trees.ast.Integer) else int(value.fval)

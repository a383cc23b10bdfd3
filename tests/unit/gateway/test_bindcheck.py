"""What is plainly valid is valid; the rest is for the server to say."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orochi import pgtypes
from orochi.executor import context
from orochi.gateway import bindcheck
from tests.support import services

_TYPES = {
    pgtypes.INT2: "int2",
    pgtypes.INT4: "int4",
    pgtypes.INT8: "int8",
    pgtypes.FLOAT4: "float4",
    pgtypes.FLOAT8: "float8",
    pgtypes.NUMERIC: "numeric",
    pgtypes.BOOL: "bool",
    pgtypes.TEXT: "text",
    pgtypes.UUID: "uuid",
    pgtypes.DATE: "date",
    pgtypes.TIMESTAMP: "timestamp",
    pgtypes.TIMESTAMPTZ: "timestamptz",
}
_TEXTS = st.one_of(
    st.text("0123456789-+.eE:T Zxtf", max_size=32),
    st.text(max_size=8),
    st.integers().map(str),
    st.floats().map(str),
    st.uuids().map(str),
    st.dates().map(str),
    st.datetimes().map(str),
    st.datetimes(timezones=st.timezones()).map(str),
    st.sampled_from(["2024-02-30", "2024-01-01 24:00:00", "2024-01-01 12:00:60", "true", "yes", ""]),
)


def plainly(value: bytes | None, oid: int, form: int = 0, encoding: str = "UTF8") -> bool:
    return bindcheck.is_plainly_valid(context.Parameters((value,), (form,), (oid,)), encoding)


@settings(max_examples=150)
@given(text=_TEXTS, oid=st.sampled_from(sorted(_TYPES)))
def test_what_is_plainly_valid_is_taken(postgres_server: services.Server, text: str, oid: int) -> None:
    value = text.encode("utf-8", "surrogatepass")
    if not plainly(value, oid):
        return
    with psycopg.connect(postgres_server.dsn) as connection:
        connection.pgconn.exec_params(b"SET client_encoding = 'UTF8'", [])
        result = connection.pgconn.exec_params(b"SELECT $1", [value], param_types=[oid])
        assert result.status == psycopg.pq.ExecStatus.TUPLES_OK, (text, _TYPES[oid], result.error_message)


@pytest.mark.parametrize(
    ("value", "oid"),
    [
        (b"12", pgtypes.INT4),
        (b"-3", pgtypes.INT8),
        (b"1.5", pgtypes.NUMERIC),
        ("é".encode(), pgtypes.TEXT),
        (b"2024-02-29", pgtypes.DATE),
        (b"2024-02-29 10:00:00.000123+02", pgtypes.TIMESTAMPTZ),
        (None, 99_999),
    ],
)
def test_common_values_ask_nobody(value: bytes | None, oid: int) -> None:
    assert plainly(value, oid)


def test_others_are_asked() -> None:
    assert not plainly(b"x", pgtypes.INT4)
    assert not plainly("é".encode(), pgtypes.TEXT, encoding="LATIN1")
    assert not plainly(b"\xff", pgtypes.TEXT)
    assert not plainly(b"{}", 99_999)
    assert plainly(b"\0\0\0\1", pgtypes.INT4, form=1)
    assert not plainly(b"\0\0\1", pgtypes.INT4, form=1)

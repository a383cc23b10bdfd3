"""Binary COPY: whatever PostgreSQL sends comes back byte for byte, however the stream is cut."""

from __future__ import annotations

import struct

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orochi import errors, pgtypes
from orochi.engine import copybinary
from orochi.planner import fragment as fragments
from tests.support import services

_VALUES = {
    pgtypes.BOOL: st.booleans(),
    pgtypes.INT2: st.integers(-(2**15), 2**15 - 1),
    pgtypes.INT4: st.integers(-(2**31), 2**31 - 1),
    pgtypes.INT8: st.integers(-(2**63), 2**63 - 1),
    pgtypes.FLOAT8: st.floats(),
    pgtypes.TIMESTAMPTZ: st.integers(-(2**63), 2**63 - 1),
    pgtypes.TEXT: st.text(),
    pgtypes.NUMERIC: st.binary(max_size=40),
}


def _columns(oids: list[int]) -> tuple[fragments.OutputColumn, ...]:
    return tuple(fragments.OutputColumn(f"c{i}", oid, -1, "") for i, oid in enumerate(oids))


@st.composite
def _tables(draw: st.DrawFn) -> tuple[tuple[fragments.OutputColumn, ...], pa.RecordBatch]:
    oids = draw(st.lists(st.sampled_from(sorted(_VALUES)), min_size=1, max_size=5))
    rows = draw(st.integers(0, 30))
    arrays = [
        pa.array(draw(st.lists(st.none() | _VALUES[oid], min_size=rows, max_size=rows)), pgtypes.carrier(oid))
        for oid in oids
    ]
    columns = _columns(oids)
    return columns, pa.RecordBatch.from_arrays(arrays, schema=copybinary.schema(columns))


def _same(left: pa.RecordBatch, right: pa.RecordBatch, columns: tuple[fragments.OutputColumn, ...]) -> bool:
    return copybinary.encode(left, columns) == copybinary.encode(right, columns)


@given(_tables(), st.data())
def test_round_trip_at_any_split(
    table: tuple[tuple[fragments.OutputColumn, ...], pa.RecordBatch], data: st.DataObject
) -> None:
    columns, batch = table
    stream = copybinary.encode(batch, columns)
    decoder = copybinary.Decoder(columns)
    decoder._scanner._batch_bytes = decoder._scanner._wanted = data.draw(st.integers(1, 200))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    batches = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        batches += decoder.feed(stream[begin:end])
    batches += decoder.finish()
    assert sum(part.num_rows for part in batches) == batch.num_rows
    if batches:
        joined = pa.concat_batches(batches)
        joined.validate(full=True)
        assert _same(joined, batch, columns)
        assert [column.null_count for column in joined.columns] == [c.null_count for c in batch.columns]


@given(_tables(), st.data())
def test_slices_encode_as_copies(
    table: tuple[tuple[fragments.OutputColumn, ...], pa.RecordBatch], data: st.DataObject
) -> None:
    columns, batch = table
    begin = data.draw(st.integers(0, batch.num_rows))
    part = batch.slice(begin, data.draw(st.integers(0, batch.num_rows)))
    copied = pa.RecordBatch.from_arrays(
        [pa.array(column.to_pylist(), column.type) for column in part.columns], schema=batch.schema
    )
    assert _same(part, copied, columns)
    whole = copybinary.encode(part, columns, header=False, trailer=False)
    rows = copybinary.tuples(part, columns)
    assert (len(rows), b"".join(rows)) == (part.num_rows, whole)


@given(_tables(), st.data())
def test_splitting_loses_no_row(
    table: tuple[tuple[fragments.OutputColumn, ...], pa.RecordBatch], data: st.DataObject
) -> None:
    columns, batch = table
    places = data.draw(st.lists(st.integers(0, 3), min_size=batch.num_rows, max_size=batch.num_rows))
    splitter = copybinary.RowSplitter(len(columns), ((0, columns[0].type_oid),))
    found = [*splitter.feed(copybinary.encode(batch, columns)), *splitter.finish()]
    assert sum(rows.count for _, rows in found) == batch.num_rows
    for keys, rows in found:
        assert keys[0].null_count == batch.column(0).null_count
        pieces = rows.split(np.array(places))
        for place, piece in pieces.items():
            mask = pa.array([one == place for one in places])
            assert piece == copybinary.encode(batch.filter(mask), columns, header=False, trailer=False)


@pytest.mark.parametrize("cut", [1, 12, 20, 22, 25])
def test_a_cut_stream_is_an_error(cut: int) -> None:
    columns = _columns([pgtypes.INT4])
    stream = copybinary.encode(
        pa.RecordBatch.from_arrays([pa.array([7], pa.int32())], schema=copybinary.schema(columns)), columns
    )
    decoder = copybinary.Decoder(columns)
    decoder.feed(stream[:cut])
    with pytest.raises(errors.DataCorrupted):
        decoder.finish()


@pytest.mark.parametrize(
    "row",
    [struct.pack(">hi4s", 2, 4, b"abcd"), struct.pack(">hi8s", 1, 8, b"abcdefgh"), struct.pack(">hi", 1, -2)],
)
def test_a_wrong_row_is_an_error(row: bytes) -> None:
    decoder = copybinary.Decoder(_columns([pgtypes.INT4]))
    decoder.feed(copybinary.HEADER + row + copybinary.TRAILER)
    with pytest.raises(errors.DataCorrupted):
        decoder.finish()


def test_rows_larger_than_a_batch() -> None:
    columns = _columns([pgtypes.TEXT])
    batch = pa.RecordBatch.from_arrays([pa.array(["x" * 9_000_000, "y"])], schema=copybinary.schema(columns))
    stream = copybinary.encode(batch, columns)
    decoder = copybinary.Decoder(columns)
    batches = [b for at in range(0, len(stream), 65_536) for b in decoder.feed(stream[at : at + 65_536])]
    assert _same(pa.concat_batches([*batches, *decoder.finish()]), batch, columns)


_EVERY_TYPE = """
SELECT i::int2 AS int2, i, i::int8 AS int8, i::float4/3 AS f4, i::float8/7 AS f8, i % 2 = 0 AS b, i::text AS t,
  i::varchar AS v, i::char(7) AS bp, 'n'::name AS n, now()::date + i AS d, now() AS tz, localtimestamp AS ts,
  localtime AS ti, current_time AS tt, i * interval '1 day 3 us' AS iv, i::numeric / 7 AS nu, 'NaN'::numeric AS na,
  gen_random_uuid() AS u, ('{"a": ' || i || '}')::json AS j, ('{"a": ' || i || '}')::jsonb AS jb,
  decode('00ff', 'hex') AS by, ARRAY[i, NULL] AS ar, ROW(i, 'x')::text AS ro, inet '10.0.0.1' AS ip,
  point(i, 1) AS po, int4range(i, i + 3) AS ra, 'a b'::tsvector AS tv, B'101' AS bi, '1'::"char" AS ch,
  i::money AS mo, 'pg_class'::regclass AS rc, i::oid AS o, NULLIF(i, 5) AS nul
FROM generate_series(1, 5000) i
"""


def test_postgresql_reads_what_it_wrote(postgres_server: services.Server) -> None:
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        cursor = connection.execute(_EVERY_TYPE)
        columns = tuple(
            fragments.OutputColumn(field.name, field.type_code, -1, "") for field in cursor.description or ()
        )
        with cursor.copy(f"COPY ({_EVERY_TYPE}) TO STDOUT (FORMAT binary)") as copy:
            stream = b"".join(bytes(part) for part in copy)
        batch = copybinary.decode(stream, columns)
        batch.validate(full=True)
        assert copybinary.encode(batch, columns) == stream
        assert batch.column("i").to_pylist() == list(range(1, 5001))
        assert batch.column("nul").null_count == 1
        assert batch.column("t").to_pylist()[:2] == ["1", "2"]

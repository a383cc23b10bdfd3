"""Stripes: what is written is read, pruning never loses a row, damage never becomes data."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import random
import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orochi import errors, pgtypes
from orochi.storage.columnar import cache, reader, skiplist, writer
from orochi.storage.columnar import filter as filtering

OIDS = [
    pgtypes.BOOL,
    pgtypes.INT2,
    pgtypes.INT4,
    pgtypes.INT8,
    pgtypes.OID,
    pgtypes.FLOAT4,
    pgtypes.FLOAT8,
    pgtypes.TEXT,
    pgtypes.BYTEA,
    pgtypes.NUMERIC,
    pgtypes.TIMESTAMPTZ,
    pgtypes.DATE,
]
OPS = ["=", "<", "<=", ">", ">="]


@dataclasses.dataclass(frozen=True)
class Predicate:
    column: str
    op: str
    values: tuple[Any, ...] = ()


def scalars(type_oid: int) -> st.SearchStrategy[Any]:
    """Values of a type, with few distinct ones so that predicates hit."""
    if type_oid == pgtypes.BOOL:
        return st.booleans()
    arrow = pgtypes.carrier(type_oid)
    if pa.types.is_floating(arrow):
        width = arrow.bit_width
        return st.sampled_from([0.0, -0.0, 1.5, math.nan, math.inf, -math.inf, 2.0**60]) | st.floats(
            width=width
        )
    if pa.types.is_string(arrow):
        return st.text(max_size=3) | st.sampled_from(
            ["", "a", "ab", "é" * 20, "é" * 16 + "z", "\U0010ffff" * 12]
        )
    if pa.types.is_binary(arrow):
        return st.binary(max_size=3) | st.sampled_from([b"\xff" * 40, b"\xff" * 32, b"a" * 40])
    signed = arrow != pa.uint32()
    low = -(1 << arrow.bit_width - 1) if signed else 0
    high = (1 << arrow.bit_width - signed) - 1
    return (
        st.integers(-3, 3).map(lambda v: max(v, low)) | st.integers(low, high) | st.sampled_from([low, high])
    )


@st.composite
def tables(draw: st.DrawFn, most: int = 60) -> tuple[pa.RecordBatch, list[writer.StripeColumn]]:
    oids = draw(st.lists(st.sampled_from(OIDS), min_size=1, max_size=4))
    count = draw(st.integers(0, most))
    columns, arrays = [], []
    for number, oid in enumerate(oids):
        values = draw(st.lists(st.none() | scalars(oid), min_size=count, max_size=count))
        arrays.append(pa.array(values, pgtypes.carrier(oid)))
        columns.append(writer.StripeColumn(f'c{number} ñ"火', oid, -1))
    return pa.RecordBatch.from_arrays(arrays, [column.name for column in columns]), columns


def operands(oid: int) -> st.SearchStrategy[Any]:
    """Operands a planner may send: also of the other numeric kind, and out of range."""
    arrow = pgtypes.carrier(oid)
    if pa.types.is_string(arrow) or pa.types.is_binary(arrow):
        return scalars(oid)
    return (
        scalars(oid)
        | st.integers(-(2**70), 2**70)
        | st.sampled_from([0.5, -0.5, math.nan, math.inf, -math.inf])
    )


def key(value: Any) -> Any:
    """PostgreSQL's order: NaN after everything."""
    return (1, 0) if isinstance(value, float) and math.isnan(value) else (0, value)


def passes(value: Any, op: str, values: tuple[Any, ...], carrier: pa.DataType) -> bool:
    """What PostgreSQL would say, one value at a time."""
    if op in ("isnull", "notnull"):
        return (value is None) == (op == "isnull")
    if value is None:
        return False
    if pa.types.is_floating(carrier):
        values = tuple(float(operand) for operand in values)
    left, rights = key(value), [key(operand) for operand in values]
    if op == "in":
        return left in rights
    right = rights[0]
    return {
        "=": left == right,
        "<": left < right,
        "<=": left <= right,
        ">": left > right,
        ">=": left >= right,
    }[op]


@st.composite
def predicates(draw: st.DrawFn, columns: list[writer.StripeColumn]) -> Predicate:
    column = draw(st.sampled_from(columns))
    op = draw(st.sampled_from([*OPS, *OPS, "in", "isnull", "notnull"]))
    if op in ("isnull", "notnull"):
        return Predicate(column.name, op)
    if op == "in":
        return Predicate(column.name, op, tuple(draw(st.lists(operands(column.type_oid), max_size=4))))
    return Predicate(column.name, op, (draw(operands(column.type_oid)),))


def same(left: pa.RecordBatch, right: pa.RecordBatch) -> bool:
    """Equal with NaN = NaN and -0.0 apart from 0.0."""
    return left.schema.equals(right.schema) and repr(left.to_pylist()) == repr(right.to_pylist())


def write(
    path: pathlib.Path, batch: pa.RecordBatch, columns: list[writer.StripeColumn], group: int = 7
) -> None:
    options = writer.WriteOptions(chunk_group_row_limit=group)
    half = batch.num_rows // 2
    writer.write_stripe(path, [batch.slice(0, half), batch.slice(half)], columns, options)


def scan(path: pathlib.Path, *arguments: Any, **named: Any) -> pa.Table:
    with reader.StripeReader(path) as stripe:
        return pa.Table.from_batches(list(stripe.scan(*arguments, **named)))


@given(tables())
def test_round_trip(table: tuple[pa.RecordBatch, list[writer.StripeColumn]]) -> None:
    batch, columns = table
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "s.stripe")
        write(path, batch, columns)
        with reader.StripeReader(path) as stripe:
            batches = list(stripe.scan([column.name for column in columns]))
            assert stripe.row_count == batch.num_rows
            assert stripe.verify() == len(columns) * -(-batch.num_rows // 7)
            for column in stripe.footer.columns:
                without_sum = dataclasses.replace(column.stats, total=None)
                assert repr(column.outline) == repr(without_sum)  # NaN is NaN
        if batch.num_rows:
            assert len(batches) == 1
            assert same(batches[0], batch)
        else:
            assert not batches


@given(st.data())
def test_scan_with_predicates_is_exact(data: st.DataObject) -> None:
    batch, columns = data.draw(tables())
    wanted = data.draw(st.lists(predicates(columns), min_size=1, max_size=3))
    by_name = {column.name: column.type_oid for column in columns}
    expected = [
        number
        for number, row in enumerate(batch.to_pylist())
        if all(passes(row[p.column], p.op, p.values, pgtypes.carrier(by_name[p.column])) for p in wanted)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "s.stripe")
        write(path, batch, columns)
        with reader.StripeReader(path, cache=cache.Cache(1 << 20)) as stripe:
            for _ in range(2):
                batches = list(stripe.scan([columns[-1].name], wanted, with_row_numbers=True))
                found = [number for b in batches for number in b.column(reader.ROW_NUMBER).to_pylist()]
                assert found == expected
                values = [repr(value) for b in batches for value in b.column(0).to_pylist()]
                assert values == [
                    repr(value)
                    for value in batch.column(len(columns) - 1)
                    .take(pa.array(expected, pa.int64()))
                    .to_pylist()
                ]


@given(st.data())
def test_may_match_never_excludes_a_matching_row(data: st.DataObject) -> None:
    batch, columns = data.draw(tables(most=8))
    predicate = data.draw(predicates(columns))
    number = next(n for n, column in enumerate(columns) if column.name == predicate.column)
    array, oid = batch.column(number), columns[number].type_oid
    stats = skiplist.compute(array, oid)
    matching = [passes(value, predicate.op, predicate.values, array.type) for value in array.to_pylist()]
    if any(matching):
        assert skiplist.may_match(stats, predicate, array.type)
    parts = [skiplist.compute(array.slice(at, 3), oid) for at in range(0, len(array), 3)]
    if any(matching):
        assert skiplist.may_match(skiplist.merge(parts), predicate, array.type)
    mask = filtering.mask({predicate.column: array}, [predicate])
    assert ([True] * len(array) if mask is None else mask.tolist()) == matching


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, pa.RecordBatch]:
    """100 columns with unicode names, 2,345 rows, every carrier, nulls."""
    return mixed(tmp_path_factory.mktemp("wide") / "wide.stripe", range(100))


def mixed(path: pathlib.Path, numbers: Iterable[int]) -> tuple[pathlib.Path, pa.RecordBatch]:
    """A stripe with the numbered columns."""
    rng = np.random.default_rng(7)
    count = 2345
    columns, arrays = [], []
    for number in numbers:
        oid = OIDS[number % len(OIDS)]
        arrow = pgtypes.carrier(oid)
        nulls = rng.random(count) < (number % 5) / 4
        integers = rng.integers(0, 50 + number, count)
        if pa.types.is_string(arrow):
            values = pa.array([f"größe {value}" for value in integers], arrow, mask=nulls)
        elif oid == pgtypes.BYTEA and number > 50:  # distinct: these have filters
            values = pa.array([bytes(rng.bytes(16)) for _ in integers], arrow, mask=nulls)
        elif pa.types.is_binary(arrow):
            values = pa.array([b"\x00" * int(value % 9) for value in integers], arrow, mask=nulls)
        elif pa.types.is_boolean(arrow):
            values = pa.array(integers % 2 == 0, mask=nulls)
        else:
            values = pa.array(integers, mask=nulls).cast(arrow)
        columns.append(writer.StripeColumn(f"столбец {number} 🐍", oid))
        arrays.append(values)
    batch = pa.RecordBatch.from_arrays(arrays, [column.name for column in columns])
    write(path, batch, columns, group=1000)
    return path, batch


def test_wide_stripe(wide: tuple[pathlib.Path, pa.RecordBatch]) -> None:
    path, batch = wide
    assert scan(path, batch.schema.names).equals(pa.Table.from_batches([batch]))
    assert reader.verify(path) == 300
    with reader.StripeReader(path) as stripe:
        assert any(column.dictionary for column in stripe.footer.columns)
        assert any(column.filter for column in stripe.footer.columns)


def test_flipped_bytes_are_found(tmp_path: pathlib.Path) -> None:
    """1,000 flips, half of them in what is small: header, footer, dictionaries, filters, trailer."""
    path, _ = mixed(tmp_path / "one.stripe", range(45, 57))
    data = bytearray(path.read_bytes())
    with reader.StripeReader(path) as stripe:
        end = max(column.chunks[-1].offset + column.chunks[-1].extent for column in stripe.footer.columns)
        small = [column.dictionary or column.filter for column in stripe.footer.columns]
    places = [*range(16), *range(end, len(data))]
    places += [at for part in small if part for at in range(part.offset, part.offset + part.extent)]
    chosen = random.Random(11)
    damaged = path.with_name("damaged.stripe")
    damaged.write_bytes(data)
    with damaged.open("r+b", buffering=0) as file:
        for number in range(1000):
            at = chosen.choice(places) if number % 2 else chosen.randrange(len(data))
            os.pwrite(file.fileno(), bytes((data[at] ^ chosen.randrange(1, 256),)), at)
            with pytest.raises(errors.DataCorrupted, match=r"damaged\.stripe"):
                reader.check(damaged)
            os.pwrite(file.fileno(), data[at : at + 1], at)
    reader.check(damaged)


@pytest.mark.parametrize("keep", [0, 8, 16, 39, 40, 41, 1000, -1, -24])
def test_truncated_files_are_found(wide: tuple[pathlib.Path, pa.RecordBatch], keep: int) -> None:
    path, _ = wide
    damaged = path.with_name("short.stripe")
    damaged.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(errors.DataCorrupted):
        reader.verify(damaged)


def test_damage_elsewhere_does_not_stop_a_scan(wide: tuple[pathlib.Path, pa.RecordBatch]) -> None:
    path, batch = wide
    with reader.StripeReader(path) as stripe:
        chunk = stripe.footer.columns[40].chunks[1]
    data = bytearray(path.read_bytes())
    data[chunk.offset] ^= 1
    damaged = path.with_name("partly.stripe")
    damaged.write_bytes(data)
    name = batch.schema.names[40]
    assert scan(damaged, [batch.schema.names[41]]).num_rows == batch.num_rows
    with pytest.raises(errors.DataCorrupted, match=f'"{name}", group 1'):
        scan(damaged, [name])

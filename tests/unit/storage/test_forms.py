"""Shared dictionaries, scaled numerics and bloom filters: other forms, the same answers."""

from __future__ import annotations

import dataclasses
import decimal
import functools
import operator
import pathlib
import uuid
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from orochi import errors, pgtypes
from orochi.engine import native
from orochi.planner import fragment
from orochi.storage.columnar import cache, reader, writer
from orochi.storage.columnar import filter as filtering

ROWS = 5000
COLUMNS = [
    writer.StripeColumn("host", pgtypes.TEXT),
    writer.StripeColumn("price", pgtypes.NUMERIC),
    writer.StripeColumn("key", pgtypes.UUID),
    writer.StripeColumn("id", pgtypes.INT8),
]
OPTIONS = writer.WriteOptions(chunk_group_row_limit=1000)


CENTS = np.random.default_rng(6).integers(-100_000, 100_000, ROWS).tolist()


@functools.cache
def table() -> pa.RecordBatch:
    rng = np.random.default_rng(5)
    hosts = pa.array([f"host_{number}" for number in rng.integers(0, 40, ROWS)], mask=rng.random(ROWS) < 0.1)
    prices = [native.numeric_binary(decimal.Decimal(value).scaleb(-2)) for value in CENTS]
    prices = pa.array([None if n % 7 == 3 else price for n, price in enumerate(prices)], pa.binary())
    keys = pa.array([uuid.UUID(bytes=rng.bytes(16)).bytes for _ in range(ROWS)], pa.binary())
    ids = pa.array(rng.integers(-(2**63), 2**63 - 1, ROWS))
    return pa.RecordBatch.from_arrays([hosts, prices, keys, ids], [column.name for column in COLUMNS])


@pytest.fixture(scope="module")
def stripe(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("forms") / "one.stripe"
    writer.write_stripe(path, [table()], COLUMNS, OPTIONS)
    return path


def rows(path: pathlib.Path, *arguments: Any, **named: Any) -> pa.Table:
    with reader.StripeReader(path, cache=cache.Cache(64 << 20)) as opened:
        return pa.Table.from_batches(list(opened.scan(*arguments, **named)))


def test_parts_are_where_they_serve(stripe: pathlib.Path) -> None:
    with reader.StripeReader(stripe) as opened:
        host, price, key, number = opened.footer.columns
        assert {chunk.codec for chunk in host.chunks} == {"shared_dictionary"}
        assert {chunk.codec for chunk in price.chunks} == {"numeric"}
        assert (bool(host.dictionary), bool(key.filter), bool(price.filter)) == (True, True, False)
        assert opened.dictionary(host).to_pylist() == sorted(f"host_{n}" for n in range(40))
        assert opened.verify() == 20
    assert rows(stripe, ["host", "price", "key", "id"]).to_batches()[0].equals(table())
    assert number.filter is None or number.filter.entries == 5


def test_forms_of_columns(stripe: pathlib.Path) -> None:
    forms = reader.Forms(coded=frozenset({"host"}), scaled={"price": 3})
    found = rows(stripe, ["host", "price"], forms=forms)
    host = found.column("host").combine_chunks()
    assert host.type == pa.dictionary(pa.int32(), pa.string())
    assert host.cast(pa.string()).equals(table().column(0))
    expected = [None if n % 7 == 3 else cents * 10 for n, cents in enumerate(CENTS)]
    assert found.column("price").to_pylist() == expected
    assert rows(stripe, ["price"], forms=reader.Forms(scaled={"price": 1})).column(0).type == pa.binary()


@pytest.mark.parametrize("number", ["-7.25", "NaN"])
def test_numerics_that_are_codes(tmp_path: pathlib.Path, number: str) -> None:
    """A column has a dictionary where a sample has only NULLs, or NaN."""
    value = native.numeric_binary(decimal.Decimal("-7.25"))
    if number == "NaN":
        value = bytes.fromhex("00000000c0000000")
    written = pa.array([value if n in (300, 1000, 2000) else None for n in range(ROWS)], pa.binary())
    batch = pa.RecordBatch.from_arrays([written], ["price"])
    writer.write_stripe(tmp_path / "one", [batch], COLUMNS[1:2], OPTIONS)
    with reader.StripeReader(tmp_path / "one") as opened:
        assert opened.footer.columns[0].dictionary is not None
    found = rows(tmp_path / "one", ["price"], forms=reader.Forms(scaled={"price": 3})).column(0)
    scaled = pa.array([-7250 if each is not None else None for each in written.to_pylist()], pa.int64())
    assert found.combine_chunks().equals(written if number == "NaN" else scaled)


def test_rows_that_fail_may_come_where_that_is_said(stripe: pathlib.Path) -> None:
    hosts = table().column(0)
    forms = reader.Forms(stored=frozenset({"host", "id"}), loose=True)
    for op, value in ((">=", "host_11"), ("=", "host_7"), ("isnull", None)):
        predicate = fragment.Predicate("host", op, () if value is None else (value,))
        exact = rows(stripe, ["host", "id"], [predicate])
        loose = rows(stripe, ["host", "id"], [predicate], forms=forms)
        kept = set(exact.column(1).to_pylist())
        assert [row for row in loose.to_pylist() if row["id"] in kept] == exact.to_pylist()
        assert len(loose) == (len(hosts) if op == ">=" else len(exact))
        assert loose.column(1).type == pa.int64()
        assert pa.types.is_dictionary(loose.column(0).type)


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64()])
def test_ranges_of_integers(kind: pa.DataType) -> None:
    limits = np.iinfo(kind.to_pandas_dtype())
    values = [limits.min, limits.min + 1, -1, 0, 1, None, limits.max - 1, limits.max]
    bounds = [*values[:5], *values[6:], limits.min - 1, limits.max + 1]
    for op, compare in (("<", operator.lt), ("<=", operator.le), (">", operator.gt), (">=", operator.ge)):
        for bound in bounds:
            found = filtering.mask({"x": pa.array(values, kind)}, [fragment.Predicate("x", op, (bound,))])
            assert [bool(flag) for flag in found] == [v is not None and compare(v, bound) for v in values]


@pytest.mark.parametrize(
    ("op", "values"),
    [
        ("=", ("host_7",)),
        ("<", ("host_2",)),
        (">=", ("host_5",)),
        ("in", ("host_1", "nowhere", "host_39")),
        ("isnull", ()),
        ("notnull", ()),
    ],
)
def test_predicates_on_dictionaries(stripe: pathlib.Path, op: str, values: tuple[str, ...]) -> None:
    kept = {
        "=": lambda v: v is not None and v == values[0],
        "<": lambda v: v is not None and v < values[0],
        ">=": lambda v: v is not None and v >= values[0],
        "in": lambda v: v in values,
        "isnull": lambda v: v is None,
        "notnull": lambda v: v is not None,
    }[op]
    expected = [row for row in table().to_pylist() if kept(row["host"])]
    found = rows(stripe, ["host", "id"], [fragment.Predicate("host", op, values)])
    assert found.to_pylist() == [{"host": row["host"], "id": row["id"]} for row in expected]


def test_dictionaries_and_filters_prune(stripe: pathlib.Path) -> None:
    key = table().column(2)[3210].as_py()
    with reader.StripeReader(stripe) as opened:
        assert not list(opened.scan(["id"], [fragment.Predicate("host", "=", ("host_77",))]))
        assert opened.groups_skipped == 5
    with reader.StripeReader(stripe) as opened:
        (found,) = opened.scan(["id"], [fragment.Predicate("key", "=", (key.hex(),))], with_row_numbers=True)
        assert found.column(1).to_pylist() == [3210]
        assert opened.groups_skipped >= 3
    skipped = 0
    for number in range(20):
        with reader.StripeReader(stripe) as opened:
            wanted = (uuid.UUID(int=number << 100).bytes, uuid.UUID(int=number << 90).bytes)
            assert not list(opened.scan(["id"], [fragment.Predicate("key", "in", wanted)]))
            skipped += opened.groups_skipped
    assert skipped > 90


@pytest.mark.parametrize("part", ["dictionary", "filter"])
def test_damage_to_a_part_is_named(stripe: pathlib.Path, part: str) -> None:
    with reader.StripeReader(stripe) as opened:
        column = opened.footer.columns[0 if part == "dictionary" else 2]
        place = column.dictionary or column.filter
    assert place is not None
    damaged = stripe.with_name(f"{part}.stripe")
    data = bytearray(stripe.read_bytes())
    data[place.offset + 9] ^= 4
    damaged.write_bytes(data)
    values = ("host_1",) if part == "dictionary" else ("80" * 16,)
    with pytest.raises(errors.DataCorrupted, match=f'{part} of column "{column.name}"'):
        rows(damaged, ["id"], [fragment.Predicate(column.name, "=", values)])
    with pytest.raises(errors.DataCorrupted, match=f'{part} of column "{column.name}"'):
        reader.verify(damaged)
    assert rows(damaged, ["id"]).num_rows == ROWS


def test_forced_codecs_have_no_shared_dictionary(tmp_path: pathlib.Path) -> None:
    options = dataclasses.replace(OPTIONS, codecs={"host": "dictionary"})
    info = writer.write_stripe(tmp_path / "x.stripe", [table()], COLUMNS, options)
    assert {chunk.codec for chunk in info.chunks if chunk.column == "host"} == {"dictionary"}
    assert rows(tmp_path / "x.stripe", ["host"]).column(0).combine_chunks().equals(table().column(0))

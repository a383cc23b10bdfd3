"""Numerics as scaled integers: what engines compute on is what the binary form says."""

from __future__ import annotations

import decimal

import numpy as np
import pyarrow as pa
import pytest

from orochi.engine import native
from orochi.storage.compression import chooser, numeric, registry


def binary(*values: str) -> pa.Array:
    return pa.array([native.numeric_binary(decimal.Decimal(value)) for value in values], pa.binary())


def test_prices_become_small_integers() -> None:
    prices = np.random.default_rng(3).integers(90_000, 10_000_000, 5000)
    array = binary(*(str(decimal.Decimal(int(price)).scaleb(-2)) for price in prices))
    encoded = chooser.encode(array, compression="auto", level=3)
    assert registry.CODECS[encoded.codec] is numeric
    assert len(encoded.data) < 5000 * 25 / 8 + 200
    out = np.empty(5000, np.int64)
    assert numeric.scaled_into(encoded.data, out, 2)
    assert out.tolist() == prices.tolist()


def test_scales_are_kept_and_brought_together() -> None:
    array = binary("1.0", "1.00", "0", "0.000", "-2.5", "123456789012345678", "-0.0005")
    data = numeric.encode(pa.concat_arrays([array] * 20))
    assert data is not None
    assert numeric.decode(data, 140, pa.binary()).slice(0, 7).equals(array)
    out = np.empty(140, np.int64)
    assert not numeric.scaled_into(data, out, 4)  # a value of 18 digits has no room for decimals
    assert not numeric.scaled_into(data, out, 3)
    few = binary("1.0", "1.00", "0", "-2.5")
    data = numeric.encode(pa.concat_arrays([few] * 20))
    assert data is not None
    assert numeric.scaled_into(data, np.zeros(0, np.int64), 2)
    out = np.empty(80, np.int64)
    assert numeric.scaled_into(data, out, 2)
    assert out[:4].tolist() == [100, 100, 0, -250]


@pytest.mark.parametrize("odd", ["00000000c0000000", "00000000d0000000", "0001000a000000000001"])
def test_nan_infinity_and_large_values_are_kept_aside(odd: str) -> None:
    array = pa.concat_arrays([*[binary("2.50", "3.75")] * 40, pa.array([bytes.fromhex(odd)])])
    data = numeric.encode(array)
    assert data is not None
    assert numeric.decode(data, 81, pa.binary()).equals(array)
    assert not numeric.scaled_into(data, np.empty(81, np.int64), 2)


def test_other_binary_values_do_not_fit() -> None:
    assert numeric.encode(pa.array([bytes(16), b"", b"text"] * 30)) is None

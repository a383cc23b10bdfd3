"""decode(encode(x)) = x, bit for bit, for every codec and carrier type."""

from __future__ import annotations

import decimal
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orochi.engine import native
from orochi.storage.columnar import bulk, chunks
from orochi.storage.columnar import format as layout
from orochi.storage.compression import buffers, bulk_kernels, chooser, integers, registry

TYPES = [
    pa.bool_(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.uint32(),
    pa.float32(),
    pa.float64(),
    pa.string(),
    pa.binary(),
]
CODECS = sorted(registry.CODEC_IDS)
#: NaN, both infinities, 10^40, 1 with 20 decimals, -0, untrimmed groups, a group of 10,000, cut short.
ODD_NUMERICS = (
    "00000000c0000000",
    "00000000d0000000",
    "00000000f0000000",
    "0001000a000000000001",
    "00010000000000140001",
    "0000000040000000",
    "000200000000000000010000",
    "00010000000000002710",
    "0001000000000000",
    "00",
)
TAKES = {
    **dict.fromkeys(("plain", "dictionary", "rle"), TYPES[1:]),
    **dict.fromkeys(("frame_of_reference", "delta", "delta_of_delta"), TYPES[1:5]),
    **dict.fromkeys(("alp", "gorilla", "xor"), TYPES[5:7]),
    "boolean": TYPES[:1],
    "numeric": TYPES[8:],
}


def identical(left: pa.Array, right: pa.Array) -> bool:
    """Equal with every NaN payload and sign of zero; null slots aside."""
    if left.type != right.type or len(left) != len(right):
        return False
    if not left.is_valid().equals(right.is_valid()):
        return False
    left, right = left.drop_null(), right.drop_null()
    if pa.types.is_floating(left.type):
        return buffers.values(left).tobytes() == buffers.values(right).tobytes()
    return left.equals(right)


@st.composite
def dense(draw: st.DrawFn, arrow_type: pa.DataType) -> pa.Array:
    """A null-free array: random, extreme, sorted, repeated, decimal, regular; often sliced."""
    count = draw(st.sampled_from([0, 1, 2, 3, 17, 64, 1023, 1024, 1025, 2500]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    offset = draw(st.sampled_from([0, 0, 1, 5, 8]))
    total = count + offset
    if pa.types.is_boolean(arrow_type):
        array = pa.array(rng.random(total) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])))
    elif buffers.is_bytes(arrow_type):
        array = draw(byte_values(arrow_type, total, rng))
    elif pa.types.is_floating(arrow_type):
        array = draw(float_values(arrow_type, total, rng))
    else:
        array = draw(integer_values(arrow_type, total, rng))
    return array.slice(offset)


@st.composite
def integer_values(
    draw: st.DrawFn, arrow_type: pa.DataType, total: int, rng: np.random.Generator
) -> pa.Array:
    dtype = buffers.dtype_of(arrow_type)
    assert dtype is not None
    limits = np.iinfo(dtype)
    shape = draw(st.sampled_from(["any", "edges", "regular", "runs", "scaled", "few", "outliers"]))
    if shape == "any":
        values = rng.integers(limits.min, limits.max, total, dtype=dtype, endpoint=True)
    elif shape == "edges":
        values = rng.choice(np.array([limits.min, limits.min + 1, 0, 1, limits.max], dtype), total)
    elif shape == "regular":
        values = (np.arange(total) * draw(st.integers(-(2**40), 2**40))).astype(dtype)
    elif shape == "runs":
        values = np.sort(rng.integers(0, 1 + total // 100, total)).astype(dtype)
    elif shape == "scaled":
        values = (rng.integers(-30, 30, total) * 1000).astype(dtype)
    elif shape == "few":
        values = rng.choice(rng.integers(limits.min, limits.max, 3, dtype=dtype), total)
    else:
        values = np.where(rng.random(total) < 0.01, limits.max, rng.integers(0, 9, total)).astype(dtype)
    return pa.array(values)


@st.composite
def float_values(draw: st.DrawFn, arrow_type: pa.DataType, total: int, rng: np.random.Generator) -> pa.Array:
    dtype = buffers.dtype_of(arrow_type)
    assert dtype is not None
    word = np.dtype(f"u{dtype.itemsize}")
    shape = draw(st.sampled_from(["bits", "edges", "decimals", "walk", "constant", "mixed"]))
    edges = [0.0, -0.0, 1.5, float("inf"), -float("inf"), float("nan"), -float("nan"), np.finfo(dtype).tiny]
    if shape == "bits":
        values = rng.integers(0, np.iinfo(word).max, total, dtype=word, endpoint=True).view(dtype)
    elif shape == "edges":
        values = rng.choice(np.array(edges, dtype), total)
    elif shape == "decimals":
        values = np.round(rng.normal(size=total) * 100, draw(st.integers(0, 6))).astype(dtype)
    elif shape == "walk":
        values = np.cumsum(rng.normal(size=total)).astype(dtype)
    elif shape == "constant":
        values = np.full(total, rng.normal(), dtype)
    else:
        values = np.round(rng.random(total), 1).astype(dtype)
        payloads = rng.integers(0, np.iinfo(word).max, total, dtype=word, endpoint=True)
        quiet = np.uint64(0x7FF8 << 48) if dtype.itemsize == 8 else np.uint32(0x7FC00000)
        values = np.where(rng.random(total) < 0.05, (payloads | quiet).astype(word).view(dtype), values)
    return pa.Array.from_buffers(arrow_type, total, [None, pa.py_buffer(values.tobytes())])


@st.composite
def byte_values(draw: st.DrawFn, arrow_type: pa.DataType, total: int, rng: np.random.Generator) -> pa.Array:
    pool = [*draw(st.lists(st.text(max_size=12), min_size=1, max_size=8)), "", "ñandú 火", "x" * 300]
    shape = draw(st.sampled_from(["few", "distinct", "sorted", "empty", "numerics"]))
    if shape == "numerics" and pa.types.is_binary(arrow_type):
        return pa.array(numerics(total, draw(st.integers(-3, 18)), rng), arrow_type)
    if shape == "distinct":
        texts = [f"{pool[0]}{number}" for number in rng.permutation(total)]
    elif shape == "empty":
        texts = [""] * total
    else:
        texts = [pool[number] for number in rng.integers(0, len(pool), total)]
        texts = sorted(texts) if shape == "sorted" else texts
    if pa.types.is_string(arrow_type):
        return pa.array(texts, arrow_type)
    return pa.array([text.encode("utf-16", "surrogatepass") for text in texts], arrow_type)


def numerics(total: int, scale: int, rng: np.random.Generator) -> list[bytes]:
    """Binary numerics of one scale (several if it is negative), a few of them special or malformed."""
    odd = [bytes.fromhex(text) for text in ODD_NUMERICS]
    found = []
    for magnitude in rng.integers(0, 18, total).tolist():
        if rng.random() < 0.02:
            found.append(odd[int(rng.integers(len(odd)))])
            continue
        value = int(rng.integers(-(10**magnitude), 10**magnitude, endpoint=True))
        decimals = int(rng.integers(0, 19)) if scale < 0 else scale
        found.append(native.numeric_binary(decimal.Decimal(value).scaleb(-decimals)))
    return found


@pytest.mark.parametrize("name", CODECS)
@given(data=st.data())
def test_round_trip(name: str, data: st.DataObject) -> None:
    codec = registry.CODECS[registry.CODEC_IDS[name]]
    arrow_type = data.draw(st.sampled_from(TAKES[name]))
    array = data.draw(dense(arrow_type))
    encoded = codec.encode(array)
    if encoded is not None:
        decoded = codec.decode(encoded, len(array), arrow_type)
        decoded.validate(full=True)
        assert identical(decoded, array)


@pytest.mark.parametrize("name", CODECS)
def test_other_types_do_not_fit(name: str) -> None:
    for arrow_type in TYPES:
        if arrow_type not in TAKES[name]:
            array = pa.array([1] * 50).cast(arrow_type) if arrow_type != pa.binary() else pa.array([b""] * 50)
            assert registry.CODECS[registry.CODEC_IDS[name]].encode(array) is None


@pytest.mark.parametrize("arrow_type", TYPES, ids=str)
@given(data=st.data())
def test_chooser_round_trip(arrow_type: pa.DataType, data: st.DataObject) -> None:
    array = data.draw(dense(arrow_type))
    encoded = chooser.encode(
        array,
        compression=data.draw(st.sampled_from(chooser.COMPRESSIONS)),
        level=3,
        codec=data.draw(st.none() | st.sampled_from(CODECS)),
    )
    payload = encoded.data
    if encoded.block:
        payload = registry.BLOCKS[encoded.block].decompress(payload, encoded.payload_size)
    assert len(payload) == encoded.payload_size
    assert identical(registry.CODECS[encoded.codec].decode(payload, len(array), arrow_type), array)


@pytest.mark.parametrize("arrow_type", TYPES, ids=str)
@given(data=st.data())
def test_column_chunk_round_trip_with_nulls(arrow_type: pa.DataType, data: st.DataObject) -> None:
    array = data.draw(dense(arrow_type))
    share = data.draw(st.sampled_from([0.0, 0.02, 0.5, 0.99, 1.0]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    nulls = pa.array(rng.random(len(array)) < share)
    array = with_nulls(array, nulls)
    compression = data.draw(st.sampled_from(chooser.COMPRESSIONS))
    codec = data.draw(st.none() | st.sampled_from(CODECS))
    stored, encoded, stats = chunks.encode(array, 25, compression=compression, level=1, codec=codec)
    assert len(stored) % 8 == 0
    chunk = layout.ColumnChunk(
        "c",
        0,
        16,
        len(encoded.data),
        encoded.payload_size,
        array.nbytes,
        0,
        registry.CODECS[encoded.codec].NAME,
        registry.BLOCK_NAMES[encoded.block],
        stats,
    )
    decoded = chunks.decode(pa.py_buffer(stored), chunk, arrow_type)
    decoded.validate(full=True)
    assert identical(decoded, array)


AT_ONCE = [
    *((pa.int64(), name) for name in ("frame_of_reference", "delta", "delta_of_delta", "rle")),
    *((pa.int32(), name) for name in ("frame_of_reference", "delta", "rle")),
    (pa.float64(), "alp"),
]


@pytest.mark.parametrize(("arrow_type", "name"), AT_ONCE, ids=str)
@given(data=st.data())
def test_chunks_decode_at_once(arrow_type: pa.DataType, name: str, data: st.DataObject) -> None:
    arrays = data.draw(st.lists(dense(arrow_type).filter(len), min_size=1, max_size=4))
    compression = data.draw(st.sampled_from(chooser.COMPRESSIONS))
    parts, stored = [], []
    for array in arrays:
        octets, encoded, stats = chunks.encode(array, 20, compression=compression, level=1, codec=name)
        codec, block = registry.NAMES[encoded.codec], registry.BLOCK_NAMES[encoded.block]
        size = len(encoded.data)
        parts.append(layout.ColumnChunk("c", 0, 0, size, encoded.payload_size, 0, 0, codec, block, stats))
        stored.append(pa.py_buffer(octets))
    dtype = buffers.dtype_of(arrow_type)
    assert dtype is not None
    loop = bulk.loop_for(parts, dtype)
    assert (loop is None) == any(part.codec == "plain" for part in parts)
    if loop is not None:
        out = np.empty(sum(map(len, arrays)), dtype)
        assert loop(bulk.Words(stored, parts), out) == -1
        assert out.tobytes() == b"".join(buffers.values(array).tobytes() for array in arrays)


@given(
    st.binary(min_size=8, max_size=400).map(lambda octets: octets[: len(octets) // 8 * 8]),
    st.integers(1, 2000),
)
def test_loops_stay_inside_their_chunks(octets: bytes, count: int) -> None:
    """Whatever the bytes are, a loop declines them or fills its part."""
    words = np.frombuffer(octets, np.uint64)
    starts, ends, counts = np.zeros(1, np.int64), np.array([len(words)]), np.array([count])
    for kind in (0, 1):
        out = np.empty(count, np.int64)
        kinds = np.array([kind])
        assert bulk_kernels.integers(words, starts, ends, counts, kinds, out) in (-1, 0)
    assert bulk_kernels.doubles(words, starts, ends, counts, np.empty(count)) in (-1, 0)
    assert bulk_kernels.decimals(words, starts, ends, counts, 2, np.empty(count, np.int64)) in (-1, 0)
    assert bulk_kernels.codes(words, starts, ends, counts, 9, np.empty(count, np.int32)) in (-1, 0)


def with_nulls(array: pa.Array, nulls: pa.Array) -> pa.Array:
    """`array` with its bits kept and the flagged slots null."""
    order = np.arange(len(array))
    flags = nulls.to_numpy(zero_copy_only=False) if len(nulls) else np.zeros(0, bool)
    return array.take(pa.array(order, mask=flags)) if len(array) else array


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=40),
    st.sampled_from([(0,), (1,), (2,), (0, 1, 2)]),
)
def test_integer_streams(values: list[int], orders: tuple[int, ...]) -> None:
    vector = np.array(values, np.int64)
    out = np.empty(len(vector), np.int64)
    data = integers.encode(vector, orders)
    assert integers.decode_into(data, out) == len(data)
    assert out.tolist() == values


@pytest.mark.parametrize("bits", [0x7FF0000000000001, 0xFFF8DEADBEEF0001, 0x8000000000000000, 1])
@pytest.mark.parametrize("name", ["plain", "gorilla", "xor", "alp", "dictionary", "rle"])
def test_special_doubles_keep_their_bits(name: str, bits: int) -> None:
    (special,) = struct.unpack("<d", struct.pack("<Q", bits))
    values = np.full(400, 2.5)
    words = values.view(np.uint64)
    words[[7, 8, 399]] = bits
    array = pa.Array.from_buffers(pa.float64(), 400, [None, pa.py_buffer(values)])
    codec = registry.CODECS[registry.CODEC_IDS[name]]
    data = codec.encode(array)
    assert data is not None
    assert special == 0 or special != special or special > 0
    assert identical(codec.decode(data, 400, pa.float64()), array)


def test_a_codec_saves_where_it_should() -> None:
    """Guards the estimates: each of these once regressed to plain in a prototype."""
    times = pa.array(np.arange(10_000) * 10_000_000 + 7 * 10**14)
    by_host = pa.array(np.arange(10_000) % 800 * 10_000_000)
    decimals = pa.array(np.round(np.cumsum(np.random.default_rng(1).normal(size=10_000)), 2))
    hosts = pa.array([f"host_{number // 500}" for number in range(10_000)])
    for array, least in ((times, 1000), (by_host, 100), (decimals, 4), (hosts, 300)):
        encoded = chooser.encode(array, compression="auto", level=3)
        assert array.nbytes / len(encoded.data) > least

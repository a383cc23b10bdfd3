"""TPC-H's eight tables, made here: the specification's keys, ranges and distributions from any seed.

The same scale and seed give the same rows, whatever is read first and in pieces of whatever table. Rows
come as Arrow batches (`batches`) or as CSV for COPY (`csv_pieces`), a bounded piece at a time.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from benchmarks import tpch_text as text

LEAST_SCALE = 0.01
PIECE = 25_000  # keys a piece; of orders, so that its lines are about four times as many rows

DDL = {
    "region": "CREATE TABLE region (r_regionkey int NOT NULL, r_name varchar(25) NOT NULL, r_comment varchar(152))",
    "nation": """CREATE TABLE nation (n_nationkey int NOT NULL, n_name varchar(25) NOT NULL,
        n_regionkey int NOT NULL, n_comment varchar(152))""",
    "part": """CREATE TABLE part (p_partkey int NOT NULL, p_name varchar(55) NOT NULL,
        p_mfgr varchar(25) NOT NULL, p_brand varchar(10) NOT NULL, p_type varchar(25) NOT NULL, p_size int NOT NULL,
        p_container varchar(10) NOT NULL, p_retailprice numeric(15,2) NOT NULL, p_comment varchar(23) NOT NULL)""",
    "supplier": """CREATE TABLE supplier (s_suppkey int NOT NULL, s_name varchar(25) NOT NULL,
        s_address varchar(40) NOT NULL, s_nationkey int NOT NULL, s_phone varchar(15) NOT NULL,
        s_acctbal numeric(15,2) NOT NULL, s_comment varchar(101) NOT NULL)""",
    "partsupp": """CREATE TABLE partsupp (ps_partkey int NOT NULL, ps_suppkey int NOT NULL,
        ps_availqty int NOT NULL, ps_supplycost numeric(15,2) NOT NULL, ps_comment varchar(199) NOT NULL)""",
    "customer": """CREATE TABLE customer (c_custkey int NOT NULL, c_name varchar(25) NOT NULL,
        c_address varchar(40) NOT NULL, c_nationkey int NOT NULL, c_phone varchar(15) NOT NULL,
        c_acctbal numeric(15,2) NOT NULL, c_mktsegment varchar(10) NOT NULL, c_comment varchar(117) NOT NULL)""",
    "orders": """CREATE TABLE orders (o_orderkey bigint NOT NULL, o_custkey int NOT NULL,
        o_orderstatus varchar(1) NOT NULL, o_totalprice numeric(15,2) NOT NULL, o_orderdate date NOT NULL,
        o_orderpriority varchar(15) NOT NULL, o_clerk varchar(15) NOT NULL, o_shippriority int NOT NULL,
        o_comment varchar(79) NOT NULL)""",
    "lineitem": """CREATE TABLE lineitem (l_orderkey bigint NOT NULL, l_partkey int NOT NULL,
        l_suppkey int NOT NULL, l_linenumber int NOT NULL, l_quantity numeric(15,2) NOT NULL,
        l_extendedprice numeric(15,2) NOT NULL, l_discount numeric(15,2) NOT NULL, l_tax numeric(15,2) NOT NULL,
        l_returnflag varchar(1) NOT NULL, l_linestatus varchar(1) NOT NULL, l_shipdate date NOT NULL,
        l_commitdate date NOT NULL, l_receiptdate date NOT NULL, l_shipinstruct varchar(25) NOT NULL,
        l_shipmode varchar(10) NOT NULL, l_comment varchar(44) NOT NULL)""",
}

PRIMARY_KEYS = {
    "region": "r_regionkey",
    "nation": "n_nationkey",
    "part": "p_partkey",
    "supplier": "s_suppkey",
    "partsupp": "ps_partkey, ps_suppkey",
    "customer": "c_custkey",
    "orders": "o_orderkey",
    "lineitem": "l_orderkey, l_linenumber",
}

_PER_SCALE = {"part": 200_000, "supplier": 10_000, "partsupp": 200_000, "customer": 150_000}
_PER_SCALE |= {"orders": 1_500_000, "lineitem": 1_500_000}
_FIXED = {"region": 5, "nation": 25}
_NUMBERS = {name: number for number, name in enumerate((*DDL, "text"))}

_FIRST_DAY = np.datetime64("1992-01-01", "D")
_ORDER_DAYS = int((np.datetime64("1998-12-31", "D") - _FIRST_DAY).astype(int)) - 151 + 1
_CURRENT = int((np.datetime64("1995-06-17", "D") - _FIRST_DAY).astype(int))


def keys(name: str, scale: float) -> int:
    """How many keys the table is made from: its rows, but for partsupp (4 rows a part) and lineitem."""
    return _FIXED.get(name) or round(_PER_SCALE[name] * scale)


def batches(name: str, scale: float, seed: int = 1) -> Iterator[pa.RecordBatch]:
    """The rows of a table.

    Args:
        name: of `DDL`.
        scale: 1 is about 1 GB of CSV over all tables; 0.01 is the least: with fewer suppliers a part's four are not
            different ones.
        seed: of all randomness.
    """
    if scale < LEAST_SCALE:
        raise ValueError(f"the scale is at least {LEAST_SCALE}")
    total = keys(name, scale)
    make = _MAKERS[name]
    for piece, start in enumerate(range(0, total, PIECE)):
        made = _Piece(scale, seed, name, piece, np.arange(start, min(start + PIECE, total), dtype=np.int64))
        columns = make(made)
        yield pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def csv_pieces(name: str, scale: float, seed: int = 1) -> Iterator[tuple[int, bytes]]:
    """The rows as CSV without a header, each piece with its count of rows: `COPY ... (FORMAT csv)`."""
    options = csv.WriteOptions(include_header=False, quoting_style="needed")
    for batch in batches(name, scale, seed):
        sink = io.BytesIO()
        csv.write_csv(batch, sink, options)
        yield batch.num_rows, sink.getvalue()


class _Piece:
    """What the makers share: where the piece lies, and its randomness."""

    def __init__(self, scale: float, seed: int, name: str, piece: int, index: Any) -> None:
        self.scale, self.seed, self.index = scale, seed, index
        # lines of an order come from the same numbers, whether orders or lineitem is asked for
        stream = _NUMBERS["orders" if name == "lineitem" else name]
        self.rng = np.random.default_rng((seed, stream, piece))

    @property
    def rows(self) -> int:
        return len(self.index)

    def integers(self, low: int, high: int, count: int | None = None) -> Any:
        """Uniform numbers in low..high, both included."""
        return self.rng.integers(low, high + 1, self.rows if count is None else count)

    def choice(self, words: list[str], count: int | None = None) -> pa.Array:
        return pa.array(words).take(pa.array(self.integers(0, len(words) - 1, count)))

    def comment(self, low: int, high: int, count: int | None = None) -> pa.Array:
        """Cuts out of the pool of text, `low`..`high` characters long."""
        rows = self.rows if count is None else count
        return text.cuts(pool(self.seed), self.rng, rows, low, high)


@functools.lru_cache(maxsize=2)
def pool(seed: int) -> Any:
    """The pool of text of a seed, as bytes."""
    return text.pool(np.random.default_rng((seed, _NUMBERS["text"])))


def _region(piece: _Piece) -> dict[str, pa.Array]:
    return {
        "r_regionkey": _int4(piece.index),
        "r_name": pa.array(text.REGIONS),
        "r_comment": piece.comment(31, 115),
    }


def _nation(piece: _Piece) -> dict[str, pa.Array]:
    return {
        "n_nationkey": _int4(piece.index),
        "n_name": pa.array([name for name, _ in text.NATIONS]),
        "n_regionkey": pa.array([region for _, region in text.NATIONS], pa.int32()),
        "n_comment": piece.comment(31, 114),
    }


def _part(piece: _Piece) -> dict[str, pa.Array]:
    key = piece.index + 1
    maker = piece.integers(1, 5)
    words = np.argsort(piece.rng.random((piece.rows, len(text.COLORS))), axis=1)[:, :5]
    colors = pa.array(text.COLORS)
    return {
        "p_partkey": _int4(key),
        "p_name": _joined(" ", *(colors.take(pa.array(words[:, n])) for n in range(5))),
        "p_mfgr": _joined("", "Manufacturer#", _digits(maker)),
        "p_brand": _joined("", "Brand#", _digits(maker), _digits(piece.integers(1, 5))),
        "p_type": _joined(" ", *(piece.choice(words) for words in text.TYPES)),
        "p_size": _int4(piece.integers(1, 50)),
        "p_container": _joined(" ", *(piece.choice(words) for words in text.CONTAINERS)),
        "p_retailprice": _money(_retail(key)),
        "p_comment": piece.comment(5, 22),
    }


def _supplier(piece: _Piece) -> dict[str, pa.Array]:
    key = piece.index + 1
    nation = piece.integers(0, 24)
    comment = piece.comment(25, 100).to_pylist()
    # five in ten thousand complain, and five recommend
    told = piece.integers(0, 9_999)
    for row in np.flatnonzero(told < 10).tolist():
        word = "Complaints" if told[row] < 5 else "Recommends"
        comment[row] = f"{comment[row][:20]} Customer {comment[row][20:40]}{word}"
    return {
        "s_suppkey": _int4(key),
        "s_name": _joined("", "Supplier#", _padded(key)),
        "s_address": text.addresses(piece.rng, piece.rows),
        "s_nationkey": _int4(nation),
        "s_phone": _phone(piece, nation),
        "s_acctbal": _money(piece.integers(-99_999, 999_999)),
        "s_comment": pa.array(comment),
    }


def _partsupp(piece: _Piece) -> dict[str, pa.Array]:
    part = np.repeat(piece.index + 1, 4)
    count = len(part)
    return {
        "ps_partkey": _int4(part),
        "ps_suppkey": _int4(_supplier_of(part, np.tile(np.arange(4), piece.rows), piece.scale)),
        "ps_availqty": _int4(piece.integers(1, 9_999, count)),
        "ps_supplycost": _money(piece.integers(100, 100_000, count)),
        "ps_comment": piece.comment(49, 198, count),
    }


def _customer(piece: _Piece) -> dict[str, pa.Array]:
    key = piece.index + 1
    nation = piece.integers(0, 24)
    return {
        "c_custkey": _int4(key),
        "c_name": _joined("", "Customer#", _padded(key)),
        "c_address": text.addresses(piece.rng, piece.rows),
        "c_nationkey": _int4(nation),
        "c_phone": _phone(piece, nation),
        "c_acctbal": _money(piece.integers(-99_999, 999_999)),
        "c_mktsegment": piece.choice(text.SEGMENTS),
        "c_comment": piece.comment(29, 116),
    }


class _Lines:
    """The numbers of the lines of a piece's orders, drawn first, so that both tables see the same."""

    def __init__(self, piece: _Piece) -> None:
        self.day = piece.integers(0, _ORDER_DAYS - 1)
        self.count = piece.integers(1, 7)
        self.starts = np.concatenate(([0], np.cumsum(self.count)[:-1]))
        rows = self.rows = int(self.count.sum())
        self.part = piece.integers(1, keys("part", piece.scale), rows)
        self.quantity = piece.integers(1, 50, rows)
        self.discount, self.tax = piece.integers(0, 10, rows), piece.integers(0, 8, rows)
        self.ship = np.repeat(self.day, self.count) + piece.integers(1, 121, rows)
        self.price = self.quantity * _retail(self.part)
        self.open = self.ship > _CURRENT


def _orders(piece: _Piece) -> dict[str, pa.Array]:
    lines = _Lines(piece)
    opened = np.add.reduceat(lines.open, lines.starts, dtype=np.int64)
    status = np.where(opened == 0, 0, np.where(opened == lines.count, 1, 2))
    full = lines.price * (100 - lines.discount) * (100 + lines.tax)
    customers = keys("customer", piece.scale)
    customer = piece.integers(1, customers)
    customer = np.where(customer % 3 == 0, np.maximum(customer - 1, 1), customer)  # a third never orders
    return {
        "o_orderkey": pa.array(_order_key(piece.index)),
        "o_custkey": _int4(customer),
        "o_orderstatus": pa.array(["F", "O", "P"]).take(pa.array(status)),
        "o_totalprice": _money((np.add.reduceat(full, lines.starts) + 5_000) // 10_000),
        "o_orderdate": _date(lines.day),
        "o_orderpriority": piece.choice(text.PRIORITIES),
        "o_clerk": _joined("", "Clerk#", _padded(piece.integers(1, max(round(1000 * piece.scale), 1)))),
        "o_shippriority": _int4(np.zeros(piece.rows)),
        "o_comment": piece.comment(19, 78),
    }


def _lineitem(piece: _Piece) -> dict[str, pa.Array]:
    lines = _Lines(piece)
    rows = lines.rows
    receipt = lines.ship + piece.integers(1, 30, rows)
    returned = np.where(receipt <= _CURRENT, piece.integers(0, 1, rows), 2)
    return {
        "l_orderkey": pa.array(np.repeat(_order_key(piece.index), lines.count)),
        "l_partkey": _int4(lines.part),
        "l_suppkey": _int4(_supplier_of(lines.part, piece.integers(0, 3, rows), piece.scale)),
        "l_linenumber": _int4(np.arange(rows) - np.repeat(lines.starts, lines.count) + 1),
        "l_quantity": _money(lines.quantity * 100),
        "l_extendedprice": _money(lines.price),
        "l_discount": _money(lines.discount),
        "l_tax": _money(lines.tax),
        "l_returnflag": pa.array(["R", "A", "N"]).take(pa.array(returned)),
        "l_linestatus": pa.array(["F", "O"]).take(pa.array(lines.open.astype(np.int64))),
        "l_shipdate": _date(lines.ship),
        "l_commitdate": _date(np.repeat(lines.day, lines.count) + piece.integers(30, 90, rows)),
        "l_receiptdate": _date(receipt),
        "l_shipinstruct": piece.choice(text.INSTRUCTIONS, rows),
        "l_shipmode": piece.choice(text.MODES, rows),
        "l_comment": piece.comment(10, 43, rows),
    }


_MAKERS: dict[str, Callable[[_Piece], dict[str, pa.Array]]] = {
    "region": _region,
    "nation": _nation,
    "part": _part,
    "supplier": _supplier,
    "partsupp": _partsupp,
    "customer": _customer,
    "orders": _orders,
    "lineitem": _lineitem,
}


def _retail(part: Any) -> Any:
    """A part's price in cents."""
    return 90_000 + part // 10 % 20_001 + 100 * (part % 1_000)


def _supplier_of(part: Any, which: Any, scale: float) -> Any:
    """One of a part's four suppliers."""
    total = keys("supplier", scale)
    return (part + which * (total // 4 + (part - 1) // total)) % total + 1


def _order_key(index: Any) -> Any:
    """The first 8 of every 32 keys are used."""
    return (index >> 3 << 5 | index & 7) + 1


def _int4(values: Any) -> pa.Array:
    return pa.array(values).cast(pa.int32())


def _money(cents: Any) -> pa.Array:
    """Cents as decimals with two places."""
    words = np.zeros((len(cents), 2), np.int64)
    words[:, 0] = cents
    words[:, 1] = np.where(words[:, 0] < 0, -1, 0)
    return pa.Array.from_buffers(pa.decimal128(15, 2), len(cents), [None, pa.py_buffer(words)])


def _date(days: Any) -> pa.Array:
    return pa.array(_FIRST_DAY + np.asarray(days).astype("timedelta64[D]"))


def _digits(values: Any) -> pa.Array:
    return pa.array(values).cast(pa.string())


def _padded(values: Any, width: int = 9) -> pa.Array:
    return pc.utf8_lpad(_digits(values), width, "0")


def _joined(separator: str, *parts: pa.Array | str) -> pa.Array:
    return pc.binary_join_element_wise(*parts, separator)


def _phone(piece: _Piece, nation: Any) -> pa.Array:
    groups = [_digits(piece.integers(10 ** (size - 1), 10**size - 1)) for size in (3, 3, 4)]
    return _joined("-", _digits(nation + 10), *groups)

r"""COPY's text and CSV forms to Arrow carrier columns, where every value is spelled plainly.

What PostgreSQL would read in any other way than by its letters (escapes, other date styles, hexadecimal
numbers, values that do not fit) is *odd*: the whole piece is then the caller's to give to
PostgreSQL, whose values and errors are its own. A piece that is read here has exactly the values
that PostgreSQL would have read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from orochi import pgtypes
from orochi.engine import copybinary, copywords
from orochi.engine.kernels import textfast, textin, textvalues

Vector = npt.NDArray[Any]

_LIMITS = {pgtypes.INT2: 2**15 - 1, pgtypes.INT4: 2**31 - 1, pgtypes.INT8: 2**63 - 1}
_PLAIN = frozenset(
    {
        *_LIMITS,
        *pgtypes.FLOATS,
        *pgtypes.TIMES,
        pgtypes.TEXT,
        pgtypes.BOOL,
    }
)
_SIZED = frozenset({pgtypes.VARCHAR, pgtypes.BPCHAR, pgtypes.NUMERIC})
#: A number's binary form takes at most so much more than its digits.
_NUMERIC_BYTES = 16
#: Offsets of a piece are int32.
MAX_BYTES = 1 << 30


class Odd(Exception):
    """Something is not spelled plainly."""


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A column of the data."""

    name: str
    type_oid: int
    typmod: int
    not_null: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Format:
    """How the data is written; `quote` is empty for the text form."""

    delimiter: str = "\t"
    null: str = "\\N"
    quote: str = ""


def is_readable(type_oid: int, typmod: int) -> bool:
    """Whether values of the type can be read here at all."""
    if type_oid in _PLAIN:
        return typmod == -1
    if type_oid == pgtypes.NUMERIC and typmod != -1:
        precision, scale = numeric_limits(typmod)
        return 0 <= scale <= precision
    return type_oid in _SIZED and (type_oid != pgtypes.BPCHAR or typmod > 4)


def numeric_limits(typmod: int) -> tuple[int, int]:
    """Precision and scale of a numeric; zeros without a modifier."""
    if typmod == -1:
        return 0, 0
    return ((typmod - 4) >> 16) & 0xFFFF, (((typmod - 4) & 0x7FF) ^ 1024) - 1024


def whole_rows(data: bytes, form: Format) -> int:
    """Where the last whole row of the data ends; 0 if there is none."""
    special = form.quote or "\\"
    if special.encode() not in data:
        return data.rfind(b"\n") + 1
    octets = np.frombuffer(data, np.uint8)
    if form.quote:
        return int(textfast.last_csv_row(octets, ord(special)))
    return int(textin.last_row(octets, ord(special)))


class Reader:
    """Reads pieces of whole rows, one at a time.

    Attributes:
        lines: how many newlines the last piece had that was read.
    """

    def __init__(
        self, columns: Sequence[Column], form: Format, *, utc: bool, coded: Collection[str] = ()
    ) -> None:
        """Read `columns`, each of them `is_readable`.

        Args:
            columns: those of the data.
            form: how it is written.
            utc: times without a zone are of UTC.
            coded: columns of strings that come as int16 codes into a dictionary while they have few values. A
                dictionary only grows: a later one of the same column has the earlier ones' values in front.
        """
        self.lines = 0
        self._columns = tuple(columns)
        self._form = form
        self._utc = utc
        self._null = np.frombuffer(form.null.encode(), np.uint8)
        self._space = Space()
        self._words = {
            column.name: copywords.Words()
            for column in columns
            if column.name in coded and column.type_oid == pgtypes.TEXT
        }
        self._fields = copybinary.schema(self._columns)

    def read(self, piece: bytes) -> pa.RecordBatch:
        """The rows of a piece that ends where a row ends.

        Raises:
            Odd: it is PostgreSQL's to read.
        """
        if len(piece) > MAX_BYTES or b"\r" in piece or b"\0" in piece:
            raise Odd
        if not piece.isascii():
            try:
                piece.decode()
            except UnicodeDecodeError as error:
                raise Odd from error
        data = np.frombuffer(piece, np.uint8)
        rows, where = self._split(piece, data)
        arrays = []
        for at, column in enumerate(self._columns):
            starts, ends, valid = (part[at, :rows] for part in where)
            field = _Field(data, starts, ends, valid, ord(self._form.quote or "\0"))
            if column.not_null and field.nulls:
                raise Odd
            arrays.append(self._array(field, column))
        return pa.RecordBatch.from_arrays(arrays, names=self._fields.names)

    def _array(self, field: _Field, column: Column) -> pa.Array:
        words = self._words.get(column.name)
        if words is not None:
            found = words.array(*field.where, field.validity(), field.nulls)
            if found is not None:
                return found
            del self._words[column.name]
        return _READERS[column.type_oid](field, column, self._utc)

    def _split(self, piece: bytes, data: Vector) -> tuple[int, tuple[Vector, Vector, Vector]]:
        """How many rows there are, and where each column's fields begin and end, and whether they are NULL."""
        form, count = self._form, len(self._columns)
        delimiter, special = ord(form.delimiter), ord(form.quote or "\\")
        marks = self._space.marks(len(data))
        found, lines, specials = textfast.marks(data, delimiter, special, marks)
        marks = marks[:found]
        if found == lines * count and textfast.is_regular(data, marks, count):
            where = self._space.fields(count, lines)
            quote, escapes = (special, 0) if form.quote else (-1, form.null.count("\\"))
            if textfast.fields(data, marks, quote, escapes, self._null, *where) == specials:
                self.lines = int(lines)
                return self.lines, where
        self.lines = piece.count(b"\n")
        where = self._space.fields(count, self.lines)
        if form.quote:
            rows = textin.split_csv(data, delimiter, special, self._null, *where)
        else:
            rows = textin.split_text(data, delimiter, self._null, *where)
        if rows < 0:
            raise Odd
        return int(rows), where


class Space:
    """Memory for a piece's fields, which the next piece takes again: fresh memory costs as much as what goes there."""

    def __init__(self) -> None:
        self._marks = np.empty(0, np.int32)
        self._fields: tuple[Vector, Vector, Vector] | None = None

    def marks(self, size: int) -> Vector:
        """Room for so many positions."""
        if len(self._marks) < size:
            self._marks = np.empty(size, np.int32)
        return self._marks

    def fields(self, columns: int, rows: int) -> tuple[Vector, Vector, Vector]:
        """Starts, ends and validity of fields, a row for each column, with room for so many."""
        if self._fields is None or self._fields[0].shape[1] < rows:
            room = rows + rows // 8
            starts, ends = np.empty((columns, room), np.int32), np.empty((columns, room), np.int32)
            self._fields = starts, ends, np.empty((columns, room), np.uint8)
        return self._fields


class _Field:
    """A column of a piece, unread."""

    def __init__(self, data: Vector, starts: Vector, ends: Vector, valid: Vector, quote: int) -> None:
        self.data, self.starts, self.ends, self.valid, self.quote = data, starts, ends, valid, quote
        self.rows = len(starts)
        self.nulls = self.rows - int(np.count_nonzero(valid))

    @property
    def where(self) -> tuple[Vector, Vector, Vector, Vector]:
        """What every loop takes first."""
        return self.data, self.starts, self.ends, self.valid

    def validity(self) -> pa.Buffer | None:
        """Which values are not NULL, as Arrow has it."""
        return pa.py_buffer(np.packbits(self.valid != 0, bitorder="little")) if self.nulls else None

    def array(self, arrow: pa.DataType, *buffers: Vector) -> pa.Array:
        """An array of these buffers."""
        held = [pa.py_buffer(buffer) for buffer in buffers]
        return pa.Array.from_buffers(arrow, self.rows, [self.validity(), *held], self.nulls)


def _integer(field: _Field, column: Column, utc: bool) -> pa.Array:
    out = np.empty(field.rows, np.int64)
    if not textvalues.integers(*field.where, _LIMITS[column.type_oid], out):
        raise Odd
    arrow = pgtypes.carrier(column.type_oid)
    return field.array(arrow, out.astype(arrow.to_pandas_dtype(), copy=False))


def _float(field: _Field, column: Column, utc: bool) -> pa.Array:
    out, unread = np.empty(field.rows, np.float64), np.empty(field.rows, np.uint8)
    left = textvalues.floats(*field.where, out, unread)
    if left < 0:
        raise Odd
    if column.type_oid == pgtypes.FLOAT4:
        # rounded once, from the digits: twice may be wrong
        unread = (field.valid != 0).astype(np.uint8)
        left = int(np.count_nonzero(unread))
        out = out.astype(np.float32)
    if left:
        out[unread == 1] = _rounded(field, unread == 1, out.dtype)
    return field.array(pgtypes.carrier(column.type_oid), out)


def _rounded(field: _Field, chosen: Vector, dtype: np.dtype[Any]) -> Vector:
    """Numbers by Arrow, which rounds correctly; what is out of range is odd."""
    at = np.flatnonzero(chosen)
    part = _Field(field.data, field.starts[at], field.ends[at], field.valid[at], field.quote)
    numbers = pc.cast(_strings(part, pa.string()), pa.float32() if dtype == np.float32 else pa.float64())
    found: Vector = numbers.to_numpy()
    # nought is a suspect: its digits may say that it is too small
    if np.isinf(found).any() or (found == 0).any():
        texts = _strings(part, pa.string())
        for text, number in zip(texts.to_pylist(), found.tolist(), strict=True):
            digits = text.lower().partition("e")[0].strip("-0.")
            if number in (float("inf"), float("-inf")) or (number == 0 and digits):
                raise Odd
    return found


def _timestamp(field: _Field, column: Column, utc: bool) -> pa.Array:
    out = np.empty(field.rows, np.int64)
    if not textvalues.timestamps(*field.where, column.type_oid == pgtypes.TIMESTAMPTZ, utc, out):
        raise Odd
    return field.array(pa.int64(), out)


def _date(field: _Field, column: Column, utc: bool) -> pa.Array:
    out = np.empty(field.rows, np.int64)
    if not textvalues.dates(*field.where, out):
        raise Odd
    return field.array(pa.int32(), out.astype(np.int32))


def _boolean(field: _Field, column: Column, utc: bool) -> pa.Array:
    out = np.empty(field.rows, np.uint8)
    if not textvalues.booleans(*field.where, out):
        raise Odd
    return field.array(pa.bool_(), np.packbits(out, bitorder="little"))


def _text(field: _Field, column: Column, utc: bool) -> pa.Array:
    return _strings(field, pa.string())


def _strings(field: _Field, arrow: pa.DataType) -> pa.Array:
    bounds = np.empty(field.rows + 1, np.int32)
    total = textin.offsets(field.starts, field.ends, field.valid, bounds)
    out = np.empty(total, np.uint8)
    textin.texts(*field.where, field.quote, bounds, out)
    return field.array(arrow, bounds, out)


def _sized(field: _Field, column: Column, utc: bool) -> pa.Array:
    """varchar(n) and char(n), whose values must fit as they are."""
    array = _strings(field, pa.string())
    if column.typmod == -1 or not field.rows:
        return array
    width = column.typmod - 4
    longest = pc.max(pc.utf8_length(array)).as_py()
    if longest is not None and longest > width:
        raise Odd
    return pc.utf8_rpad(array, width) if column.type_oid == pgtypes.BPCHAR else array


def _numeric(field: _Field, column: Column, utc: bool) -> pa.Array:
    precision, scale = numeric_limits(column.typmod)
    chosen = field.valid != 0
    digits = int((field.ends - field.starts)[chosen].sum())
    bounds, out = np.empty(field.rows + 1, np.int32), np.empty(digits + _NUMERIC_BYTES * field.rows, np.uint8)
    size = textvalues.numerics(*field.where, precision, scale, bounds, out)
    if size < 0:
        raise Odd
    return field.array(pa.binary(), bounds, out[:size])


_READERS: dict[int, Callable[[_Field, Column, bool], pa.Array]] = {
    **dict.fromkeys(_LIMITS, _integer),
    **dict.fromkeys(pgtypes.FLOATS, _float),
    pgtypes.TIMESTAMP: _timestamp,
    pgtypes.TIMESTAMPTZ: _timestamp,
    pgtypes.DATE: _date,
    pgtypes.BOOL: _boolean,
    pgtypes.TEXT: _text,
    pgtypes.VARCHAR: _sized,
    pgtypes.BPCHAR: _sized,
    pgtypes.NUMERIC: _numeric,
}


def warm() -> None:
    """Load every compiled loop."""
    types = (pgtypes.INT4, pgtypes.FLOAT8, pgtypes.TIMESTAMPTZ, pgtypes.TEXT, pgtypes.NUMERIC, pgtypes.BOOL)
    columns = [Column(str(at), oid, -1, False) for at, oid in enumerate(types)]
    row = b"1,2.5,2024-01-02 03:04:05+00,x,1.5,t\n"
    Reader(columns, Format(",", "", '"'), utc=True, coded=[column.name for column in columns]).read(row)
    Reader(columns[:4], Format(",", "", '"'), utc=True).read(b'1,2.5,2024-01-02 03:04:05+00,"x""y"\n')
    Reader(columns, Format(",", "", ""), utc=True).read(row)

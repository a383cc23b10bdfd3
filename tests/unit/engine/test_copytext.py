"""COPY text and CSV read here: what is not left to PostgreSQL has PostgreSQL's values."""

from __future__ import annotations

import random

import psycopg
import pyarrow as pa
import pytest

from orochi import pgtypes
from orochi.engine import coded as coded_batches
from orochi.engine import copybinary, copytext
from tests.support import services

_COUNT = 500
_TYPES = {
    "smallint": (pgtypes.INT2, -1),
    "integer": (pgtypes.INT4, -1),
    "bigint": (pgtypes.INT8, -1),
    "real": (pgtypes.FLOAT4, -1),
    "double precision": (pgtypes.FLOAT8, -1),
    "numeric": (pgtypes.NUMERIC, -1),
    "numeric(7,3)": (pgtypes.NUMERIC, ((7 << 16) | 3) + 4),
    "date": (pgtypes.DATE, -1),
    "timestamp": (pgtypes.TIMESTAMP, -1),
    "timestamptz": (pgtypes.TIMESTAMPTZ, -1),
    "boolean": (pgtypes.BOOL, -1),
    "text": (pgtypes.TEXT, -1),
    "varchar(5)": (pgtypes.VARCHAR, 9),
    "char(4)": (pgtypes.BPCHAR, 8),
}
#: Values that a spelling may be read as by mistake, or at whose edge reading fails.
_EDGES = [
    *(
        "0",
        "-0",
        "+1",
        " 1",
        "1 ",
        "",
        "-",
        ".",
        "1.",
        ".5",
        "-.5",
        "1e",
        "1e5",
        "1e-5",
        "1E+2",
        "0x1f",
        "1_000",
    ),
    *("32767", "-32768", "32768", "2147483647", "-2147483649", "9223372036854775807", "-9223372036854775808"),
    *(
        "NaN",
        "nan",
        "inf",
        "Infinity",
        "-infinity",
        "1e400",
        "-1e400",
        "1e-400",
        "4.9e-324",
        "2e-324",
        "1e308",
    ),
    *("2.2250738585072011e-308", "9007199254740993", "0.1", "123456789.123456789", "1e22", "1e23", "8.5e-45"),
    *(
        "3.4028236e38",
        "3.4028235e38",
        "1.17549435e-38",
        "16777217",
        "0.000",
        "000.5",
        "0001",
        "-0.0",
        "-0.000e5",
    ),
    *(
        "9999.999",
        "9999.9994",
        "9999.9995",
        "10000",
        "-9999.999",
        "0.0001",
        "1234567890.0123456789",
        "00012.340",
    ),
    *(
        "2024-02-29",
        "2023-02-29",
        "1900-02-29",
        "2000-02-29",
        "0001-01-01",
        "0000-01-01",
        "2024-13-01",
        "2024-1-1",
    ),
    *("2024-04-31", "2024-12-31", "9999-12-31", "20240101", "2024-01-01 BC", "epoch", "today", "01/02/2024"),
    *(
        "2024-01-01 00:00:00",
        "2024-01-01T12:34:56",
        "2024-01-01 24:00:00",
        "2024-01-01 23:59:60",
        "1999-12-31 23:59:59",
    ),
    *(
        "2024-01-01 00:00:00.1",
        "2024-01-01 00:00:00.123456",
        "2024-01-01 00:00:00.1234567",
        "2024-01-01 00:00:00.",
    ),
    *(
        "2024-01-01 00:00:00+00",
        "2024-01-01 00:00:00Z",
        "2024-01-01 00:00:00-05:30",
        "2024-01-01 00:00:00 +01",
    ),
    *(
        "2024-01-01 00:00:00+14",
        "2024-01-01 00:00:00+15:59",
        "2024-01-01 00:00:00+1",
        "2024-01-01 00:00:00.5-08",
    ),
    *("t", "f", "true", "T", "yes", "1", "abcde", "abcdef", "ab ", "äöüßé", "äöüßéx", "🛩", "abcd  ", "NULL"),
]


def _spellings(kind: str) -> list[str]:
    rng = random.Random(kind)
    found = list(_EDGES)
    for _ in range(_COUNT):
        bits = rng.choice((4, 16, 33, 60, 70))
        whole, decimals = rng.getrandbits(bits), rng.randrange(1, 20)
        found += [
            f"{rng.choice(('', '-'))}{whole}",
            f"{rng.choice(('', '-'))}{whole}.{rng.randrange(10**decimals):0{decimals}d}",
            repr(rng.uniform(-1, 1) * 10.0 ** rng.randrange(-30, 30)),
            f"{rng.randrange(10**4)}.{rng.randrange(100):02d}e{rng.randrange(-25, 25)}",
            (
                f"{rng.randrange(1, 10000):04d}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 32):02d}"
                f" {rng.randrange(24):02d}:{rng.randrange(60):02d}:{rng.randrange(60):02d}"
                f"{rng.choice(('', '.5', '.123456', '.000001'))}{rng.choice(('', '+00', '-03:30', '+11', 'Z'))}"
            ),
        ]
    return found


@pytest.mark.parametrize("kind", _TYPES)
def test_values_are_postgresqls(postgres_server: services.Server, kind: str) -> None:
    oid, typmod = _TYPES[kind]
    column = copytext.Column("v", oid, typmod, not_null=False)
    assert copytext.is_readable(oid, typmod)
    reader = copytext.Reader([column], copytext.Format("|", "\\N", ""), utc=True)
    read = []
    for text in _spellings(kind):
        try:
            batch = reader.read(text.encode() + b"\n")
        except copytext.Odd:
            continue
        read.append((text, batch.column(0)))
    assert len(read) > 1
    data = "".join(f"{text}\n" for text, _ in read).encode()
    with psycopg.connect(postgres_server.dsn) as connection, connection.cursor() as cursor:
        cursor.execute(f"SET TimeZone = 'UTC'; CREATE TEMPORARY TABLE t (v {kind})".encode())
        with cursor.copy("COPY t FROM STDIN (DELIMITER '|')") as copy:
            copy.write(data)
        with cursor.copy("COPY t TO STDOUT (FORMAT binary)") as copy:
            told = copybinary.decode(b"".join(bytes(piece) for piece in copy), [_Output("v", oid)]).column(0)
    together = reader.read(data).column(0)
    theirs = copybinary.encode_array(told, oid)
    assert copybinary.encode_array(together, oid) == theirs
    for at, (text, array) in enumerate(read):
        wanted = copybinary.encode_array(told.slice(at, 1), oid)
        assert copybinary.encode_array(array, oid) == wanted, text


class _Output:
    def __init__(self, name: str, type_oid: int) -> None:
        self.name, self.type_oid = name, type_oid


def _text(data: bytes, form: copytext.Format, columns: int = 2) -> list[list[str | None]] | None:
    described = [copytext.Column(str(at), pgtypes.TEXT, -1, not_null=False) for at in range(columns)]
    try:
        batch = copytext.Reader(described, form, utc=True).read(data)
    except copytext.Odd:
        return None
    return [list(row.values()) for row in batch.to_pylist()]


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (b"a\tb\n\\N\t\n", [["a", "b"], [None, ""]]),
        (b"a\n", None),
        (b"a\tb\tc\n", None),
        (b"a\\tx\tb\n", None),
        (b"\\Nx\tb\n", None),
        (b"a\tb\r\n", None),
        (b"a\t\0\n", None),
        (b"a\t\xff\n", None),
        (b'"a"\tb\n', [['"a"', "b"]]),
        (b"", []),
    ],
)
def test_rows_of_text(data: bytes, rows: list[list[str | None]] | None) -> None:
    assert _text(data, copytext.Format()) == rows


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (b'a,b\n,""\n', [["a", "b"], [None, ""]]),
        (b'"x,y","l\nm"\n', [["x,y", "l\nm"]]),
        (b'"he said ""hi""",z\n"""",""""""\n', [['he said "hi"', "z"], ['"', '""']]),
        (b'a"b,c\n', None),
        (b'"a"b,c\n', None),
        (b'"a,b\n', None),
        (b"a\n", None),
        (b"a,b,c\n", None),
        (b"\\N,x\\y\n", [["\\N", "x\\y"]]),
    ],
)
def test_rows_of_csv(data: bytes, rows: list[list[str | None]] | None) -> None:
    assert _text(data, copytext.Format(",", "", '"')) == rows


@pytest.mark.parametrize(
    ("data", "form", "end"),
    [
        (b"a\tb\nc", copytext.Format(), 4),
        (b"a\\\nb\nc", copytext.Format(), 5),
        (b"a\\\\\nb\\\n", copytext.Format(), 4),
        (b'a,"b\nc', copytext.Format(",", "", '"'), 0),
        (b'"""\n",b\nc', copytext.Format(",", "", '"'), 8),
        (b"abc", copytext.Format(), 0),
    ],
)
def test_whole_rows(data: bytes, form: copytext.Format, end: int) -> None:
    assert copytext.whole_rows(data, form) == end


@pytest.mark.parametrize("quote", ["", '"'])
def test_words_come_as_codes(quote: str) -> None:
    rng = random.Random(5)
    form = copytext.Format(",", "", '"') if quote else copytext.Format()
    pool = ["", "a", "b" * 8, "c" * 9, "d" * 16, "grün", "x y", *(f"host_{n}" for n in range(300))]
    described = [copytext.Column(name, pgtypes.TEXT, -1, not_null=False) for name in ("few", "many", "long")]
    plain = copytext.Reader(described, form, utc=True)
    coded = copytext.Reader(described, form, utc=True, coded=[column.name for column in described])
    kinds = []
    for size in (3, 3000, 40, 3000):
        rows = [
            [
                rng.choice([None, *pool[: size // 10 + 2]]),
                str(rng.randrange(10**12)),
                rng.choice(["z", "w" * size]),
            ]
            for _ in range(size)
        ]
        piece = _written(rows, form)
        batch = coded.read(piece)
        assert coded.lines == size
        assert _decoded(batch) == plain.read(piece).to_pydict()
        kinds.append([pa.types.is_dictionary(kind) for kind in batch.schema.types])
    assert kinds == [[True, True, True], [True, False, False], [True, False, False], [True, False, False]]


def _decoded(batch: pa.RecordBatch) -> dict[str, list[str | None]]:
    plain: dict[str, list[str | None]] = coded_batches.plain_batch(batch).to_pydict()
    return plain


def _written(rows: list[list[str | None]], form: copytext.Format) -> bytes:
    def field(value: str | None) -> str:
        if value is None:
            return form.null
        return f'"{value}"' if form.quote and (value == "" or " " in value) else value

    return "".join(form.delimiter.join(map(field, row)) + "\n" for row in rows).encode()


def test_batches_of_codes_are_made_alike() -> None:
    short, long = pa.array(["a", "b"]), pa.array(["a", "b", "c"])
    first = pa.DictionaryArray.from_arrays(pa.array([1, None, 0], pa.int32()), short)
    second = pa.DictionaryArray.from_arrays(pa.array([2, 0], pa.int32()), long)
    mixed = [pa.array(["x", None, "y"]), second]
    given = [
        pa.RecordBatch.from_arrays([one, other], names=["both", "one"])
        for one, other in zip((first, second), mixed, strict=True)
    ]
    alike = coded_batches.alike(given)
    assert alike[0].schema == alike[1].schema
    assert [pa.types.is_dictionary(kind) for kind in alike[0].schema.types] == [True, False]
    assert [batch.to_pydict() for batch in alike] == [batch.to_pydict() for batch in given]

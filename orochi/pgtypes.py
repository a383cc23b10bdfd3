"""PostgreSQL's built-in types as Orochi carries them in Arrow: the *carrier* form.

One rule holds everywhere (stripes, fragment results, staged rows, COPY): a column of values is
an Arrow array whose values are exactly those PostgreSQL would send in binary format.

* fixed-width types are native Arrow integers, floats or booleans holding PostgreSQL's raw
  value: `timestamptz`/`timestamp` int64 microseconds since 2000-01-01, `date` int32 days since
  2000-01-01 (infinities are the extreme values), `time` int64 microseconds;
* character types are Arrow `string` (UTF-8), their binary form being their text;
* every other type is Arrow `binary` holding the type's binary send form, unread.

So any type can be stored and moved, exactly, and those that kernels compute on need no parsing.
"""

from __future__ import annotations

import dataclasses

import pyarrow as pa

BOOL, BYTEA, CHAR, NAME, INT8, INT2, INT4 = 16, 17, 18, 19, 20, 21, 23
REGPROC, TEXT, OID, JSON, XML = 24, 25, 26, 114, 142
FLOAT4, FLOAT8, UNKNOWN, MONEY = 700, 701, 705, 790
BPCHAR, VARCHAR, DATE, TIME, TIMESTAMP, TIMESTAMPTZ = 1042, 1043, 1082, 1083, 1114, 1184
INTERVAL, TIMETZ, NUMERIC, REGCLASS, UUID, JSONB, VOID = 1186, 1266, 1700, 2205, 2950, 3802, 2278

#: Seconds from the Unix epoch to PostgreSQL's.
EPOCH_SHIFT_SECONDS = 946_684_800
EPOCH_SHIFT_DAYS = 10_957

#: OIDs below this are fixed by PostgreSQL and equal on every server.
FIRST_NORMAL_OID = 16_384


@dataclasses.dataclass(frozen=True, slots=True)
class Fixed:
    """A fixed-width carrier: Arrow type, numpy dtype (big-endian on the wire), width in bytes."""

    arrow: pa.DataType
    wire_dtype: str
    width: int


FIXED: dict[int, Fixed] = {
    BOOL: Fixed(pa.bool_(), "u1", 1),
    INT2: Fixed(pa.int16(), ">i2", 2),
    INT4: Fixed(pa.int32(), ">i4", 4),
    INT8: Fixed(pa.int64(), ">i8", 8),
    FLOAT4: Fixed(pa.float32(), ">f4", 4),
    FLOAT8: Fixed(pa.float64(), ">f8", 8),
    DATE: Fixed(pa.int32(), ">i4", 4),
    TIME: Fixed(pa.int64(), ">i8", 8),
    TIMESTAMP: Fixed(pa.int64(), ">i8", 8),
    TIMESTAMPTZ: Fixed(pa.int64(), ">i8", 8),
    OID: Fixed(pa.uint32(), ">u4", 4),
}

CHARACTER = frozenset({TEXT, VARCHAR, BPCHAR, NAME, JSON, XML, UNKNOWN})
INTEGERS = frozenset({INT2, INT4, INT8})
FLOATS = frozenset({FLOAT4, FLOAT8})
TIMES = frozenset({DATE, TIMESTAMP, TIMESTAMPTZ})

#: Types a table may be distributed by.
DISTRIBUTABLE = frozenset({INT2, INT4, INT8, TEXT, VARCHAR, UUID, DATE, TIMESTAMP, TIMESTAMPTZ})
#: Types a hypertable's time column may have.
TIME_DIMENSION = frozenset({INT2, INT4, INT8, DATE, TIMESTAMP, TIMESTAMPTZ})

#: What `format_type` prints for them without a modifier.
_NAMES = {
    BOOL: "boolean",
    INT2: "smallint",
    INT4: "integer",
    INT8: "bigint",
    FLOAT4: "real",
    FLOAT8: "double precision",
    NUMERIC: "numeric",
    VARCHAR: "character varying",
    TIME: "time without time zone",
    TIMESTAMP: "timestamp without time zone",
    TIMESTAMPTZ: "timestamp with time zone",
    INTERVAL: "interval",
    TEXT: "text",
    DATE: "date",
    UUID: "uuid",
    JSONB: "jsonb",
    BYTEA: "bytea",
}
_MODIFIER_OFFSET = 4


def type_name(type_oid: int, typmod: int) -> str | None:
    """What `format_type` prints where pg_catalog comes first on the search path; None where it has to be asked."""
    if typmod == -1:
        return _NAMES.get(type_oid)
    if type_oid == VARCHAR:
        return f"character varying({typmod - _MODIFIER_OFFSET})"
    if type_oid == BPCHAR:
        return f"character({typmod - _MODIFIER_OFFSET})"
    if type_oid == NUMERIC:
        digits = typmod - _MODIFIER_OFFSET
        return f"numeric({digits >> 16 & 0xFFFF},{(digits & 0x7FF ^ 0x400) - 0x400})"
    return None


def carrier(type_oid: int) -> pa.DataType:
    """The Arrow type that carries values of the PostgreSQL type `type_oid`."""
    fixed = FIXED.get(type_oid)
    if fixed is not None:
        return fixed.arrow
    return pa.string() if type_oid in CHARACTER else pa.binary()

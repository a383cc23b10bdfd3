"""Final steps in Arrow: adding up what fragments give, arithmetic on totals, sorting, and cutting off
(`orochi.planner.finish`).

PostgreSQL would need the rows shipped to it first, which costs more than the step. Values are those it would give: sums are
exact decimals, a row of each group is shown as it came, strings compare by their bytes, which the caller has seen to
be the database's order. Types, scales and numbers of which that is not sure are declined, and PostgreSQL does it.
"""

from __future__ import annotations

import dataclasses
import decimal
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orochi import pgtypes
from orochi.engine import copybinary, native, tables
from orochi.executor import arithmetic, ranking
from orochi.planner import finish as finishes
from orochi.planner import fragment as plan_fragment

Columns: TypeAlias = tuple[plan_fragment.OutputColumn, ...]

#: Types that sort, and are equal, as their carriers do and are.
_PLAIN = pgtypes.INTEGERS | pgtypes.TIMES | {pgtypes.BOOL, pgtypes.TEXT, pgtypes.VARCHAR}
_DIGITS = 38
_LARGEST_SUMMAND = 1e290
_TYPMOD_HEADER = 4
#: Fewer rows than that are grouped without looking which of them may be among the first; of more, totals are not
#: divided.
_MANY_ROWS = 2_000


_COMPARED = {"<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal}
_EXACT = decimal.Context(prec=1_000)
_AT_ONCE = {"+": pc.add_checked, "-": pc.subtract_checked, "*": pc.multiply_checked}
_DOUBLE = (pgtypes.FLOAT8, -1, "double precision")


class _Declined(Exception):
    """PostgreSQL is to take this step."""


def finished(
    finish: finishes.Finish,
    columns: Columns,
    batches: Sequence[pa.RecordBatch],
    groups: Sequence[str] | None = None,
) -> tuple[Columns, pa.RecordBatch] | None:
    """The final step's rows in carrier form and their columns; None if PostgreSQL must take it.

    Args:
        finish: the step.
        columns: of the batches, in their order.
        batches: the gathered rows, in carrier form.
        groups: columns whose values, together, no two rows share.
    """
    schema = copybinary.schema(columns)
    held = [pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in batches]
    rows = pa.Table.from_batches(held, schema)
    try:
        made = _Step(finish, columns, rows, None if groups is None else tuple(groups)).rows()
    except (_Declined, arithmetic.Declined, native.Unsupported, pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    return made


@dataclasses.dataclass(frozen=True, slots=True)
class _Made:
    """An output: its column, its values in carrier form, and what to sort by."""

    column: plan_fragment.OutputColumn
    values: Any
    sorted_by: Any


class _Step:
    def __init__(
        self, finish: finishes.Finish, columns: Columns, rows: pa.Table, apart: tuple[str, ...] | None
    ) -> None:
        self._finish = finish
        self._is_grouped = bool(apart) and apart == finish.groups
        self._columns = {column.name: column for column in columns}
        self._rows = rows

    def rows(self) -> tuple[Columns, pa.RecordBatch]:
        if self._finish.kept is not None:
            self._rows = self._rows.filter(self._wanted(self._finish.kept))
        made = self._grouped() if self._finish.groups is not None else self._as_they_are()
        first = made[self._finish.outputs[0]]
        places = self._places(made, len(first.values))
        outputs = [made[output] for output in self._finish.outputs]
        columns = tuple(item.column for item in outputs)
        arrays = [_padded(_one(item.values.take(places)), item.column) for item in outputs]
        return columns, pa.RecordBatch.from_arrays(arrays, schema=copybinary.schema(columns))

    def _wanted(self, kept: finishes.Filter) -> Any:
        """Which rows pass; none does where a side is NULL."""
        totals = {
            total.column: _sum(_summable(self._rows.column(total.column), self._columns[total.column]))
            for total in finishes.totals(kept.value)
        }
        value = _value(kept.value, dict(totals))
        if value is None:
            return pa.array(np.zeros(self._rows.num_rows, np.bool_))
        column = self._columns[kept.column]
        if not isinstance(value, decimal.Decimal) or column.type_oid != pgtypes.NUMERIC:
            raise _Declined
        held = _comparable(self._rows.column(kept.column), column)
        # the nearest number of as many decimals that says the same of all that have no more
        way = decimal.ROUND_FLOOR if kept.operator in ("<=", ">") else decimal.ROUND_CEILING
        unit = decimal.Decimal((0, (1,), -held.type.scale))
        bound = pa.scalar(value.quantize(unit, way, context=_EXACT), held.type)
        return _COMPARED[kept.operator](held, bound)

    def _places(self, made: dict[finishes.Output, _Made], count: int) -> pa.Array:
        """Which rows are wanted, in their order."""
        limit = count if self._finish.limit is None else self._finish.limit
        if not self._finish.order:
            return pa.array(np.arange(count)).slice(self._finish.offset, limit)
        names = [f"k{at}" for at in range(len(self._finish.order))]
        ways = [
            (
                name,
                "descending" if key.descends else "ascending",
                "at_start" if key.nulls_first else "at_end",
            )
            for name, key in zip(names, self._finish.order, strict=True)
        ]
        values = [made[key.output].sorted_by for key in self._finish.order]
        return pc.sort_indices(pa.table(values, names), sort_keys=ways).slice(self._finish.offset, limit)

    def _asked(self) -> list[finishes.Output]:
        return list(dict.fromkeys((*self._finish.outputs, *(key.output for key in self._finish.order))))

    def _as_they_are(self) -> dict[finishes.Output, _Made]:
        keys = {key.output for key in self._finish.order}
        made: dict[finishes.Output, _Made] = {}
        for name in self._asked():
            assert isinstance(name, str)
            values = self._rows.column(name)
            column = self._columns[name]
            made[name] = _Made(column, values, _sortable(values, column) if name in keys else values)
        return made

    def _grouped(self) -> dict[finishes.Output, _Made]:
        groups = self._finish.groups or ()
        if self._rows.num_rows > _MANY_ROWS and not self._is_grouped:
            self._rows = self._rows.filter(self._candidates())
        keys = {name: _comparable(self._rows.column(name), self._columns[name]) for name in groups}
        totals = {
            total.column: _summable(self._rows.column(total.column), self._columns[total.column])
            for output in self._asked()
            for total in finishes.totals(output)
        }
        if self._is_grouped:
            sums = {f"total {name}": of for name, of in totals.items()}
            added = pa.table({"row": pa.array(np.arange(self._rows.num_rows)), **sums})
        else:
            added = _added(keys, totals, self._rows.num_rows)
        shown = added.column("row")
        made: dict[finishes.Output, _Made] = {}
        for output in self._asked():
            if isinstance(output, finishes.Total):
                made[output] = _total(output, added.column(f"total {output.column}"))
            elif isinstance(output, finishes.Arithmetic):
                made[output] = _computed(output, added)
            else:
                values = self._rows.column(output).take(shown)
                made[output] = _Made(self._columns[output], values, keys[output].take(shown))
        return made

    def _candidates(self) -> Any:
        """Which rows may be of the first groups, if these are wanted by a total from above and few; else all.

        Rows are added up by one narrow column of the groups, which gives no less than any group's total if nothing is negative.
        No group is among the first whose total is sure to be less than the largest single rows of that many others.
        """
        everything = pa.scalar(True)
        finish = self._finish
        narrow = [n for n in finish.groups or () if self._columns[n].type_oid in pgtypes.INTEGERS]
        if not finish.order or finish.limit is None or not narrow:
            return pa.repeat(everything, self._rows.num_rows)
        first, wanted = finish.order[0], finish.limit + finish.offset
        if not first.descends or not isinstance(first.output, finishes.Total) or not 0 < wanted <= _MANY_ROWS:
            return pa.repeat(everything, self._rows.num_rows)
        column = first.output.column
        values = _summable(self._rows.column(column), self._columns[column])
        key = self._rows.column(narrow[0])
        inexact = pa.types.is_floating(values.type)  # a sum may be less than its rows' sum in another order
        if inexact or values.null_count or key.null_count or pc.min(values).as_py() < 0:
            return pa.repeat(everything, self._rows.num_rows)
        by_key = pa.TableGroupBy(pa.table([key, values], ["key", "v"]), "key", use_threads=False).aggregate(
            [("v", "sum"), ("v", "max")]
        )
        if by_key.num_rows <= wanted:
            return pa.repeat(everything, self._rows.num_rows)
        largest = by_key.column("v_max")
        least = largest.take(pc.sort_indices(largest, sort_keys=[("", "descending")]))[wanted - 1]
        chosen = by_key.filter(pc.greater_equal(by_key.column("v_sum"), least)).column("key")
        return pc.is_in(key, value_set=_one(chosen))


def _comparable(values: pa.ChunkedArray, column: plan_fragment.OutputColumn) -> Any:
    """Values that are equal and sort as PostgreSQL's do."""
    if column.type_oid in (pgtypes.TEXT, pgtypes.VARCHAR):
        return ranking.ranked(values)
    if column.type_oid in _PLAIN:
        return values
    if column.type_oid == pgtypes.BPCHAR and column.typmod > _TYPMOD_HEADER:
        return ranking.ranked(values, padded=True)
    if column.type_oid == pgtypes.NUMERIC:
        found = tables.decimals(values.chunks)
        return found.cast(pa.decimal128(_DIGITS, found.type.scale))  # Arrow sorts shorter ones wrongly
    raise _Declined


def _sortable(values: pa.ChunkedArray, column: plan_fragment.OutputColumn) -> Any:
    """Values that sort as PostgreSQL's do, and need not be told apart."""
    if column.type_oid not in pgtypes.FLOATS:
        return _comparable(values, column)
    if pc.any(pc.is_nan(values)).as_py():
        raise _Declined
    return values


def _summable(values: pa.ChunkedArray, column: plan_fragment.OutputColumn) -> Any:
    """Values as decimals so long that no sum of them overflows; all have the scale that PostgreSQL shows their sums with.
    Doubles as they are, if their sums are finite and no negative zeros.
    """
    if column.type_oid == pgtypes.FLOAT8:
        _check_floats(values)
        return values
    if column.type_oid == pgtypes.INT8:
        return values.cast(pa.decimal128(_DIGITS, 0))
    if column.type_oid != pgtypes.NUMERIC:
        raise _Declined
    scale = tables.common_scale(values.chunks)
    if scale is None:
        raise _Declined
    return tables.decimals(values.chunks).cast(pa.decimal128(_DIGITS, scale))


def _check_floats(values: pa.ChunkedArray) -> None:
    for chunk in values.chunks:
        held = chunk.fill_null(1.0).to_numpy(zero_copy_only=False)
        # far from overflowing, whatever the sum's order; NaN is not less either
        if not (np.abs(held) < _LARGEST_SUMMAND).all() or np.signbit(held[held == 0]).any():
            raise _Declined


def _added(keys: dict[str, Any], totals: dict[str, Any], count: int) -> pa.Table:
    """A row a group: the place of one of its rows, and its totals."""
    if not keys:
        sums = {f"total {name}": pa.array([_sum(of)], of.type) for name, of in totals.items()}
        return pa.table({"row": pa.array([0]), **sums})
    arrays = {f"key {name}": of for name, of in keys.items()} | {
        f"total {name}": of for name, of in totals.items()
    }
    held = pa.table({**arrays, "row": pa.array(np.arange(count))})
    wanted = [(f"total {name}", "sum") for name in totals]
    found = pa.TableGroupBy(held, [f"key {name}" for name in keys], use_threads=False).aggregate(
        [("row", "min"), *wanted]
    )
    sums = {name: found.column(f"{name}_sum") for name, _ in wanted}
    return pa.table({"row": found.column("row_min"), **sums})


def _sum(values: Any) -> decimal.Decimal | float | None:
    found: decimal.Decimal | float | None = pc.sum(values, min_count=1).as_py()
    return found


def _total(output: finishes.Total, values: Any) -> _Made:
    if pa.types.is_floating(values.type):
        if output.is_bigint:
            raise _Declined
        return _Made(plan_fragment.OutputColumn(output.column, *_DOUBLE), values, values)
    if not output.is_bigint:
        column = plan_fragment.OutputColumn(output.column, pgtypes.NUMERIC, -1, "numeric")
        batches = native.from_native(pa.table([values], [output.column]), [column])
        return _Made(column, pa.chunked_array([b.column(0) for b in batches], pa.binary()), values)
    if values.type.scale:
        raise _Declined
    whole = values.cast(pa.int64())  # what does not fit is an error, which PostgreSQL is to raise
    if output.or_zero:
        whole = whole.fill_null(0)
    return _Made(plan_fragment.OutputColumn(output.column, pgtypes.INT8, -1, "bigint"), whole, whole)


def _computed(output: finishes.Arithmetic, added: pa.Table) -> _Made:
    if added.num_rows > _MANY_ROWS:
        return _computed_at_once(output, added)
    columns = {total.column: added.column(f"total {total.column}") for total in finishes.totals(output)}
    rows = zip(*(column.to_pylist() for column in columns.values()), strict=True)
    values = [_value(output, dict(zip(columns, row, strict=True))) for row in rows]
    if any(pa.types.is_floating(column.type) for column in columns.values()):
        doubles = pa.chunked_array([values], pa.float64())
        return _Made(plan_fragment.OutputColumn("computed", *_DOUBLE), doubles, doubles)
    ranks = {value: at for at, value in enumerate(sorted({v for v in values if v is not None}))}
    return _Made(
        plan_fragment.OutputColumn("computed", pgtypes.NUMERIC, -1, "numeric"),
        pa.chunked_array([[_carried(v) for v in values]], pa.binary()),
        pa.chunked_array([[None if v is None else ranks[v] for v in values]], pa.int64()),
    )


def _computed_at_once(output: finishes.Arithmetic, added: pa.Table) -> _Made:
    """Sums, differences and products of decimals; a result that could have more digits than Arrow holds is an error."""
    column = plan_fragment.OutputColumn("computed", pgtypes.NUMERIC, -1, "numeric")
    values = _values(output, added)
    batches = native.from_native(pa.table([values], [column.name]), [column])
    carried = pa.chunked_array([batch.column(0) for batch in batches], pa.binary())
    return _Made(column, carried, values.cast(pa.decimal128(_DIGITS, values.type.scale)))


def _values(term: finishes.Term, added: pa.Table) -> Any:
    match term:
        case finishes.Total(column=name, is_bigint=False):
            return _narrowed(added.column(f"total {name}"))
        case decimal.Decimal():
            return _narrowed(pa.chunked_array([pa.repeat(term, added.num_rows)]))
        case finishes.Arithmetic(operator="+" | "-" | "*"):
            left, right = _values(term.left, added), _values(term.right, added)
            return _AT_ONCE[term.operator](left, right)
    raise _Declined


def _narrowed(values: Any) -> Any:
    """Decimals in a type of no more digits than they have, so that types of results have room."""
    if not pa.types.is_decimal(values.type):
        raise _Declined
    ends = [end for end in pc.min_max(values).as_py().values() if end is not None]
    digits = max((end.adjusted() + 1 for end in ends), default=1)
    scale = values.type.scale
    return values.cast(pa.decimal128(max(digits + scale, scale, 1), scale))


def _carried(value: arithmetic.Value) -> bytes | None:
    return native.numeric_binary(value) if isinstance(value, decimal.Decimal) else None


def _value(term: finishes.Term, totals: dict[str, arithmetic.Value]) -> arithmetic.Value:
    match term:
        case finishes.Total():
            return totals[term.column]
        case finishes.NullIfZero():
            return arithmetic.null_if_zero(_value(term.value, totals))
        case finishes.Arithmetic():
            return arithmetic.applied(term.operator, _value(term.left, totals), _value(term.right, totals))
    return term


def _padded(values: pa.Array, column: plan_fragment.OutputColumn) -> pa.Array:
    if column.type_oid != pgtypes.BPCHAR or column.typmod <= _TYPMOD_HEADER:
        return values
    return pc.utf8_rpad(values, column.typmod - _TYPMOD_HEADER, " ")


def _one(values: Any) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values

"""Rows that meet none of another table's stay where they are: IN over what the other one's conditions leave.

A table that moves is joined with others afterwards. Where one of these lies beside it already (a reference table, or one
that is co-located and joined by the distribution columns) and is filtered, only rows with a partner there can matter.
"""

from __future__ import annotations

from collections.abc import Iterator

from orochi.catalog import snapshot as snapshots
from orochi.planner import cost, names, prepare, pull, scans, staged

#: Fewer bytes are moved in less time than it takes to ask.
FEW_BYTES = 2 << 20


def terms(reference: names.Reference, prepared: prepare.Prepared) -> list[str]:
    """Conditions on the rows of a mention of a table, as SQL over its bare columns; they hold for all that matter."""
    return _terms(reference, prepared, {id(reference)})


def _terms(reference: names.Reference, prepared: prepare.Prepared, seen: set[int]) -> list[str]:
    found = []
    for own, other, column in _partners(reference, prepared):
        if id(other) in seen:
            continue
        seen.add(id(other))
        conditions = [*pull.own_terms(other, prepared), *_terms(other, prepared, seen)]
        if conditions:
            where = " AND ".join(f"({item})" for item in conditions)
            inner = f"SELECT {names.quoted(column)} FROM {names.qualified(other.table)} WHERE {where}"
            found.append(f"{names.quoted(own)} IN ({inner})")
    return found


def _partners(
    reference: names.Reference, prepared: prepare.Prepared
) -> Iterator[tuple[str, names.Reference, str]]:
    """Tables inner joined with `reference` that lie beside it, the smallest first: (own column, other, its equal column)."""
    conditions = prepared.analysis.filters(reference)
    classes = prepared.analysis.classes(conditions)
    for other in sorted(prepared.references, key=lambda item: cost.filtered_rows(item, prepared)):
        if other is reference or other.level is not reference.level or staged.is_stage(other.table):
            continue
        if other.hidden or other.sampled or other.target:
            continue
        # what one may be filtered by is what the other may be: no outer join is between them
        if prepared.analysis.filters(other) is not conditions:
            continue
        pairs = [
            (own, name)
            for own in _columns(reference)
            for name in _columns(other)
            if classes.equal((id(reference), own), (id(other), name))
        ]
        if other.table.kind is not snapshots.TableKind.REFERENCE:
            keys = (str(reference.table.distribution_column), str(other.table.distribution_column))
            beside = scans.is_distributed(reference) and scans.is_distributed(other)
            pairs = [keys] if beside and keys in pairs and scans.colocated([reference, other]) else []
        if pairs:
            yield pairs[0][0], other, pairs[0][1]


def _columns(reference: names.Reference) -> list[str]:
    return [column.name for column in reference.table.columns]

"""The fused aggregate over stripes: prune, decode what is needed, filter and group in one pass.

Chunk groups that the skip list rules out are not read; those whose every row passes, and whose
statistics hold the answer, are not decoded. Deleted rows never count. Stripes are worked on by a few
threads, as the kernels do not hold the interpreter. A stripe never changes, so the cache keeps its groups, too:
the next query that wants the same of it only merges them, whichever others it reads.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from orochi import errors, pgtypes
from orochi.engine import abreast, codefilter, contract, grouping, native, picked, results, shapes, stripes
from orochi.storage.columnar import cache, predicates, reader, skiplist
from orochi.storage.columnar import encoded as undecoded
from orochi.storage.columnar import filter as filtering
from orochi.storage.columnar.scan import runs
from orochi.storage.objects import opening

#: So many stripes are open at a time.
_AHEAD = 64
#: A stripe's groups are kept for the next query if they are that much fewer than its rows.
_ROWS_PER_GROUP = 16


def run(
    shape: shapes.Shape,
    scan: contract.Scan,
    outputs: Sequence[contract.OutputColumn],
    stripe_dir: pathlib.Path,
    deleted: Mapping[int, np.ndarray],
    heap: Iterable[pa.RecordBatch],
    counters: stripes.Counters,
    cancelled: contract.Cancelled,
    kept: cache.Cache | None = None,
) -> pa.RecordBatch:
    """The groups of the scan's rows, each once, as the fragment's columns.

    Args:
        shape: what to compute.
        scan: which columns and stripes.
        outputs: the result's columns.
        stripe_dir: where this node keeps its files.
        deleted: sorted row numbers by stripe.
        heap: heap rows, all of the scan's columns; none where others answer for the heap.
        counters: added to.
        cancelled: asked before each stripe.
        kept: footers and decoded columns; None for the process's.

    Raises:
        Unsupported: the rows hold what only PostgreSQL computes right.
        StalePlan: a stripe's file is gone.
        QueryCanceled: `cancelled` said so.
        DataCorrupted: a file is damaged.
    """
    types = {column.name: column.type_oid for column in scan.columns}
    work = work_of(shape, scan, stripe_dir, deleted, cancelled, kept or cache.shared())
    parts: list[grouping.Partial] = []
    for batch in heap:
        parts += work.heap(dict(zip(types, batch.columns, strict=True)), batch.num_rows)
    few: list[picked.Rows] = []
    for found in _of_stripes(work, [(stripe, deleted.get(stripe.stripe_id)) for stripe in scan.stripes]):
        counters.total += found.total
        counters.skipped += found.skipped
        if isinstance(found, picked.Rows):
            few.append(found)
        else:
            parts += found.parts
    if any(rows.count for rows in few):
        rows = picked.joined(few)
        parts.append(grouping.aggregate(shape, rows.count, rows.columns, None))
    if not parts:
        none = {name: pa.array([], pgtypes.carrier(oid)) for name, oid in types.items()}
        parts = work.heap(none, 0)
    return results.of_groups(shape, grouping.merge(shape, parts), outputs)


@dataclasses.dataclass(frozen=True, slots=True)
class Groups:
    """A stripe's groups, if any; its chunk groups, and those that the skip list ruled out."""

    parts: tuple[grouping.Partial, ...]
    total: int
    skipped: int


def _of_stripes(
    work: Work, jobs: Sequence[tuple[contract.StripeRef, np.ndarray | None]]
) -> list[Groups | picked.Rows]:
    """What each stripe gives: groups, or rows where they are few."""
    known = [(work.known(stripe) if gone is None else None) for stripe, gone in jobs]
    missing = [job for job, found in zip(jobs, known, strict=True) if found is None]
    found = [item for item in known if item is not None]
    for start in range(0, len(missing), _AHEAD):
        found += _of_few(work, missing[start : start + _AHEAD])
    return found


def _of_few(
    work: Work, jobs: Sequence[tuple[contract.StripeRef, np.ndarray | None]]
) -> list[Groups | picked.Rows]:
    """The same for stripes of which none is known; while the first are worked on, the disk reads the others."""
    here = [len(jobs) > 1 and work.foresee(stripe) for stripe, _ in jobs]
    begun: list[Stripe] = []
    try:
        for (stripe, deleted), is_here in zip(jobs, here, strict=True):
            if is_here:
                begun.append(Stripe(work, work.open(stripe), deleted))
                begun[-1].foresee()
        tasks = [item.finish for item in begun]
        tasks += [
            functools.partial(work.stripe, *job)
            for job, is_here in zip(jobs, here, strict=True)
            if not is_here
        ]
        return abreast.run(tasks)
    finally:
        for item in begun:
            item.close()


def work_of(
    shape: shapes.Shape,
    scan: contract.Scan,
    stripe_dir: pathlib.Path,
    deleted: Mapping[int, np.ndarray],
    cancelled: contract.Cancelled,
    kept: cache.Cache,
) -> Work:
    """What all stripes share; where only some groups are wanted, it asks for rows of these."""
    from orochi.engine import topmost

    plain = frozenset(key.column for key in shape.keys if key.width == 0)
    types = {column.name: column.type_oid for column in scan.columns}
    work = Work(shape, plain, types, stripe_dir, cancelled, kept)
    condition = topmost.narrowed(work, scan, deleted)
    if condition is None:
        return work
    narrower = dataclasses.replace(shape, conditions=(*shape.conditions, condition))
    return Work(narrower, plain, types, stripe_dir, cancelled, kept)


class Work:
    """What all stripes of one run share."""

    def __init__(
        self,
        shape: shapes.Shape,
        plain: frozenset[str],
        types: Mapping[str, int],
        stripe_dir: pathlib.Path,
        cancelled: contract.Cancelled,
        kept: cache.Cache,
    ) -> None:
        self.cache = kept
        self.shape = shape
        self.plain = plain
        self.keys = frozenset(key.column for key in shape.keys)
        self.needed = {*self.keys, *grouping.needs(shape)}
        self.types = types
        self.conditions = [
            (item.column, predicates.condition(item, pgtypes.carrier(types[item.column])))
            for item in shape.conditions
        ]
        if any(isinstance(condition, predicates.Anything) for _, condition in self.conditions):
            raise native.Unsupported("a condition that the carrier does not decide")
        self.asked = tuple((item.column, item.op, item.values) for item in shape.conditions)
        self.grouped = repr((shape.keys, shape.outputs))
        self.asked_bytes = 64 * sum(len(item.values) for item in shape.conditions)
        self._stripe_dir = stripe_dir
        self._cancelled = cancelled

    def heap(self, columns: Mapping[str, pa.Array], rows: int) -> list[grouping.Partial]:
        """The groups of rows that are in memory."""
        kept = filtering.evaluate([(columns[name], condition) for name, condition in self.conditions])
        arrays = {
            name: encoded(columns[name]) if name in self.plain else columns[name] for name in self.needed
        }
        return [grouping.aggregate(self.shape, rows, arrays, kept)]

    def known(self, stripe: contract.StripeRef) -> Groups | picked.Rows | None:
        """What is kept of a stripe without deleted rows: its groups, or its rows that count; its file is not opened."""
        key = opening.key_of(self._stripe_dir, stripe.path)
        pruned = None if key is None else self.cache.get((key, "pruned", self.asked))
        if pruned is None:
            return None
        of_groups, of_rows = self.places(key, *pruned)
        groups: Groups | None = self.cache.get(of_groups)
        return groups or picked.find(self.cache, of_rows, self.needed)

    def places(
        self, key: Hashable, groups: Sequence[int], left: Sequence[tuple[str, predicates.Condition]]
    ) -> tuple[Hashable, Hashable]:
        """Where a stripe's groups are kept (whatever was asked, if no row can fail it), and its rows that count."""
        of_groups = (key, "groups", self.grouped, tuple(groups), self.asked if left else ())
        return of_groups, picked.place((key, self.plain), groups, left)

    def stripe(self, stripe: contract.StripeRef, deleted: np.ndarray | None) -> Groups | picked.Rows:
        """A stripe's groups, or its rows that count if they are few."""
        self.check()
        with self.open(stripe) as source:
            return Stripe(self, source, deleted).run()

    def check(self) -> None:
        """Raises QueryCanceled if the query is."""
        if self._cancelled():
            raise errors.QueryCanceled("canceling statement due to user request")

    def foresee(self, stripe: contract.StripeRef) -> bool:
        """Whether a stripe is a file here, of which the kernel now reads what `open` will."""
        return opening.foresee(self._stripe_dir, stripe.path)

    def open(self, stripe: contract.StripeRef) -> reader.StripeReader:
        """A reader of a stripe; StalePlan if its file is gone."""
        try:
            return opening.open_stripe(self._stripe_dir, stripe.path, cache=self.cache)
        except FileNotFoundError as error:
            raise errors.StalePlan(f"stripe {stripe.stripe_id} is not on this node any more") from error

    def weight(self, stripe: contract.StripeRef) -> tuple[int, int, int]:
        """How many chunk groups a stripe has, how many the skip list leaves, and of these column chunks to decode."""
        key = (self._stripe_dir, stripe.path, self.asked, frozenset(self.needed))
        known: tuple[int, int, int] | None = self.cache.get(key)
        if known is None:
            with self.open(stripe) as source:
                groups, left = Stripe(self, source, None).pruned()
                columns = {*(name for name, _ in left), *self.needed}
                known = len(source.footer.group_rows), len(groups), len(groups) * len(columns)
            self.cache.put(key, known, 256 + self.asked_bytes)
        return known


class Stripe:
    """One stripe of a run."""

    def __init__(self, work: Work, source: reader.StripeReader, deleted: np.ndarray | None) -> None:
        self._work = work
        self._source = source
        self._footer = source.footer
        self._deleted = deleted
        self._read: dict[str, pa.Array] = {}

    def foresee(self) -> None:
        """Have the kernel begin to read what `run` will; where few rows may pass, only what tells which do."""
        groups, left = self.pruned()
        if not groups:
            return
        names = {name for name, _ in left}
        if not any(isinstance(condition, predicates.Members) for _, condition in left):
            names |= self._work.needed
        columns = (self._footer.column(name) for name in names)
        self._source.prefetch([column for column in columns if column is not None], groups, near=True)

    def finish(self) -> Groups | picked.Rows:
        """`run`, and let go of the stripe."""
        self._work.check()
        try:
            return self.run()
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the file and of what was read of it."""
        self._source.close()
        self._read.clear()

    def run(self) -> Groups | picked.Rows:
        """The stripe's groups; its rows that count, where they are few."""
        total = len(self._footer.group_rows)
        groups, left = self.pruned()
        skipped = total - len(groups)
        of_groups, of_rows = self._work.places(self._source.key, groups, left)
        groups, kept = self.passing(groups)
        are_few = kept is not None and picked.are_few(int(np.count_nonzero(kept)), self._source.row_count)
        columns: dict[str, Any] = {}
        if groups:
            self._prefetch(self._work.needed, groups)
            column = self._column if are_few else self._argument
            columns = {name: column(name, groups) for name in self._work.needed}
        # a column that the stripe is older than may be dropped, and added again with another type
        lasts = self._deleted is None and all(self._footer.column(name) is not None for name in columns)
        if kept is not None and are_few:
            few = picked.Rows(int(np.count_nonzero(kept)), picked.gathered(columns, kept), total, skipped)
            if lasts:
                picked.keep(self._work.cache, of_rows, few)
            return few
        if not groups:
            return Groups((), total, skipped)
        rows = sum(self._footer.group_rows[group] for group in groups)
        part = grouping.aggregate(self._work.shape, rows, columns, kept, self._summable())
        found = Groups((part,), total, skipped)
        if lasts and len(part.counts) * _ROWS_PER_GROUP <= rows:
            self._work.cache.put(of_groups, found, part.nbytes + self._work.asked_bytes)
        return found

    def _summable(self) -> set[str]:
        """Columns whose bounds in the whole stripe tell that no sum overflows."""
        found = set()
        for name, wanted in grouping.needs(self._work.shape).items():
            column = self._footer.column(name)
            if "sum" in wanted and column is not None:
                kind = "f" if pa.types.is_floating(column.arrow) else "i"
                known = column.outline
                if grouping.is_summable(kind, known.minimum, known.maximum, known.rows):
                    found.add(name)
        return found

    def wanted(self) -> tuple[list[int], np.ndarray | None, int]:
        """The chunk groups with rows that count, which rows these are (None: all), and how many were ruled out."""
        groups, _ = self.pruned()
        skipped = len(self._footer.group_rows) - len(groups)
        groups, kept = self.passing(groups)
        return groups, kept, skipped

    def passing(self, groups: Sequence[int]) -> tuple[list[int], np.ndarray | None]:
        """Of some of the pruned chunk groups those with rows that count, and which rows these are (None: all)."""
        groups = list(groups)
        kept = self._passing(groups, self.pruned()[1]) if groups else None
        return (groups, kept) if kept is None else self._narrowed(groups, kept)

    def pruned(self) -> tuple[list[int], list[tuple[str, predicates.Condition]]]:
        """The chunk groups that may hold a wanted row, and the conditions that some row of them may fail."""
        key = (self._source.key, "pruned", self._work.asked)
        known: tuple[list[int], list[tuple[str, predicates.Condition]]] | None = self._work.cache.get(key)
        if known is None:
            known = self._prune()
            self._work.cache.put(key, known, 512 + 8 * len(known[0]) + self._work.asked_bytes)
        return known

    def _prune(self) -> tuple[list[int], list[tuple[str, predicates.Condition]]]:
        found = [(name, self._footer.column(name), condition) for name, condition in self._work.conditions]
        for _, column, condition in found:  # of whole columns first, which rules most stripes out
            if column is None:  # the stripe is older than the column: all null
                if not isinstance(condition, predicates.IsNull):
                    return [], []
            elif not skiplist.may_hold(column.outline, condition):
                return [], []
        kept = list(range(len(self._footer.group_rows)))
        for _, column, condition in found:
            if column is not None:
                kept = [group for group in kept if skiplist.may_hold(column.chunks[group].stats, condition)]
        left = [
            (name, condition)
            for name, column, condition in found
            if column is not None
            and not all(skiplist.all_hold(column.chunks[group].stats, condition) for group in kept)
        ]
        return kept, left

    def _passing(self, groups: Sequence[int], conditions: Sequence[tuple[str, predicates.Condition]]) -> Any:
        """Which rows of the chunk groups count; None for all."""
        passed: np.ndarray | None = None
        direct = []
        self._prefetch((name for name, _ in conditions), groups)
        for name, condition in conditions:
            if pgtypes.carrier(self._work.types[name]) != pa.string():
                direct.append((self.raw(name, groups), condition))
                continue
            passed = _both(passed, codefilter.evaluate(self.codes(name, groups), condition))
        if direct:
            passed = _both(passed, filtering.evaluate(direct))
        if self._deleted is not None:
            alive = ~np.isin(self.row_numbers(groups), self._deleted)
            passed = passed if alive.all() else _both(passed, alive)
        return passed

    def _narrowed(self, groups: list[int], kept: np.ndarray) -> tuple[list[int], np.ndarray]:
        """Without the chunk groups that have no row left, what was read of the others too."""
        ends = np.cumsum([self._footer.group_rows[group] for group in groups])
        starts = np.concatenate(([0], ends[:-1]))
        alive = np.flatnonzero(np.logical_or.reduceat(kept, starts)).tolist()
        if len(alive) == len(groups):
            return groups, kept
        spans = [(int(starts[run[0]]), int(ends[run[-1]])) for run in runs(alive)] or [(0, 0)]
        for name, array in self._read.items():
            pieces = [array.slice(start, end - start) for start, end in spans]
            self._read[name] = pieces[0] if len(pieces) == 1 else pa.concat_arrays(pieces)
        return [groups[at] for at in alive], np.concatenate([kept[start:end] for start, end in spans])

    def _prefetch(self, names: Iterable[str], groups: Sequence[int]) -> None:
        columns = (self._footer.column(name) for name in names if name not in self._read)
        self._source.prefetch([column for column in columns if column is not None], groups)

    def _argument(self, name: str, groups: Sequence[int]) -> pa.Array | undecoded.Encoded:
        """`_column`; or, of a column that is aggregated and nothing else, its chunks as they are."""
        if name not in self._read and name not in self._work.keys:
            column = self._footer.column(name)
            found = None if column is None else self._source.encoded(column, groups)
            if found is not None:
                return found
        return self._column(name, groups)

    def _column(self, name: str, groups: Sequence[int]) -> pa.Array:
        return self.codes(name, groups) if name in self._work.plain else self.raw(name, groups)

    def raw(self, name: str, groups: Sequence[int]) -> pa.Array:
        """A column in carrier form; null where the stripe is older than it."""
        if name not in self._read:
            column = self._footer.column(name)
            if column is None:
                rows = sum(self._footer.group_rows[group] for group in groups)
                self._read[name] = pa.nulls(rows, pgtypes.carrier(self._work.types[name]))
            else:
                self._read[name] = grouping.plain(self._source.column(column, groups))
        return self._read[name]

    def codes(self, name: str, groups: Sequence[int]) -> pa.DictionaryArray:
        """A column as codes into a dictionary of the whole stripe: the file's, or one that the cache keeps."""
        column = self._footer.column(name)
        if column is None:
            return encoded(self.raw(name, groups))
        if column.dictionary is not None:
            return self._source.column(column, groups)
        everything = range(len(self._footer.group_rows))
        key = (self._source.key, name, "codes")
        whole = self._work.cache.get(key)
        if whole is None:
            whole = encoded(self._source.column(column, everything))
            self._work.cache.put(key, whole, whole.nbytes)
        if len(groups) == len(everything):
            return whole
        rows = np.concatenate(([0], np.cumsum(self._footer.group_rows)))
        pieces = [whole.indices.slice(rows[group], rows[group + 1] - rows[group]) for group in groups]
        return pa.DictionaryArray.from_arrays(pa.concat_arrays(pieces), whole.dictionary)

    def row_numbers(self, groups: Sequence[int]) -> np.ndarray:
        """Each row's position in the stripe."""
        starts = np.concatenate(([0], np.cumsum(self._footer.group_rows)))
        return np.concatenate(
            [np.arange(starts[group], starts[group + 1], dtype=np.int32) for group in groups]
        )


def encoded(array: pa.Array) -> pa.DictionaryArray:
    """An array as int32 codes into its distinct values; null is no value."""
    return array.dictionary_encode()


def _both(left: Any, right: Any) -> Any:
    if left is None or right is None:
        return right if left is None else left
    return left & right

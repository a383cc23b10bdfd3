"""What several steps ask of the same statement, and ask again when it comes again: found once for a shape of the catalog."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Hashable

from orochi import ids
from orochi.catalog import snapshot as snapshots
from orochi.planner import classify, parse, tree

#: Statements whose facts are kept, and the longest: their trees are kept with them.
_KEPT, _LONGEST = 500, 4_000


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What a statement names.

    Attributes:
        tables: Orochi tables, views looked through; as `classify.tables_in` has them.
        has_views: whether it names views over such tables.
    """

    tables: tuple[ids.TableId, ...]
    has_views: bool


_kept: collections.OrderedDict[Hashable, tuple[tree.Node, Facts]] = collections.OrderedDict()


def facts(
    statement: parse.Statement,
    snapshot: snapshots.Snapshot,
    search_path: tuple[str, ...],
    temp_tables: frozenset[str],
) -> Facts:
    """What the statement names in a session like this one."""
    key = statement.sql, search_path, temp_tables, snapshot.shape
    known = _kept.get(key)
    if known is not None and known[0] is statement.tree:
        return known[1]
    tables_named, has_views = classify.named(statement.tree, snapshot, search_path, temp_tables)
    found = Facts(tuple(table.oid for table in tables_named), has_views)
    if len(statement.sql) <= _LONGEST:
        _kept[key] = statement.tree, found
        while len(_kept) > _KEPT:
            _kept.popitem(last=False)
    return found


def tables(
    statement: parse.Statement,
    snapshot: snapshots.Snapshot,
    search_path: tuple[str, ...],
    temp_tables: frozenset[str],
) -> tuple[snapshots.Table, ...]:
    """`classify.tables_in` of a statement."""
    named = facts(statement, snapshot, search_path, temp_tables).tables
    return tuple(snapshot.tables[oid] for oid in named)

"""Which tables' large loads become stripes at once, and what keeps such a table still meanwhile.

That is decided before the first row: nothing may need PostgreSQL to check or compute anything when a row
comes, and the table must be one whose rows are to be compressed anyway.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from orochi.catalog import definition as definitions
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import shells
from orochi.timeseries import flushing, upkeep

_OFF = frozenset({"off", "false", "no", "0"})

_FACTS = f"""
SELECT t.options::text, {flushing.TO_BE_COMPRESSED}::int FROM orochi.orochi_tables t WHERE t.table_oid = %s
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """A table whose large loads become stripes.

    Attributes:
        shell: its definition, which stays as it is until the transaction ends.
        options: its storage options.
    """

    table: snapshots.Table
    shell: definitions.Definition
    options: dict[str, Any]

    @property
    def columns(self) -> tuple[snapshots.Column, ...]:
        """All columns: none is generated."""
        return self.table.columns


async def find(session: context.Session, table: snapshots.Table) -> Target | None:
    """The table as a target of direct loads, locked against DDL; None where rows must go through the heap.

    That is where PostgreSQL must check or compute something as they come, where the table is not to be
    compressed, or where `orochi.direct_compress` is off.
    """
    if not _may_be_direct(session, table):
        return None
    facts = await session.catalog_execute(_FACTS.replace("%s", str(int(table.oid))))
    if not facts or str(facts[0][1]) != "1":
        return None
    shell = await shells.definition(session, table.oid)
    if shell.foreign_keys() or not flushing.is_stripable(shell):
        return None
    await session.catalog_execute(f"LOCK TABLE {shell.relation} IN ROW EXCLUSIVE MODE")
    # DDL that was under way is done now, and no more can come
    await session.runtime.refresh()
    fresh = session.snapshot().tables.get(table.oid)
    if fresh is None or not _may_be_direct(session, fresh):
        return None
    await session.catalog_execute(
        f"SELECT count(*) FROM pg_catalog.pg_advisory_xact_lock_shared({upkeep.LOADING_LOCK})"
    )
    return Target(fresh, await shells.definition(session, table.oid), json.loads(str(facts[0][0])))


def _may_be_direct(session: context.Session, table: snapshots.Table) -> bool:
    if table.kind is snapshots.TableKind.REFERENCE or table.unique_keys or session.transaction.steady:
        return False
    if session.snapshot().aggregates_of(table.oid):
        return False  # triggers enter in the log what is loaded
    if table.dimension is None and table.storage_type != "columnar":
        return False
    if session.settings.get("orochi.direct_compress", "on").lower() in _OFF:
        return False
    return not any(column.generated for column in table.columns)

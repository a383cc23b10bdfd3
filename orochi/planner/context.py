"""What planning one statement may know besides the statement: the catalog, the session, its values."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping

from orochi.catalog import snapshot as snapshots
from orochi.planner import builtins as functions
from orochi.planner import fragment as fragments
from orochi.planner import literals
from orochi.sharding import values

#: Settings that change what SQL on a node means; fragments carry them.
_MEANING = frozenset(
    {
        "timezone",
        "datestyle",
        "intervalstyle",
        "extra_float_digits",
        "bytea_output",
        "lc_monetary",
        "lc_numeric",
        "lc_time",
        "xmlbinary",
        "xmloption",
        "backslash_quote",
        "standard_conforming_strings",
        "array_nulls",
        "timezone_abbreviations",
    }
)
NOTHING_DESCRIBED: Mapping[str, tuple[fragments.OutputColumn, ...]] = types.MappingProxyType({})
_BYTEWISE = frozenset({"C", "POSIX", "C.UTF-8", "C.utf8", "ucs_basic"})


@dataclasses.dataclass(frozen=True, slots=True)
class SubqueryResult:
    """The rows of a sub-SELECT that was run first.

    Attributes:
        columns: its column names.
        types: their types as `format_type` prints them.
        rows: the values in text form.
    """

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...]


def is_bytewise(collation: str) -> bool:
    """Whether text sorts by its bytes in that collation of the database."""
    return collation in _BYTEWISE


@dataclasses.dataclass(frozen=True, slots=True)
class PlanContext:
    """The planner's view of one session at one moment.

    Attributes:
        snapshot: the catalog the whole plan is made from.
        search_path: existing schemas in lookup order, pg_catalog left out.
        builtins: which functions nodes have.
        collation: the database's default collation.
        parameters: typed values of `$1`, ...; they are put into the SQL of any plan made here.
        settings: the session's GUCs that differ from the server default.
        temp_tables: names of the session's temporary tables and views: they come before all else.
        folded: values of the expressions that `NeedsFolding` asked for.
        subqueries: rows of the sub-SELECTs that `NeedsSubqueries` asked for.
        described: the columns of the SELECTs that `stages.NeedsColumns` asked for, and of the statement itself if they are known.
    """

    snapshot: snapshots.Snapshot
    search_path: tuple[str, ...]
    builtins: functions.Builtins
    collation: str = "C"
    parameters: tuple[literals.Literal | None, ...] = ()
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    temp_tables: frozenset[str] = frozenset()
    folded: Mapping[str, literals.Literal | None] = dataclasses.field(default_factory=dict)
    subqueries: Mapping[str, SubqueryResult] = dataclasses.field(default_factory=dict)
    described: Mapping[str, tuple[fragments.OutputColumn, ...]] = dataclasses.field(default_factory=dict)

    @property
    def bytewise(self) -> bool:
        """Whether text in the default collation sorts by its bytes."""
        return is_bytewise(self.collation)

    @property
    def zone(self) -> literals.Zone:
        """What reading constants depends on."""
        return literals.Zone(values.timezone(self.settings), self.bytewise)

    @property
    def force_strategy(self) -> str:
        """`orochi.force_strategy`, empty when the planner is free."""
        return self.setting("orochi.force_strategy").strip().lower()

    def forcing(self, strategy: str) -> PlanContext:
        """The same, with the strategy given."""
        return dataclasses.replace(self, settings={**self.settings, "orochi.force_strategy": strategy})

    def reading(self, snapshot: snapshots.Snapshot) -> PlanContext:
        """The same over another catalog: one in which stages are tables."""
        return dataclasses.replace(self, snapshot=snapshot)

    @property
    def vectorized(self) -> bool:
        """`orochi.enable_vectorized_execution`."""
        return self.setting("orochi.enable_vectorized_execution", "on").lower() not in (
            "off",
            "false",
            "no",
            "0",
        )

    def setting(self, name: str, default: str = "") -> str:
        """A setting of the session by its lower-case name."""
        return next((value for key, value in self.settings.items() if key.lower() == name), default)

    def fragment_settings(self) -> tuple[tuple[str, str], ...]:
        """The settings that SQL of this session must run under on a node, sorted."""
        kept = {key.lower(): value for key, value in self.settings.items() if key.lower() in _MEANING}
        path = [name for name in self.search_path if not name.startswith("pg_temp_")]
        if path:
            kept["search_path"] = ", ".join('"' + name.replace('"', '""') + '"' for name in path)
        return tuple(sorted(kept.items()))

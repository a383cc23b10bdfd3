"""Column types that only PostgreSQL's parse analysis knows, asked of it over the shell tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from orochi import pgtypes
from orochi.executor import context
from orochi.pgwire import client, messages
from orochi.planner import context as planning
from orochi.planner import fragment as plan_fragment
from orochi.planner import parse
from orochi.planner import plan as plans

#: record, record[], cstring, anyarray
_PSEUDO = frozenset({2249, 2287, 2275, 2277})


class Asker(Protocol):
    """Whose connection to the coordinator PostgreSQL is asked on: a session, as a rule."""

    @property
    def coordinator(self) -> client.PgConnection:
        """Idle, and ours until the answer."""

    @property
    def search_path(self) -> Sequence[str]:
        """Its schemas, but for those that PostgreSQL adds."""


async def intermediates(session: Asker, plan: plans.Distributed) -> plans.Distributed:
    """Fill in the column types that only PostgreSQL's parse analysis knows, those of stages too."""
    stages = []
    for stage in plan.stages:
        if isinstance(stage.plan, plans.Distributed):
            stage = dataclasses.replace(stage, plan=await intermediates(session, stage.plan))
        stages.append(stage)
    found = []
    for intermediate in plan.intermediates:
        if intermediate.describe_sql is not None:
            columns = await _intermediate_columns(session, intermediate)
            intermediate = dataclasses.replace(
                intermediate,
                columns=columns,
                describe_sql=None,
                fragments=tuple(
                    dataclasses.replace(fragment, columns=columns) for fragment in intermediate.fragments
                ),
            )
        found.append(intermediate)
    return dataclasses.replace(plan, intermediates=tuple(found), stages=tuple(stages))


def is_of_relations(plan: plans.Distributed) -> bool:
    """Whether relations can have the columns that the plan and its stages gather, all of them known."""
    parts = [plan, *(stage.plan for stage in plan.stages if isinstance(stage.plan, plans.Distributed))]
    return not any(
        column.type_oid in _PSEUDO for part in parts for item in part.intermediates for column in item.columns
    )


async def _intermediate_columns(
    session: Asker, intermediate: plans.Intermediate
) -> tuple[plan_fragment.OutputColumn, ...]:
    assert intermediate.describe_sql is not None
    found = await columns_of(session, intermediate.describe_sql)
    return tuple(
        dataclasses.replace(known, name=column.name)
        for column, known in zip(intermediate.columns, found, strict=True)
    )


async def columns_of(session: Asker, sql: str) -> tuple[plan_fragment.OutputColumn, ...]:
    """The columns of a SELECT over the shells, as parse analysis tells them."""
    _, fields = await session.coordinator.describe(sql)
    described = fields or ()
    return _columns(described, await named_types(session, described))


def known(
    session: context.Session,
    statement: parse.Statement,
    fields: Sequence[messages.FieldDescription] | None,
) -> Mapping[str, tuple[plan_fragment.OutputColumn, ...]]:
    """The statement's columns, by its text, as PostgreSQL described it; nothing if it is to be asked for types' names."""
    named = _known_names(session, fields) if fields else None
    if not fields or named is None:
        return planning.NOTHING_DESCRIBED
    return {statement.sql: _columns(fields, named)}


def _columns(
    fields: Sequence[messages.FieldDescription], named: Sequence[tuple[str, str]]
) -> tuple[plan_fragment.OutputColumn, ...]:
    return tuple(
        plan_fragment.OutputColumn(
            name=field.name,
            type_oid=pgtypes.TEXT if field.type_oid == pgtypes.UNKNOWN else field.type_oid,
            typmod=field.typmod,
            type_name=type_name,
        )
        for field, (_, type_name) in zip(fields, named, strict=True)
    )


async def named_types(
    session: Asker, fields: Sequence[messages.FieldDescription]
) -> tuple[tuple[str, str], ...]:
    """Each column's name and its type's."""
    if (found := _known_names(session, fields)) is not None:
        return found
    values = ", ".join(f"pg_catalog.format_type({field.type_oid}, {field.typmod})" for field in fields)
    names = (await session.coordinator.fetch(f"SELECT {values}")).rows[0]
    return tuple(
        (field.name, "text" if field.type_oid == pgtypes.UNKNOWN else (name or b"").decode())
        for field, name in zip(fields, names, strict=True)
    )


def _known_names(
    session: Asker, fields: Sequence[messages.FieldDescription]
) -> tuple[tuple[str, str], ...] | None:
    if "pg_catalog" in session.search_path:  # named there: another type may come before one of its own
        return None
    found = []
    for field in fields:
        is_unknown = field.type_oid == pgtypes.UNKNOWN
        name = "text" if is_unknown else pgtypes.type_name(field.type_oid, field.typmod)
        if name is None:
            return None
        found.append((field.name, name))
    return tuple(found)

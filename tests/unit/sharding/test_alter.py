"""Shards follow the difference between two definitions of their shell."""

from __future__ import annotations

import dataclasses
from typing import Any

from orochi.catalog import definition as definitions
from orochi.sharding import alter


def column(name: str, attnum: int, kind: str = "integer", **options: Any) -> definitions.Column:
    values: dict[str, Any] = {
        "base_oid": 23,
        "not_null": False,
        "collation": None,
        "deterministic": True,
        "default": None,
        "volatility": "i",
        "identity": "",
        "generated": "",
    }
    return definitions.Column(name=name, attnum=attnum, type=kind, **(values | options))


def constraint(oid: int, name: str, kind: str, sql: str, **options: Any) -> definitions.Constraint:
    return definitions.Constraint(oid, name, kind, ("a",), sql, **options)


BEFORE = definitions.Definition(
    oid=1,
    schema="public",
    name="t",
    kind="r",
    persistence="p",
    owner="o",
    owned=True,
    is_partition=False,
    inherits=False,
    has_policies=False,
    options=(),
    catalog_kind="distributed",
    is_hypertable=False,
    columns=(column("a", 1, not_null=True), column("b", 2)),
    constraints=(constraint(10, "t_pkey", "p", "PRIMARY KEY (a)"),),
    indexes=(definitions.Index(20, "t_b_idx", False, True, ("b",), "USING btree (b)"),),
    referencing=(),
    is_referenced=False,
    triggers=(),
    types=(),
    extensions=(),
)


def changes(after: definitions.Definition, **options: Any) -> list[str]:
    return alter.statements(BEFORE, after, "s1", **options)


def test_no_difference_no_statement() -> None:
    assert changes(BEFORE) == []


def test_columns() -> None:
    after = dataclasses.replace(
        BEFORE,
        columns=(
            column("x", 1, "bigint", not_null=True, default="5"),
            column("c", 3, default="now()", volatility="s", not_null=True),
        ),
        indexes=(),
    )
    assert changes(after, using={"a": "a + b"}, fills={"c": "'now'::text"}) == [
        'DROP INDEX IF EXISTS "s1"."t_b_idx"',
        'ALTER TABLE "s1"."t" ALTER COLUMN "a" TYPE bigint USING a + b',
        'ALTER TABLE "s1"."t" DROP COLUMN IF EXISTS "b" CASCADE',
        'ALTER TABLE "s1"."t" RENAME COLUMN "a" TO "x"',
        'ALTER TABLE "s1"."t" ALTER COLUMN "x" SET DEFAULT 5',
        'ALTER TABLE "s1"."t" ADD COLUMN "c" integer DEFAULT \'now\'::text',
        'ALTER TABLE "s1"."t" ALTER COLUMN "c" DROP DEFAULT',
        'ALTER TABLE "s1"."t" ALTER COLUMN "c" SET NOT NULL',
    ]


def test_values_change_all_at_once_under_the_same_types() -> None:
    assert changes(BEFORE, using={"a": "b", "b": "a"}) == [
        'ALTER TABLE "s1"."t" ALTER COLUMN "a" TYPE integer USING b, ALTER COLUMN "b" TYPE integer USING a'
    ]


def test_names_reach_every_chunk() -> None:
    after = dataclasses.replace(
        BEFORE,
        name="u",
        constraints=(dataclasses.replace(BEFORE.constraints[0], name="k"),),
        indexes=(
            BEFORE.indexes[0],
            definitions.Index(21, "i", True, True, ("a", "b"), "USING btree (a, b)"),
        ),
    )
    assert changes(after, chunk_schemas=["c1"]) == [
        'CREATE UNIQUE INDEX "i" ON "c1"."t" USING btree (a, b)',
        'CREATE UNIQUE INDEX "i" ON "s1"."t" USING btree (a, b)',
        'ALTER TABLE "s1"."t" RENAME CONSTRAINT "t_pkey" TO "k"',
        'ALTER TABLE "s1"."t" RENAME TO "u"',
        'ALTER TABLE "c1"."t" RENAME CONSTRAINT "t_pkey" TO "k"',
        'ALTER TABLE "c1"."t" RENAME TO "u"',
    ]


def test_foreign_keys_refer_to_shards() -> None:
    key = constraint(
        11,
        "fk",
        "f",
        'FOREIGN KEY (a) REFERENCES public."R x"(id) ON DELETE CASCADE',
        references=7,
        referenced='public."R x"',
    )
    after = dataclasses.replace(BEFORE, constraints=(*BEFORE.constraints, key))
    assert changes(after, references={7: "s9"}) == [
        'ALTER TABLE "s1"."t" ADD CONSTRAINT "fk" FOREIGN KEY (a) REFERENCES "s9"."R x"(id) ON DELETE CASCADE'
    ]


def test_what_only_the_coordinator_can_compute_is_not_in_a_shard() -> None:
    shell = dataclasses.replace(
        BEFORE,
        columns=(
            column('we"ird', 1, default="nextval('s'::regclass)", volatility="v"),
            column("g", 2, default="(a * 2)", generated="s"),
            column("d", 3, "text", default="'x'::text", collation='pg_catalog."C"'),
        ),
        constraints=(),
        indexes=(),
    )
    assert definitions.create_relation(shell, "s1", time_column="d") == [
        'CREATE SCHEMA "s1"',
        (
            'CREATE TABLE "s1"."t" ("we""ird" integer, "g" integer GENERATED ALWAYS AS ((a * 2)) STORED,'
            ' "d" text COLLATE pg_catalog."C" DEFAULT \'x\'::text) PARTITION BY RANGE ("d")'
        ),
    ]

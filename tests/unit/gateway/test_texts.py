"""Which texts the relay may let pass without a closer look."""

from __future__ import annotations

import pytest

from orochi.gateway import texts


class Catalog:
    def touches(self, sql: str) -> bool:
        return "ours" in sql

    def classifier(self) -> Catalog:
        return self


@pytest.mark.parametrize(
    ("sql", "flags"),
    [
        ("SELECT 1", 0),
        ("UPDATE t SET a = 1", 0),
        ("INSERT INTO prepare VALUES (1)", 0),
        ("SELECT execute FROM release", 0),
        ("BEGIN", 0),
        ("COMMIT", 0),
        ("ROLLBACK", 0),
        ("SELECT * FROM ours", texts.TOUCHES),
        ("SAVEPOINT a", texts.SPECIAL),
        ("  release\nsavepoint a", texts.SPECIAL),
        ("-- note\nROLLBACK TO a", texts.SPECIAL),
        ("rollback /* x */ work to savepoint a", texts.SPECIAL),
        ("PREPARE p AS SELECT 1", texts.SPECIAL),
        ("SELECT 1; EXECUTE p", texts.SPECIAL),
        ("/* a */ DEALLOCATE ALL", texts.SPECIAL),
        ("EXPLAIN EXECUTE p", texts.SPECIAL),
        ("CREATE TABLE t AS\nEXECUTE p", texts.SPECIAL | texts.SETTINGS | texts.CATALOG),
        ("DISCARD ALL", texts.SPECIAL | texts.SETTINGS),
        ("SET TimeZone = 'UTC'", texts.SETTINGS),
        ("SET orochi.frozen_reads = skip", texts.SETTINGS | texts.SPECIAL),
        ("SELECT 1; reset all", texts.SETTINGS),
        ("SELECT set_config('a.b', 'c', false)", texts.SETTINGS),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE", texts.SETTINGS | texts.ISOLATION),
        ("start transaction read only", texts.SETTINGS),
        ("CREATE SCHEMA s", texts.SETTINGS | texts.CATALOG),
        ("/* x */ do $$ begin end $$", texts.SETTINGS | texts.CATALOG),
        ("EXPLAIN ANALYZE CREATE TABLE a AS SELECT 1", texts.SETTINGS | texts.CATALOG),
        ("SELECT 1 INTO TEMP a", texts.SETTINGS | texts.CATALOG),
        ("SELECT template FROM creation", 0),
    ],
)
def test_flags(sql: str, flags: int) -> None:
    assert texts.Texts(Catalog()).flags(sql.encode()) == flags
    assert texts.Texts(None).flags(sql.encode()) == 0


def test_a_new_classifier_empties_the_cache() -> None:
    class Moving:
        def __init__(self) -> None:
            self.current = Catalog()

        def classifier(self) -> Catalog:
            return self.current

    source = Moving()
    cached = texts.Texts(source)
    cached.flags(b"SELECT 1")
    version = cached.version
    assert cached.cache() == {b"SELECT 1": 0}
    source.current = Catalog()
    assert cached.cache() == {}
    assert cached.version == version + 1


def test_a_text_of_megabytes_is_classified_as_a_short_one() -> None:
    filler = "lorem; ipsum, " * 100_000
    known = texts.Texts(Catalog())
    assert known.flags(f"SELECT '{filler}'".encode()) == 0
    assert known.flags(f"SELECT '{filler}'; SET x = 1".encode()) == texts.SETTINGS
    assert known.flags(f"EXPLAIN SELECT '{filler}', execute ".encode()) == texts.SPECIAL
    assert known.flags(f"SELECT '{filler}', ours".encode()) == texts.TOUCHES

"""Texts that could not be printed come from those that were, by key."""

from __future__ import annotations

from typing import Any

from orochi.catalog import texts


def _parts(generated: str | None, view: str | None, key: str) -> dict[str, Any]:
    plain = ["a", 1, 23, 23, -1, "integer", True, None, None, False, "", "", None]
    column = ["b", 2, 23, 23, -1, "integer", True, None, generated, False, "", "s", "g" + key]
    return {
        "tables": [{"columns": [plain, column]}, {"columns": None}],
        "views": [["s", "v", view, ["a"], "v" + key]],
    }


def test_missing_texts_are_filled_in_while_their_keys_are_the_same() -> None:
    known = texts.Texts()
    assert not known.complete(_parts(None, None, "1"))
    assert known.complete(_parts("(a * 2)", "SELECT 1", "1"))
    held = _parts(None, None, "1")
    assert known.complete(held)
    assert held == _parts("(a * 2)", "SELECT 1", "1")
    assert not known.complete(_parts("(a * 2)", None, "2"))

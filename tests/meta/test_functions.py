"""The page of pushed functions is what the code says, and the tests it names exist."""

from __future__ import annotations

import pathlib
import re

from orochi.planner import allowed, builtins
from tests.cluster import test_pushed

_ROOT = pathlib.Path(__file__).parents[2]


def test_page_is_up_to_date() -> None:
    """`python -m orochi.planner.allowed > docs/functions.md` makes it."""
    assert (_ROOT / "docs" / "functions.md").read_text() == allowed.page()


def test_named_tests_exist() -> None:
    for path, name in set(re.findall(r"(tests/[\w/]+\.py)::(\w+)", allowed.page())):
        assert re.search(rf"^def {name}\(", (_ROOT / path).read_text(), re.MULTILINE), (path, name)


def test_every_function_is_tried() -> None:
    assert set(test_pushed.STABLE) == builtins.SESSION_STABLE
    assert set(test_pushed.FOLDED) == builtins.FOLDED

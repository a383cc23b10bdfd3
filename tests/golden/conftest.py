"""`--update-golden` writes the expected texts anew; under CI it is refused."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write tests/golden/*.txt anew from what the code gives now (refused under CI)",
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with the file of that name."""
    update = request.config.getoption("--update-golden", default=False)
    if update and os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail("--update-golden is refused under CI")

    def compare(name: str, text: str) -> None:
        path = pathlib.Path(__file__).with_name(f"{name}.txt")
        if update:
            path.write_text(text)
        assert path.exists(), f"no {path.name}: run pytest tests/golden --update-golden"
        assert text == path.read_text()

    return compare

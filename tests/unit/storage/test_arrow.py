"""Processes of a cluster keep pyarrow from importing pandas."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys, types
import pyarrow as pa
from orochi.storage import arrow

class Installed:
    def find_spec(self, name, path=None, target=None):
        if name == "pandas":
            print("looked for")

sys.meta_path.insert(0, Installed())
{call}
pa.array([1]), pa.array(["x"]), pa.table({{"a": [1]}}).to_pylist()
"""


def _run(call: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(call=call)], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_pandas_is_not_looked_for() -> None:
    assert "looked for" in _run("")
    assert _run("arrow.without_pandas()") == ""

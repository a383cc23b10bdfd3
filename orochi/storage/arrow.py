"""What this process asks of pyarrow as a whole."""

from __future__ import annotations

import sys
from importlib import machinery
from types import ModuleType

import pyarrow as pa


class _Absent:
    """Says that pandas is not installed."""

    def find_spec(
        self, name: str, path: object = None, target: ModuleType | None = None
    ) -> machinery.ModuleSpec | None:
        if name == "pandas":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def without_pandas() -> None:
    """Have pyarrow do without pandas from now on.

    It imports pandas, where that is installed, for the first list that becomes an array, which would halt a
    gateway for seconds; and it looks only once.
    """
    absent = _Absent()
    sys.meta_path.insert(0, absent)
    try:
        pa.array([""])
    finally:
        sys.meta_path.remove(absent)

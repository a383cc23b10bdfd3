"""The test suite; how it is split is in docs/contributing.md."""

from __future__ import annotations

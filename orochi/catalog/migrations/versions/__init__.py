"""One module a migration, in order."""

from __future__ import annotations

"""Alembic migrations of the catalog's tables; functions, triggers and views are in `catalog/sql`."""

from __future__ import annotations

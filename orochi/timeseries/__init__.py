"""Hypertables: time ranges, the chunks that hold them, and turning old chunks into stripes."""

from __future__ import annotations

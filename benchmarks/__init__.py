"""The demo and the benchmarks: scripts a person runs, never imported by the product."""

from __future__ import annotations

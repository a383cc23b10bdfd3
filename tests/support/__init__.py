"""What the tests share: real servers, a cluster, PostgreSQL as the oracle, and the runners of test files."""

from __future__ import annotations

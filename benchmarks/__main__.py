"""`python -m benchmarks` is `make bench`."""

from __future__ import annotations

import sys

from benchmarks import run

if __name__ == "__main__":
    sys.exit(run.main())

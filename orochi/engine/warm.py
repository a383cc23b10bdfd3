"""`python -m orochi.engine.warm`: compile every loop once, so that no process of a cluster has to.

Compiled code goes to numba's cache (`NUMBA_CACHE_DIR`), which all processes of one installation share. Modules are
compiled on import, in as many processes as there are cores.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pkgutil
from concurrent import futures

from orochi.engine import kernels

#: What others import comes before them, so that no two processes compile the same.
_MODULES = (
    "orochi.storage.compression.int_kernels",
    "orochi.storage.compression.float_kernels",
    "orochi.storage.compression.numeric_kernels",
    *(module.name for module in pkgutil.iter_modules(kernels.__path__, f"{kernels.__name__}.")),
    "orochi.storage.columnar.bloom_kernels",
    "orochi.storage.columnar.range_kernels",
    "orochi.storage.compression.bulk_kernels",
)


def main() -> None:
    """Import and call everything that is compiled."""
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(min(os.cpu_count() or 1, len(_MODULES)), mp_context=context) as pool:
        list(pool.map(_load, _MODULES))
    load()


def load() -> None:
    """Have every loop in this process, and in those forked from it: a query that came first would wait a second."""
    from orochi.engine import copybinary

    for module in _MODULES:
        _load(module)
    copybinary.warm()


def _load(module: str) -> None:
    importlib.import_module(module)


if __name__ == "__main__":
    main()

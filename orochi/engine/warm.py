"""`python -m orochi.engine.warm`: compile every loop once, so that no process of a cluster has to.

Compiled code goes to numba's cache (`NUMBA_CACHE_DIR`), which all processes of one installation share.
"""

from __future__ import annotations

import importlib
import pkgutil

from orochi.engine import copybinary, kernels
from orochi.storage.columnar import bloom_kernels, range_kernels
from orochi.storage.compression import registry

#: Compiled on import alone.
_LOADED = (bloom_kernels, range_kernels)


def main() -> None:
    """Import and call everything that is compiled."""
    for module in pkgutil.iter_modules(kernels.__path__, f"{kernels.__name__}."):
        importlib.import_module(module.name)
    copybinary.warm()
    registry.warm()


if __name__ == "__main__":
    main()

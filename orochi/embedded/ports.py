"""Loopback ports: kept across restarts while free, else new ones.

New ports come from below the range that the kernel uses for outgoing connections; otherwise a
client's own socket could sit on a server's port just while that server restarts. A server listens
seconds after it was given its port; so that two clusters that start together are given none alike,
each takes new ports from blocks that it marks as its own by a socket at their first port.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator, Mapping, Sequence

LOOPBACK = "127.0.0.1"
_LOWEST, _HIGHEST, _BLOCK = 15_000, 32_000, 40
_random = random.SystemRandom()


def is_free(port: int) -> bool:
    """Whether a server could listen on it now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def assign(names: Sequence[str], kept: Mapping[str, int], fixed: Mapping[str, int]) -> dict[str, int]:
    """A port for each name.

    Args:
        names: what needs a port.
        kept: ports of an earlier run, used again where they are free.
        fixed: ports the user asked for.

    Raises:
        OSError: a port in `fixed` is taken, or no free port was found.
    """
    ports: dict[str, int] = {}
    for name, port in fixed.items():
        if not is_free(port):
            raise OSError(f"port {port} for {name} is in use")
        ports[name] = port
    for name in names:
        if name in ports:
            continue
        old = kept.get(name)
        if old is not None and old not in ports.values() and is_free(old):
            ports[name] = old
        else:
            ports[name] = _new_port(set(ports.values()) | set(kept.values()))
    return ports


def _new_port(taken: set[int]) -> int:
    for port in _own:
        if port not in taken and is_free(port):
            return port
    raise OSError("no free loopback port found")


def _own_ports() -> Iterator[int]:
    """Ports that no other process is given while this one lives."""
    marks = []
    for block in _random.sample(range(_LOWEST, _HIGHEST, _BLOCK), (_HIGHEST - _LOWEST) // _BLOCK):
        mark = socket.socket()
        try:
            mark.bind((LOOPBACK, block))
        except OSError:
            mark.close()
            continue
        marks.append(mark)
        yield from range(block + 1, block + _BLOCK)


_own = _own_ports()

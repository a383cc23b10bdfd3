from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from orochi.embedded import ports


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as server:
        server.bind((ports.LOOPBACK, 0))
        server.listen()
        yield int(server.getsockname()[1])


def test_new_ports_are_distinct_and_below_the_range_of_outgoing_connections() -> None:
    assigned = ports.assign([f"s{number}" for number in range(50)], {}, {})
    assert len(set(assigned.values())) == 50
    assert all(1024 < port < 32768 for port in assigned.values())


def test_processes_are_given_different_ports_before_they_use_them() -> None:
    code = "from orochi.embedded import ports; print(*ports.assign(range(3000), {}, {}).values(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = {int(port) for port in other.stdout.readline().split()}
        ours = set(ports.assign([str(number) for number in range(1000)], {}, {}).values())
        other.communicate("\n")
    assert (len(theirs), len(ours), theirs & ours) == (3000, 1000, set())


def test_ports_are_kept_while_free_and_replaced_when_not(taken: int) -> None:
    first = ports.assign(["a", "b"], {}, {})
    again = ports.assign(["a", "b", "c"], first, {})
    assert {name: again[name] for name in first} == first
    assert ports.assign(["a"], {"a": taken}, {})["a"] != taken


def test_a_port_asked_for_is_used_or_refused(taken: int) -> None:
    free = ports.assign(["a"], {}, {})["a"]
    assert ports.assign(["gateway", "a"], {}, {"gateway": free})["gateway"] == free
    with pytest.raises(OSError, match=f"port {taken} for gateway is in use"):
        ports.assign(["gateway"], {}, {"gateway": taken})

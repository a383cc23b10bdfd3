from __future__ import annotations

import socket
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

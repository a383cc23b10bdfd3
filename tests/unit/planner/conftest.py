"""One PostgreSQL for the planner's tests, holding a pretend cluster."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.support import planner_data, planner_world, services


@pytest.fixture(scope="session")
def _world() -> Iterator[planner_world.World]:
    with (
        services.postgres({"timezone": "UTC"}) as server,
        psycopg.connect(server.dsn, autocommit=True) as connection,
    ):
        made = planner_world.World(connection)
        planner_data.build(made)
        yield made


@pytest.fixture
def world(_world: planner_world.World) -> planner_world.World:
    """The pretend cluster, with the settings a session starts with."""
    _world.settings = {"timezone": "UTC"}
    _world.connection.execute("SET timezone TO 'UTC'")
    return _world

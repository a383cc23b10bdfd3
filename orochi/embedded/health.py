"""Health checks of the containers in docker-compose.yml, by the service's name."""

from __future__ import annotations

import asyncio
import os
import pathlib
import time

import psycopg
from psycopg import conninfo

from orochi import settings as settings_module
from orochi.embedded import crew, probe

# Beat writes its schedule to disk every three minutes.
_SCHEDULE_SECONDS = 600.0


def is_healthy(
    service: str,
    settings: settings_module.Settings,
    *,
    schedule: pathlib.Path | None = None,
    port: int = 5555,
) -> bool:
    """Whether a service of this container works.

    Args:
        service: `gateway`, `worker`, `beat` or `flower`.
        settings: the container's settings.
        schedule: beat's file.
        port: Flower's port.
    """
    if service == "worker":
        return crew.is_healthy(settings)
    if service == "beat":
        return _schedule_is_fresh(settings.data_dir / "beat-schedule" if schedule is None else schedule)
    if service == "flower":
        credentials = os.environ.get("FLOWER_BASIC_AUTH")
        return asyncio.run(probe.status(port, "/healthcheck", credentials)) == 200
    return _gateway_answers(settings)


def _gateway_answers(settings: settings_module.Settings) -> bool:
    """A statement through the gateway, with the coordinator's own credentials."""
    host = "127.0.0.1" if settings.gateway_host in {"0.0.0.0", "::", ""} else settings.gateway_host
    dsn = conninfo.make_conninfo(
        settings.coordinator_dsn, host=host, port=settings.gateway_port, connect_timeout=5
    )
    try:
        with psycopg.connect(dsn) as connection:
            connection.execute("SELECT 1")
    except psycopg.Error:
        return False
    return True


def _schedule_is_fresh(schedule: pathlib.Path) -> bool:
    newest = max((path.stat().st_mtime for path in schedule.parent.glob(f"{schedule.name}*")), default=0.0)
    return time.time() - newest < _SCHEDULE_SECONDS

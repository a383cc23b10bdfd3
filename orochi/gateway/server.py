"""The gateway process: the runtime, the operations and the listener put together.

It says that it is ready only when it listens and its catalog is loaded, and on SIGTERM it lets
running statements end before it goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys

import structlog
import uvloop

from orochi import errors, logs, metrics, runtime
from orochi import settings as process_settings
from orochi.engine import warm
from orochi.executor import cluster_metrics
from orochi.gateway import listener, stacks
from orochi.operations import run, warmup
from orochi.storage import arrow

log = structlog.get_logger()

_START_ATTEMPTS = 60
_START_PAUSE = 0.5
#: How long a thread that plans or reads stripes keeps the loop, and so all sessions, waiting for its turn.
_SWITCH_SECONDS = 0.001
#: Objects of modules and the catalog stay: the collector need not look at them, nor as often as it is set to.
_COLLECTED = (10_000, 20, 20)


async def serve(
    services: runtime.Runtime, settings: process_settings.Settings, *, reuse_port: bool = False
) -> None:
    """Serve clients until SIGTERM or SIGINT.

    Args:
        services: a started runtime; the caller closes it.
        settings: of the process.
        reuse_port: several processes listen on the port, and the kernel spreads connections.
    """
    gateway = listener.Gateway(services, settings, run)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    port = await gateway.start(reuse_port=reuse_port)
    log.info("gateway.ready", host=settings.gateway_host, port=port)
    await stop.wait()
    log.info("gateway.stopping")
    await gateway.stop()


async def _main(settings: process_settings.Settings) -> None:
    stacks.install()
    services = await _runtime(settings)
    await _rehearse(services)
    if settings.metrics_port is not None:
        cluster = cluster_metrics.Collector(settings)
        metrics.listen(settings.metrics_host, settings.metrics_port, [cluster])
    gc.freeze()
    gc.set_threshold(*_COLLECTED)
    try:
        await serve(services, settings)
    finally:
        await services.close()


async def _rehearse(services: runtime.Runtime) -> None:
    """Do once, for nobody, what the first client would wait for."""
    try:
        await asyncio.to_thread(warmup.rehearse)
        await services.transport.rehearse()
    except Exception as error:  # without it the first query takes longer
        log.warning("gateway.not_rehearsed", error=repr(error))


async def _runtime(settings: process_settings.Settings) -> runtime.Runtime:
    """The runtime, once the coordinator is there: it may be starting too."""
    for attempt in range(_START_ATTEMPTS):
        try:
            return await runtime.create(settings)
        except errors.NodeUnavailable as error:
            if attempt == 0:
                log.warning("gateway.waiting_for_coordinator", error=str(error))
            await asyncio.sleep(_START_PAUSE)
    return await runtime.create(settings)


def main(settings: process_settings.Settings) -> None:
    """Run a gateway in this process."""
    logs.setup(settings.log_level, json=settings.log_json, process="gateway")
    arrow.without_pandas()
    warm.load()
    sys.setswitchinterval(_SWITCH_SECONDS)
    with (
        contextlib.suppress(KeyboardInterrupt),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        try:
            runner.run(_main(settings))
        except errors.OrochiError as error:
            log.error("gateway.failed", error=error.message, detail=error.detail, hint=error.hint)
            sys.exit(1)

"""What processes count for Prometheus, and the HTTP port that tells it.

Counting costs a lock and an addition, so it is always on; the port is open only where
`OROCHI_METRICS_PORT` says so. Nothing here names a table, a statement or a user.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import time
from collections.abc import Iterable, Iterator

import prometheus_client
import structlog
from prometheus_client import registry

from orochi import errors

log = structlog.get_logger()

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
#: Processes of one host take the first free of so many ports.
_PORTS = 64

STATEMENTS = prometheus_client.Histogram(
    "orochi_statement_seconds",
    "Time of statements that the gateway planned, by strategy",
    ["kind", "strategy"],
    buckets=_SECONDS,
)
KEPT_PLANS = prometheus_client.Counter(
    "orochi_kept_plan_executions",
    "Executions that went to a node by a kept plan, whose bytes were relayed; not in the histogram",
)
ERRORS = prometheus_client.Counter(
    "orochi_statement_errors", "Errors of statements, by class of SQLSTATE", ["sqlstate_class"]
)
REPLANS = prometheus_client.Counter(
    "orochi_replans", "Statements begun again because a layout that they were planned for was gone"
)
CATALOG_LOADS = prometheus_client.Counter("orochi_catalog_loads", "Catalogs that the gateway read")
FRAGMENT_SECONDS = prometheus_client.Histogram(
    "orochi_fragment_seconds", "Time of fragments in workers", ["engine"], buckets=_SECONDS
)
FRAGMENT_ROWS = prometheus_client.Counter("orochi_fragment_rows", "Rows that fragments answered", ["engine"])
FRAGMENT_BYTES = prometheus_client.Counter(
    "orochi_fragment_bytes", "Bytes that fragments answered", ["engine"]
)
STORE_REQUESTS = prometheus_client.Counter(
    "orochi_store_requests", "Requests of fragments to the object store"
)
STORE_BYTES = prometheus_client.Counter(
    "orochi_store_bytes", "Bytes that fragments fetched from the object store"
)
CLIENTS = prometheus_client.Gauge("orochi_clients", "Clients connected to the gateway")
JOB_SECONDS = prometheus_client.Histogram(
    "orochi_job_run_seconds", "Time of jobs' runs in this worker", ["kind", "outcome"], buckets=_SECONDS
)
JOB_ROWS = prometheus_client.Counter("orochi_job_rows", "Rows that jobs changed, by kind", ["kind"])
JOB_BYTES = prometheus_client.Counter("orochi_job_bytes", "Bytes that jobs changed, by kind", ["kind"])
CACHE = prometheus_client.Counter(
    "orochi_cache_lookups", "Looks for a footer or column in the process's cache", ["outcome"]
)
CACHE_HIT, CACHE_MISS = CACHE.labels("hit"), CACHE.labels("miss")

#: The strategy of the statement that the current task runs; set by whoever decides it.
strategy: contextvars.ContextVar[str] = contextvars.ContextVar("strategy", default="none")


@contextlib.contextmanager
def measured(kind: str, query_id: str) -> Iterator[None]:
    """Time a statement of a kind, and count its error; log events meanwhile tell the query's id."""
    began = time.monotonic()
    strategy.set("none")
    with structlog.contextvars.bound_contextvars(query=query_id):
        try:
            yield
        except errors.OrochiError as error:
            ERRORS.labels(error.sqlstate[:2]).inc()
            raise
        finally:
            STATEMENTS.labels(kind, strategy.get()).observe(time.monotonic() - began)


def count_fragment(engine: str, seconds: float, rows: int, size: int, requests: int, fetched: int) -> None:
    """Count an answered fragment: what it cost, and asked of the object store."""
    FRAGMENT_SECONDS.labels(engine).observe(seconds)
    FRAGMENT_ROWS.labels(engine).inc(rows)
    FRAGMENT_BYTES.labels(engine).inc(size)
    if requests:
        STORE_REQUESTS.inc(requests)
        STORE_BYTES.inc(fetched)


def listen(
    host: str, port: int, collectors: Iterable[registry.Collector] = (), *, first: int = 0
) -> int | None:
    """Tell the numbers over HTTP, from a thread; the port, None if none was free.

    Args:
        host: the address to listen on.
        port: as the settings have it.
        collectors: of numbers that are looked up when they are asked for.
        first: how far above `port` to begin; a port that is taken is passed over.
    """
    for collector in collectors:
        prometheus_client.REGISTRY.register(collector)
    for number in range(port + first, port + _PORTS):
        with contextlib.suppress(OSError):
            try:
                prometheus_client.start_http_server(number, host)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    log.warning("metrics.not_listening", port=number, error=str(error))
                    return None
                raise
            log.info("metrics.listening", host=host, port=number)
            return number
    log.warning("metrics.no_free_port", port=port)
    return None

"""Numbers of the whole cluster, looked up when Prometheus asks a gateway: queues, jobs, chunks, nodes.

What cannot be reached is left out of the answer, so that the rest is told while something is down.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import redis
import structlog
from prometheus_client import core, registry

from orochi import settings as process_settings
from orochi.executor import names

log = structlog.get_logger()

_TIMEOUT_SECONDS = 3
_JOBS = """
SELECT j.kind, count(*), count(*) FILTER (WHERE r.state = 'queued'), count(*) FILTER (WHERE r.state = 'running'),
    count(*) FILTER (WHERE j.consecutive_failures > 0), sum(j.total_successes)::int8, sum(j.total_failures)::int8,
    greatest(coalesce(extract(epoch FROM max(orochi._now() - j.next_due) FILTER (WHERE j.enabled)), 0), 0)::float8
FROM orochi.orochi_jobs j LEFT JOIN orochi.orochi_job_runs r ON r.job_id = j.job_id AND r.finished_at IS NULL
GROUP BY j.kind
"""
_CHUNKS = "SELECT tier, count(*), sum(row_count)::int8, sum(size_bytes)::int8 FROM orochi.orochi_chunks GROUP BY tier"
_NODES = "SELECT node_id, state FROM orochi.orochi_nodes"


class Collector(registry.Collector):
    """For `orochi.metrics.listen`."""

    def __init__(self, settings: process_settings.Settings) -> None:
        self._settings = settings
        self._redis = redis.Redis.from_url(
            settings.redis_url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS
        )

    def describe(self) -> list[core.Metric]:
        """Nothing beforehand: it would ask servers while the process starts."""
        return []

    def collect(self) -> Iterator[core.Metric]:
        """The numbers now."""
        node_ids: list[int] = []
        try:
            with psycopg.connect(
                self._settings.coordinator_dsn, autocommit=True, connect_timeout=_TIMEOUT_SECONDS
            ) as catalog:
                yield from _jobs(catalog)
                yield from _chunks(catalog)
                nodes = core.GaugeMetricFamily("orochi_nodes", "Nodes, by state", labels=["state"])
                states: dict[str, int] = {}
                for node_id, state in catalog.execute(_NODES).fetchall():
                    node_ids.append(int(node_id))
                    states[state] = states.get(state, 0) + 1
                for state, count in states.items():
                    nodes.add_metric([state], count)
                yield nodes
        except psycopg.Error as error:
            log.warning("metrics.no_catalog", error=str(error))
        try:
            yield from self._queues(node_ids)
        except redis.RedisError as error:
            log.warning("metrics.no_queues", error=str(error))

    def _queues(self, node_ids: list[int]) -> list[core.Metric]:
        queues = [names.MAINTENANCE_QUEUE, *names.JOB_QUEUES]
        for node_id in node_ids:
            queues += [names.fragment_queue(node_id), names.maintenance_queue(node_id)]
        pipeline = self._redis.pipeline(transaction=False)
        for queue in queues:
            pipeline.llen(queue)
            pipeline.exists(names.alive_key(queue))
        answers = pipeline.execute()
        length = core.GaugeMetricFamily("orochi_queue_length", "Tasks that wait, by queue", labels=["queue"])
        served = core.GaugeMetricFamily(
            "orochi_queue_served", "Whether a worker listens to the queue", labels=["queue"]
        )
        for queue, waiting, alive in zip(queues, answers[::2], answers[1::2], strict=True):
            length.add_metric([queue], int(waiting))
            served.add_metric([queue], int(bool(alive)))
        return [length, served]


def _jobs(catalog: psycopg.Connection[tuple[object, ...]]) -> Iterator[core.Metric]:
    jobs = core.GaugeMetricFamily("orochi_jobs", "Jobs, by kind", labels=["kind"])
    runs = core.GaugeMetricFamily("orochi_job_runs_unfinished", "Runs, by state", labels=["kind", "state"])
    failing = core.GaugeMetricFamily("orochi_jobs_failing", "Jobs whose last run failed", labels=["kind"])
    done = core.CounterMetricFamily(
        "orochi_job_runs", "Runs of the jobs there are", labels=["kind", "outcome"]
    )
    late = core.GaugeMetricFamily(
        "orochi_job_lateness_seconds", "How long the latest job has been due", labels=["kind"]
    )
    for kind, count, queued, running, failed, successes, failures, seconds in catalog.execute(_JOBS):
        label = str(kind)
        for family, value in ((jobs, count), (failing, failed), (late, seconds)):
            family.add_metric([label], float(str(value)))
        for state, value in (("queued", queued), ("running", running)):
            runs.add_metric([label, state], float(str(value)))
        for outcome, value in (("succeeded", successes), ("failed", failures)):
            done.add_metric([label, outcome], float(str(value)))
    yield from (jobs, runs, failing, done, late)


def _chunks(catalog: psycopg.Connection[tuple[object, ...]]) -> Iterator[core.Metric]:
    families = [
        core.GaugeMetricFamily(f"orochi_chunk_{what}", f"Chunks' {what}, by tier", labels=["tier"])
        for what in ("count", "rows", "bytes")
    ]
    for tier, *values in catalog.execute(_CHUNKS):
        for family, value in zip(families, values, strict=True):
            family.add_metric([str(tier)], float(str(value)))
    yield from families

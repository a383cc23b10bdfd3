"""The Celery app of all workers and of beat: settings chosen by measured faults, and the list of tasks.

Messages are JSON and nothing else; a message of another content type is refused and the worker
stays up. A task is acknowledged after it ran, and gateways do not rely on redelivery: they watch
leases and send again themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import celery
from celery import signals
from kombu import entity

import beat_schedule
from orochi import logs, metrics, settings
from orochi.executor import names
from workers import watchdog

Function = TypeVar("Function", bound=Callable[..., None])

_SETTINGS = settings.get()


def queues_of(node_id: int | None) -> tuple[entity.Queue, ...]:
    """The queues a node's workers may listen to."""
    named: tuple[str, ...] = (names.MAINTENANCE_QUEUE, *names.JOB_QUEUES)
    if node_id is not None:
        named = (names.fragment_queue(node_id), names.maintenance_queue(node_id), *named)
    return tuple(_queue(name) for name in named)


def _queue(name: str) -> entity.Queue:
    return entity.Queue(name)  # type: ignore[no-untyped-call]


app = celery.Celery("orochi", broker=_SETTINGS.redis_url)
app.conf.update(
    include=[
        "workers.compression",
        "workers.fragments",
        "workers.jobs",
        "workers.rebalancing",
        "workers.recovery",
        "workers.stats",
        "workers.tiering",
    ],
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    result_accept_content=["json"],
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    task_acks_late=True,
    task_track_started=True,
    task_default_queue=names.MAINTENANCE_QUEUE,
    task_queues=queues_of(_SETTINGS.node_id),
    task_create_missing_queues=False,
    task_send_sent_event=True,
    worker_consumer="workers.consuming:Consumer",
    worker_send_task_events=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    worker_enable_remote_control=True,
    worker_soft_shutdown_timeout=5.0,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        # longer than any task may run, as one that outlives it would be run twice at a time
        "visibility_timeout": 2 * _SETTINGS.fragment_timeout,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "socket_timeout": 10,
        "socket_keepalive": True,
        "health_check_interval": 10,
    },
    event_queue_expires=60,
    control_queue_expires=60,
    timezone="UTC",
    enable_utc=True,
    beat_schedule=beat_schedule.SCHEDULE,
    beat_max_loop_interval=5,
)


def task(name: str, *, shown: bool = True) -> Callable[[Function], Function]:
    """Register a function as the task of that name; Flower hears nothing of one that is not `shown`."""
    register: Callable[[Function], Function] = app.task(name=name, send_events=shown)
    return register


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _set_up_logging(**_: Any) -> None:
    logs.setup(_SETTINGS.log_level, json=_SETTINGS.log_json, process=f"worker.{_SETTINGS.node_id}")
    for chatty in (
        "celery.worker.strategy",
        "celery.app.trace",
        "celery.beat",
    ):  # two lines a task; Flower shows them
        logging.getLogger(chatty).setLevel(logging.WARNING)


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _take_seat(sender: Any, **_: Any) -> None:
    """Beat for the queues this worker consumes, and tell the supervisor that it is ready."""
    from orochi.executor import serving  # beat and Flower need this app, but not the engine

    consumed = tuple(sorted(queue.name for queue in sender.task_consumer.queues))
    serving.seat(consumed)
    if _SETTINGS.metrics_port is not None:
        metrics.listen(_SETTINGS.metrics_host, _SETTINGS.metrics_port, first=1)

    def listening() -> tuple[str, ...]:
        consumer = sender.task_consumer  # another one, or none, after a loss of the broker
        return consumed if consumer is None else tuple(queue.name for queue in tuple(consumer.queues))

    watchdog.start(_SETTINGS.redis_url, listening)
    if _SETTINGS.ready_file is not None:
        _SETTINGS.ready_file.touch()

"""The gateway's connection to Redis: quick to say it is down, quick to come back.

Every call is tried again for a few seconds while Redis restarts, then `QueueUnavailable` is raised;
the next call connects afresh. Calls must therefore be harmless when they run twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import redis.asyncio as redis
from redis import backoff, exceptions
from redis.asyncio import retry

from orochi import errors

_Result = TypeVar("_Result")

_CONNECT_SECONDS = 2.0
_SOCKET_SECONDS = 5.0
_PAUSE_SECONDS = 0.1
#: Items taken beside the first, in the same round trip.
_MORE = 32
#: What means that Redis is not there, as opposed to refusing a command.
_DOWN = (exceptions.ConnectionError, exceptions.TimeoutError, OSError)

#: Patience of a call outside and inside a running query.
FIRST_SECONDS, RUNNING_SECONDS = 3.0, 6.0


class RedisLink:
    """A pool of connections and the rule above."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(
            url,
            socket_connect_timeout=_CONNECT_SECONDS,
            socket_timeout=_SOCKET_SECONDS,
            retry=retry.Retry(backoff.NoBackoff(), 0),
            max_connections=1_000,
        )
        self.failures = 0

    async def call(
        self, operation: Callable[[redis.Redis], Awaitable[_Result]], patience: float = FIRST_SECONDS
    ) -> _Result:
        """The result of `operation(client)`.

        Raises:
            QueueUnavailable: Redis did not answer within `patience` seconds, or refused.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                return await operation(self._client)
            except _DOWN as error:
                self.failures += 1
                if time.monotonic() >= deadline:
                    raise errors.QueueUnavailable(f"Redis cannot be reached: {error}") from error
            except exceptions.RedisError as error:
                raise errors.QueueUnavailable(f"Redis refused a command: {error}") from error
            await asyncio.sleep(_PAUSE_SECONDS)

    async def push(self, queues: dict[str, list[str]], keys: dict[str, int], patience: float) -> None:
        """Set `keys` (with their TTLs in seconds) and append messages to queues, in one round trip."""

        async def operation(client: redis.Redis) -> None:
            pipeline = client.pipeline(transaction=False)
            for key, ttl in keys.items():
                pipeline.set(key, b"1", ex=ttl)
            for queue, messages in queues.items():
                pipeline.lpush(queue, *messages)
            await pipeline.execute()

        await self.call(operation, patience)

    async def pop(self, key: str, seconds: float, patience: float) -> list[bytes]:
        """The items of a list, oldest first, waiting up to `seconds` for the first."""

        async def operation(client: redis.Redis) -> Any:
            pipeline = client.pipeline(transaction=False)
            pipeline.blpop([key], timeout=seconds)
            pipeline.lpop(key, _MORE)
            return await pipeline.execute()

        first, more = await self.call(operation, patience)
        return [] if first is None else [first[1], *(more or ())]

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

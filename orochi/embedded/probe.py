"""Just enough HTTP for a health check, so that the supervisor needs no client library."""

from __future__ import annotations

import asyncio
import base64
import contextlib

from orochi.embedded import ports


async def status(port: int, path: str, credentials: str | None = None) -> int | None:
    """The status code of a GET on loopback, or None if nobody answers.

    Args:
        port: where.
        path: what.
        credentials: `user:password` for basic authentication.
    """
    headers = f"GET {path} HTTP/1.0\r\nHost: {ports.LOOPBACK}:{port}\r\nConnection: close\r\n"
    if credentials is not None:
        headers += f"Authorization: Basic {base64.b64encode(credentials.encode()).decode()}\r\n"
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(ports.LOOPBACK, port), 2)
    except (OSError, TimeoutError):
        return None
    try:
        writer.write(f"{headers}\r\n".encode())
        words = (await asyncio.wait_for(reader.readline(), 5)).split()
        return int(words[1])
    except (OSError, TimeoutError, IndexError, ValueError):
        return None
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

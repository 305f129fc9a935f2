"""The app that the benchmark's workers run."""

from __future__ import annotations

import os
import time

import anyio
import redis

from reclaimd.streams import Reclaimd
from reclaimd.streams.context import Context

app = Reclaimd()


@app.task(queue="bench")
async def noop() -> None:
    """Does nothing."""


@app.task(queue="bench", timeout=None)
async def hold(diary: str, ctx: Context) -> None:
    """Says when it starts, and stays the first time; when it comes back it says so and ends."""
    started = time.time()
    with redis.Redis.from_url(app.config.redis_url, legacy_responses=False) as client:
        client.rpush(diary, f"{started!r} {os.getpid()} {ctx.worker}")
    if ctx.deliveries == 0:
        await anyio.sleep(3600)

"""The drill's app. Each run leaves an entry in a stream beside the queue, so that the count rests on nothing else.

The stream has a hash tag of its own in the scratch namespace: it outlives the flush.
"""

import os
import time
from functools import cache

import anyio

from reclaimd.streams import Context, Reclaimd
from reclaimd.streams.redis_log import AsyncClient, connect

app = Reclaimd()


def effects_key(namespace: str) -> str:
    """The stream of what the tasks did."""
    return f"{{{namespace}-effects}}:diary"


@cache
def _client(_pid: int) -> AsyncClient:
    return connect(app.config.redis_url, single=False)


async def _note(what: str, ctx: Context) -> None:
    pid = os.getpid()
    fields = {"what": what, "task": ctx.task_id, "worker": ctx.worker, "pid": pid, "at": f"{time.time():.6f}"}
    await _client(pid).xadd(effects_key(app.config.namespace), fields)  # type: ignore[arg-type]


@app.task(queue="demo", timeout=60)
async def beat(ctx: Context) -> None:
    """What the schedule runs."""
    await _note("beat", ctx)


@app.task(queue="demo", timeout=60)
async def step(seconds: float, ctx: Context) -> None:
    """Take that long."""
    await _note("began", ctx)
    await anyio.sleep(seconds)
    await _note("ended", ctx)

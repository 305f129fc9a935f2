"""The demo's app. Each run leaves a line in a file: the count at the end does not rest on reclaimd's own word."""

import os
import time
from pathlib import Path

import anyio

from reclaimd.streams import Context, Reclaimd

DIARY = "RECLAIMD_INTERNAL_DEMO_DIARY"
END_OF_NOTE = "."
"""A line without it is being written, or its writer was killed in the middle of it."""

app = Reclaimd()


def _note(what: str, ctx: Context) -> None:
    # On a line of its own even if the one before was never finished.
    line = f"\n{what} {ctx.task_id} {ctx.worker} {os.getpid()} {time.time():.6f} {END_OF_NOTE}\n"
    with Path(os.environ[DIARY]).open("a", encoding="ascii") as diary:
        diary.write(line)


@app.task(queue="demo", timeout=60)
async def beat(ctx: Context) -> None:
    """What the schedule runs."""
    _note("beat", ctx)


@app.task(queue="demo", timeout=60)
async def step(seconds: float, ctx: Context) -> None:
    """Take that long."""
    _note("began", ctx)
    await anyio.sleep(seconds)
    _note("ended", ctx)

"""The app that worker processes run in tests: each task behaves in one way, and says so in a journal.

`TASK_FOLDER` holds the journal and the gates. A gate is a file that a handler waits for: a test opens it instead of
guessing how long a handler should take.
"""

import asyncio
import ctypes
import json
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

from reclaimd.streams.app import Reclaimd
from reclaimd.streams.context import Context
from reclaimd.streams.policy import Retry

app = Reclaimd()
FOLDER = Path(os.environ.get("TASK_FOLDER", "."))
JOURNAL = "journal"
_LOOK_EVERY = 0.005
_FAST = Retry(attempts=2, delay=0.01)


def say(what: str, ctx: Context, **more: Any) -> None:
    """One line of the journal. `at` is the kernel's monotonic clock, the same for all processes of this machine."""
    line = {"what": what, "task": ctx.task_id, "token": ctx.token, "worker": ctx.worker, "pid": os.getpid()}
    text = json.dumps({**line, "at": time.monotonic(), **more}) + "\n"
    with (FOLDER / JOURNAL).open("ab", buffering=0) as journal:
        journal.write(text.encode())


def is_open(gate: str) -> bool:
    """Whether a test has opened the gate."""
    return (FOLDER / gate).exists()


@app.task(queue="mail")
async def noop(n: int = 0) -> int:
    return n


@app.task(queue="mail")
async def note(n: int, ctx: Context) -> None:
    say("note", ctx, n=n)


@app.task(queue="mail")
async def tell(ctx: Context) -> None:
    """What the context says."""
    said = {name: getattr(ctx, name) for name in ("name", "queue", "attempt", "deliveries", "cancelled")}
    left = None if ctx.deadline is None else ctx.deadline - asyncio.get_running_loop().time()
    say("context", ctx, left=left, thread=threading.current_thread() is threading.main_thread(), **said)


@app.task(queue="mail", timeout=None)
def tell_sync(ctx: Context) -> None:
    main = threading.current_thread() is threading.main_thread()
    say("context", ctx, deadline=ctx.deadline, thread=main)


@app.task(queue="mail")
async def hold(gate: str, ctx: Context) -> None:
    """Runs until the gate opens."""
    say("start", ctx, gate=gate)
    try:
        while not is_open(gate):
            await asyncio.sleep(_LOOK_EVERY)
    except asyncio.CancelledError:
        say("cancelled", ctx, gate=gate)
        raise
    say("end", ctx, gate=gate)


@app.task(queue="mail")
def hold_sync(gate: str, ctx: Context) -> None:
    """The same in a thread; looks at the flag as a good handler does."""
    say("start", ctx, gate=gate)
    while not is_open(gate):
        if ctx.cancelled:
            say("cancelled", ctx, gate=gate)
            return
        time.sleep(_LOOK_EVERY)
    say("end", ctx, gate=gate)


@app.task(queue="mail", timeout=0.3, retry=_FAST)
def deaf_sync(gate: str, ctx: Context) -> None:
    """The same, but it never looks at the flag."""
    say("start", ctx, gate=gate)
    while not is_open(gate):
        time.sleep(_LOOK_EVERY)
    say("end", ctx, gate=gate)


@app.task(queue="mail", timeout=None)
def deaf_sync_for_ever(gate: str, ctx: Context) -> None:
    say("start", ctx, gate=gate)
    while not is_open(gate):
        say("alive", ctx)
        time.sleep(_LOOK_EVERY)


@app.task(queue="mail", timeout=0.3, retry=1)
async def deaf_async(gate: str, ctx: Context) -> None:
    """Swallows every cancellation."""
    say("start", ctx, gate=gate)
    while not is_open(gate):
        try:
            await asyncio.sleep(_LOOK_EVERY)
        except asyncio.CancelledError:
            continue
    say("end", ctx, gate=gate)


@app.task(queue="mail", retry=_FAST)
async def raises(text: str) -> None:
    raise ValueError(text)


@app.task(queue="mail", retry=Retry(attempts=5, delay=0.01, never=(KeyError,)))
def raises_what_is_never_retried() -> None:
    raise KeyError("gone")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@app.task(queue="mail", retry=1)
async def raises_unprintable() -> None:
    raise Unprintable


@app.task(queue="mail", retry=1)
async def raises_surrogates() -> None:
    raise ValueError(os.fsdecode(b"caf\xe9"))


@app.task(queue="mail", retry=1)
async def raises_cancelled() -> None:
    raise asyncio.CancelledError


@app.task(queue="mail", timeout=0.2, retry=_FAST)
async def hangs() -> None:
    await asyncio.Event().wait()


@app.task(queue="mail", timeout=0.2, retry=1)
def hangs_until_told(ctx: Context) -> None:
    while not ctx.cancelled:
        time.sleep(_LOOK_EVERY)
    say("told", ctx)


@app.task(queue="mail", timeout=0.2, retry=1)
async def blocks_the_loop(gate: str, ctx: Context) -> None:
    say("start", ctx)
    while not is_open(gate):
        time.sleep(_LOOK_EVERY)


@app.task(queue="mail")
def holds_the_interpreter(ctx: Context) -> None:
    """The first time, for longer than anybody waits: a regular expression with two ways for each letter."""
    say("start", ctx)
    if not ctx.deliveries:
        re.match("(a|a)+$", "a" * 200 + "b")
    say("end", ctx)


@app.task(queue="mail")
async def returns_an_object() -> Any:
    return object()


@app.task(queue="mail")
async def returns_itself() -> Any:
    result: list[Any] = []
    result.append(result)
    return result


@app.task(queue="mail")
async def exits(code: int, ctx: Context) -> None:
    say("start", ctx)
    sys.exit(code)


@app.task(queue="mail")
def exits_in_a_thread(code: int, ctx: Context) -> None:
    say("start", ctx)
    sys.exit(code)


@app.task(queue="mail")
async def exits_hard(code: int, ctx: Context) -> None:
    say("start", ctx)
    os._exit(code)


@app.task(queue="mail")
async def exits_in_a_subtask(code: int, ctx: Context) -> None:
    say("start", ctx)

    async def leave() -> None:
        sys.exit(code)

    await asyncio.create_task(leave())


@app.task(queue="mail")
async def aborts(ctx: Context) -> None:
    say("start", ctx)
    os.abort()


@app.task(queue="mail")
def crashes(ctx: Context) -> None:
    say("start", ctx)
    ctypes.string_at(0)


@app.task(queue="mail")
async def spawns(count: int) -> None:
    """Enqueues more through the app that runs it."""
    await app.enqueue_many([note.call(n) for n in range(count)])


@app.task(queue="mail")
def spawns_sync(count: int) -> None:
    app.enqueue_many_sync([note.call(n) for n in range(count)])


@app.task(queue="side")
async def aside(n: int, ctx: Context) -> None:
    say("note", ctx, n=n)


@app.task(queue="mail")
async def typed(n: int, name: str = "x") -> None:
    return None


@app.task(queue="mail")
async def anything(value: Any) -> None:
    return None


@app.task(queue="mail", timeout=30, retry=Retry(attempts=3, delay=0.05))
async def work(ms: int, fails: bool, ctx: Context) -> None:
    """A task of the long chaos run."""
    say("start", ctx)
    try:
        await asyncio.sleep(ms / 1000)
        if fails and ctx.attempt < 2:
            raise ValueError("as told")
    finally:
        say("end", ctx)


@app.task(queue="mail", timeout=30)
def work_sync(ms: int, ctx: Context) -> None:
    say("start", ctx)
    until = time.monotonic() + ms / 1000
    while time.monotonic() < until and not ctx.cancelled:
        time.sleep(_LOOK_EVERY)
    say("end", ctx)

"""From parsed flags to a command's work: settings, connection, event loop, exit code."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import anyio

from reclaimd.daemon.cli import INTERRUPTED
from reclaimd.daemon.cli.flags import Flags
from reclaimd.daemon.cli.output import Output
from reclaimd.daemon.inspect.source import Source, open_source

DONE = 0
PROBLEM = 1

Work = Callable[[Source, Output], Awaitable[int]]


def run(flags: Flags, work: Work) -> int:
    """Do the work of a command with a connection to Redis; returns its exit code."""
    settings = flags.settings()

    async def connected(out: Output) -> int:
        async with open_source(settings) as source:
            return await work(source, out)

    return run_alone(flags, connected)


def run_alone(flags: Flags, work: Callable[[Output], Awaitable[int]]) -> int:
    """The same for one that connects by itself, or to nothing."""
    out = Output(flags.json)

    async def interruptible() -> int:
        code = INTERRUPTED
        with ended_by_ctrl_c():
            code = await work(out)
        return code  # noqa: RET504  (who is interrupted leaves the block too)

    return anyio.run(interruptible)


@contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """Ctrl-C cancels the block, again and again until it ends; a second Ctrl-C is a KeyboardInterrupt.

    asyncio makes one cancellation of it, and that one can get lost: a task that is cancelled while it runs, and then
    begins an `asyncio.timeout(0)`, as the client library does, takes it for the end of that timeout.
    """
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGINT)
    with anyio.CancelScope() as scope:

        def interrupt(*_: object) -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            loop.call_soon_threadsafe(scope.cancel)

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

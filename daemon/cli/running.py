"""From parsed flags to a command's work: settings, connection, event loop, exit code."""

from collections.abc import Awaitable, Callable

import anyio

from reclaimd.daemon.cli.flags import Flags
from reclaimd.daemon.cli.output import Output
from reclaimd.daemon.inspect.source import Source, open_source

DONE = 0
PROBLEM = 1

Work = Callable[[Source, Output], Awaitable[int]]


def run(flags: Flags, work: Work) -> int:
    """Do the work of a command with a connection to Redis; returns its exit code."""
    settings = flags.settings()
    out = Output(flags.json)

    async def connected() -> int:
        async with open_source(settings) as source:
            return await work(source, out)

    return anyio.run(connected)

"""The daemon's own pulse: how late its event loop runs, and a sign of life for systemd's watchdog."""

import time

import anyio

from reclaimd.daemon.loops.shell import Context
from reclaimd.daemon.sd_notify import notify, watchdog_seconds

PERIOD = 0.5


async def measure_lag(context: Context) -> None:
    """Observe, until cancelled, how much later than asked a timer fires."""
    while True:
        due = time.monotonic() + PERIOD
        await anyio.sleep(PERIOD)
        context.instruments.loop_lag.observe(max(0.0, time.monotonic() - due))


async def feed_watchdog(context: Context) -> None:
    """Tell systemd, twice in each period that it asked for, that no loop hangs. Ends at once when it asked for none."""
    period = watchdog_seconds()
    while period is not None:
        if not context.health.stalls():
            notify("WATCHDOG=1")
        await anyio.sleep(period / 2)

"""What all loops share: report each step, back off after a failure, wait for Redis, sleep until there is cause."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from reclaimd.daemon.connectivity import Connectivity, is_server_wide
from reclaimd.daemon.health import Health
from reclaimd.daemon.links import Links
from reclaimd.daemon.loops.alarm import Alarm
from reclaimd.daemon.stolen import Stolen
from reclaimd.metrics.instruments import Instruments
from reclaimd.streams.logs import get_logger
from reclaimd.streams.settings import Settings

FIRST_BACKOFF = 0.1
LONGEST_BACKOFF = 5.0
LONGEST_WAIT = 5.0
"""A loop that waits for Redis shows at least this often that it is alive."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Context:
    """What every loop works with."""

    settings: Settings
    links: Links
    connectivity: Connectivity
    health: Health
    instruments: Instruments
    stolen: Stolen = field(default_factory=Stolen)


@dataclass(eq=False)
class Loop:
    """Repeats `step`, which returns the seconds to sleep before the next one. `queue`: empty for loops over all.

    What goes wrong in a step concerns this loop alone: it is logged when it begins, changes and ends, counted each
    time, and makes the daemon not ready. `error` is what it failed with, until a step succeeds; `waiting`: Redis is
    away.
    """

    name: str
    queue: str
    step: Callable[[], Awaitable[float]]
    context: Context
    alarm: Alarm = field(default_factory=Alarm)
    stall_after: float | None = None
    error: Exception | None = None
    waiting: bool = False
    _backoff: float = FIRST_BACKOFF

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.alarm.forget()
            await self.alarm.sleep(await self.once())

    async def insist(self, step: Callable[[], Awaitable[float]]) -> bool:
        """Do this step, waiting for Redis for as long as it takes; False when it failed for another reason."""
        await self.once(step)
        while self.waiting:
            await self.once(step)
        return self.error is None

    async def once(self, step: Callable[[], Awaitable[float]] | None = None) -> float:
        """One step, and the report of it. Returns the seconds to sleep; raises nothing that a step can fail with."""
        self.context.health.expect(self.name, self.queue, stall_after=self.stall_after)
        try:
            pause = await (step or self.step)()
        except Exception as error:  # noqa: BLE001  (the boundary of a loop: reported below, the other loops go on)
            return await self._failed(error)
        self._succeeded()
        return pause

    async def _failed(self, error: Exception) -> float:
        self.context.instruments.loop_errors.labels(self.name).inc()
        if is_server_wide(error) or self.context.connectivity.error is not None:
            # Whoever probes the connection reports it, once for all loops.
            self.waiting = True
            self.context.health.progress(self.name, self.queue)
            with anyio.move_on_after(LONGEST_WAIT):
                await self.context.connectivity.until_up()
            return 0.0
        if self.error is None or str(error) != str(self.error):
            log.error("loop failed", loop=self.name, queue=self.queue, error=_text(error), exc_info=_unexpected(error))
        self.error, self.waiting = error, False
        self.context.health.failed(self.name, self.queue, error)
        pause, self._backoff = self._backoff, min(self._backoff * 2, LONGEST_BACKOFF)
        return pause

    def _succeeded(self) -> None:
        if self.error is not None:
            log.info("loop works again", loop=self.name, queue=self.queue)
        self.error, self.waiting = None, False
        self._backoff = FIRST_BACKOFF
        self.context.instruments.loop_steps.labels(self.name).inc()
        self.context.health.ok(self.name, self.queue)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _unexpected(error: Exception) -> Exception | None:
    """A traceback is for programming errors; what a server or an operator did needs none."""
    return error if isinstance(error, LookupError | TypeError | AttributeError | AssertionError) else None

"""A sleep that can be cut short."""

import math
import time
from collections.abc import Callable

import anyio


class Alarm:
    """Rings at the earliest instant that anybody asked for. `clock`: monotonic seconds.

    What is asked for while nobody sleeps, in the middle of a step, counts for the next sleep.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = math.inf
        self._changed = anyio.Event()

    def ring_at(self, instant: float) -> None:
        """End the sleep at this instant, if it would last longer."""
        if instant < self._at:
            self._at = instant
            self._changed.set()

    def ring_within(self, seconds: float) -> None:
        """The same, from now."""
        self.ring_at(self._clock() + seconds)

    def forget(self) -> None:
        """What was asked for until now is about to be done."""
        self._at = math.inf

    async def sleep(self, seconds: float) -> None:
        """At most this long; other tasks get their turn even when it is nothing."""
        self.ring_within(seconds)
        await anyio.lowlevel.checkpoint()
        while (left := self._at - self._clock()) > 0:
            self._changed = anyio.Event()
            with anyio.move_on_after(left):
                await self._changed.wait()

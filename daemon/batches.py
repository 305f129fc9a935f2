"""Long work in calls that are short enough for everybody else on the server, and close enough to keep it at work."""

import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

import anyio

from reclaimd.daemon.stolen import Stolen

SMALLEST_BATCH: Final = 16
TOO_SLOW_MS: Final = 8.0
FAST_MS: Final = 4.0
STEP_SECONDS: Final = 1.0
"""How long one action may go on before its partition is looked at anew: due tasks must not wait for a long reclaim."""
IN_FLIGHT: Final = 2
"""Calls on their way at once: the server works on one while the reply of the other is read here."""

Batch = Callable[[int], Awaitable[tuple[int, bool]]]
"""Moves up to so many entries; returns how many it moved, and whether there is more."""


class BatchSize:
    """How many entries the next call may move, so that it blocks the server for about five milliseconds.

    Only the round trip is seen from here. `idle_ms`, what a cheap call takes, stands for the part of it that is not the
    batch's: to a server that is 20 ms away every call looks slow, and no batch could be small enough.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._least = min(SMALLEST_BATCH, most)
        self.size = min(most, 4 * SMALLEST_BATCH)
        self._slow = False

    def took(self, ms: float, moved: int, idle_ms: float = 0.0) -> None:
        """Learn from a call that moved `moved` entries in `ms` milliseconds."""
        spent = max(0.0, ms - idle_ms)
        slow = spent > TOO_SLOW_MS
        # One slow call is a process that was not scheduled, here or there; two are a batch that is too large.
        if slow and self._slow:
            self.size = max(self._least, self.size // 2)
        self._slow = slow
        if spent < FAST_MS and moved >= self.size:
            self.size = min(self._most, self.size + self.size // 2 + 1)


class Pace:
    """Sends batches and learns from the time that the server takes for them."""

    def __init__(self, stolen: Stolen, clock: Callable[[], float], alive: Callable[[], None]) -> None:
        self._stolen = stolen
        self._clock = clock
        self._alive = alive
        self._idle_ms = 0.0
        self._replied = 0.0

    def saw_round_trip(self, ms: float) -> None:
        """A cheap call took `ms`: what any call takes here and now."""
        self._idle_ms = self._idle_ms * 0.7 + ms * 0.3 if self._idle_ms else ms

    async def repeat(self, size: BatchSize, batch: Batch) -> bool:
        """Repeat while there is more and time is left; returns whether there is more.

        The first call goes alone: mostly it is the only one. Raises the error of the first that fails.
        """
        until = self._clock() + STEP_SECONDS
        more = await self._once(size, batch)

        async def go_on() -> None:
            nonlocal more
            while more and self._clock() < until:
                more = await self._once(size, batch)

        if more:
            await _together(go_on)
        return more

    async def _once(self, size: BatchSize, batch: Batch) -> bool:
        with self.stopwatch() as watch:
            moved, more = await batch(size.size)
        size.took(watch.ms, moved, self._idle_ms)
        self._alive()
        return more

    @contextmanager
    def stopwatch(self) -> Iterator["Stopwatch"]:
        """Measures a call as the server makes it: not what stood in front of it, nor how late its reply was read."""
        watch = Stopwatch()
        sent, stolen = time.perf_counter(), self._stolen.seconds
        yield watch
        now = time.perf_counter()
        watch.ms = max(0.0, now - max(sent, self._replied) - (self._stolen.seconds - stolen)) * 1000
        self._replied = now


class Stopwatch:
    """Milliseconds, known at the end of its block."""

    ms = 0.0


async def _together(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        async with anyio.create_task_group() as group:
            for _ in range(IN_FLIGHT):
                group.start_soon(work)
    except BaseExceptionGroup as errors:
        raise first_of(errors) from None


def first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a task group, out of however many groups."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

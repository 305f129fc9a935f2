"""Carries out what a plan decided, in batches that keep the server responsive for everybody else."""

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, assert_never

import msgspec
import redis

from reclaimd.daemon.actions import Action, Cleanup, Promote, Reclaim, Retain, Ring
from reclaimd.daemon.connectivity import is_server_wide
from reclaimd.daemon.links import Send
from reclaimd.daemon.stolen import Stolen
from reclaimd.streams import scripts
from reclaimd.streams.errors import ReclaimdError
from reclaimd.streams.keys import Partition

SMALLEST_BATCH: Final = 16
TOO_SLOW_MS: Final = 8.0
FAST_MS: Final = 4.0
RETAIN_ROUND: Final = 10_000
"""What one `retain` call drops at most of each kind."""
STEP_SECONDS: Final = 1.0
"""How long one action may go on before its partition is looked at anew: due tasks must not wait for a long reclaim."""


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


class Outcome(msgspec.Struct, frozen=True):
    """What came of a plan. `unfinished`: an action stopped at its time limit, so the next look should be at once."""

    moved: int = 0
    workers: int = 0
    promoted: int = 0
    rung: bool = False
    dropped_dead: int = 0
    dropped_events: int = 0
    forgotten: tuple[str, ...] = ()
    unfinished: bool = False


class Stopwatch:
    """Milliseconds, known at the end of its block."""

    ms = 0.0


class Executor:
    """Carries out the actions of one partition. `send` sends a script call; `alive` is called after each batch."""

    def __init__(
        self,
        partition: Partition,
        send: Send,
        batch_max: int,
        *,
        alive: Callable[[], None] = lambda: None,
        stolen: Stolen | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._partition = partition
        self._send = send
        self._alive = alive
        self._stolen = stolen or Stolen()
        self._clock = clock
        self._reclaims = BatchSize(batch_max)
        self._promotes = BatchSize(batch_max)
        self._idle_ms = 0.0

    @contextmanager
    def stopwatch(self) -> Iterator["Stopwatch"]:
        """Measures a round trip as the server makes it, without what this process was late to take up the reply."""
        watch = Stopwatch()
        began, stolen = time.perf_counter(), self._stolen.seconds
        yield watch
        watch.ms = max(0.0, time.perf_counter() - began - (self._stolen.seconds - stolen)) * 1000

    def saw_round_trip(self, ms: float) -> None:
        """A cheap call took `ms`: what any call takes here and now, on this network and beside this load."""
        self._idle_ms = self._idle_ms * 0.7 + ms * 0.3 if self._idle_ms else ms

    async def execute(self, actions: tuple[Action, ...]) -> Outcome:
        """Carry them out in their order; each is safe to repeat.

        One that fails does not keep the others from being tried: a broken key of one kind must not stop the rest. Then
        raises the first error.
        """
        outcome, errors = Outcome(), list[Exception]()
        for action in actions:
            try:
                outcome = await self._one(action, outcome)
            except (ReclaimdError, redis.ResponseError) as error:
                if is_server_wide(error):
                    raise
                errors.append(error)
        if errors:
            raise errors[0]
        return outcome

    async def _one(self, action: Action, so_far: Outcome) -> Outcome:
        match action:
            case Reclaim():
                return await self._reclaim(action, so_far)
            case Promote():
                return await self._promote(so_far)
            case Ring():
                await self._send(scripts.ring(self._partition))
                return msgspec.structs.replace(so_far, rung=True)
            case Retain():
                return await self._retain(action, so_far)
            case Cleanup():
                cleaned = await self._send(scripts.cleanup(self._partition, older_than_ms=action.older_than_ms))
                return msgspec.structs.replace(so_far, forgotten=tuple(cleaned.workers))
            case _:
                assert_never(action)

    async def _reclaim(self, action: Reclaim, so_far: Outcome) -> Outcome:
        moved, workers, unknown = 0, 0, action.unknown

        async def batch(limit: int) -> tuple[int, bool]:
            nonlocal moved, workers, unknown
            reclaimed = await self._send(scripts.reclaim(self._partition, limit=limit, unknown=unknown))
            unknown = False
            moved, workers = moved + reclaimed.moved, max(workers, reclaimed.workers)
            return reclaimed.moved, reclaimed.more

        more = await self._in_batches(self._reclaims, batch)
        return msgspec.structs.replace(so_far, moved=moved, workers=workers, unfinished=so_far.unfinished or more)

    async def _promote(self, so_far: Outcome) -> Outcome:
        promoted = 0

        async def batch(limit: int) -> tuple[int, bool]:
            nonlocal promoted
            reply = await self._send(scripts.promote(self._partition, limit=limit))
            promoted += reply.promoted
            return reply.promoted, reply.more

        more = await self._in_batches(self._promotes, batch)
        return msgspec.structs.replace(so_far, promoted=promoted, unfinished=so_far.unfinished or more)

    async def _in_batches(self, size: BatchSize, batch: Callable[[int], Awaitable[tuple[int, bool]]]) -> bool:
        """Repeat while there is more and time is left; returns whether there is more."""
        until = self._clock() + STEP_SECONDS
        more = True
        while more and self._clock() < until:
            with self.stopwatch() as watch:
                moved, more = await batch(size.size)
            size.took(watch.ms, moved, self._idle_ms)
            self._alive()
        return more

    async def _retain(self, action: Retain, so_far: Outcome) -> Outcome:
        limits = scripts.Limits(action.dead_age_ms, action.dead_max, action.events_age_ms, action.events_max)
        dead = events = 0
        until = self._clock() + STEP_SECONDS
        full = True
        while full and self._clock() < until:
            letters, batches = await self._send(scripts.retain(self._partition, limits))
            dead, events = dead + letters, events + batches
            full = max(letters, batches) >= RETAIN_ROUND
            self._alive()
        return msgspec.structs.replace(so_far, dropped_dead=dead, dropped_events=events)

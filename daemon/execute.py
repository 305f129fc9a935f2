"""Carries out what a plan decided."""

import time
from collections.abc import Callable
from typing import Final, assert_never

import msgspec
import redis

from reclaimd.daemon.actions import Action, Cleanup, Promote, Reclaim, Retain, Ring
from reclaimd.daemon.batches import STEP_SECONDS, BatchSize, Pace
from reclaimd.daemon.connectivity import is_server_wide
from reclaimd.daemon.links import Send
from reclaimd.daemon.stolen import Stolen
from reclaimd.streams import scripts
from reclaimd.streams.errors import ReclaimdError
from reclaimd.streams.keys import Partition

RETAIN_ROUND: Final = 10_000
"""What one `retain` call drops at most of each kind."""


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


class Executor:
    """Carries out the actions of one partition. `send` sends a script call; `alive` is called after each batch.

    `archived`: entry ID up to which events are archived, and may be trimmed; empty when there is no archive. `pace`
    learns from the time that calls take, those of its owner too.
    """

    def __init__(
        self,
        partition: Partition,
        send: Send,
        batch_max: int,
        *,
        alive: Callable[[], None] = lambda: None,
        archived: Callable[[], str] = lambda: "",
        stolen: Stolen | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._partition = partition
        self._send = send
        self._alive = alive
        self._archived = archived
        self._clock = clock
        self.pace = Pace(stolen or Stolen(), clock, alive)
        self._reclaims = BatchSize(batch_max)
        self._promotes = BatchSize(batch_max)

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

        more = await self.pace.repeat(self._reclaims, batch)
        return msgspec.structs.replace(so_far, moved=moved, workers=workers, unfinished=so_far.unfinished or more)

    async def _promote(self, so_far: Outcome) -> Outcome:
        promoted = 0

        async def batch(limit: int) -> tuple[int, bool]:
            nonlocal promoted
            reply = await self._send(scripts.promote(self._partition, limit=limit))
            promoted += reply.promoted
            return reply.promoted, reply.more

        more = await self.pace.repeat(self._promotes, batch)
        return msgspec.structs.replace(so_far, promoted=promoted, unfinished=so_far.unfinished or more)

    async def _retain(self, action: Retain, so_far: Outcome) -> Outcome:
        dead = events = 0
        until = self._clock() + STEP_SECONDS
        full = True
        while full and self._clock() < until:
            limits = scripts.Limits(
                action.dead_age_ms, action.dead_max, action.events_age_ms, action.events_max, self._archived()
            )
            letters, batches = await self._send(scripts.retain(self._partition, limits))
            dead, events = dead + letters, events + batches
            full = max(letters, batches) >= RETAIN_ROUND
            self._alive()
        return msgspec.structs.replace(so_far, dropped_dead=dead, dropped_events=events)

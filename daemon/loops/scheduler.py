"""The scheduler's loops: one that follows the schedules, one for each queue in which some fire, one for snapshots."""

import time
from collections.abc import Iterable

from anyio.abc import TaskGroup

from reclaimd.daemon.links import Link
from reclaimd.daemon.loops.shell import Context, Loop
from reclaimd.daemon.schedules.book import Book
from reclaimd.daemon.schedules.firing import Firing, Limits
from reclaimd.daemon.schedules.follow import Follower, reading_timeout
from reclaimd.daemon.schedules.gate import Gate
from reclaimd.daemon.schedules.roster import Roster
from reclaimd.daemon.schedules.server_clock import ServerClock
from reclaimd.daemon.schedules.snapshots import Result, Snapshots
from reclaimd.streams.events import Batch, Died, Settled
from reclaimd.streams.logs import get_logger

NAME = "schedules"
FIRING = "firing"
SNAPSHOTS = "snapshots"
LOST = "schedules_lost"
FROZEN = "schedules_frozen"
LOADING_SECONDS = 120.0
"""Loading a million schedules shows no progress for seconds at a time."""
SNAPSHOT_TIMEOUT = 15.0

log = get_logger(__name__)


class Scheduler:
    """All that fires schedules. `book` is what it knows, `gate` what may forbid it; nothing runs before `start`."""

    def __init__(self, context: Context) -> None:
        settings = context.settings
        self._context = context
        self._tasks: TaskGroup | None = None
        self._firings: dict[str, Loop] = {}
        self._link = Link(settings.redis_url, context.connectivity, reply_timeout=reading_timeout())
        self.clock = ServerClock(time.monotonic)
        self.gate = Gate(self._frozen, lambda _: self.load_again())
        self.book = Book(
            settings.scheduler.misfire_after_ms,
            on_roster=self._open_queue,
            on_unplannable=_tell_unplannable,
            on_loss=self._lost,
            on_lifted=_tell_lifted,
        )
        self.follower = Follower(
            settings.namespace,
            self.book,
            self._link,
            context.links,
            self.clock,
            stolen=context.stolen,
            alive=lambda: context.health.progress(NAME),
            on_rejected=context.instruments.schedules_rejected.inc,
        )
        self.snapshots = Snapshots(
            settings.namespace,
            self.book,
            self.clock,
            lambda: Link(settings.redis_url, context.connectivity, reply_timeout=SNAPSHOT_TIMEOUT),
            every_events=settings.scheduler.snapshot_events,
            every_ms=settings.scheduler.snapshot_interval_ms,
            on_result=self._count_snapshot,
        )
        self.loop = Loop(NAME, "", self.step, context, stall_after=LOADING_SECONDS)
        self._snapshot_loop = Loop(SNAPSHOTS, "", self.snapshots.step, context, stall_after=LOADING_SECONDS)
        self._show()

    @property
    def enabled(self) -> bool:
        """Whether this daemon fires schedules at all."""
        return self._context.settings.scheduler.enabled == "yes"

    async def step(self) -> float:
        """Follow the schedules, and say in /readyz when Redis lost them."""
        pause = await self.follower.step()
        health, lost = self._context.health, self.follower.lost
        if lost:
            health.expect(LOST, stall_after=float("inf"))
            health.failed(LOST, "", f"Redis holds no schedules any more, and there were {lost}")
        else:
            health.forget(LOST)
        frozen = self.follower.frozen
        # Nobody else does it.
        cure = ": reclaimd rebuild" if frozen and self._context.settings.archive.rebuild == "manual" else ""
        self._show_frozen("", f"the schedules are {frozen}{cure}" if frozen else self.gate.closed(""))
        return pause

    async def start(self, tasks: TaskGroup) -> None:
        """Load, then fire and follow in `tasks`. A load that fails is tried again there."""
        if not self.enabled:
            return
        await self.loop.insist(self.step)
        self._tasks = tasks
        for loop in (self.loop, self._snapshot_loop, *self._firings.values()):
            tasks.start_soon(loop.run)

    async def aclose(self) -> None:
        """Write a last snapshot if there is time for it, and close the connection."""
        if self.enabled and self._context.connectivity.error is None:
            await self.snapshots.at_stop()
        await self._link.aclose()

    def load_again(self) -> None:
        """A partition's data were replaced, and perhaps those of the schedules with them."""
        self.follower.load_again()

    def happened(self, queue: str, batches: Iterable[Batch]) -> None:
        """Events of a queue: the ends of tasks that a backlog waits for."""
        roster = self.book.rosters.get(queue)
        if roster is None or not roster.waiting:
            return
        for batch in batches:
            for event in batch.events:
                if isinstance(event, Settled | Died):
                    self.book.ended(queue, (row.task_id.partition(":")[0] for row in event.tasks))

    def _open_queue(self, roster: Roster) -> None:
        context = self._context
        limits = Limits(context.settings.daemon.batch_max, context.settings.scheduler.interval_ms / 1000)
        firing = Firing(
            roster,
            self.book,
            context.links,
            self.clock,
            limits,
            namespace=context.settings.namespace,
            stolen=context.stolen,
            alive=lambda: context.health.progress(FIRING, roster.queue),
        )
        firing.gate = self.gate
        loop = self._firings[roster.queue] = Loop(
            FIRING, roster.queue, firing.step, context, stall_after=30.0 + limits.longest
        )
        roster.wake = lambda: loop.alarm.ring_within(0.0)
        if self._tasks is not None:
            self._tasks.start_soon(loop.run)

    def _frozen(self, queue: str, state: str) -> None:
        self._show_frozen(queue, f"queue {queue} is {state}" if state else "")

    def _show_frozen(self, queue: str, why: str) -> None:
        health = self._context.health
        if why:
            health.expect(FROZEN, queue, stall_after=float("inf"))
            health.failed(FROZEN, queue, f"no schedule fires: {why}")
        else:
            health.forget(FROZEN, queue)

    def _lost(self, queue: str) -> None:
        log.warning("schedules are read again: Redis has forgotten what was fired", queue=queue)
        self.gate.on_doubt(f"queue {queue} has forgotten what was fired")
        self.load_again()

    def _count_snapshot(self, result: Result) -> None:
        self._context.instruments.snapshots.labels(result).inc()

    def _show(self) -> None:
        """Gauges that are read when somebody scrapes."""
        to = self._context.instruments
        to.schedules.labels("enabled").set_function(lambda: self.book.states.enabled)
        to.schedules.labels("paused").set_function(lambda: self.book.states.paused)
        to.schedules.labels("suspended").set_function(lambda: self.book.states.suspended)
        to.schedule_problems.set_function(lambda: self.book.states.problems)
        to.schedules_lost.set_function(lambda: self.follower.lost)
        to.schedules_read_lag.set_function(lambda: self.follower.lag_ms / 1000)
        to.snapshot_age.set_function(self._snapshot_age)

    def _snapshot_age(self) -> float:
        taken = self.snapshots.taken_ms
        return 0.0 if taken is None or not self.clock.known else max(0.0, self.clock.now() - taken) / 1000


def _tell_unplannable(name: str, reason: str) -> None:
    log.error("schedule cannot be planned", schedule=name, reason=reason)


def _tell_lifted(name: str, generation: str) -> None:
    log.warning(
        "a change of this schedule is lost, though it was fired already: it goes on as it was before that; put it again"
        " if that is not what it is to be",
        schedule=name,
        lost=generation,
    )

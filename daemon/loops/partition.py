"""One partition's loop: view → plan → execute."""

import time
from collections.abc import Callable

from reclaimd.daemon.actions import Cleanup, Reclaim, Retain
from reclaimd.daemon.execute import Executor, Outcome
from reclaimd.daemon.loops.shell import Context, Loop
from reclaimd.daemon.recovery import WAITING_MS, Memory, Plan, plan
from reclaimd.daemon.view import PartitionView, decode_view
from reclaimd.streams import scripts
from reclaimd.streams.keys import Partition
from reclaimd.streams.logs import get_logger

NAME = "partition"

log = get_logger(__name__)


class PartitionLoop:
    """Looks after one partition. `view` is the last one, of the monotonic instant `viewed_at`."""

    def __init__(
        self,
        partition: Partition,
        context: Context,
        *,
        on_new_epoch: Callable[[Partition], None] = lambda _: None,
        archived: Callable[[], str] = lambda: "",
    ) -> None:
        self.partition = partition
        self.view: PartitionView | None = None
        self.viewed_at = 0.0
        self.settled = False
        self.moved = 0
        self.loop = Loop(NAME, partition.queue, self.step, context)
        self._context = context
        self._on_new_epoch = on_new_epoch
        self._memory = Memory()
        self._executor = Executor(
            partition,
            context.links.send,
            context.settings.daemon.batch_max,
            alive=lambda: context.health.progress(NAME, partition.queue),
            archived=archived,
            stolen=context.stolen,
        )

    async def step(self) -> float:
        """Look, decide, do. Returns the seconds until the next look at the latest.

        Sets `settled` when there was nothing to reclaim, and adds to `moved` what was.
        """
        self.settled = False
        await self._look()
        assert self.view is not None
        todo = plan(self.view, self._memory, self._context.settings.daemon, self.viewed_at)
        outcome = await self._executor.execute(todo.actions)
        # Only now: an action that failed must be due again.
        self._memory = todo.memory
        self.moved += outcome.moved
        self.settled = not any(isinstance(action, Reclaim) for action in todo.actions)
        self._report(todo, outcome)
        return 0.0 if outcome.unfinished else todo.wake_in_ms / 1000

    def due_at(self, wall_ms: int) -> None:
        """A task was delayed until this instant of the server's wall clock."""
        server_now = self.server_now()
        self.loop.alarm.ring_within(0.0 if server_now is None else max(0.0, (wall_ms - server_now) / 1000))

    def work_came(self) -> None:
        """Work was added: unless a worker takes it, its ring was lost."""
        self.loop.alarm.ring_within(WAITING_MS / 1000)

    def look_now(self) -> None:
        """Something changed what there is to wait for."""
        self.loop.alarm.ring_within(0.0)

    def server_now(self) -> float | None:
        """The server's wall clock in milliseconds, reckoned from the last view; None before the first."""
        return None if self.view is None else self.view.now_ms + (time.monotonic() - self.viewed_at) * 1000

    async def _look(self) -> None:
        with self._executor.pace.stopwatch() as watch:
            reply = await self._context.links.send(scripts.view(self.partition))
        self._executor.pace.saw_round_trip(watch.ms)
        view = decode_view(self.partition.queue, self.partition.number, reply)
        before, self.view, self.viewed_at = self.view, view, time.monotonic()
        if before is not None and before.epoch_id and before.epoch_id != view.epoch_id:
            # What the memory says of scans and silences was true of data that are gone.
            self._memory = Memory()
            self._on_new_epoch(self.partition)
            log.warning("data lost or replaced", queue=view.queue, epoch=view.epoch_id, epoch_before=before.epoch_id)

    def _report(self, todo: Plan, outcome: Outcome) -> None:
        queue = self.partition.queue
        for action in todo.actions:
            match action:
                case Reclaim() if outcome.moved or outcome.workers:
                    log.info(
                        "tasks recovered", queue=queue, tasks=outcome.moved, workers=outcome.workers, cause=action.cause
                    )
                case Retain() if outcome.dropped_dead:
                    log.info("old dead letters dropped", queue=queue, dropped=outcome.dropped_dead, cause=action.cause)
                case Cleanup() if outcome.forgotten:
                    log.info("workers forgotten", queue=queue, workers=outcome.forgotten, cause=action.cause)
                case _:
                    log.debug("action done", queue=queue, action=type(action).__name__, cause=action.cause)

"""The partitions that this daemon looks after: found in the registry, each with a loop of its own."""

from collections.abc import Mapping

import anyio
from anyio.abc import TaskGroup

from reclaimd.daemon.loops.archiving import Archiving
from reclaimd.daemon.loops.events import EventsLoop
from reclaimd.daemon.loops.partition import PartitionLoop
from reclaimd.daemon.loops.scheduler import Scheduler
from reclaimd.daemon.loops.shell import Context, Loop
from reclaimd.daemon.view import PartitionView
from reclaimd.streams.errors import InvalidTask
from reclaimd.streams.events import Batch, Enqueued, Moved, Promoted, Redriven, Retried, WorkerFenced, WorkerJoined
from reclaimd.streams.ids import check_queue
from reclaimd.streams.keys import Partition, queues_key
from reclaimd.streams.logs import get_logger

DISCOVERY = "discovery"

log = get_logger(__name__)


class Fleet:
    """Queue → its partition loop. Loops run in `tasks` once it is given; until then partitions are only collected."""

    def __init__(self, context: Context) -> None:
        self.members: dict[str, PartitionLoop] = {}
        self.discovery = Loop(
            DISCOVERY, "", self.discover, context, stall_after=30 + context.settings.daemon.discover_every_ms / 1000
        )
        self.events: EventsLoop | None = None
        self.scheduler: Scheduler | None = None
        self.archiving = Archiving(
            context,
            server_now=self.server_now,
            kept=self._events_kept,
            on_rebuilt=self._look_again,
        )
        self._context = context
        self._tasks: TaskGroup | None = None
        self._scopes: dict[str, list[anyio.CancelScope]] = {}
        self._refused: set[bytes | str] = set()

    def views(self) -> Mapping[str, PartitionView]:
        """The last view of each queue that has one."""
        return {queue: member.view for queue, member in list(self.members.items()) if member.view is not None}

    def run_in(self, tasks: TaskGroup) -> None:
        """Start the loops of all members, and from now on of each new one at once."""
        self._tasks = tasks
        for queue in self.members:
            self._start(queue)

    async def discover(self) -> float:
        """Read the registry. Returns the seconds until the next look."""
        key = queues_key(self._context.settings.namespace)
        names = await self._context.links.use(lambda client: client.smembers(key))
        found = {queue for name in names if (queue := self._checked(name)) is not None}
        for queue in sorted(found - self.members.keys()):
            self._add(queue)
        for queue in sorted(self.members.keys() - found):
            self._drop_if_empty(queue)
        return self._context.settings.daemon.discover_every_ms / 1000

    def happened(self, queue: str, batches: list[Batch]) -> None:
        """Wake the partition's loop when, and no earlier than, these events ask for it."""
        if self.scheduler is not None:
            self.scheduler.happened(queue, batches)
        self.archiving.heard(queue, batches)
        member = self.members.get(queue)
        if member is None:
            return
        work = now = False
        dues: list[int] = []
        for batch in batches:
            for event in batch.events:
                match event:
                    case Enqueued() | Retried():
                        dues += [row.due for row in event.tasks if row.due > 0]
                        work = work or isinstance(event, Enqueued)
                    case Moved() | Promoted() | Redriven():
                        work = True
                    case WorkerJoined() | WorkerFenced():
                        now = True
                    case _:
                        pass
        if now:
            member.look_now()
        if work:
            member.work_came()
        if dues:
            member.due_at(min(dues))

    def observes(self, queue: str) -> bool:
        """Whether this daemon makes the histograms of a queue."""
        return self.archiving.observes(queue)

    def server_now(self, queue: str) -> float | None:
        """The server's wall clock in milliseconds, if the queue was ever seen."""
        member = self.members.get(queue)
        return None if member is None else member.server_now()

    def _checked(self, name: bytes | str) -> str | None:
        try:
            return check_queue(name.decode() if isinstance(name, bytes) else name)
        except (InvalidTask, UnicodeDecodeError):
            if name not in self._refused:
                self._refused.add(name)
                log.warning("queue ignored, its name is not valid", name=repr(name[:80]))
            return None

    def _add(self, queue: str) -> None:
        partition = Partition(self._context.settings.namespace, queue)
        self.members[queue] = PartitionLoop(
            partition,
            self._context,
            on_new_epoch=self._data_replaced,
            archived=lambda: self.archiving.archived(queue),
        )
        self.archiving.add(partition)
        if self.events is not None:
            # A queue that was there at the start is read from its end; one that came later has only new events.
            self.events.watch(partition, *(() if self._tasks is not None else (None,)))
        log.info("queue found", queue=queue)
        if self._tasks is not None:
            self._start(queue)

    def _start(self, queue: str) -> None:
        assert self._tasks is not None
        archiver = self.archiving.members.get(queue)
        loops = [self.members[queue].loop, *([archiver.loop] if archiver is not None else [])]
        self._scopes[queue] = [anyio.CancelScope() for _ in loops]

        async def run(loop: Loop, scope: anyio.CancelScope) -> None:
            with scope:
                await loop.run()

        for loop, scope in zip(loops, self._scopes[queue], strict=True):
            self._tasks.start_soon(run, loop, scope)

    def _drop_if_empty(self, queue: str) -> None:
        """The registry alone is no proof: what a lost registry left behind must still be recovered."""
        member = self.members[queue]
        if member.view is None or member.view.state != "absent" or self.archiving.keeps(queue):
            return
        del self.members[queue]
        for scope in self._scopes.pop(queue, []):
            scope.cancel()
        if self.events is not None:
            self.events.unwatch(member.partition)
        self.archiving.remove(queue)
        self._context.health.forget(member.loop.name, queue)
        log.info("queue gone", queue=queue)

    def _events_kept(self, queue: str) -> int:
        member = self.members.get(queue)
        return 0 if member is None or member.view is None else member.view.events

    def _look_again(self, queue: str) -> None:
        """A partition was opened again after a rebuild."""
        member = self.members.get(queue)
        if member is not None:
            member.look_now()

    def _data_replaced(self, partition: Partition) -> None:
        self.archiving.look_now(partition.queue)
        if self.events is not None:
            self.events.restart(partition)
        if self.scheduler is not None:
            self.scheduler.load_again()

"""The archiver of one partition: look whether its data are whole, read on, commit. Rebuild what was lost.

Only the owner does so; the others watch it. While the archive cannot be written, tasks are recovered all the same.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from reclaimd.daemon.archive.errors import ArchiveFailed, OwnerLost
from reclaimd.daemon.archive.following import Following, Found
from reclaimd.daemon.loops.backlog import Backlog
from reclaimd.daemon.loops.ownership import BEAT_SECONDS, Shared
from reclaimd.daemon.loops.repair import LOSS, SOON, Repair
from reclaimd.daemon.loops.shell import Context, Loop
from reclaimd.daemon.rebuild.values import EVENTS, PartitionRow
from reclaimd.streams.events import Batch
from reclaimd.streams.keys import Partition
from reclaimd.streams.logs import get_logger

if TYPE_CHECKING:
    from reclaimd.daemon.archive.store import Store

NAME: Final = "archiver"
FOREVER: Final = float("inf")
BUSY_BYTES: Final = 16_384
BUSY_GAPS: Final = 2
"""So many times the ordinary gap is between two looks at a queue that had so many bytes of events: what a commit costs
besides its rows is the same for few and for many."""
NOTHING: Final = "0-0"

log = get_logger(__name__)


class Archive(Shared, Protocol):
    """What the archivers of all partitions share. `rebuilt`: a queue is open again; `kept`: events in its stream."""

    def rebuilt(self, queue: str) -> None: ...
    def kept(self, queue: str) -> int: ...


class Archiver:
    """Follows one partition. `row`: what the archive has of it, as last seen; `owner`: whether this daemon archives it.

    `settled`: the last step found out how the partition is, and nothing is left to be done about it.
    """

    def __init__(
        self, partition: Partition, archive: Archive, context: Context, server_now: Callable[[], float | None]
    ) -> None:
        self.partition = partition
        self.loop = Loop(NAME, partition.queue, self.step, context, stall_after=FOREVER)
        self.row: PartitionRow | None = None
        self.owner: bool | None = None
        self.settled = False
        self.kind = ""
        self.beaten_at = 0.0
        self.backlog = Backlog(server_now)
        self._archive = archive
        self._context = context
        self._metrics = context.instruments.archive
        self._stepped_at = 0.0
        self._busy = False
        self._suspicious = True
        self._repair = Repair(self, archive, context)

    @property
    def queue(self) -> str:
        """Of the partition."""
        return self.partition.queue

    @property
    def archived(self) -> str:
        """Entry ID up to which events may be trimmed; while nobody knows it, none."""
        return NOTHING if self.row is None else self.row.positions.get(EVENTS, NOTHING)

    @property
    def adopted(self) -> bool | None:
        """Whether the archive holds this partition; None when that is not known."""
        return None if self.row is None else bool(self.row.epoch_id)

    def heard(self, batches: list[Batch]) -> None:
        """Events were written: archive them soon."""
        if self.owner is False or not batches:
            return
        self.backlog.heard(batches[0].entry_id, batches[-1].entry_id, len(batches))
        self.loop.alarm.ring_at(self._stepped_at + self._gap)

    async def step(self) -> float:
        """Look at the partition, and archive what is new. Returns the seconds until the next look at the latest."""
        self._stepped_at = time.monotonic()
        self.settled = False
        try:
            store = await self._archive.store()
            if not await self._own(store):
                self.settled = True
                self._archive.worked(self.queue)
                return BEAT_SECONDS
            return await self._follow(self._following(store))
        except OwnerLost:
            self.disown()
            return BEAT_SECONDS
        except ArchiveFailed as error:
            self.doubt()
            return self._archive.failed(self.queue, error)

    def doubt(self) -> None:
        """Nobody knows what was committed last: ask before the next step. Until then the row is good for trimming."""
        self._suspicious = True
        self._archive.claims.forget(self.queue)

    def disown(self) -> None:
        """Another daemon archives it from now on."""
        if self.owner:
            log.info("another daemon archives this queue now", queue=self.queue)
        self.owner = False
        self._suspicious = True
        self.backlog.clear()
        self._metrics.owned.labels(self.queue).set(0)
        self._metrics.forget(self.queue)
        self._context.health.forget(LOSS, self.queue)

    async def _own(self, store: "Store") -> bool:
        if self.owner and not self._suspicious:
            return True
        row = await store.partition(self.partition)
        seen = None if row is None else row.ownership
        if not (self.owner and seen is not None and seen.owner == self._archive.me):
            claims = self._archive.claims
            if not claims.may_take(self.queue, seen) or not await store.claim(self.partition, self._archive.me, seen):
                self.row = row
                if self.owner is not False:
                    self.disown()
                return False
            claims.forget(self.queue)
            row = await store.partition(self.partition)
            if not self.owner:
                log.info("archiving", queue=self.queue, owner_before=seen.owner if seen else "")
        self.row, self.owner = row, True
        self._show()
        return True

    def _following(self, store: "Store") -> Following:
        return Following(
            store,
            self._context.links,
            self.partition,
            self._archive.me,
            stolen=self._context.stolen,
            on_commit=self._committed,
        )

    def _committed(self) -> None:
        """A commit shows others that this daemon lives, as a beat does."""
        self.beaten_at = time.monotonic()

    async def _follow(self, following: Following) -> float:
        assert self.row is not None
        self.row = row = await following.read_unstreamed(self.row)
        found = await following.read(row)
        if not found.healthy:
            return await self._judge(following, found)
        if found.tail.gap:
            return await self._over_a_gap(following, row)
        if row.state != "archiving":
            self.row = await following.take_up(row)
            return 0.0
        self._suspicious = False
        self._repair.healthy()
        return await self._advance(following, found)

    async def _advance(self, following: Following, found: Found) -> float:
        events = found.tail.events
        self._busy = sum(len(event.e) for event in events) >= BUSY_BYTES
        self.row, seconds = await following.archive(found)
        if seconds is not None:
            self._metrics.commit_seconds.observe(seconds)
            self._metrics.commits.labels(self.queue).inc()
            self._metrics.events.labels(self.queue).inc(len(events))
        self.backlog.committed(self.archived, drained=found.done)
        self.settled = True
        if not found.done:
            return 0.0
        self._archive.worked(self.queue)
        # Where much happens, nobody waits to be told of the next.
        return max(0.0, self._stepped_at + self._gap - time.monotonic()) if self._busy else BEAT_SECONDS

    @property
    def _gap(self) -> float:
        return self._context.settings.archive.poll_ms / 1000 * (BUSY_GAPS if self._busy else 1)

    def began_anew(self, row: PartitionRow | None) -> None:
        """Everything is read again from here on."""
        self.row = row
        self.backlog.clear()

    async def _over_a_gap(self, following: Following, row: PartitionRow) -> float:
        """Events were trimmed before they were archived: what they told of is unknown, so all is read again."""
        self._metrics.gaps.labels(self.queue).inc()
        log.error("events were trimmed before they were archived", queue=self.queue, after=self.archived)
        self.began_anew(await following.read_again(row.epoch_id, row.mark))
        return 0.0

    async def _judge(self, following: Following, found: Found) -> float:
        self._suspicious = True
        if found.verdict.kind == "healthy" or not await self._is_current(following.store):
            return SOON
        return await self._repair.act(following, found.verdict, found.tail.facts)

    async def _is_current(self, store: "Store") -> bool:
        """Whether what was judged by is still what the archive has: who slept meanwhile may have been replaced."""
        row, was = await store.partition(self.partition), self.row
        assert was is not None
        if row is None or row.ownership.owner != self._archive.me:
            self.disown()
            return False
        return (row.epoch_id, row.mark, row.state, row.rebuild_id) == (
            was.epoch_id,
            was.mark,
            was.state,
            was.rebuild_id,
        )

    def _held(self) -> float:
        """Whether events stay longer than they would without an archive."""
        daemon = self._context.settings.daemon
        too_old = self.backlog.lag_seconds * 1000 > daemon.events_retention_ms
        return float(too_old or (self.backlog.entries > 0 and self._archive.kept(self.queue) > daemon.events_max))

    def _show(self) -> None:
        metrics, queue = self._metrics, self.queue
        metrics.owned.labels(queue).set(1)
        metrics.events_held.labels(queue).set_function(self._held)
        metrics.lag.labels(queue).set_function(lambda: self.backlog.lag_seconds)
        metrics.behind.labels(queue).set_function(lambda: self.backlog.entries)
        metrics.unresolved.labels(queue).set(0)
        metrics.rebuild_progress.labels(queue).set(1)

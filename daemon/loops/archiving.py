"""The archive of this daemon: one store for the archivers of all its partitions, the owner's beat, and retention."""

import secrets
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from copy import copy
from typing import TYPE_CHECKING, Final

import anyio
from anyio.abc import TaskGroup

from reclaimd.daemon.archive.errors import ArchiveFailed, ArchiveUnreachable, Trouble
from reclaimd.daemon.loops.archiver import FOREVER, Archiver
from reclaimd.daemon.loops.ownership import BEAT_SECONDS, Claims, my_name
from reclaimd.daemon.loops.shell import Context, Loop
from reclaimd.streams.addresses import redacted
from reclaimd.streams.events import Batch
from reclaimd.streams.ids import check_queue
from reclaimd.streams.keys import Partition, queues_key
from reclaimd.streams.logs import get_logger
from reclaimd.streams.redis_log import AsyncClient

if TYPE_CHECKING:
    from reclaimd.daemon.archive.store import Store

BEAT: Final = "archive_beat"
STATE: Final = "archive"
RETENTION: Final = "archive_retention"
OPEN_SECONDS: Final = 5.0
FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 2.0
HANDOVER_SECONDS: Final = 0.4
REGISTRY_SECONDS: Final = 30.0
RETENTION_SECONDS: Final = 3600.0

log = get_logger(__name__)


class Archiving:
    """All that archives. Without `archive.url` it is not `enabled`, and does nothing.

    `me`: this daemon's name as an owner. `kept`: entries in a queue's event stream. `on_rebuilt`: told a queue that is
    open again.
    """

    def __init__(
        self,
        context: Context,
        *,
        server_now: Callable[[str], float | None],
        kept: Callable[[str], int] = lambda _: 0,
        on_rebuilt: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.members: dict[str, Archiver] = {}
        self.me = my_name(secrets.token_hex(4))
        self.claims = Claims()
        self.loop = Loop(BEAT, "", self.step, context, stall_after=FOREVER)
        self._retention = Loop(RETENTION, "", self._retain, context, stall_after=FOREVER)
        self._context = context
        self._metrics = context.instruments.archive
        self._server_now = server_now
        self.kept = kept
        self._on_rebuilt = on_rebuilt
        self._stack = AsyncExitStack()
        self._store: Store | None = None
        self._opening = anyio.Lock()
        self._failing: dict[str, ArchiveFailed] = {}
        self._failed_at = -FOREVER
        self._pause = FIRST_PAUSE
        self._registered_at = -FOREVER
        self._metrics.events_limit.set(context.settings.archive.events_limit)

    @property
    def enabled(self) -> bool:
        """Whether there is an archive at all."""
        return self._context.settings.archive.url is not None

    @property
    def behind(self) -> bool:
        """Whether the archive does not do what it is asked for."""
        return bool(self._failing)

    def add(self, partition: Partition) -> Archiver | None:
        """Follow this partition too; None without an archive. Its loop is run by whoever adds it."""
        if not self.enabled:
            return None
        archiver = Archiver(partition, self, self._context, lambda: self._server_now(partition.queue))
        self.members[partition.queue] = archiver
        return archiver

    def remove(self, queue: str) -> None:
        """The partition is gone."""
        archiver = self.members.pop(queue, None)
        if archiver is not None:
            self._metrics.forget(queue)
            self._failing.pop(queue, None)
            self._context.health.forget(archiver.loop.name, queue)

    def archived(self, queue: str) -> str:
        """Entry ID up to which events may be trimmed; empty without an archive."""
        archiver = self.members.get(queue)
        return archiver.archived if archiver is not None else ""

    def keeps(self, queue: str) -> bool:
        """Whether the archive holds this queue, or may hold it, so that one which Redis forgot must not be let go."""
        archiver = self.members.get(queue)
        return archiver is not None and archiver.adopted is not False

    def observes(self, queue: str) -> bool:
        """Whether this daemon makes the histograms of a queue: unless another is known to archive it."""
        archiver = self.members.get(queue)
        return archiver is None or archiver.owner is not False

    def heard(self, queue: str, batches: list[Batch]) -> None:
        """Events were read."""
        archiver = self.members.get(queue)
        if archiver is not None:
            archiver.heard(batches)

    def run_in(self, tasks: TaskGroup) -> None:
        """Beat, register and retain from now on."""
        if self.enabled:
            tasks.start_soon(self.loop.run)
            tasks.start_soon(self._retention.run)
            tasks.start_soon(self._look_after_outages)

    def look_now(self, queue: str) -> None:
        """Something is odd about this queue's data."""
        archiver = self.members.get(queue)
        if archiver is not None:
            archiver.loop.alarm.ring_within(0.0)

    async def _look_after_outages(self) -> None:
        """A server that was away may come back with other data."""
        connectivity = self._context.connectivity
        while True:
            await connectivity.until_down()
            await connectivity.until_up()
            for queue in list(self.members):
                self.look_now(queue)
            await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Leave the queues to others at once, if the archive answers, and close it."""
        store, self._store = self._store, None
        if store is not None and not self.behind:
            with anyio.move_on_after(HANDOVER_SECONDS):
                await self._hand_over(store)
        await self._stack.aclose()

    async def _hand_over(self, store: "Store") -> None:
        owned = [archiver.partition for archiver in self.members.values() if archiver.owner]
        try:
            for partition in owned:
                row = await store.partition(partition)
                if row is not None and row.ownership.owner == self.me:
                    await store.claim(partition, "", row.ownership)
        except ArchiveFailed as error:
            log.info("queues were not handed over", error=str(error))

    async def store(self) -> "Store":
        """The archive, opened if it is not yet. Raises ArchiveFailed, at once while it has failed just now."""
        async with self._opening:
            if self._store is None:
                if time.monotonic() < self._failed_at + self._pause and self._failing:
                    raise copy(next(iter(self._failing.values())))
                self._store = await self._open()
                log.info("archive opened", url=redacted(self._store.where), archive=self._store.archive_id)
            return self._store

    async def _open(self) -> "Store":
        from reclaimd.daemon.archive.store import open_store

        url = self._context.settings.archive.url or ""
        stack = AsyncExitStack()
        try:
            with anyio.fail_after(OPEN_SECONDS):
                store = await stack.enter_async_context(open_store(url))
        except TimeoutError:
            raise ArchiveUnreachable(Trouble.SLOW, url) from None
        self._stack = stack
        return store

    def failed(self, queue: str, error: ArchiveFailed) -> float:
        """The archive did not do what this queue asked of it. Returns the seconds until it should ask again."""
        known = next(iter(self._failing.values()), None)
        if known is None or known.trouble is not error.trouble:
            log.error("archive behind", error=str(error))
        if known is None:
            self._pause = FIRST_PAUSE
        now = time.monotonic()
        if now >= self._failed_at + self._pause:
            self._failed_at, self._pause = now, min(self._pause * 2, LONGEST_PAUSE)
        self._failing[queue] = error
        self._metrics.errors.inc()
        self._metrics.up.set(0)
        self._report()
        return self._pause

    def worked(self, queue: str) -> None:
        """This queue is archived as far as it can be."""
        if self._failing.pop(queue, None) is not None and not self._failing:
            log.info("archive has caught up")
        self._metrics.up.set(not self._failing)
        self._report()

    def rebuilt(self, queue: str) -> None:
        """A queue is open again."""
        self._on_rebuilt(queue)

    def _report(self) -> None:
        health = self._context.health
        if not self._failing:
            health.forget(STATE)
            return
        health.expect(STATE, stall_after=FOREVER)
        queues = [queue for queue in self._failing if queue]
        where = f", {len(queues)} queues" if len(queues) > 1 else f", queue {queues[0]}" if queues else ""
        health.failed(STATE, "", f"archive behind{where}: {next(iter(self._failing.values()))}")

    async def step(self) -> float:
        """Show that this daemon lives, and see to the registry. Returns the seconds until the next time."""
        try:
            store = await self.store()
            await self._beat(store)
            if time.monotonic() >= self._registered_at + REGISTRY_SECONDS:
                await self.register(store)
        except ArchiveFailed as error:
            return self.failed("", error)
        self.worked("")
        return BEAT_SECONDS

    async def _beat(self, store: "Store") -> None:
        for archiver in list(self.members.values()):
            due = time.monotonic() - BEAT_SECONDS
            if archiver.owner and archiver.beaten_at <= due:
                if await store.beat(archiver.partition, self.me):
                    archiver.beaten_at = time.monotonic()
                else:
                    archiver.disown()

    async def register(self, store: "Store") -> list[str]:
        """Enter into the registry the queues that the archive holds and Redis has forgotten; returns them."""
        settings = self._context.settings
        key = queues_key(settings.namespace)
        rows = await store.partitions(settings.namespace)
        known = {row.queue for row in rows if row.epoch_id}
        self._metrics.events_bytes.set(sum(row.events_bytes for row in rows))
        there = await self._context.links.use(lambda client: client.smembers(key))
        forgotten = sorted(known - {name.decode() if isinstance(name, bytes) else name for name in there})

        async def add(client: AsyncClient) -> None:
            await client.sadd(key, *(check_queue(queue) for queue in forgotten))

        if forgotten:
            await self._context.links.use(add)
            log.warning("queues were missing from the registry", queues=forgotten)
        self._registered_at = time.monotonic()
        return forgotten

    async def _retain(self) -> float:
        """Forget old events, of all namespaces."""
        settings = self._context.settings.archive
        try:
            store = await self.store()
            seconds, micros = await self._context.links.use(lambda client: client.time())
            now_ms = int(seconds) * 1000 + int(micros) // 1000
            done = await store.retain(settings.events_age_ms, settings.max_size_bytes, now_ms)
        except ArchiveFailed as error:
            return max(30.0, self.failed("", error))
        if done.batches:
            log.info("archived events forgotten", batches=done.batches, bytes=done.freed)
        return RETENTION_SECONDS

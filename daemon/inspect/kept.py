"""Event batches of a queue from the archive and from Redis, oldest first, none twice.

The archive keeps what Redis has trimmed or lost; Redis has what is not archived yet. An entry has the same ID in both.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from reclaimd.daemon.inspect.source import Source, UnknownQueue
from reclaimd.daemon.inspect.tasks import entries
from reclaimd.streams.events import Batch, decode_batch
from reclaimd.streams.ids import EntryID
from reclaimd.streams.keys import Partition
from reclaimd.streams.settings import Settings

if TYPE_CHECKING:
    from reclaimd.daemon.archive.store import Store
    from reclaimd.daemon.rebuild.values import TaskRow

PAGE = 200


class RawBatch(NamedTuple):
    """One entry of `:events`, not decoded yet."""

    entry_id: str
    at: bytes | str
    e: bytes

    @property
    def position(self) -> EntryID:
        """For sorting."""
        return EntryID.parse(self.entry_id)

    def decoded(self) -> Batch:
        """Its events."""
        return decode_batch(self.at, self.e, self.entry_id)


class Archive:
    """What the archive tells, if there is one that can be read. One that fails later is told of once, and is silent."""

    def __init__(self, store: "Store | None", namespace: str, tell: Callable[[str], object]) -> None:
        self._store = store
        self._namespace = namespace
        self._tell = tell

    @property
    def present(self) -> bool:
        """Whether it (still) tells anything."""
        return self._store is not None

    async def queues(self) -> list[str]:
        """The queues that it knows, sorted."""
        if self._store is None:
            return []
        with _given_up(self):
            return [row.queue for row in await self._store.partitions(self._namespace)]
        return []

    async def batches(self, queue: str, after: str, contains: str | None = None) -> AsyncIterator[RawBatch]:
        """Batches behind entry `after`, only those that hold `contains` if it is given."""
        if self._store is None:
            return
        with _given_up(self):
            async for kept in self._store.events(Partition(self._namespace, queue), after, contains=contains):
                yield RawBatch(kept.entry_id, str(kept.at), kept.e)

    async def oldest_ms(self, queue: str) -> int | None:
        """The time of the oldest batch."""
        async for batch in self.batches(queue, "0-0"):
            return batch.position.ms
        return None

    async def tasks(self, queue: str, task_id: str) -> "list[TaskRow]":
        """The task as the archive holds it: open, and its dead letters."""
        if self._store is None:
            return []
        with _given_up(self):
            return await self._store.tasks_by_id(Partition(self._namespace, queue), [task_id])
        return []

    def give_up(self, error: Exception) -> None:
        """Say once why it tells nothing from here on."""
        self._store = None
        self._tell(f"what follows is from Redis alone: {error}")


class _given_up:  # noqa: N801  (used like a function)
    """An archive that fails ends the block, and all that follow."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        from reclaimd.daemon.archive.errors import ArchiveFailed

        if isinstance(error, ArchiveFailed):
            self._archive.give_up(error)
            return True
        return False


@asynccontextmanager
async def open_archive(settings: Settings, tell: Callable[[str], object]) -> AsyncIterator[Archive]:
    """The archive of the settings; an empty one if there is none, or if it cannot be used (`tell` says why)."""
    archive = Archive(None, settings.namespace, tell)
    url = settings.archive.url
    if url is None:
        yield archive
        return
    # SQLAlchemy takes a third of a second to import: only those pay for it who have an archive.
    from reclaimd.daemon.archive.engine import Access
    from reclaimd.daemon.archive.errors import ArchiveFailed
    from reclaimd.daemon.archive.store import open_store

    opening = open_store(url, Access.READ)
    try:
        store = await opening.__aenter__()
    except ArchiveFailed as error:
        archive.give_up(error)
        yield archive
        return
    try:
        yield Archive(store, settings.namespace, tell)
    finally:
        await opening.__aexit__(None, None, None)


async def in_redis(source: Source, queue: str, low: str) -> AsyncIterator[RawBatch]:
    """Batches of the stream from entry `low` on (`(` in front excludes it)."""
    key = source.partition(queue).key("events")
    async for entry_id, fields in entries(source, key, low=low, page=PAGE):
        yield RawBatch(entry_id, fields.get(b"at", b""), fields.get(b"e", b""))


async def merged(*parts: AsyncIterator[RawBatch]) -> AsyncIterator[RawBatch]:
    """Batches of one queue in their order, those that are in several parts once. Each part is in order."""
    heads = [await anext(part, None) for part in parts]
    last: EntryID | None = None
    while any(heads):
        index, first = min(
            ((index, head) for index, head in enumerate(heads) if head is not None), key=lambda one: one[1].position
        )
        heads[index] = await anext(parts[index], None)
        if first.position != last:
            yield first
        last = first.position


async def known_queues(source: Source | None, archive: Archive, chosen: str | None) -> list[str]:
    """The queues that Redis or the archive knows, sorted; or only the chosen one. Raises UnknownQueue.

    `source`: None when Redis cannot be asked.
    """
    in_redis = await source.queues() if source is not None else []
    known = sorted({*in_redis, *await archive.queues()})
    if chosen is None:
        return known
    if chosen not in known:
        raise UnknownQueue(chosen, known)
    return [chosen]

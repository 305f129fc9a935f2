"""The events of many queues as one line of time: what is kept, and then what comes."""

from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

import anyio

from reclaimd.daemon.inspect.kept import Archive, RawBatch, in_redis, merged
from reclaimd.daemon.inspect.source import Source
from reclaimd.streams.errors import RedisUnreachable
from reclaimd.streams.events import Batch
from reclaimd.streams.ids import EntryID

LOOK_EVERY = 0.2
"""Seconds between two looks at the streams."""
QUEUES_EVERY = 2.0
"""Seconds between two looks for new queues."""
RETRY_EVERY = 1.0


class Told(NamedTuple):
    """A batch and its queue."""

    queue: str
    batch: Batch


async def now_ms(source: Source) -> int:
    """Redis's clock, by which events are numbered; wall milliseconds."""
    [(seconds, micros)] = await source.read(lambda pipe: pipe.time())
    return int(seconds * 1000 + micros // 1000)


async def past(source: Source | None, archive: Archive, since: Mapping[str, str]) -> AsyncIterator[Told]:
    """The batches of each queue behind the entry in `since`, from archive and stream, in the order of time.

    `source`: None when Redis cannot be asked.
    """
    lines = []
    for queue, after in since.items():
        parts = [archive.batches(queue, after)]
        if source is not None:
            parts.append(in_redis(source, queue, f"({after}"))
        lines.append(_named(queue, merged(*parts)))
    heads = [await anext(line, None) for line in lines]
    while any(heads):
        index, first = min(
            ((index, head) for index, head in enumerate(heads) if head is not None), key=lambda one: one[1][1].position
        )
        heads[index] = await anext(lines[index], None)
        yield Told(first[0], first[1].decoded())


async def _named(queue: str, line: AsyncIterator[RawBatch]) -> AsyncIterator[tuple[str, RawBatch]]:
    async for batch in line:
        yield queue, batch


class Follower:
    """What comes after `positions` (queue → entry ID; it advances), in these queues and, if `more`, in new ones.

    `begin`: entry ID behind which a queue is told that was found only when Redis was back; `lost`: Redis is away.
    """

    def __init__(self, source: Source, positions: dict[str, str], *, more: bool, begin: str, lost: bool) -> None:
        self._source = source
        self._positions = positions
        self._more = more
        self._begin = begin
        self._looked = anyio.current_time()
        self._looked_in_vain = lost
        self.lost = lost

    async def step(self) -> list[Told]:
        """What has come since the last step, by time. Waits a moment first; Redis may be away (`lost`) for as long as
        it likes.
        """
        await anyio.sleep(RETRY_EVERY if self.lost else LOOK_EVERY)
        try:
            await self._find_queues()
            found = [batch for queue in list(self._positions) async for batch in self._come(queue)]
        except RedisUnreachable:
            self.lost = self._looked_in_vain = True
            return []
        self.lost = False
        found.sort(key=lambda told: EntryID.parse(told.batch.entry_id))
        return found

    async def _find_queues(self) -> None:
        if not self._more or (anyio.current_time() - self._looked < QUEUES_EVERY and not self._looked_in_vain):
            return
        # Everything in a queue that appears while Redis is watched is new; not so in one that came with Redis.
        first = self._begin if self._looked_in_vain else "0-0"
        for queue in await self._source.queues():
            self._positions.setdefault(queue, first)
        self._looked, self._looked_in_vain = anyio.current_time(), False

    async def _come(self, queue: str) -> AsyncIterator[Told]:
        key = self._source.partition(queue).key("events")
        [newest] = await self._source.read(lambda pipe: pipe.xrevrange(key, count=1))
        last = newest[0][0].decode() if newest else "0-0"
        if EntryID.parse(last) <= EntryID.parse(self._positions[queue]):
            # A dataset that is older, or empty: what comes there may be numbered lower than what was seen here.
            self._positions[queue] = last
            return
        async for batch in in_redis(self._source, queue, f"({self._positions[queue]}"):
            self._positions[queue] = batch.entry_id
            yield Told(queue, batch.decoded())

"""Reads what was fired in a partition, a page at a time."""

from collections.abc import Callable
from typing import Any, Final

import anyio

from reclaimd.daemon.links import Links
from reclaimd.daemon.schedules.book import Book
from reclaimd.streams.ids import EntryID
from reclaimd.streams.keys import Partition
from reclaimd.streams.redis_log import AsyncClient

PAGE: Final = 1_000


async def read_rows(
    links: Links, namespace: str, queue: str, book: Book, now: Callable[[], float], alive: Callable[[], None]
) -> None:
    """Give all rows of this queue to the book. Raises redis.ResponseError when the key holds something else.

    What is queued of schedules that nobody knows any more is to be dropped: they were removed while no daemon ran.
    """
    partition = Partition(namespace, queue)
    cursor = -1
    while cursor != 0:
        cursor, page = await links.use(_page(partition.key("fired"), max(cursor, 0)))
        orphans = book.take_rows(queue, page, int(now()))
        if orphans:
            await _retire_queued(links, partition, book, orphans)
        alive()
        await anyio.lowlevel.checkpoint()


def _page(key: str, cursor: int) -> Callable[[AsyncClient], Any]:
    async def ask(client: AsyncClient) -> tuple[int, dict[bytes, bytes]]:
        found: Any = await client.hscan(key, cursor, count=PAGE)
        return int(found[0]), found[1]

    return ask


async def _retire_queued(links: Links, partition: Partition, book: Book, orphans: list[tuple[str, str]]) -> None:
    async def ask(client: AsyncClient) -> list[Any]:
        pipeline: Any = client.pipeline(transaction=False)
        for name, _ in orphans:
            pipeline.hexists(partition.key("queued"), name)
        found: list[Any] = await pipeline.execute()
        return found

    for (name, text), queued in zip(orphans, await links.use(ask), strict=True):
        if queued:
            generation = EntryID.parse(text)
            # No more than it takes: whoever restores this schedule from elsewhere begins a newer generation anyway.
            book.roster(partition.queue).retire(name, f"{generation.ms}-{generation.seq + 1}")

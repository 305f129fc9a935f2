"""What a daemon does with a log that is full of mistakes, or that it may not trust."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from reclaimd.daemon.connectivity import Connectivity
from reclaimd.daemon.links import Link, Links
from reclaimd.daemon.schedules.book import Book
from reclaimd.daemon.schedules.follow import Follower, reading_timeout
from reclaimd.daemon.schedules.server_clock import ServerClock
from reclaimd.daemon.stolen import Stolen
from reclaimd.streams.keys import schedule_epoch_key
from reclaimd.streams.schedules.events import upserted
from reclaimd.streams.schedules.model import Cron, Every, Schedule
from support.daemons import NAMESPACE, in_loop
from support.schedules import schedules_on
from support.servers import Server


@asynccontextmanager
async def following(server: Server, book: Book) -> AsyncIterator[Follower]:
    connectivity = Connectivity()
    link, links = (
        Link(server.url, connectivity, reply_timeout=reading_timeout()),
        Links(server.url, connectivity),
    )
    clock = ServerClock(time.monotonic)
    try:
        yield Follower(NAMESPACE, book, link, links, clock, stolen=Stolen(), alive=lambda: None)
    finally:
        await link.aclose()
        await links.aclose()


@in_loop
async def test_each_of_very_many_bad_definitions_is_reported_once(server: Server) -> None:
    """More than are read at once: those whose report was not read yet were reported again with each page."""
    book = Book(60_000)
    bad = [Schedule(name=f"bad-{n}", task="t", queue="q", trigger=Cron("0 0 30 2 *")) for n in range(1_300)]
    with schedules_on(server) as schedules:
        schedules.append(*map(upserted, bad))
        async with following(server, book) as follower:
            await follower.load()
            while book.unreported():
                await follower.step()
            assert len(schedules.rejected()) == len(bad)
            schedules.append(*map(upserted, bad))
            await follower.step()
            while book.unreported():
                await follower.step()
        assert len(schedules.rejected()) == 2 * len(bad)


@in_loop
async def test_a_log_that_is_frozen_while_it_is_loaded_fires_nothing(server: Server) -> None:
    """What was known to be complete a moment ago was another log."""
    book = Book(60_000)
    seen: list[int] = []
    with schedules_on(server) as schedules:
        schedules.put("a", Every(60_000))
        async with following(server, book) as follower:
            await follower.load()
            assert book.seen_at > 0
            schedules.client.hset(schedule_epoch_key(NAMESPACE), "state", "lost")
            book.roster("mail").wake = lambda: seen.append(book.seen_at)
            follower.load_again()
            await follower.load()
    assert book.ready
    assert seen == [0]

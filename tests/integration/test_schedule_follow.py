"""What a daemon does with a log that is full of mistakes, or that it may not trust."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from reclaimd.daemon.connectivity import Connectivity
from reclaimd.daemon.links import Link, Links
from reclaimd.daemon.schedules.book import Book
from reclaimd.daemon.schedules.follow import Follower, reading_timeout
from reclaimd.daemon.schedules.server_clock import ServerClock
from reclaimd.daemon.schedules.snapshots import Result, Snapshots
from reclaimd.daemon.stolen import Stolen
from reclaimd.streams.keys import schedule_epoch_key
from reclaimd.streams.schedules.events import upserted
from reclaimd.streams.schedules.model import Cron, Every, Schedule
from support.daemons import NAMESPACE, in_loop
from support.schedules import schedules_on
from support.servers import Server


class Parts:
    """Those of a scheduler that concern its log."""

    def __init__(self, server: Server) -> None:
        self.book = Book(60_000)
        self.results: list[Result] = []
        self._url, self._connectivity = server.url, Connectivity()
        self.link, self.links = self._new_link(), Links(server.url, self._connectivity)
        clock = ServerClock(time.monotonic)
        self.follower = Follower(
            NAMESPACE, self.book, self.link, self.links, clock, stolen=Stolen(), alive=lambda: None
        )
        self.snapshots = Snapshots(
            NAMESPACE, self.book, clock, self._new_link, every_events=1, every_ms=1, on_result=self.results.append
        )

    def _new_link(self) -> Link:
        return Link(self._url, self._connectivity, reply_timeout=reading_timeout())


@asynccontextmanager
async def parts_on(server: Server) -> AsyncIterator[Parts]:
    """Their connections end with the block."""
    parts = Parts(server)
    try:
        yield parts
    finally:
        await parts.link.aclose()
        await parts.links.aclose()


@in_loop
async def test_each_of_very_many_bad_definitions_is_reported_once(server: Server) -> None:
    """More than are read at once: those whose report was not read yet were reported again with each page."""
    bad = [Schedule(name=f"bad-{n}", task="t", queue="q", trigger=Cron("0 0 30 2 *")) for n in range(1_300)]
    with schedules_on(server) as schedules:
        schedules.append(*map(upserted, bad))
        async with parts_on(server) as parts:
            await parts.follower.load()
            while parts.book.unreported():
                await parts.follower.step()
            assert len(schedules.rejected()) == len(bad)
            schedules.append(*map(upserted, bad))
            await parts.follower.step()
            while parts.book.unreported():
                await parts.follower.step()
        assert len(schedules.rejected()) == 2 * len(bad)


@in_loop
async def test_a_log_that_is_frozen_while_it_is_loaded_fires_nothing(server: Server) -> None:
    """What was known to be complete a moment ago was another log."""
    seen: list[int] = []
    with schedules_on(server) as schedules:
        schedules.put("a", Every(60_000))
        async with parts_on(server) as parts:
            book = parts.book
            await parts.follower.load()
            assert book.seen.at > 0
            schedules.client.hset(schedule_epoch_key(NAMESPACE), "state", "lost")
            book.roster("mail").wake = lambda: seen.append(book.seen.at)
            parts.follower.load_again()
            await parts.follower.load()
    assert book.ready
    assert seen == [0]


@in_loop
async def test_a_frozen_log_is_not_filled_with_snapshots_that_nobody_ends(server: Server) -> None:
    """While an operator thinks about a rebuild for an hour."""
    with schedules_on(server) as schedules:
        schedules.put("a", Every(60_000))
        schedules.client.hset(schedule_epoch_key(NAMESPACE), "state", "lost")
        async with parts_on(server) as parts:
            await parts.follower.load()
            await parts.snapshots.step()
            await parts.snapshots.at_stop()
            assert schedules.client.xlen(schedules.snapshots_key) == 0
            schedules.client.hset(schedule_epoch_key(NAMESPACE), "state", "ok")
            while not parts.book.seen.at:
                await parts.follower.step()
            await parts.snapshots.step()
    assert parts.results == ["written"]

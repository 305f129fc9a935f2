"""Firing in one queue, a step at a time."""

import time

from reclaimd.daemon.connectivity import Connectivity
from reclaimd.daemon.links import Links
from reclaimd.daemon.schedules.book import Book
from reclaimd.daemon.schedules.firing import LOOK_AGAIN, Firing, Limits
from reclaimd.daemon.schedules.server_clock import Seen, ServerClock
from reclaimd.daemon.stolen import Stolen
from reclaimd.streams.occurrence_scripts import FIRE_ROWS
from reclaimd.streams.redis_log import connect
from reclaimd.streams.schedules.events import encode, upserted
from reclaimd.streams.schedules.log import ScheduleLog
from reclaimd.streams.schedules.model import Every, Schedule
from support.daemons import NAMESPACE, in_loop
from support.schedules import schedules_on
from support.servers import Server


@in_loop
async def test_very_many_that_were_removed_do_not_keep_waiting_what_is_due(server: Server) -> None:
    book, clock = Book(60_000), ServerClock(time.monotonic)
    links, client = Links(server.url, Connectivity()), connect(server.url)
    overdue = upserted(Schedule(name="due", task="t", queue="mail", trigger=Every(1_000)))
    try:
        with schedules_on(server) as schedules:
            schedules.client.xadd(schedules.events_key, {"e": encode(overdue)}, id="1000-0")
            book.seen = Seen(schedules.now_ms(), time.monotonic())
            clock.saw(book.seen.at, book.seen.on)
            for _ in (*book.start_over(await ScheduleLog(client, NAMESPACE).load()), *book.plan_all(book.seen.at)):
                pass
            roster = book.roster("mail")
            for number in range(3 * FIRE_ROWS):
                roster.retire(f"gone-{number}", "1-0")
            limits, stolen = Limits(100, 10.0), Stolen()
            firing = Firing(roster, book, links, clock, limits, namespace=NAMESPACE, stolen=stolen, alive=lambda: None)
            # There is no partition yet that would keep a row of what is retired in it.
            assert await firing.step() <= LOOK_AGAIN
            assert len(schedules.tasks()) == 1
            assert len(roster.retiring) == 3 * FIRE_ROWS
            for left in (2 * FIRE_ROWS, FIRE_ROWS):
                assert await firing.step() == 0.0
                assert len(roster.retiring) == left
            assert await firing.step() > 0
            assert len(schedules.fired()) == 1 + 3 * FIRE_ROWS
    finally:
        await links.aclose()
        await client.aclose()

"""Two or three daemons on one real server whose clock is ours: crashes, sleeps, clock steps, lost requests and replies.

Each daemon is its real book and its real plans; only the sending is the test's, so that it can go wrong.
"""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reclaimd.daemon.schedules.book import Book
from reclaimd.daemon.schedules.firing import _parts
from reclaimd.streams.keys import Partition
from reclaimd.streams.occurrence_scripts import FireReply, fire, retire
from reclaimd.streams.redis_log import AsyncClient, connect, send
from reclaimd.streams.schedules.events import (
    Event,
    SchedulePaused,
    ScheduleRemoved,
    ScheduleResumed,
    encode,
    upserted,
)
from reclaimd.streams.schedules.log import ScheduleLog
from reclaimd.streams.schedules.model import Every, Schedule
from support.schedules import check_exactly_once, schedules_on
from support.servers import Server

QUEUE = Partition("t", "mail")
EVERY = 1_000
START = 1_800_000_000_000
NAMES = ("a", "b", "c")

daemons = st.integers(0, 2)
names = st.sampled_from(NAMES)
fates = st.sampled_from(["answered", "answered", "no reply", "not sent"])
waits = st.tuples(st.just("wait"), st.sampled_from([1, 400, 1_000, 1_700]), st.none())
fires = st.tuples(st.just("fire"), daemons, fates)
operations = st.lists(
    st.one_of(
        waits,
        waits,
        fires,
        fires,
        st.tuples(st.just("follow and fire"), daemons, fates),
        st.tuples(st.just("follow and fire"), daemons, fates),
        st.tuples(st.just("wait"), st.sampled_from([4_900, 70_000]), st.none()),
        st.tuples(st.just("step back"), st.sampled_from([900, 5_000, 60_000]), st.none()),
        st.tuples(st.just("follow"), daemons, st.none()),
        st.tuples(st.just("crash"), daemons, st.none()),
        st.tuples(st.just("put"), names, st.sampled_from(["skip", "run_once", "run_all"])),
        st.tuples(st.sampled_from(["remove", "pause", "resume"]), names, st.none()),
    ),
    min_size=20,
    max_size=60,
)


class Fleet:
    """The daemons, the clock and the log."""

    def __init__(self, client: AsyncClient) -> None:
        self.now = START
        self.generations: set[tuple[str, str]] = set()
        self._client = client
        self._log = ScheduleLog(client, "t")
        self._books = [Book(60_000) for _ in range(3)]
        self._last_id = (START, 0)
        self._policy: dict[str, str] = {}

    async def do(self, what: str, whom: Any, how: Any) -> None:
        match what:
            case "wait":
                self.now += whom
            case "step back":
                self.now -= whom
            case "crash":
                self._books[whom] = Book(60_000)
            case "follow":
                await self.follow(self._books[whom])
            case "follow and fire":
                await self.follow(self._books[whom])
                await self.fire(self._books[whom], how)
            case "fire":
                await self.fire(self._books[whom], how)
            case "put":
                schedule = Schedule(
                    name=whom, task="t", queue="mail", trigger=Every(EVERY), misfire=how, overlap="allow", drip_ms=1
                )
                event_id = await self._append(upserted(schedule))
                if whom not in self._policy:
                    self._policy[whom] = event_id
                    self.generations.add((whom, event_id))
            case "remove":
                await self._append(ScheduleRemoved(name=whom))
                self._policy.pop(whom, None)
            case "pause":
                await self._append(SchedulePaused(name=whom))
            case "resume":
                await self._append(ScheduleResumed(name=whom))

    async def follow(self, book: Book) -> None:
        if not book.ready:
            for _ in book.start_over(await self._log.load()):
                pass
            book.take_rows("mail", await self._client.hgetall(QUEUE.key("fired")))  # type: ignore[arg-type]
            for _ in book.plan_all(self.now):
                pass
        else:
            applied = await self._log.follow(book.loaded)
            assert applied is not None
            book.changed(applied, self.now)
        book.seen_at = self.now

    async def fire(self, book: Book, fate: str) -> None:
        roster = book.roster("mail")
        if not book.ready:
            return
        if roster.retiring:
            batch = dict(roster.retiring)
            await send(self._client, retire(QUEUE, list(batch.items()), now=self.now))
            book.retired(roster, batch, self.now)
        due = book.take(roster, self.now, 50)
        done: dict[str, int | None] = {}
        for part in _parts(due) if fate != "not sent" else ():
            call = fire(QUEUE, [row for _, _, row in part], seen_at=book.seen_at, epoch_id="e", now=self.now)
            reply: FireReply = await send(self._client, call)
            if fate == "no reply" or reply.status != "ok":
                continue
            for (item, step, _), result in zip(part, reply.rows, strict=True):
                done[item.name] = done.get(item.name) or book.answered(roster, item, step, result, self.now)
        for item in due:
            book.put_back(roster, item.name, self.now, done.get(item.name))

    async def finish(self) -> None:
        """Somebody who knows everything catches up, after the last clock step."""
        self.now = max(self.now, self._last_id[0]) + 3 * EVERY
        book = self._books[0] = Book(60_000)
        for _ in range(40):
            await self.follow(book)
            await self.fire(book, "answered")
            self.now += 100
        for name, row in book.state.rows.items():
            # A backlog waits for tasks that nobody runs here.
            if not row.paused and row.schedule().misfire != "run_all":
                fired = book.roster("mail").fired[name]
                assert fired is not None
                last = fired.last
                assert last > self.now - 2 * EVERY, f"{name} has stopped at {last}, and it is {self.now}"

    async def _append(self, event: Event) -> str:
        ms, seq = self._last_id
        self._last_id = (self.now, 0) if self.now > ms else (ms, seq + 1)
        event_id = "{}-{}".format(*self._last_id)
        await self._client.xadd("{t:schedules}:events", {"e": encode(event)}, id=event_id)
        return event_id


@pytest.mark.flavours("valkey", "redis62")
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(todo=operations)
def test_no_instant_is_fired_twice_or_skipped_without_a_word(server: Server, todo: list[tuple[str, Any, Any]]) -> None:
    async def play() -> set[tuple[str, str]]:
        client = connect(server.url)
        try:
            await client.flushall()
            fleet = Fleet(client)
            first = [("put", "a", "run_once"), ("put", "b", "skip"), ("put", "c", "run_all")]
            for what, whom, how in [*first, ("follow", 0, None), ("follow", 1, None), *todo]:
                await fleet.do(what, whom, how)
            await fleet.finish()
            return fleet.generations
        finally:
            await client.aclose()

    generations = asyncio.run(play())
    with schedules_on(server) as schedules:
        for name, generation in generations:
            check_exactly_once(schedules, name, generation, EVERY)
        rows = schedules.fired()
        tasks = [(task.name, task.generation, task.nominal) for task in schedules.tasks()]
        assert len(tasks) == len(set(tasks))
        assert all(
            rows[name].last >= nominal for name, generation, nominal in tasks if rows[name].generation == generation
        )

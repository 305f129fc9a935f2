"""Two or three daemons on one real server whose clock is ours: crashes, sleeps, clock steps, lost requests and replies.

Each daemon is its real book and its real plans; only the sending is the test's, so that it can go wrong.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reclaimd.daemon.schedules.book import Book, Due
from reclaimd.daemon.schedules.firing import _parts
from reclaimd.daemon.schedules.planning import Step
from reclaimd.daemon.schedules.server_clock import Seen
from reclaimd.streams.ids import EntryID
from reclaimd.streams.keys import Partition
from reclaimd.streams.occurrence_scripts import VIEW_MS, FireReply, Row, fire, retire
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

QUEUES = ("mail", "post")
EVERY = 1_000
START = 1_800_000_000_000
NAMES = ("a", "b", "c")

daemons = st.integers(0, 2)
names = st.sampled_from(NAMES)
fates = st.sampled_from(["answered", "answered", "no reply", "not sent", "late"])
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
        st.tuples(st.just("move"), names, st.sampled_from(QUEUES)),
        st.tuples(st.sampled_from(["remove", "pause", "resume"]), names, st.none()),
    ),
    min_size=20,
    max_size=60,
)


class Fleet:
    """The daemons, the clock and the log. `now`: wall ms, that may be set back; `passed`: seconds, that may not."""

    def __init__(self, client: AsyncClient) -> None:
        self.now = START
        self.passed = 0.0
        self.generations: set[tuple[str, str, str]] = set()
        self._client = client
        self._log = ScheduleLog(client, "t")
        self._books = [Book(60_000) for _ in range(3)]
        self._last_id = (START, 0)
        self._queues: dict[str, str] = {}
        self._newest: dict[str, tuple[str, set[str]]] = {}
        self._known: dict[Book, set[str]] = {}

    async def do(self, what: str, whom: Any, how: Any) -> None:
        match what:
            case "wait":
                self.wait(whom)
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
                await self.put(whom, self._queues.get(whom, "mail"), how)
            case "move":
                await self.put(whom, how, "run_once")
            case "remove":
                await self._append(ScheduleRemoved(name=whom))
                self._queues.pop(whom, None)
            case "pause":
                await self._append(SchedulePaused(name=whom))
            case "resume":
                await self._append(ScheduleResumed(name=whom))

    def wait(self, ms: int) -> None:
        self.now += ms
        self.passed += ms / 1000

    async def put(self, name: str, queue: str, misfire: Any) -> None:
        """Another queue is another generation."""
        event_id = await self._append(
            upserted(
                Schedule(
                    name=name, task="t", queue=queue, trigger=Every(EVERY), misfire=misfire, overlap="allow", drip_ms=1
                )
            )
        )
        if self._queues.get(name) != queue:
            self._queues[name] = queue
            self.generations.add((name, event_id, queue))

    async def follow(self, book: Book) -> None:
        if not book.ready:
            for _ in book.start_over(await self._log.load()):
                pass
            for queue in QUEUES:
                rows: Any = await self._client.hgetall(Partition("t", queue).key("fired"))
                book.take_rows(queue, rows, self.now)
            for _ in book.plan_all(self.now):
                pass
        else:
            ahead = book.ahead(self.now)
            applied = await self._log.follow(book.loaded)
            assert applied is not None
            book.changed(applied, self.now)
            book.lift(ahead, self.now)
            # What another daemon has fired already is in the log too.
            assert book.states.problems == 0
        book.seen = Seen(self.now, self.passed)
        self._known.setdefault(book, set()).update(row.generation for row in book.state.rows.values())

    async def fire(self, book: Book, fate: str) -> None:
        for queue in QUEUES if book.ready else ():
            if book.seen.is_fresh(self.now, self.passed, VIEW_MS):
                await self._fire_in(Partition("t", queue), book, fate)

    async def _fire_in(self, queue: Partition, book: Book, fate: str) -> None:
        roster = book.roster(queue.queue)
        if roster.retiring:
            batch = dict(roster.retiring)
            reply = await send(self._client, retire(queue, list(batch.items()), now=self.now))
            book.retired(roster, batch if reply.status == "ok" else roster.outlasted(batch, self.passed), self.now)
        due = book.take(roster, self.now, 50)
        done: dict[str, int | None] = {}
        if fate == "late":
            self.wait(VIEW_MS)
        for part in _parts(due) if fate != "not sent" else ():
            call = fire(queue, [row for _, _, row in part], seen_at=book.seen.at, epoch_id="e", now=self.now)
            rows: Any = await self._client.hkeys(queue.key("fired"))
            fired: FireReply = await send(self._client, call)
            self._check_order(book, part, fired, {name.decode() for name in rows})
            if fate == "no reply" or fired.status != "ok":
                continue
            for (item, step, _), result in zip(part, fired.rows, strict=True):
                done[item.name] = done.get(item.name) or book.answered(roster, item, step, result, self.now)
        for item in due:
            book.put_back(roster, item.name, self.now, done.get(item.name))

    def _check_order(self, book: Book, part: list[tuple[Due, Step, Row]], reply: FireReply, rows: set[str]) -> None:
        """Nothing older fires once a generation has begun, in whichever queue.

        But where nothing of it was ever fired, so that there is no row, and whoever began the newer one never knew of
        the older one, and left none.
        """
        for (item, _, _), result in zip(part, reply.rows, strict=False):
            if result.status in {"fired", "skipped"}:
                newest, known = self._newest.get(item.name, ("0-0", set[str]()))
                is_newer = EntryID.parse(item.generation) >= EntryID.parse(newest)
                assert is_newer or not (item.name in rows or item.generation in known), (
                    f"{item} after {newest} had begun"
                )
                if item.generation != newest:
                    self._newest[item.name] = item.generation, set(self._known[book])

    async def finish(self) -> None:
        """Somebody who knows everything catches up, after the last clock step."""
        self.now = max(self.now, self._last_id[0]) + 3 * EVERY
        book = self._books[0] = Book(60_000)
        for _ in range(40):
            await self.follow(book)
            await self.fire(book, "answered")
            self.wait(200)
        for name, row in book.state.rows.items():
            # A backlog waits for tasks that nobody runs here.
            if not row.paused and row.schedule().misfire != "run_all":
                fired = book.roster(self._queues[name]).fired[name]
                assert fired is not None
                last = fired.last
                assert last > self.now - 2 * EVERY, f"{name} has stopped at {last}, and it is {self.now}"

    async def _append(self, event: Event) -> str:
        ms, seq = self._last_id
        self._last_id = (self.now, 0) if self.now > ms else (ms, seq + 1)
        event_id = "{}-{}".format(*self._last_id)
        await self._client.xadd("{t:schedules}:events", {"e": encode(event)}, id=event_id)
        return event_id


def explore(server: Server, examples: int) -> None:
    """Play so many histories on an empty server."""

    @settings(max_examples=examples, suppress_health_check=[HealthCheck.too_slow])
    @given(todo=operations)
    def histories(todo: list[tuple[str, Any, Any]]) -> None:
        check(server, asyncio.run(play(server, todo)))

    histories()


async def play(server: Server, todo: list[tuple[str, Any, Any]]) -> set[tuple[str, str, str]]:
    """Returns the name, generation and queue of all schedules that there were."""
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


def check(server: Server, generations: set[tuple[str, str, str]]) -> None:
    """Every instant was dealt with once, and the rows say so."""
    with schedules_on(server) as schedules:
        for name, generation, queue in generations:
            check_exactly_once(schedules, name, generation, EVERY, queue)
        for queue in QUEUES:
            rows = schedules.fired(queue)
            tasks = [(task.name, task.generation, task.nominal) for task in schedules.tasks(queue)]
            assert len(tasks) == len(set(tasks))
            for name, generation, nominal in tasks:
                assert rows[name].generation != generation or rows[name].last >= nominal


@pytest.mark.flavours("valkey", "redis62")
def test_no_instant_is_fired_twice_or_skipped_without_a_word(server: Server) -> None:
    explore(server, 120)


@pytest.mark.soak
def test_soak(server: Server, soak_rounds: Iterator[int]) -> None:
    for _ in soak_rounds:
        explore(server, 500)

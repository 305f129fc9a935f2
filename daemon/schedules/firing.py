"""Fires what is due in one queue: plans become script calls, answers become knowledge, and what failed is due again."""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from reclaimd.daemon.batches import BatchSize, Pace
from reclaimd.daemon.links import Links
from reclaimd.daemon.schedules.book import Book, Due
from reclaimd.daemon.schedules.gate import Gate
from reclaimd.daemon.schedules.planning import Fire, Step
from reclaimd.daemon.schedules.roster import Roster
from reclaimd.daemon.schedules.server_clock import ServerClock
from reclaimd.daemon.stolen import Stolen
from reclaimd.streams.codec import Body, encode_body
from reclaimd.streams.keys import Partition, queues_key
from reclaimd.streams.logs import get_logger
from reclaimd.streams.occurrence_scripts import (
    FIRE_BYTES,
    FIRE_ROWS,
    VIEW_MS,
    FireReply,
    FireRow,
    Row,
    SkipRow,
    fire,
    retire,
)
from reclaimd.streams.scripts import Call

REGISTER_EVERY: Final = 30.0
MARGIN_MS: Final = 1_000
"""A view this much younger than the oldest that the script takes is not sent any more: it would be refused."""
LOOK_AGAIN: Final = 0.05
"""Seconds until the next look at whether the fold is known to be complete again."""
FROZEN = 0.5
"""Seconds until the next look at a partition that refuses."""
NEW = frozenset({"absent", "unarchived"})
"""What a queue is that no archive knows yet."""

log = get_logger(__name__)


class Limits(NamedTuple):
    """`batch_max`: rows a call; `longest`: seconds between two looks at most."""

    batch_max: int
    longest: float


class Firing:
    """One queue's share of the book. `alive` is called after each call.

    `gate`: what may forbid it. `frozen`: the state of a partition that refuses, or empty. When that is over, what was
    fired there is read again before anything fires.
    """

    def __init__(
        self,
        roster: Roster,
        book: Book,
        links: Links,
        clock: ServerClock,
        limits: Limits,
        *,
        namespace: str,
        stolen: Stolen,
        alive: Callable[[], None],
    ) -> None:
        self.roster = roster
        self.gate = Gate()
        self.frozen = ""
        self._book = book
        self._links = links
        self._clock = clock
        self._namespace = namespace
        self._partition = Partition(namespace, roster.queue)
        self._longest = limits.longest
        self._size = BatchSize(min(limits.batch_max, FIRE_ROWS))
        self._stolen = stolen
        self._pace = Pace(stolen, time.monotonic, alive)
        self._epoch_id = secrets.token_hex(8)
        self._registered = float("-inf")

    async def step(self) -> float:
        """Retire what must go, fire what is due. Returns the seconds until the next thing is due, at most `longest`."""
        if not self._book.ready or not self._clock.known:
            return self._longest
        if not self._is_fresh() or self.gate.closed(self.roster.queue):
            return LOOK_AGAIN
        if self.frozen and not await self._thaws():
            return FROZEN
        again = 0.0
        if self.roster.retiring and not self.frozen:
            again = await self._retire()
        if await self._pace.repeat(self._size, self._fire):
            return 0.0 if self._is_fresh() else LOOK_AGAIN
        # What was removed by the hundred thousand must not keep waiting what is due.
        longest = again if self.roster.retiring and not self.frozen else self._longest
        due = self.roster.timers.next_due()
        return longest if due is None else min(longest, max(0.0, (due - self._clock.now()) / 1000))

    async def _thaws(self) -> bool:
        """Ask by a call that fires nothing. True when firing may go on."""
        call = self._call([])
        reply = await self._links.send(call)
        if reply.status == "state":
            self._freeze(reply.state)
        elif reply.status == "ok":
            log.info("schedules fire here again", queue=self.roster.queue)
            new = self.frozen in NEW and not self.roster.fired
            self.frozen = ""
            self.gate.on_frozen(self.roster.queue, "")
            if not new:
                self.gate.on_thaw(self.roster.queue)
            return new
        return False

    def _call(self, rows: Sequence[Row]) -> Call[FireReply]:
        return fire(self._partition, rows, seen_at=self._book.seen.at, epoch_id=self.gate.epoch(self._epoch_id))

    def _freeze(self, state: str) -> None:
        if state != self.frozen:
            log.warning("schedules do not fire here until it is ok", queue=self.roster.queue, state=state)
        self.frozen = state
        # A queue that is new waits for the archive to know it.
        self.gate.on_frozen(self.roster.queue, "" if state in NEW else state)

    def _is_fresh(self) -> bool:
        return self._book.seen.is_fresh(self._clock.now(), time.monotonic(), VIEW_MS - MARGIN_MS)

    async def _retire(self) -> float:
        """One batch. Returns the seconds until the next one. A queue that has no epoch takes none; any other state will
        pass.
        """
        batch = dict(islice(self.roster.retiring.items(), FIRE_ROWS))
        reply = await self._links.send(retire(self._partition, list(batch.items())))
        if reply.status == "state" and reply.state != "absent":
            self._freeze(reply.state)
            return 0.0
        names = batch if reply.status == "ok" else self.roster.outlasted(batch, time.monotonic())
        done = [name for name in names if self.roster.retiring.get(name) == batch[name]]
        self._book.retired(self.roster, done, int(self._clock.now()))
        if done:
            log.info("schedules fire here no more", queue=self.roster.queue, schedules=len(done))
        return 0.0 if reply.status == "ok" else LOOK_AGAIN

    async def _fire(self, limit: int) -> tuple[int, bool]:
        """One batch: returns how many rows were sent, and whether more is due."""
        if not self._book.ready or not self._is_fresh() or self.frozen or self.gate.closed(self.roster.queue):
            return 0, False
        with self._stolen.slice():
            due = self._book.take(self.roster, int(self._clock.now()), limit)
        done: dict[str, int | None] = {}
        try:
            if due:
                await self._register()
            for part in _parts(due):
                await self._send(part, done)
        finally:
            now = int(self._clock.now())
            with self._stolen.slice():
                for item in due:
                    # One whose answer was lost is planned as before, and its next answer tells what had become of it.
                    self._book.put_back(self.roster, item.name, now, done.get(item.name))
        following = self.roster.timers.next_due()
        return sum(len(item.steps) for item in due), following is not None and following <= self._clock.now()

    async def _send(self, part: Sequence[tuple[Due, Step, Row]], done: dict[str, int | None]) -> None:
        sent = time.monotonic()
        call = self._call([row for _, _, row in part])
        reply: FireReply = await self._links.send(call)
        if reply.status == "state":
            self._freeze(reply.state)
        if reply.status != "ok":
            soon = int(self._clock.now() + LOOK_AGAIN * 1000)
            done.update({due.name: soon for due, _, _ in part})
            return
        self._clock.saw(reply.now, sent)
        with self._stolen.slice():
            self._learn(part, reply, done)

    def _learn(self, part: Sequence[tuple[Due, Step, Row]], reply: FireReply, done: dict[str, int | None]) -> None:
        for (due, step, _), result in zip(part, reply.rows, strict=True):
            if result.status == "unreadable":
                log.warning(
                    "schedule cannot fire, its row is unreadable",
                    queue=self.roster.queue,
                    schedule=due.name,
                    key=self._partition.key("fired"),
                )
            not_before = self._book.answered(self.roster, due, step, result, reply.now)
            # What keeps one instant back keeps those after it back.
            done[due.name] = done.get(due.name) or not_before

    async def _register(self) -> None:
        """Whoever looks for queues must find this one; again now and then, since Redis may have been emptied."""
        if time.monotonic() - self._registered > REGISTER_EVERY:
            await self._links.use(lambda client: client.sadd(queues_key(self._namespace), self.roster.queue))
            self._registered = time.monotonic()


def _parts(due: Sequence[Due]) -> Iterator[list[tuple[Due, Step, Row]]]:
    """What goes into one call each, in order: so many rows, and about so many bytes."""
    part: list[tuple[Due, Step, Row]] = []
    size = 0
    for item in due:
        body = encode_body(Body(name=item.schedule.task, args=item.schedule.args))
        for step in item.steps:
            if part and (len(part) >= FIRE_ROWS or size + len(body) > FIRE_BYTES):
                yield part
                part, size = [], 0
            part.append((item, step, _row(item, step, body)))
            size += len(body) if isinstance(step, Fire) else 0
    if part:
        yield part


def _row(due: Due, step: Step, body: bytes) -> Row:
    if not isinstance(step, Fire):
        return SkipRow(due.name, due.generation, step.after, step.upto, step.many, step.reason)
    schedule = due.schedule
    return FireRow(
        due.name,
        due.generation,
        step.after,
        step.nominal,
        step.due,
        step.overlap,
        schedule.lane,
        schedule.max_deliveries,
        body,
        schedule.limit or 0,
    )

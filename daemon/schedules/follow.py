"""Keeps the book true to the log: loads it, follows it, and begins again when the log is not what it was."""

import gc
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import anyio
import redis

from reclaimd.daemon.links import Link, Links
from reclaimd.daemon.schedules.book import Book
from reclaimd.daemon.schedules.rows import read_rows
from reclaimd.daemon.schedules.server_clock import Seen, ServerClock
from reclaimd.daemon.stolen import Stolen
from reclaimd.streams.keys import queues_key, schedule_epoch_key, schedule_events_key
from reclaimd.streams.logs import get_logger
from reclaimd.streams.redis_log import REPLY_TIMEOUT, AsyncClient
from reclaimd.streams.schedules.events import ScheduleRejected
from reclaimd.streams.schedules.fold import START, Applied
from reclaimd.streams.schedules.log import PAGE, Loaded, ScheduleLog

BLOCK_MS: Final = 1_000

log = get_logger(__name__)


class Follower:
    """`link`: a connection of its own, on which reads wait. `alive` is called in the middle of long work.

    `lost`: how many schedules there were when Redis was found without any; 0 again as soon as there are some.
    `frozen`: the state of a log that is lost or being restored, or empty: nothing fires on what is left of it.
    """

    def __init__(
        self,
        namespace: str,
        book: Book,
        link: Link,
        links: Links,
        clock: ServerClock,
        *,
        stolen: Stolen,
        alive: Callable[[], None],
        on_rejected: Callable[[], None] = lambda: None,
    ) -> None:
        self.lost = 0
        self.frozen = ""
        self._restored = ""
        self.lag_ms = 0
        self.loads = 0
        self._namespace = namespace
        self._book = book
        self._link = link
        self._links = links
        self._clock = clock
        self._stolen = stolen
        self._alive = alive
        self._on_rejected = on_rejected
        self._reported: dict[str, str] = {}
        self._waiting: anyio.CancelScope | None = None

    def load_again(self) -> None:
        """What Redis holds was replaced: whatever is known of it may be wrong."""
        self._book.ready = False
        if self._waiting is not None:
            self._waiting.cancel()

    async def step(self) -> float:
        """Load if need be, else take in what is new, or wait a second for it. Returns 0, to be called again at once."""
        if not self._book.ready:
            await self.load()
        elif await self._follow() == 0:
            await self._wait()
        return 0.0

    async def load(self) -> None:
        """Read all there is: the schedules, and what was fired of them."""
        # Millions of new objects, none of them garbage: collecting would only look at them again and again.
        gc.disable()
        try:
            await self._load()
        finally:
            gc.enable()

    async def _load(self) -> None:
        began = time.monotonic()
        known = len(self._book.state.rows)
        await self._ask_time()
        loaded = await self._link.use(lambda client: ScheduleLog(client, self._namespace).load())
        for problem in loaded.problems:
            log.error("schedules are damaged", problem=problem)
        self._notice_loss(known, loaded)
        self._reported = {}
        await self._in_slices(self._book.start_over(loaded))
        await self._read_fired()
        await self._in_slices(self._book.plan_all(int(self._clock.now())))
        # Only now is the fold as old as its last page; what came meanwhile is read next, before anything fires.
        await self._follow()
        await self._report_rejected()
        self.loads += 1
        log.info(
            "schedules loaded",
            schedules=len(loaded.state.rows),
            position=str(loaded.position),
            snapshot=loaded.snapshot_id,
            events=loaded.folded,
            seconds=round(time.monotonic() - began, 3),
        )

    async def _follow(self) -> int:
        """Take in one page of events. Returns how many there were."""
        asked = time.monotonic()
        seen_at = await self._ask_time()
        ahead = self._book.ahead(seen_at)
        loaded = self._book.loaded
        if self._restored != loaded.restored:
            log.warning("schedules are read again: they were restored from the archive")
            self._book.ready = False
            return 1
        applied = await self._link.use(lambda client: ScheduleLog(client, self._namespace).follow(loaded))
        if applied is None:
            log.warning("schedules are read again: events are gone that were there", position=str(loaded.position))
            self._book.ready = False
            return 1
        if applied:
            await self._take(applied)
        complete = len(applied) < PAGE
        self.lag_ms = 0 if complete else max(0, seen_at - loaded.position.ms)
        if complete:
            self._book.seen = Seen() if self.frozen else Seen(seen_at, asked)
            if ahead and not self.frozen:
                self._book.lift(ahead, int(self._clock.now()))
        return len(applied)

    async def _take(self, applied: list[Applied]) -> None:
        with self._stolen.slice():
            self._book.changed(applied, int(self._clock.now()))
        if self._book.state.rows:
            self.lost = 0
        for change in applied:
            _tell(change)
            if change.what == "rejected":
                self._on_rejected()
        await self._report_rejected()

    async def _ask_time(self) -> int:
        sent = time.monotonic()

        async def ask(client: AsyncClient) -> tuple[int, Any]:
            nonlocal sent
            sent = time.monotonic()
            pipeline: Any = client.pipeline(transaction=False)
            pipeline.time()
            pipeline.hmget(schedule_epoch_key(self._namespace), ["restored", "state"])
            (seconds, micros), epoch = await pipeline.execute()
            return int(seconds) * 1_000_000 + int(micros), epoch

        micros, (restored, state) = await self._link.use(ask)
        self._clock.saw(micros / 1000, sent)
        self._restored = _text(restored or b"")
        self._note_state(_text(state or b"ok"))
        return micros // 1000

    def _note_state(self, state: str) -> None:
        frozen = "" if state == "ok" else state
        if frozen != self.frozen:
            log.warning("no schedule fires until all are back" if frozen else "schedules fire again", state=state)
        self.frozen = frozen
        if frozen:
            self._book.seen = Seen()

    async def _wait(self) -> None:
        """Until there is an event after the last one, for a second at most."""
        position = self._book.loaded.position
        key = schedule_events_key(self._namespace)

        async def read(client: AsyncClient) -> Any:
            return await client.xread({key: str(position)}, count=1, block=BLOCK_MS)

        with anyio.CancelScope() as self._waiting:
            await self._link.use(read)

    async def _read_fired(self) -> None:
        """Rows of all queues, those that are not in use any more too; one that is broken does not stop the others."""
        names = await self._links.use(lambda client: client.smembers(queues_key(self._namespace)))
        queues = {_text(name) for name in names} | set(self._book.rosters)
        for queue in sorted(queues):
            try:
                await read_rows(self._links, self._namespace, queue, self._book, self._clock.now, self._alive)
            except redis.ResponseError as error:
                # Firing there meets the same key, and reports it until it is cured.
                log.warning("what was fired cannot be read", queue=queue, error=str(error))

    async def _in_slices(self, work: Iterable[None]) -> None:
        for _ in work:
            self._alive()
            await anyio.lowlevel.checkpoint()

    async def _report_rejected(self) -> None:
        """Whoever appended a definition that cannot be used finds the reason in the log, beside it."""
        found = self._book.unreported()
        news = [(name, problem) for name, problem in found if self._reported.get(name) != problem.entry]
        if not news or self.frozen:
            return
        events = [ScheduleRejected(name=name, field=p.field, reason=p.reason, entry=p.entry) for name, p in news]
        await self._link.use(lambda client: ScheduleLog(client, self._namespace).append(events))
        # They come back behind all that was not read yet: asking the fold again until then would report them again.
        self._reported = {name: problem.entry for name, problem in found}

    def _notice_loss(self, known: int, loaded: Loaded) -> None:
        if known and not loaded.state.rows and loaded.position == START:
            self.lost = known
            log.error("redis holds no schedules any more", known_before=known)
        elif loaded.state.rows:
            self.lost = 0


def reading_timeout() -> float:
    """The reply timeout, in seconds, of the link that a Follower needs."""
    return BLOCK_MS / 1000 + REPLY_TIMEOUT


def _tell(change: Applied) -> None:
    match change.what:
        case "rejected" if change.problem is not None:
            log.warning(
                "schedule rejected", schedule=change.name, field=change.problem.field, reason=change.problem.reason
            )
        case "suspended":
            log.warning("schedule suspended: an event of it cannot be read by this version", schedule=change.name)
        case "unreadable" if change.problem is not None:
            log.warning("schedule event unreadable", entry=change.problem.entry, reason=change.problem.reason)
        case "nothing" | "noted":
            pass
        case _:
            log.info("schedule changed", schedule=change.name, change=change.what)


def _text(name: bytes | str) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name

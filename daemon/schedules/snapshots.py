"""Writes snapshots of the fold now and then, so that a start reads little, and trims the log behind them."""

import time
from collections.abc import Callable
from typing import Any, Final, Literal

import anyio
import redis

from reclaimd.daemon.links import Link
from reclaimd.daemon.schedules.book import Book
from reclaimd.daemon.schedules.server_clock import ServerClock
from reclaimd.streams.errors import ReclaimdError
from reclaimd.streams.ids import EntryID
from reclaimd.streams.keys import schedule_snapshots_key
from reclaimd.streams.logs import get_logger
from reclaimd.streams.redis_log import AsyncClient
from reclaimd.streams.schedules.fold import START
from reclaimd.streams.schedules.log import Loaded, ScheduleLog, Trimmed, Written
from reclaimd.streams.schedules.snapshot import Commit, read_commit

LOOK_EVERY: Final = 1.0
SOMEBODY_WRITES_MS: Final = 10_000
"""A snapshot begun by somebody no longer ago than this is waited for."""
FIRST_RETRY: Final = 5.0
LONGEST_RETRY: Final = 300.0
REST: Final = 10
"""Times as long as the last one took, until the next may begin."""
AT_STOP_SECONDS: Final = 0.8

Result = Literal["written", "failed", "overtaken"]
log = get_logger(__name__)


class Snapshots:
    """`new_link` opens a connection for one snapshot. After `every_events` events or `every_ms`, if anything changed.

    Two daemons need not write the same one: each looks first whether another has done so or is at it. `on_result` is
    told of each try. `taken_ms`: server wall ms of the newest known one.
    """

    def __init__(
        self,
        namespace: str,
        book: Book,
        clock: ServerClock,
        new_link: Callable[[], Link],
        *,
        every_events: int,
        every_ms: int,
        on_result: Callable[[Result], None],
    ) -> None:
        self.taken_ms: int | None = None
        self._namespace = namespace
        self._book = book
        self._clock = clock
        self._new_link = new_link
        self._every_events = every_events
        self._every_ms = every_ms
        self._on_result = on_result
        self._loaded: Loaded | None = None
        self._covers = START
        self._folded = 0
        self._since_ms = 0.0
        self._not_before = 0.0
        self._retry = FIRST_RETRY

    async def step(self) -> float:
        """Write one if it is time. Returns the seconds until the next look."""
        if self._is_whole() and self._is_due():
            await self._try()
        return LOOK_EVERY

    async def at_stop(self) -> None:
        """Write a last one if anything changed, or give up within a second: the next start then folds some more."""
        if not self._is_whole() or self._book.state.position <= self._known():
            return
        with anyio.move_on_after(AT_STOP_SECONDS, shield=True):
            await self._try()

    def _known(self) -> EntryID:
        """What the newest known snapshot covers; begins anew with each load."""
        loaded = self._book.loaded
        if self._loaded is not loaded:
            self._loaded = loaded
            self._folded = 0
            self._since_ms = self._clock.now()
            self._covers, self.taken_ms = START, None
            if loaded.snapshot_id is not None:
                self.taken_ms = EntryID.parse(loaded.snapshot_id).ms
                self._since_ms = self.taken_ms
                if loaded.folded == 0:
                    self._covers = loaded.position
        return self._covers

    def _is_whole(self) -> bool:
        """Of what is left after a loss no snapshot would be committed: each try would only fill Redis."""
        return self._book.ready and self._book.seen.at > 0

    def _is_due(self) -> bool:
        if self._book.state.position <= self._known() or time.monotonic() < self._not_before:
            return False
        events = self._book.loaded.folded - self._folded
        return events >= self._every_events or self._clock.now() - self._since_ms >= self._every_ms

    async def _try(self) -> None:
        began = time.monotonic()
        link = self._new_link()
        try:
            if not await self._others_did(link):
                await self._write(link)
            self._retry = FIRST_RETRY
            self._not_before = time.monotonic() + REST * (time.monotonic() - began)
        except (ReclaimdError, redis.RedisError) as error:
            # Nothing is lost by it but the time of the next start.
            self._on_result("failed")
            log.warning("snapshot of schedules failed", error=str(error), retry_seconds=self._retry)
            self._not_before = time.monotonic() + self._retry
            self._retry = min(self._retry * 2, LONGEST_RETRY)
        finally:
            await link.aclose()

    async def _others_did(self, link: Link) -> bool:
        """Whether another daemon has written one that we did not know of, or is writing one."""
        entry_id, commit = await link.use(self._newest)
        if commit is not None and EntryID.parse(commit.covers) > self._known():
            self._note(EntryID.parse(commit.covers), EntryID.parse(commit.of).ms)
            return True
        return commit is None and self._clock.now() - entry_id.ms < SOMEBODY_WRITES_MS

    async def _newest(self, client: AsyncClient) -> tuple[EntryID, Commit | None]:
        reply: Any = await client.xrevrange(schedule_snapshots_key(self._namespace), count=1)
        for entry_id, fields in reply or ():
            return EntryID.parse(entry_id), read_commit(fields)
        return START, None

    async def _write(self, link: Link) -> None:
        began = time.monotonic()
        loaded = self._book.loaded
        state, folded, restored = loaded.state, loaded.folded, loaded.restored
        position = state.position

        async def write(client: AsyncClient) -> Written | None:
            return await ScheduleLog(client, self._namespace).write_snapshot(state, restored=restored)

        async def trim(client: AsyncClient) -> Trimmed:
            schedules = ScheduleLog(client, self._namespace)
            return await schedules.trim(limit=await schedules.archived())

        written = await link.use(write)
        if written is None:
            self._on_result("overtaken")
            return
        self._note(position, EntryID.parse(written.snapshot_id).ms)
        self._folded = folded
        trimmed = await link.use(trim)
        self._on_result("written")
        log.info(
            "snapshot of schedules written",
            schedules=written.rows,
            covers=written.covers,
            bytes=written.payload,
            trimmed_events=trimmed.events,
            seconds=round(time.monotonic() - began, 3),
        )

    def _note(self, covers: EntryID, taken_ms: int) -> None:
        self._covers, self.taken_ms, self._since_ms = covers, taken_ms, taken_ms
        self._folded = self._book.loaded.folded

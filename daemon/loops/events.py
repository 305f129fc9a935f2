"""One reader for the event streams of all partitions: metrics, log lines, and hints for the loops that sleep.

Events are read at most ten times a second, however many come; a reader that fell behind does not pause.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import anyio
import redis

from reclaimd.daemon.links import Link
from reclaimd.daemon.loops.narrator import Narrator
from reclaimd.daemon.loops.shell import Context, Loop
from reclaimd.metrics.from_events import EventObserver
from reclaimd.streams.events import Batch, decode_batch
from reclaimd.streams.ids import EntryID
from reclaimd.streams.keys import Partition
from reclaimd.streams.logs import get_logger
from reclaimd.streams.redis_log import REPLY_TIMEOUT, AsyncClient

NAME = "events"
BLOCK_MS = 1_000
PACE = 0.1
AT_ONCE = 200
"""Batches that one read takes of each stream."""
LOOK_AGAIN = 5.0
START = "0-0"

log = get_logger(__name__)
Reply = Mapping[bytes, list[tuple[bytes, Mapping[bytes, bytes]]]]


class Hints(Protocol):
    """Takes what events say about when to look at a partition again. `observes`: whether this daemon of several makes
    the histograms of a queue.
    """

    def happened(self, queue: str, batches: list[Batch]) -> None: ...
    def observes(self, queue: str) -> bool: ...
    def server_now(self, queue: str) -> float | None: ...


class EventsLoop:
    """Reads on from a position in each stream."""

    def __init__(self, context: Context, link: Link, hints: Hints, narrator: Narrator) -> None:
        self.loop = Loop(NAME, "", self.step, context)
        self._context = context
        self._link = link
        self._hints = hints
        self._narrator = narrator
        self._observer = EventObserver(context.instruments)
        self._queues: dict[str, str] = {}
        self._positions: dict[str, str | None] = {}
        self._resume: dict[str, str] = {}
        self._broken: set[str] = set()
        self._look_again_at = 0.0
        self._behind = False
        self._waiting: anyio.CancelScope | None = None

    def watch(self, partition: Partition, position: str | None = START) -> None:
        """Read this partition's events after `position`; None: from the end as it is at the next step."""
        key = partition.key("events")
        self._queues[key] = partition.queue
        self._positions.setdefault(key, position)
        # A read that waits does not know of the new stream, and a worker with a short lease may have joined there.
        self.loop.alarm.ring_within(0.0)
        if self._waiting is not None:
            self._waiting.cancel()

    def restart(self, partition: Partition) -> None:
        """The partition's data were replaced, so that IDs may begin anywhere: below what was read already, or not."""
        key = partition.key("events")
        position = self._positions.get(key)
        if position is not None:
            self._resume[key] = position
        self._positions[key] = None

    def unwatch(self, partition: Partition) -> None:
        """The partition is gone."""
        key = partition.key("events")
        self._queues.pop(key, None)
        self._positions.pop(key, None)
        self._resume.pop(key, None)
        self._broken.discard(key)
        self._context.health.forget(NAME, partition.queue)

    async def step(self) -> float:
        """Read what there is, or wait a second for it. Returns the seconds until the next read."""
        began = time.monotonic()
        found = await self._read_on(BLOCK_MS)
        if self._behind:
            return 0.0
        pace = PACE if found or self._readable() else BLOCK_MS / 1000
        return max(0.0, began + pace - time.monotonic())

    async def catch_up(self) -> float:
        """Read until nothing is left, without waiting for more."""
        while await self._read_on(None):
            pass
        return 0.0

    async def _read_on(self, block_ms: int | None) -> bool:
        """Read once; tells whether anything was there."""
        if self._broken and time.monotonic() >= self._look_again_at:
            await self._sort_out()
        await self.find_ends()
        if self._behind:
            await self._look_for_gaps()
        self._behind = True  # until this read says otherwise: after a failure trimming may have overtaken us
        reply = await self._read(block_ms)
        self._behind = False
        for key, entries in reply.items():
            await self._take(key.decode(), entries)
        return bool(reply)

    def _readable(self) -> dict[str, str]:
        return {k: p for k, p in self._positions.items() if p is not None and k not in self._broken}

    async def _read(self, block_ms: int | None) -> Reply:
        positions = self._readable()
        if not positions:
            return {}
        block = () if block_ms is None else ("BLOCK", block_ms)
        command = ("XREAD", "COUNT", AT_ONCE, *block, "STREAMS", *positions, *positions.values())

        async def read(client: AsyncClient) -> Reply:
            return await client.execute_command(*command) or {}  # type: ignore[no-untyped-call]

        with anyio.CancelScope() as self._waiting:
            return await self._read_or_sort_out(read)
        return {}

    async def _read_or_sort_out(self, read: Callable[[AsyncClient], Awaitable[Reply]]) -> Reply:
        try:
            return await self._link.use(read)
        except redis.ResponseError:
            # One stream that is none spoils the command for all.
            if await self._sort_out():
                return {}
            raise

    async def _take(self, key: str, entries: list[tuple[bytes, Mapping[bytes, bytes]]]) -> None:
        queue = self._queues.get(key)
        if queue is None or not entries:
            return
        with self._context.stolen.slice():
            batches = [_batch(entry_id, fields) for entry_id, fields in entries]
        # Hints first: they are what somebody waits for.
        self._hints.happened(queue, batches)
        observes = self._hints.observes(queue)
        for batch in batches:
            with self._context.stolen.slice():
                if observes:
                    self._observer.observe(batch, queue)
                self._narrator.hear(queue, key, batch)
            self._positions[key] = batch.entry_id
            # A flood of events must not delay a recovery.
            await anyio.lowlevel.checkpoint()
        full = len(entries) >= AT_ONCE
        self._behind = self._behind or full
        server_now = self._hints.server_now(queue)
        lag = max(0.0, server_now - batches[-1].at) / 1000 if full and server_now is not None else 0.0
        self._context.instruments.events_read_lag.labels(queue).set(lag)

    async def find_ends(self) -> float:
        """Fix the positions that were left open: at the end of each stream as it is now."""
        for key, position in list(self._positions.items()):
            if position is None and key not in self._broken:
                end = await self._end_of(key)
                if end is not None and (resume := self._resume.pop(key, None)) is not None:
                    # An event that was heard must not be counted again, nor one that came since be missed.
                    end = resume if EntryID.parse(end) >= EntryID.parse(resume) else START
                self._positions[key] = end
        return 0.0

    async def _end_of(self, key: str) -> str | None:
        async def newest(client: AsyncClient) -> list[Any]:
            return await client.xrevrange(key, count=1) or []

        try:
            last = await self._link.use(newest)
        except redis.ResponseError:
            await self._sort_out()
            return None
        return last[0][0].decode() if last else START

    async def _sort_out(self) -> bool:
        """Set aside what is no stream, and take back what is one again; tells whether anything is set aside."""
        self._look_again_at = time.monotonic() + LOOK_AGAIN
        keys = list(self._queues)
        types = await self._all(keys, lambda pipeline, key: pipeline.type(key))
        for key, kind in zip(keys, types, strict=True):
            queue = self._queues[key]
            if kind in {b"stream", b"none"}:
                if key in self._broken:
                    self._broken.discard(key)
                    self._context.health.forget(NAME, queue)
                    log.info("events can be read again", queue=queue)
            elif key not in self._broken:
                self._broken.add(key)
                self._context.instruments.loop_errors.labels(NAME).inc()
                problem = f"{key} holds a {kind.decode()}, not a stream: rename or delete it"
                self._context.health.failed(NAME, queue, problem)
                log.error("events cannot be read", queue=queue, error=problem)
            else:
                self._context.health.progress(NAME, queue)
        return bool(self._broken)

    async def _look_for_gaps(self) -> None:
        positions = {key: position for key, position in self._readable().items() if position != START}
        if not positions:
            return
        firsts = await self._all(list(positions), lambda pipeline, key: pipeline.xrange(key, count=1))
        for (key, position), first in zip(positions.items(), firsts, strict=True):
            if first and EntryID.parse(first[0][0]) > EntryID.parse(position):
                self._context.instruments.events_gaps.labels(self._queues[key]).inc()
                begin = first[0][0].decode()
                log.warning(
                    "events were trimmed before they were read", queue=self._queues[key], after=position, before=begin
                )
                # What is lost is reported once, not at each read.
                self._positions[key] = _just_before(EntryID.parse(begin))

    async def _all(self, keys: list[str], ask: Callable[[Any, str], Any]) -> list[Any]:
        async def in_one_go(client: AsyncClient) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                ask(pipeline, key)
            return await pipeline.execute()

        return await self._link.use(in_one_go)


def reading_timeout() -> float:
    """The reply timeout, in seconds, of the link that an EventsLoop needs."""
    return BLOCK_MS / 1000 + REPLY_TIMEOUT


def _batch(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Batch:
    return decode_batch(fields.get(b"at", b""), fields.get(b"e", b""), entry_id.decode())


def _just_before(entry: EntryID) -> str:
    if entry.seq > 0:
        return str(EntryID(entry.ms, entry.seq - 1))
    return str(EntryID(max(0, entry.ms - 1), 2**64 - 1))

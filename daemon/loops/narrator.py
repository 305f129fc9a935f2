"""Writes what events tell into the log, in small slices: many recovered tasks must not delay the recovery."""

from collections import deque
from typing import Any, NamedTuple

import anyio
import redis
from prometheus_client import Counter

from reclaimd.daemon.links import Links
from reclaimd.daemon.loops.narration import Line, narrate
from reclaimd.daemon.stolen import Stolen
from reclaimd.streams.errors import ReclaimdError
from reclaimd.streams.events import Batch, decode_batch
from reclaimd.streams.logs import get_logger
from reclaimd.streams.redis_log import AsyncClient

SLICE = 20
"""Lines between two turns of the other loops, about a millisecond of work."""
KEPT_LINES = 10_000
"""Beyond so many untold lines only the IDs of their batches are kept, which are read again in their turn."""

log = get_logger("reclaimd.daemon.events")


class _Untold(NamedTuple):
    queue: str
    lines: list[Line]


class _LeftInRedis(NamedTuple):
    queue: str
    key: str
    entry_id: str


class Narrator:
    """Takes batches in order and tells them in that order, when there is time. `gaps` counts those trimmed before."""

    def __init__(self, links: Links, stolen: Stolen, gaps: Counter) -> None:
        self._links = links
        self._gaps = gaps
        self._stolen = stolen
        self._backlog: deque[_Untold | _LeftInRedis] = deque()
        self._kept = 0
        self._wanted = anyio.Event()
        self._done = anyio.Event()
        self._done.set()

    def hear(self, queue: str, key: str, batch: Batch) -> None:
        """Take note of a batch; `key` is the stream that holds it."""
        lines = list(narrate(batch))
        if not lines:
            return
        if self._kept > KEPT_LINES:
            self._backlog.append(_LeftInRedis(queue, key, batch.entry_id))
        else:
            self._kept += len(lines)
            self._backlog.append(_Untold(queue, lines))
        if self._done.is_set():
            self._done = anyio.Event()
        self._wanted.set()

    async def told(self) -> None:
        """Wait until everything heard so far is in the log."""
        await self._done.wait()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wanted.wait()
            while self._backlog:
                await self._tell(self._backlog.popleft())
            self._wanted = anyio.Event()
            self._done.set()

    async def _tell(self, item: _Untold | _LeftInRedis) -> None:
        if isinstance(item, _Untold):
            self._kept -= len(item.lines)
            await self._write(item.queue, item.lines)
            return
        batch = await self._read_again(item)
        if batch is None:
            self._gaps.labels(item.queue).inc()
            log.warning("event was trimmed before it was told", queue=item.queue, entry=item.entry_id)
        else:
            await self._write(item.queue, list(narrate(batch)))

    async def _write(self, queue: str, lines: list[Line]) -> None:
        for start in range(0, len(lines), SLICE):
            with self._stolen.slice():
                for line in lines[start : start + SLICE]:
                    getattr(log, line.level)(line.text, queue=queue, **line.fields)
            await anyio.lowlevel.checkpoint()

    async def _read_again(self, item: _LeftInRedis) -> Batch | None:
        async def one(client: AsyncClient) -> list[Any]:
            return await client.xrange(item.key, item.entry_id, item.entry_id) or []

        try:
            found = await self._links.use(one)
        except (ReclaimdError, redis.RedisError):
            # Whatever ails Redis is reported by the loops; these lines are counted as missed.
            return None
        for entry_id, fields in found:
            return decode_batch(fields.get(b"at", b""), fields.get(b"e", b""), entry_id.decode())
        return None

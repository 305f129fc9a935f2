"""The log of schedules for tests: filled, snapshotted, damaged, and interrupted in the middle of a load or a write."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from reclaimd.streams.keys import schedule_events_key, schedule_snapshots_key
from reclaimd.streams.redis_log import AsyncClient, connect
from reclaimd.streams.schedules.events import ScheduleUpserted, upserted
from reclaimd.streams.schedules.fold import Schedules
from reclaimd.streams.schedules.log import Loaded, ScheduleLog
from reclaimd.streams.schedules.model import Every, Schedule
from support.daemons import NAMESPACE
from support.servers import Server

EVENTS = schedule_events_key(NAMESPACE)
SNAPSHOTS = schedule_snapshots_key(NAMESPACE)


def upsert(name: str, every_ms: int = 1000) -> ScheduleUpserted:
    return upserted(Schedule(name=name, task="t", queue="q", trigger=Every(every_ms)))


@asynccontextmanager
async def opened(server: Server) -> AsyncIterator[tuple[ScheduleLog, AsyncClient]]:
    client = connect(server.url)
    try:
        yield ScheduleLog(client, NAMESPACE), client
    finally:
        await client.aclose()


async def raised(log: ScheduleLog, count: int, first: int = 0) -> list[str]:
    """Append `count` new schedules."""
    return await log.append(upsert(f"s{number}") for number in range(first, first + count))


async def snapshots(log: ScheduleLog, count: int) -> list[str]:
    """Write snapshots, with one new schedule before each; returns their headers' IDs."""
    written = []
    for number in range(count):
        await log.append([upsert(f"n{number}")])
        done = await log.write_snapshot((await log.load()).state)
        assert done is not None
        written.append(done.snapshot_id)
    return written


async def entry_ids(client: AsyncClient, key: str) -> list[str]:
    entries: Any = await client.xrange(key)
    return [entry_id.decode() for entry_id, _ in entries]


async def damage(client: AsyncClient, header: str) -> None:
    """Delete the first chunk of a snapshot."""
    entries: Any = await client.xrange(SNAPSHOTS, header, "+")
    chunk = next(entry_id for entry_id, fields in entries if fields.get(b"of") == header.encode())
    await client.xdel(SNAPSHOTS, chunk)


class Interrupted(ScheduleLog):
    """Lets others act at one point of a load or a write."""

    def __init__(
        self,
        server: Server,
        *,
        after_base: Callable[[], Awaitable[None]] | None = None,
        after_header: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._own = connect(server.url)
        super().__init__(self._own, NAMESPACE)
        self._after_base = after_base
        self._after_header = after_header
        self.bases = 0

    async def _base(self) -> Loaded:
        loaded = await super()._base()
        self.bases += 1
        hook, self._after_base = self._after_base, None
        if hook is not None:
            await hook()
        return loaded

    async def _add(self, key: str, entries: Any) -> list[str]:
        added = await super()._add(key, entries)
        hook, self._after_header = self._after_header, None
        if hook is not None:
            await hook()
        return added

    async def read(self) -> Loaded:
        try:
            return await self.load()
        finally:
            await self._own.aclose()

    async def write(self, state: Schedules) -> Any:
        try:
            return await self.write_snapshot(state)
        finally:
            await self._own.aclose()

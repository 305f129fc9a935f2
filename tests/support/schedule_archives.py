"""Archivers of schedules for tests, each with an archive in a file, and stepped by hand."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from reclaimd.daemon.archive.errors import ArchiveFailed
from reclaimd.daemon.archive.restoring_schedules import fold_of
from reclaimd.daemon.archive.store import Store, open_store
from reclaimd.daemon.connectivity import Connectivity
from reclaimd.daemon.health import Health
from reclaimd.daemon.links import Ask, Links
from reclaimd.daemon.loops.ownership import Claims
from reclaimd.daemon.loops.schedule_archiver import ScheduleArchiver
from reclaimd.daemon.loops.scheduler import Scheduler
from reclaimd.daemon.loops.shell import Context
from reclaimd.metrics.instruments import new_registry
from reclaimd.streams.errors import RedisUnreachable
from reclaimd.streams.redis_log import connect
from reclaimd.streams.schedules.fold import START, Schedules
from reclaimd.streams.schedules.log import Loaded, ScheduleLog
from support.daemons import NAMESPACE, settings_for
from support.servers import Server

T = TypeVar("T")


class Shared:
    """What archivers of one daemon share."""

    def __init__(self, store: Store, me: str) -> None:
        self.me = me
        self.claims = Claims(dead=lambda _: True)
        self.failures: list[ArchiveFailed] = []
        self._store = store

    async def store(self) -> Store:
        return self._store

    def failed(self, queue: str, error: ArchiveFailed) -> float:
        self.failures.append(error)
        return 0.1

    def worked(self, queue: str) -> None:
        pass


class BreakingLinks(Links):
    """Links that fail once, as if the process had died there: at the call with the number `at`, before or after it."""

    def __init__(self, server: Server, connectivity: Connectivity) -> None:
        super().__init__(server.url, connectivity)
        self.calls = 0
        self.at: int | None = None
        self.after = False
        self.between: Callable[[], Awaitable[None]] | None = None

    async def use(self, ask: Ask[T]) -> T:
        """Ask, or fail."""
        number, self.calls = self.calls, self.calls + 1
        breaks = number == self.at
        if self.between is not None:
            between, self.between = self.between, None
            await between()
            self.between = between
        if breaks and not self.after:
            raise RedisUnreachable("redis://nowhere", "broken by the test")
        answer = await super().use(ask)
        if breaks:
            raise RedisUnreachable("redis://nowhere", "broken by the test")
        return answer


@dataclass
class Archived:
    """An archive and its daemon on one server. `links`: the daemon's, which a test may break."""

    store: Store
    archiver: ScheduleArchiver
    scheduler: Scheduler
    links: BreakingLinks
    server: Server

    async def steps(self, until: Callable[[], bool] = lambda: False, most: int = 60) -> None:
        """Step until there is nothing left to be done at once, or `until` says so."""
        for _ in range(most):
            if await self.archiver.step() >= 0.2 or until():
                return
        raise AssertionError("the archiver does not come to rest")

    async def caught_up(self) -> None:
        """Step until Redis and the archive agree; then firing is allowed."""
        await self.steps()
        assert not self.scheduler.gate.closed("any"), self.scheduler.gate.closed("any")

    async def fold(self) -> Schedules:
        """What the archive has."""
        return await fold_of(self.store, NAMESPACE)


@asynccontextmanager
async def archived(
    server: Server, folder: Path | str, me: str = "one", rebuild: str = "auto"
) -> AsyncIterator[Archived]:
    """An archive in `folder`, or at a URL; daemons with the same one share it."""
    url = folder if isinstance(folder, str) else f"sqlite:///{folder / 'archive.db'}"
    settings = settings_for(server)
    archive = msgspec.structs.replace(settings.archive, url=url, rebuild=rebuild)
    settings = msgspec.structs.replace(settings, archive=archive)
    connectivity = Connectivity()
    links = BreakingLinks(server, connectivity)
    _, instruments = new_registry("0", 1)
    health = Health(monotonic=time.monotonic, wall=time.time)
    context = Context(settings, links, connectivity, health, instruments)
    async with open_store(url) as store:
        scheduler = Scheduler(context)
        archiver = ScheduleArchiver(context, Shared(store, me), scheduler)
        try:
            yield Archived(store, archiver, scheduler, links, server)
        finally:
            await links.aclose()


async def loaded(server: Server) -> Loaded:
    """What clients and daemons make of the log now."""
    client = connect(server.url)
    try:
        return await ScheduleLog(client, NAMESPACE).load()
    finally:
        await client.aclose()


def same(one: Schedules, other: Schedules) -> None:
    """The same schedules, whatever the positions are."""
    assert _plain(one) == _plain(other)


def _plain(state: Schedules) -> Any:
    state = state.copy()
    state.position = START
    return state

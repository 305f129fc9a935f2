"""The daemons of a partition that loses its data: real archivers that stand still wherever a test wants.

That is before and after every call to Redis and every write to the archive; there a test lets them go on, takes away an
answer, or kills them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import msgspec
import pytest

from reclaimd.daemon.archive import removing, restoring, restoring_fired, sending
from reclaimd.daemon.archive.store import Store
from reclaimd.daemon.connectivity import Connectivity
from reclaimd.daemon.health import Health
from reclaimd.daemon.links import Links
from reclaimd.daemon.loops import schedule_archiver
from reclaimd.daemon.loops.archiver import Archiver
from reclaimd.daemon.loops.schedule_archiver import ScheduleArchiver
from reclaimd.daemon.loops.scheduler import Scheduler
from reclaimd.daemon.loops.shell import Context
from reclaimd.metrics.instruments import new_registry
from reclaimd.streams import redis_log
from reclaimd.streams.keys import Partition
from reclaimd.streams.redis_log import AsyncClient
from reclaimd.streams.scripts import Call
from support.daemons import settings_for
from support.schedule_archives import Shared
from support.servers import Server

T = TypeVar("T")

TIMED = {"adopt", "tail", "freeze", "restore", "drop", "finish"}
"""Scripts of the archive on a partition: they get the test's clock too."""
TAIL_ENTRIES = 25
"""Few, so that a tail seldom reads everything."""
WRITES = {"claim", "commit", "reset", "begin_rebuild", "end_rebuild", "append", "keep_snapshot"}


class Host(Protocol):
    """The world that a daemon lives in."""

    server: Server
    store: Store
    partition: Partition
    url: str

    @property
    def now(self) -> int: ...
    def happened(self, script: str) -> None: ...
    def wrote(self) -> None: ...


class Killed(Exception):
    """The process of the daemon is no more."""


class Gate:
    """Where a daemon stands still. `error`: what the next one to go on is told instead."""

    def __init__(self) -> None:
        self.is_open = False
        self.passed = 0
        self.where = ""
        self.owner: asyncio.Task[float] | None = None
        self._arrived = asyncio.Event()
        self._waiting: asyncio.Future[None] | None = None

    async def point(self, where: str) -> None:
        """Wait here. What a daemon does beside its main course only follows that."""
        if self.is_open or asyncio.current_task() is not self.owner:
            return
        self.where = where
        self._waiting = asyncio.get_running_loop().create_future()
        self._arrived.set()
        await self._waiting

    async def go_on(self, error: Exception | None = None) -> None:
        """Until the next point, or the end of the step."""
        assert self.owner is not None
        self._arrived.clear()
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            if error is None:
                waiting.set_result(None)
            else:
                waiting.set_exception(error)
        arrived = asyncio.ensure_future(self._arrived.wait())
        await asyncio.wait({arrived, self.owner}, return_when="FIRST_COMPLETED")
        arrived.cancel()


class GatedLinks(Links):
    """A daemon's connections. `now`: the test's clock; `happened` is told when it freezes or opens a partition, and
    when it has restored schedules.
    """

    def __init__(self, url: str, gate: Gate, now: Callable[[], int], happened: Callable[[str], None]) -> None:
        super().__init__(url, Connectivity())
        self._gate = gate
        self._now = now
        self._happened = happened

    async def send(self, call: Call[T]) -> T:
        """Run a script."""
        name = call.script.name
        await self._gate.point(f"before {name}")
        args = (self._now(), *call.args[1:]) if name in TIMED else call.args
        if name == "tail":
            args = (*args[:5], TAIL_ENTRIES, *args[6:])
        timed = Call(call.script, call.keys, args, call.parse)
        reply = await super().use(lambda client: redis_log.send(client, timed))
        if name in {"adopt", "freeze", "finish"} and reply.status == "ok":  # type: ignore[attr-defined]
            self._happened(name)
        if name == "schedules_finish" and reply == "ok":
            self._happened(name)
        await self._gate.point(f"after {name}")
        return reply

    async def use(self, ask: Callable[[AsyncClient], Awaitable[T]]) -> T:
        """Run commands."""
        await self._gate.point("before commands")
        return await super().use(ask)


class Gated:
    """The store of a daemon, or its part for schedules."""

    def __init__(self, of: Any, gate: Gate, wrote: Callable[[], None]) -> None:
        self._of = of
        self._gate = gate
        self._wrote = wrote

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._of, name)
        if name == "schedules":
            return Gated(value, self._gate, self._wrote)
        if name not in WRITES:
            return value

        async def gated(*args: Any, **more: Any) -> Any:
            await self._gate.point(f"before {name} in the archive")
            result = await value(*args, **more)
            self._wrote()
            await self._gate.point(f"after {name} in the archive")
            return result

        return gated


class Members(Shared):
    """What the archivers of one daemon share."""

    def rebuilt(self, queue: str) -> None:
        pass

    def kept(self, queue: str) -> int:
        return 0


class Daemon:
    """A daemon process. `step`: the one under way; `about`: whose it is."""

    def __init__(self, world: Host, me: str) -> None:
        self.gate = Gate()
        settings = settings_for(world.server)
        archive = msgspec.structs.replace(settings.archive, url=world.url)
        settings = msgspec.structs.replace(settings, archive=archive)
        self.links = GatedLinks(world.server.url, self.gate, lambda: world.now, world.happened)
        _, instruments = new_registry("0", 1)
        health = Health(monotonic=time.monotonic, wall=time.time)
        context = Context(settings, self.links, Connectivity(), health, instruments)
        self.store = world.store
        store: Any = Gated(world.store, self.gate, world.wrote)
        members = Members(store, me)
        self.me = me
        self.archiver = Archiver(world.partition, members, context, lambda: None)
        self.schedules = ScheduleArchiver(context, members, Scheduler(context))
        self.step: asyncio.Task[float] | None = None

    async def go_on(self, on: str, points: int) -> bool:
        """Pass so many points of the step under way, or of a new one. Returns whether that came to its end."""
        if self.step is None:
            work = self.archiver if on == "tasks" else self.schedules
            self.step = self.gate.owner = asyncio.ensure_future(work.step())
        for _ in range(points):
            await self.gate.go_on()
            if self._has_ended():
                return True
        return False

    async def go_until(self, where: str, most: int) -> None:
        """Go on with the partition's tasks up to the next such point."""
        for _ in range(most):
            if await self.go_on("tasks", 1) or where in self.gate.where:
                return

    async def beat(self) -> None:
        """Whoever was replaced learns so long before anybody replaces it, and does not begin another step."""
        if self.archiver.owner and not await self.store.beat(self.archiver.partition, self.me):
            self.archiver.disown()

    async def break_off(self, error: Exception) -> None:
        """The call under way fails, and with it perhaps the step; that ends before anybody else does anything."""
        if self.step is None:
            return
        await self.gate.go_on(error)
        while not self._has_ended(type(error)):
            await self.gate.go_on()

    def _has_ended(self, *errors: type[Exception]) -> bool:
        if self.step is None or not self.step.done():
            return self.step is None
        step, self.step = self.step, None
        with suppress(*errors):
            step.result()
        return True

    async def aclose(self) -> None:
        """Its process ends."""
        await self.break_off(Killed())
        await self.links.aclose()


def adapt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tasks fill several calls, and daemons change fast."""
    for module in (sending, removing):
        monkeypatch.setattr(module, "RESTORE_ROWS", 3)
    for module in (restoring, sending):
        monkeypatch.setattr(module, "PAGE", 5)
    monkeypatch.setattr(restoring_fired, "ROWS", 1)
    # What takes seconds takes some calls here: so long an owner may trust what it knew.
    monkeypatch.setattr(schedule_archiver, "BEAT_SECONDS", 0.05)

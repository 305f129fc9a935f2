"""Everything around a partition that loses its data: producers, workers, schedules, an archive, and two daemons.

The daemons are the real archivers. Each stands still before and after every call to Redis and every write to the
archive, until the test lets it go on, takes away an answer, or kills it; meanwhile everybody else may act.
"""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import note

from property.losses_checker import Checker, read_archive
from property.snapshot import raw_client
from reclaimd.daemon.archive import removing, restoring, restoring_fired
from reclaimd.daemon.archive.errors import ArchiveFailed, Trouble
from reclaimd.daemon.archive.rebuilding import rebuild_partition
from reclaimd.daemon.archive.store import Store, open_store
from reclaimd.daemon.connectivity import Connectivity
from reclaimd.daemon.health import Health
from reclaimd.daemon.links import Links
from reclaimd.daemon.loops import schedule_archiver
from reclaimd.daemon.loops.archiver import Archiver
from reclaimd.daemon.loops.catching_up import look
from reclaimd.daemon.loops.schedule_archiver import ScheduleArchiver
from reclaimd.daemon.loops.scheduler import Scheduler
from reclaimd.daemon.loops.shell import Context
from reclaimd.daemon.rebuild.values import Report, Verdict
from reclaimd.metrics.instruments import new_registry
from reclaimd.streams import redis_log, scripts
from reclaimd.streams.codec import Delivery, Outcome, settle
from reclaimd.streams.errors import RedisUnreachable
from reclaimd.streams.keys import Partition, queues_key
from reclaimd.streams.occurrence_scripts import FireRow, fire, fired_rows
from reclaimd.streams.redis_log import AsyncClient, connect, connect_sync, send_sync
from reclaimd.streams.schedules.log import ScheduleLog
from reclaimd.streams.scripts import Call, NewTask
from support.daemons import NAMESPACE, settings_for
from support.schedule_archives import Shared
from support.schedules import Schedules
from support.servers import Server

T = TypeVar("T")

LEASE = 3_000
RETRY_MS = 500
EVENTS_CAP = 500_000
TIMED = {"adopt", "tail", "freeze", "restore", "drop", "finish"}
"""Scripts of the archive on a partition: they get the test's clock too."""
WRITES = {"claim", "commit", "reset", "begin_rebuild", "end_rebuild", "append", "keep_snapshot"}
LONG = 3_000
"""Points that no daemon passes between two looks at whatever happens here."""


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
    """A daemon's connections. `now`: the test's clock; `happened` is told when it freezes or opens a partition."""

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
        timed = Call(call.script, call.keys, args, call.parse)
        reply = await super().use(lambda client: redis_log.send(client, timed))
        if name in {"freeze", "finish"} and reply.status == "ok":  # type: ignore[attr-defined]
            self._happened(name)
        await self._gate.point(f"after {name}")
        return reply

    async def use(self, ask: Callable[[AsyncClient], Awaitable[T]]) -> T:
        """Run commands."""
        await self._gate.point("before commands")
        return await super().use(ask)


class Gated:
    """The store of a daemon, or its part for schedules."""

    def __init__(self, of: Any, gate: Gate) -> None:
        self._of = of
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._of, name)
        if name == "schedules":
            return Gated(value, self._gate)
        if name not in WRITES:
            return value

        async def gated(*args: Any, **more: Any) -> Any:
            await self._gate.point(f"before {name} in the archive")
            result = await value(*args, **more)
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

    def __init__(self, world: "World", me: str) -> None:
        self.gate = Gate()
        settings = settings_for(world.server)
        archive = msgspec.structs.replace(settings.archive, url=world.url)
        settings = msgspec.structs.replace(settings, archive=archive)
        self.links = GatedLinks(world.server.url, self.gate, lambda: world.now, world.happened)
        _, instruments = new_registry("0", 1)
        health = Health(monotonic=time.monotonic, wall=time.time)
        context = Context(settings, self.links, Connectivity(), health, instruments)
        store: Any = Gated(world.store, self.gate)
        self.archiver = Archiver(world.partition, Members(store, me), context, lambda: None)
        self.schedules = ScheduleArchiver(context, Members(store, me), Scheduler(context))
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


@dataclass(eq=False)
class Worker:
    """One incarnation, and what it runs: each delivery with the number of losses before it."""

    token: str
    turns: int = 0
    running: list[tuple[Delivery, int]] = field(default_factory=list)


class World:
    """All of it, one step at a time."""

    def __init__(self, server: Server, template: Path, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        server.flush()
        self.server = server
        self.loop = loop
        self.partition = Partition(NAMESPACE, "mail")
        self.client = connect_sync(server.url, reply_timeout=20)
        self.raw = raw_client(server.port)
        self.definitions = Schedules(server)
        self.file = folder / "archive.db"
        self.url = f"sqlite:///{self.file}"
        for name in folder.iterdir():
            name.unlink()
        shutil.copy(template, self.file)
        self.stack = AsyncExitStack()
        self.store: Store = self.run(self.stack.enter_async_context(open_store(self.url)))
        self.offset = 0
        self.numbers = 0
        self.workers: dict[str, Worker] = {}
        self.copies: list[dict[bytes, bytes]] = []
        self.checker = Checker(self.raw, self.partition, self.file)
        self.daemons = [Daemon(self, "one"), Daemon(self, "two")]

    def close(self) -> None:
        for daemon in self.daemons:
            self.run(daemon.aclose())
        self.run(self.stack.aclose())
        self.client.close()
        self.raw.close()
        self.definitions.client.close()

    def run(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(work)

    @property
    def now(self) -> int:
        """Wall milliseconds of the scripts: those of this machine, and what the test has added."""
        return int(time.time() * 1000) + self.offset

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def call(self, call: Call[T]) -> T:
        return send_sync(self.client, call)

    def state(self) -> str:
        return (self.field("epoch", "state") or b"absent").decode()

    def field(self, name: str, field: str) -> bytes | None:
        """Of a hash of the partition."""
        found: bytes | None = self.raw.execute_command("HGET", self.partition.key(name), field)
        return found

    def happened(self, script: str) -> None:
        """A daemon has run it, and was not refused."""
        if script == "freeze":
            self.checker.detected()
        else:
            self.checker.opened()

    def enqueue(self, names: list[str], lane: str, delay_ms: int, unique: str) -> None:
        """By a producer, who may begin an epoch; an ID that was sent before is the same task."""
        now = self.now
        self.client.sadd(queues_key(NAMESPACE), self.partition.queue)
        tasks = [NewTask(name, lane, 3, b"{}", unique, "", delay_ms) for name in names]
        results = self.call(scripts.enqueue(self.partition, tasks, epoch_id=f"{self.number():016x}", now=now))
        for task, result in zip(tasks, results, strict=True):
            if result.status == "ok":
                self.checker.accepted(task.task_id, unique, now + delay_ms if delay_ms else 0)

    def work(self, name: str, want: int, outcomes: list[Outcome | None]) -> None:
        """One turn for each verdict, so that it is known which counted, and one that asks for tasks."""
        worker = self.workers.get(name) or self._join(name)
        if worker is None:
            return
        for running, outcome in zip(list(worker.running), outcomes, strict=False):
            if outcome is None:
                continue
            turned = self._turn(name, worker, 0, (running[0], outcome))
            if turned.status == "state":
                return
            if turned.status != "ok":
                self.workers.pop(name, None)
                return
            worker.running.remove(running)
            if not turned.stale:
                self.checker.settled(running[0].task_id, outcome, self.now, RETRY_MS)
        turned = self._turn(name, worker, want)
        if turned.status not in {"ok", "state"}:
            self.workers.pop(name, None)
        for delivery in turned.deliveries:
            others = [w for n, w in self.workers.items() if n != name and self._is_live(n, w)]
            self.checker.delivered(delivery.task_id, self.now, [one for w in others for one in w.running])
            worker.running.append((delivery, self.checker.losses))

    def _join(self, name: str) -> Worker | None:
        who = scripts.Identity(name, f"{self.number():016x}", LEASE, "{}")
        call = scripts.join(self.partition, who, epoch_id=f"{self.number():016x}", now=self.now)
        joined = self.call(call)
        if joined.status != "ok":
            return None
        self.workers[name] = worker = Worker(joined.token)
        return worker

    def _turn(self, name: str, worker: Worker, want: int, *verdicts: tuple[Delivery, Outcome]) -> scripts.Turned:
        worker.turns += 1
        told = [settle(d, o, name="n", delay_ms=RETRY_MS, cause="test") for d, o in verdicts]
        ask = scripts.Turn(want, True, told, None, worker.turns)
        return self.call(scripts.turn(self.partition, name, worker.token, ask, now=self.now))

    def _is_live(self, name: str, worker: Worker) -> bool:
        row = self.field("workers", name)
        return row is not None and row.decode().partition("|")[0] == worker.token

    def die(self, name: str) -> None:
        """Its parent saw it."""
        worker = self.workers.pop(name, None)
        if worker is not None:
            self.call(scripts.release(self.partition, name, worker.token.partition("-")[2], now=self.now))

    def blackout(self) -> None:
        """Nobody renews for a lease, and daemons clear up."""
        self.workers.clear()
        for _ in range(5):
            self.offset += LEASE // 3
            self.call(scripts.view(self.partition, now=self.now))
        for _ in range(20):
            if not self.call(scripts.reclaim(self.partition, now=self.now, unknown=True)).more:
                break

    def promote(self, ms: int) -> None:
        self.offset += ms
        self.call(scripts.promote(self.partition, now=self.now))

    def letter(self, what: str, pick: int) -> None:
        """Redrive or purge one."""
        letters = self.raw.execute_command("XRANGE", self.partition.key("dead"), "-", "+")
        if not letters or self.state() in {"lost", "rebuilding"}:
            return
        entry, flat = letters[pick % len(letters)]
        if what == "redrive":
            done = self.call(scripts.redrive(self.partition, [entry.decode()], now=self.now))[0].status == "ok"
        else:
            done = self.call(scripts.purge(self.partition, [entry.decode()], now=self.now)) == 1
        if done:
            self.checker.letter_gone(flat[flat.index(b"task") + 1].decode(), what)

    def fire(self, name: str, overlap: str, how_many: int) -> None:
        """By a daemon that plans by what Redis says was fired, as one does that has just started."""
        row = fired_rows([(name.encode(), self.field("fired", name))]).get(name)
        last = row.last if row else 0
        nominal = last or (int(time.time()) - 3_000) * 1000
        rows = []
        for _ in range(how_many):
            nominal, after = nominal + 1_000, last
            last = nominal
            rows.append(FireRow(name, "5-0", after, nominal, nominal, overlap, "normal", 3, b"{}"))  # type: ignore[arg-type]
        now = self.now
        reply = self.call(fire(self.partition, rows, seen_at=now, epoch_id=f"={self.store.archive_id}", now=now))
        for asked, result in zip(rows, reply.rows, strict=False):
            if result.status in {"fired", "queued"}:
                self.checker.fired(f"{name}:5-0:{asked.nominal}")

    def put(self, name: str) -> None:
        """A client creates or changes a schedule."""
        version = self.number()
        entry_id = self.definitions.put(name, args={"version": version})
        self.checker.put(entry_id, name, version)

    def remove(self, name: str) -> None:
        self.checker.put(self.definitions.remove(name), name, None)

    def go_on(self, who: int, on: str, points: int) -> None:
        """A daemon takes some steps."""
        with suppress(ArchiveFailed):
            self.run(self.daemons[who].go_on(on, points))

    def kill(self, who: int, points: int) -> None:
        """A daemon dies so many points further, and a new one starts."""
        if self.daemons[who].step is None or not self.run(self.daemons[who].go_on("tasks", points)):
            self.run(self.daemons[who].aclose())
        self.daemons[who] = Daemon(self, f"{who}-{self.number()}")

    def lose_answer(self, who: int) -> None:
        """The call is on its way, or has been done, and its sender never learns which."""
        daemon = self.daemons[who]
        if "archive" in daemon.gate.where:
            error: Exception = ArchiveFailed(Trouble.SLOW, self.url)
        else:
            error = RedisUnreachable(self.server.url, "the answer was lost")
        self.run(daemon.break_off(error))

    def copy(self) -> None:
        """What a dump would hold now."""
        self.copies.append({key: self.raw.execute_command("DUMP", key) for key in self._keys()})

    def _keys(self) -> list[bytes]:
        found: list[bytes] = self.raw.execute_command("KEYS", "*")
        return sorted(found)

    def lose(self, kind: str, pick: int) -> None:
        """Everything, or one key, or what happened since a copy was made."""
        known = read_archive(self.file)
        if kind == "key":
            # Of the seen sets alone the loss is not noticed, and a client's report is no data.
            keys = [key for key in self._keys() if b":seen:" not in key and not key.endswith(b":queues")]
            if keys:
                note(f"# {keys[pick % len(keys)].decode()} is deleted")
                self.raw.execute_command("DEL", keys[pick % len(keys)])
        else:
            self.raw.execute_command("FLUSHALL")
        if kind == "copy" and self.copies:
            for key, value in self.copies[pick % len(self.copies)].items():
                self.raw.execute_command("RESTORE", key, 0, value)
        self.checker.lost(known, rolled_back=kind == "copy" and bool(self.copies))

    def until_whole(self) -> None:
        """The daemons go on until nothing is left to be done: one that was in the middle, and one that starts."""
        for daemon in self.daemons:
            daemon.gate.is_open = True
            self.run(self._end(daemon))
        daemon = self.daemons[0]
        for on in ("tasks", "schedules", "tasks", "schedules"):
            self.run(self._rest(daemon, on))
        assert daemon.archiver.kind == "healthy", daemon.archiver.kind
        for daemon in self.daemons:
            daemon.gate.is_open = False

    async def _end(self, daemon: Daemon) -> None:
        if daemon.step is not None:
            await daemon.go_on("tasks", LONG)

    async def _rest(self, daemon: Daemon, on: str) -> None:
        work = daemon.archiver if on == "tasks" else daemon.schedules
        for _ in range(200):
            if await work.step() >= 0.2:
                return
        raise AssertionError(f"the archiver of {on} does not come to rest")

    def rebuild_again(self) -> Report:
        """Though nothing was lost."""

        async def again() -> Report:
            links = Links(self.server.url, Connectivity())
            try:
                found = await look(self.store, links, self.partition)
                assert found.verdict.kind == "healthy", found
                return await rebuild_partition(
                    self.store,
                    links,
                    self.partition,
                    Verdict(kind="partial"),
                    found.seen,
                    new_id=lambda: f"{self.number():016x}",
                    events_cap=EVENTS_CAP,
                )
            finally:
                await links.aclose()

        return self.run(again())

    def defined(self) -> dict[str, int]:
        """The schedules as every client sees them: name and version."""

        async def load() -> dict[str, int]:
            client = connect(self.server.url)
            try:
                state = (await ScheduleLog(client, NAMESPACE).load()).state
            finally:
                await client.aclose()
            return {name: row.schedule().args["version"] for name, row in state.rows.items()}

        return self.run(load())


def adapt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tasks fill several calls, and daemons change fast."""
    for module in (restoring, removing):
        monkeypatch.setattr(module, "RESTORE_ROWS", 3)
    monkeypatch.setattr(restoring, "PAGE", 5)
    monkeypatch.setattr(restoring_fired, "ROWS", 1)
    # Owners change at once here, and not after seconds: none may trust what it knew some calls ago.
    monkeypatch.setattr(schedule_archiver, "BEAT_SECONDS", 0)

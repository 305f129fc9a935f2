"""Everything around a partition that loses its data: producers, workers, schedules, an archive, and two daemons."""

import asyncio
import shutil
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from hypothesis import currently_in_test_context, note

from property.losses_checker import Checker
from property.losses_daemons import Daemon
from property.losses_state import Archived, read_archive
from property.snapshot import raw_client
from reclaimd.daemon.archive.errors import ArchiveFailed, Trouble
from reclaimd.daemon.archive.rebuilding import rebuild_partition
from reclaimd.daemon.archive.store import Store, open_store
from reclaimd.daemon.connectivity import Connectivity
from reclaimd.daemon.links import Links
from reclaimd.daemon.loops.catching_up import look
from reclaimd.daemon.rebuild.values import Report, Verdict
from reclaimd.streams import scripts
from reclaimd.streams.codec import Delivery, Outcome, settle
from reclaimd.streams.errors import RedisUnreachable
from reclaimd.streams.keys import Partition, queues_key
from reclaimd.streams.occurrence_scripts import FireRow, fire, fired_rows
from reclaimd.streams.redis_log import connect, connect_sync, send_sync
from reclaimd.streams.schedules.log import ScheduleLog
from reclaimd.streams.scripts import Call, NewTask
from support.daemons import NAMESPACE
from support.schedules import Schedules
from support.servers import Server

T = TypeVar("T")

LEASE = 3_000
RETRY_MS = 500
EVENTS_CAP = 500_000
REST_SECONDS = 20
LONG = 3_000
"""Points that no daemon passes between two looks at whatever happens here."""


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
        self.copies: list[tuple[dict[bytes, bytes], bool]] = []
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
        elif script == "finish":
            self.checker.opened()
        elif script == "schedules_finish":
            self.checker.restored()
        else:
            self.checker.adopted()

    def wrote(self) -> None:
        """A daemon has written to the archive."""
        self.checker.archived()

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
                self.checker.settled(running[0], outcome, self.now, RETRY_MS)
        turned = self._turn(name, worker, want)
        if turned.status not in {"ok", "state"}:
            self.workers.pop(name, None)
        for delivery in turned.deliveries:
            others = [w for n, w in self.workers.items() if n != name and self._is_live(n, w)]
            self.checker.delivered(delivery, self.now, [one for w in others for one in w.running])
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
        for _ in range(6):
            self.offset += LEASE // 3
            self.call(scripts.reclaim(self.partition, now=self.now, unknown=True))
        for _ in range(20):
            if not self.call(scripts.reclaim(self.partition, now=self.now, unknown=True)).more:
                break

    def promote(self, ms: int) -> None:
        self.offset += ms
        self.call(scripts.promote(self.partition, now=self.now))

    def pause(self, *, paused: bool) -> None:
        """By an operator, who also lets it go on."""
        self.call(scripts.pause(self.partition, paused, now=self.now))
        self.checker.paused(paused)

    def letter(self, what: str, pick: int) -> None:
        """Redrive or purge one; not beside a new task of its ID, for which nobody looks: there would be two."""
        letters = self.raw.execute_command("XRANGE", self.partition.key("dead"), "-", "+")
        if not letters or self.state() in {"lost", "rebuilding"}:
            return
        entry, flat = letters[pick % len(letters)]
        task = flat[flat.index(b"task") + 1].decode()
        if what == "redrive" and task in self.checker.held().open:
            return
        if what == "redrive":
            done = self.call(scripts.redrive(self.partition, [entry.decode()], now=self.now))[0].status == "ok"
        else:
            done = self.call(scripts.purge(self.partition, [entry.decode()], now=self.now)) == 1
        if done:
            self.checker.letter_gone(task, what)

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

    def go_until(self, who: int, where: str) -> None:
        """A daemon goes on up to such a point, or to the end of what it does."""
        with suppress(ArchiveFailed):
            self.run(self.daemons[who].go_until(where, LONG))

    def race(self, points: list[int]) -> None:
        """Both daemons in turn."""
        for number, some in enumerate(points):
            self.go_on(number % 2, "tasks", some)

    def forget(self) -> None:
        """The archive's history is too old or too big: it keeps what there is, and forgets how that came about."""
        self.run(self.store.retain(0, 0, self.now))
        self.checker.forgot()

    def kill(self, who: int, points: int) -> None:
        """A daemon dies so many points further, and a new one starts."""
        if self.daemons[who].step is not None:
            self.go_on(who, "tasks", points)
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
        keys = {key: self.raw.execute_command("DUMP", key) for key in self._keys()}
        self.copies.append((keys, self.checker.unnoticed))

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
                self._delete(keys[pick % len(keys)], known)
            return
        self.raw.execute_command("FLUSHALL")
        if kind == "all" or not self.copies:
            self.checker.lost(known, "all", unnoticed=False)
            return
        copied, unnoticed = self.copies[pick % len(self.copies)]
        for key, value in copied.items():
            self.raw.execute_command("RESTORE", key, 0, value)
        self.checker.lost(known, "copy", unnoticed=unnoticed)

    def delete(self, name: str) -> None:
        """One key of the partition."""
        self._delete(f"{self.partition.tag}:{name}".encode(), read_archive(self.file))

    def _delete(self, key: bytes, known: Archived) -> None:
        if currently_in_test_context():
            note(f"# {key.decode()} is deleted")
        self.raw.execute_command("DEL", key)
        # Sentinels are there until the rebuild ends; then they show it.
        self.checker.lost(known, "key", unnoticed=self.state() in {"lost", "rebuilding"})

    def until_whole(self) -> None:
        """The daemons go on until nothing is left to be done: one that was in the middle, and one that starts."""
        for daemon in self.daemons:
            daemon.gate.is_open = True
            self.run(self._end(daemon))
        daemon = self.daemons[0]
        self.run(daemon.beat())
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
        deadline = time.monotonic() + REST_SECONDS
        while time.monotonic() < deadline:
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

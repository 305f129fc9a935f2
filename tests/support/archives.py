"""What an archive holds of a partition, to be compared with what Redis holds; and a life of tasks to be archived."""

import http.client
import random
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from reclaimd.daemon.archive.errors import ArchiveFailed
from reclaimd.daemon.archive.store import Store, open_store
from reclaimd.daemon.rebuild.rows import stored_task
from reclaimd.daemon.rebuild.values import DEAD, QUEUED, Cursor, FiredRow, TaskRow
from reclaimd.streams import scripts
from reclaimd.streams.codec import Delivery, Settlement, settle
from reclaimd.streams.keys import SENTINEL, STREAMS
from reclaimd.streams.occurrence_scripts import FireRow, fire
from reclaimd.streams.settings import Settings
from support.cli import environment, started
from support.daemons import NAMESPACE, Queue, settings_for
from support.servers import Server, free_port
from support.waiting import await_until, wait_until

LEASE = 60_000


def with_archive(server: Server, url: str, **archive: Any) -> Settings:
    """Settings of a daemon on this server with this archive; `archive`: further fields of that section."""
    settings = settings_for(server)
    return msgspec.structs.replace(settings, archive=msgspec.structs.replace(settings.archive, url=url, **archive))


def in_file(folder: Path) -> str:
    """URL of a SQLite archive in this folder."""
    return f"sqlite:///{folder}/archive.db"


class Held(NamedTuple):
    """What a partition holds at one instant. `tasks`: (task_id, letter) → (place, entry ID, due or schedule)."""

    tasks: dict[tuple[str, str], tuple[str, str]]
    fired: dict[str, str]
    counters: dict[str, int]
    paused: bool


def in_redis(queue: Queue) -> Held:
    """Read it."""
    streams = (*STREAMS, DEAD)
    key = queue.partition.key
    commands: list[tuple[str, ...]] = [("XRANGE", key(name), "-", "+") for name in streams]
    commands += [("ZRANGE", key("delayed"), "0", "-1", "WITHSCORES")]
    commands += [("HGETALL", key(name)) for name in ("queued", "fired", "counters", "control")]
    *entries, scores, queued, fired, counters, control = queue.together(*commands)
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for name, rows in zip(streams, entries, strict=True):
        for entry_id, fields in rows:
            found[fields[b"task"].decode(), entry_id.decode() if name == DEAD else ""] = (name, entry_id.decode())
    for member, due in scores:
        if member.decode() != SENTINEL:
            found[member.decode(), ""] = ("delayed", str(int(float(due))))
    for name, body in _plain(queued).items():
        found[stored_task(body), ""] = (QUEUED, name)
    return Held(
        found,
        {name: row.decode() for name, row in _plain(fired).items()},
        {name: int(number) for name, number in _plain(counters).items()},
        _plain(control).get("paused") == b"1",
    )


def _plain(found: dict[bytes, bytes]) -> dict[str, bytes]:
    return {name.decode(): value for name, value in found.items() if name.decode() != SENTINEL}


def in_archive(rows: list[TaskRow]) -> dict[tuple[str, str], tuple[str, str]]:
    """The same, of the archive."""
    return {(row.task_id, row.letter): (row.place, _where(row)) for row in rows}


def _where(row: TaskRow) -> str:
    if row.place == QUEUED:
        return row.schedule
    return row.entry_id or str(row.due)


async def all_tasks(store: Store, queue: Queue) -> list[TaskRow]:
    """Every row, in order."""
    rows = list[TaskRow]()
    cursor: Cursor | None = None
    while True:
        page = await store.tasks_after(queue.partition, cursor, 1_000)
        rows += page
        if len(page) < 1_000:
            return rows
        cursor = Cursor(page[-1].rank, page[-1].sort, page[-1].task_id)


async def difference(url: str, queue: Queue) -> str:
    """How the archive differs from Redis; empty when it does not."""
    async with open_store(url) as store:
        there, here = in_redis(queue), in_archive(await all_tasks(store, queue))
        row = await store.partition(queue.partition)
        if row is None:
            return "it holds nothing"
        fired = {name: _text(fired) for name, fired in (await store.fired(queue.partition)).items()}
    parts = {
        "missing": {key: value for key, value in there.tasks.items() if here.get(key) != value},
        "too many": {key: value for key, value in here.items() if key not in there.tasks},
        "fired": {} if fired == there.fired else fired,
        "counters": {} if there.counters == row.counters else {"redis": there.counters, "archive": row.counters},
        "paused": {} if there.paused == row.paused else {"redis": there.paused},
    }
    return "; ".join(f"{name}: {str(part)[:600]}" for name, part in parts.items() if part)


async def wait_same(url: str, queue: Queue, timeout: float = 15.0) -> None:
    """Until the archive holds what Redis holds."""
    last = ""

    async def same() -> bool:
        nonlocal last
        try:
            last = await difference(url, queue)
        except ArchiveFailed as error:
            last = str(error)
        return not last

    try:
        await await_until(same, "the archive to equal Redis", timeout)
    except AssertionError as error:
        raise AssertionError(f"{error}: {last}") from None


async def wait_same_events(url: str, queue: Queue) -> None:
    """Until the archive has each event of Redis, and each once: one missed or doubled would stay so."""
    kept, there = list[str](), list[str]()

    async def same() -> bool:
        async with open_store(url) as store:
            kept[:] = [entry.entry_id async for entry in store.events(queue.partition)]
        events = queue.raw("XRANGE", queue.partition.key("events"), "-", "+")
        there[:] = [entry[0].decode() for entry in events]
        return kept == there

    try:
        await await_until(same, "the archive to have all events once")
    except AssertionError as error:
        odd = Counter(kept)
        odd.subtract(there)
        raise AssertionError(f"{error}: {[(entry, by) for entry, by in odd.items() if by]}") from None


def _text(row: FiredRow) -> str:
    return f"{row.generation}|{row.last}|{row.count}|{row.open}"


class Life:
    """A queue on which tasks come, run, fail, wait and die, in an order that `seed` decides."""

    def __init__(self, queue: Queue, seed: int = 1) -> None:
        self.queue = queue
        self._chance = random.Random(seed)
        self._token = queue.join("w", LEASE)
        self._held: list[Delivery] = []
        self._fired: dict[str, int] = {}
        self.enqueued: list[str] = []

    def live(self, steps: int) -> None:
        """So many things happen."""
        for _ in range(steps):
            what = (self._enqueue, self._enqueue, self._take, self._settle, self._settle, self._tidy, self._fire)
            self._chance.choice(what)()

    def _enqueue(self) -> None:
        delay = self._chance.choice((0, 0, 0, 60_000, 1))
        lane = self._chance.choice(("high", "normal", "low"))
        self.enqueued += self.queue.enqueue(self._chance.randint(1, 4), lane=lane, delay_ms=delay)

    def _take(self) -> None:
        self._held += self.queue.take("w", self._token, 5)

    def _settle(self) -> None:
        if not self._held:
            return
        done = [self._held.pop(self._chance.randrange(len(self._held))) for _ in range(min(3, len(self._held)))]
        turn = scripts.Turn(0, True, [self._verdict(delivery) for delivery in done])
        self.queue.call(scripts.turn(self.queue.partition, "w", self._token, turn))

    def _verdict(self, delivery: Delivery) -> Settlement:
        outcome = self._chance.choice(("succeeded", "succeeded", "retry", "failed", "handback", "dead"))
        return verdict_on(delivery, outcome, self._chance.choice((1, 60_000)))

    def _fire(self) -> None:
        name = self._chance.choice(("daily", "hourly"))
        last = self._fired.get(name, 0)
        nominal = last + 1_000
        overlap: Any = self._chance.choice(("allow", "skip", "queue_one"))
        row = FireRow(name, "5-0", last, nominal, nominal, overlap, "normal", 5, b"{}")
        now = int(self.queue.raw("TIME")[0]) * 1000
        reply = self.queue.call(fire(self.queue.partition, [row], seen_at=now, epoch_id="epoch"))
        for result in reply.rows:
            self._fired[name] = result.fired.last

    def _tidy(self) -> None:
        self.queue.call(scripts.promote(self.queue.partition))
        letters = self.queue.raw("XRANGE", self.queue.partition.key("dead"), "-", "+", "COUNT", 1)
        if letters:
            entry = letters[0][0].decode()
            what: Any = self._chance.choice((scripts.redrive, scripts.purge, None))
            if what is not None:
                self.queue.call(what(self.queue.partition, [entry]))


def verdict_on(delivery: Delivery, outcome: Any, delay_ms: int = 60_000) -> Settlement:
    """A verdict on one delivery."""
    cause = "" if outcome in {"succeeded", "handback"} else "raised"
    return settle(delivery, outcome, run_ms=1, name="n", delay_ms=delay_ms if outcome == "retry" else 0, cause=cause)


class Served:
    """`reclaimd serve` as a process. `port`: of its HTTP."""

    def __init__(self, server: Server, url: str, folder: Path, name: str = "daemon", **env: str) -> None:
        self.port = free_port()
        self.log = folder / f"{name}.log"
        given = {"RECLAIMD_ARCHIVE_URL": url, "RECLAIMD_REDIS_URL": server.url, "RECLAIMD_NAMESPACE": NAMESPACE}
        given |= {"RECLAIMD_LISTEN": f"127.0.0.1:{self.port}", **env}
        with self.log.open("ab") as log:
            self.process = started("serve", log=log, env=environment(**given))

    def kill9(self) -> None:
        """Nobody is told."""
        self.process.kill()
        self.process.wait(10)

    def sample(self, name: str, **labels: str) -> float | None:
        """A sample of its /metrics; None when there is no such series."""
        return sample_in(self.page("/metrics"), name, **labels)

    def page(self, path: str) -> str:
        """What its HTTP answers, whatever the status."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with closing(connection):
            connection.request("GET", path)
            return connection.getresponse().read().decode()

    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")

    def wait_said(self, text: str, timeout: float = 30.0) -> None:
        """Until its log holds this."""
        wait_until(
            lambda: text in self.said() or self.process.poll() is not None, f"the daemon to say: {text}", timeout
        )
        assert text in self.said(), self.said()[-3000:]


@contextmanager
def served(server: Server, url: str, folder: Path, name: str = "daemon", **env: str) -> Iterator[Served]:
    """A daemon process that ends with the block."""
    daemon = Served(server, url, folder, name, **env)
    try:
        yield daemon
    finally:
        daemon.kill9()


async def sample(daemon: Any, name: str, **labels: str) -> float | None:
    """A sample of the daemon's /metrics; None when there is no such series."""
    _, text = await daemon.get("/metrics")
    return sample_in(text, name, **labels)


def sample_in(text: str, name: str, **labels: str) -> float | None:
    """The same, of a page."""
    for line in text.splitlines():
        match = re.fullmatch(rf"{name}(?:{{(.*)}})? (\S+)", line)
        if match and dict(re.findall(r'(\w+)="([^"]*)"', match[1] or "")) == labels:
            return float(match[2])
    return None

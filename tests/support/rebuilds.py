"""A queue with everything in it, an archive beside it, and a rebuild by hand."""

import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import redis as redis_py

from reclaimd.daemon.archive.progress import Progress, silent
from reclaimd.daemon.archive.rebuilding import rebuild_partition
from reclaimd.daemon.archive.scanning import Redis
from reclaimd.daemon.archive.store import Store, open_store
from reclaimd.daemon.connectivity import Connectivity
from reclaimd.daemon.links import Links
from reclaimd.daemon.loops.catching_up import catch_up, look
from reclaimd.daemon.rebuild.values import Report
from reclaimd.streams import codec, scripts
from reclaimd.streams.codec import Delivery
from reclaimd.streams.keys import Partition, queues_key
from reclaimd.streams.occurrence_scripts import FireRow, fire
from reclaimd.streams.redis_log import AsyncClient, connect_sync, send_sync
from reclaimd.streams.scripts import Call, NewTask, Turn
from support.partitions import Held, held
from support.servers import Server

T = TypeVar("T")

NAMESPACE = "t"
ME = "archivist"
BODY = b'{"v":1,"name":"send","args":{"to":"\\u00e9 \xc3\xa9","empty":[],"big":12345678901234567890}}'
EVENTS_CAP = 500_000
LEASE = 600_000


class Ward:
    """One queue on one server, and its archive. The `client` is for whatever a test breaks."""

    def __init__(self, server: Server, store: Store, links: Links, name: str = "mail") -> None:
        self.server = server
        self.store = store
        self.links = links
        self.partition = Partition(NAMESPACE, name)
        self.client = connect_sync(server.url)

    def call(self, call: Call[T]) -> T:
        """Run a script."""
        return send_sync(self.client, call)

    def enqueue(self, *names: str, lane: str = "normal", delay_ms: int = 0, unique: str = "") -> list[str]:
        """Add tasks; returns what became of each."""
        self.client.sadd(queues_key(NAMESPACE), self.partition.queue)
        tasks = [NewTask(name, lane, 5, BODY, unique=unique, delay_ms=delay_ms) for name in names]
        results = self.call(scripts.enqueue(self.partition, tasks, epoch_id=secrets.token_hex(8)))
        return [result.status for result in results]

    def join(self, worker: str, nonce: str) -> str:
        """A new incarnation; returns its token."""
        who = scripts.Identity(worker, nonce, LEASE, "{}")
        joined = self.call(scripts.join(self.partition, who, epoch_id=secrets.token_hex(8)))
        assert joined.status == "ok", joined
        return joined.token

    def take(self, worker: str, token: str, count: int, suspects: bool = False) -> list[Delivery]:
        """A turn that asks for tasks and gets that many."""
        turned = self.call(scripts.turn(self.partition, worker, token, Turn(count, suspects)))
        assert (turned.status, len(turned.deliveries)) == ("ok", count), turned
        return list(turned.deliveries)

    def settle(self, worker: str, token: str, delivery: Delivery, outcome: codec.Outcome, **how: Any) -> None:
        """A turn with one verdict."""
        verdict = codec.settle(delivery, outcome, name="send", **how)
        assert self.call(scripts.turn(self.partition, worker, token, Turn(0, False, [verdict]))).stale == 0

    def crash(self, *names: str, suspects: bool = False) -> None:
        """Each of these was delivered to a worker that died; they are the first that wait."""
        nonce = secrets.token_hex(4)
        token = self.join("crasher", nonce)
        assert [one.task_id for one in self.take("crasher", token, len(names), suspects)] == list(names)
        self.call(scripts.release(self.partition, "crasher", nonce))

    def fire(self, schedule: str, generation: str, nominal: int, after: int = 0, overlap: Any = "queue_one") -> str:
        """One occurrence; returns its status."""
        seconds, _ = self.client.time()
        row = FireRow(schedule, generation, after, nominal, nominal, overlap, "normal", 5, BODY)
        reply = self.call(fire(self.partition, [row], seen_at=seconds * 1000))
        assert reply.status == "ok", reply
        return reply.rows[0].status

    def fill(self, *, paused: bool = True) -> None:
        """Tasks of every kind: fresh, returned, suspect, active, delayed, retried, dead, of schedules; and settled."""
        worker = self.join("worker", "w1")
        self.enqueue(*(f"done-{i}" for i in range(5)), lane="high")
        for delivery in self.take("worker", worker, 5):
            self.settle("worker", worker, delivery, "succeeded", run_ms=1)
        self.enqueue("retried", "dead-1", "dead-2", "purged", lane="high")
        for delivery in self.take("worker", worker, 4):
            outcome: codec.Outcome = "retry" if delivery.task_id == "retried" else "failed"
            more: dict[str, Any] = {"delay_ms": 3_600_000} if outcome == "retry" else {}
            self.settle("worker", worker, delivery, outcome, run_ms=1, cause="ValueError", error="no", **more)
        letters: Any = self.client.xrange(self.partition.key("dead"))
        purged = next(entry_id.decode() for entry_id, fields in letters if fields[b"task"] == b"purged")
        assert self.call(scripts.purge(self.partition, [purged])) == 1
        self.enqueue("suspect", lane="low")
        self.crash("suspect")
        self.crash("suspect")
        self.enqueue("returned-1", "returned-2")
        self.crash("returned-1", "returned-2")
        self.enqueue("later-2", delay_ms=7_200_000)
        self.enqueue("later-1", delay_ms=3_600_000, unique="u:later")
        self.enqueue("active-1", "active-2", lane="high")
        self.take("worker", worker, 2)
        self.enqueue("high-1", "high-2", lane="high")
        self.enqueue("unique", unique="u:1")
        self.enqueue("normal-1", "normal-2", "normal-3")
        self.enqueue("low-1", lane="low")
        assert self.fire("digest", "5-0", 1_000) == "fired"
        assert self.fire("digest", "5-0", 2_000, after=1_000) == "queued"
        assert self.fire("report", "7-1", 3_000) == "fired"
        self.call(scripts.pause(self.partition, paused))

    def held(self) -> Held:
        """Everything that the partition holds."""
        return held(self.client, self.partition.tag)

    async def archive(self) -> None:
        """Archive everything that there is."""
        row = await self.store.partition(self.partition)
        assert await self.store.claim(self.partition, ME, None if row is None else row.ownership)
        judged = await catch_up(
            self.store, self.links, self.partition, ME, events_cap=EVENTS_CAP, told=lambda _events: None
        )
        assert judged.kind == "healthy", judged

    async def archived(self, *, paused: bool = True) -> Held:
        """Fill it, archive it, and return everything that it holds."""
        self.fill(paused=paused)
        await self.archive()
        return self.held()

    async def kind(self) -> str:
        """The verdict now."""
        return (await look(self.store, self.links, self.partition)).verdict.kind

    async def rebuild(self, redis: Redis | None = None, progress: Progress = silent) -> Report:
        """Look, and rebuild what was lost."""
        judged, seen, _ = await look(self.store, self.links, self.partition)
        return await rebuild_partition(
            self.store,
            redis or self.links,
            self.partition,
            judged,
            seen,
            new_id=lambda: secrets.token_hex(8),
            events_cap=EVENTS_CAP,
            progress=progress,
        )

    def close(self) -> None:
        """Close the test's own connection."""
        self.client.close()


@asynccontextmanager
async def ward(server: Server, url: str, name: str = "mail") -> AsyncIterator[Ward]:
    """A queue on this server with an archive at `url`."""
    links = Links(server.url, Connectivity())
    async with open_store(url) as store:
        one = Ward(server, store, links, name)
        try:
            yield one
        finally:
            one.close()
            await links.aclose()


def deleted(client: redis_py.Redis, key: str) -> None:
    """DEL of a key that must be there."""
    assert client.delete(key) == 1, f"{key} was not there"


def at(number: int, script: str, act: Callable[[], object]) -> Callable[[str], None]:
    """For `Meddling`: do this at the call of a script with this number, counted from 1."""
    calls = itertools.count(1)

    def meddle(name: str) -> None:
        if name == script and next(calls) == number:
            act()

    return meddle


class Meddling:
    """Links of a rebuild that call `before` and `after` around every script, with its name; either may raise."""

    def __init__(
        self,
        links: Links,
        *,
        before: Callable[[str], object] = lambda _name: None,
        after: Callable[[str], object] = lambda _name: None,
    ) -> None:
        self._links = links
        self._before = before
        self._after = after

    async def send(self, call: Call[T]) -> T:
        """Run a script."""
        self._before(call.script.name)
        reply = await self._links.send(call)
        self._after(call.script.name)
        return reply

    async def use(self, ask: Callable[[AsyncClient], Awaitable[T]]) -> T:
        """Run commands."""
        return await self._links.use(ask)

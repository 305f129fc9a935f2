"""A daemon of its own process sees each kind of loss by itself, in the middle of traffic, and mends it."""

import asyncio
import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from reclaimd.daemon.archive.engine import Access
from reclaimd.daemon.archive.store import Store, open_store
from reclaimd.daemon.connectivity import Connectivity
from reclaimd.daemon.links import Links
from reclaimd.daemon.loops.catching_up import look
from reclaimd.daemon.rebuild.marks import mark_number
from reclaimd.streams.ids import EntryID
from reclaimd.streams.keys import Partition
from reclaimd.streams.scripts import Call
from support.archives import Served, in_file, served
from support.daemons import NAMESPACE, Queue, in_loop, queue_on
from support.proxy import Proxy
from support.servers import FreshServer, Server
from support.traffic import Traffic, traffic
from support.waiting import await_until, wait_until

pytestmark = pytest.mark.flavours("valkey")

T = TypeVar("T")
MAIL = Partition(NAMESPACE, "mail")
TOLD_WITHIN = 30.0
"""Seconds; some tenths on a machine that has nothing else to do."""
LATER = 3_600_000
LOST = "data are not what the archive knows"


class Place:
    """A server that is about to lose data. `proxy`: in front of it, where another takes over its address."""

    def __init__(self, server: Server, fresh_server: FreshServer, folder: Path, proxy: Proxy | None = None) -> None:
        self.server = server
        self.fresh_server = fresh_server
        self.folder = folder
        self.proxy = proxy
        self.kept: Any = None

    @property
    def url(self) -> str:
        """What everybody connects to."""
        return self.server.url if self.proxy is None else self.server.url_at(self.proxy.port)

    def do(self, *command: Any) -> Any:
        """A command, past any proxy."""
        with self.server.client() as client:
            return client.execute_command(*command)


def flush(place: Place) -> None:
    place.do("FLUSHALL")


def flush_database(place: Place) -> None:
    place.do("FLUSHDB")


def delete(name: str) -> Callable[[Place], None]:
    def lose(place: Place) -> None:
        assert place.do("DEL", MAIL.key(name)) == 1

    return lose


def restart(place: Place) -> None:
    place.server.kill9()
    place.server.start()


def keep_dump(place: Place) -> None:
    place.do("SAVE")
    shutil.copy(place.server.folder / "dump.rdb", place.server.folder / "kept.rdb")


def go_back_to_dump(place: Place) -> None:
    place.server.kill9()
    shutil.copy(place.server.folder / "kept.rdb", place.server.folder / "dump.rdb")
    place.server.start()


def newest_log(place: Place) -> Path:
    return max(place.server.folder.glob("**/*.aof"), key=lambda path: path.stat().st_mtime_ns)


def note_length(place: Place) -> None:
    place.kept = newest_log(place).stat().st_size


def truncate(place: Place) -> None:
    place.server.kill9()
    with newest_log(place).open("rb+") as log:
        log.truncate(place.kept)
    place.server.start()


def let_a_replica_lag(place: Place) -> None:
    replica = place.kept = place.fresh_server(replicaof=f"127.0.0.1 {place.server.port}")
    wait_until(lambda: place.do("ROLE")[2], "the replica to be online")
    with place.server.client() as client:
        client.set("something", 1)
        wait_until(lambda: client.wait(1, 100), "the replica to have what there is")
    replica.freeze()
    # Nothing may lie in its socket: frozen, it does not connect again.
    place.do("CLIENT", "KILL", "TYPE", "replica")


def promote(place: Place) -> None:
    place.server.kill9()
    place.server = place.kept
    place.server.thaw()
    place.do("REPLICAOF", "NO", "ONE")
    assert place.proxy is not None
    place.proxy.retarget(place.server.port)


def evict(place: Place) -> None:
    """Until Redis has thrown away the delayed tasks, and whatever else it came upon."""
    place.do("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
    while place.do("EXISTS", MAIL.key("delayed")):
        with place.server.client() as client:
            client.config_set("maxmemory", client.info("memory")["used_memory"] - 1)
        place.do("SET", "filler", "x" * 1000)
        place.do("CONFIG", "SET", "maxmemory", "0")
    place.do("CONFIG", "SET", "maxmemory-policy", "noeviction")


def nothing(_: Place) -> None:
    """No copy is needed."""


# name: (the server's options, what is done while all is well, the loss, verdicts that may be told of it)
LOSSES: dict[str, tuple[dict[str, Any], Callable[[Place], None], Callable[[Place], None], set[str]]] = {
    "FLUSHALL": ({}, nothing, flush, {"empty"}),
    "FLUSHDB": ({}, nothing, flush_database, {"empty"}),
    "DEL delayed": ({}, nothing, delete("delayed"), {"partial"}),
    "DEL lane": ({}, nothing, delete("lane:normal"), {"partial"}),
    "DEL events": ({}, nothing, delete("events"), {"partial"}),
    "DEL epoch": ({}, nothing, delete("epoch"), {"partial", "empty"}),
    "restart without persistence": ({}, nothing, restart, {"empty"}),
    "restart from an old dump": ({}, keep_dump, go_back_to_dump, {"rolled_back"}),
    "restart from a truncated file": ({"appendonly": True}, note_length, truncate, {"rolled_back"}),
    "promotion of a lagging replica": ({}, let_a_replica_lag, promote, {"rolled_back"}),
    "eviction": ({}, nothing, evict, {"partial", "empty"}),
}


def position(folder: Path) -> EntryID:
    """Of the events that the archive has."""
    with closing(sqlite3.connect(f"file:{folder}/archive.db?mode=ro", uri=True, timeout=10)) as database:
        rows = database.execute("SELECT positions FROM reclaimd_partitions WHERE queue = 'mail'").fetchall()
    return EntryID.parse(json.loads(rows[0][0]).get("events", "0-0") if rows else "0-0")


def wait_archived(place: Place) -> None:
    """Until the archive has all that has happened so far."""
    last = EntryID.parse(place.do("XREVRANGE", MAIL.key("events"), "+", "-", "COUNT", 1)[0][0])
    wait_until(lambda: position(place.folder) >= last, "the archive to come so far", TOLD_WITHIN)


def delayed(place: Place) -> set[str]:
    """Tasks that wait for their time, of those that the test has made."""
    return {name.decode() for name in place.do("ZRANGE", MAIL.key("delayed"), 0, -1) if name.startswith(b"mail-")}


def told(daemon: Served) -> set[str]:
    """The verdicts in its log."""
    lines = [line for line in daemon.said().splitlines() if LOST in line]
    return {json.loads(line)["kind"] for line in lines}


def is_open_again(place: Place, daemon: Served) -> bool:
    return '"rebuilt"' in daemon.said() and place.do("HGET", MAIL.key("epoch"), "state") == b"ok"


@contextmanager
def place_of(loss: str, fresh_server: FreshServer, folder: Path) -> Iterator[Place]:
    server = fresh_server(**LOSSES[loss][0])
    if not loss.startswith("promotion"):
        yield Place(server, fresh_server, folder)
        return
    with Proxy(server.port) as proxy:
        yield Place(server, fresh_server, folder, proxy)


@pytest.mark.parametrize("loss", LOSSES)
@in_loop
async def test_under_traffic(loss: str, fresh_server: FreshServer, flavour: str, tmp_path: Path) -> None:
    _, prepare, lose, verdicts = LOSSES[loss]
    with place_of(loss, fresh_server, tmp_path) as place:
        url = place.url
        async with queue_on(place.server) as queue:
            early = queue.enqueue(10, delay_ms=LATER)
            with served(place.server, in_file(tmp_path), tmp_path, RECLAIMD_REDIS_URL=url) as daemon:
                await asyncio.to_thread(daemon.wait_said, '"archiving"')
                with traffic(url, MAIL) as going:
                    await asyncio.to_thread(_lose_and_mend, place, prepare, lose, queue, daemon, going)
        assert told(daemon) & verdicts, daemon.said()
        assert delayed(place) == {*early, *(f"mail-{number}" for number in range(10, 20))}


def _lose_and_mend(
    place: Place,
    prepare: Callable[[Place], None],
    lose: Callable[[Place], None],
    queue: Queue,
    daemon: Served,
    going: Traffic,
) -> None:
    """What had ended before the loss is not begun again once the queue is open."""
    wait_until(lambda: len(going.settled) > 20, "some tasks to be settled")
    wait_archived(place)
    prepare(place)
    queue.enqueue(10, delay_ms=LATER)
    seen = len(going.settled)
    wait_until(lambda: len(going.settled) > seen + 20, "some more")
    known = set(going.settled)
    wait_archived(place)
    lose(place)
    wait_until(lambda: told(daemon), "the loss to be told", TOLD_WITHIN)
    wait_until(lambda: is_open_again(place, daemon), "the queue to be open again", TOLD_WITHIN)
    opened, begun = time.monotonic(), len(going.starts)
    wait_until(lambda: len(going.starts) > begun + 20, "tasks to run again", TOLD_WITHIN)
    assert not {task for at, task in going.starts if at > opened} & known


@pytest.mark.parametrize("loss", ["FLUSHALL", "DEL delayed", "DEL epoch"])
@in_loop
async def test_in_silence(loss: str, fresh_server: FreshServer, flavour: str, tmp_path: Path) -> None:
    """Nobody does anything whose event could wake the daemon."""
    _, _, lose, verdicts = LOSSES[loss]
    with place_of(loss, fresh_server, tmp_path) as place:
        async with queue_on(place.server) as queue:
            queue.enqueue(10, delay_ms=LATER)
            with served(place.server, in_file(tmp_path), tmp_path) as daemon:
                await asyncio.to_thread(daemon.wait_said, '"message": "ready"')
                await asyncio.to_thread(wait_archived, place)
                lose(place)
                await await_until(lambda: told(daemon), "the loss to be told", TOLD_WITHIN)
                await await_until(lambda: is_open_again(place, daemon), "the queue to be open again", TOLD_WITHIN)
        assert told(daemon) <= verdicts
        assert len(delayed(place)) == 10


@pytest.mark.parametrize("loss", ["FLUSHALL", "DEL delayed", "restart from an old dump"])
@in_loop
async def test_at_the_start(loss: str, fresh_server: FreshServer, flavour: str, tmp_path: Path) -> None:
    """It is lost while no daemon runs, and others have gone on since."""
    _, prepare, lose, verdicts = LOSSES[loss]
    with place_of(loss, fresh_server, tmp_path) as place:
        async with queue_on(place.server) as queue:
            queue.enqueue(5, delay_ms=LATER)
            with served(place.server, in_file(tmp_path), tmp_path, "first") as first:
                await asyncio.to_thread(first.wait_said, '"message": "ready"')
                prepare(place)
                queue.enqueue(5, delay_ms=LATER)
                await asyncio.to_thread(wait_archived, place)
            lose(place)
            with traffic(place.url, MAIL) as going:
                await await_until(lambda: len(going.settled) > 20, "others to go on")
                with served(place.server, in_file(tmp_path), tmp_path, "second") as second:
                    await await_until(lambda: is_open_again(place, second), "the queue to be open again", TOLD_WITHIN)
                    await asyncio.to_thread(second.wait_said, "recovery at start done")
        assert told(second) & verdicts, second.said()
        lines = [json.loads(line)["message"] for line in second.said().splitlines()]
        assert lines.index("rebuilt") < lines.index("recovery at start done"), "before anything is recovered"
        assert delayed(place) == {f"mail-{number}" for number in range(10)}


@in_loop
async def test_another_team_at_the_same_address(fresh_server: FreshServer, flavour: str, tmp_path: Path) -> None:
    ours, theirs = fresh_server(), fresh_server()
    (tmp_path / "theirs").mkdir()
    with Proxy(ours.port) as proxy:
        place = Place(ours, fresh_server, tmp_path, proxy)
        async with queue_on(ours) as queue, queue_on(theirs) as other:
            queue.enqueue(10, delay_ms=LATER)
            other.enqueue(3, delay_ms=LATER)
            with (
                served(theirs, in_file(tmp_path / "theirs"), tmp_path, "theirs") as their_daemon,
                served(ours, in_file(tmp_path), tmp_path, RECLAIMD_REDIS_URL=place.url) as daemon,
            ):
                await asyncio.to_thread(their_daemon.wait_said, '"message": "ready"')
                await asyncio.to_thread(daemon.wait_said, '"message": "ready"')
                await asyncio.to_thread(wait_archived, place)
                proxy.retarget(theirs.port)
                await await_until(lambda: told(daemon), "the others to be told", TOLD_WITHIN)
                with traffic(theirs.url, MAIL) as going:
                    await await_until(lambda: len(going.settled) > 50, "them to go on")
                assert told(daemon) == {"foreign"}
                assert told(their_daemon) == set()
                assert delayed(Place(theirs, fresh_server, tmp_path)) == {"mail-0", "mail-1", "mail-2"}
                proxy.retarget(ours.port)
                await await_until(lambda: "data are whole again" in daemon.said(), "ours to be back", TOLD_WITHIN)
            assert len(delayed(place)) == 10


class Late(Links):
    """Connections whose first call is held up until the archive has gone on by some marks."""

    def __init__(self, url: str, store: Store) -> None:
        super().__init__(url, Connectivity())
        self.looks = 0
        self._store = store

    async def send(self, call: Call[T]) -> T:
        self.looks += 1
        if self.looks == 1:
            first = await self._mark()

            async def has_gone_on() -> bool:
                return await self._mark() >= first + 3

            await await_until(has_gone_on, "three more commits", TOLD_WITHIN)
        return await super().send(call)

    async def _mark(self) -> int:
        row = await self._store.partition(MAIL)
        return 0 if row is None else mark_number(row.mark)


@in_loop
async def test_a_command_beside_a_busy_daemon_sees_no_loss(
    fresh_server: FreshServer, flavour: str, tmp_path: Path
) -> None:
    """It compares two things, one after the other, and meanwhile the daemon commits."""
    server = fresh_server()
    async with queue_on(server) as queue:
        queue.enqueue(10, delay_ms=LATER)
        with served(server, in_file(tmp_path), tmp_path) as daemon, traffic(server.url, MAIL):
            await asyncio.to_thread(daemon.wait_said, '"message": "ready"')
            async with open_store(in_file(tmp_path), Access.READ) as store:
                links = Late(server.url, store)
                assert (await look(store, links, MAIL)).verdict.kind == "healthy"
                assert links.looks > 1
                await links.aclose()
    assert told(daemon) == set()

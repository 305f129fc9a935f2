"""What an enqueue waits for, on real servers with replicas that lag and files that are or are not written."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from reclaimd.streams.app import Reclaimd
from reclaimd.streams.enqueueing import Addressed, EnqueueResult, Limits, address
from reclaimd.streams.errors import DurabilityUnavailable, DurabilityUnconfirmed
from reclaimd.streams.keys import Partition
from reclaimd.streams.producer import Producer, SyncProducer
from support.cli import reclaimd
from support.proxy import Proxy, Request
from support.servers import FreshServer, Server
from support.task_app import noop
from support.waiting import wait_until

NAMESPACE = "t"
MAIL = Partition(NAMESPACE, "mail")
WAIT_MS = 400
Send = Callable[..., list[EnqueueResult]]


def tasks(*ids: str, level: str, **options: Any) -> list[Addressed]:
    limits = Limits(1_000_000, 5, level)
    return [address(noop.call(n).options(task_id=name, **options), NAMESPACE, limits) for n, name in enumerate(ids)]


class Sender:
    """A producer of either kind, used again and again."""

    def __init__(self, kind: str, url: str, *, timeout: float = 5.0, wait_ms: int = WAIT_MS) -> None:
        made: Any = Producer if kind == "async" else SyncProducer
        self._producer = made(url, NAMESPACE, timeout=timeout, durability_timeout_ms=wait_ms)
        self._runner = asyncio.Runner() if kind == "async" else None

    def __call__(self, *ids: str, level: str, **options: Any) -> list[EnqueueResult]:
        sent = self._producer.enqueue(tasks(*ids, level=level, **options))
        return self._runner.run(sent) if self._runner else sent

    def close(self) -> None:
        if self._runner:
            self._runner.run(self._producer.aclose())
            self._runner.close()
        else:
            self._producer.close()


@pytest.fixture(params=["async", "sync"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sender(kind: str) -> Iterator[Callable[..., Sender]]:
    made: list[Sender] = []

    def make(url: str, **options: Any) -> Sender:
        made.append(Sender(kind, url, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def waiting(server: Server) -> list[str]:
    with server.client() as client:
        entries: Any = client.xrange(MAIL.key("lane:normal"))
        return [fields[b"task"].decode() for _, fields in entries]


def replica_of(primary: Server, fresh_server: FreshServer) -> Server:
    replica = fresh_server(primary.flavour, replicaof=f"127.0.0.1 {primary.port}")
    with primary.client() as client:
        wait_until(lambda: client.execute_command("ROLE")[2], "the replica to be online")
        # Its first acknowledgement may take a second.
        client.set("something", 1)
        wait_until(lambda: client.wait(1, 100), "the replica to acknowledge")
    return replica


def the_error(results: list[EnqueueResult], status: str) -> Any:
    assert [result.status for result in results] == [status] * len(results)
    assert results[0].error is not None
    return results[0].error


def test_a_replica_has_what_was_enqueued(
    fresh_server: FreshServer, flavour: str, sender: Callable[..., Sender]
) -> None:
    primary = fresh_server()
    replica = replica_of(primary, fresh_server)
    send = sender(primary.url, wait_ms=3_000)
    assert send("a", "b", level="replicated") == [EnqueueResult("a", "ok"), EnqueueResult("b", "ok")]
    primary.freeze()
    assert waiting(replica) == ["a", "b"], "not a moment later"
    primary.thaw()


def test_a_frozen_replica_is_told_and_the_task_was_accepted(
    fresh_server: FreshServer, flavour: str, sender: Callable[..., Sender]
) -> None:
    """Sent again on a connection of its own it is a duplicate, and still not on the replica: nobody must say so."""
    primary = fresh_server()
    replica = replica_of(primary, fresh_server)
    send = sender(primary.url)
    assert send("a", level="replicated") == [EnqueueResult("a", "ok")]
    replica.freeze()
    for again in (send, send, sender(primary.url)):
        error = the_error(again("b", level="replicated"), "unconfirmed")
        assert isinstance(error, DurabilityUnconfirmed)
        assert error.task_id == "b"
        assert "no replica acknowledged it within 400ms" in str(error)
    assert waiting(primary) == ["a", "b"]
    assert send("c", level="async") == [EnqueueResult("c", "ok")], "others do not wait"
    replica.thaw()
    wait_until(lambda: send("b", level="replicated")[0].status == "duplicate", "the replica to catch up")
    assert waiting(replica) == ["a", "b", "c"]


def test_without_a_replica_nothing_is_enqueued(
    fresh_server: FreshServer, flavour: str, sender: Callable[..., Sender]
) -> None:
    primary = fresh_server()
    send = sender(primary.url)
    for _ in range(2):
        error = the_error(send("a", level="replicated"), "refused")
        assert isinstance(error, DurabilityUnavailable)
        assert "no replica is connected" in str(error)
    assert waiting(primary) == []
    replica = replica_of(primary, fresh_server)
    assert send("a", level="replicated") == [EnqueueResult("a", "ok")], "and it is asked anew"
    replica.stop()
    with primary.client() as client:
        wait_until(lambda: not client.execute_command("ROLE")[2], "the replica to be gone")
    assert isinstance(the_error(send("b", level="replicated"), "unconfirmed"), DurabilityUnconfirmed)
    assert isinstance(the_error(send("c", level="replicated"), "refused"), DurabilityUnavailable)
    assert waiting(primary) == ["a", "b"]


@pytest.mark.flavours("valkey")
def test_the_disk_has_what_was_enqueued(fresh_server: FreshServer, flavour: str, sender: Callable[..., Sender]) -> None:
    """Killed at the instant of the answer, the server has it in its file; 3,000 tasks need no 6 seconds."""
    server = fresh_server(appendonly=True, appendfsync="everysec")
    send = sender(server.url, wait_ms=10_000)
    assert send("a", level="fsync") == [EnqueueResult("a", "ok")]
    began = time.monotonic()
    ids = [f"t{n}" for n in range(3_000)]
    assert [result.status for result in send(*ids, level="fsync")] == ["ok"] * 3_000
    assert time.monotonic() - began < 5
    server.kill9()
    server.start()
    assert waiting(server) == ["a", *ids]


@pytest.mark.flavours("valkey")
def test_a_disk_that_is_never_synced_is_told(
    fresh_server: FreshServer, flavour: str, sender: Callable[..., Sender]
) -> None:
    server = fresh_server(appendonly=True, appendfsync="no")
    error = the_error(sender(server.url)("a", level="fsync"), "unconfirmed")
    assert "appendfsync" in str(error)
    assert waiting(server) == ["a"]


def test_a_server_without_a_file_or_the_command_says_so_before(
    fresh_server: FreshServer, flavour: str, sender: Callable[..., Sender]
) -> None:
    server = fresh_server()
    error = the_error(sender(server.url)("a", level="fsync"), "refused")
    assert isinstance(error, DurabilityUnavailable)
    expected = {"valkey": "no append-only file", "redis62": "not know WAITAOF", "redis70": "not know WAITAOF"}
    assert expected[flavour] in str(error)
    assert waiting(server) == []


@pytest.mark.flavours("valkey")
def test_a_file_that_is_switched_off_later_is_told_after_and_then_before(
    fresh_server: FreshServer, flavour: str, sender: Callable[..., Sender]
) -> None:
    server = fresh_server(appendonly=True)
    send = sender(server.url, wait_ms=5_000)
    assert send("a", level="fsync") == [EnqueueResult("a", "ok")]
    with server.client() as client:
        client.config_set("appendonly", "no")
    assert "no append-only file" in str(the_error(send("b", level="fsync"), "unconfirmed"))
    assert isinstance(the_error(send("c", level="fsync"), "refused"), DurabilityUnavailable)
    assert waiting(server) == ["a", "b"]


@pytest.mark.parametrize("level", ["replicated", "fsync"])
@pytest.mark.flavours("valkey")
def test_a_user_without_the_right_is_told_before(
    fresh_server: FreshServer, flavour: str, sender: Callable[..., Sender], level: str
) -> None:
    server = fresh_server(appendonly=True)
    replica_of(server, fresh_server)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "p", "on", ">p", "~*", "+@all", "-wait", "-waitaof")
    error = the_error(sender(f"redis://p:p@127.0.0.1:{server.port}/0")("a", level=level), "refused")
    assert isinstance(error, DurabilityUnavailable)
    assert ("+waitaof" if level == "fsync" else "+wait") in str(error)
    assert waiting(server) == []


def test_a_user_who_may_not_ask_for_the_role_learns_by_waiting(
    fresh_server: FreshServer, flavour: str, sender: Callable[..., Sender]
) -> None:
    server = fresh_server()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "p", "on", ">p", "~*", "+@all", "-role")
    url = f"redis://p:p@127.0.0.1:{server.port}/0"
    assert isinstance(the_error(sender(url)("a", level="replicated"), "unconfirmed"), DurabilityUnconfirmed)
    replica_of(server, fresh_server)
    assert sender(url, wait_ms=3_000)("b", level="replicated") == [EnqueueResult("b", "ok")]


def _is_wait(request: Request) -> bool:
    return request[0].upper() == b"WAIT" and request[1] == b"1"


def test_a_connection_that_breaks_in_the_wait_is_made_anew_and_everything_sent_again(
    fresh_server: FreshServer, flavour: str, sender: Callable[..., Sender]
) -> None:
    """What answers then may be another server, which never had the task."""
    primary = fresh_server()
    replica_of(primary, fresh_server)
    with Proxy(primary.port) as proxy:
        send = sender(primary.url_at(proxy.port), wait_ms=3_000)
        cut = proxy.cut_reply(match=_is_wait)
        assert send("a", "b", level="replicated") == [EnqueueResult("a", "ok"), EnqueueResult("b", "ok")]
        assert len(cut.requests) == 1
    assert waiting(primary) == ["a", "b"]


def test_levels_do_not_wait_for_each_other(fresh_server: FreshServer, flavour: str) -> None:
    """One producer, one frozen replica: who asked for no more than an answer has it at once."""
    primary = fresh_server()
    replica = replica_of(primary, fresh_server)

    async def main() -> tuple[str, BaseException | str]:
        async with Reclaimd(primary.url, NAMESPACE, durability="replicated") as app:
            await app.enqueue(noop, 1, durability="async")
            replica.freeze()
            slow = asyncio.create_task(app.enqueue(noop, 2, task_id="slow"))
            quick = await asyncio.wait_for(app.enqueue(noop, 3, durability="async"), 2)
            assert not slow.done()
            (told,) = await asyncio.gather(slow, return_exceptions=True)
            return quick, told

    quick, told = asyncio.run(main())
    assert isinstance(told, DurabilityUnconfirmed)
    assert waiting(primary)[1:] in (["slow", quick], [quick, "slow"])
    replica.thaw()


def test_callers_of_one_level_share_the_wait(fresh_server: FreshServer, flavour: str) -> None:
    primary = fresh_server()
    replica_of(primary, fresh_server)

    async def main(url: str) -> None:
        async with Reclaimd(url, NAMESPACE) as app:
            await asyncio.gather(*(app.enqueue(noop, n, durability="replicated") for n in range(200)))

    with primary.client() as client:
        client.config_resetstat()
        asyncio.run(main(primary.url))
        stats: Any = client.info("commandstats")
        waits = stats["cmdstat_wait"]["calls"]
    assert len(waiting(primary)) == 200
    assert waits < 10


@pytest.mark.flavours("valkey")
def test_the_command_line_waits_too(fresh_server: FreshServer, flavour: str) -> None:
    server = fresh_server(appendonly=True)
    done = reclaimd("--redis-url", server.url, "enqueue", "send", "--durability", "fsync")
    assert (done.code, done.err) == (0, "")
    refused = reclaimd("--redis-url", server.url, "enqueue", "send", "--durability", "replicated")
    assert refused.code == 3
    assert "no replica is connected" in refused.err
    wrong = reclaimd("--redis-url", server.url, "enqueue", "send", "--durability", "paper")
    assert wrong.code == 2
    assert "async, replicated, fsync" in wrong.err

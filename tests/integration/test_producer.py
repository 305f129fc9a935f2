"""Enqueueing against real servers: what is accepted is there once; what is not is said with certainty or not at all."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis

from reclaimd.streams.app import Reclaimd
from reclaimd.streams.codec import decode_body
from reclaimd.streams.enqueueing import Addressed, EnqueueResult, Limits, address
from reclaimd.streams.errors import (
    EnqueueUncertain,
    InvalidArguments,
    PayloadTooLarge,
    RedisFull,
    RedisUnreachable,
    RedisUnusable,
    Unusable,
)
from reclaimd.streams.keys import Partition, queues_key
from reclaimd.streams.lua_source import load_script
from reclaimd.streams.producer import Producer, SyncProducer
from support.proxy import Proxy, Request
from support.servers import FreshServer, Server, free_port
from support.task_app import noop, typed
from support.waiting import await_until, wait_until

NAMESPACE = "t"
MAIL = Partition(NAMESPACE, "mail")
LIMITS = Limits(1_000_000, 5)
Send = Callable[..., list[EnqueueResult]]


def is_script(request: Request) -> bool:
    return request[0].upper() in {b"EVAL", b"EVALSHA"}


def addressed(*ids: str, **options: Any) -> list[Addressed]:
    return [address(noop.call(n).options(task_id=name, **options), NAMESPACE, LIMITS) for n, name in enumerate(ids)]


def waiting(server: Server, stream: str = "lane:normal") -> list[str]:
    """Task IDs in one stream, in order."""
    with server.client() as client:
        entries: Any = client.xrange(MAIL.key(stream))
        return [fields[b"task"].decode() for _, fields in entries]


def counters(server: Server) -> dict[str, int]:
    with server.client() as client:
        rows: Any = client.hgetall(MAIL.key("counters"))
        return {name.decode(): int(value) for name, value in rows.items()}


@pytest.fixture(params=["async", "sync"])
def send(request: pytest.FixtureRequest) -> Send:
    """Enqueue through a new producer of either kind: `send(url, tasks, timeout=…)`."""

    async def through_async(url: str, tasks: list[Addressed], timeout: float) -> list[EnqueueResult]:
        producer = Producer(url, NAMESPACE, timeout=timeout)
        try:
            return await producer.enqueue(tasks)
        finally:
            await producer.aclose()

    def send(url: str, tasks: list[Addressed], timeout: float = 10.0) -> list[EnqueueResult]:
        if request.param == "async":
            return asyncio.run(through_async(url, tasks, timeout))
        producer = SyncProducer(url, NAMESPACE, timeout=timeout)
        try:
            return producer.enqueue(tasks)
        finally:
            producer.close()

    return send


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with server.client() as client:
        client.script_load(load_script("enqueue").source)
    with Proxy(server.port) as proxy:
        yield proxy


def test_what_was_enqueued_is_there(server: Server) -> None:
    async def main() -> list[str]:
        async with Reclaimd(server.url, NAMESPACE) as app:
            return [
                await app.enqueue(typed, 1, name="y"),
                app.enqueue_sync(typed, n=2, lane="high"),
                await app.enqueue(typed, 3, task_id="mine", max_deliveries=9),
            ]

    first, second, third = asyncio.run(main())
    assert third == "mine"
    assert len({first, second, third}) == 3
    assert waiting(server) == [first, "mine"]
    assert waiting(server, "lane:high") == [second]
    with server.client() as client:
        assert client.smembers(queues_key(NAMESPACE)) == {b"mail"}
        entries: Any = client.xrange(MAIL.key("lane:normal"))
        fields = entries[1][1]
        assert [fields[b"max"], fields[b"lane"]] == [b"9", b"normal"]
        body = decode_body(entries[0][1][b"body"])
        assert (body.name, bytes(body.args)) == ("typed", b'{"n":1,"name":"y"}')
        epoch: Any = client.hgetall(MAIL.key("epoch"))
        assert (epoch[b"state"], epoch[b"archive_id"]) == (b"ok", b"")


def test_delayed_tasks_wait_apart(server: Server, send: Send) -> None:
    (result,) = send(server.url, addressed("later", delay="1h"))
    assert result == EnqueueResult("later", "ok")
    assert waiting(server) == []
    with server.client() as client:
        due = client.zscore(MAIL.key("delayed"), "later")
        assert isinstance(due, float)
        assert abs(due / 1000 - time.time() - 3600) < 60


def test_a_unique_key_gives_the_open_task(server: Server) -> None:
    app = Reclaimd(server.url, NAMESPACE)
    first = app.enqueue_sync(noop, unique="hi:a")
    assert app.enqueue_sync(noop, unique="hi:a") == first
    assert app.enqueue_sync(noop, unique="hi:b") != first
    app.close()
    assert len(waiting(server)) == 2
    assert counters(server) == {"enqueued": 2, "exists": 1}


def test_a_bulk_has_one_result_per_task_in_order(server: Server, send: Send) -> None:
    tasks = [*addressed("a", "b", "a"), *addressed("c", unique="u"), *addressed("d", unique="u")]
    elsewhere = address(noop.call(1).options(task_id="e", queue="other"), NAMESPACE, LIMITS)
    results = send(server.url, [*tasks[:2], elsewhere, *tasks[2:]])
    assert results == [
        EnqueueResult("a", "ok"),
        EnqueueResult("b", "ok"),
        EnqueueResult("e", "ok"),
        EnqueueResult("a", "duplicate"),
        EnqueueResult("c", "ok"),
        EnqueueResult("c", "exists"),
    ]
    assert waiting(server) == ["a", "b", "c"]
    with server.client() as client:
        assert client.smembers(queues_key(NAMESPACE)) == {b"mail", b"other"}


def test_a_large_bulk_keeps_its_order(server: Server, send: Send) -> None:
    ids = [f"t{n}" for n in range(1234)]
    assert {result.status for result in send(server.url, addressed(*ids))} == {"ok"}
    assert waiting(server) == ids
    assert send(server.url, []) == []


def test_what_cannot_be_a_task_reaches_nobody(server: Server) -> None:
    app = Reclaimd(server.url, NAMESPACE)
    with pytest.raises(InvalidArguments):
        app.enqueue_sync(typed, "x")
    good, large = typed.call(1), typed.call(1, "x" * 1_000_001)
    with pytest.raises(PayloadTooLarge):
        app.enqueue_many_sync([good, large])
    app.close()
    with server.client() as client:
        assert client.dbsize() == 0


@pytest.mark.parametrize("after", [0, 3])
def test_a_lost_reply_is_asked_for_again(server: Server, proxy: Proxy, send: Send, after: int) -> None:
    rule = proxy.cut_reply(after, match=is_script, times=2)
    results = send(server.url_at(proxy.port), addressed("a", "b"))
    assert rule.done == 2
    assert results == [EnqueueResult("a", "duplicate"), EnqueueResult("b", "duplicate")]
    assert waiting(server) == ["a", "b"]
    assert counters(server)["enqueued"] == 2


def test_a_server_that_is_away_for_a_moment(fresh_server: FreshServer, flavour: str, send: Send) -> None:
    server = fresh_server(flavour, appendonly="yes")
    with Proxy(server.port) as proxy:
        server.kill9()

        async def main() -> list[EnqueueResult]:
            sending = asyncio.create_task(asyncio.to_thread(send, server.url_at(proxy.port), addressed("a")))
            await asyncio.to_thread(server.start)
            return await sending

        assert asyncio.run(main()) == [EnqueueResult("a", "ok")]
    assert waiting(server) == ["a"]


@pytest.mark.flavours("valkey")
def test_nobody_there_is_certain(send: Send, flavour: str) -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}/0"
    results = send(url, addressed("a", "b"), timeout=0.3)
    assert [result.status for result in results] == ["refused", "refused"]
    for result in results:
        assert isinstance(result.error, RedisUnreachable)
        assert "secret" not in str(result.error)


def test_a_reply_that_never_comes_is_uncertain_and_the_id_may_be_sent_again(
    server: Server, proxy: Proxy, send: Send
) -> None:
    proxy.cut_reply(match=is_script, times=10_000)
    (result,) = send(server.url_at(proxy.port), addressed("a"), timeout=0.3)
    assert (result.task_id, result.status) == ("a", "uncertain")
    assert isinstance(result.error, EnqueueUncertain)
    wait_until(lambda: waiting(server) == ["a"], "the lost one to be there")
    assert send(server.url, addressed("a")) == [EnqueueResult("a", "duplicate")]
    assert waiting(server) == ["a"]
    assert counters(server)["enqueued"] == 1


def test_a_request_that_arrives_after_it_was_given_up_and_sent_again(server: Server, proxy: Proxy, send: Send) -> None:
    held = proxy.hold(is_script, times=None)

    async def main() -> EnqueueResult:
        sending = asyncio.create_task(asyncio.to_thread(send, server.url_at(proxy.port), addressed("a"), 0.3))
        await asyncio.to_thread(held.wait_caught)
        proxy.cut_all()
        while not sending.done():
            proxy.cut_all()
            await asyncio.sleep(0.01)
        return (await sending)[0]

    assert asyncio.run(main()).status == "uncertain"
    assert send(server.url, addressed("a")) == [EnqueueResult("a", "ok")]
    held.release()
    assert waiting(server) == ["a"]
    assert counters(server)["enqueued"] == 1


def test_a_full_server_refuses_and_keeps_nothing(fresh_server: FreshServer, flavour: str, send: Send) -> None:
    server = fresh_server(flavour, maxmemory_policy="noeviction")
    assert send(server.url, addressed("before"))[0].status == "ok"
    with server.client() as client:
        client.config_set("maxmemory", 1)
        size = client.dbsize()
        (result,) = send(server.url, addressed("a", delay=5, unique="u"))
        assert result.status == "refused"
        assert isinstance(result.error, RedisFull)
        assert (client.dbsize(), counters(server)) == (size, {"enqueued": 1})
        client.config_set("maxmemory", 0)
    assert send(server.url, addressed("a", unique="u")) == [EnqueueResult("a", "ok")]


@pytest.mark.parametrize("given", ["wrong", ""])
def test_a_password_that_is_refused(fresh_server: FreshServer, flavour: str, send: Send, given: str) -> None:
    server = fresh_server(flavour, requirepass="right")
    url = server.url.replace("right", given) if given else server.url.replace(":right@", "")
    (result,) = send(url, addressed("a"))
    assert isinstance(result.error, RedisUnusable)
    assert result.error.reason is Unusable.PASSWORD
    assert "wrong" not in str(result.error)
    assert send(server.url, addressed("a"))[0].status == "ok"


def test_a_read_only_replica(fresh_server: FreshServer, flavour: str, send: Send) -> None:
    primary = fresh_server(flavour)
    replica = fresh_server(flavour, replicaof=f"127.0.0.1 {primary.port}")
    (result,) = send(replica.url, addressed("a"), timeout=0.3)
    assert result.status == "refused"
    assert isinstance(result.error, RedisUnusable)
    assert result.error.reason is Unusable.READ_ONLY


def test_too_few_replicas(fresh_server: FreshServer, flavour: str, send: Send) -> None:
    server = fresh_server(flavour, min_replicas_to_write=1)
    (result,) = send(server.url, addressed("a"), timeout=0.3)
    assert isinstance(result.error, RedisUnusable)
    assert result.error.reason is Unusable.NO_REPLICAS


def test_a_thousand_callers_share_a_connection_and_a_few_calls(server: Server, proxy: Proxy) -> None:
    ids = [f"t{n}" for n in range(1000)]
    calls = proxy.hold(is_script, times=0)

    async def main() -> list[list[EnqueueResult]]:
        producer = Producer(server.url_at(proxy.port), NAMESPACE)
        try:
            return await asyncio.gather(*(producer.enqueue(addressed(name)) for name in ids))
        finally:
            assert proxy.connections == 1
            await producer.aclose()

    results = asyncio.run(main())
    assert calls.requests == []
    assert [result for (result,) in results] == [EnqueueResult(name, "ok") for name in ids]
    assert sorted(waiting(server)) == sorted(ids)
    with server.client() as client:
        # Each batch is one entry of the event stream.
        assert client.xlen(MAIL.key("events")) <= 5
    wait_until(lambda: proxy.connections == 0, "the connection to be closed")


def test_callers_that_are_cancelled_take_nobody_elses_task_along(server: Server, proxy: Proxy) -> None:
    async def main() -> None:
        producer = Producer(server.url_at(proxy.port), NAMESPACE)
        await producer.enqueue(addressed("warm"))
        held = proxy.hold(is_script)
        callers = {f"t{n}": asyncio.create_task(producer.enqueue(addressed(f"t{n}"))) for n in range(40)}
        await asyncio.to_thread(held.wait_caught)
        # The first one leads a batch that is on its way; the others still wait for theirs.
        cancelled = {name for n, name in enumerate(callers) if n % 2 == 0}
        for name in cancelled:
            callers[name].cancel()
        await asyncio.sleep(0)
        await asyncio.to_thread(held.release)
        results = await asyncio.wait_for(asyncio.gather(*callers.values(), return_exceptions=True), 10)
        for name, result in zip(callers, results, strict=True):
            if name not in cancelled:
                assert result == [EnqueueResult(name, "ok")]
        there = waiting(server)
        assert len(set(there)) == len(there)
        assert set(callers) - cancelled <= set(there)
        assert await producer.enqueue(addressed("after")) == [EnqueueResult("after", "ok")]
        assert proxy.connections == 1
        await producer.aclose()

    asyncio.run(main())


def test_cancelling_a_leader_again_and_again_leaks_nothing(server: Server, proxy: Proxy) -> None:
    async def main() -> None:
        producer = Producer(server.url_at(proxy.port), NAMESPACE)
        for round_number in range(30):
            ids = [f"r{round_number}-{n}" for n in range(5)]
            tasks = [asyncio.create_task(producer.enqueue(addressed(name))) for name in ids]
            for _ in range(round_number % 7):
                await asyncio.sleep(0)
            tasks[round_number % 5].cancel()
            with suppress(asyncio.CancelledError):
                await tasks[round_number % 5]
            rest = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
            done = [result[0].status for result in rest if isinstance(result, list)]
            assert done == ["ok"] * len(done)
            assert len(done) >= 4
        assert proxy.connections <= 1
        await producer.aclose()
        await await_until(lambda: proxy.connections == 0, "the connection to be closed")

    asyncio.run(main())


def test_an_answer_that_nobody_foresaw_reaches_every_caller(server: Server) -> None:
    with server.client() as client:
        client.set(MAIL.key("lane:normal"), "not a stream")

    async def main() -> list[Any]:
        producer = Producer(server.url, NAMESPACE)
        callers = [producer.enqueue(addressed(f"t{n}")) for n in range(5)]
        try:
            return await asyncio.wait_for(asyncio.gather(*callers, return_exceptions=True), 10)
        finally:
            await producer.aclose()

    assert all(isinstance(error, redis.ResponseError) for error in asyncio.run(main()))


def test_a_producer_goes_on_after_it_was_closed(server: Server) -> None:
    async def main() -> None:
        producer = Producer(server.url, NAMESPACE)
        for name in ("a", "b"):
            assert (await producer.enqueue(addressed(name)))[0].status == "ok"
            await producer.aclose()

    asyncio.run(main())
    producer = SyncProducer(server.url, NAMESPACE)
    for name in ("c", "d"):
        assert producer.enqueue(addressed(name))[0].status == "ok"
        producer.close()
    assert waiting(server) == ["a", "b", "c", "d"]


def test_a_queue_is_registered_again_after_the_data_were_lost(server: Server, send: Send) -> None:
    async def main() -> None:
        producer = Producer(server.url, NAMESPACE)
        await producer.enqueue(addressed("a"))
        server.flush()
        assert (await producer.enqueue(addressed("b")))[0].status == "ok"
        await producer.aclose()

    asyncio.run(main())
    with server.client() as client:
        assert client.smembers(queues_key(NAMESPACE)) == {b"mail"}

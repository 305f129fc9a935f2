"""The proxy does to a connection what its control's name says, and the server's state tells the truth about it."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from support.proxy import Proxy
from support.servers import Server
from support.waiting import wait_until

pytestmark = pytest.mark.flavours("valkey")


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def direct(server: Server) -> Iterator[redis.Redis]:
    with server.client() as client:
        yield client


@pytest.fixture
def client(proxy: Proxy) -> Iterator[redis.Redis]:
    with connect(proxy) as client:
        client.ping()
        yield client


def connect(proxy: Proxy, timeout: float = 5) -> redis.Redis:
    return redis.Redis(port=proxy.port, retry=Retry(NoBackoff(), 0), socket_timeout=timeout, legacy_responses=False)


def in_background(call: object) -> threading.Thread:
    def run() -> None:
        try:
            assert callable(call)
            call()
        except redis.RedisError:
            # The caller cuts this connection on purpose.
            return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_forwards_large_pipelined_and_blocking_traffic(client: redis.Redis, direct: redis.Redis) -> None:
    big = b"x" * 3_000_000
    client.set("big", big)
    assert client.get("big") == big
    with client.pipeline(transaction=False) as pipe:
        for n in range(500):
            pipe.rpush("list", n)
        assert pipe.execute() == list(range(1, 501))
    thread = in_background(lambda: client.blpop(["bell"], timeout=5))
    wait_until(lambda: direct.info("clients")["blocked_clients"] == 1, "BLPOP to block")
    direct.rpush("bell", 1)
    thread.join(5)
    assert not thread.is_alive()


def test_async_clients_too(proxy: Proxy, server: Server) -> None:
    async def scenario() -> list[object]:
        async with redis.asyncio.Redis(port=proxy.port) as client:
            return list(await asyncio.gather(*(client.set(f"k{n}", n) for n in range(20))))

    assert asyncio.run(scenario()) == [True] * 20


def test_cut_all_ends_connections_and_accepts_new_ones(proxy: Proxy, client: redis.Redis, direct: redis.Redis) -> None:
    thread = in_background(lambda: client.blpop(["bell"], timeout=30))
    wait_until(lambda: direct.info("clients")["blocked_clients"] == 1, "BLPOP to block")
    assert proxy.cut_all() == proxy.connections + 1 == 1
    thread.join(5)
    assert not thread.is_alive()
    wait_until(lambda: direct.info("clients")["blocked_clients"] == 0, "the server to notice")
    assert client.ping()


@pytest.mark.parametrize("after", [0, 1, 7, 25])
def test_cut_reply_executes_and_breaks_in_the_middle(
    proxy: Proxy, client: redis.Redis, direct: redis.Redis, after: int
) -> None:
    direct.set("k", "v" * 40)
    rule = proxy.cut_reply(after, match="GET")
    assert client.ping()
    with pytest.raises(redis.ConnectionError):
        client.get("k")
    rule.wait_done()
    assert rule.requests == [(b"GET", b"k")]
    assert client.get("k") == b"v" * 40


def test_drop_reply_executes_and_stays_silent(proxy: Proxy, direct: redis.Redis) -> None:
    with connect(proxy, timeout=0.2) as client:
        client.ping()
        rule = proxy.drop_reply()
        with pytest.raises(redis.TimeoutError):
            client.incr("n")
        rule.wait_done()
        assert direct.get("n") == b"1"
        assert client.incr("n") == 2


def test_a_black_hole_accepts_and_says_nothing(proxy: Proxy, direct: redis.Redis) -> None:
    with connect(proxy, timeout=0.2) as client:
        client.ping()
        proxy.black_hole()
        with pytest.raises(redis.TimeoutError):
            client.incr("lost")
        proxy.cut_all()
        proxy.heal()
        assert client.incr("n") == 1
    assert direct.get("lost") is None


def test_healing_delivers_what_was_under_way(proxy: Proxy, client: redis.Redis, direct: redis.Redis) -> None:
    proxy.black_hole()
    thread = in_background(lambda: client.incr("n"))
    thread.join(0.1)
    assert direct.get("n") is None
    proxy.heal()
    thread.join(5)
    assert direct.get("n") == b"1"


def test_delayed_replies_come_late(proxy: Proxy, client: redis.Redis) -> None:
    proxy.delay_replies(0.15)
    begun = time.monotonic()
    client.ping()
    assert time.monotonic() - begun >= 0.15
    proxy.delay_replies(0)
    begun = time.monotonic()
    client.ping()
    assert time.monotonic() - begun < 0.15


def test_a_held_request_is_answered_when_released(proxy: Proxy, client: redis.Redis, direct: redis.Redis) -> None:
    rule = proxy.hold(match="n")
    answers: list[object] = []
    thread = in_background(lambda: answers.append(client.incr("n")))
    rule.wait_caught()
    assert direct.get("n") is None
    rule.release()
    thread.join(5)
    assert answers == [1]


@pytest.mark.parametrize("end", ["client closes", "proxy cuts"])
def test_a_held_request_arrives_after_its_client_is_gone(proxy: Proxy, direct: redis.Redis, end: str) -> None:
    rule = proxy.hold(match=lambda request: request[-1] == b"late")
    with connect(proxy, timeout=0.1) as client:
        client.set("k", "early")
        if end == "proxy cuts":
            thread = in_background(lambda: client.set("k", "late"))
            rule.wait_caught()
            proxy.cut_all()
            thread.join(5)
        else:
            with pytest.raises(redis.TimeoutError):
                client.set("k", "late")
    with connect(proxy) as other:
        other.set("k", "between")
    assert direct.get("k") == b"between"
    rule.release()
    assert direct.get("k") == b"late"


def test_a_discarded_request_never_arrives(proxy: Proxy, client: redis.Redis, direct: redis.Redis) -> None:
    rule = proxy.hold()
    thread = in_background(lambda: client.incr("n"))
    rule.wait_caught()
    rule.discard()
    thread.join(5)
    assert not thread.is_alive()
    assert client.incr("n") == 1
    assert direct.get("n") == b"1"


def test_a_dead_server_looks_like_one(server: Server, client: redis.Redis) -> None:
    server.kill9()
    with pytest.raises(redis.ConnectionError):
        client.ping()
    with pytest.raises(redis.ConnectionError):
        client.ping()
    server.start()
    assert client.ping()


def test_no_thread_outlives_the_proxy(server: Server) -> None:
    with Proxy(server.port) as proxy, connect(proxy) as client:
        client.ping()
        rule = proxy.hold(times=None)
        thread = in_background(lambda: client.incr("n"))
        rule.wait_caught()
        proxy.black_hole()
        proxy.stop()
        thread.join(5)
        assert not thread.is_alive()
        prefix = f"proxy-{proxy.port}"
        alive = [thread.name for thread in threading.enumerate() if thread.name.startswith(prefix)]
        assert alive == []
    with server.client() as direct:
        assert direct.get("n") is None

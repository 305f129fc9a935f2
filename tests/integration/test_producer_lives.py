"""What a producer keeps longer than one call: its connection, its event loop, and which queues it has registered."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from reclaimd.streams import enqueueing as module
from reclaimd.streams.enqueueing import Addressed, EnqueueResult, Limits, address, is_due
from reclaimd.streams.keys import Partition, queues_key
from reclaimd.streams.producer import Producer, SyncProducer
from support.fleet import TESTS
from support.proxy import Proxy
from support.servers import Server
from support.task_app import noop

NAMESPACE = "t"
MAIL = Partition(NAMESPACE, "mail")


def addressed(name: str) -> list[Addressed]:
    return [address(noop.call(1).options(task_id=name), NAMESPACE, Limits(1_000_000, 5))]


def enqueue_with(kind: str, server: Server) -> tuple[Callable[[str], str], Callable[[], None]]:
    """Enqueue through one producer again and again: a function that returns the status, and one that closes it."""
    if kind == "sync":
        sync = SyncProducer(server.url, NAMESPACE)
        return lambda name: sync.enqueue(addressed(name))[0].status, sync.close
    runner, producer = asyncio.Runner(), Producer(server.url, NAMESPACE)

    def close() -> None:
        runner.run(producer.aclose())
        runner.close()

    return lambda name: runner.run(producer.enqueue(addressed(name)))[0].status, close


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_queue_is_registered_again_on_a_connection_that_lives_on(
    server: Server, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLUSHALL breaks no connection, and a daemon that finds no queue serves none."""
    enqueue, close = enqueue_with(kind, server)
    with server.client() as client:
        assert enqueue("a") == "ok"
        client.flushall()
        assert enqueue("b") == "ok"
        assert client.smembers(queues_key(NAMESPACE)) == set(), "not with every call"
        monkeypatch.setattr(module, "REGISTER_EVERY", -1.0)
        assert enqueue("c") == "ok"
        assert client.smembers(queues_key(NAMESPACE)) == {b"mail"}
        assert client.xlen(MAIL.key("lane:normal")) == 2
    close()


def test_when_a_queue_is_registered_again() -> None:
    now = time.monotonic()
    assert is_due({}, "mail")
    assert is_due({"another": now}, "mail")
    assert not is_due({"mail": now}, "mail")
    assert is_due({"mail": now - module.REGISTER_EVERY - 0.001}, "mail")


def test_those_who_shared_the_batch_of_a_cancelled_leader_go_with_the_next(server: Server) -> None:
    """No shield stops asyncio's own cancellation. What was sent by then arrives late, and is known by its IDs."""

    async def main(proxy: Proxy) -> list[Any]:
        producer = Producer(server.url_at(proxy.port), NAMESPACE)
        await producer.enqueue(addressed("warm"))
        alone, shared = proxy.hold("EVALSHA"), proxy.hold("EVALSHA")
        callers = [asyncio.create_task(producer.enqueue(addressed(name))) for name in "abcd"]
        await asyncio.to_thread(alone.wait_caught)
        await asyncio.to_thread(alone.release)
        await asyncio.to_thread(shared.wait_caught)
        # The first one went alone; the second one leads the batch of all who came meanwhile.
        assert not any(name.encode() in alone.requests[0] for name in "bcd")
        assert all(name.encode() in shared.requests[0] for name in "bcd")
        callers[1].cancel()
        results = await asyncio.wait_for(asyncio.gather(*callers, return_exceptions=True), 10)
        await asyncio.to_thread(shared.release)
        await producer.aclose()
        return results

    with Proxy(server.port) as proxy:
        a, b, c, d = asyncio.run(main(proxy))
    assert [a, c, d] == [[EnqueueResult(name, "ok")] for name in "acd"]
    assert isinstance(b, asyncio.CancelledError)
    with server.client() as client:
        entries: Any = client.xrange(MAIL.key("lane:normal"))
    assert [fields[b"task"] for _, fields in entries] == [b"warm", b"a", b"c", b"d", b"b"]


JOBS = """
import asyncio, gc, sys
from reclaimd.streams.app import Reclaimd
from support.task_app import noop

app = Reclaimd(sys.argv[1], "t")
for number in range(3):
    asyncio.run(app.enqueue(noop, number))

async def last():
    gc.collect()
    await app.enqueue(noop, 3)

asyncio.run(last())
asyncio.run(app.aclose())
gc.collect()
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_producer_goes_on_in_another_event_loop(server: Server) -> None:
    """A program that calls asyncio.run for each job: no connection of a loop that has ended is used, kept, or
    complained about.
    """
    command = [sys.executable, "-P", "-c", JOBS, server.url]
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as program:
        assert program.stdout is not None
        said = program.stdout.readline()
        with server.client() as client:
            left, tasks = client.client_list(_type="normal"), client.xlen(MAIL.key("lane:normal"))
        _, errors = program.communicate(timeout=20)
    assert (said, errors, program.returncode) == ("ready\n", "", 0)
    assert (len(left), tasks) == (1, 4), "only our own connection is left"

"""Joining when it takes its time, and joining a server that is full."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from reclaimd.streams import scripts
from reclaimd.streams.keys import Partition, queues_key
from reclaimd.streams.lua_source import load_script
from reclaimd.streams.redis_log import connect_sync, send_sync
from reclaimd.streams.worker.joining import join_all
from support import task_app
from support.fleet import MAIL, NAMESPACE, Fleet
from support.proxy import Proxy, Request
from support.servers import FreshServer, Server
from support.waiting import wait_until

SIDE = Partition(NAMESPACE, "side")
JOIN = load_script("join")


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with server.client() as client:
        client.script_load(JOIN.source)
    with Proxy(server.port) as proxy:
        yield proxy


def test_a_lease_that_was_joined_early_is_renewed_when_a_later_queue_took_long(server: Server, proxy: Proxy) -> None:
    """The queue `side` is held by a life of the same ID that is over, and nobody can prove it."""
    client = connect_sync(server.url)
    before = scripts.Identity("w", "before", 800, "{}")
    assert send_sync(client, scripts.join(SIDE, before, epoch_id="e")).status == "ok"
    asked: list[Partition] = []

    def note(request: Request) -> bool:
        if request[1].decode() == JOIN.sha:
            asked.append(MAIL if MAIL.key("epoch").encode() in request else SIDE)
        return False

    proxy.hold(note)
    # Less than what remains of the other lease is a quarter of this one.
    who = scripts.Identity("w", "now", 2_000, "{}")
    joined = asyncio.run(join_all(server.url_at(proxy.port), [MAIL, SIDE], who))
    assert asked[:2] == [MAIL, SIDE]
    assert asked.count(SIDE) > 2, "it had to wait"
    assert asked[-2:] == [MAIL, SIDE], "both at last within a short time"
    assert time.monotonic() - joined.asked < who.lease_ms / 1000
    for held in joined.held:
        turned = send_sync(client, scripts.turn(held.partition, "w", held.token, scripts.Turn(1, True)))
        assert turned.status == "ok"
    client.close()


def test_a_worker_joins_a_full_server_and_drains_it(fresh_server: FreshServer, flavour: str) -> None:
    server = fresh_server(flavour, maxmemory_policy="noeviction")
    with Fleet(server, server.folder) as fleet:
        ids = [fleet.enqueue(task_app.note, n) for n in range(3)]
        fleet.raw("DEL", queues_key(NAMESPACE))
        fleet.raw("CONFIG", "SET", "maxmemory", "1")
        worker = fleet.start("w")
        fleet.wait_counter("succeeded", 3)
        assert [line["task"] for line in fleet.journal("note")] == ids
        wait_until(lambda: "Redis is full: the queue could not be registered" in worker.said(), "it to say so")
        assert "Traceback" not in worker.said()
        assert fleet.counters()["joined"] == 1
        assert fleet.raw("EXISTS", queues_key(NAMESPACE)) == 0
        fleet.raw("CONFIG", "SET", "maxmemory", "0")
        fleet.wait_journal("note", task=fleet.enqueue(task_app.note, 4))

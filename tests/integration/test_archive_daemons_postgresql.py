"""Several daemons with one archive in a real PostgreSQL: one archives, another takes over, and nothing is doubled."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest

from support.archives import Served, served, wait_same, wait_same_events
from support.daemons import Queue, in_loop, queue_on
from support.holders import holder
from support.postgres import Postgres
from support.servers import Server, ServerFailedError
from support.traffic import traffic
from support.waiting import wait_until

pytestmark = pytest.mark.flavours("valkey")

READY = '"message": "ready"'
TAKEN_OVER_WITHIN = 10.0
"""Seconds; 6 to 8 even on a busy machine. Who waits in vain for the row of a frozen daemon waits for a minute."""


def freeze(daemon: Served, postgres: Postgres, *, holding: bool) -> None:
    """Stop the process while it holds the row of the queue, which it has written and not committed; or does not."""

    def is_held() -> bool:
        try:
            postgres.sql("SELECT id FROM reclaimd_partitions WHERE queue = 'mail' FOR UPDATE NOWAIT")
        except ServerFailedError as error:
            return "could not obtain lock" in str(error)
        return False

    def caught() -> bool:
        os.kill(daemon.process.pid, signal.SIGSTOP)
        # The server may be about to end it without a further word of the client; the second time it would have.
        if is_held() is is_held() is holding:
            return True
        os.kill(daemon.process.pid, signal.SIGCONT)
        return False

    wait_until(caught, "it to be caught in a transaction, or outside", 60)


def taken_over(daemon: Served) -> float:
    """The seconds until it archives the queue."""
    began = time.monotonic()
    wait_until(lambda: daemon.sample("reclaimd_archive_owned", queue="mail") == 1, "it to take over", 60)
    return time.monotonic() - began


def replace(first: Served, second: Served, queue: Queue, server: Server, postgres: Postgres, how: str) -> None:
    """The first daemon ends in the middle of work, or stands still for ever."""
    for daemon in (first, second):
        daemon.wait_said(READY)
    assert [one.sample("reclaimd_archive_owned", queue="mail") for one in (first, second)] == [1, 0]
    with traffic(server.url, queue.partition) as going:
        wait_until(lambda: len(going.settled) > 20, "some tasks to be settled")
        if how == "killed":
            first.kill9()
        else:
            freeze(first, postgres, holding=True)
        assert taken_over(second) < TAKEN_OVER_WITHIN
        if how == "frozen, and awake again":
            os.kill(first.process.pid, signal.SIGCONT)
            wait_until(lambda: first.sample("reclaimd_archive_owned", queue="mail") == 0, "it to learn that", 30)
        settled = len(going.settled)
        wait_until(lambda: len(going.settled) > settled + 20, "some more")


@pytest.mark.parametrize("how", ["killed", "frozen", "frozen, and awake again"])
@in_loop
async def test_one_archives_and_the_other_takes_over(
    server: Server, postgres: Postgres, tmp_path: Path, how: str
) -> None:
    url = postgres.url()
    async with queue_on(server) as queue:
        queue.enqueue(3)
        with served(server, url, tmp_path, "first") as first:
            await asyncio.to_thread(first.wait_said, READY)
            with served(server, url, tmp_path, "second") as second:
                await asyncio.to_thread(replace, first, second, queue, server, postgres, how)
                await wait_same(url, queue, timeout=30)
                await wait_same_events(url, queue)
                assert "not what the archive knows" not in first.said() + second.said()


@in_loop
async def test_another_takes_over_though_the_server_waits_for_the_rest_of_a_message(
    server: Server, postgres: Postgres, tmp_path: Path
) -> None:
    url = postgres.url()
    async with queue_on(server) as queue:
        queue.enqueue(3)
        with served(server, url, tmp_path, "first") as first:
            await asyncio.to_thread(first.wait_said, READY)
            with served(server, url, tmp_path, "second") as second:
                await asyncio.to_thread(second.wait_said, READY)
                began = time.monotonic()
                await asyncio.to_thread(freeze, first, postgres, holding=False)
                # In its place, at an instant at which no signal can be sure to meet it.
                async with holder(postgres) as silent:
                    await silent.fall_silent()
                    await asyncio.to_thread(taken_over, second)
                    assert time.monotonic() - began < TAKEN_OVER_WITHIN
                    assert not await silent.is_there()
                [line] = [line for line in map(json.loads, second.said().splitlines()) if line.get("pid") == silent.pid]
                assert (line["level"], line["queue"]) == ("warning", "mail")
                await wait_same(url, queue, timeout=30)


@in_loop
async def test_killed_at_any_instant_it_misses_nothing_and_doubles_nothing(
    server: Server, postgres: Postgres, tmp_path: Path
) -> None:
    url = postgres.url()
    async with queue_on(server) as queue:
        queue.enqueue(3)
        with traffic(server.url, queue.partition) as going:
            for number in range(4):
                with served(server, url, tmp_path, f"d{number}") as daemon:
                    await asyncio.to_thread(daemon.wait_said, READY)
                    settled = len(going.settled)
                    await asyncio.to_thread(
                        wait_until, lambda n=settled, m=number: len(going.settled) > n + 5 * m, "some tasks"
                    )
                    daemon.kill9()
        with served(server, url, tmp_path, "last") as last:
            await wait_same(url, queue, timeout=40)
            await wait_same_events(url, queue)
            assert "not what the archive knows" not in last.said()

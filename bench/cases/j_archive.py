"""What an archive costs and how far it lags: SQLite in a file, PostgreSQL on a server of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import redis
from measure import WORST, Aim, Figure, percentile
from processes import ending, start_daemon, start_worker, wait_live
from stage import Stage, counters, enqueue

from cases.b_drain import CONCURRENCY, seeded, span
from reclaimd.daemon.archive.store import Store, open_store
from reclaimd.daemon.rebuild.values import EVENTS, entry_ms
from reclaimd.streams.keys import Partition
from support.postgres import Postgres
from support.waiting import await_until, wait_until

RATE = 2_000
"""Tasks a second."""
SECONDS = 10.0
PULSE = 0.01
LOOK = 0.02
SLOWEST = 300.0


def measure(stage: Stage) -> list[Figure]:
    """Each run has a daemon, a worker, a namespace and an archive of its own."""
    with _postgresql() as server:
        figures = [*_lags(stage, "SQLite", None), *_lags(stage, "PostgreSQL", server)]
        return [*figures, *_drains(stage, server)]


@contextmanager
def _postgresql() -> Iterator[Postgres]:
    server = Postgres().create()
    try:
        yield server
    finally:
        server.remove()


def _archive(stage: Stage, partition: Partition, server: Postgres | None) -> str:
    if server is None:
        return f"sqlite:///{stage.folder}/{partition.namespace}.db"
    server.sql("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    return server.url()


def _lags(stage: Stage, name: str, server: Postgres | None) -> Iterator[Figure]:
    seconds = 2.0 if stage.quick else SECONDS
    rate = stage.size(RATE, 200)
    medians: list[float] = []
    tails: list[float] = []
    for _ in stage.rounds(f"{rate:,} tasks a second into {name}", default=3):
        stage.clear()
        partition = stage.partition()
        url = _archive(stage, partition, server)
        with ending([start_daemon(stage, partition.namespace, archive=url)]) as processes:
            processes.append(start_worker(stage, partition, concurrency=CONCURRENCY))
            wait_live(stage, partition, 1, processes[-1])
            lags = anyio.run(_watched, stage, partition, url, rate, seconds)
        medians.append(percentile(lags, 0.5))
        tails.append(percentile(lags, 0.99))
    what = f"lag of the archive in {name} at {rate:,} tasks a second, each enqueued, started and settled"
    yield Figure("j", f"{what}: p50 of each run", "ms", medians)
    yield Figure("j", f"{what}: p99 of each run", "ms", tails, aim=Aim(500, at_most=True, share=WORST))


async def _watched(stage: Stage, partition: Partition, url: str, rate: int, seconds: float) -> list[float]:
    """Milliseconds, every 20 ms: how old the oldest event is that a loss of Redis would cost now."""
    lags: list[float] = []
    until = time.monotonic() + seconds
    # A connection is for one thread at a time.
    with stage.server.client() as client:
        producer = threading.Thread(target=_produce, args=(stage, partition, rate, until))
        producer.start()
        async with open_store(url) as store:
            while time.monotonic() < until:
                lags.append(await _lag(store, client, partition))
                await anyio.sleep(LOOK)
        await anyio.to_thread.run_sync(producer.join)
    # The first second warms up.
    return lags[len(lags) // 10 :]


async def _lag(store: Store, client: redis.Redis, partition: Partition) -> float:
    # What is asked first of Redis is older than what the archive says, so that a lag comes out too long, not too short.
    seconds, micros = client.time()
    row = await store.partition(partition)
    position = "0-0" if row is None else row.positions.get(EVENTS, "0-0")
    found: Any = client.xrange(partition.key("events"), f"({position}", count=1)
    if not found:
        return 0.0
    return max(0.0, int(seconds) * 1000 + int(micros) / 1000 - entry_ms(found[0][0].decode()))


def _produce(stage: Stage, partition: Partition, rate: int, until: float) -> None:
    begun, sent = time.monotonic(), 0
    while (now := time.monotonic()) < until:
        due = int((now - begun) * rate) - sent
        if due > 0:
            enqueue(stage, partition, due)
            sent += due
        time.sleep(PULSE)


async def _archived(partition: Partition, url: str, count: int) -> None:
    """Until the archive holds all tasks: how fast it reads what was there before is not the question here."""
    async with open_store(url) as store:

        async def all_there() -> bool:
            return sum((await store.count_tasks(partition)).values()) == count

        await await_until(all_there, f"{count:,} tasks to be archived", SLOWEST)


def _drains(stage: Stage, server: Postgres) -> Iterator[Figure]:
    """The same drain with a daemon that has an archive and with one that has none, in turn."""
    count = stage.size(50_000, 1_000)
    rates: dict[str, list[float]] = {"SQLite": [], "PostgreSQL": []}
    plain: list[float] = []
    for _ in stage.rounds(f"drain of {count:,} tasks with and without an archive", default=3):
        plain.append(count / _drain(stage, count, None))
        rates["SQLite"].append(count / _drain(stage, count, lambda p: _archive(stage, p, None)))
        rates["PostgreSQL"].append(count / _drain(stage, count, lambda p: _archive(stage, p, server)))
    for name, runs in rates.items():
        what = f"drain of {count:,} tasks beside a daemon that archives in {name}"
        yield Figure("j", what, "/s", runs, {"the same daemon without an archive": plain}, Aim(0.85, of_floor=True))


def _drain(stage: Stage, count: int, archive: Any) -> float:
    stage.clear()
    partition = seeded(stage, count)
    url = None if archive is None else archive(partition)
    with ending([start_daemon(stage, partition.namespace, archive=url)]) as processes:
        if url is not None:
            anyio.run(_archived, partition, url, count)
        processes.append(start_worker(stage, partition, concurrency=CONCURRENCY))
        wait_until(
            lambda: processes[-1].alive() and counters(stage, partition, "succeeded")[0] >= count,
            f"{count:,} tasks to be settled",
            SLOWEST,
        )
        return span(stage, partition)

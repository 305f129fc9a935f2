"""Drain of 50,000 no-op tasks by one worker process."""

from __future__ import annotations

import time
from typing import Any

from measure import Aim, Figure
from processes import ending, start_worker
from stage import LANE, Stage, counters, enqueue, join, stopwatch

from reclaimd.streams.events import Settled, Started, decode_batch
from reclaimd.streams.keys import Partition
from support.waiting import wait_until

CONCURRENCY = 100
SLOWEST = 300.0


def measure(stage: Stage) -> list[Figure]:
    """Tasks a second from the first Started to the last Settled, by the server's own clock in the events."""
    count = stage.size(50_000, 1_000)
    rates: list[float] = []
    floors: dict[str, list[float]] = {"Lua loop": [], "redis-py loop": []}
    for _ in stage.rounds(f"drain of {count:,} tasks"):
        stage.clear()
        floors["Lua loop"].append(count / _lua(stage, count))
        floors["redis-py loop"].append(count / _client(stage, count))
        rates.append(count / _worker(stage, count))
    name = f"drain of {count:,} no-op async tasks by one worker process, concurrency {CONCURRENCY}"
    return [Figure("b", name, "/s", rates, floors, Aim(15_000))]


def seeded(stage: Stage, count: int) -> Partition:
    """A queue of so many tasks."""
    partition = stage.partition()
    join(stage, partition, "seed")
    enqueue(stage, partition, count)
    return partition


def _lua(stage: Stage, count: int) -> float:
    partition = seeded(stage, count)
    with stopwatch() as spent:
        done = stage.run_script("floor_drain", [partition.key(LANE)], CONCURRENCY)
    if done != count:
        raise AssertionError(f"drained {done:,} of {count:,}: the benchmark is wrong")
    return spent[0]


def _client(stage: Stage, count: int) -> float:
    """What a worker without promises does: two round trips a batch."""
    stream = seeded(stage, count).key(LANE)
    # Untyped: the library's unions for stream replies say less than the protocol does.
    client: Any = stage.client
    done = 0
    with stopwatch() as spent:
        while done < count:
            got = client.xreadgroup("workers", "floor", {stream: ">"}, count=CONCURRENCY)
            ids = [entry[0] for entries in got.values() for entry in entries]
            pipeline = client.pipeline(transaction=False)
            pipeline.xack(stream, "workers", *ids)
            pipeline.xdel(stream, *ids)
            pipeline.execute()
            done += len(ids)
    return spent[0]


def _worker(stage: Stage, count: int) -> float:
    partition = seeded(stage, count)
    with ending([start_worker(stage, partition, concurrency=CONCURRENCY)]) as processes:
        wait_until(
            lambda: processes[0].alive() and counters(stage, partition, "succeeded")[0] >= count,
            f"{count:,} tasks to be settled",
            SLOWEST,
        )
    return span(stage, partition)


def span(stage: Stage, partition: Partition) -> float:
    """Seconds between the first Started and the last Settled."""
    first, last = time.time() * 1000, 0.0
    client: Any = stage.client
    for entry_id, fields in client.xrange(partition.key("events")):
        batch = decode_batch(fields[b"at"], fields[b"e"], entry_id.decode())
        kinds = {type(event) for event in batch.events}
        if Started in kinds:
            first = min(first, batch.at)
        if Settled in kinds:
            last = max(last, batch.at)
    return (last - first) / 1000

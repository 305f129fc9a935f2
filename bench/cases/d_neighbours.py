"""Reclaim of 100 orphans while 1,000,000 entries are pending to live workers."""

from __future__ import annotations

from measure import Aim, Figure
from stage import LANE, Stage, fill, give, join, stopwatch

from reclaimd.streams import redis_log, scripts
from reclaimd.streams.keys import Partition

ORPHANS = 100
LIVE = [f"live-{number}" for number in range(10)]


def measure(stage: Stage) -> list[Figure]:
    """Milliseconds for the whole pass, with and without the million, in turns."""
    pending = stage.size(1_000_000, 5_000)
    crowded, alone = stage.partition(), stage.partition()
    stage.say(f"{pending:,} entries become pending")
    for worker in LIVE:
        join(stage, crowded, worker)
        join(stage, alone, worker)
    fill(stage, crowded.key(LANE), pending)
    give(stage, crowded, LIVE, pending)
    # The first pass finds cold caches and unloaded scripts in both.
    _reclaim(stage, alone, "warm")
    _reclaim(stage, crowded, "warm")
    beside: list[float] = []
    without: list[float] = []
    for number in stage.rounds(f"{ORPHANS} orphans beside {pending:,} pending", 15):
        without.append(_reclaim(stage, alone, f"dead-{number}"))
        beside.append(_reclaim(stage, crowded, f"dead-{number}"))
    name = f"reclaim of {ORPHANS} orphans while {pending:,} entries are pending to live workers"
    aim = Aim(3, of_floor=True, at_most=True)
    return [Figure("d", name, "ms", beside, {"nothing else pending": without}, aim)]


def _reclaim(stage: Stage, partition: Partition, worker: str) -> float:
    join(stage, partition, worker)
    fill(stage, partition.key(LANE), ORPHANS)
    give(stage, partition, [worker], ORPHANS)
    stage.client.zadd(partition.key("leases"), {worker: 1})
    moved, more = 0, True
    with stopwatch() as spent:
        while more:
            reply = redis_log.send_sync(stage.client, scripts.reclaim(partition))
            moved, more = moved + reply.moved, reply.more
    if moved != ORPHANS:
        raise AssertionError(f"moved {moved}, not {ORPHANS}: the benchmark is wrong")
    return spent[0] * 1000

"""Reclaim of 100,000 orphans of 8 dead workers."""

from __future__ import annotations

import anyio
from measure import Aim, Figure
from stage import LANE, Stage, fill, give, join, orphans, stopwatch

from reclaimd.daemon.actions import Cause, Reclaim
from reclaimd.daemon.execute import Executor
from reclaimd.streams import redis_log, scripts
from reclaimd.streams.keys import Partition

DEAD = [f"dead-{number}" for number in range(8)]
LIMIT = 500
FLOORS = {
    "Lua, XCLAIM": "floor_move_claim",
    "Lua, XRANGE": "floor_move_range",
    "Lua, XCLAIM, writing the fields of a return": "floor_move_fields",
}


def measure(stage: Stage) -> list[Figure]:
    """Entries a second, by plain calls and by the daemon's executor, over bare Lua loops."""
    count = stage.size(100_000, 2_000)
    plain: list[float] = []
    executor: list[float] = []
    floors: dict[str, list[float]] = {name: [] for name in FLOORS}
    for _ in stage.rounds(f"reclaim of {count:,} orphans"):
        for name, script in FLOORS.items():
            floors[name].append(count / _floor(stage, script, count))
        plain.append(count / _plain(stage, count))
        executor.append(count / _executor(stage, count))
    what = f"reclaim of {count:,} orphans of {len(DEAD)} workers"
    aim = Aim(0.8, of_floor=True)
    return [
        Figure("c", f"{what}, {LIMIT} a call", "/s", plain, floors, aim),
        Figure("c", f"{what}, by the daemon's executor", "/s", executor, floors, aim),
    ]


def _empty(stage: Stage) -> Partition:
    # Every measurement on a server as full as for the others: what the one before left makes the memory slower.
    stage.clear()
    return stage.partition()


def _floor(stage: Stage, script: str, count: int) -> float:
    partition = _empty(stage)
    for worker in DEAD:
        join(stage, partition, worker)
    fill(stage, partition.key(LANE), count)
    give(stage, partition, DEAD, count)
    with stopwatch() as spent:
        moved = stage.run_script(script, [partition.key(LANE), partition.key("recovered:normal")], LIMIT, *DEAD)
    _check(moved, count)
    return spent[0]


def _plain(stage: Stage, count: int) -> float:
    partition = _empty(stage)
    orphans(stage, partition, DEAD, count)
    moved, more = 0, True
    with stopwatch() as spent:
        while more:
            reply = redis_log.send_sync(stage.client, scripts.reclaim(partition, limit=LIMIT))
            moved, more = moved + reply.moved, reply.more
    _check(moved, count)
    return spent[0]


def _executor(stage: Stage, count: int) -> float:
    partition = _empty(stage)
    orphans(stage, partition, DEAD, count)
    return anyio.run(_execute, stage.server.url, partition, count)


async def _execute(url: str, partition: Partition, count: int) -> float:
    client = redis_log.connect(url)

    async def send(call: scripts.Call[redis_log.T]) -> redis_log.T:
        return await redis_log.send(client, call)

    executor = Executor(partition, send, batch_max=500)
    moved, more = 0, True
    with stopwatch() as spent:
        while more:
            outcome = await executor.execute((Reclaim(Cause.LEASE_EXPIRED),))
            moved, more = moved + outcome.moved, outcome.unfinished
    await client.aclose()
    _check(moved, count)
    return spent[0]


def _check(moved: int, count: int) -> None:
    if moved != count:
        raise AssertionError(f"moved {moved:,} of {count:,}: the benchmark is wrong")

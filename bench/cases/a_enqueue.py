"""Enqueueing: one at a time, many callers at once, in bulk, and without asyncio."""

from __future__ import annotations

import anyio
import bench_tasks
import redis.asyncio
from measure import Figure
from stage import BODY, Stage, stopwatch

from reclaimd.streams import Reclaimd, redis_log

ENTRY = {"task": "0123456789abcdef0123456789", "at": "1750000000000", "lane": "normal", "max": "5", "body": BODY}
STREAM = "floor"
PIPELINED_AT_ONCE = 500


def measure(stage: Stage) -> list[Figure]:
    """Tasks a second for four ways, each over the barest way to add the same entries."""
    few, many = stage.size(3_000, 100), stage.size(20_000, 1_000)
    rates: dict[str, list[float]] = {name: [] for name in ("single", "pipelined", "bulk", "sync")}
    floors: dict[str, list[float]] = {name: [] for name in rates}
    for _ in stage.rounds("enqueue"):
        stage.clear()
        floors["single"].append(few / anyio.run(_xadd_single, stage.server.url, few))
        floors["pipelined"].append(many / anyio.run(_xadd_pipelined, stage.server.url, many))
        floors["bulk"].append(many / _xadd_in_lua(stage, many))
        floors["sync"].append(few / _xadd_sync(stage, few))
        for name, seconds in anyio.run(_ours, stage, few, many).items():
            rates[name].append((few if name == "single" else many) / seconds)
        rates["sync"].append(few / _ours_sync(stage, few))
    names = {
        "single": ("one at a time, awaited", "XADD, awaited"),
        "pipelined": (f"{PIPELINED_AT_ONCE} callers at once", f"redis-py pipelines of {PIPELINED_AT_ONCE} XADD"),
        "bulk": ("enqueue_many of 500", "Lua loop of XADD"),
        "sync": ("enqueue_sync, one at a time", "XADD, sync client"),
    }
    return [Figure("a", f"enqueue, {names[way][0]}", "/s", rates[way], {names[way][1]: floors[way]}) for way in rates]


async def _xadd_single(url: str, count: int) -> float:
    client = redis_log.connect(url)
    with stopwatch() as spent:
        for _ in range(count):
            await client.xadd(STREAM, ENTRY)  # type: ignore[arg-type]
    await client.aclose()
    return spent[0]


async def _xadd_pipelined(url: str, count: int) -> float:
    client = redis_log.connect(url)
    with stopwatch() as spent:
        for _ in range(0, count, PIPELINED_AT_ONCE):
            pipeline: redis.asyncio.client.Pipeline = client.pipeline(transaction=False)
            for _ in range(PIPELINED_AT_ONCE):
                pipeline.xadd(STREAM, ENTRY)  # type: ignore[arg-type]
            await pipeline.execute()
    await client.aclose()
    return spent[0]


def _xadd_in_lua(stage: Stage, count: int) -> float:
    with stopwatch() as spent:
        stage.run_script("floor_add", [STREAM], count, BODY)
    return spent[0]


def _xadd_sync(stage: Stage, count: int) -> float:
    with stopwatch() as spent:
        for _ in range(count):
            stage.client.xadd(STREAM, ENTRY)  # type: ignore[arg-type]
    return spent[0]


def _app(stage: Stage) -> Reclaimd:
    return Reclaimd(stage.server.url, stage.partition().namespace)


async def _ours(stage: Stage, few: int, many: int) -> dict[str, float]:
    spent: dict[str, float] = {}
    async with _app(stage) as app:
        await app.enqueue(bench_tasks.noop)
        with stopwatch() as single:
            for _ in range(few):
                await app.enqueue(bench_tasks.noop)
        spent["single"] = single[0]

        async def caller() -> None:
            for _ in range(many // PIPELINED_AT_ONCE):
                await app.enqueue(bench_tasks.noop)

        with stopwatch() as pipelined:
            async with anyio.create_task_group() as group:
                for _ in range(PIPELINED_AT_ONCE):
                    group.start_soon(caller)
        spent["pipelined"] = pipelined[0]
        with stopwatch() as bulk:
            for _ in range(0, many, 500):
                await app.enqueue_many([bench_tasks.noop.call() for _ in range(500)])
        spent["bulk"] = bulk[0]
    return spent


def _ours_sync(stage: Stage, count: int) -> float:
    app = _app(stage)
    app.enqueue_sync(bench_tasks.noop)
    with stopwatch() as spent:
        for _ in range(count):
            app.enqueue_sync(bench_tasks.noop)
    app.close()
    return spent[0]

"""Recovery by hand: what a pass would do, doing it, and reading from the events what it did."""

from collections.abc import Awaitable, Callable

import msgspec

from reclaimd.daemon.inspect.source import Source
from reclaimd.daemon.inspect.tasks import entries
from reclaimd.daemon.inspect.workers import Fleet, WorkerInfo, read_fleet
from reclaimd.streams import events as ev
from reclaimd.streams import scripts
from reclaimd.streams.errors import PartitionFrozen

# What workers do themselves also moves tasks; it is not recovery.
_NOT_OURS = ("audit", "handback")
_PAUSE_AT_MOST_MS = 250

Progress = Callable[[str, int], object]
"""Called with what is going on, and the entries moved so far."""


class Recovered(msgspec.Struct, frozen=True, kw_only=True):
    """One task that came back; `dead`: to the dead letters, because it came back too often."""

    task_id: str
    queue: str
    worker: str
    cause: str
    stream: str
    entry_id: str
    deliveries: int | None = None
    handbacks: int | None = None
    dead: bool = False


class WorkerShare(msgspec.Struct, frozen=True, kw_only=True):
    """What came back, or would, from one worker. `state`: as `WorkerInfo.state` when it was looked at."""

    worker: str
    queue: str
    cause: str
    tasks: int
    state: str = ""


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """One queue's recovery. `moved`: entries that left their dead owner, ghosts among them."""

    queue: str
    moved: int
    workers: list[WorkerShare]
    tasks: list[Recovered]
    fenced: list[str]


async def plan(source: Source, queue: str) -> list[WorkerShare]:
    """What `recover` would take from whom, if nobody renewed meanwhile. Changes nothing, not even lease time."""
    fleet = await read_fleet(source, queue)
    return [
        WorkerShare(worker=w.worker, queue=queue, cause=_would_be(w), tasks=w.pending, state=_shown_state(w, fleet))
        for w in fleet.workers
        if w.state in ("expired", "fenced") or (w.state == "unknown" and w.pending) or w in fleet.silent()
    ]


def _would_be(worker: WorkerInfo) -> str:
    if worker.state == "fenced":
        return worker.cause
    return "unknown" if worker.state == "unknown" else "lease_expired"


def _shown_state(worker: WorkerInfo, fleet: Fleet) -> str:
    return "silent" if worker in fleet.silent() else worker.state


async def recover(
    source: Source,
    queue: str,
    *,
    wait: bool,
    pause: Callable[[float], Awaitable[object]],
    progress: Progress,
) -> Recovery:
    """Run reclaim passes on a queue until nothing is left to do.

    Lease time stands still while no script runs, so that workers may have been silent for hours and still have lease
    left: with `wait` the pass is repeated until these leases have ended or were renewed, at most a lease long. `pause`
    takes seconds.
    """
    fleet = await read_fleet(source, queue)
    events = source.partition(queue).key("events")
    [last] = await source.read(lambda pipe: pipe.xrevrange(events, count=1))
    moved = await _pass(source, queue, progress, 0)
    silent = {w.worker: w.token for w in fleet.silent()} if wait else {}
    waited_ms, at_most_ms = 0, max((w.lease_ms for w in fleet.silent()), default=0) + 1_000
    while silent and waited_ms < at_most_ms:
        now = await read_fleet(source, queue)
        silent = _still_silent(silent, now, fleet)
        if not silent:
            break
        left = [w.lease_left_ms or 0 for w in now.workers if w.worker in silent]
        progress(f"{queue}: waiting for the lease of {len(silent)} silent workers to end", moved)
        span = max(10, min(_PAUSE_AT_MOST_MS, now.clock.cap, *left))
        await pause(span / 1000)
        waited_ms += span
        moved = await _pass(source, queue, progress, moved)
    return await _report(source, queue, moved, last[0][0].decode() if last else "0-0")


def _still_silent(silent: dict[str, str], now: Fleet, before: Fleet) -> dict[str, str]:
    """Those that have neither renewed nor been fenced since."""
    ends = {w.worker: w.lease_end for w in before.workers}
    return {
        w.worker: w.token
        for w in now.workers
        if silent.get(w.worker) == w.token and w.state in ("live", "expired") and w.lease_end == ends[w.worker]
    }


async def _pass(source: Source, queue: str, progress: Progress, moved: int) -> int:
    first, more = True, True
    while more:
        done = await source.send(scripts.reclaim(source.partition(queue), unknown=first))
        if done.state not in ("ok", "absent"):
            raise PartitionFrozen(queue, done.state)
        first, more = False, done.more
        moved += done.moved
        progress(f"{queue}: bringing tasks back", moved)
    return moved


async def _report(source: Source, queue: str, moved: int, after: str) -> Recovery:
    """From the events since then; a daemon at work at the same time shares in them."""
    tasks: list[Recovered] = []
    fenced: list[str] = []
    key = source.partition(queue).key("events")
    async for entry_id, fields in entries(source, key, low=f"({after}"):
        for event in ev.decode_batch(fields.get(b"at", b""), fields.get(b"e", b""), entry_id).events:
            if isinstance(event, ev.WorkerFenced):
                fenced.append(event.worker)
            else:
                tasks += _recovered(event, queue)
    shares: dict[tuple[str, str], int] = {}
    for task in tasks:
        shares[task.worker, task.cause] = shares.get((task.worker, task.cause), 0) + 1
    workers = [
        WorkerShare(worker=worker, queue=queue, cause=cause, tasks=count)
        for (worker, cause), count in sorted(shares.items())
    ]
    return Recovery(queue=queue, moved=moved, workers=workers, tasks=tasks, fenced=fenced)


def _recovered(event: ev.Event | ev.Unreadable, queue: str) -> list[Recovered]:
    if isinstance(event, ev.Moved) and event.cause not in _NOT_OURS:
        return [
            Recovered(
                task_id=row.task_id,
                queue=queue,
                worker=event.worker,
                cause=event.cause,
                stream=row.stream,
                entry_id=row.entry_id,
                deliveries=row.deliveries,
                handbacks=row.handbacks,
            )
            for row in event.tasks
        ]
    if isinstance(event, ev.Died):
        return [
            Recovered(
                task_id=row.task_id,
                queue=queue,
                worker=event.worker,
                cause=row.cause,
                stream="dead",
                entry_id=row.entry_id,
                dead=True,
            )
            for row in event.tasks
            if row.run_ms < 0
        ]
    return []

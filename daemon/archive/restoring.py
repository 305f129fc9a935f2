"""The stages that bring things back: each goes on from its place in the cursor, and ends at the next stage's."""

from typing import Any, Final, cast

import msgspec

from reclaimd.daemon.archive.items import Maker
from reclaimd.daemon.archive.job import Job, Place
from reclaimd.daemon.archive.progress import RESTORING_TASKS
from reclaimd.daemon.archive.sending import PAGE, Sender
from reclaimd.daemon.archive.since import goes_on
from reclaimd.daemon.rebuild.values import EVENTS, RANKS, Cursor, entry_ms
from reclaimd.daemon.stolen import Stolen
from reclaimd.streams.archive_scripts import restore_facts, restore_seen
from reclaimd.streams.keys import SENTINEL
from reclaimd.streams.redis_log import AsyncClient

SEEN_MS: Final = 600_000
"""Producers may send an ID again for five minutes, and are then told that it is there; the sets hold ten."""

_batch = msgspec.json.Decoder(list[dict[str, Any]])


async def restore_ids(job: Job, place: Place) -> Place:
    """IDs that were enqueued lately count as seen again, before anything else: what a producer re-sends while tasks
    are on their way back is then a duplicate, not a second life of what has settled.
    """
    job.meter.begin("restoring task IDs")
    at = str(place) if place.rest else ""
    since = place.rest or f"{_seen_since(job)}-0"
    names: list[str] = []
    last = since
    async for entry in job.store.events(job.partition, after=since, contains=b'"Enqueued"'):
        names += _enqueued(entry.e)
        last = entry.entry_id
        if len(names) >= PAGE:
            at = await _restore_names(job, at, last, names)
            names = []
    if names:
        at = await _restore_names(job, at, last, names)
    following = str(Place("drop"))
    await job.step(restore_seen(job.partition, job.rebuild_id, (at, following), ()), following)
    return Place("drop")


async def _restore_names(job: Job, at: str, entry_id: str, names: list[str]) -> str:
    """The last call of an event's names moves the cursor behind it; those before leave it where it is."""
    to = str(Place("seen", entry_id))
    for start in range(0, len(names), PAGE):
        end = start + PAGE
        step = (at, to if end >= len(names) else at)
        await job.step(restore_seen(job.partition, job.rebuild_id, step, names[start:end]), step[1])
    job.meter.add(len(names))
    return to


def _seen_since(job: Job) -> int:
    """Wall ms. An archive that is about to read everything again does not know what came last."""
    newest = entry_ms(job.row.positions.get(EVENTS, ""))
    return max(0, newest - SEEN_MS if newest else job.now_ms - 6 * SEEN_MS)


def _enqueued(e: bytes) -> list[str]:
    try:
        events = _batch.decode(e)
    except msgspec.MsgspecError:
        return []
    return [row[0] for event in events if event.get("type") == "Enqueued" for row in event.get("tasks", ())]


async def restore_every_task(job: Job, place: Place) -> Place:
    """Tasks in their order: suspects, lanes, delayed, queued, dead letters. What was kept stays where it is."""
    after = Cursor.parse(place.rest) if place.rest else None
    counts = await job.store.count_tasks(job.partition)
    total = sum(counts.values())
    job.meter.begin(RESTORING_TASKS, total, done=job.tally.restored.total())
    sender = Sender(job, str(place))
    await sender.send(after, Maker(job, seen_since_ms=_seen_since(job)))
    return await sender.end(Place("fired"))


async def count_restored(job: Job, place: Place) -> None:
    """Of a rebuild that goes on: what was restored before counts in its report too."""
    counts = await job.store.count_tasks(job.partition)
    if place.stage == "tasks":
        if not place.rest:
            return
        cursor = Cursor.parse(place.rest)
        left = await _left_of_rank(job, cursor)
        before = {name: number for name, number in counts.items() if RANKS[name] <= cursor.rank}
        before = {name: number - (left if RANKS[name] == cursor.rank else 0) for name, number in before.items()}
    else:
        before = counts
    for name, number in before.items():
        job.tally.restored[name.replace("lane:", "recovered:")] += number
    job.tally.restored = +job.tally.restored
    job.tally.kept = max(0, job.tally.kept - sum(before.values()))


async def _left_of_rank(job: Job, cursor: Cursor) -> int:
    left, after = 0, cursor
    while rows := await job.store.tasks_after(job.partition, after, PAGE):
        same = sum(row.rank == cursor.rank for row in rows)
        left += same
        if same < len(rows):
            break
        after = Cursor(rows[-1].rank, rows[-1].sort, rows[-1].task_id)
    return left


async def would_restore(job: Job) -> None:
    """Count what a rebuild would bring back, for a dry run."""
    counts = await job.store.count_tasks(job.partition)
    job.meter.begin("planning", sum(counts.values()))
    maker = Maker(job, seen_since_ms=_seen_since(job))
    after: Cursor | None = None
    while rows := await job.store.tasks_after(job.partition, after, PAGE):
        after = Cursor(rows[-1].rank, rows[-1].sort, rows[-1].task_id)
        tasks = await maker.tasks(rows, Stolen())
        job.tally.restored.update(task.place for task in tasks)
        job.meter.add(len(rows))
    job.tally.fired_rows = len({*await job.store.fired(job.partition), *job.kept.fired})


async def restore_totals(job: Job, place: Place) -> Place:
    """Counters, and whether the queue is paused.

    Counters that began anew with the loss are added to; those that are only older are brought up. Whether a queue is
    paused Redis knows itself, unless it lost that or went back.
    """
    job.meter.begin("restoring totals")
    has_counters, has_control = await _has(job, "counters"), await _has(job, "control")
    # Data may also have gone back, or the epoch away, since the verdict.
    knows_better = has_control and job.verdict != "rolled_back" and await goes_on(job)
    done = str(Place("done"))
    await job.step(
        restore_facts(
            job.partition,
            job.rebuild_id,
            (str(place), done),
            paused=job.row.paused and not knows_better,
            counters=job.row.counters,
            mode="max" if has_counters else "add",
        ),
        done,
    )
    return Place("done")


async def _has(job: Job, name: str) -> bool:
    """Whether the key was there when the rebuild began, and was not deleted since."""

    async def ask(client: AsyncClient) -> bool:
        lost = cast("bytes", await client.hget(job.partition.key("epoch"), "lost") or b"")
        return name not in lost.decode().split() and await client.hexists(job.partition.key(name), SENTINEL)

    return await job.redis.use(ask)

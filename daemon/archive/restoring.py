"""The stages that bring things back: each goes on from its place in the cursor, and ends at the next stage's."""

import re
import time
from collections.abc import Sequence
from typing import Any, Final, cast

import anyio
import msgspec
import redis
from anyio.abc import ObjectReceiveStream, ObjectSendStream

from reclaimd.daemon.archive.items import Item, Maker
from reclaimd.daemon.archive.job import Job, Place
from reclaimd.daemon.batches import BatchSize, Pace
from reclaimd.daemon.rebuild.values import EVENTS, RANKS, Cursor, entry_ms
from reclaimd.daemon.stolen import Stolen
from reclaimd.streams.archive_scripts import (
    RESTORE_BYTES,
    RESTORE_ROWS,
    RestoreTask,
    restore_facts,
    restore_seen,
    restore_tasks,
)
from reclaimd.streams.errors import ReclaimdError
from reclaimd.streams.keys import SENTINEL
from reclaimd.streams.redis_log import AsyncClient

SEEN_MS: Final = 600_000
"""Producers may send an ID again for five minutes, and are then told that it is there; the sets hold ten."""
PAGE: Final = 1_000
LEAST: Final = 64
"""So many take the server two milliseconds, however late their reply is read."""
PAGES_AHEAD: Final = 1
"""Read from the archive while the server works on the one before."""

_BAD_ROW: Final = re.compile(r"RECLAIMD_RESTORE bad value in row (\d+)")
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
    sender = _Sender(job, str(place))
    job.meter.begin("restoring tasks", total)
    pages, read = anyio.create_memory_object_stream[list[Item]](PAGES_AHEAD)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_read_pages, job, after, pages, sender.stolen)
            async with read:
                await sender.send_all(read)
    except BaseExceptionGroup as errors:
        raise _first(errors) from None
    return await sender.end(Place("fired"))


async def _read_pages(job: Job, after: Cursor | None, pages: ObjectSendStream[list[Item]], stolen: Stolen) -> None:
    maker = Maker(job, seen_since_ms=_seen_since(job))
    async with pages:
        while True:
            rows = await job.store.tasks_after(job.partition, after, PAGE)
            if not rows:
                return
            after = Cursor(rows[-1].rank, rows[-1].sort, rows[-1].task_id)
            await pages.send(await maker.items(rows, stolen))


class _Sender:
    """Sends items in batches that take the server about five milliseconds, one at a time: each names the one before."""

    def __init__(self, job: Job, cursor: str) -> None:
        self.stolen = Stolen()
        self._job = job
        self._cursor = cursor
        self._behind = cursor
        self._size = BatchSize(RESTORE_ROWS)
        self._least = min(LEAST, RESTORE_ROWS)
        self._pace = Pace(self.stolen, time.monotonic, lambda: None)

    async def send_all(self, pages: ObjectReceiveStream[list[Item]]) -> None:
        """Until there are no more."""
        async for items in pages:
            start = 0
            while start < len(items):
                end = self._end(items, start)
                await self._send(items[start:end])
                start = end

    def _end(self, items: Sequence[Item], start: int) -> int:
        size, end = 0, start
        while (
            end < len(items)
            and end - start < max(self._least, self._size.size)
            and (end == start or size < RESTORE_BYTES)
        ):
            size += items[end].size
            end += 1
        return end

    async def _send(self, items: Sequence[Item]) -> None:
        """What stays in Redis needs no call: the next one passes it."""
        tasks = [item.task for item in items if item.task is not None]
        self._behind = items[-1].cursor
        while tasks:
            with self._pace.stopwatch() as watch:
                bad = await self._try(tasks)
            if bad is None:
                self._size.took(watch.ms, len(tasks))
                self._cursor = self._behind
                self._job.tally.restored.update(task.place for task in tasks)
                break
            self._job.tally.leave_out(tasks.pop(bad[0]).task_id, bad[1])
        self._job.meter.add(len(items))

    async def _try(self, tasks: Sequence[RestoreTask]) -> tuple[int, str] | None:
        """Send them; returns which one is refused, and why. Then none was restored."""
        job = self._job
        call = restore_tasks(job.partition, job.rebuild_id, (self._cursor, self._behind), tasks)
        try:
            await job.step(call, self._behind)
        except (redis.ResponseError, ReclaimdError) as error:
            bad = _BAD_ROW.search(str(error))
            if bad is None or not 0 < int(bad[1]) <= len(tasks):
                raise
            return int(bad[1]) - 1, "its envelope is not one of the protocol"
        return None

    async def end(self, following: Place) -> Place:
        """Move the cursor to the next stage."""
        job, to = self._job, str(following)
        await job.step(restore_tasks(job.partition, job.rebuild_id, (self._cursor, to), ()), to)
        return following


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
        items = await maker.items(rows, Stolen())
        job.tally.restored.update(item.task.place for item in items if item.task is not None)
        job.meter.add(len(rows))
    job.tally.fired_rows = len({*await job.store.fired(job.partition), *job.kept.fired})


async def restore_totals(job: Job, place: Place) -> Place:
    """Counters, and whether the queue is paused.

    Counters that began anew with the loss are added to; those that are only older are brought up. Whether a queue is
    paused Redis knows itself, unless it lost that or went back.
    """
    job.meter.begin("restoring totals")
    has_counters, has_control = await _has(job, "counters"), await _has(job, "control")
    done = str(Place("done"))
    await job.step(
        restore_facts(
            job.partition,
            job.rebuild_id,
            (str(place), done),
            paused=job.row.paused and (job.verdict == "rolled_back" or not has_control),
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


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

"""Tasks on their way back to Redis: a batch is made here while the server works on the one before."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import anyio
import redis
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from anyio.lowlevel import checkpoint

from reclaimd.daemon.archive.items import Maker
from reclaimd.daemon.archive.job import Job, Moved, Place
from reclaimd.daemon.batches import IN_FLIGHT, BatchSize, Pace, first_of
from reclaimd.daemon.rebuild.values import Cursor, TaskRow
from reclaimd.daemon.stolen import Stolen
from reclaimd.streams.archive_scripts import RESTORE_BYTES, RESTORE_ROWS, RestoreTask, restore_tasks
from reclaimd.streams.errors import ReclaimdError

PAGE: Final = 1_000
"""Rows read from the archive at once."""
LEAST: Final = 64
"""So many take the server two milliseconds, however late their reply is read."""
TURNS: Final = 4
"""Of the event loop, after which what was handed over has been written, and the server is at work."""

_BAD_ROW: Final = re.compile(r"RECLAIMD_RESTORE bad value in row (\d+)")


@dataclass
class Batch:
    """What one call takes. `rows`: of the archive, with those that are not restored; `at`: the cursor once the batch
    before is done, if none of its tasks is refused; `behind`: the cursor behind this one.
    """

    at: str
    behind: str
    rows: int
    tasks: list[RestoreTask]
    before: anyio.Event
    done: anyio.Event = field(default_factory=anyio.Event)


class Sender:
    """Sends everything behind `after`; the rebuild stands at `cursor`.

    A call takes the server about five milliseconds, and names the cursor that the one before leaves. The next is on its
    way by then: should it come too early, the server answers that the rebuild stands elsewhere, and it is sent again.
    """

    def __init__(self, job: Job, cursor: str) -> None:
        self._job = job
        self._cursor = cursor
        self._stolen = Stolen()
        self._size = BatchSize(RESTORE_ROWS)
        self._pace = Pace(self._stolen, time.monotonic, lambda: None)

    async def send(self, after: Cursor | None, maker: Maker) -> None:
        """Until there are no more. Raises what the first that fails raises."""
        pages, unread = anyio.create_memory_object_stream[list[TaskRow]](0)
        ready, wanted = anyio.create_memory_object_stream[Batch](0)
        try:
            async with anyio.create_task_group() as group, wanted:
                group.start_soon(self._read, after, pages)
                group.start_soon(self._make, unread, maker, ready)
                for _ in range(IN_FLIGHT):
                    group.start_soon(self._deliver, wanted.clone())
        except BaseExceptionGroup as errors:
            raise first_of(errors) from None

    async def end(self, following: Place) -> Place:
        """Move the cursor to the next stage."""
        job, to = self._job, str(following)
        await job.step(restore_tasks(job.partition, job.rebuild_id, (self._cursor, to), ()), to)
        return following

    async def _read(self, after: Cursor | None, pages: ObjectSendStream[list[TaskRow]]) -> None:
        async with pages:
            while page := await self._job.store.tasks_after(self._job.partition, after, PAGE):
                after = Cursor(page[-1].rank, page[-1].sort, page[-1].task_id)
                await pages.send(page)

    async def _make(
        self, pages: ObjectReceiveStream[list[TaskRow]], maker: Maker, ready: ObjectSendStream[Batch]
    ) -> None:
        """A call at a time: what is made keeps the event loop from reading the server's reply."""
        at, before = self._cursor, anyio.Event()
        before.set()
        async with pages, ready:
            async for page in pages:
                for rows in self._cut(page):
                    tasks, behind = await maker.tasks(rows, self._stolen), str(_behind(rows[-1]))
                    if not tasks:
                        # It stays in Redis, and needs no call: the next one passes it.
                        self._job.meter.add(len(rows))
                        continue
                    batch = Batch(at, behind, len(rows), tasks, before)
                    await ready.send(batch)
                    for _ in range(TURNS):
                        await checkpoint()
                    at, before = behind, batch.done

    def _cut(self, page: list[TaskRow]) -> Iterator[list[TaskRow]]:
        """In parts that a call may hold."""
        start = 0
        while start < len(page):
            end, size, most = start, 0, start + max(min(LEAST, RESTORE_ROWS), self._size.size)
            while end < min(most, len(page)) and size < RESTORE_BYTES:
                size += len(page[end].envelope)
                end += 1
            yield page[start:end]
            start = end

    async def _deliver(self, wanted: ObjectReceiveStream[Batch]) -> None:
        async with wanted:
            async for batch in wanted:
                await self._restore(batch)
                batch.done.set()

    async def _restore(self, batch: Batch) -> None:
        early = not batch.before.is_set()
        try:
            restored = await self._try(batch, batch.at)
        except Moved:
            if not early:
                raise
            restored = False
        await batch.before.wait()
        while batch.tasks and not restored:
            restored = await self._try(batch, self._cursor)
        if restored:
            self._cursor = batch.behind
            self._job.tally.restored.update(task.place for task in batch.tasks)
        self._job.meter.add(batch.rows)

    async def _try(self, batch: Batch, cursor: str) -> bool:
        """False: one was refused, and is left out from now on; none was restored."""
        job = self._job
        call = restore_tasks(job.partition, job.rebuild_id, (cursor, batch.behind), batch.tasks)
        try:
            with self._pace.stopwatch() as watch:
                await job.step(call, batch.behind)
        except (redis.ResponseError, ReclaimdError) as error:
            bad = _BAD_ROW.search(str(error))
            if bad is None or not 0 < int(bad[1]) <= len(batch.tasks):
                raise
            job.tally.leave_out(batch.tasks.pop(int(bad[1]) - 1).task_id, "its envelope is not one of the protocol")
            return False
        self._size.took(watch.ms, len(batch.tasks))
        return True


def _behind(row: TaskRow) -> Place:
    return Place("tasks", f"{row.rank}|{row.sort}|{row.task_id}")

"""Listing tasks by state: a page at a time, in the order in which workers come to them, never a whole stream."""

from collections.abc import AsyncIterator, Iterable
from typing import Any

from reclaimd.daemon.inspect.letters import TaskInfo, TaskState, delayed_fields, task_info, text
from reclaimd.daemon.inspect.source import Source
from reclaimd.streams.keys import GROUP, SENTINEL, STREAMS, Partition

# Bodies may have megabytes.
PAGE = 50


async def list_tasks(
    source: Source, queues: Iterable[str], state: TaskState, *, limit: int, newest: bool = False
) -> AsyncIterator[TaskInfo]:
    """At most `limit` tasks, queue by queue, stream by stream in reading order; `newest` turns all of that around."""
    left = limit
    for queue in queues:
        async for task in _tasks(source, queue, state, newest):
            if left <= 0:
                return
            yield task
            left -= 1


async def _tasks(source: Source, queue: str, state: TaskState, newest: bool) -> AsyncIterator[TaskInfo]:
    if state == "delayed":
        pages = _delayed(source, queue, newest)
    elif state == "dead":
        pages = _dead(source, queue, newest)
    else:
        pages = _open(source, queue, state, newest)
    async for task in pages:
        yield task


async def entries(
    source: Source, key: str, *, low: str = "-", high: str = "+", newest: bool = False, page: int = PAGE
) -> AsyncIterator[tuple[str, dict[bytes, bytes]]]:
    """The entries of a stream between two IDs (`(` in front excludes one), by pages."""
    while True:
        start, end = low, high

        def command(pipe: Any, start: str = start, end: str = end) -> None:
            if newest:
                pipe.xrevrange(key, end, start, count=page)
            else:
                pipe.xrange(key, start, end, count=page)

        [rows] = await source.read(command)
        for entry_id, fields in rows:
            yield entry_id.decode(), fields or {}
        if len(rows) < page:
            return
        if newest:
            high = f"({rows[-1][0].decode()}"
        else:
            low = f"({rows[-1][0].decode()}"


async def reading_positions(source: Source, partition: Partition) -> tuple[dict[str, str], dict[str, int]]:
    """Stream → the ID up to which its entries were delivered, and stream → how many wait.

    What exists up to that ID is pending, the rest waits.
    """

    def commands(pipe: Any) -> None:
        for stream in STREAMS:
            pipe.xlen(partition.key(stream))
            pipe.xinfo_groups(partition.key(stream))

    replies = await source.read(commands, atomic=True)
    last, waiting = {}, {}
    for stream, length, groups in zip(STREAMS, replies[::2], replies[1::2], strict=True):
        ours = [group for group in groups or () if group["name"] == GROUP.encode()]
        last[stream] = ours[0]["last-delivered-id"].decode() if ours else "0-0"
        waiting[stream] = max(0, length - (ours[0]["pending"] if ours else 0))
    return last, waiting


async def _open(source: Source, queue: str, state: TaskState, newest: bool) -> AsyncIterator[TaskInfo]:
    partition = source.partition(queue)
    delivered, _ = await reading_positions(source, partition)
    for stream in reversed(STREAMS) if newest else STREAMS:
        key, last = partition.key(stream), delivered[stream]
        if state == "waiting":
            async for entry_id, fields in entries(source, key, low=f"({last}", newest=newest):
                yield task_info(fields, queue=queue, state=state, stream=stream, entry_id=entry_id)
        else:
            async for task in _active(source, queue, stream, last, newest):
                yield task


async def _active(source: Source, queue: str, stream: str, last: str, newest: bool) -> AsyncIterator[TaskInfo]:
    key = source.partition(queue).key(stream)
    page: list[tuple[str, dict[bytes, bytes]]] = []
    async for entry in entries(source, key, high=last, newest=newest):
        page.append(entry)
        if len(page) == PAGE:
            for task in await _with_owners(source, queue, stream, page):
                yield task
            page = []
    for task in await _with_owners(source, queue, stream, page):
        yield task


async def _with_owners(
    source: Source, queue: str, stream: str, page: list[tuple[str, dict[bytes, bytes]]]
) -> list[TaskInfo]:
    """What was settled between the two reads has no owner any more and is left out."""
    key = source.partition(queue).key(stream)

    def commands(pipe: Any) -> None:
        pipe.time()
        for entry_id, _ in page:
            pipe.xpending_range(key, GROUP, entry_id, entry_id, 1)

    if not page:
        return []
    (seconds, micros), *owners = await source.read(commands)
    now = seconds * 1000 + micros // 1000
    return [
        task_info(
            fields,
            queue=queue,
            state="active",
            stream=stream,
            entry_id=entry_id,
            worker=text(rows[0]["consumer"]),
            since_ms=now - rows[0]["time_since_delivered"],
        )
        for (entry_id, fields), rows in zip(page, owners, strict=True)
        if rows
    ]


async def _delayed(source: Source, queue: str, newest: bool) -> AsyncIterator[TaskInfo]:
    """Paged by rank: what is promoted meanwhile may shift the window, so that an element can be missed."""
    partition = source.partition(queue)
    first = 0
    while True:
        begin, end = first, first + PAGE - 1
        [due] = await source.read(
            lambda pipe, begin=begin, end=end: pipe.zrange(  # type: ignore[misc]
                partition.key("delayed"), begin, end, withscores=True, desc=newest
            )
        )
        if not due:
            return
        names = [task_id for task_id, _ in due]
        [bodies] = await source.read(
            lambda pipe, names=names: pipe.hmget(partition.key("bodies"), names)  # type: ignore[misc]
        )
        for (task_id, score), body in zip(due, bodies, strict=True):
            if task_id == SENTINEL.encode():
                continue
            fields = {b"task": task_id, **delayed_fields(body or b"")}
            yield task_info(fields, queue=queue, state="delayed", due_ms=int(score))
        first += PAGE


async def _dead(source: Source, queue: str, newest: bool) -> AsyncIterator[TaskInfo]:
    async for entry_id, fields in entries(source, source.partition(queue).key("dead"), newest=newest):
        yield task_info(fields, queue=queue, state="dead", stream="dead", entry_id=entry_id)

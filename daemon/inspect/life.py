"""The whole life of one task: what archive and event stream tell, and where the task is now."""

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from reclaimd.daemon.inspect.kept import Archive, RawBatch, in_redis
from reclaimd.daemon.inspect.letters import TaskInfo, Whereabouts, delayed_fields, history, task_info, text
from reclaimd.daemon.inspect.source import Source
from reclaimd.daemon.inspect.steps import Step, steps_of
from reclaimd.daemon.inspect.tasks import entries, reading_positions
from reclaimd.daemon.inspect.workers import WorkerState, read_fleet
from reclaimd.streams.ids import EntryID
from reclaimd.streams.keys import GROUP, STREAMS

if TYPE_CHECKING:
    from reclaimd.daemon.rebuild.values import TaskRow

EVENTS_PAGE = 200
AHEAD_AT_MOST = 1_000
BIRTH_MARGIN_MS = 600_000
"""How far the clock of a producer may be ahead before its events are looked for everywhere."""
LOOKS = 3

Progress = Callable[[int, int], object]
"""Called with entries read, and how many there are."""


class Now(msgspec.Struct, frozen=True, kw_only=True):
    """Where a task is. `task` is None when it is not open any more.

    `state`: succeeded and purged come from the events; archived: the archive has it, as `task`, and Redis has not;
    unknown: it has events but is nowhere to be found. `ahead`:
    tasks that wait before it, at least that many when `ahead_is_least`. `worker_state`: of the worker that has it.
    """

    state: Literal[Whereabouts, "succeeded", "purged", "archived", "unknown"]
    task: TaskInfo | None = None
    ahead: int | None = None
    ahead_is_least: bool = False
    worker_state: WorkerState | None = None


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """A task in one queue.

    `complete`: its enqueueing is among the steps; `events_from_ms`: time of the oldest event that is kept.
    """

    queue: str
    now: Now
    steps: list[Step]
    complete: bool
    events_from_ms: int | None


class _Found(msgspec.Struct, frozen=True):
    task: TaskInfo
    fields: dict[bytes, bytes]


class _Reader:
    """Reads the steps of one task out of archive and stream, and goes on in the stream where it stopped."""

    def __init__(self, queue: str, task_id: str, archive: Archive) -> None:
        self._queue = queue
        self._task_id = task_id
        self._archive = archive
        self._mark = task_id.encode()
        self._taken: set[str] = set()
        self._next = "-"
        self.entry_ids: set[str] = set()
        self.steps: list[Step] = []

    async def begin(self, born_ms: int | None) -> None:
        """Read the archive, from shortly before `born_ms` on if that is known; `read` then takes the stream from there.

        Ghosts name no task: they are looked for only when the rest does not say how the task has ended.
        """
        after = f"{max(0, born_ms - BIRTH_MARGIN_MS)}-0" if born_ms else "0-0"
        self._next = after
        async for batch in self._archive.batches(self._queue, after, contains=self._task_id):
            self._take(batch)
        if self.entry_ids and not _ended(self.steps):
            async for batch in self._archive.batches(self._queue, after, contains='"Ghost"'):
                self._take(batch)

    async def read(self, source: Source, progress: Progress) -> None:
        """Take in what was written to the stream since the last call."""
        key = source.partition(self._queue).key("events")
        [total] = await source.read(lambda pipe: pipe.xlen(key))
        seen = 0
        async for batch in in_redis(source, self._queue, self._next):
            self._next = f"({batch.entry_id}"
            self._take(batch)
            seen += 1
            if seen % EVENTS_PAGE == 0:
                progress(seen, max(total, seen))
        self.steps.sort(key=_position)

    def _take(self, batch: RawBatch) -> None:
        # Most batches are not about this task: decoding all of them would take ten times as long.
        if self._mark not in batch.e and not (b'"Ghost"' in batch.e and self.entry_ids):
            return
        if batch.entry_id not in self._taken:
            self._taken.add(batch.entry_id)
            self.steps += steps_of(batch.decoded(), self._queue, self._task_id, self.entry_ids)

    @property
    def complete(self) -> bool:
        """Whether the beginning of the task is among the steps."""
        return any(step.what in ("enqueued", "delayed", "fired", "queued") for step in self.steps)

    @property
    def last_entry_id(self) -> str:
        """The newest entry that is known to carry the task."""
        carrying = [step.entry_id for step in self.steps if step.entry_id and step.what not in ("ghost", "dropped")]
        return carrying[-1] if carrying else ""

    async def oldest_ms(self, source: Source | None) -> int | None:
        """The time of the oldest event that is kept anywhere; `source` as for `read_life`."""
        kept: list[int] = []
        if source is not None:
            key = source.partition(self._queue).key("events")
            [rows] = await source.read(lambda pipe: pipe.xrange(key, count=1))
            kept = [EntryID.parse(entry_id).ms for entry_id, _ in rows]
        archived = await self._archive.oldest_ms(self._queue)
        return min([*kept, archived] if archived is not None else kept, default=None)


def birth_ms(task_id: str) -> int | None:
    """When a task ID of our own making was minted, by its producer's clock; None for others."""
    try:
        value = uuid.UUID(task_id)
    except ValueError:
        return None
    return value.int >> 80 if value.version == 7 else None


async def read_life(
    source: Source, queue: str, task_id: str, progress: Progress, archive: Archive | None = None
) -> Life | None:
    """The life of a task in a queue, None when neither queue nor archive knows it. Reads its events by pages."""
    archive = archive or Archive(None, source.namespace, lambda _: None)
    born = birth_ms(task_id)
    reader, found = await _read(source, queue, task_id, archive, born, progress)
    if born is not None and not reader.complete:
        # The producer's clock was ahead, or somebody gave the ID: then it tells nothing.
        reader, found = await _read(source, queue, task_id, archive, None, progress)
    if found is None and not _ended(reader.steps):
        found = await _search(source, queue, task_id, progress)
    archived = [] if found or _ended(reader.steps) else await archive.tasks(queue, task_id)
    if found is None and not reader.steps and not archived:
        return None
    remembered = [] if reader.complete or found is None else _remembered(found, queue, reader.steps)
    return Life(
        queue=queue,
        now=_as_archived(queue, archived[-1]) if archived else await _now(source, queue, found, reader.steps),
        steps=[*remembered, *reader.steps],
        complete=reader.complete,
        events_from_ms=await reader.oldest_ms(source),
    )


async def read_archived_life(archive: Archive, queue: str, task_id: str) -> Life | None:
    """The same, as far as the archive alone can tell. `now`: its end, `archived`, or `unknown`."""
    reader = _Reader(queue, task_id, archive)
    await reader.begin(birth_ms(task_id))
    if not reader.complete:
        reader = _Reader(queue, task_id, archive)
        await reader.begin(None)
    reader.steps.sort(key=_position)
    ends = [end for end in map(_end, reader.steps) if end is not None]
    if _ended(reader.steps):
        now = Now(state=ends[-1])
    else:
        archived = await archive.tasks(queue, task_id)
        if not archived and not reader.steps:
            return None
        now = _as_archived(queue, archived[-1]) if archived else Now(state="unknown")
    kept_from = await reader.oldest_ms(None)
    return Life(queue=queue, now=now, steps=reader.steps, complete=reader.complete, events_from_ms=kept_from)


def _position(step: Step) -> EntryID:
    return EntryID.parse(step.event_id)


async def _read(
    source: Source, queue: str, task_id: str, archive: Archive, born_ms: int | None, progress: Progress
) -> tuple[_Reader, _Found | None]:
    reader = _Reader(queue, task_id, archive)
    await reader.begin(born_ms)
    found: _Found | None = None
    for _ in range(LOOKS):
        before = len(reader.steps)
        await reader.read(source, progress)
        found = await _look_up(source, queue, task_id, reader.last_entry_id)
        # It may have moved between the two reads; then the move is a new step.
        if found or (reader.steps and before == len(reader.steps)) or _ended(reader.steps):
            break
    return reader, found


def _as_archived(queue: str, row: "TaskRow") -> Now:
    """Of a task that Redis does not have: where the archive saw it last."""
    place = "waiting" if row.place in STREAMS else row.place
    stream = row.place if row.place in (*STREAMS, "dead") else ""
    info = task_info(delayed_fields(row.envelope), queue=queue, state=place, stream=stream, entry_id=row.entry_id)  # type: ignore[arg-type]
    return Now(state="archived", task=info)


def _ended(steps: list[Step]) -> bool:
    """Refused settlements and ghosts may still follow the end."""
    telling = [step for step in steps if step.what not in ("refused", "ghost", "unreadable")]
    return bool(telling) and _end(telling[-1]) is not None


def _end(step: Step) -> Literal["succeeded", "purged"] | None:
    """What it says about the end. A rebuild removes a task because it knows that it has ended, or else another."""
    if step.what == "succeeded" or (step.what == "dropped" and step.cause == "settled"):
        return "succeeded"
    return "purged" if step.what == "purged" or (step.what == "dropped" and step.cause == "purged") else None


def _remembered(found: _Found, queue: str, steps: list[Step]) -> list[Step]:
    first = steps[0].at_ms if steps else None
    return [
        Step(at_ms=past.at_ms, queue=queue, what="remembered", worker=past.worker, cause=past.cause, detail=past.what)
        for past in history(found.fields)
        if first is None or past.at_ms < first
    ]


async def _look_up(source: Source, queue: str, task_id: str, entry_id: str) -> _Found | None:
    """By its last known entry, among the delayed, and behind its schedule's open task: constant cost."""
    partition = source.partition(queue)
    schedule = task_id.partition(":")[0]

    def commands(pipe: Any) -> None:
        pipe.zscore(partition.key("delayed"), task_id)
        pipe.hget(partition.key("bodies"), task_id)
        pipe.hget(partition.key("queued"), schedule)
        for stream in (*STREAMS, "dead") if entry_id else ():
            pipe.xrange(partition.key(stream), entry_id, entry_id)

    due, body, kept, *hits = await source.read(commands, atomic=True)
    for stream, rows in zip((*STREAMS, "dead"), hits, strict=False):
        for _, fields in rows:
            if fields and fields.get(b"task") == task_id.encode():
                return await _placed(source, queue, stream, entry_id, fields)
    if due is not None:
        envelope = {b"task": task_id.encode(), **delayed_fields(body or b"")}
        return _Found(task_info(envelope, queue=queue, state="delayed", due_ms=int(due)), envelope)
    envelope = delayed_fields(kept or b"")
    if envelope.get(b"task") == task_id.encode():
        return _Found(task_info(envelope, queue=queue, state="queued"), envelope)
    return None


async def _search(source: Source, queue: str, task_id: str, progress: Progress) -> _Found | None:
    """Through everything that is open: only for a task whose events are gone."""
    partition = source.partition(queue)
    streams = (*STREAMS, "dead")
    lengths = await source.read(lambda pipe: [pipe.xlen(partition.key(stream)) for stream in streams])
    total, seen = sum(lengths), 0
    for stream in streams:
        async for entry_id, fields in entries(source, partition.key(stream)):
            seen += 1
            if seen % EVENTS_PAGE == 0:
                progress(seen, max(seen, total))
            if fields.get(b"task") == task_id.encode():
                return await _placed(source, queue, stream, entry_id, fields)
    return None


async def _placed(source: Source, queue: str, stream: str, entry_id: str, fields: dict[bytes, bytes]) -> _Found:
    def info(state: Any, **more: Any) -> TaskInfo:
        return task_info(fields, queue=queue, state=state, stream=stream, entry_id=entry_id, **more)

    if stream == "dead":
        return _Found(info("dead"), fields)
    key = source.partition(queue).key(stream)
    (seconds, micros), rows = await source.read(
        lambda pipe: [pipe.time(), pipe.xpending_range(key, GROUP, entry_id, entry_id, 1)]
    )
    if not rows:
        return _Found(info("waiting"), fields)
    since = seconds * 1000 + micros // 1000 - rows[0]["time_since_delivered"]
    return _Found(info("active", worker=text(rows[0]["consumer"]), since_ms=since), fields)


async def _now(source: Source, queue: str, found: _Found | None, steps: list[Step]) -> Now:
    if found is None:
        told = [end for end in map(_end, steps) if end is not None]
        return Now(state=told[-1] if told and _ended(steps) else "unknown")
    task = found.task
    if task.state == "waiting":
        ahead, least = await _ahead(source, queue, task)
        return Now(state="waiting", task=task, ahead=ahead, ahead_is_least=least)
    if task.state == "active":
        fleet = await read_fleet(source, queue)
        states = [worker.state for worker in fleet.workers if worker.worker == task.worker]
        return Now(state="active", task=task, worker_state=states[0] if states else "unknown")
    return Now(state=task.state, task=task)


async def _ahead(source: Source, queue: str, task: TaskInfo) -> tuple[int, bool]:
    """How many wait before it: streams that are read earlier, and its own stream up to it, counted to a limit."""
    delivered, waiting = await reading_positions(source, source.partition(queue))
    ahead = sum(waiting[stream] for stream in STREAMS[: STREAMS.index(task.stream)])
    key = source.partition(queue).key(task.stream)
    counted = 0
    async for _ in entries(source, key, low=f"({delivered[task.stream]}", high=f"({task.entry_id}"):
        counted += 1
        if counted >= AHEAD_AT_MOST:
            return ahead + counted, True
    return ahead + counted, False

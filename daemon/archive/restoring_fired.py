"""What was fired of schedules, beside the tasks that there will be: a schedule must not wait for one that is lost."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, cast

from reclaimd.daemon.archive.job import Job, Place
from reclaimd.daemon.archive.scanning import PAGE, SENTINEL
from reclaimd.daemon.rebuild import envelopes
from reclaimd.daemon.rebuild.plan import FiredPlan, fired
from reclaimd.daemon.rebuild.rows import stored_task
from reclaimd.daemon.rebuild.values import QUEUED, FiredRow, TaskRow
from reclaimd.streams.archive_scripts import RESTORE_ROWS, DropRow, RestoreTask, restore_fired, restore_tasks
from reclaimd.streams.occurrence_scripts import fired_rows
from reclaimd.streams.redis_log import AsyncClient

ROWS: Final = RESTORE_ROWS


async def stay_queued(job: Job, rows: Sequence[TaskRow]) -> frozenset[str]:
    """Which of these archived tasks go on waiting behind their schedule's open task; the others go to their lane."""
    waiting = [row for row in rows if row.place == QUEUED]
    if not waiting:
        return frozenset()
    names = [row.schedule for row in waiting]
    archived = {**await job.store.fired(job.partition, names), **job.kept.fired}
    present = await _in_redis(job, names)
    taken = await _queued(job, names)
    found = set[str]()
    for row in waiting:
        # One can wait, and what Redis kept does.
        if taken.get(row.schedule, row.task_id) != row.task_id:
            continue
        plan = _plan(job, row.schedule, archived, present, lambda task, row=row: task == row.task_id)  # type: ignore[misc]
        if plan is not None and plan.row.queued == row.task_id:
            found.add(row.task_id)
    return frozenset(found)


async def restore_fired_rows(job: Job, place: Place) -> Place:
    """Stage `fired`. A newer row in Redis stays, but for an open task that is nowhere."""
    archived = {**await job.store.fired(job.partition), **job.kept.fired}
    names = sorted(name for name in {*archived, *await _names(job)} if name > place.rest)
    job.meter.begin("restoring what was fired", len(names))
    cursor = str(place)
    for some in _chunks(names):
        present = await _in_redis(job, some)
        plans = [
            (name, plan) for name in some if (plan := _plan(job, name, archived, present, job.kept.open.__contains__))
        ]
        for name, plan in plans:
            if plan.release and plan.release not in job.kept.open:
                await _release(job, cursor, name)
        to = str(Place("fired", some[-1]))
        await job.step(
            restore_fired(
                job.partition, job.rebuild_id, (cursor, to), [(name, _text(plan.row)) for name, plan in plans]
            ),
            to,
        )
        cursor = to
        job.tally.fired_rows += len(plans)
        job.meter.add(len(some))
    following = Place("facts")
    await job.step(restore_fired(job.partition, job.rebuild_id, (cursor, str(following)), ()), str(following))
    return following


def _plan(
    job: Job,
    schedule: str,
    archived: Mapping[str, FiredRow],
    present: Mapping[str, FiredRow],
    also_queued: Callable[[str], bool],
) -> FiredPlan | None:
    kept = job.kept
    return fired(
        archived.get(schedule),
        present.get(schedule),
        kept.open.__contains__,
        lambda task: task in kept.queued or also_queued(task),
    )


async def _release(job: Job, cursor: str, schedule: str) -> None:
    """What Redis has waiting for a task that is lost goes to its lane: first there, then away from here."""

    async def ask(client: AsyncClient) -> bytes | None:
        return cast("bytes | None", await client.hget(job.partition.key("queued"), schedule))

    body = await job.redis.use(ask)
    try:
        fields = envelopes.unpack(body or b"")
    except ValueError:
        fields = []
    if not envelopes.is_whole(fields):
        job.tally.leave_out(schedule, "what waits for its open task cannot be read")
        return
    task_id, lane = fields[1].decode(), envelopes.mapping(fields)[b"lane"].decode()
    task = RestoreTask(task_id, f"recovered:{lane}", fields, schedule=schedule)
    await job.step(restore_tasks(job.partition, job.rebuild_id, (cursor, cursor), [task]), cursor)
    await job.drop([DropRow(QUEUED, "", task_id, schedule, "", "superseded")], cursor)
    job.kept.open.add(task_id)


async def _names(job: Job) -> set[str]:
    """Schedules with a row in Redis."""
    key, cursor, found = job.partition.key("fired"), 0, set[str]()
    while True:

        async def ask(client: AsyncClient, cursor: int = cursor) -> tuple[int, Mapping[bytes, bytes]]:
            return cast("tuple[int, Mapping[bytes, bytes]]", await client.hscan(key, cursor, count=PAGE))

        cursor, page = await job.redis.use(ask)
        found.update(name.decode(errors="replace") for name in page if name != SENTINEL)
        if int(cursor) == 0:
            return found


async def _in_redis(job: Job, names: Sequence[str]) -> dict[str, FiredRow]:
    """Rows of these schedules as Redis has them. What waits there for its open task does so without one too."""
    rows = await _values(job, "fired", names)
    queued = await _queued(job, names)
    found = fired_rows(zip((name.encode() for name in names), rows, strict=True))
    there = {
        name: FiredRow(
            schedule=name,
            generation=row.generation,
            last=row.last,
            count=row.count,
            open=row.open,
            queued=queued.get(name, ""),
        )
        for name, row in found.items()
    }
    for name, row in zip(names, rows, strict=True):
        if row is None and name in queued:
            there[name] = FiredRow(schedule=name, queued=queued[name])
    return there


async def _queued(job: Job, names: Sequence[str]) -> dict[str, str]:
    """Tasks that wait for the open ones of these schedules."""
    kept = await _values(job, "queued", names)
    return {name: stored_task(body) for name, body in zip(names, kept, strict=True) if body}


async def _values(job: Job, key: str, names: Sequence[str]) -> list[bytes | None]:
    async def ask(client: AsyncClient) -> list[bytes | None]:
        return cast("list[bytes | None]", await client.hmget(job.partition.key(key), list(names)))

    return await job.redis.use(ask)


def _text(row: FiredRow) -> str:
    return f"{row.generation}|{row.last}|{row.count}|{row.open}"


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), ROWS):
        yield names[start : start + ROWS]

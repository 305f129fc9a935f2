"""Before anything is restored: which of the tasks that Redis has are to stay, and which must not run any more."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, cast

from reclaimd.daemon.archive.job import Job, Place
from reclaimd.daemon.archive.scanning import Scan
from reclaimd.daemon.archive.since import endings, note_what_followed
from reclaimd.daemon.rebuild import envelopes
from reclaimd.daemon.rebuild.plan import RESENT_MS, decide
from reclaimd.daemon.rebuild.values import (
    DEAD,
    DELAYED,
    Carried,
    Decision,
    DropWhy,
    Ended,
    Present,
    TaskRow,
    entry_ms,
)
from reclaimd.streams.archive_scripts import (
    RESTORE_ROWS,
    DropRow,
    RestoreTask,
    restore_seen,
    restore_tasks,
    restore_unique,
)
from reclaimd.streams.redis_log import AsyncClient

_HERE: Final = str(Place("drop"))


async def remove(job: Job, *, dry_run: bool = False) -> Place:
    """Look at every task in Redis, remove what the archive knows better, and remember what stays.

    It comes to an end before the first task is restored: whoever is late with a removal finds the cursor moved.
    """
    job.meter.begin("looking at what Redis has")
    await note_what_followed(job)
    there, letters, oldest = await _names(job)
    ended = await _ended(job, there | letters, oldest) if there or letters else {}
    if not dry_run:
        await _free_keys(job, there)
    await _judge(job, ended, dry_run=dry_run)
    following = Place("tasks")
    if not dry_run:
        await _note_released(job)
        to = str(following)
        await job.step(restore_seen(job.partition, job.rebuild_id, (_HERE, to), ()), to)
    return following


async def keep_all(job: Job) -> None:
    """What is there once tasks are being restored stays: it was judged, or restored, or accepted since."""
    job.meter.begin("looking at what Redis has")
    await note_what_followed(job)
    async for page in Scan(job.redis, job.partition).tasks():
        archived = await job.archived(page)
        for present in page:
            decision = decide(present, archived.get(present.task_id, ()), None)
            open_row = ("",) if present.place != DEAD else ()
            job.keep(present, open_row if decision.drop else decision.covers)
        job.meter.add(len(page))


async def _names(job: Job) -> tuple[set[str], set[str], int]:
    """The IDs of all tasks in Redis, those of dead letters, and when the oldest began."""
    there, letters, oldest = set[str](), set[str](), job.now_ms
    scan = Scan(job.redis, job.partition)
    async for page in scan.tasks():
        for present in page:
            (letters if present.place == DEAD else there).add(present.task_id)
            oldest = min(oldest, present.began_ms or present.birth_ms)
        job.meter.add(len(page))
    there.update(scan.strays)
    return there, letters, oldest


async def _ended(job: Job, names: set[str], oldest: int) -> dict[str, Ended]:
    """Which of these the archive knows to have ended: only events since the oldest of them can tell."""
    job.meter.begin("reading what has ended")
    found: dict[str, Ended] = {}
    async for entry in job.store.events(job.partition, after=f"{max(0, oldest - 2 * RESENT_MS)}-0"):
        job.meter.add(1)
        at_ms = entry_ms(entry.entry_id)
        found.update((row[0], Ended(why, at_ms)) for why, row in endings(entry.e) if row[0] in names)
    return found


async def _judge(job: Job, ended: Mapping[str, Ended], *, dry_run: bool) -> None:
    """Decide about every task, page by page.

    What waits in a schedule's queue comes first: to remove the open task would bring it to its lane.
    """
    job.meter.begin("comparing")
    barred: list[tuple[str, str]] = []
    scan = Scan(job.redis, job.partition)
    async for page in scan.tasks():
        archived = await job.archived(page)
        decided = [(one, decide(one, archived.get(one.task_id, ()), ended.get(one.task_id))) for one in page]
        # What was accepted since the freeze is not brought back from the archive, so it must not be removed for that.
        fresh = await _accepted(job, [one.task_id for one, decision in decided if decision.drop and decision.restore])
        rows = [_drop_row(one, what) for one, what in decided if what.drop and one.task_id not in fresh]
        kept = [(one, what) for one, what in decided if not what.drop or one.task_id in fresh]
        for one, what in kept:
            job.keep(one, ("",) if what.drop else what.covers)
        job.tally.dropped.update(row.why for row in rows)
        if not dry_run:
            await _name_letters(job, kept)
            await _free(job, _left_behind(rows, archived))
            await _drop(job, rows)
            barred += await _take_keys(job, [(one.unique, one.task_id) for one, _ in kept if _wants_key(one)])
        job.meter.add(len(page))
    # Whoever held it may have been removed since.
    await _take_keys(job, barred)
    while scan.strays:
        await _bring_strays(job, scan.strays, dry_run=dry_run)
        if dry_run or len(scan.strays) < Scan.REMEMBERED:
            return
        scan = Scan(job.redis, job.partition)
        async for _ in scan.delayed():
            pass


async def _name_letters(job: Job, kept: Iterable[tuple[Present, Decision]]) -> None:
    """Or one that is purged before the archive has read of it would be there for ever, by the name that it had."""
    named = [
        Carried(one.task_id, letter, DEAD, one.entry_id)
        for one, what in kept
        for letter in what.covers
        if one.place == DEAD and letter != one.entry_id
    ]
    if named:
        await job.store.name_letters(job.partition, job.row.rebuild_id, named)
        for row in named:
            job.kept.cover(row.task_id, row.entry_id)


async def _note_released(job: Job) -> None:
    """What waited for a task that was removed has gone to its lane."""
    waiting = {one.task_id async for page in Scan(job.redis, job.partition).queued() for one in page}
    job.kept.open |= job.kept.queued - waiting
    job.kept.queued &= waiting


async def _bring_strays(job: Job, strays: Mapping[str, bytes], *, dry_run: bool) -> None:
    """Envelopes of delayed tasks whose instant was lost. Events or the archive may know it; else they run now."""
    fresh = await _accepted(job, list(strays))
    rows = await job.store.tasks_by_id(job.partition, strays)
    known = {row.task_id: [row] for row in rows if row.place != DEAD}
    for task_id, body in strays.items():
        if task_id in fresh:
            continue
        due = job.kept.due.get(task_id, 0)
        is_brought = (due or task_id not in known) and await _bring(job, task_id, body, due, dry_run=dry_run)
        if due and is_brought:
            job.kept.cover(task_id, "")
        elif not dry_run:
            row = DropRow(DELAYED, "", task_id, "", _unique_of(body), "superseded")
            await _free(job, _left_behind([row], known))
            await _drop(job, [row])


def _unique_of(body: bytes) -> str:
    """Empty where it has none, or cannot be read."""
    try:
        return envelopes.mapping(envelopes.unpack(body)).get(b"unique", b"").decode(errors="replace")
    except ValueError:
        return ""


async def _bring(job: Job, task_id: str, body: bytes, due: int, *, dry_run: bool) -> bool:
    """To its instant, or to its lane if nobody knows that. False: it cannot be read."""
    try:
        fields = envelopes.unpack(body)
    except ValueError:
        fields = []
    if not envelopes.is_whole(fields) or fields[1].decode() != task_id:
        job.tally.leave_out(task_id, "it was delayed, its instant is lost, and its envelope cannot be read")
        return False
    e = envelopes.mapping(fields)
    schedule, unique = (e.get(name, b"").decode() for name in (b"schedule", b"unique"))
    place = DELAYED if due else f"lane:{e[b'lane'].decode()}"
    if not dry_run:
        task = RestoreTask(task_id, place, fields, due, schedule=schedule, unique=unique)
        await job.step(restore_tasks(job.partition, job.rebuild_id, (_HERE, _HERE), [task]), _HERE)
    job.kept.note(task_id, place, schedule)
    job.tally.restored[place] += 1
    return True


async def _accepted(job: Job, task_ids: Sequence[str]) -> Collection[str]:
    """Which of these producers have enqueued since the freeze."""
    if not task_ids:
        return ()
    key = job.partition.key("rebuild:accepted")

    async def ask(client: AsyncClient) -> list[int]:
        pipeline: Any = client.pipeline(transaction=False)
        for task_id in task_ids:
            pipeline.sismember(key, task_id)
        return cast("list[int]", await pipeline.execute())

    return {task_id for task_id, is_member in zip(task_ids, await job.redis.use(ask), strict=True) if is_member}


def _drop_row(present: Present, decision: Decision) -> DropRow:
    names = (present.place, present.entry_id, present.task_id, present.schedule, present.unique)
    return DropRow(*names, cast("DropWhy", decision.drop))


async def _drop(job: Job, rows: Sequence[DropRow]) -> None:
    for start in range(0, len(rows), RESTORE_ROWS):
        await job.drop(rows[start : start + RESTORE_ROWS], _HERE)


def _wants_key(present: Present) -> bool:
    return present.unique != "" and present.place != DEAD


async def _take_keys(job: Job, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Unique keys may be lost while the tasks that held them are there. Returns those among which some are others'."""
    barred: list[tuple[str, str]] = []
    for start in range(0, len(pairs), RESTORE_ROWS):
        some = pairs[start : start + RESTORE_ROWS]
        reply = await job.step(restore_unique(job.partition, job.rebuild_id, (_HERE, _HERE), some), _HERE)
        barred += some if reply.skipped else ()
    return barred


async def _free_keys(job: Job, there: Collection[str]) -> None:
    """A unique key whose task is nowhere, neither in Redis nor in the archive, would bar every later one for ever."""
    async for page in Scan(job.redis, job.partition).unique():
        held = [(key, task) for key, task in page if task not in there]
        archived = await job.store.tasks_by_id(job.partition, {task for _, task in held})
        coming = {row.task_id for row in archived if row.place != DEAD}
        await _free(job, [(key, task) for key, task in held if task not in coming])


def _left_behind(rows: Iterable[DropRow], archived: Mapping[str, Sequence[TaskRow]]) -> list[tuple[str, str]]:
    """Unique keys that nobody would hold once these are removed. To be freed before: who goes on after a crash would
    not find the task any more that had it.

    What is superseded keeps its key for the row that comes back; but an ID that was lost may have been sent again with
    another key, or with none.
    """
    names = {(row.unique, row.task_id) for row in rows if row.why == "superseded" and row.unique and row.place != DEAD}
    return [(k, task) for k, task in names for own in archived.get(task, ()) if not own.letter and own.unique != k]


async def _free(job: Job, pairs: Sequence[tuple[str, str]]) -> None:
    """As far as these tasks hold these unique keys, and were not accepted since the freeze."""
    for start in range(0, len(pairs), RESTORE_ROWS):
        some = pairs[start : start + RESTORE_ROWS]
        await job.step(restore_unique(job.partition, job.rebuild_id, (_HERE, _HERE), some, free=True), _HERE)

"""Before anything is restored: which of the tasks that Redis has are to stay, and which must not run any more."""

from typing import Any, Final, cast

import msgspec

from reclaimd.daemon.archive.job import Job, Overtaken, Place
from reclaimd.daemon.archive.scanning import PAGE, Scan
from reclaimd.daemon.rebuild.plan import RESENT_MS, decide
from reclaimd.daemon.rebuild.values import Decision, DropWhy, Ended, Present, entry_ms
from reclaimd.streams.archive_scripts import RESTORE_ROWS, DropRow, drop, restore_seen
from reclaimd.streams.redis_log import AsyncClient

_batch = msgspec.json.Decoder(list[dict[str, Any]])


async def remove(job: Job, *, dry_run: bool = False) -> Place:
    """Look at every task in Redis, remove what the archive knows better, and remember what stays.

    It comes to an end before the first task is restored: whoever is late with a removal finds the cursor moved.
    """
    job.meter.begin("looking at what Redis has")
    names, oldest = await _names(job)
    ended: dict[str, Ended] = {}
    if names:
        ended = await _ended(job, names, oldest)
        # What was accepted since the freeze is not brought back from the archive, so it must not be removed either.
        await _judge(job, ended, await accepted(job), dry_run=dry_run)
    following = Place("tasks")
    if not dry_run:
        await job.step(restore_seen(job.partition, job.rebuild_id, (str(Place("drop")), str(following)), ()), str(following))
    return following


async def keep_all(job: Job) -> None:
    """What is there once tasks are being restored stays: it was judged, or restored, or accepted since."""
    job.meter.begin("looking at what Redis has")
    async for page in Scan(job.redis, job.partition).tasks():
        job.note_kept(page)
        job.meter.add(len(page))


async def accepted(job: Job) -> set[str]:
    """IDs that producers have enqueued since the freeze."""
    key, found = job.partition.key("rebuild:accepted"), set[str]()
    cursor = 0
    while True:

        async def ask(client: AsyncClient, cursor: int = cursor) -> tuple[int, list[bytes]]:
            return cast("tuple[int, list[bytes]]", await client.sscan(key, cursor, count=PAGE))

        cursor, names = await job.redis.use(ask)
        found.update(name.decode() for name in names)
        if cursor == 0:
            return found


async def _names(job: Job) -> tuple[set[str], int]:
    """The IDs of all tasks in Redis, and the birth of the oldest."""
    names, oldest = set[str](), job.now_ms
    async for page in Scan(job.redis, job.partition).tasks():
        for present in page:
            names.add(present.task_id)
            oldest = min(oldest, present.birth_ms)
        job.meter.add(len(page))
    return names, oldest


async def _ended(job: Job, names: set[str], oldest: int) -> dict[str, Ended]:
    """Which of these the archive knows to have ended: only events since the oldest of them can tell."""
    job.meter.begin("reading what has ended", None)
    found: dict[str, Ended] = {}
    async for entry in job.store.events(job.partition, after=f"{max(0, oldest - 2 * RESENT_MS)}-0"):
        job.meter.add(1)
        if b'"Settled"' not in entry.e and b'"Purged"' not in entry.e:
            continue
        try:
            events = _batch.decode(entry.e)
        except msgspec.MsgspecError:
            continue
        for event in events:
            why = _WHYS.get(event.get("type", ""))
            for row in event.get("tasks", ()) if why else ():
                if row[0] in names:
                    found[row[0]] = Ended(why, entry_ms(entry.entry_id))
    return found


_WHYS: Final[dict[str, Any]] = {"Settled": "settled", "Purged": "purged"}


async def _judge(job: Job, ended: dict[str, Ended], fresh: set[str], *, dry_run: bool) -> None:
    """Decide about every task, page by page.

    What waits in a schedule's queue comes first: to remove the open task would bring it to its lane.
    """
    job.meter.begin("comparing")
    async for page in Scan(job.redis, job.partition).tasks():
        archived = await job.store.tasks_by_id(job.partition, {present.task_id for present in page})
        rows: list[DropRow] = []
        for present in page:
            found = archived.get(present.task_id, ())
            decision = decide(present, found, ended.get(present.task_id))
            if decision.drop and not (decision.restore and present.task_id in fresh):
                rows.append(_drop_row(present, decision))
            else:
                job.note_kept((present,))
        job.tally.dropped.update(row.why for row in rows)
        for start in range(0, 0 if dry_run else len(rows), RESTORE_ROWS):
            await _send(job, rows[start : start + RESTORE_ROWS])
        job.meter.add(len(page))


def _drop_row(present: Present, decision: Decision) -> DropRow:
    names = (present.place, present.entry_id, present.task_id, present.schedule, present.unique)
    return DropRow(*names, cast("DropWhy", decision.drop))


async def _send(job: Job, rows: list[DropRow]) -> None:
    reply = await job.redis.send(drop(job.partition, job.rebuild_id, rows))
    if reply.status != "ok":
        raise Overtaken(job.partition.queue)

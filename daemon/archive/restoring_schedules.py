"""Brings the schedules of a namespace back: the fold of the archive takes the place of everything that it knows.

The snapshot is written first and nobody reads it. Then one script ends it and deletes the events that it stands for, so
that no reader ever sees one without the other; what clients have appended since folds on top of it, and wins.

Done again, after a kill at any point or by two daemons at once, it comes to the same: each writes a snapshot of the
same fold, the first to finish ends the rebuild, and the others learn so.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import anyio
import msgspec

from reclaimd.daemon.archive.errors import ArchiveFailed, Trouble
from reclaimd.daemon.archive.records import schedules_of
from reclaimd.daemon.archive.scanning import Redis, server_ms
from reclaimd.daemon.archive.schedule_records import ScheduleEntry, ScheduleRecords
from reclaimd.daemon.archive.store import Store
from reclaimd.daemon.rebuild.marks import mark_after, new_mark
from reclaimd.daemon.rebuild.schedules import FROM_START, Judged, after, last_known, schedules_verdict
from reclaimd.daemon.rebuild.values import FiredRow, PartitionRow, Report, Unrestorable, Verdict
from reclaimd.streams.errors import ReclaimdError
from reclaimd.streams.ids import EntryID
from reclaimd.streams.keys import Partition, schedule_events_key
from reclaimd.streams.redis_log import AsyncClient
from reclaimd.streams.schedules import snapshot
from reclaimd.streams.schedules.archive_scripts import (
    Facts,
    event_of,
    schedules_adopt,
    schedules_finish,
    schedules_freeze,
    schedules_tail,
)
from reclaimd.streams.schedules.events import decode
from reclaimd.streams.schedules.fold import START, Schedules, apply, revive
from reclaimd.streams.schedules.log import PAGE, ScheduleLog, Unfinished

LISTED: Final = 100
TRIES: Final = 5
"""How often a snapshot is written anew that others have trimmed before it was ended."""


Judge = Callable[[Schedules, dict[str, FiredRow], int], Awaitable[Judged]]


class SchedulesChanged(ReclaimdError):
    """The log is not as it was looked at: another daemon restored it, or Redis lost it again. Look again."""

    def __str__(self) -> str:
        return "the schedules have changed while they were looked at, mostly because a daemon restores them: look again"


async def fold_of(store: Store, namespace: str) -> Schedules:
    """The schedules as the archive has them. Raises ArchiveFailed."""
    state = await _base_of(store.schedules, namespace, store.where)
    revive(state)
    number = 0
    async for event in store.schedules.events(namespace, after=str(state.position)):
        apply(state, event.entry_id, event.e)
        number += 1
        if number % PAGE == 0:
            await anyio.lowlevel.checkpoint()
    return state


async def _base_of(records: ScheduleRecords, namespace: str, where: str) -> Schedules:
    kept = await records.newest_snapshot(namespace)
    if kept is None:
        return Schedules()
    decoder = snapshot.Decoder()
    of = kept.entries[-1].get("of", b"").decode()
    for number, fields in enumerate(kept.entries):
        found = decoder.feed(of, {name.encode(): value for name, value in fields.items()})
        if isinstance(found, snapshot.Whole):
            return found.state
        if isinstance(found, snapshot.Damaged):
            raise ArchiveFailed(Trouble.DAMAGED, where, f"its snapshot of the schedules: {found.why}")
        if number % 10 == 0:
            await anyio.lowlevel.checkpoint()
    raise ArchiveFailed(Trouble.DAMAGED, where, "its snapshot of the schedules has no end")


def as_entries(state: Schedules) -> list[snapshot.Fields]:
    """A snapshot for the archive, where no stream gives its header an ID."""
    return [snapshot.header(state), *snapshot.rest(state, str(state.position))]


async def look_at_schedules(store: Store, redis: Redis, namespace: str) -> tuple[Verdict, Facts]:
    """What became of them, as the archive and Redis say now. Changes nothing."""
    row = await store.partition(schedules_of(namespace))
    mark = "" if row is None else row.mark
    tail = await redis.send(schedules_tail(namespace, store.archive_id, mark, "", FROM_START, most=0))
    return schedules_verdict(row, tail.facts, store.archive_id), tail.facts


async def adopt_schedules(store: Store, redis: Redis, namespace: str, me: str, facts: Facts, nonce: str) -> bool:
    """Take Redis as it is: the archive forgets what it had and reads everything anew. `me`: who owns the row.

    `facts`: as they were looked at; False when they have changed since, and nothing was done.
    """
    row = await store.partition(schedules_of(namespace))
    mark = new_mark(nonce, facts.mark, "" if row is None else mark_after(row))
    accept = facts.state not in {"ok", "absent"}
    if await redis.send(schedules_adopt(namespace, store.archive_id, facts.mark, mark, accept=accept)) != "ok":
        return False

    async def read_all(client: AsyncClient) -> tuple[Schedules, list[tuple[str, bytes]]]:
        schedules = ScheduleLog(client, namespace)
        state = (await schedules.load()).state
        return state, await schedules.kept(state.position)

    state, events = await redis.use(read_all)
    records, position = store.schedules, str(state.position)
    # The mark comes last: without one the archive knows that it has not read everything.
    await records.reset(namespace, me, "adopted", "")
    await records.keep_snapshot(namespace, me, position, as_entries(state))
    await records.append(namespace, me, [ScheduleEntry(entry_id, e) for entry_id, e in events], position, mark)
    return True


async def freeze_schedules(
    store: Store,
    redis: Redis,
    namespace: str,
    verdict: Verdict,
    facts: Facts,
    new_id: Callable[[], str],
    *,
    manual: bool = False,
) -> tuple[PartitionRow, str, bool]:
    """Let nothing fire until they are whole again; the archive knows it first. `facts`: as the verdict found them.

    Returns the archive's row, up to where Redis remembers to be archived, and whether the rebuild is done already.
    Raises SchedulesChanged.
    """
    partition = schedules_of(namespace)
    row = await store.partition(partition)
    state = "lost" if manual else "rebuilding"
    if row is not None and row.state == "archiving":
        await store.begin_rebuild(partition, new_id(), new_id(), verdict.kind, "lost" if manual else "rebuilding")
    elif row is not None and row.state == "lost" and not manual:
        await store.begin_rebuild(partition, row.rebuild_id, row.new_epoch_id, row.verdict, "rebuilding")
    row = await store.partition(partition)
    if row is None or row.state == "archiving":
        raise SchedulesChanged
    position = await position_of(store, namespace, row)
    call = schedules_freeze(namespace, store.archive_id, facts.mark, row.rebuild_id, state, position)
    frozen = await redis.send(call)
    if frozen.status != "ok":
        raise SchedulesChanged
    return row, frozen.remembered, frozen.done


async def position_of(store: Store, namespace: str, row: PartitionRow) -> str:
    """The last event that the archive has; a rebuild forgets where it was."""
    if not row.mark:
        return FROM_START
    return row.positions.get("events") or str((await fold_of(store, namespace)).position)


async def rebuild_schedules(
    store: Store,
    redis: Redis,
    namespace: str,
    verdict: Verdict,
    facts: Facts,
    *,
    new_id: Callable[[], str],
    judge: Judge,
) -> Report:
    """Restore the schedules, or go on with it; returns the report, which the archive keeps too.

    `verdict`, `facts`: as the last look found them. Idempotent: cancelled or failed at any point, look again and call
    it again. Raises SchedulesChanged, ArchiveFailed, and the errors of `Links.send`.
    """
    begun, begun_ms = time.monotonic(), await server_ms(redis)
    row, remembered, done = await freeze_schedules(store, redis, namespace, verdict, facts, new_id)
    state = await fold_of(store, namespace)
    if not done:
        await _replace(store, redis, namespace, row, state, remembered)
    report = await _report(store, redis, namespace, row, state, judge, begun_ms)
    report = _timed(report, time.monotonic() - begun)
    await store.end_rebuild(schedules_of(namespace), row.rebuild_id, row.new_epoch_id, mark_after(row), report)
    return report


async def plan_schedules(store: Store, redis: Redis, namespace: str, verdict: Verdict, *, judge: Judge) -> Report:
    """What a rebuild would do now. Changes nothing."""
    begun_ms = await server_ms(redis)
    row = await store.partition(schedules_of(namespace)) or PartitionRow(namespace=namespace, queue="")
    kind = row.verdict if verdict.kind in {"lost", "rebuilding"} else verdict.kind
    planned = PartitionRow(namespace=namespace, queue="", verdict=kind)
    report = await _report(store, redis, namespace, planned, await fold_of(store, namespace), judge, begun_ms)
    return _timed(report, 0.0, dry_run=True)


async def _replace(
    store: Store, redis: Redis, namespace: str, row: PartitionRow, state: Schedules, remembered: str
) -> None:
    position = str(state.position)
    keep_from = after(await _boundary(store, redis, namespace, state.position, EntryID.parse(remembered or FROM_START)))
    frozen = state.copy()
    frozen.position = START

    async def write(client: AsyncClient) -> Unfinished:
        return await ScheduleLog(client, namespace).begin_snapshot(frozen)

    for _ in range(TRIES):
        written = await redis.use(write)
        call = schedules_finish(
            namespace, store.archive_id, row.rebuild_id, mark_after(row), position, keep_from, written.end
        )
        status = await redis.send(call)
        if status in {"ok", "again"}:
            return
        if status != "overtaken":
            break
    raise SchedulesChanged


async def _boundary(store: Store, redis: Redis, namespace: str, position: EntryID, remembered: EntryID) -> str:
    """The last event in Redis that the archive knows, or empty."""
    known = ""
    floor = await _floor(store.schedules, namespace, position)
    async for page in _log_pages(redis, namespace):
        first, last = EntryID.parse(page[0].entry_id), EntryID.parse(page[-1].entry_id)
        if first > position:
            break
        archived: dict[str, bytes] = {}
        before = f"{first.ms}-{first.seq - 1}" if first.seq else f"{first.ms - 1}-{2**64 - 1}"
        async for event in store.schedules.events(namespace, after=before):
            if EntryID.parse(event.entry_id) > last:
                break
            archived[event.entry_id] = event.e
        known = last_known(page, archived, remembered, floor) or known
    return known


async def _floor(records: ScheduleRecords, namespace: str, position: EntryID) -> EntryID:
    """Events up to this one are in the archive's snapshots only."""
    async for event in records.events(namespace):
        ms, seq = EntryID.parse(event.entry_id)
        return EntryID(ms, seq - 1) if seq else EntryID(ms - 1, 2**64 - 1)
    return position


async def _log_pages(redis: Redis, namespace: str) -> AsyncIterator[list[ScheduleEntry]]:
    low = "-"
    while True:

        def ask(client: AsyncClient, low: str = low) -> Awaitable[Any]:
            return client.xrange(schedule_events_key(namespace), low, "+", count=PAGE)

        found = await redis.use(ask)
        page = [ScheduleEntry(entry_id.decode(), event_of(fields)) for entry_id, fields in found]
        if page:
            yield page
            low = f"({page[-1].entry_id}"
        if len(page) < PAGE:
            return


async def _report(
    store: Store, redis: Redis, namespace: str, row: PartitionRow, state: Schedules, judge: Judge, begun_ms: int
) -> Report:
    fired: dict[str, FiredRow] = {}
    for partition in await store.partitions(namespace):
        found = await store.fired(Partition(namespace, partition.queue, partition.number))
        for name, one in found.items():
            known = fired.get(name)
            if known is None or EntryID.parse(known.generation) <= EntryID.parse(one.generation):
                fired[name] = one
    judged = await judge(state, fired, await server_ms(redis))
    lost = await _lost_changes(redis, namespace, state, fired)
    problems = (*judged.problems, *lost)
    return Report(
        rebuild_id=row.rebuild_id,
        verdict=row.verdict,
        namespace=namespace,
        queue="",
        begun_ms=begun_ms,
        ended_ms=await server_ms(redis),
        schedules=len(state.rows),
        overdue=judged.overdue,
        unrestorable=problems[:LISTED],
        unrestorable_count=len(problems),
    )


async def _lost_changes(
    redis: Redis, namespace: str, state: Schedules, fired: dict[str, FiredRow]
) -> tuple[Unrestorable, ...]:
    """Schedules of which a change was fired, and archived so, that neither the archive nor Redis has an event of."""
    ahead = [name for name, row in fired.items() if state.has_lost(name, row.generation)]
    if not ahead:
        return ()
    changed = set[str]()
    async for page in _log_pages(redis, namespace):
        changed |= {decode(one.e).name for one in page if EntryID.parse(one.entry_id) > state.position}
    why = "a change of it is lost, though it was fired: it goes on as it was before"
    return tuple(Unrestorable(f"schedule {name}", why) for name in sorted(ahead) if name not in changed)


def _timed(report: Report, seconds: float, *, dry_run: bool = False) -> Report:
    rate = round(report.schedules / seconds, 1) if seconds else 0.0
    return msgspec.structs.replace(report, seconds=round(seconds, 3), rate=rate, dry_run=dry_run)

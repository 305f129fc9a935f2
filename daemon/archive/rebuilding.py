"""Brings a partition back from the archive: frozen, looked at, cleared of what has ended, restored, opened again.

Every step names the one before, in Redis (`cursor`) as in the archive (`rebuild_id`): killed at any point and begun
again, or done by two at once, it comes to the same. docs/recovery.md says what comes back and what does not.
"""

import time
from collections.abc import Callable
from typing import Final, Literal, Protocol

import msgspec

from reclaimd.daemon.archive.job import Job, Moved, Overtaken, Place
from reclaimd.daemon.archive.progress import Meter, Progress, silent
from reclaimd.daemon.archive.removing import keep_all, remove
from reclaimd.daemon.archive.restoring import (
    count_restored,
    restore_every_task,
    restore_ids,
    restore_totals,
    would_restore,
)
from reclaimd.daemon.archive.restoring_fired import restore_fired_rows
from reclaimd.daemon.archive.scanning import Redis, server_ms
from reclaimd.daemon.archive.store import Store
from reclaimd.daemon.rebuild.marks import mark_after
from reclaimd.daemon.rebuild.values import PartitionRow, Report, Verdict
from reclaimd.streams.archive_scripts import Frozen, finish, freeze
from reclaimd.streams.keys import Partition, queues_key
from reclaimd.streams.redis_log import AsyncClient

Freezing = Literal["lost", "rebuilding"]
NOWHERE: Final = "-"
"""A cursor that no rebuild has."""


class Seen(Protocol):
    """The epoch as it was when the verdict was found: `Facts` of either kind. Empty: there is none."""

    @property
    def epoch_id(self) -> str: ...
    @property
    def mark(self) -> str: ...


async def freeze_partition(
    store: Store,
    redis: Redis,
    partition: Partition,
    verdict: Verdict,
    seen: Seen,
    *,
    new_id: Callable[[], str],
    state: Freezing = "lost",
) -> PartitionRow:
    """Let nothing run, move or fire in a partition that lost data until it is rebuilt; the archive knows it first.

    `verdict`: a loss, or `lost`, `rebuilding` for one that was frozen before: its rebuild goes on. `new_id`: random,
    16 hex digits. Returns the archive's row as it is then. Raises Overtaken when the epoch is not as `seen` any more.
    """
    row, _ = await _freeze(store, redis, partition, verdict, seen, new_id, state)
    return row


async def rebuild_partition(
    store: Store,
    redis: Redis,
    partition: Partition,
    verdict: Verdict,
    seen: Seen,
    *,
    new_id: Callable[[], str],
    events_cap: int,
    progress: Progress = silent,
) -> Report:
    """Rebuild one partition, or go on with its rebuild; returns the report, which the archive keeps too.

    `redis`: `Links` or `Source`. `verdict`, `seen`: as the last look at the partition found them; a loss, `lost` or
    `rebuilding`. `events_cap`: entries of `:events`. While it runs nobody may commit tasks of this partition to the
    archive. Idempotent: cancelled or failed at any point, call it again after another look (the verdict is `rebuilding`
    then). Two at once do no harm. Raises Overtaken (look again), ArchiveFailed, and the errors of `Links.send`.
    """
    begun = time.monotonic()
    row, frozen = await _freeze(store, redis, partition, verdict, seen, new_id, "rebuilding")
    job = Job(store, redis, partition, row, row.verdict, await server_ms(redis), Meter(progress), frozen.nonce)
    await _restore(job, Place.parse(frozen.cursor))
    await _register(redis, partition)
    await _finish(job, str(Place("done")), events_cap)
    report = await _report(job, time.monotonic() - begun)
    await store.end_rebuild(partition, row.rebuild_id, row.new_epoch_id, mark_after(row), report)
    return report


async def accept_partition(
    store: Store,
    redis: Redis,
    partition: Partition,
    verdict: Verdict,
    seen: Seen,
    *,
    me: str,
    new_id: Callable[[], str],
    events_cap: int,
) -> Report:
    """Take Redis as it is: no more is restored, and the archive forgets its tasks and reads everything again.

    `me`: who owns the partition's row then. Raises Overtaken.
    """
    row, frozen = await _freeze(store, redis, partition, verdict, seen, new_id, "rebuilding")
    job = Job(store, redis, partition, row, "accepted", await server_ms(redis), Meter(silent), frozen.nonce)
    await _finish(job, frozen.cursor, events_cap)
    report = await _report(job, 0.0)
    # Ended first: cut off in between, the archive reads everything again and only keeps more than there is.
    await store.end_rebuild(partition, row.rebuild_id, row.new_epoch_id, mark_after(row), report)
    now = await store.partition(partition)
    if now is None or not await store.claim(partition, me, now.ownership):
        raise Overtaken(partition.queue)
    await store.reset(partition, me, row.new_epoch_id, mark_after(row))
    return report


async def plan_rebuild(
    store: Store, redis: Redis, partition: Partition, verdict: Verdict, *, progress: Progress = silent
) -> Report:
    """What a rebuild would do now. Changes nothing. In a partition that is not frozen tasks go on meanwhile."""
    begun = time.monotonic()
    row = await store.partition(partition) or PartitionRow(namespace=partition.namespace, queue=partition.queue)
    kind = row.verdict if verdict.kind in {"lost", "rebuilding"} else verdict.kind
    job = Job(store, redis, partition, row, kind, await server_ms(redis), Meter(progress))
    await remove(job, dry_run=True)
    await would_restore(job)
    report = await _report(job, time.monotonic() - begun)
    return msgspec.structs.replace(report, dry_run=True, rebuild_id="")


async def _freeze(
    store: Store,
    redis: Redis,
    partition: Partition,
    verdict: Verdict,
    seen: Seen,
    new_id: Callable[[], str],
    state: Freezing,
) -> tuple[PartitionRow, Frozen]:
    row = await _begin(store, partition, verdict, new_id, state)
    frozen = await redis.send(
        freeze(
            partition,
            archive_id=store.archive_id,
            seen_epoch_id=seen.epoch_id,
            seen_mark=seen.mark,
            new_epoch_id=row.new_epoch_id,
            rebuild_id=row.rebuild_id,
            state=state,
        )
    )
    if frozen.status == "changed" and seen.epoch_id == row.new_epoch_id:
        # Redis is whole again, only the archive was not told: the one who rebuilt it died in between.
        finished = await redis.send(finish(partition, row.rebuild_id, cursor=NOWHERE, mark="", events_cap=0))
        if finished.status == "ok":
            return row, Frozen("ok", str(Place("done")))
    if frozen.status != "ok":
        raise Overtaken(partition.queue)
    return row, frozen


async def _begin(
    store: Store, partition: Partition, verdict: Verdict, new_id: Callable[[], str], state: Freezing
) -> PartitionRow:
    """The archive's row of a rebuild that has begun: of the one that was begun before, if it has not ended."""
    row = await store.partition(partition)
    if row is None:
        raise Overtaken(partition.queue)
    if row.state == "archiving":
        # Frozen by a rebuild that the archive has left behind: older data.
        kind = verdict.kind if verdict.is_loss else "rolled_back"
        await store.begin_rebuild(partition, new_id(), new_id(), kind, state)
    elif row.state == "lost" and state == "rebuilding":
        await store.begin_rebuild(partition, row.rebuild_id, row.new_epoch_id, row.verdict, state)
    # As it is now, whoever was faster.
    row = await store.partition(partition)
    if row is None or row.state == "archiving":
        raise Overtaken(partition.queue)
    return row


async def _restore(job: Job, place: Place) -> None:
    """Stage by stage up to `done`, from wherever the cursor stands."""
    stages = {
        "seen": restore_ids,
        "tasks": restore_every_task,
        "fired": restore_fired_rows,
        "facts": restore_totals,
    }
    looked = False
    while place.stage != "done":
        try:
            if place.stage == "drop":
                place, looked = await remove(job), True
                continue
            if place.stage in {"tasks", "fired"} and not looked:
                await keep_all(job)
                await count_restored(job, place)
                looked = True
            if place.stage not in stages:
                raise Overtaken(job.partition.queue)
            place = await stages[place.stage](job, place)
        except Moved as moved:
            # What the other has restored meanwhile is there as well.
            place, looked = Place.parse(moved.cursor), False
            job.forget()


async def _register(redis: Redis, partition: Partition) -> None:
    """The registry of queues may be lost too."""

    async def ask(client: AsyncClient) -> None:
        await client.sadd(queues_key(partition.namespace), partition.queue)

    await redis.use(ask)


async def _finish(job: Job, cursor: str, events_cap: int) -> None:
    call = finish(job.partition, job.rebuild_id, cursor=cursor, mark=mark_after(job.row), events_cap=events_cap)
    if (await job.redis.send(call)).status != "ok":
        raise Overtaken(job.partition.queue)


async def _report(job: Job, seconds: float) -> Report:
    tally = job.tally
    return Report(
        rebuild_id=job.row.rebuild_id,
        verdict=job.verdict,
        namespace=job.partition.namespace,
        queue=job.partition.queue,
        begun_ms=job.now_ms,
        ended_ms=await server_ms(job.redis),
        seconds=round(seconds, 3),
        rate=round(sum(tally.restored.values()) / seconds, 1) if seconds else 0.0,
        restored=dict(tally.restored),
        kept=tally.kept,
        dropped=dict(tally.dropped),
        fired_rows=tally.fired_rows,
        unrestorable=tuple(tally.unrestorable),
        unrestorable_count=tally.unrestorable_count,
    )

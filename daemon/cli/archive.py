"""`archive backup`, `archive status` and `snapshot`: copies of what must outlive Redis."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec

from reclaimd.daemon.cli.archives import new_id, open_archive, open_archive_first
from reclaimd.daemon.cli.flags import Flags
from reclaimd.daemon.cli.output import Output, Report
from reclaimd.daemon.cli.running import DONE, PROBLEM, run, run_alone
from reclaimd.daemon.cli.words import plural
from reclaimd.daemon.inspect.source import Source
from reclaimd.streams.keys import Partition
from reclaimd.streams.schedules.log import ScheduleLog

if TYPE_CHECKING:
    from reclaimd.daemon.archive.store import Store

WATCHED_SECONDS = 8.0
"""A daemon that archives a queue shows every two seconds that it lives; after six without that, it does not."""
LOOK_EVERY = 0.25


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What the archive has of one queue. `tasks`: by place; `verdict`: how Redis compares (empty: it is away)."""

    queue: str
    state: str
    tasks: dict[str, int]
    events_bytes: int
    archived_ms: int
    verdict: str = ""


def backup(flags: Flags, path: Path) -> int:
    """Copy a SQLite archive while it is used. Asks nothing of Redis."""
    settings = flags.settings()

    async def copy(out: Output) -> int:
        async with open_archive(settings, "copy") as store:
            with out.progress() as bar:
                size = await store.backup(path, lambda done, total: bar("copying", done, total))
            _tell_backup(out, path, size)
            return DONE

    return run_alone(flags, copy)


def _tell_backup(out: Output, path: Path, size: int) -> None:
    if out.json:
        out.document({"file": os.fspath(path), "bytes": size})
    else:
        out.line(f"Copied the archive to {path}, {size:,} bytes.")


def status(flags: Flags) -> int:
    """What the archive holds, and whether Redis still agrees. While it is away nobody knows that it does not."""
    settings = flags.settings()

    async def work(out: Output) -> int:
        async with open_archive_first(settings, out) as (store, source):
            found = await _status(store, source, settings.namespace)
            if out.json:
                redis = "unreachable" if source is None else "reachable"
                out.document({"archive": store.where, "archive_id": store.archive_id, "redis": redis, "queues": found})
            else:
                _print_status(out, store, found)
        return DONE if source is None or all(one.verdict == "healthy" for one in found) else PROBLEM

    return run_alone(flags, work)


async def _status(store: "Store", source: Source | None, namespace: str) -> list[Kept]:
    from reclaimd.daemon.loops.catching_up import look
    from reclaimd.daemon.rebuild.values import EVENTS, entry_ms

    found = []
    for row in await store.partitions(namespace):
        partition = Partition(row.namespace, row.queue, row.number)
        verdict = "" if source is None else (await look(store, source, partition)).verdict.kind
        found.append(
            Kept(
                queue=row.queue,
                state=row.state,
                tasks=await store.count_tasks(partition),
                events_bytes=row.events_bytes,
                archived_ms=entry_ms(row.positions.get(EVENTS, "0-0")),
                verdict=verdict,
            )
        )
    return found


def _print_status(out: Output, store: "Store", found: list[Kept]) -> None:
    out.line(f"{store.where}, archive {store.archive_id}")
    rows = [
        (one.queue, one.verdict or "unreachable", sum(one.tasks.values()), one.tasks.get("dead", 0), one.events_bytes)
        for one in found
    ]
    out.table(("queue", "redis", "tasks", "of them dead", "bytes of events"), rows)


def snapshot(flags: Flags) -> int:
    """Write a snapshot of the schedules, and bring the archive up to date if there is one."""
    settings = flags.settings()

    async def work(source: Source, out: Output) -> int:
        written = await _write_snapshot(source)
        queues: dict[str, str] = {}
        if settings.archive.url is not None:
            async with open_archive(settings, "write") as store:
                with out.progress() as bar:
                    for queue in await source.queues():
                        queues[queue] = await _archive(store, source, queue, settings.archive.events_limit, bar)
        if out.json:
            out.document({"schedules": written, "archived": queues})
        else:
            _tell_snapshot(out, written, queues)
        return DONE if all(kind in {"daemon", "healthy"} for kind in queues.values()) else PROBLEM

    return run(flags, work)


async def _write_snapshot(source: Source) -> int | None:
    """Schedules in the snapshot; None when daemons write theirs so fast that this one was overtaken."""

    async def write(log: ScheduleLog) -> int | None:
        loaded = await log.load()
        written = await log.write_snapshot(loaded.state, restored=loaded.restored)
        return None if written is None else written.rows

    return await source.use(lambda client: write(ScheduleLog(client, source.namespace)))


async def _archive(store: "Store", source: Source, queue: str, events_cap: int, bar: Report) -> str:
    """`daemon`: one archives it anyway. Else the verdict, which is `healthy` when everything is archived."""
    from reclaimd.daemon.loops.catching_up import catch_up
    from reclaimd.daemon.loops.ownership import my_name

    archived = 0

    def told(events: int) -> None:
        nonlocal archived
        archived += events
        bar(f"archiving {queue}", archived, None)

    told(0)
    me, partition = my_name(new_id()), source.partition(queue)
    if not await _owned(store, partition, me):
        return "daemon"
    judged = await catch_up(store, source, partition, me, events_cap=events_cap, told=told)
    return judged.kind


async def _owned(store: "Store", partition: Partition, me: str) -> bool:
    """Become the owner of a queue that nobody archives; False when somebody does."""
    from reclaimd.daemon.loops.ownership import Claims

    claims, first = Claims(), None
    with anyio.move_on_after(WATCHED_SECONDS):
        while True:
            row = await store.partition(partition)
            seen = None if row is None else row.ownership
            if claims.may_take(partition.queue, seen):
                return await store.claim(partition, me, seen)
            if first is not None and seen != first:
                return False
            first = seen
            await anyio.sleep(LOOK_EVERY)
    return False


def _tell_snapshot(out: Output, written: int | None, queues: dict[str, str]) -> None:
    if written is None:
        out.line("Schedules: a newer snapshot was written meanwhile.")
    else:
        out.line(f"Schedules: a snapshot of {plural(written, 'schedule')} was written.")
    for queue, kind in queues.items():
        if kind == "daemon":
            out.line(f"{queue}: a daemon archives it.")
        elif kind == "healthy":
            out.line(f"{queue}: archived.")
        else:
            out.line(f"{queue}: {kind}, nothing was archived: see reclaimd rebuild --dry-run")

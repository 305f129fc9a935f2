"""A process of its own for k_rebuild: `fill ARCHIVE NAMESPACE URL TASKS SCHEDULES` archives schedules that have fired
once, and open tasks that Redis has not; `rebuild ARCHIVE NAMESPACE URL` rebuilds what is lost.

Prints JSON: tasks, schedules, fired (rows of what each schedule fired), seconds (from the first look to the last
write), schedules_seconds (of those, what the schedules took), rss_mb (the most that the process ever held).
"""

from __future__ import annotations

import json
import resource
import secrets
import sys
import time

import anyio
from schedules_child import QUEUE, write
from stage import BODY

from reclaimd.daemon.archive.rebuilding import rebuild_partition
from reclaimd.daemon.archive.records import schedules_of
from reclaimd.daemon.archive.restoring_schedules import (
    adopt_schedules,
    fold_of,
    look_at_schedules,
    rebuild_schedules,
)
from reclaimd.daemon.archive.store import Store, open_store
from reclaimd.daemon.connectivity import Connectivity
from reclaimd.daemon.links import Links
from reclaimd.daemon.loops.catching_up import catch_up, look
from reclaimd.daemon.rebuild import envelopes
from reclaimd.daemon.rebuild.values import RANKS, Changes, FiredRow, TaskRow, sort_of_entry
from reclaimd.daemon.schedules.overdue import judge
from reclaimd.streams import scripts
from reclaimd.streams.enqueueing import new_task_id
from reclaimd.streams.keys import Partition

ME = "bench"
AT_ONCE = 5_000
LANES = ("lane:high", "lane:normal", "lane:normal", "lane:normal", "lane:low")


def made(number: int, now: int) -> TaskRow:
    """A task as it waits in a lane: the archive's row of it."""
    place, entry_id = LANES[number % len(LANES)], f"{now}-{number}"
    task_id = new_task_id()
    lane = place.partition(":")[2]
    fields = [b"task", task_id.encode(), b"at", b"%d" % now, b"lane", lane.encode(), b"max", b"5", b"body", BODY]
    return TaskRow(
        task_id=task_id,
        place=place,
        rank=RANKS[place],
        sort=sort_of_entry(entry_id),
        envelope=envelopes.pack(fields),
        entry_id=entry_id,
        lane=lane,
        at=now,
    )


async def fill(store: Store, links: Links, url: str, partition: Partition, count: int, schedules: int) -> None:
    """One task begins the partition, so that the archive adopts it; the others are written as rows."""
    await links.send(scripts.enqueue(partition, [scripts.NewTask("first", "low", 5, BODY)], epoch_id="e"))
    await store.claim(partition, ME, None)
    await catch_up(store, links, partition, ME, events_cap=50_000, told=lambda _events: None)
    row = await store.partition(partition)
    assert row is not None
    # Long ago: their IDs need not be remembered against being sent again.
    now = int(time.time() * 1000) - 86_400_000
    for start in range(1, count, AT_ONCE):
        rows = tuple(made(number, now) for number in range(start, min(count, start + AT_ONCE)))
        await store.commit(partition, ME, Changes(upserts=rows), row.positions)
    for fired in await _fill_schedules(store, links, url, partition.namespace, schedules):
        await store.commit(partition, ME, Changes(fired=fired), row.positions)


async def _fill_schedules(
    store: Store, links: Links, url: str, namespace: str, count: int
) -> list[tuple[FiredRow, ...]]:
    """The archive reads them as a daemon does that meets them first. Returns what they have fired, in parts."""
    await write(url, namespace, count)
    await store.claim(schedules_of(namespace), ME, None)
    _, facts = await look_at_schedules(store, links, namespace)
    assert await adopt_schedules(store, links, namespace, ME, facts, secrets.token_hex(4))
    rows = (await fold_of(store, namespace)).rows
    now = int(time.time() * 1000)
    fired = [FiredRow(schedule=name, generation=row.generation, last=now, count=1) for name, row in rows.items()]
    return [tuple(fired[start : start + AT_ONCE]) for start in range(0, len(fired), AT_ONCE)]


async def rebuild(store: Store, links: Links, partition: Partition) -> dict[str, float]:
    """All that `reclaimd rebuild` does when it finds the loss, in that order."""
    begun = time.perf_counter()
    namespace = partition.namespace
    lost, facts = await look_at_schedules(store, links, namespace)
    assert lost.kind == "empty", lost
    folded = await rebuild_schedules(store, links, namespace, lost, facts, new_id=_new_id, judge=judge)
    schedules_seconds = time.perf_counter() - begun
    judged, seen, _ = await look(store, links, partition)
    assert judged.kind == "empty", judged
    report = await rebuild_partition(store, links, partition, judged, seen, new_id=_new_id, events_cap=50_000)
    return {
        "tasks": report.tasks_restored,
        "schedules": folded.schedules,
        "fired": report.fired_rows,
        "seconds": time.perf_counter() - begun,
        "schedules_seconds": schedules_seconds,
    }


def _new_id() -> str:
    return secrets.token_hex(8)


async def main(what: str, archive: str, namespace: str, url: str, *counts: str) -> dict[str, float]:
    """Do one of the two."""
    links, partition = Links(url, Connectivity()), Partition(namespace, QUEUE)
    async with open_store(archive) as store:
        try:
            if what == "rebuild":
                return await rebuild(store, links, partition)
            await fill(store, links, url, partition, *map(int, counts))
            return {}
        finally:
            await links.aclose()


if __name__ == "__main__":
    found = anyio.run(main, *sys.argv[1:])
    found["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found))

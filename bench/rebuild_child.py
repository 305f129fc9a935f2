"""A process of its own for k_rebuild: `fill ARCHIVE NAMESPACE N URL` archives N open tasks that Redis has not,
`rebuild ARCHIVE NAMESPACE URL` rebuilds what is lost.

Prints JSON: tasks, seconds (from the first look to the last write), rss_mb (the most that the process ever held).
"""

from __future__ import annotations

import json
import resource
import secrets
import sys
import time

import anyio
from stage import BODY

from reclaimd.daemon.archive.rebuilding import rebuild_partition
from reclaimd.daemon.archive.store import Store, open_store
from reclaimd.daemon.connectivity import Connectivity
from reclaimd.daemon.links import Links
from reclaimd.daemon.loops.catching_up import catch_up, look
from reclaimd.daemon.rebuild import envelopes
from reclaimd.daemon.rebuild.values import RANKS, Changes, TaskRow, sort_of_entry
from reclaimd.streams import scripts
from reclaimd.streams.enqueueing import new_task_id
from reclaimd.streams.keys import Partition

QUEUE = "bench"
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


async def fill(store: Store, links: Links, partition: Partition, count: int) -> dict[str, float]:
    """One task begins the partition, so that the archive adopts it; the others are written as rows."""
    await links.send(scripts.enqueue(partition, [scripts.NewTask("first", "low", 5, BODY)], epoch_id="e"))
    await store.claim(partition, "bench", None)
    await catch_up(store, links, partition, "bench", events_cap=50_000, told=lambda _events: None)
    row = await store.partition(partition)
    assert row is not None
    # Long ago: their IDs need not be remembered against being sent again.
    now, begun = int(time.time() * 1000) - 86_400_000, time.perf_counter()
    for start in range(1, count, AT_ONCE):
        rows = tuple(made(number, now) for number in range(start, min(count, start + AT_ONCE)))
        await store.commit(partition, "bench", Changes(upserts=rows), row.positions)
    return {"tasks": count, "seconds": time.perf_counter() - begun}


async def rebuild(store: Store, links: Links, partition: Partition) -> dict[str, float]:
    """All that a daemon does when it finds the loss."""
    begun = time.perf_counter()
    judged, seen, _ = await look(store, links, partition)
    assert judged.kind == "empty", judged
    report = await rebuild_partition(
        store, links, partition, judged, seen, new_id=lambda: secrets.token_hex(8), events_cap=50_000
    )
    return {"tasks": report.tasks_restored, "seconds": time.perf_counter() - begun}


async def main(what: str, archive: str, namespace: str, url: str, count: int) -> dict[str, float]:
    """Do one of the two."""
    links, partition = Links(url, Connectivity()), Partition(namespace, QUEUE)
    async with open_store(archive) as store:
        try:
            if what == "fill":
                return await fill(store, links, partition, count)
            return await rebuild(store, links, partition)
        finally:
            await links.aclose()


if __name__ == "__main__":
    found = anyio.run(main, *sys.argv[1:5], int(sys.argv[5]))
    found["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found))

"""Archiving without a daemon: look at one partition, and bring the archive up to it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from reclaimd.daemon.archive import tailing
from reclaimd.daemon.archive.following import Following
from reclaimd.daemon.archive.scanning import Redis
from reclaimd.daemon.rebuild.detect import verdict
from reclaimd.daemon.rebuild.values import PartitionRow, Verdict
from reclaimd.streams import archive_scripts
from reclaimd.streams.archive_scripts import Expected, Facts
from reclaimd.streams.keys import Partition

if TYPE_CHECKING:
    from reclaimd.daemon.archive.store import Store


class Look(NamedTuple):
    """What a look at a partition found: the verdict, the epoch as it is, and the archive's row."""

    verdict: Verdict
    seen: Facts
    row: PartitionRow | None


LOOKS: Final = 5
"""Tries more, while a daemon commits marks between the look at the archive and the one at Redis."""


async def look(store: "Store", redis: Redis, partition: Partition) -> Look:
    """Whether Redis still has what the archive knows. Changes nothing."""
    found = await _look_once(store, redis, partition)
    for _ in range(LOOKS):
        # A daemon that archives meanwhile makes what was read first an older copy.
        if found.verdict.kind != "archive_behind" or await store.partition(partition) == found.row:
            break
        found = await _look_once(store, redis, partition)
    return found


async def _look_once(store: "Store", redis: Redis, partition: Partition) -> Look:
    row = await store.partition(partition)
    known = row or PartitionRow(namespace=partition.namespace, queue=partition.queue)
    expected = Expected(store.archive_id, known.epoch_id, known.mark)
    positions = tailing.script_positions(known.positions)
    found = await redis.send(archive_scripts.tail(partition, expected, positions, entries=1, size=1))
    return Look(verdict(row, tailing.facts_of(found.facts), store.archive_id), found.facts, row)


async def catch_up(
    store: "Store", redis: Redis, partition: Partition, me: str, *, events_cap: int, told: Callable[[int], object]
) -> Verdict:
    """Archive what is new until nothing is left; `me` owns the partition's row. Returns the verdict that ended it.

    `told` is called with the number of events of each batch. Raises OwnerLost when a daemon has taken over.
    """
    following = Following(store, redis, partition, me)
    while True:
        judged, seen, row = await look(store, redis, partition)
        if judged.kind in {"new", "archive_behind"}:
            adopted = await following.adopt(row, seen, events_cap)
            if adopted.status not in {"ok", "changed"}:
                return judged
        elif judged.kind != "healthy" or row is None or not await _step(following, row, told):
            return judged


async def _step(following: Following, row: PartitionRow, told: Callable[[int], object]) -> bool:
    """Archive one tail. Returns whether there may be more."""
    found = await following.read(await following.read_unstreamed(row))
    if not found.healthy:
        return True
    if found.tail.gap:
        await following.read_again(row.epoch_id, row.mark)
        return True
    if row.state != "archiving":
        await following.take_up(row)
        return True
    if (await following.archive(found)).seconds is not None:
        told(len(found.tail.events))
    return not found.done

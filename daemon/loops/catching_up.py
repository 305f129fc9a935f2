"""Archiving without a daemon: look at one partition, and bring the archive up to it."""

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

from reclaimd.daemon.links import Links
from reclaimd.daemon.loops import tailing
from reclaimd.daemon.rebuild.apply import batches, changes, positions_after, wanted
from reclaimd.daemon.rebuild.detect import verdict
from reclaimd.daemon.rebuild.marks import mark_number
from reclaimd.daemon.rebuild.values import Changes, PartitionRow, Verdict
from reclaimd.streams import archive_scripts
from reclaimd.streams.archive_scripts import Expected, Facts, adopt
from reclaimd.streams.keys import Partition
from reclaimd.streams.scripts import Call

if TYPE_CHECKING:
    from reclaimd.daemon.archive.store import Store

T = TypeVar("T")
WHOLE: Final = "whole"
"""In the positions, once what no stream tells was read too."""


class Look(NamedTuple):
    """What a look at a partition found: the verdict, the epoch as it is, and the archive's row."""

    verdict: Verdict
    seen: Facts
    row: PartitionRow | None


class Sends(Protocol):
    """`Links` of a daemon, or `Source` of a command."""

    async def send(self, call: Call[T]) -> T:
        """Run a script."""
        ...


async def look(store: "Store", links: Sends, partition: Partition) -> Look:
    """Whether Redis still has what the archive knows. Changes nothing."""
    row = await store.partition(partition)
    known = row or PartitionRow(namespace=partition.namespace, queue=partition.queue)
    expected = Expected(store.archive_id, known.epoch_id, known.mark)
    positions = tailing.script_positions(known.positions)
    found = await links.send(archive_scripts.tail(partition, expected, positions, entries=1, size=1))
    return Look(verdict(row, tailing.facts_of(found.facts), store.archive_id), found.facts, row)


async def catch_up(
    store: "Store", links: Links, partition: Partition, me: str, *, events_cap: int, told: Callable[[int], object]
) -> Verdict:
    """Archive what is new until nothing is left; `me` owns the partition's row. Returns the verdict that ended it.

    `told` is called with the number of events of each batch. Raises OwnerLost when a daemon has taken over.
    """
    while True:
        judged, seen, row = await look(store, links, partition)
        if judged.kind in {"new", "archive_behind"}:
            if not await _adopt(store, links, partition, me, seen, row, events_cap):
                return judged
            continue
        if judged.kind != "healthy" or row is None:
            return judged
        if WHOLE not in row.positions:
            await _read_unstreamed(store, links, partition, me, row)
        elif not await _step(store, links, partition, me, row, told):
            return judged


async def _step(
    store: "Store", links: Links, partition: Partition, me: str, row: PartitionRow, told: Callable[[int], object]
) -> bool:
    """Archive one tail. Returns whether there may be more."""
    mark = f"{mark_number(row.mark) + 1}:{secrets.token_hex(4)}"
    expected = Expected(store.archive_id, row.epoch_id, row.mark, mark, row.ownership.beat)
    found = await links.send(archive_scripts.tail(partition, expected, tailing.script_positions(row.positions)))
    if not found.ok:
        return True
    if found.gap:
        await store.reset(partition, me, row.epoch_id, row.mark)
        return True
    if found.marked:
        tail = tailing.tail_of(found)
        read = batches(tail)
        needed = wanted(read)
        bodies = await tailing.read_bodies(links, partition, needed)
        fired = await store.fired(partition, needed.fired) if needed.fired else {}
        todo = changes(tail, bodies, fired, read)
        await store.commit(partition, me, todo, positions_after(tail, row.positions), mark)
        told(len(tail.events))
    return found.more or not found.drained


async def _adopt(
    store: "Store",
    links: Links,
    partition: Partition,
    me: str,
    seen: Facts,
    row: PartitionRow | None,
    events_cap: int,
) -> bool:
    """Returns whether it is worth to look again."""
    mark = f"{max(mark_number(seen.mark), mark_number(row.mark if row else '')) + 1}:{secrets.token_hex(4)}"
    adopted = await links.send(
        adopt(
            partition,
            archive_id=store.archive_id,
            seen_epoch_id=seen.epoch_id,
            new_epoch_id=secrets.token_hex(8),
            mark=mark,
            events_cap=events_cap,
        )
    )
    if adopted.status == "ok":
        await store.reset(partition, me, adopted.epoch_id, mark)
    return adopted.status in {"ok", "changed"}


async def _read_unstreamed(store: "Store", links: Links, partition: Partition, me: str, row: PartitionRow) -> None:
    async for page in tailing.unstreamed(links, partition):
        await store.commit(partition, me, page, row.positions)
    await store.commit(partition, me, Changes(), {**row.positions, WHOLE: "1"})

"""How the archive follows one partition: for the archiver of a daemon, and for a command where there is no daemon.

The caller judges what was found, and says when to go on; what is done then is the same for both.
"""

import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio
import msgspec

from reclaimd.daemon.archive import tailing
from reclaimd.daemon.archive.errors import ArchiveFailed, OwnerLost, Trouble
from reclaimd.daemon.archive.scanning import Redis
from reclaimd.daemon.rebuild.apply import batches, changes, positions_after, wanted
from reclaimd.daemon.rebuild.detect import verdict
from reclaimd.daemon.rebuild.marks import new_mark
from reclaimd.daemon.rebuild.values import (
    FIRED_AT,
    FOLDED,
    Changes,
    PartitionRow,
    Positions,
    Tail,
    Verdict,
    sort_of_entry,
)
from reclaimd.daemon.stolen import Stolen
from reclaimd.streams import archive_scripts
from reclaimd.streams.archive_scripts import Expected, Facts
from reclaimd.streams.keys import Partition

if TYPE_CHECKING:
    from reclaimd.daemon.archive.store import Store

COMMIT_SECONDS: Final = 20.0
_WHOLE: Final = "whole"
"""In the positions, once what no stream tells was read too."""


class Found(NamedTuple):
    """What came behind the positions of `row`. `mark`: the next one, which Redis has if `tail.marked`."""

    row: PartitionRow
    verdict: Verdict
    tail: archive_scripts.Tail
    mark: str

    @property
    def healthy(self) -> bool:
        """Whether Redis has what the archive knows, so that this goes on from there."""
        return self.tail.ok and self.verdict.kind == "healthy"

    @property
    def done(self) -> bool:
        """Whether nothing is left to be read."""
        return self.tail.drained and not self.tail.more


class Archived(NamedTuple):
    """What a commit came to. `row`: as the archive has it now. `seconds`: what it took; None: there was nothing new."""

    row: PartitionRow
    seconds: float | None


class Adopted(NamedTuple):
    """`status`: of the script. When that is `ok`, `row` is what the archive has of the partition, which is nothing."""

    status: str
    row: PartitionRow | None = None


class Following:
    """The owner `me` brings the archive up to one partition. Raises OwnerLost, ArchiveFailed, and what `redis` raises.

    `on_commit` is called after every commit. `stolen` counts the time in which the event loop could take up no reply.
    """

    def __init__(
        self,
        store: "Store",
        redis: Redis,
        partition: Partition,
        me: str,
        *,
        stolen: Stolen | None = None,
        on_commit: Callable[[], object] = lambda: None,
    ) -> None:
        self.store = store
        self.redis = redis
        self.partition = partition
        self.me = me
        self._stolen = stolen or Stolen()
        self._on_commit = on_commit

    async def read(self, row: PartitionRow) -> Found:
        """Look whether the partition is as `row` knows it; if it is, read on and mark the place.

        No mark is written for a row that waits for a rebuild: what is read then cannot be archived.
        """
        following = new_mark(secrets.token_hex(4), row.mark)
        written = following if row.state == "archiving" else ""
        expected = Expected(self.store.archive_id, row.epoch_id, row.mark, written, row.ownership.beat)
        call = archive_scripts.tail(self.partition, expected, tailing.script_positions(row.positions))
        found = await self.redis.send(call)
        return Found(row, verdict(row, tailing.facts_of(found.facts), self.store.archive_id), found, following)

    async def archive(self, found: Found) -> Archived:
        """Commit what was read, with the mark that Redis has."""
        row = found.row
        if not found.tail.marked:
            return Archived(row, None)
        tail = tailing.tail_of(found.tail)
        todo = await self._changes(await self._unfolded(row, tail), row.positions.get(FIRED_AT, ""))
        began = time.perf_counter()
        after = positions_after(tail, row.positions)
        await self._commit(todo, after, found.mark)
        seconds = time.perf_counter() - began
        return Archived(msgspec.structs.replace(row, positions=after, mark=found.mark), seconds)

    async def read_unstreamed(self, row: PartitionRow) -> PartitionRow:
        """What the events of a partition that was there before its archive do not tell any more. Returns the new row.

        Nothing is done when the archive has it. What is read of older data, or of others', is not kept.
        """
        if not row.epoch_id or _WHOLE in row.positions or row.state != "archiving":
            return row
        told = await tailing.last_event(self.redis, self.partition)
        async for page in tailing.unstreamed(self.redis, self.partition):
            marked = await self._mark(row)
            if marked is None:
                return row
            row = marked
            await self._commit(page, row.positions, row.mark)
        marked = await self._mark(row)
        if marked is None:
            return row
        row = msgspec.structs.replace(marked, positions={**row.positions, _WHOLE: "1", FIRED_AT: told})
        await self._commit(Changes(), row.positions, row.mark)
        return row

    async def _mark(self, row: PartitionRow) -> PartitionRow | None:
        """The row with a mark that no older data have, which would seem to be whole beside what was read since. None:
        what was read does not belong to the partition as `row` knows it.
        """
        following = new_mark(secrets.token_hex(4), row.mark)
        expected = Expected(self.store.archive_id, row.epoch_id, row.mark, following, row.ownership.beat)
        # A mark is only written when something is read, so the first event is, once more.
        call = archive_scripts.tail(self.partition, expected, tailing.script_positions({}), entries=1, size=1)
        found = await self.redis.send(call)
        if not found.ok:
            return None
        return msgspec.structs.replace(row, mark=following) if found.marked else row

    async def read_again(self, epoch_id: str, mark: str) -> PartitionRow | None:
        """Begin anew with this epoch: forget its tasks, and read everything that there is. Returns the new row."""
        await self.store.reset(self.partition, self.me, epoch_id, mark)
        return await self.store.partition(self.partition)

    async def take_up(self, row: PartitionRow) -> PartitionRow | None:
        """A rebuild was begun in the archive, but what Redis has is as `row` knows it: that data came back, or whoever
        began it was late. Nothing was archived since, so this goes on from there. Returns the new row.
        """
        if not await self.store.cancel_rebuild(self.partition, row.rebuild_id, self.me):
            raise OwnerLost(str(self.partition))
        return await self.store.partition(self.partition)

    async def adopt(self, row: PartitionRow | None, seen: Facts, events_cap: int) -> Adopted:
        """Begin to archive a partition that has no archive, or one that knows more than this one. `seen`: its epoch."""
        mark = new_mark(secrets.token_hex(4), seen.mark, "" if row is None else row.mark)
        call = archive_scripts.adopt(
            self.partition,
            archive_id=self.store.archive_id,
            seen_epoch_id=seen.epoch_id,
            new_epoch_id=secrets.token_hex(8),
            mark=mark,
            events_cap=events_cap,
            seen_mark=seen.mark,
        )
        adopted = await self.redis.send(call)
        if adopted.status != "ok":
            return Adopted(adopted.status)
        return Adopted("ok", await self.read_again(adopted.epoch_id, mark))

    async def _unfolded(self, row: PartitionRow, tail: Tail) -> Tail:
        """Without what was folded before a rebuild, which older data tell again: the archive has what came of it."""
        folded = row.positions.get(FOLDED)
        if folded is None or not tail.events or sort_of_entry(tail.events[0].entry_id) > sort_of_entry(folded):
            return tail
        known = await self.store.folded(self.partition, [event.entry_id for event in tail.events], folded)
        return msgspec.structs.replace(tail, events=tuple(e for e in tail.events if e.entry_id not in known))

    async def _changes(self, tail: Tail, rows_at: str) -> Changes:
        with self._stolen.slice():
            read = batches(tail)
            needed = wanted(read)
        bodies = await tailing.read_bodies(self.redis, self.partition, needed)
        fired = await self.store.fired(self.partition, needed.fired) if needed.fired else {}
        with self._stolen.slice():
            return changes(tail, bodies, fired, read, rows_at=rows_at)

    async def _commit(self, todo: Changes, positions: Positions, mark: str | None) -> None:
        try:
            with anyio.fail_after(COMMIT_SECONDS):
                await self.store.commit(self.partition, self.me, todo, positions, mark)
        except TimeoutError:
            raise ArchiveFailed(Trouble.SLOW, "") from None
        self._on_commit()

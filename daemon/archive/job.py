"""One rebuild under way: what its stages share, and how they move its cursor."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from reclaimd.daemon.archive.progress import Meter
from reclaimd.daemon.archive.scanning import Redis
from reclaimd.daemon.archive.store import Store
from reclaimd.daemon.rebuild.values import DEAD, QUEUED, FiredRow, PartitionRow, Present, TaskRow, Unrestorable
from reclaimd.streams.archive_scripts import DropRow, Restored, drop
from reclaimd.streams.errors import ReclaimdError
from reclaimd.streams.keys import Partition
from reclaimd.streams.scripts import Call

LISTED: Final = 100
"""What cannot be restored is counted whole, and listed up to so many."""


class Overtaken(ReclaimdError):
    """The partition is not as it was: somebody else rebuilt it, or Redis lost data again. Nothing is half done by it.

    `partition`: its name. Look at it again.
    """

    def __init__(self, partition: str) -> None:
        super().__init__(partition)
        self.partition = partition

    def __str__(self) -> str:
        return f"{self.partition} has changed while it was looked at, mostly because a daemon rebuilds it: look again"


class Moved(Exception):
    """Another executor has moved the cursor of the same rebuild; go on from there. `cursor`: where it is."""

    def __init__(self, cursor: str) -> None:
        super().__init__(cursor)
        self.cursor = cursor


class Place(NamedTuple):
    """A cursor taken apart: the stage, and how far that has come (empty: not begun)."""

    stage: str
    rest: str = ""

    @classmethod
    def parse(cls, cursor: str) -> "Place":
        """Of what `str` wrote; a rebuild begins with `seen`."""
        stage, _, rest = cursor.partition("|")
        return cls(stage or "seen", rest)

    def __str__(self) -> str:
        return f"{self.stage}|{self.rest}"


class Kept:
    """What Redis has already, or will have: rows of the archive that are not restored, and tasks of schedules.

    `open`, `queued`: task IDs of those tasks of schedules that are in a stream or delayed, or wait for another one.
    `fired`: rows of schedules that went on after the archive's last look, by schedule; they stand for the archived.
    `due`: wall ms, by task ID, of tasks that were delayed after that look, as far as they still are.
    """

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.queued: set[str] = set()
        self.fired: dict[str, FiredRow] = {}
        self.due: dict[str, int] = {}
        self._covered: set[str] = set()

    def __contains__(self, row: TaskRow) -> bool:
        return bool(self._covered) and _name(row.task_id, row.letter) in self._covered

    def add(self, present: Present, covers: Iterable[str]) -> None:
        """This one stays; it stands for the rows of its ID with these letters."""
        for letter in covers:
            self.cover(present.task_id, letter)
        self.note(present.task_id, present.place, present.schedule)

    def cover(self, task_id: str, letter: str) -> None:
        """This row is not restored."""
        self._covered.add(_name(task_id, letter))

    def uncover(self, task_id: str, letter: str) -> None:
        """It is, after all, unless it is found to be there."""
        self._covered.discard(_name(task_id, letter))

    def note(self, task_id: str, place: str, schedule: str) -> None:
        """A task that is there once the rebuild has ended."""
        if place == QUEUED:
            self.queued.add(task_id)
        elif schedule and place != DEAD:
            self.open.add(task_id)


def _name(task_id: str, letter: str) -> str:
    # No task ID holds a space.
    return f"{task_id} {letter}" if letter else task_id


@dataclass
class Tally:
    """What was done so far, for the report."""

    restored: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    fired_rows: int = 0
    unrestorable: list[Unrestorable] = field(default_factory=list)
    unrestorable_count: int = 0

    def leave_out(self, what: str, reason: str) -> None:
        """One that cannot be restored."""
        self.unrestorable_count += 1
        if len(self.unrestorable) < LISTED:
            self.unrestorable.append(Unrestorable(what, reason))


@dataclass
class Job:
    """A rebuild that Redis knows of, or a dry run (`row.rebuild_id` is empty then). `now_ms`: the server's wall clock
    when it began; `verdict`: what became of the partition; `nonce`: of the freeze that this goes on from.
    """

    store: Store
    redis: Redis
    partition: Partition
    row: PartitionRow
    verdict: str
    now_ms: int
    meter: Meter
    nonce: str = ""
    kept: Kept = field(default_factory=Kept)
    tally: Tally = field(default_factory=Tally)

    @property
    def rebuild_id(self) -> str:
        """Of this rebuild, as the scripts know it: they refuse who goes on from before a second loss."""
        return f"{self.row.rebuild_id} {self.nonce}" if self.nonce else self.row.rebuild_id

    async def archived(self, page: Iterable[Present]) -> dict[str, list[TaskRow]]:
        """The archive's rows of these tasks by ID: an open one, and any number of letters."""
        found: dict[str, list[TaskRow]] = {}
        for row in await self.store.tasks_by_id(self.partition, {present.task_id for present in page}):
            found.setdefault(row.task_id, []).append(row)
        return found

    async def step(self, call: Call[Restored], to: str) -> Restored:
        """Send one restore. Raises Moved, or Overtaken when this is not the rebuild that runs.

        A reply that says that the cursor is at `to` already answers a call that was sent twice.
        """
        reply = await self.redis.send(call)
        if reply.status == "ok" or (reply.cursor == to and reply.state == "rebuilding"):
            return reply
        raise self._elsewhere(reply.state, reply.cursor)

    async def drop(self, rows: Sequence[DropRow], cursor: str) -> None:
        """Remove entries while the rebuild stands at `cursor`. Raises Moved or Overtaken."""
        reply = await self.redis.send(drop(self.partition, self.rebuild_id, rows, cursor=cursor))
        if reply.status != "ok":
            raise self._elsewhere(reply.state, reply.cursor)

    def _elsewhere(self, state: str, cursor: str) -> Moved | Overtaken:
        return Moved(cursor) if state == "rebuilding" and cursor else Overtaken(self.partition.queue)

    def forget(self) -> None:
        """Look at Redis anew, and count anew."""
        self.kept, self.tally = Kept(), Tally()

    def keep(self, present: Present, covers: Iterable[str]) -> None:
        """This one stays in Redis."""
        self.kept.add(present, covers)
        self.tally.kept += 1

"""One rebuild under way: what its stages share, and how they move its cursor."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from reclaimd.daemon.archive.progress import Meter
from reclaimd.daemon.archive.scanning import Redis
from reclaimd.daemon.archive.store import Store
from reclaimd.daemon.rebuild.values import DEAD, PartitionRow, Present, TaskRow, Unrestorable
from reclaimd.streams.archive_scripts import Restored
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
    """Tasks that stay in Redis as they are. A dead letter is one of its own, whatever else has its task ID."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, row: TaskRow) -> bool:
        return _name(row.task_id, row.place, row.letter) in self._names

    def add(self, present: Present) -> None:
        """This one stays."""
        self._names.add(_name(present.task_id, present.place, present.entry_id))


def _name(task_id: str, place: str, letter: str) -> str:
    # No task ID holds a space.
    return f"{task_id} {letter}" if place == DEAD else task_id


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
    when it began; `verdict`: what became of the partition.
    """

    store: Store
    redis: Redis
    partition: Partition
    row: PartitionRow
    verdict: str
    now_ms: int
    meter: Meter
    kept: Kept = field(default_factory=Kept)
    tally: Tally = field(default_factory=Tally)

    @property
    def rebuild_id(self) -> str:
        """Of this rebuild."""
        return self.row.rebuild_id

    async def step(self, call: Call[Restored], to: str) -> Restored:
        """Send one restore. Raises Moved, or Overtaken when this is not the rebuild that runs.

        A reply that says that the cursor is at `to` already answers a call that was sent twice.
        """
        reply = await self.redis.send(call)
        if reply.status == "ok" or (reply.cursor == to and reply.state == "rebuilding"):
            return reply
        if reply.state == "rebuilding" and reply.cursor:
            raise Moved(reply.cursor)
        raise Overtaken(self.partition.queue)

    def note_kept(self, page: Iterable[Present]) -> None:
        """These stay."""
        for present in page:
            self.kept.add(present)
            self.tally.kept += 1

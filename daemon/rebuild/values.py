"""Values that the archive, its scripts and a rebuild share. Pure.

Instants and durations are wall milliseconds unless said otherwise. An *envelope* is kept as the scripts keep it in
`:delayed:body`: the bytes of a flat JSON array of field, value, … (`envelopes.pack`, `envelopes.unpack`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from reclaimd.streams.keys import STREAMS

DELAYED: Final = "delayed"
QUEUED: Final = "queued"
DEAD: Final = "dead"

PLACES: Final = (*STREAMS, DELAYED, QUEUED, DEAD)
"""Where a task can be. Its index here is its *rank*: the order in which tasks are restored."""
RANKS: Final[Mapping[str, int]] = {place: rank for rank, place in enumerate(PLACES)}

EVENTS: Final = "events"
FOLDED: Final = "folded"
"""In `Positions`, after a rebuild: the last event that was read before it."""
FIRED_AT: Final = "fired"
"""In `Positions`: the last event when the rows of `:fired` were read from Redis. What was told up to then they have in
them, also where a rebuild has opened again what had ended in older data.
"""
READ_STREAMS: Final = (EVENTS, *STREAMS, DEAD)
"""The streams that the archive reads, as they are called in `Positions`."""

Positions: TypeAlias = dict[str, str]
"""Stream (one of READ_STREAMS) → the last entry ID that was read; one that is absent counts as `0-0`."""

PartitionState = Literal["archiving", "lost", "rebuilding"]
"""`lost`: frozen, an operator decides. `rebuilding`: so is the plan, until `end_rebuild`."""

VerdictKind = Literal[
    "healthy", "new", "empty", "rolled_back", "partial", "foreign", "archive_behind", "rebuilding", "lost"
]


class Ownership(msgspec.Struct, frozen=True):
    """Who archives a partition. `beat` counts up; whoever does not see it change takes over."""

    owner: str = ""
    beat: int = 0


class PartitionRow(msgspec.Struct, frozen=True, kw_only=True):
    """What the archive knows of a partition as a whole.

    `epoch_id`, `mark`: of the last commit; `mark` is `<n>:<nonce>`. `rebuild_id`, `new_epoch_id`: of the rebuild that
    began last, committed before Redis learns of it; empty when there was none, `new_epoch_id` also when it has ended.
    `verdict`: the kind that it began with. `events_bytes`: what the kept event batches come to.
    """

    namespace: str
    queue: str
    number: int = 0
    epoch_id: str = ""
    mark: str = ""
    positions: Positions = {}
    paused: bool = False
    counters: dict[str, int] = {}
    ownership: Ownership = Ownership()
    state: PartitionState = "archiving"
    verdict: str = ""
    rebuild_id: str = ""
    new_epoch_id: str = ""
    events_bytes: int = 0


class TaskRow(msgspec.Struct, frozen=True, gc=False):
    """One open, delayed, queued or dead task.

    (`task_id`, `letter`) names it within its partition: `letter` is the entry ID of a dead letter and empty for all
    others, because a task ID may be used again while dead letters of it lie there. `sort`: its order within its
    `place`, text that compares as it should (`sort_of_entry`, `sort_of_due`). `entry_id`: empty when delayed or queued.
    `due`: 0 unless delayed. `token`: its fencing token, base + deliveries + attempts + handbacks. `at`: enqueued at.
    A row of a foreign entry has the task_id `foreign:<stream>:<entry id>`, and an envelope of whatever fields it had.
    """

    task_id: str
    place: str
    rank: int
    sort: str
    envelope: bytes
    letter: str = ""
    entry_id: str = ""
    lane: str = ""
    due: int = 0
    schedule: str = ""
    unique: str = ""
    token: int = 1
    at: int = 0


class FiredRow(msgspec.Struct, frozen=True, gc=False):
    """The row of `:fired` of one schedule. `queued`: task_id of what waits for `open`, or empty; its envelope is in the
    TaskRow of place `queued`.
    """

    schedule: str
    generation: str = "0-0"
    last: int = 0
    count: int = 0
    open: str = ""
    queued: str = ""


class EventEntry(msgspec.Struct, frozen=True, gc=False):
    """One entry of `:events`. `at`: 0 when it was unreadable. `e`: the raw batch, as `decode_batch` takes it."""

    entry_id: str
    at: int
    e: bytes


class StreamEntry(msgspec.Struct, frozen=True, gc=False):
    """One entry of a task stream or of `:dead`. `fields`: field, value, … as Redis has them."""

    entry_id: str
    fields: list[bytes]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the tail script finds before it reads anything.

    `exists`: whether `:epoch` does, `any_key`: whether any key of the partition does. `missing`: keys (after the tag)
    whose sentinel is gone. `rebuild`: id of the running or last rebuild, `cursor`: how far it has come. Text is empty
    when absent.
    """

    exists: bool
    any_key: bool
    state: str = ""
    epoch_id: str = ""
    archive_id: str = ""
    mark: str = ""
    mark_before: str = ""
    rebuild: str = ""
    cursor: str = ""
    missing: tuple[str, ...] = ()


class Tail(msgspec.Struct, frozen=True, kw_only=True):
    """What lies behind the archive's positions, read at one instant.

    `entries`: by stream (the seven and `dead`), only when `drained`: no event is left unread. `more`: entries are.
    `dead_first`: ID of the first entry of `:dead`, empty when there is none: what was before it, retention has trimmed;
    None: not looked at. `counters`, `paused`: None when not drained.
    """

    events: tuple[EventEntry, ...] = ()
    drained: bool = False
    entries: Mapping[str, tuple[StreamEntry, ...]] = {}
    more: bool = False
    dead_first: str | None = None
    counters: dict[str, int] | None = None
    paused: bool | None = None


class Wanted(msgspec.Struct, frozen=True):
    """What else to read for a tail, right after it: task IDs in `:delayed:body`, schedules in `:fired:queued`, and
    the schedules whose archived rows the fold needs.
    """

    delayed: tuple[str, ...] = ()
    queued: tuple[str, ...] = ()
    fired: tuple[str, ...] = ()


class Bodies(msgspec.Struct, frozen=True):
    """Envelopes that were found for a Wanted: by task ID and by schedule. What is absent has gone on."""

    delayed: Mapping[str, bytes] = {}
    queued: Mapping[str, bytes] = {}


class Carried(msgspec.Struct, frozen=True, gc=False):
    """The row (`task_id`, `letter`) moves to `place` as `entry_id`, with the envelope that it has, and is named
    (`task_id`, `to`) from then on.

    When that one exists already it stays and the first only goes; when the first is absent, nothing. No row is source
    of two of them, or source of one and result of another.
    """

    task_id: str
    letter: str
    place: str
    entry_id: str

    @property
    def to(self) -> str:
        """Its letter then: empty unless it is a dead one."""
        return self.entry_id if self.place == DEAD else ""


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What a tail does to the archive, in this order: `carried`, `gone`, `deletes`, `upserts`, `dead_from`, `fired`.

    `gone`: (rank, sort) of entries that vanished. `deletes`: (task_id, letter). `dead_from`: rows of place `dead` with
    a smaller `sort` go; empty for none. `fired`: whole rows to write. `counters`, `paused`: None for as before.
    """

    events: tuple[EventEntry, ...] = ()
    carried: tuple[Carried, ...] = ()
    gone: tuple[tuple[int, str], ...] = ()
    deletes: tuple[tuple[str, str], ...] = ()
    upserts: tuple[TaskRow, ...] = ()
    dead_from: str = ""
    fired: tuple[FiredRow, ...] = ()
    counters: dict[str, int] | None = None
    paused: bool | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a partition. `missing`: of `partial`, the keys without sentinel (`epoch` among them)."""

    kind: VerdictKind
    reason: str = ""
    missing: tuple[str, ...] = ()

    @property
    def is_loss(self) -> bool:
        """Redis has less than the archive: a rebuild is due."""
        return self.kind in {"empty", "rolled_back", "partial"}


class Cursor(msgspec.Struct, frozen=True, order=True):
    """How far a rebuild has restored: everything up to and with this row, in the order of (rank, sort, task_id)."""

    rank: int
    sort: str
    task_id: str

    def __str__(self) -> str:
        return f"{self.rank}|{self.sort}|{self.task_id}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read what `str` wrote; ValueError when it is something else."""
        rank, sort, task_id = text.split("|", 2)
        return cls(int(rank), sort, task_id)


class Present(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A task that Redis has when a rebuild begins. `birth_ms`: of its first entry (the first row of its history), else
    of this one; of what never was an entry, when it was enqueued; of a dead letter, its `dead_at`. `began_ms`: of a
    dead letter, that of the first entry of its task. `entry_id`: empty when delayed or queued. `token`: its fencing
    token; `base`: what that began with when it was redriven last, else 1; `redriven_ms`: of the entry of the dead
    letter that it was redriven from then, 0 for none.
    """

    task_id: str
    place: str
    entry_id: str = ""
    birth_ms: int = 0
    began_ms: int = 0
    token: int = 1
    base: int = 1
    redriven_ms: int = 0
    unique: str = ""
    schedule: str = ""


EndedWhy = Literal["settled", "purged"]
DropWhy = Literal["settled", "purged", "buried", "superseded"]


class Ended(msgspec.Struct, frozen=True, gc=False):
    """The archive knows that a task ended, at the instant of the event that says so."""

    why: EndedWhy
    at_ms: int


class Decision(msgspec.Struct, frozen=True):
    """About one present task. `drop`: why it is removed from Redis, empty when it is kept.

    `covers`: letters of the archived rows of this task ID (empty: the open one) that this one stands for in Redis, so
    that they are not restored. Every archived row that no kept task covers is. `restore`: there is one instead of this.
    """

    drop: DropWhy | Literal[""] = ""
    covers: tuple[str, ...] = ()
    restore: bool = False


class Restorable(msgspec.Struct, frozen=True, gc=False):
    """An archived task as `restore` takes it. `place`: one of PLACES. `seen`: whether its ID counts as seen again."""

    task_id: str
    place: str
    due: int
    schedule: str
    unique: str
    seen: bool
    envelope: bytes
    old_entry_id: str = ""


class Unrestorable(msgspec.Struct, frozen=True):
    """What a rebuild leaves out, and why."""

    what: str
    reason: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a rebuild did, or would do. Kept as JSON.

    `restored`: tasks by place (with `delayed`, `queued`, `dead`); `dropped`: by DropWhy; `kept`: present ones left as
    they were. `unrestorable`: the first 100 of `unrestorable_count`. `overdue`: occurrences that came due in the gap.
    `rate`: tasks restored a second.
    """

    rebuild_id: str
    verdict: str
    namespace: str
    queue: str
    dry_run: bool = False
    begun_ms: int = 0
    ended_ms: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    restored: dict[str, int] = {}
    kept: int = 0
    dropped: dict[str, int] = {}
    fired_rows: int = 0
    schedules: int = 0
    overdue: int = 0
    unrestorable: tuple[Unrestorable, ...] = ()
    unrestorable_count: int = 0

    @property
    def tasks_restored(self) -> int:
        """All but the dead letters."""
        return sum(number for place, number in self.restored.items() if place != DEAD)


def rebuilt(positions: Positions) -> Positions:
    """Where to read on after a rebuild: everything again. What was folded before is remembered as such."""
    read = [positions[name] for name in (EVENTS, FOLDED) if name in positions]
    return {FOLDED: max(read, key=sort_of_entry)} if read else {}


def sort_of_entry(entry_id: str) -> str:
    """The `sort` of an entry ID `<ms>-<seq>`: text that compares as Redis orders IDs. ValueError for another text."""
    ms, _, seq = entry_id.partition("-")
    if not (entry_id.isascii() and ms.isdigit() and seq.isdigit()):
        raise ValueError(f"{entry_id!r} is no entry ID")
    return f"{ms:0>20}-{seq:0>20}"


def sort_of_due(due: int) -> str:
    """The `sort` of a delayed task."""
    return f"{due:020d}"


def entry_ms(entry_id: str) -> int:
    """When an entry was added; 0 for what is no entry ID."""
    ms = entry_id.partition("-")[0]
    return int(ms) if ms.isascii() and ms.isdigit() else 0

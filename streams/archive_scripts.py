"""Typed callers of the scripts that archive a partition, and bring it back from its archive. No IO here.

Each names the epoch, mark, rebuild or cursor that the caller saw, and does nothing when that has changed: sent twice,
late, or by two daemons it has the effect of one (docs/protocol.md "Archive").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeVar

import msgspec

from reclaimd.streams.keys import STREAMS, Partition
from reclaimd.streams.lua_source import load_script
from reclaimd.streams.scripts import Arg, Call

T = TypeVar("T")

_packed = msgspec.msgpack.Encoder()

TAIL_ENTRIES: Final = 500
TAIL_BYTES: Final = 524_288
"""What one `tail` reads, so that it does not block the server for more than about 5 ms; a big entry more may come."""
RESTORE_ROWS: Final = 200
RESTORE_BYTES: Final = 262_144
"""What one `restore` or `drop` may hold, for the same reason."""
State = Literal["ok", "absent", "lost", "rebuilding"]
NOWHERE: Final = "0-0"
ANYWHERE: Final = "*"
"""Whatever the cursor is."""


class Facts(NamedTuple):
    """What tells a healthy partition from one that lost data.

    `epoch`: there is one. `keys`: there are keys with tasks or rows of schedules. `state`: of the epoch, `absent`
    without one. `missing`: keys (after their tag) without their sentinel. Texts are empty when the epoch has no such
    field.
    """

    epoch: bool
    keys: bool
    state: str
    epoch_id: str
    archive_id: str
    mark: str
    mark_before: str
    rebuild: str
    cursor: str
    missing: tuple[str, ...]


class Adopted(NamedTuple):
    """status: ok, changed (epoch or mark are not as they were seen), foreign (another archive has it), or state."""

    status: str
    epoch_id: str = ""
    state: str = "ok"


def _call(name: str, partition: Partition, now: int | None, args: Iterable[Arg], parse: Any) -> Call[T]:
    script = load_script(name)
    return Call(script, partition.keys(script.key_names), ("" if now is None else now, *args), parse)


def adopt(
    partition: Partition,
    *,
    archive_id: str,
    seen_epoch_id: str,
    new_epoch_id: str,
    mark: str,
    events_cap: int,
    seen_mark: str | None = None,
    now: int | None = None,
) -> Call[Adopted]:
    """Begin to archive this partition: from here on its losses can be told. Again, with the same mark, does no harm.

    `seen_epoch_id`: empty when there was no epoch; `new_epoch_id` begins then. `seen_mark`: None for whatever it is.
    """
    seen = () if seen_mark is None else (seen_mark,)
    args = (archive_id, seen_epoch_id, new_epoch_id, mark, events_cap, *seen)
    return _call("adopt", partition, now, args, lambda r: Adopted(*(part.decode() for part in r)))


class Positions(NamedTuple):
    """Entry IDs up to and with which everything is archived. `streams`: of the seven, in reading order."""

    events: str = NOWHERE
    dead: str = NOWHERE
    streams: tuple[str, ...] = (NOWHERE,) * len(STREAMS)


class RawEvents(NamedTuple):
    """One entry of `:events` as it stands there."""

    entry_id: str
    at: bytes
    e: bytes


class RawEntry(NamedTuple):
    """One entry of another stream. `fields`: flat, field, value, …"""

    entry_id: str
    fields: list[bytes]


class Tail(NamedTuple):
    """What came behind the positions; nothing but `facts` unless `ok`.

    `drained`: these were all events; only then the streams, counters and `paused` were looked at. `more`: there are
    entries left in them. `streams`: by index from 0. `marked`: the next mark is written, so commit what was read.
    `gap`: the event at the position is gone, and others behind it may be: read everything anew. `first_letter`: ID of
    the first dead letter, empty when there is none; those before it are gone.
    """

    ok: bool
    facts: Facts
    events: Sequence[RawEvents] = ()
    drained: bool = False
    dead: Sequence[RawEntry] = ()
    streams: Sequence[Sequence[RawEntry]] = ()
    more: bool = False
    counters: Mapping[str, int] = {}
    paused: bool = False
    marked: bool = False
    gap: bool = False
    first_letter: str = ""


class Expected(NamedTuple):
    """The partition that the archive knows: `mark` is the one it has committed. `next_mark`: written when anything is
    read; empty: never. `fence`: the owner's beat; an owner that slept while another took over has a lower one, and
    must not write a mark that the archive then refuses.
    """

    archive_id: str
    epoch_id: str
    mark: str
    next_mark: str = ""
    fence: int = 0


def tail(
    partition: Partition,
    expected: Expected,
    positions: Positions,
    *,
    entries: int = TAIL_ENTRIES,
    size: int = TAIL_BYTES,
    now: int | None = None,
) -> Call[Tail]:
    """Read on behind `positions`, if the partition is the expected one.

    `entries`, `size`: about where to stop, the latter in bytes; at least one entry is read.
    """
    known, places = expected[:4], (positions.events, positions.dead, *positions.streams)
    args: list[Arg] = [*known, entries, size, *places, expected.fence]
    return _call("tail", partition, now, args, _parse_tail)


def _parse_tail(reply: list[Any]) -> Tail:
    facts = _facts(reply[1])
    if reply[0] != b"ok":
        return Tail(False, facts)
    _, _, events, drained, dead, streams, more, counters, paused, marked, gap, first_letter = reply
    return Tail(
        True,
        facts,
        [_raw_events(entry) for entry in events],
        bool(drained),
        _entries(dead),
        [_entries(stream) for stream in streams],
        bool(more),
        {name.decode(): int(value) for name, value in zip(counters[::2], counters[1::2], strict=True)},
        bool(paused),
        bool(marked),
        bool(gap),
        first_letter.decode(),
    )


def _facts(reply: list[Any]) -> Facts:
    epoch, keys, *texts, missing = reply
    return Facts._make((bool(epoch), bool(keys), *(t.decode() for t in texts), tuple(m.decode() for m in missing)))


def _raw_events(entry: list[Any]) -> RawEvents:
    fields = dict(zip(entry[1][::2], entry[1][1::2], strict=True))
    return RawEvents(entry[0].decode(), fields.get(b"at", b""), fields.get(b"e", b""))


def _entries(reply: list[list[Any]]) -> list[RawEntry]:
    return [RawEntry(entry_id.decode(), fields) for entry_id, fields in reply]


class Frozen(NamedTuple):
    """status: ok (`cursor`: how far this rebuild has come, empty at its begin; `nonce`: another one each time that it
    begins), changed, or foreign.
    """

    status: str
    cursor: str = ""
    nonce: str = ""


def freeze(
    partition: Partition,
    *,
    archive_id: str,
    seen_epoch_id: str,
    seen_mark: str,
    new_epoch_id: str,
    rebuild_id: str,
    state: Literal["lost", "rebuilding"],
    now: int | None = None,
) -> Call[Frozen]:
    """Let nothing run, move or fire here until the rebuild `rebuild_id` is finished.

    `seen_epoch_id`, `seen_mark`: as they were read (empty: absent). Again with the same `rebuild_id` goes on with it;
    `lost` becomes `rebuilding`, never the other way.
    """
    args = (archive_id, seen_epoch_id, seen_mark, new_epoch_id, rebuild_id, state)
    return _call("freeze", partition, now, args, lambda r: Frozen(*(part.decode() for part in r)))


class RestoreTask(NamedTuple):
    """A task to bring back. `place`: a stream (after its tag), `delayed`, `dead` or `queued`.

    `fields`: its envelope, flat (of a dead letter with all that was added to it). `due`: wall ms, of a delayed one.
    `schedule`: of a queued one, else unused. `unique`: the key that it shall hold unless somebody does. `seen`: its ID
    counts as enqueued lately. `old_entry_id`: where the archive saw it, for the event.
    """

    task_id: str
    place: str
    fields: Sequence[str | bytes]
    due: int = 0
    schedule: str = ""
    unique: str = ""
    seen: bool = False
    old_entry_id: str = ""


class Restored(NamedTuple):
    """status: ok (`restored`; `skipped`: accepted again meanwhile, or there), or moved: nothing was done, because the
    rebuild stands at `cursor`, or is not the one that runs (`state`).
    """

    status: str
    cursor: str
    restored: int = 0
    skipped: int = 0
    state: str = "rebuilding"


def _restore(
    partition: Partition, rebuild_id: str, step: tuple[str, str], kind: str, rows: Iterable[Arg], now: int | None
) -> Call[Restored]:
    return _call("restore", partition, now, (rebuild_id, *step, kind, *rows), _parse_restored)


def _parse_restored(reply: list[Any]) -> Restored:
    status, cursor, restored, skipped, state = reply
    return Restored(status.decode(), cursor.decode(), restored, skipped, state.decode())


def restore_tasks(
    partition: Partition,
    rebuild_id: str,
    step: tuple[str, str],
    tasks: Sequence[RestoreTask],
    *,
    now: int | None = None,
) -> Call[Restored]:
    """Bring tasks back, in this order. `step`: the cursor where the rebuild stands, and where it stands then.

    At most RESTORE_ROWS, about RESTORE_BYTES.
    """
    rows = [_packed.encode([_packable(task) for task in tasks])] if tasks else []
    return _restore(partition, rebuild_id, step, "tasks", rows, now)


def _packable(task: RestoreTask) -> tuple[Any, ...]:
    """Bytes as text of MessagePack, whatever they are: the server's decoder knows no other."""
    if bytes not in map(type, task.fields):
        return task
    fields = [field if isinstance(field, str) else _raw_text(field) for field in task.fields]
    return (task.task_id, task.place, fields, *task[3:])


def _raw_text(data: bytes) -> msgspec.Raw:
    return msgspec.Raw(b"\xdb" + len(data).to_bytes(4, "big") + data)


def restore_fired(
    partition: Partition,
    rebuild_id: str,
    step: tuple[str, str],
    rows: Sequence[tuple[str, str]],
    *,
    now: int | None = None,
) -> Call[Restored]:
    """Bring rows of `:fired` back: (schedule, `generation|last|count|open`). A newer one in Redis stays."""
    return _restore(partition, rebuild_id, step, "fired", [part for row in rows for part in row], now)


def restore_seen(
    partition: Partition, rebuild_id: str, step: tuple[str, str], task_ids: Sequence[str], *, now: int | None = None
) -> Call[Restored]:
    """These IDs count as enqueued lately."""
    return _restore(partition, rebuild_id, step, "seen", task_ids, now)


def restore_unique(
    partition: Partition,
    rebuild_id: str,
    step: tuple[str, str],
    pairs: Sequence[tuple[str, str]],
    *,
    free: bool = False,
    now: int | None = None,
) -> Call[Restored]:
    """Tasks that are there hold their unique keys, unless somebody does: (key, task_id); or, nowhere, `free` them."""
    flat, kind = [part for pair in pairs for part in pair], "free" if free else "unique"
    return _restore(partition, rebuild_id, step, kind, flat, now)


def restore_facts(
    partition: Partition,
    rebuild_id: str,
    step: tuple[str, str],
    *,
    paused: bool,
    counters: Mapping[str, int],
    mode: Literal["add", "max"],
    now: int | None = None,
) -> Call[Restored]:
    """Counters, and whether the queue is paused: a queue that was stays so. `add`: to totals that began anew with the
    loss; `max`: of both, for totals that are only older.
    """
    flat: list[Arg] = [mode, int(paused)]
    for name, value in counters.items():
        flat += (name, value)
    return _restore(partition, rebuild_id, step, "facts", flat, now)


class DropRow(NamedTuple):
    """An entry that must not run any more. `place`: a stream (after its tag), `delayed`, `dead` or `queued`.

    `entry_id`: in a stream. `schedule`, `unique`: as its envelope has them, or empty. `why`: settled, purged, buried,
    or superseded (a newer state of the task is restored, so it has not ended).
    """

    place: str
    entry_id: str
    task_id: str
    schedule: str
    unique: str
    why: Literal["settled", "purged", "buried", "superseded"]


class Dropped(NamedTuple):
    """status: ok (`dropped`: how many were there), or moved: nothing was done, because the rebuild stands at `cursor`,
    or is not the one that runs (`state`).
    """

    status: str
    dropped: int = 0
    state: str = "rebuilding"
    cursor: str = ""


def drop(
    partition: Partition, rebuild_id: str, rows: Sequence[DropRow], *, cursor: str = ANYWHERE, now: int | None = None
) -> Call[Dropped]:
    """Remove entries; again it does nothing. At most RESTORE_ROWS; those with place `queued` belong before all others.

    What has ended also closes its schedule: what waits for it goes to its lane.
    """
    args = (rebuild_id, cursor, *(part for row in rows for part in row))
    return _call("drop", partition, now, args, lambda r: Dropped(r[0].decode(), r[1], r[2].decode(), r[3].decode()))


class Finished(NamedTuple):
    """status: ok (also when it was finished before), or moved: it stands at `cursor`, or is not the one that runs."""

    status: str
    cursor: str = ""
    state: str = "ok"


def finish(
    partition: Partition, rebuild_id: str, *, cursor: str, mark: str, events_cap: int, now: int | None = None
) -> Call[Finished]:
    """Open the partition again, with sentinels and `mark`. Right after `freeze` it takes Redis as it is."""
    args = (rebuild_id, cursor, mark, events_cap)
    return _call("finish", partition, now, args, lambda r: Finished(*(part.decode() for part in r)))

"""From what Redis holds to rows of the archive. Pure."""

from __future__ import annotations

from reclaimd.daemon.rebuild import envelopes
from reclaimd.daemon.rebuild.values import (
    DEAD,
    DELAYED,
    QUEUED,
    RANKS,
    StreamEntry,
    TaskRow,
    entry_ms,
    sort_of_due,
    sort_of_entry,
)

FOREIGN = "foreign:"


def stream_row(place: str, entry: StreamEntry) -> TaskRow:
    """Of an entry in one of the seven task streams. What is no task has the name that its letter will have."""
    is_task = envelopes.is_whole(entry.fields)
    bare = TaskRow(
        task_id="" if is_task else f"{FOREIGN}{place}:{entry.entry_id}",
        place=place,
        rank=RANKS[place],
        sort=sort_of_entry(entry.entry_id),
        envelope=envelopes.pack(entry.fields),
        entry_id=entry.entry_id,
    )
    return _told(bare, entry.fields) if is_task else bare


def letter_row(entry: StreamEntry) -> TaskRow:
    """Of a dead letter."""
    bare = TaskRow(
        task_id="",
        place=DEAD,
        rank=RANKS[DEAD],
        sort=sort_of_entry(entry.entry_id),
        envelope=envelopes.pack(entry.fields),
        letter=entry.entry_id,
        entry_id=entry.entry_id,
    )
    return _told(bare, entry.fields)


def delayed_row(task_id: str, due: int, envelope: bytes) -> TaskRow:
    """Of a delayed task, with what `:delayed:body` has of it."""
    return _stored(DELAYED, task_id, envelope, sort_of_due(due), due)


def queued_row(task_id: str, schedule: str, envelope: bytes) -> TaskRow:
    """Of a task in `:fired:queued`."""
    return _stored(QUEUED, task_id, envelope, "", 0, schedule)


def stored_task(envelope: bytes) -> str:
    """The task ID in an envelope that a hash keeps; empty when that is none."""
    try:
        fields = envelopes.unpack(envelope)
    except ValueError:
        return ""
    return fields[1].decode() if envelopes.is_whole(fields) else ""


def birth_ms(row: TaskRow) -> int:
    """Of its first entry, else of this one, else when it was enqueued; of a dead letter, its `dead_at`."""
    try:
        e = envelopes.mapping(envelopes.unpack(row.envelope))
    except ValueError:
        return row.at
    if row.place == DEAD:
        return envelopes.count(e.get(b"dead_at")) or entry_ms(row.entry_id)
    first = envelopes.first_entry(e.get(b"history", b"")) or row.entry_id
    return envelopes.count(first.partition("-")[0].encode()) or row.at


def _stored(place: str, task_id: str, envelope: bytes, sort: str, due: int, schedule: str = "") -> TaskRow:
    """Under the name that its key gives it, whatever its envelope says."""
    bare = TaskRow(
        task_id=task_id, place=place, rank=RANKS[place], sort=sort, envelope=envelope, due=due, schedule=schedule
    )
    try:
        fields = envelopes.unpack(envelope)
    except ValueError:
        return bare
    return _told(bare, fields) if envelopes.is_whole(fields) else bare


def _told(bare: TaskRow, fields: list[bytes]) -> TaskRow:
    """With what the envelope tells."""
    e = envelopes.mapping(fields)
    return TaskRow(
        task_id=bare.task_id or _text(e.get(b"task")),
        place=bare.place,
        rank=bare.rank,
        sort=bare.sort,
        envelope=bare.envelope,
        letter=bare.letter,
        entry_id=bare.entry_id,
        lane=_text(e.get(b"lane")),
        due=bare.due,
        schedule=bare.schedule or _text(e.get(b"schedule")),
        unique=_text(e.get(b"unique")),
        token=envelopes.token(e),
        at=envelopes.count(e.get(b"at")),
    )


def _text(value: bytes | None) -> str:
    """For a column: databases refuse a zero byte. The envelope has the value as it is."""
    return value.decode(errors="replace").replace("\0", "\ufffd") if value else ""

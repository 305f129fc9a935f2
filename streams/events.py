"""What happened in a partition: the events of docs/protocol.md, as immutable values.

Lua's cjson writes them: an integer may arrive as `3.0` or `1e+15`, an empty array as `{}` or not at all. Fields and row
columns that a newer program added are ignored; a type or a version that is not known here is kept as `Unreadable`.
"""

from typing import Any, TypeAlias

import msgspec

from reclaimd.streams.event_rows import (
    DiedRow,
    DroppedRow,
    EnqueuedRow,
    MovedRow,
    OccurrenceClosedRow,
    OccurrenceFiredRow,
    OccurrenceQueuedRow,
    OccurrenceRetiredRow,
    OccurrenceSkippedRow,
    PromotedRow,
    PurgedRow,
    RedrivenRow,
    RestoredRow,
    RetriedRow,
    SettledRow,
    StartedRow,
    StreamEntry,
    TaskRef,
)

__all__ = [
    "Batch",
    "Died",
    "DiedRow",
    "Dropped",
    "DroppedRow",
    "Enqueued",
    "EnqueuedRow",
    "Event",
    "Evidence",
    "Ghost",
    "Moved",
    "MovedRow",
    "OccurrenceClosed",
    "OccurrenceClosedRow",
    "OccurrenceFired",
    "OccurrenceFiredRow",
    "OccurrenceQueued",
    "OccurrenceQueuedRow",
    "OccurrenceRetired",
    "OccurrenceRetiredRow",
    "OccurrenceSkipped",
    "OccurrenceSkippedRow",
    "Promoted",
    "PromotedRow",
    "Purged",
    "PurgedRow",
    "QueuePaused",
    "QueueResumed",
    "Redriven",
    "RedrivenRow",
    "Restored",
    "RestoredRow",
    "Retried",
    "RetriedRow",
    "Settled",
    "SettledRow",
    "SettlementsRefused",
    "Started",
    "StartedRow",
    "StreamEntry",
    "TaskRef",
    "Unreadable",
    "WorkerFenced",
    "WorkerGone",
    "WorkerJoined",
    "decode_batch",
]

Evidence: TypeAlias = dict[str, Any]


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag=True, tag_field="type"):
    v: int = 1


class Enqueued(_Event, frozen=True):
    """Tasks were accepted."""

    tasks: tuple[EnqueuedRow, ...] = ()


class Started(_Event, frozen=True):
    """Tasks were delivered to a worker."""

    worker: str
    token: str
    tasks: tuple[StartedRow, ...] = ()


class Settled(_Event, frozen=True):
    """Tasks succeeded."""

    worker: str
    token: str
    tasks: tuple[SettledRow, ...] = ()


class Retried(_Event, frozen=True):
    """Tasks failed and run again later, or were parked."""

    worker: str
    token: str
    tasks: tuple[RetriedRow, ...] = ()


class Died(_Event, frozen=True):
    """Tasks became dead letters."""

    worker: str
    tasks: tuple[DiedRow, ...] = ()


class Moved(_Event, frozen=True):
    """Tasks came back from a worker, `late_ms` of lease time after its lease ended (0: it had not)."""

    cause: str
    worker: str
    late_ms: int
    tasks: tuple[MovedRow, ...] = ()


class Ghost(_Event, frozen=True):
    """Entries that were deleted while pending were acknowledged."""

    worker: str
    entries: tuple[StreamEntry, ...] = ()


class Promoted(_Event, frozen=True):
    """Delayed tasks entered their lanes."""

    tasks: tuple[PromotedRow, ...] = ()


class Redriven(_Event, frozen=True):
    """Dead letters went back to their lanes."""

    tasks: tuple[RedrivenRow, ...] = ()


class Purged(_Event, frozen=True):
    """Dead letters were deleted."""

    tasks: tuple[PurgedRow, ...] = ()


class OccurrenceFired(_Event, frozen=True):
    """Schedules made tasks."""

    tasks: tuple[OccurrenceFiredRow, ...] = ()


class OccurrenceQueued(_Event, frozen=True):
    """Schedules made tasks that wait for their predecessors."""

    tasks: tuple[OccurrenceQueuedRow, ...] = ()


class OccurrenceSkipped(_Event, frozen=True):
    """Instants of schedules make no task."""

    occurrences: tuple[OccurrenceSkippedRow, ...] = ()


class OccurrenceRetired(_Event, frozen=True):
    """Schedules were removed, or live elsewhere now."""

    schedules: tuple[OccurrenceRetiredRow, ...] = ()


class OccurrenceClosed(_Event, frozen=True):
    """Open tasks of schedules ended, and nothing waited for that."""

    schedules: tuple[OccurrenceClosedRow, ...] = ()


class Restored(_Event, frozen=True):
    """Tasks came back from the archive."""

    tasks: tuple[RestoredRow, ...] = ()


class Dropped(_Event, frozen=True):
    """A rebuild removed tasks of which the archive knows better."""

    tasks: tuple[DroppedRow, ...] = ()


class WorkerJoined(_Event, frozen=True):
    """A new incarnation began. `took_over`: the token that it replaced, or empty."""

    worker: str
    token: str
    lease_ms: int
    evidence: Evidence = {}
    took_over: str = ""


class WorkerFenced(_Event, frozen=True):
    """An incarnation lost its rights, `late_ms` of lease time after its lease ended (0: it had not)."""

    worker: str
    token: str
    cause: str
    late_ms: int


class WorkerGone(_Event, frozen=True):
    """An incarnation has ended and nothing is pending to it any more."""

    worker: str
    token: str
    cause: str


class SettlementsRefused(_Event, frozen=True):
    """A fenced incarnation tried to settle."""

    worker: str
    token: str
    entries: tuple[TaskRef, ...] = ()


class QueuePaused(_Event, frozen=True):
    """Workers take nothing from the queue any more."""


class QueueResumed(_Event, frozen=True):
    """Workers take tasks from the queue again."""


Event: TypeAlias = (
    Enqueued
    | Started
    | Settled
    | Retried
    | Died
    | Moved
    | Ghost
    | Promoted
    | Redriven
    | Purged
    | OccurrenceFired
    | OccurrenceQueued
    | OccurrenceSkipped
    | OccurrenceRetired
    | OccurrenceClosed
    | Restored
    | Dropped
    | WorkerJoined
    | WorkerFenced
    | WorkerGone
    | SettlementsRefused
    | QueuePaused
    | QueueResumed
)


class Unreadable(msgspec.Struct, frozen=True):
    """A batch or an event that this program cannot read: its bytes as they were, and why."""

    raw: bytes
    reason: str


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `:events`. `at`: wall milliseconds, 0 when even that was unreadable."""

    entry_id: str
    at: int
    events: tuple[Event | Unreadable, ...]


class _Header(msgspec.Struct, frozen=True):
    type: str = ""
    v: int = 1


_VERSION = 1
_EMPTIED = ("tasks", "entries", "occurrences", "schedules")
_raws = msgspec.json.Decoder(list[msgspec.Raw])
_events: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event, strict=False)
_header = msgspec.json.Decoder(_Header, strict=False)
_TYPES = frozenset(kind.__name__ for kind in Event.__args__)
# UnicodeDecodeError is no MsgspecError; RecursionError comes from JSON that is nested too deeply.
_BROKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def decode_batch(at: bytes | str, e: bytes, entry_id: str) -> Batch:
    """Read one entry of `:events`: never an error, what cannot be read becomes `Unreadable`."""
    try:
        at_ms = int(at)
    except ValueError:
        return Batch(entry_id=entry_id, at=0, events=(Unreadable(e, f"field at is {at!r}, not a number"),))
    try:
        raws = _raws.decode(e)
    except _BROKEN as error:
        if e == b"{}":
            return Batch(entry_id=entry_id, at=at_ms, events=())
        return Batch(entry_id=entry_id, at=at_ms, events=(Unreadable(e, f"not a JSON array: {error}"),))
    return Batch(entry_id=entry_id, at=at_ms, events=tuple(_decode_event(raw) for raw in raws))


def _decode_event(raw: msgspec.Raw) -> Event | Unreadable:
    try:
        event = _events.decode(raw)
    except _BROKEN:
        return _decode_slowly(bytes(raw))
    return event if event.v <= _VERSION else _newer(bytes(raw), type(event).__name__, event.v)


def _decode_slowly(raw: bytes) -> Event | Unreadable:
    """Read an event that the fast decoder refused, after undoing what cjson does to values."""
    try:
        header = _header.decode(raw)
        if header.type not in _TYPES:
            return Unreadable(raw, f"unknown type {header.type!r}")
        if header.v > _VERSION:
            return _newer(raw, header.type, header.v)
        fields = _undo_cjson(msgspec.json.decode(raw))
        event: Event = msgspec.convert(fields, Event, strict=False)
    except _BROKEN as error:
        return Unreadable(raw, str(error))
    return event


def _newer(raw: bytes, kind: str, version: int) -> Unreadable:
    return Unreadable(raw, f"{kind} has version {version}, this program knows {_VERSION}")


def _undo_cjson(fields: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in fields.items() if value is not None}
    for name in _EMPTIED:
        rows = kept.get(name)
        if rows == {}:
            del kept[name]
        elif isinstance(rows, list):
            kept[name] = [[_integral(cell) for cell in row] if isinstance(row, list) else row for row in rows]
    return kept


def _integral(cell: Any) -> Any:
    return int(cell) if isinstance(cell, float) and cell.is_integer() else cell

"""What happened to one task, as the events of a batch tell it. Pure."""

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from reclaimd.streams import events as ev

What = Literal[
    "enqueued",
    "delayed",
    "started",
    "succeeded",
    "retried",
    "parked",
    "moved",
    "ghost",
    "died",
    "promoted",
    "redriven",
    "purged",
    "fired",
    "queued",
    "restored",
    "dropped",
    "refused",
    "unreadable",
    "remembered",
]


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened to a task at `at_ms` (wall). Only the fields that make sense for `what` are there.

    `remembered`: not from an event but from the history that the task carries; `detail` says what it was.
    """

    at_ms: int
    queue: str
    what: What
    event_id: str = ""
    worker: str = ""
    token: str = ""
    stream: str = ""
    entry_id: str = ""
    old_entry_id: str = ""
    lane: str = ""
    name: str = ""
    cause: str = ""
    error: str = ""
    deliveries: int | None = None
    handbacks: int | None = None
    run_ms: int | None = None
    wait_ms: int | None = None
    late_ms: int | None = None
    due_ms: int | None = None
    schedule: str = ""
    nominal_ms: int | None = None
    detail: str = ""


def steps_of(batch: ev.Batch, queue: str, task_id: str, entry_ids: set[str]) -> Iterator[Step]:
    """The steps of one task in a batch, in order. `entry_ids`: those known to have carried it; grows."""
    for event in batch.events:
        for what, fields in _fields(event, task_id, entry_ids):
            entry_id = fields.get("entry_id")
            if entry_id and what not in ("died", "purged", "dropped"):
                entry_ids.add(entry_id)
            yield Step(at_ms=batch.at, queue=queue, event_id=batch.entry_id, what=what, **fields)


def _fields(
    event: ev.Event | ev.Unreadable, task_id: str, entry_ids: set[str]
) -> Iterator[tuple[What, dict[str, Any]]]:
    if isinstance(event, ev.Unreadable):
        if task_id.encode() in event.raw:
            yield "unreadable", {"detail": event.reason}
    elif isinstance(event, ev.Ghost):
        for entry in event.entries:
            if entry.entry_id in entry_ids:
                yield "ghost", {"worker": event.worker, "stream": entry.stream, "entry_id": entry.entry_id}
    elif isinstance(event, ev.SettlementsRefused):
        if any(ref.task_id == task_id for ref in event.entries):
            yield "refused", {"worker": event.worker, "token": event.token}
    else:
        for row in getattr(event, "tasks", ()):
            if row.task_id == task_id:
                yield _what(row), _details(event, row)


def _what(row: Any) -> What:
    if isinstance(row, ev.EnqueuedRow):
        return "delayed" if row.due else "enqueued"
    if isinstance(row, ev.RetriedRow):
        return "parked" if row.parked else "retried"
    return _WHAT[type(row)]


_WHAT: dict[type, What] = {
    ev.StartedRow: "started",
    ev.SettledRow: "succeeded",
    ev.DiedRow: "died",
    ev.MovedRow: "moved",
    ev.PromotedRow: "promoted",
    ev.RedrivenRow: "redriven",
    ev.PurgedRow: "purged",
    ev.RestoredRow: "restored",
    ev.DroppedRow: "dropped",
    ev.OccurrenceFiredRow: "fired",
    ev.OccurrenceQueuedRow: "queued",
}
# Columns that a Step calls otherwise, or tells by its `what`.
_RENAMED = {
    "due": "due_ms",
    "nominal": "nominal_ms",
    "place": "stream",
    "why": "cause",
    "task_id": "",
    "parked": "",
    "generation": "",
    "queued": "",
}
_OF_EVENT = ("worker", "token", "cause", "late_ms")


def _details(event: Any, row: Any) -> dict[str, Any]:
    """The event's own fields and the row's, under the names of Step; what is empty is left out."""
    details = {name: getattr(event, name) for name in _OF_EVENT if hasattr(event, name)}
    for column in row.__struct_fields__:
        name = _RENAMED.get(column, column)
        value = getattr(row, column)
        absent = value == "" or (name == "due_ms" and value == 0) or (name == "run_ms" and value < 0)
        if name and not absent:
            details[name] = value
    if isinstance(row, ev.DiedRow | ev.PurgedRow):
        details["stream"] = "dead"
    if isinstance(row, ev.OccurrenceFiredRow):
        details["detail"] = "queued" if row.queued else "asked for" if row.generation == "run" else ""
    return details

"""Events as log lines: which ones an operator wants to read, and in which words. Pure."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from reclaimd.streams.events import (
    Batch,
    Died,
    Event,
    Ghost,
    Moved,
    QueuePaused,
    QueueResumed,
    SettlementsRefused,
    Unreadable,
    WorkerFenced,
    WorkerGone,
    WorkerJoined,
)

WITHOUT_VERDICT = frozenset({"lease_expired", "takeover", "released", "unknown"})


class Line(NamedTuple):
    """One log line; `fields` go beside the queue."""

    level: Literal["debug", "info", "warning"]
    text: str
    fields: dict[str, Any]


def narrate(batch: Batch) -> Iterator[Line]:
    """A line for each recovered, returned or dead task and each change of a worker; none for the daily traffic."""
    for event in batch.events:
        yield from _of_tasks(event) if isinstance(event, Moved | Died) else _of_others(event)


def _of_tasks(event: Moved | Died) -> Iterator[Line]:
    if isinstance(event, Died):
        for dead in event.tasks:
            why = {"cause": dead.cause, "error": dead.error, "dead_letter": dead.entry_id}
            yield Line("warning", "task dead", {"task": dead.task_id, "worker": event.worker, **why})
        return
    recovered = event.cause in WITHOUT_VERDICT
    for task in event.tasks:
        fields: dict[str, Any]
        fields = {"task": task.task_id, "worker": event.worker, "attempt": task.deliveries, "cause": event.cause}
        places = {"stream": task.stream, "entry": task.entry_id, "entry_before": task.old_entry_id}
        if recovered:
            yield Line("info", "task recovered", {**fields, **places, "late_ms": event.late_ms})
        else:
            yield Line("info", "task handed back", {**fields, **places, "handbacks": task.handbacks})


def _of_others(event: Event | Unreadable) -> Iterator[Line]:
    match event:
        case WorkerJoined():
            fields = {"worker": event.worker, "token": event.token, "lease_ms": event.lease_ms}
            yield Line("info", "worker joined", {**fields, "took_over": event.took_over, "evidence": event.evidence})
        case WorkerFenced():
            level: Literal["info", "warning"] = "info" if event.cause == "left" else "warning"
            yield Line(level, "worker fenced", _worker(event) | {"late_ms": event.late_ms})
        case WorkerGone():
            yield Line("info", "worker gone", _worker(event))
        case Ghost():
            for entry in event.entries:
                fields = {"worker": event.worker, "stream": entry.stream, "entry": entry.entry_id}
                yield Line("warning", "pending entry was deleted by somebody", fields)
        case SettlementsRefused():
            tasks = [row.task_id for row in event.entries]
            yield Line("warning", "settlements refused", {"worker": event.worker, "token": event.token, "tasks": tasks})
        case QueuePaused():
            yield Line("info", "queue paused", {})
        case QueueResumed():
            yield Line("info", "queue resumed", {})
        case Unreadable():
            shown = event.raw[:200].decode(errors="replace")
            yield Line("warning", "event unreadable", {"reason": event.reason, "raw": shown})
        case _:
            return


def _worker(event: WorkerFenced | WorkerGone) -> dict[str, Any]:
    return {"worker": event.worker, "token": event.token, "cause": event.cause}

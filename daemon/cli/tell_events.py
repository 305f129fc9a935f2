"""Each type of event in words, one line."""

from collections.abc import Iterable
from typing import Any

from reclaimd.daemon.cli.words import instant, plural, span
from reclaimd.streams import events as ev

SHOWN = 5
"""Tasks that a line names."""


def tell(event: ev.Event | ev.Unreadable) -> str:
    """What happened, to whom and why."""
    if isinstance(event, ev.Unreadable):
        return f"cannot be read ({event.reason})"
    told = _of_tasks(event) or _of_rebuilds(event) or _of_schedules(event) or _of_workers(event)
    return told or ", ".join(f"{name} {getattr(event, name)}" for name in event.__struct_fields__ if name != "v")


def _of_tasks(event: ev.Event) -> str:
    match event:
        case ev.Enqueued():
            return f"{_count(event.tasks)} accepted: {_some(_enqueued(row) for row in event.tasks)}"
        case ev.Started():
            rows = (f"{row.task_id} after {span(row.wait_ms)}" for row in event.tasks)
            return f"{event.worker} (incarnation {event.token}) began {_some(rows)}"
        case ev.Settled():
            rows = (f"{row.task_id} in {span(row.run_ms)}" for row in event.tasks)
            return f"{event.worker} (incarnation {event.token}) finished {_some(rows)}"
        case ev.Retried():
            return f"{event.worker} (incarnation {event.token}) {_some(_retried(row) for row in event.tasks)}"
        case ev.Died():
            rows = (f"{row.task_id} as {row.entry_id}, {_why(row.cause, row.error)}" for row in event.tasks)
            return f"{_by(event.worker)}{_count(event.tasks)} became dead letters: {_some(rows)}"
        case ev.Moved():
            late = f", {span(event.late_ms)} after the lease ended" if event.late_ms else ""
            rows = (f"{row.task_id} to {row.stream}" for row in event.tasks)
            return f"taken back from {event.worker} ({event.cause}{late}): {_some(rows)}"
        case ev.Ghost():
            rows = (f"{row.entry_id} of {row.stream}" for row in event.entries)
            return f"deleted by somebody while pending to {event.worker}: {_some(rows)}"
        case _:
            return _of_letters(event)


def _of_letters(event: ev.Event) -> str:
    match event:
        case ev.Promoted():
            rows = (f"{row.task_id} to lane {row.lane}, {span(row.late_ms)} late" for row in event.tasks)
            return f"due: {_some(rows)}"
        case ev.Redriven():
            return f"dead letters sent back: {_some(f'{row.task_id} to lane {row.lane}' for row in event.tasks)}"
        case ev.Purged():
            return f"dead letters deleted: {_some(row.task_id for row in event.tasks)}"
        case ev.SettlementsRefused():
            told = _some(row.task_id for row in event.entries)
            return f"{event.worker} (incarnation {event.token}) was fenced and may not settle {told}"
        case _:
            return ""


def _of_rebuilds(event: ev.Event) -> str:
    match event:
        case ev.Restored():
            rows = (f"{row.task_id} to {row.place}" for row in event.tasks)
            return f"{_count(event.tasks)} restored from the archive, because Redis had lost them: {_some(rows)}"
        case ev.Dropped():
            rows = (f"{row.task_id} from {row.place} ({row.why})" for row in event.tasks)
            return f"{_count(event.tasks)} that Redis showed again removed by a rebuild: {_some(rows)}"
        case _:
            return ""


def _of_schedules(event: ev.Event) -> str:
    match event:
        case ev.OccurrenceFired():
            rows = (f"{row.task_id} of {row.schedule}, {span(row.late_ms)} late" for row in event.tasks)
            return f"{_count(event.tasks)} made: {_some(rows)}"
        case ev.OccurrenceQueued():
            rows = (f"{row.task_id} of {row.schedule}" for row in event.tasks)
            return f"made, queued until their predecessors end: {_some(rows)}"
        case ev.OccurrenceSkipped():
            rows = (f"{row.schedule} up to {instant(row.upto)} ({row.reason})" for row in event.occurrences)
            return f"skipped: {_some(rows)}"
        case ev.OccurrenceRetired():
            rows = (f"{row.schedule} (generation {row.generation})" for row in event.schedules)
            return f"removed, or fired elsewhere from now on: {_some(rows)}"
        case ev.OccurrenceClosed():
            rows = (f"{row.task_id} of {row.schedule}" for row in event.schedules)
            return f"the open task of a schedule has ended: {_some(rows)}"
        case _:
            return ""


def _of_workers(event: ev.Event) -> str:
    match event:
        case ev.WorkerJoined():
            took = f", took over from {event.took_over}" if event.took_over else ""
            return f"{event.worker} (incarnation {event.token}) with a lease of {span(event.lease_ms)}{took}"
        case ev.WorkerFenced():
            late = f", {span(event.late_ms)} after its lease ended" if event.late_ms else ""
            return f"{event.worker} (incarnation {event.token}): {event.cause}{late}"
        case ev.WorkerGone():
            return f"{event.worker} (incarnation {event.token}): {event.cause}, nothing is pending to it any more"
        case ev.QueuePaused():
            return "workers take nothing any more"
        case ev.QueueResumed():
            return "workers take tasks again"
        case _:
            return ""


def _enqueued(row: ev.EnqueuedRow) -> str:
    return f"{row.task_id} (due {instant(row.due)})" if row.due else f"{row.task_id} ({row.lane})"


def _retried(row: ev.RetriedRow) -> str:
    did = "did not run" if row.parked else f"failed after {span(row.run_ms)}"
    return f"{did} {row.task_id} ({_why(row.cause, row.error)}), next {instant(row.due)}"


def _why(cause: str, error: str) -> str:
    return f"{cause}: {error}" if error else cause


def _by(worker: str) -> str:
    return f"{worker}: " if worker else ""


def _count(rows: tuple[Any, ...]) -> str:
    return plural(len(rows), "task")


def _some(rows: Iterable[str]) -> str:
    """The first few, and how many more."""
    listed = list(rows)
    more = len(listed) - SHOWN
    return "; ".join(listed[:SHOWN]) + (f"; and {more} more" if more > 0 else "")

"""What a tail does to the archive: events in their order, then the entries, which are as they were at the same instant.

A task that a tail does not show whole (its entry was not read yet, or it had gone on when its envelope was asked for)
keeps the row that it has: restored from that, it would run once more, but it would not be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from reclaimd.daemon.rebuild.ledger import Ledger
from reclaimd.daemon.rebuild.occurrences import RUN, FiredFold
from reclaimd.daemon.rebuild.rows import FOREIGN, delayed_row, letter_row, queued_row, stored_task, stream_row
from reclaimd.daemon.rebuild.values import (
    DEAD,
    DELAYED,
    EVENTS,
    QUEUED,
    RANKS,
    Bodies,
    Changes,
    FiredRow,
    Positions,
    Tail,
    Wanted,
    sort_of_entry,
)
from reclaimd.streams import events as ev
from reclaimd.streams.keys import STREAMS

_AFTER_ALL = "~"
"""Sorts behind every `sort`."""
_UNREADABLE_DELAYED = f"{FOREIGN}{DELAYED}:"
_UNREADABLE_QUEUED = f"{FOREIGN}{QUEUED}:"


def batches(tail: Tail) -> tuple[ev.Batch, ...]:
    """The events of a tail, read."""
    return tuple(ev.decode_batch(str(entry.at), entry.e, entry.entry_id) for entry in tail.events)


def wanted(read: Iterable[ev.Batch]) -> Wanted:
    """What to fetch for these events before `changes`: each thing once, right after the tail."""
    delayed: dict[str, None] = {}
    queued: dict[str, None] = {}
    fired: dict[str, None] = {}
    for batch in read:
        for event in batch.events:
            delayed.update((name, None) for name in _wanted_delayed(event))
            queued.update((name, None) for name in _wanted_queued(event))
            fired.update((name, None) for name in _wanted_fired(event))
    return Wanted(tuple(delayed), tuple(queued), tuple({**fired, **queued}))


def _wanted_delayed(event: ev.Event | ev.Unreadable) -> Iterable[str]:
    match event:
        case ev.Enqueued(tasks=accepted):
            return (row.task_id for row in accepted if row.due > 0)
        case ev.Retried(tasks=retried):
            return (row.task_id for row in retried)
        case ev.Restored(tasks=restored):
            return (row.task_id for row in restored if row.place == DELAYED)
    return ()


def _wanted_queued(event: ev.Event | ev.Unreadable) -> Iterable[str]:
    match event:
        case ev.OccurrenceQueued(tasks=waiting):
            return (row.schedule for row in waiting)
        case ev.Restored(tasks=restored):
            return (_schedule_of(row.task_id) for row in restored if row.place == QUEUED)
        case ev.Dropped(tasks=dropped):
            return (_schedule_of(row.task_id) for row in dropped if row.place == QUEUED)
    return ()


def _wanted_fired(event: ev.Event | ev.Unreadable) -> Iterable[str]:
    match event:
        case ev.OccurrenceFired(tasks=made):
            return (row.schedule for row in made if row.generation != RUN)
        case ev.OccurrenceSkipped(occurrences=skipped):
            return (row.schedule for row in skipped)
        case ev.OccurrenceRetired(schedules=rows) | ev.OccurrenceClosed(schedules=rows):
            return (row.schedule for row in rows)
        case ev.Died(tasks=dead):
            return (name for row in dead if (name := _unreadable_queued(row.task_id)))
    return ()


def changes(
    tail: Tail,
    bodies: Bodies,
    fired: Mapping[str, FiredRow],
    read: Iterable[ev.Batch] | None = None,
    *,
    rows_at: str = "",
) -> Changes:
    """Fold a tail. `bodies`, `fired`: what was found for `wanted`; schedules without an archived row are left out.

    `read`: the batches of the tail, if they were read before. `rows_at`: the last event when what is in `fired` was
    read from Redis.
    """
    fold = _Fold(tail, bodies, fired, rows_at)
    for batch in batches(tail) if read is None else read:
        fold.take(batch)
    return fold.finish()


def positions_after(tail: Tail, positions: Positions) -> Positions:
    """Where to read on once the changes of `tail` are committed."""
    after = dict(positions)
    if tail.events:
        after[EVENTS] = tail.events[-1].entry_id
    for stream, entries in tail.entries.items():
        if entries:
            after[stream] = entries[-1].entry_id
    return after


def scanned(
    delayed: Iterable[tuple[str, int, bytes]],
    queued: Iterable[tuple[str, bytes]],
    fired: Iterable[FiredRow],
) -> Changes:
    """What events cannot tell when the archive begins, because they are trimmed: delayed tasks (task_id, due,
    envelope), what is queued (schedule, envelope), and rows of `:fired` (their `queued` is found here).

    Read these once, at any time before the first tail; events are folded over them, the same ones again too.
    """
    tasks = [delayed_row(task_id, due, envelope) for task_id, due, envelope in delayed]
    waiting = {schedule: (stored_task(envelope), envelope) for schedule, envelope in queued}
    tasks += [queued_row(task_id, schedule, envelope) for schedule, (task_id, envelope) in waiting.items() if task_id]
    rows = [msgspec.structs.replace(row, queued=waiting.get(row.schedule, ("", b""))[0]) for row in fired]
    return Changes(upserts=tuple(tasks), fired=tuple(rows))


class _Fold:
    """One tail, half folded."""

    def __init__(self, tail: Tail, bodies: Bodies, fired: Mapping[str, FiredRow], rows_at: str) -> None:
        self._tail = tail
        self._bodies = bodies
        self._ledger = Ledger()
        self._gone: dict[tuple[int, str], None] = {}
        self._queued_now = {name: stored_task(envelope) for name, envelope in bodies.queued.items()}
        self._fired = FiredFold(fired, self._queued_now, self._end, rows_at)
        self._folds: dict[type, Callable[[Any], None]] = {
            ev.Enqueued: self._enqueued,
            ev.Settled: self._settled,
            ev.Retried: self._retried,
            ev.Died: self._died,
            ev.Redriven: self._redriven,
            ev.Purged: self._purged,
            ev.Ghost: self._ghosts,
            ev.Restored: self._restored,
            ev.Dropped: self._dropped,
            ev.OccurrenceQueued: self._queued,
            ev.OccurrenceClosed: self._closed,
            ev.OccurrenceRetired: self._retired,
        }

    def take(self, batch: ev.Batch) -> None:
        """One batch. What only says that a task has another entry now, its entry says itself."""
        self._fired.at(batch.entry_id)
        self._fired.take(batch.events)
        for event in batch.events:
            fold = self._folds.get(type(event))
            if fold is not None:
                fold(event)

    def finish(self) -> Changes:
        """Entries last: they are there, whatever events said before."""
        tail = self._tail
        for entry in tail.entries.get(DEAD, ()):
            self._ledger.put(letter_row(entry))
        for name in STREAMS:
            for entry in tail.entries.get(name, ()):
                self._ledger.put(stream_row(name, entry))
        return Changes(
            events=tail.events,
            carried=self._ledger.carried(),
            gone=tuple(self._gone),
            deletes=self._ledger.deleted(),
            upserts=self._ledger.rows(),
            dead_from=self._dead_from(),
            fired=self._fired.rows(),
            counters=tail.counters,
            paused=tail.paused,
        )

    def _dead_from(self) -> str:
        """Letters not read yet may be kept under older entry IDs."""
        first = self._tail.dead_first
        if first is None or not self._tail.drained or self._tail.more:
            return ""
        return sort_of_entry(first) if first else _AFTER_ALL

    def _end(self, task_id: str) -> None:
        self._ledger.delete((task_id, ""))

    def _enqueued(self, event: ev.Enqueued) -> None:
        for row in event.tasks:
            if row.due > 0:
                self._delay(row.task_id, row.due)

    def _settled(self, event: ev.Settled) -> None:
        for row in event.tasks:
            self._end(row.task_id)

    def _retried(self, event: ev.Retried) -> None:
        for row in event.tasks:
            self._delay(row.task_id, row.due)

    def _delay(self, task_id: str, due: int) -> None:
        envelope = self._bodies.delayed.get(task_id)
        if envelope is not None:
            self._ledger.put(delayed_row(task_id, due, envelope))

    def _died(self, event: ev.Died) -> None:
        for row in event.tasks:
            schedule = _unreadable_queued(row.task_id)
            if schedule:
                self._fired.forget_queued(schedule)
            self._ledger.carry((row.task_id, ""), DEAD, row.entry_id)
            if row.task_id.startswith(FOREIGN):
                self._bury_foreign(row.task_id)

    def _bury_foreign(self, task_id: str) -> None:
        """It may have been a task by the look of it, and have a row under that name."""
        place, _, name = task_id.removeprefix(FOREIGN).rpartition(":")
        if place in STREAMS:
            self._vanish(place, name)
        elif task_id.startswith(_UNREADABLE_DELAYED):
            self._end(task_id.removeprefix(_UNREADABLE_DELAYED))

    def _redriven(self, event: ev.Redriven) -> None:
        for row in event.tasks:
            self._ledger.carry((row.task_id, row.old_entry_id), f"lane:{row.lane}", row.entry_id)

    def _purged(self, event: ev.Purged) -> None:
        for row in event.tasks:
            self._ledger.delete((row.task_id, row.entry_id))

    def _ghosts(self, event: ev.Ghost) -> None:
        for row in event.entries:
            self._vanish(row.stream, row.entry_id)

    def _vanish(self, place: str, name: str) -> None:
        if place == DELAYED:
            self._end(name)
        elif place in RANKS:
            self._gone[RANKS[place], sort_of_entry(name)] = None

    def _restored(self, event: ev.Restored) -> None:
        for row in event.tasks:
            if row.place == DELAYED and row.due > 0:
                self._delay(row.task_id, row.due)
            elif row.place == QUEUED:
                schedule = _schedule_of(row.task_id)
                self._fired.queue(schedule, row.task_id)
                self._queue(schedule, row.task_id)
            elif row.place == DEAD:
                self._ledger.carry((row.task_id, row.old_entry_id), DEAD, row.entry_id)

    def _dropped(self, event: ev.Dropped) -> None:
        """What was buried or superseded the archive knows better, so that its own row stays."""
        for row in event.tasks:
            if row.place == QUEUED:
                self._fired.unqueue(_schedule_of(row.task_id), row.task_id)
            if row.why in {"settled", "purged"}:
                self._ledger.delete((row.task_id, row.entry_id if row.place == DEAD else ""))
            elif row.entry_id:
                self._vanish(row.place, row.entry_id)

    def _queued(self, event: ev.OccurrenceQueued) -> None:
        for row in event.tasks:
            self._queue(row.schedule, row.task_id)

    def _queue(self, schedule: str, task_id: str) -> None:
        if self._queued_now.get(schedule) == task_id:
            self._ledger.put(queued_row(task_id, schedule, self._bodies.queued[schedule]))

    def _closed(self, event: ev.OccurrenceClosed) -> None:
        for row in event.schedules:
            self._fired.close(row.schedule, row.task_id)

    def _retired(self, event: ev.OccurrenceRetired) -> None:
        for row in event.schedules:
            self._fired.retire(row)


def _schedule_of(task_id: str) -> str:
    return task_id.partition(":")[0]


def _unreadable_queued(task_id: str) -> str:
    """The schedule whose queued envelope could not be read, from the name of its letter; empty for any other."""
    return task_id.removeprefix(_UNREADABLE_QUEUED) if task_id.startswith(_UNREADABLE_QUEUED) else ""

"""Rows of `:fired`, told again from events: the same rules as in the scripts `fire`, `retire` and their `close`. Pure.

An event that a row has in it already changes nothing, so that events may be folded over a row that was read later; but
for what a rebuild has opened again: after it those are passed over that are known to be in the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from reclaimd.daemon.rebuild.values import FiredRow, sort_of_entry
from reclaimd.streams import events as ev
from reclaimd.streams.ids import EntryID

Dealing = ev.OccurrenceFiredRow | ev.OccurrenceQueuedRow | ev.OccurrenceSkippedRow
RUN = "run"
REMOVED = "removed"
"""Why `retire` skips what was queued."""


class FiredFold:
    """The rows that events have touched. `dropped`: told of each task that was queued and will not run. `rows_at`: the
    archived rows have in them what is told up to this event; empty when nobody knows.
    """

    def __init__(
        self,
        archived: Mapping[str, FiredRow],
        queued_now: Mapping[str, str],
        dropped: Callable[[str], None],
        rows_at: str = "",
    ) -> None:
        self._archived = archived
        self._queued_now = queued_now
        self._dropped = dropped
        self._read_at = sort_of_entry(rows_at) if rows_at else ""
        self._after: dict[str, FiredRow] = {}
        self._rows = self._after

    def rows(self) -> tuple[FiredRow, ...]:
        """Those that are not as they were."""
        return tuple(row for name, row in self._after.items() if row != self._archived.get(name))

    def at(self, entry_id: str) -> None:
        """What follows is told by this event: of one that the rows have in them, only what was dropped counts."""
        self._rows = self._after if sort_of_entry(entry_id) > self._read_at else {}

    def take(self, events: Iterable[ev.Event | ev.Unreadable]) -> None:
        """Fold the events of one script, which tells each kind by itself, so that instants put them in order."""
        dealings: list[Dealing] = []
        released: list[ev.OccurrenceFiredRow] = []
        removed: list[ev.OccurrenceSkippedRow] = []
        for event in events:
            match event:
                case ev.OccurrenceFired(tasks=rows):
                    dealings += (row for row in rows if row.generation != RUN and not row.queued)
                    released += (row for row in rows if row.queued)
                case ev.OccurrenceQueued(tasks=waiting):
                    dealings += waiting
                case ev.OccurrenceSkipped(occurrences=skipped):
                    dealings += skipped
                    removed += (row for row in skipped if row.reason == REMOVED)
        for dealing in sorted(dealings, key=lambda row: (row.schedule, EntryID.parse(row.generation), _upto(row))):
            self._deal(dealing)
        for row in released:
            self._release(row.schedule, row.task_id)
        for gone in removed:
            self._remove(gone.schedule, f"{gone.schedule}:{gone.generation}:{gone.upto}")

    def close(self, schedule: str, task_id: str) -> None:
        """The open task has ended and nothing waited for that."""
        row = self._row(schedule)
        if row.open == task_id:
            self._rows[schedule] = msgspec.structs.replace(row, open="")

    def reopen(self, schedule: str, task_id: str) -> None:
        """A rebuild brought it back: it is open again if it was as far as the archive knows, but for a later one."""
        archived, row = self._archived.get(schedule), self._row(schedule)
        if archived is not None and archived.open == task_id and occurrence(row.open) < occurrence(task_id):
            self._rows[schedule] = msgspec.structs.replace(row, open=task_id)

    def retire(self, told: ev.OccurrenceRetiredRow) -> None:
        """It fires from this generation on only, and what was queued is dropped."""
        row = self._row(told.schedule)
        if EntryID.parse(row.generation) < EntryID.parse(told.generation):
            self.forget_queued(told.schedule)
            self._rows[told.schedule] = FiredRow(
                schedule=told.schedule,
                generation=told.generation,
                last=told.last,
                count=told.count,
                open=told.open,
            )

    def forget_queued(self, schedule: str) -> None:
        """What was queued will not run."""
        row = self._row(schedule)
        if row.queued:
            self._dropped(row.queued)
            self._rows[schedule] = msgspec.structs.replace(row, queued="")

    def unqueue(self, schedule: str, task_id: str) -> None:
        """It does not wait any more, whatever becomes of it."""
        row = self._row(schedule)
        if row.queued == task_id:
            self._rows[schedule] = msgspec.structs.replace(row, queued="")

    def queue(self, schedule: str, task_id: str) -> None:
        """This one waits: a rebuild put it back."""
        self._rows[schedule] = msgspec.structs.replace(self._row(schedule), queued=task_id)

    def _row(self, schedule: str) -> FiredRow:
        return self._rows.get(schedule) or self._archived.get(schedule) or FiredRow(schedule=schedule)

    def _deal(self, dealing: Dealing) -> None:
        row = self._row(dealing.schedule)
        generation, known = EntryID.parse(dealing.generation), EntryID.parse(row.generation)
        if generation < known or (generation == known and _upto(dealing) <= row.last):
            if isinstance(dealing, ev.OccurrenceQueuedRow) and self._is_queued(dealing):
                self.queue(dealing.schedule, dealing.task_id)
            return
        begins = generation > known
        last, counted, task, queued = _upto(dealing), 0 if begins else row.count, row.open, row.queued
        match dealing:
            case ev.OccurrenceFiredRow():
                counted += 1
                # What waits for the open one must see it end.
                if not task or not queued:
                    task = dealing.task_id
            case ev.OccurrenceQueuedRow():
                counted += 1
                queued = dealing.task_id
        self._rows[dealing.schedule] = FiredRow(
            schedule=dealing.schedule,
            generation=dealing.generation,
            last=last,
            count=counted,
            open=task,
            queued=queued,
        )

    def _remove(self, schedule: str, task_id: str) -> None:
        """It was queued and will not run; a row that was read later does not tell that it ever was."""
        self.unqueue(schedule, task_id)
        self._dropped(task_id)

    def _is_queued(self, dealing: ev.OccurrenceQueuedRow) -> bool:
        return self._queued_now.get(dealing.schedule) == dealing.task_id

    def _release(self, schedule: str, task_id: str) -> None:
        row = self._row(schedule)
        queued = "" if row.queued == task_id else row.queued
        task = task_id if not row.open or occurrence(row.open) < occurrence(task_id) else row.open
        self._rows[schedule] = msgspec.structs.replace(row, open=task, queued=queued)


def _upto(dealing: Dealing) -> int:
    return dealing.upto if isinstance(dealing, ev.OccurrenceSkippedRow) else dealing.nominal


def occurrence(task_id: str) -> tuple[EntryID, int]:
    """Generation and instant of `<schedule>:<generation>:<nominal>`; anything else comes before all of these."""
    try:
        _, generation, nominal = task_id.split(":")
        return EntryID.parse(generation), int(nominal)
    except ValueError:
        return EntryID(0, 0), 0

"""Rows of the archive as what `restore` takes."""

from collections.abc import Collection, Sequence
from typing import Final, Literal

import msgspec

from reclaimd.daemon.archive.job import Job
from reclaimd.daemon.archive.restoring_fired import stay_queued
from reclaimd.daemon.rebuild import envelopes
from reclaimd.daemon.rebuild.plan import restorable
from reclaimd.daemon.rebuild.values import DELAYED, QUEUED, RANKS, TaskRow, Unrestorable
from reclaimd.daemon.stolen import Stolen
from reclaimd.streams.archive_scripts import RestoreTask
from reclaimd.streams.ids import NAME

# A waiting task as its producer wrote it.
_plain = msgspec.json.Decoder(
    tuple[
        Literal["task"],
        str,
        Literal["at"],
        str,
        Literal["lane"],
        Literal["high", "normal", "low"],
        Literal["max"],
        str,
        Literal["body"],
        str,
    ]
)
_DIGITS: Final = 15


class Maker:
    """Makes them. `seen_since_ms`: tasks enqueued from then on count as seen."""

    def __init__(self, job: Job, *, seen_since_ms: int) -> None:
        self._job = job
        self._seen_since_ms = seen_since_ms
        # Up to the entry ID, the last of the row.
        self._told = envelopes.history_row(job.now_ms, "restored", job.verdict, "")[:-2].decode()

    async def tasks(self, rows: Sequence[TaskRow], stolen: Stolen) -> list[RestoreTask]:
        """Those of the rows that are restored, in their order.

        What is queued behind a schedule's open task comes after all others, and looks whether that one is there.
        """
        first = next((number for number, row in enumerate(rows) if row.rank >= RANKS[QUEUED]), len(rows))
        with stolen.slice():
            made = [self._task(row, ()) for row in rows[:first]]
        waiting = await stay_queued(self._job, rows[first:])
        with stolen.slice():
            made += [self._task(row, waiting) for row in rows[first:]]
            return [task for task in made if task is not None]

    def _task(self, row: TaskRow, waiting: Collection[str]) -> RestoreTask | None:
        job = self._job
        if row in job.kept:
            return None
        if row.rank < RANKS[DELAYED] and (plain := self.plain(row)) is not None:
            return plain
        found = restorable(
            row,
            verdict=job.verdict,
            now_ms=job.now_ms,
            seen_since_ms=self._seen_since_ms,
            queued=row.task_id in waiting,
        )
        if isinstance(found, Unrestorable):
            job.tally.leave_out(found.what, found.reason)
            return None
        job.kept.note(found.task_id, found.place, found.schedule)
        fields = envelopes.unpack(found.envelope)
        names = (found.schedule, found.unique, found.seen, found.old_entry_id)
        return RestoreTask(found.task_id, found.place, fields, found.due, *names)

    def plain(self, row: TaskRow) -> RestoreTask | None:
        """A waiting task as its producer wrote it, which nearly all are: what `restorable` makes of it, at a tenth of
        the cost. None for any other.
        """
        try:
            words = _plain.decode(row.envelope)
        except (msgspec.MsgspecError, UnicodeError):
            return None
        _, task_id, _, at, _, lane, _, most, _, body = words
        if task_id != row.task_id or not (at and most and _are_good(task_id, at + most)):
            return None
        told = f'{self._told}{row.entry_id}"]'
        fields = [*words[:8], "handbacks", "1", "history", told, "body", body]
        seen = row.at >= self._seen_since_ms
        return RestoreTask(task_id, f"recovered:{lane}", fields, 0, "", "", seen, row.entry_id)


def _are_good(task_id: str, counts: str) -> bool:
    """The script looks at each of them by itself, and would refuse all of the batch for one."""
    return len(counts) <= _DIGITS and counts.isdigit() and counts.isascii() and NAME.match(task_id) is not None

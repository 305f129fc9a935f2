"""Rows of the archive as what `restore` takes."""

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

import msgspec

from reclaimd.daemon.archive.job import Job
from reclaimd.daemon.archive.restoring_fired import stay_queued
from reclaimd.daemon.rebuild import envelopes
from reclaimd.daemon.rebuild.plan import restorable
from reclaimd.daemon.rebuild.values import DELAYED, QUEUED, RANKS, TaskRow, Unrestorable
from reclaimd.daemon.stolen import Stolen
from reclaimd.streams.archive_scripts import RestoreTask
from reclaimd.streams.ids import NAME
from reclaimd.streams.keys import LANES

_words = msgspec.json.Decoder(list[str])
_PLAIN: Final = ["task", "at", "lane", "max", "body"]
_DIGITS: Final = 15


class Item(NamedTuple):
    """One archived row. `cursor`: where the rebuild stands behind it; `task`: None when it is not restored."""

    cursor: str
    task: RestoreTask | None
    size: int


class Maker:
    """Makes items. `seen_since_ms`: tasks enqueued from then on count as seen."""

    def __init__(self, job: Job, *, seen_since_ms: int) -> None:
        self._job = job
        self._seen_since_ms = seen_since_ms
        # Up to the entry ID, the last of the row.
        self._told = envelopes.history_row(job.now_ms, "restored", job.verdict, "")[:-2].decode()

    async def items(self, rows: Sequence[TaskRow], stolen: Stolen) -> list[Item]:
        """What is queued behind a schedule's open task comes after all others, and looks whether that one is there."""
        first = next((number for number, row in enumerate(rows) if row.rank >= RANKS[QUEUED]), len(rows))
        with stolen.slice():
            items = [self._item(row, ()) for row in rows[:first]]
        waiting = await stay_queued(self._job, rows[first:])
        with stolen.slice():
            return items + [self._item(row, waiting) for row in rows[first:]]

    def _item(self, row: TaskRow, waiting: Collection[str]) -> Item:
        job = self._job
        cursor = f"tasks|{row.rank}|{row.sort}|{row.task_id}"
        if row in job.kept:
            return Item(cursor, None, 0)
        if row.rank < RANKS[DELAYED] and (plain := self.plain(row)) is not None:
            return Item(cursor, plain, len(row.envelope))
        found = restorable(
            row,
            verdict=job.verdict,
            now_ms=job.now_ms,
            seen_since_ms=self._seen_since_ms,
            queued=row.task_id in waiting,
        )
        if isinstance(found, Unrestorable):
            job.tally.leave_out(found.what, found.reason)
            return Item(cursor, None, 0)
        job.kept.note(found.task_id, found.place, found.schedule)
        fields = envelopes.unpack(found.envelope)
        names = (found.schedule, found.unique, found.seen, found.old_entry_id)
        return Item(cursor, RestoreTask(found.task_id, found.place, fields, found.due, *names), len(found.envelope))

    def plain(self, row: TaskRow) -> RestoreTask | None:
        """A waiting task as its producer wrote it, which nearly all are: what `restorable` makes of it, at a fifth of
        the cost. None for any other.
        """
        try:
            words = _words.decode(row.envelope)
        except (msgspec.MsgspecError, UnicodeError):
            return None
        if len(words) != 10 or words[::2] != _PLAIN:
            return None
        _, task_id, _, at, _, lane, _, most, _, body = words
        if task_id != row.task_id or lane not in LANES or not (at and most and _are_good(task_id, at + most)):
            return None
        told = f'{self._told}{row.entry_id}"]'
        fields = [*words[:8], "handbacks", "1", "history", told, "body", body]
        seen = row.at >= self._seen_since_ms
        return RestoreTask(task_id, f"recovered:{lane}", fields, 0, "", "", seen, row.entry_id)


def _are_good(task_id: str, counts: str) -> bool:
    """The script looks at each of them by itself, and would refuse all of the batch for one."""
    return len(counts) <= _DIGITS and counts.isdigit() and counts.isascii() and NAME.match(task_id) is not None

"""Rows of schedules from events; what a row has in it already changes nothing."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

from reclaimd.daemon.rebuild.occurrences import FiredFold
from reclaimd.daemon.rebuild.values import FiredRow
from reclaimd.streams import events as ev

OPEN = FiredRow(schedule="s", generation="1-0", last=5, count=3, open="s:1-0:5")
WAITED_FOR = FiredRow(schedule="s", generation="1-0", last=7, count=4, open="s:1-0:5", queued="s:1-0:7")


def made(nominal: int, generation: str = "1-0", *, queued: bool = False) -> ev.OccurrenceFired:
    task = f"s:{generation}:{nominal}"
    return ev.OccurrenceFired(tasks=(ev.OccurrenceFiredRow("s", generation, nominal, task, "9-0", 0, queued),))


def waits(nominal: int) -> ev.OccurrenceQueued:
    return ev.OccurrenceQueued(tasks=(ev.OccurrenceQueuedRow("s", "1-0", nominal, f"s:1-0:{nominal}", 0),))


def skipped(after: int, upto: int, generation: str = "1-0", reason: str = "misfire") -> ev.OccurrenceSkipped:
    return ev.OccurrenceSkipped(occurrences=(ev.OccurrenceSkippedRow("s", generation, after, upto, 1, reason),))


class Told:
    """What a fold came to."""

    def __init__(self, row: FiredRow | None, *batches: Sequence[ev.Event], queued_now: str = "") -> None:
        self.dropped: list[str] = []
        archived = {row.schedule: row} if row else {}
        self.fold = FiredFold(archived, {"s": queued_now}, self.dropped.append)
        for batch in batches:
            self.fold.take(batch)

    @property
    def row(self) -> FiredRow | None:
        found = self.fold.rows()
        return found[0] if found else None


def row(**more: Any) -> FiredRow:
    return FiredRow(schedule="s", **{"generation": "1-0", **more})


def test_a_first_one_begins_a_row() -> None:
    assert Told(None, [made(5)]).row == row(last=5, count=1, open="s:1-0:5")


def test_the_latest_is_the_open_one_unless_another_waits_for_it() -> None:
    assert Told(OPEN, [made(7)]).row == row(last=7, count=4, open="s:1-0:7")
    assert Told(WAITED_FOR, [made(9)]).row == row(last=9, count=5, open="s:1-0:5", queued="s:1-0:7")


def test_a_skip_passes_without_counting() -> None:
    assert Told(OPEN, [skipped(5, 9)]).row == row(last=9, count=3, open="s:1-0:5")


def test_what_waits_goes_to_its_lane() -> None:
    assert Told(OPEN, [waits(7)]).row == WAITED_FOR
    assert Told(WAITED_FOR, [made(7, queued=True)]).row == row(last=7, count=4, open="s:1-0:7")


def test_a_new_generation_begins_anew_and_its_predecessor_stays_open() -> None:
    assert Told(OPEN, [skipped(0, 2, "10-0")]).row == row(generation="10-0", last=2, open="s:1-0:5")


def test_what_a_row_has_in_it_changes_nothing() -> None:
    for told in (made(5), made(4), skipped(0, 5), made(9, "0-9"), waits(3)):
        assert Told(OPEN, [told]).row is None
    assert Told(row(last=9, open="s:1-0:9"), [made(7, queued=True)]).row is None


def test_what_is_queued_now_was_queued_even_if_the_row_was_read_later() -> None:
    later = row(last=7, count=4, open="s:1-0:5")
    assert Told(later, [waits(7)]).row is None
    assert Told(later, [waits(7)], queued_now="s:1-0:7").row == WAITED_FOR


def test_what_was_told_before_the_row_was_read_is_in_it_also_where_a_rebuild_has_opened_it_again() -> None:
    dropped: list[str] = []
    fold = FiredFold({"s": WAITED_FOR}, {}, dropped.append, "10-5")
    for entry_id in ("9-9", "10-5"):
        fold.at(entry_id)
        fold.take([made(7, queued=True), skipped(8, 9, reason="removed")])
        fold.close("s", "s:1-0:7")
        fold.close("s", "s:1-0:5")
    assert (fold.rows(), dropped) == ((), ["s:1-0:9"] * 2)
    fold.at("10-6")
    fold.close("s", "s:1-0:5")
    assert fold.rows() == (row(last=7, count=4, queued="s:1-0:7"),)


def test_what_a_rebuild_brings_back_is_open_again_if_the_archive_knows_it_so_and_no_later_one_is() -> None:
    for task, is_open in (("s:1-0:5", True), ("s:1-0:4", False), ("s:1-0:6", False)):
        told = Told(OPEN)
        told.fold.close("s", "s:1-0:5")
        told.fold.reopen("s", task)
        assert told.row == (None if is_open else row(last=5, count=3))
    told = Told(OPEN, [made(7)])
    told.fold.reopen("s", "s:1-0:5")
    assert told.row == row(last=7, count=4, open="s:1-0:7")
    told.fold.reopen("another", "s:1-0:5")


def test_kinds_of_one_call_come_in_any_order() -> None:
    batch: tuple[ev.Event, ...] = (made(7), skipped(7, 9), waits(11), made(2, "10-0"))
    for order in permutations(batch):
        assert Told(OPEN, order).row == row(generation="10-0", last=2, count=1, open="s:1-0:7", queued="s:1-0:11")


def test_only_the_open_task_closes() -> None:
    told = Told(OPEN)
    told.fold.close("s", "s:1-0:4")
    assert told.row is None
    told.fold.close("s", "s:1-0:5")
    assert told.row == row(last=5, count=3)


def test_a_retired_row_keeps_what_it_has_and_drops_what_waits() -> None:
    told = Told(WAITED_FOR)
    told.fold.retire(ev.OccurrenceRetiredRow("s", "20-0", 7, 4, "s:1-0:5"))
    assert told.row == row(generation="20-0", last=7, count=4, open="s:1-0:5")
    assert told.dropped == ["s:1-0:7"]
    told.fold.retire(ev.OccurrenceRetiredRow("s", "3-0", 1, 1, ""))
    assert told.row == row(generation="20-0", last=7, count=4, open="s:1-0:5")


def test_what_was_removed_from_the_queue_is_dropped_even_if_the_row_was_read_later() -> None:
    later = row(generation="20-0", last=7, count=4, open="s:1-0:5")
    told = Told(later, [skipped(6, 7, reason="removed")])
    assert told.row is None
    assert told.dropped == ["s:1-0:7"]


def test_a_run_is_no_instant_of_its_schedule() -> None:
    assert Told(OPEN, [made(99, "run")]).row is None

"""Verdicts on the log of schedules, where archive and Redis part, and what is told of restored schedules."""

import asyncio
from typing import Any

import msgspec
import pytest

from reclaimd.daemon.rebuild.marks import mark_after, new_mark
from reclaimd.daemon.rebuild.schedules import after, last_known, schedules_verdict
from reclaimd.daemon.rebuild.values import FiredRow, PartitionRow
from reclaimd.daemon.schedules.gate import Gate
from reclaimd.daemon.schedules.overdue import judge
from reclaimd.streams.ids import EntryID
from reclaimd.streams.schedules.archive_scripts import Facts
from reclaimd.streams.schedules.events import Event, SchedulePaused, upserted
from reclaimd.streams.schedules.fold import START, Schedules, apply
from reclaimd.streams.schedules.model import Every, Schedule

ROW = PartitionRow(namespace="t", queue="", epoch_id="adopted", mark="5:aa")
GOOD = Facts("ok", "A", "5:aa", "4:bb")
EMPTY = Facts("absent", missing=("events", "snapshots"))


@pytest.mark.parametrize(
    ("row", "facts", "kind"),
    [
        (None, EMPTY, "new"),
        (msgspec.structs.replace(ROW, mark=""), EMPTY, "new"),
        (None, GOOD, "archive_behind"),
        (None, GOOD._replace(archive_id="B"), "foreign"),
        (ROW, GOOD._replace(archive_id="B"), "foreign"),
        (ROW, GOOD, "healthy"),
        (ROW, GOOD._replace(mark="6:cc", mark_before="5:aa"), "healthy"),
        (ROW, GOOD._replace(missing=("events",)), "partial"),
        (ROW, GOOD._replace(gap=True), "archive_behind"),
        (ROW, EMPTY, "empty"),
        (ROW, Facts("absent", missing=("events",)), "partial"),
        (ROW, GOOD._replace(mark="4:bb", mark_before="3:dd"), "rolled_back"),
        (ROW, GOOD._replace(mark="5:xx", mark_before="4:yy"), "rolled_back"),
        (ROW, GOOD._replace(mark="9:xx", mark_before="8:yy"), "archive_behind"),
        (ROW, GOOD._replace(state="rebuilding"), "rolled_back"),
        (msgspec.structs.replace(ROW, state="rebuilding"), GOOD, "rebuilding"),
        (msgspec.structs.replace(ROW, state="rebuilding"), EMPTY, "rebuilding"),
        (msgspec.structs.replace(ROW, state="lost"), GOOD._replace(state="lost"), "lost"),
    ],
)
def test_verdicts(row: PartitionRow | None, facts: Facts, kind: str) -> None:
    assert schedules_verdict(row, facts, "A").kind == kind


def test_marks_only_grow() -> None:
    assert new_mark("0123456789", "5:aa", "", "7:bb") == "8:01234567"
    assert new_mark("ab") == "1:ab"
    row = msgspec.structs.replace(ROW, rebuild_id="0123456789abcdef")
    assert mark_after(row) == mark_after(row) == "7:01234567"


def test_where_archive_and_redis_part() -> None:
    page = [("5-0", b"a"), ("6-0", b"b"), ("7-0", b"new"), ("8-0", b"new")]
    archived = {"5-0": b"a", "6-0": b"b", "7-0": b"another"}
    assert last_known(page, archived, START, START) == "6-0"
    assert last_known(page, {}, EntryID(5, 0), START) == "5-0"
    assert last_known(page, {}, START, EntryID(7, 0)) == "7-0"
    assert last_known(page, {}, START, START) == ""
    assert (after("6-0"), after("")) == ("6-1", "0-0")


def state_of(*events: Event) -> Schedules:
    state = Schedules()
    for number, event in enumerate(events):
        apply(state, f"{1_000_000 + number}-0", event)
    return state


def schedule(name: str, **fields: Any) -> Event:
    return upserted(Schedule(name=name, task="t", queue="q", trigger=Every(1_000, anchor_ms=0), **fields))


def test_overdue_is_what_came_due_and_was_not_dealt_with() -> None:
    state = state_of(schedule("a"), schedule("b", limit=4), schedule("c"), SchedulePaused(name="c"), schedule("d"))
    fired = {
        "a": FiredRow(schedule="a", generation="1000000-0", last=1_003_000, count=3),
        "b": FiredRow(schedule="b", generation="1000001-0", last=1_002_000, count=2),
        "d": FiredRow(schedule="d", generation="1-0", last=1_010_000, count=9),
    }
    judged = asyncio.run(judge(state, fired, 1_010_000))
    assert judged == (7 + 2 + 10, ())


def test_what_will_not_fire_is_listed() -> None:
    state = state_of(schedule("a"), schedule("b"))
    apply(state, "2000000-0", b'{"type":"ScheduleTagged","name":"a"}')
    apply(state, "2000001-0", b"{}")
    apply(state, "2000002-0", b'{"type":"ScheduleUpserted","schedule":{"name":"b","task":"t","queue":"q","trigger":5}}')
    judged = asyncio.run(judge(state, {}, 1_000_500))
    assert [found.what for found in judged.problems] == ["schedule event 2000001-0", "schedule b", "schedule a"]
    assert all(found.reason for found in judged.problems)


def test_a_gate_is_open_when_nobody_holds_it() -> None:
    gate = Gate()
    assert (gate.closed("q"), gate.epoch("new")) == ("", "new")
    gate.close("one", "because")
    gate.close("two", "of that", "q")
    assert (gate.closed("p"), gate.closed("q")) == ("because", "because")
    assert gate.open("one")
    assert not gate.open("one")
    assert (gate.closed("p"), gate.closed("q")) == ("", "of that")


def test_only_without_an_archive_a_daemon_begins_an_epoch() -> None:
    gate = Gate()
    gate.archive_id = ""
    assert gate.epoch("new") == ""
    gate.archive_id = "A"
    assert gate.epoch("new") == "=A"

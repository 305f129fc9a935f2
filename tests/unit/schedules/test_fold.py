"""What each event does to each state of a schedule, one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaimd.streams.schedules.events import (
    Event,
    SchedulePaused,
    ScheduleRejected,
    ScheduleRemoved,
    ScheduleResumed,
    ScheduleUpserted,
    decode,
    encode,
    upserted,
)
from reclaimd.streams.schedules.fold import Applied, Problem, Row, Schedules, apply
from reclaimd.streams.schedules.model import Cron, Every, Schedule, Trigger

HOURLY = Every(3_600_000)


def digest(trigger: Trigger = HOURLY, *, queue: str = "mail", source: str = "", lane: str = "normal") -> Schedule:
    return Schedule(name="digest", task="send", queue=queue, trigger=trigger, source=source, lane=lane)


def after(*events: Event | bytes) -> Schedules:
    """The state after events 1000-0, 2000-0, …"""
    state = Schedules()
    for number, event in enumerate(events, 1):
        apply(state, f"{number}000-0", event)
    return state


def last(state: Schedules, event: Event | bytes) -> Applied:
    """What event 9000-0 does."""
    return apply(state, "9000-0", event)


def row(state: Schedules) -> Row:
    return state.rows["digest"]


def test_an_upsert_creates() -> None:
    state = Schedules()
    applied = last(state, upserted(digest()))
    assert applied == Applied("created", "digest", event_id="9000-0")
    assert row(state) == Row(
        generation="9000-0", since_ms=9000, definition=bytes(upserted(digest()).schedule), changed="9000-0"
    )
    assert row(state).schedule() == digest()


def test_another_upsert_with_the_same_timing_keeps_the_generation() -> None:
    state = after(upserted(digest()))
    before = row(state)
    applied = last(state, upserted(digest(lane="high")))
    assert applied == Applied("updated", "digest", event_id="9000-0", before=before)
    assert (row(state).generation, row(state).since_ms, row(state).changed) == ("1000-0", 1000, "9000-0")
    assert row(state).schedule().lane == "high"


@pytest.mark.parametrize("other", [digest(Every(1_800_000)), digest(Cron("0 9 * * *")), digest(queue="other")])
def test_another_timing_or_queue_is_another_generation(other: Schedule) -> None:
    state = after(upserted(digest()), SchedulePaused(name="digest"))
    assert last(state, upserted(other)).what == "retimed"
    assert (row(state).generation, row(state).since_ms) == ("9000-0", 9000)
    assert row(state).paused, "only a resume ends a pause"


def test_one_that_was_removed_begins_anew() -> None:
    state = after(upserted(digest()), SchedulePaused(name="digest"), ScheduleRemoved(name="digest"))
    assert state.rows == {}
    assert last(state, upserted(digest())).what == "created"
    assert (row(state).generation, row(state).paused) == ("9000-0", False)


def test_a_source_removes_only_what_is_its_own() -> None:
    state = after(upserted(digest(source="file")))
    assert last(state, ScheduleRemoved(name="digest", source="sql")).what == "nothing"
    assert apply(state, "9001-0", ScheduleRemoved(name="digest", source="file")).what == "removed"


def test_a_removal_by_hand_asks_for_no_source() -> None:
    state = after(upserted(digest(source="file")))
    assert last(state, ScheduleRemoved(name="digest")).what == "removed"


def test_what_came_due_in_a_pause_is_behind_the_resume() -> None:
    state = after(upserted(digest()), SchedulePaused(name="digest"))
    assert row(state).paused
    assert last(state, ScheduleResumed(name="digest")).what == "resumed"
    assert (row(state).paused, row(state).since_ms, row(state).generation) == (False, 9000, "1000-0")


@pytest.mark.parametrize("again", [SchedulePaused(name="digest"), ScheduleResumed(name="digest")])
def test_the_same_switch_again_changes_nothing(again: Event) -> None:
    state = after(upserted(digest()), SchedulePaused(name="digest"), again)
    before = row(state)
    assert last(state, again) == Applied("nothing", event_id="9000-0", before=before)
    assert row(state) == before


@pytest.mark.parametrize("event", [SchedulePaused(name="x"), ScheduleResumed(name="x"), ScheduleRemoved(name="x")])
def test_what_is_about_no_schedule_does_nothing(event: Event) -> None:
    state = after(upserted(digest()))
    before = state.copy()
    assert last(state, event).what == "nothing"
    assert (state.rows, state.problems) == (before.rows, before.problems)


INVALID = ScheduleUpserted(schedule=upserted(digest(Cron("61 * * * *"))).schedule)


def test_an_invalid_definition_is_a_problem_and_the_row_stays() -> None:
    state = after(upserted(digest()))
    before = row(state)
    applied = last(state, INVALID)
    assert (applied.what, applied.name, applied.event_id) == ("rejected", "digest", "9000-0")
    assert applied.problem == state.problems["digest"]
    assert (state.problems["digest"].entry, state.problems["digest"].field) == ("9000-0", "cron")
    assert row(state) == before


def test_an_invalid_definition_of_a_new_schedule_is_only_a_problem() -> None:
    state = after(INVALID)
    assert state.rows == {}
    assert set(state.problems) == {"digest"}


@pytest.mark.parametrize("cure", [upserted(digest()), ScheduleRemoved(name="digest")])
def test_a_problem_ends_with_a_good_definition_or_the_schedule(cure: Event) -> None:
    state = after(upserted(digest()), INVALID)
    last(state, cure)
    assert state.problems == {}


def test_a_key_that_no_definition_has_is_a_problem() -> None:
    raw = encode(upserted(digest())).replace(b'"task"', b'"misfires":"skip","task"')
    state = after(raw)
    assert state.problems["digest"].field == "misfires"


def test_arguments_nested_too_deeply_are_no_error() -> None:
    raw = encode(upserted(digest())).replace(b'"task"', b'"args":{"x":%s},"task"' % (b"[" * 990 + b"]" * 990))
    state = after(raw)
    assert state.rows.keys() | state.problems.keys() == {"digest"} or state.unreadable


def test_a_rejection_marks_the_problem_as_reported() -> None:
    state = after(upserted(digest()), INVALID)
    problem = state.problems["digest"]
    applied = last(state, ScheduleRejected(name="digest", entry="2000-0", field="x", reason="y"))
    assert applied.what == "noted"
    assert state.problems["digest"] == Problem("2000-0", problem.field, problem.reason, reported=True)


@pytest.mark.parametrize(
    ("entry", "noted"), [("", True), ("2000-1", True), ("2000-0", False), ("1000-0", False), ("what", False)]
)
def test_a_rejection_of_what_was_set_right_since_is_not_noted(entry: str, noted: bool) -> None:
    state = after(SchedulePaused(name="other"), upserted(digest()))
    last(state, ScheduleRejected(name="digest", entry=entry, field="cron", reason="no"))
    assert state.problems == ({"digest": Problem(entry, "cron", "no", reported=True)} if noted else {})


@pytest.mark.parametrize(("entry", "noted"), [("1000-0", False), ("1999-9", False), ("2000-1", True)])
def test_a_rejection_of_an_older_definition_does_not_hide_the_newest_problem(entry: str, noted: bool) -> None:
    state = after(upserted(digest()), INVALID)
    problem = state.problems["digest"]
    last(state, ScheduleRejected(name="digest", entry=entry, field="x", reason="y"))
    assert state.problems["digest"] == (Problem(entry, "x", "y", reported=True) if noted else problem)


def test_a_rejection_of_what_was_removed_since_is_not_noted() -> None:
    state = after(INVALID, ScheduleRemoved(name="digest"))
    last(state, ScheduleRejected(name="digest", entry="1000-0", field="cron", reason="no"))
    assert state.problems == {}


NEWER = b'{"type":"ScheduleRenamed","v":1,"name":"digest","to":"weekly"}'


def test_an_unknown_event_suspends_its_schedule_and_no_other() -> None:
    other = upserted(Schedule(name="other", task="t", queue="q", trigger=HOURLY))
    state = after(upserted(digest()), other, NEWER, SchedulePaused(name="digest"), SchedulePaused(name="other"))
    assert [(unread.event_id, unread.raw) for unread in row(state).unread] == [
        ("3000-0", NEWER),
        ("4000-0", encode(SchedulePaused(name="digest"))),
    ]
    assert "unknown type" in row(state).unread[0].why
    assert (row(state).suspended, row(state).paused, row(state).generation) == (True, False, "1000-0")
    assert (state.rows["other"].suspended, state.rows["other"].paused) == (False, True)


def test_an_unknown_event_of_an_unknown_schedule_makes_a_suspended_one() -> None:
    state = after(NEWER, upserted(digest()))
    assert row(state).suspended
    assert row(state).definition == b""
    assert len(row(state).unread) == 2


def test_only_a_removal_by_hand_lifts_a_suspension() -> None:
    by_source = ScheduleRemoved(name="digest", source="file")
    state = after(upserted(digest(source="file")), NEWER, by_source, by_source, by_source)
    assert len(row(state).unread) == 2, "the source says it in each round"
    assert last(state, ScheduleRemoved(name="digest")).what == "removed"
    assert state.rows == {}


def test_bytes_of_no_schedule_are_carried_and_suspend_none() -> None:
    state = after(upserted(digest()))
    applied = last(state, b"\xff")
    assert (applied.what, applied.name) == ("unreadable", "")
    assert [(unread.event_id, unread.raw) for unread in state.unreadable] == [("9000-0", b"\xff")]
    assert not row(state).suspended


@pytest.mark.parametrize("entry_id", ["1000-0", "2000-0", "2000-4", "2000-5"])
def test_what_is_not_newer_than_the_state_does_nothing(entry_id: str) -> None:
    state = after(upserted(digest()))
    apply(state, "2000-5", SchedulePaused(name="digest"))
    before = state.copy()
    assert apply(state, entry_id, ScheduleRemoved(name="digest")) == Applied("nothing")
    assert state == before


def test_ids_are_numbers() -> None:
    state = after(upserted(digest()))
    apply(state, "1000-9", SchedulePaused(name="digest"))
    assert apply(state, "1000-10", ScheduleResumed(name="digest")).what == "resumed"


@given(st.binary(max_size=60))
def test_no_bytes_are_an_error(raw: bytes) -> None:
    last(after(upserted(digest())), raw)
    decode(raw)


def test_a_copy_does_not_change_with_its_original() -> None:
    state = after(upserted(digest()), b"\xff", INVALID)
    copy = state.copy()
    last(state, ScheduleRemoved(name="digest"))
    apply(state, "9001-0", b"\xfe")
    assert copy == after(upserted(digest()), b"\xff", INVALID)


@pytest.mark.parametrize(
    ("event", "what"),
    [
        (upserted(digest()), "retimed"),
        (ScheduleRemoved(name="digest", source="file"), "removed"),
        (ScheduleRemoved(name="digest", source="other"), "nothing"),
        (SchedulePaused(name="digest"), "paused"),
    ],
)
def test_a_definition_that_only_a_newer_program_can_read_is_in_nobodys_way(event: Event, what: str) -> None:
    """It comes out of a snapshot which that program wrote."""
    newer = b'{"name":"digest","task":"send","queue":"mail","trigger":{"type":"sunrise"},"source":"file"}'
    state = Schedules(rows={"digest": Row(generation="1-0", since_ms=1, definition=newer, changed="1-0")})
    assert last(state, event).what == what

"""Reconciling: what a source makes of the schedules that there are, and that it leaves the others alone."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaimd.daemon.inspect.reports import SourceProblem
from reclaimd.daemon.sources.reconcile import Reconciled, reconcile
from reclaimd.daemon.sources.rows import Wanted
from reclaimd.streams.schedules.events import Event, SchedulePaused, ScheduleRemoved, ScheduleResumed, upserted
from reclaimd.streams.schedules.fold import Schedules, apply
from reclaimd.streams.schedules.model import Every, Schedule


def schedule(name: str, every_ms: int = 60_000, source: str = "s") -> Schedule:
    return Schedule(name=name, task="send", queue="mail", trigger=Every(every_ms), source=source)


def fold(*events: Event | bytes) -> Schedules:
    state = Schedules()
    follow(state, events)
    return state


def follow(state: Schedules, events: Sequence[Event | bytes]) -> None:
    for event in events:
        apply(state, f"{state.position.ms + 1_000}-0", event)


def done(
    state: Schedules, *wanted: Schedule | Wanted, problems: Sequence[SourceProblem] = (), allow_empty: bool = False
) -> Reconciled:
    rows = [one if isinstance(one, Wanted) else Wanted(i, one) for i, one in enumerate(wanted, start=1)]
    return reconcile("s", rows, problems, state, allow_empty=allow_empty)


def unusable(name: str) -> SourceProblem:
    return SourceProblem(9, name, "cron", "no")


def test_missing_ones_are_created_changed_ones_updated_gone_ones_removed() -> None:
    state = fold(upserted(schedule("same")), upserted(schedule("changed")), upserted(schedule("gone")))
    found = done(state, schedule("same"), schedule("changed", 90_000), schedule("new"))
    assert (found.created, found.updated, found.removed) == (["new"], ["changed"], ["gone"])
    assert found.events == [
        upserted(schedule("changed", 90_000)),
        upserted(schedule("new")),
        ScheduleRemoved(name="gone", source="s"),
    ]
    assert (found.drift, found.enabled, found.problems, found.held) == (3, 3, [], "")


def test_the_same_definition_written_otherwise_is_the_same() -> None:
    raw = msgspec.json.encode({**msgspec.to_builtins(schedule("a")), "limit": None, "lane": "normal"})
    state = fold(b'{"type":"ScheduleUpserted","v":1,"schedule":' + raw + b"}")
    assert state.rows["a"].definition != msgspec.json.encode(schedule("a"))
    assert done(state, schedule("a")).events == []


@pytest.mark.parametrize(("owner", "whose"), [("", "belongs to nobody"), ("t", "belongs to source t")])
def test_what_belongs_to_others_is_left_alone(owner: str, whose: str) -> None:
    state = fold(upserted(schedule("a", source=owner)), upserted(schedule("b", source=owner)))
    found = done(state, schedule("a"), schedule("c"))
    assert (found.created, found.updated, found.removed) == (["c"], [], [])
    [problem] = found.problems
    assert (problem.row, problem.name, problem.field) == (1, "a", "name")
    assert whose in problem.reason


def test_a_name_within_another_source_is_no_owner() -> None:
    state = fold(upserted(schedule("s", source="other-s")), upserted(schedule("s2", source="s")))
    assert done(state, schedule("s2")).removed == []
    assert done(state, schedule("x")).removed == ["s2"]


def test_a_row_that_cannot_be_used_leaves_its_schedule_as_it_is_and_the_others_go_in() -> None:
    state = fold(upserted(schedule("a")), upserted(schedule("gone")))
    found = done(state, schedule("new"), problems=[unusable("a")])
    assert (found.created, found.removed, found.held) == (["new"], ["gone"], "")
    assert found.problems == [unusable("a")]


def test_nothing_is_removed_while_a_row_has_no_name() -> None:
    state = fold(upserted(schedule("a")), upserted(schedule("b")))
    found = done(state, schedule("b"), problems=[unusable("")])
    assert found.events == []
    assert found.drift == 1
    assert "1 schedule of it would be removed, but a row has no name" in found.held


def test_a_source_that_is_suddenly_empty_removes_nothing_unless_that_is_allowed() -> None:
    state = fold(upserted(schedule("a")), upserted(schedule("b")))
    held = done(state)
    assert held.events == []
    assert held.drift == 2
    assert "2 schedules of it stay: set allow_empty = true" in held.held
    assert done(state, allow_empty=True).removed == ["a", "b"]
    assert done(Schedules()).held == ""


def test_enabled_pauses_and_resumes_and_silence_leaves_that_to_people() -> None:
    state = fold(upserted(schedule("a")), upserted(schedule("b")), SchedulePaused(name="b"))
    silent = done(state, schedule("a"), schedule("b"))
    assert (silent.events, silent.enabled) == ([], 2)
    told = done(state, Wanted(1, schedule("a"), False), Wanted(2, schedule("b"), True), Wanted(3, schedule("c"), False))
    assert told.events == [
        SchedulePaused(name="a"),
        ScheduleResumed(name="b"),
        upserted(schedule("c")),
        SchedulePaused(name="c"),
    ]
    assert (told.switched, told.enabled) == (["a", "b", "c"], 1)
    again = done(state, Wanted(1, schedule("a"), True), Wanted(2, schedule("b"), False))
    assert again.events == []


def test_a_suspended_schedule_is_not_fed_more_events() -> None:
    state = fold(upserted(schedule("a")), b'{"type":"ScheduleRecoloured","v":1,"name":"a"}')
    assert state.rows["a"].suspended
    assert done(state, schedule("a", 90_000)).events == []
    assert done(state, schedule("b")).removed == []


NAMES = st.sampled_from(["a", "b", "c", "d"])
ROWS = st.dictionaries(NAMES, st.tuples(st.sampled_from([60_000, 90_000]), st.sampled_from([None, True, False])))
OTHERS = st.lists(st.tuples(NAMES, st.sampled_from(["", "s", "t"]), st.booleans()), max_size=6)


@given(others=OTHERS, rows=ROWS, daemons=st.integers(1, 2))
def test_once_followed_nothing_is_left_to_do(
    others: list[tuple[str, str, bool]], rows: dict[str, tuple[int, bool | None]], daemons: int
) -> None:
    events: list[Event] = []
    for name, source, paused in others:
        events += [upserted(schedule(name, source=source)), *([SchedulePaused(name=name)] if paused else [])]
    state = fold(*events)
    foreign = {name: row.definition for name, row in state.rows.items() if row.schedule().source != "s"}
    wanted = [Wanted(i, schedule(name, every), enabled) for i, (name, (every, enabled)) in enumerate(rows.items(), 1)]
    first = done(state, *wanted, allow_empty=True)
    for _ in range(daemons):
        follow(state, first.events)
    assert done(state, *wanted, allow_empty=True).events == []
    assert {name: state.rows[name].definition for name in foreign} == foreign
    mine = {name: row.schedule() for name, row in state.rows.items() if row.schedule().source == "s"}
    assert mine == {one.schedule.name: one.schedule for one in wanted if one.schedule.name not in foreign}

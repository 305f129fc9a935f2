"""Plans: what is due, why, and when to look again. `now` is an argument, so that no test waits."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaimd.daemon.actions import Action, Cause, Cleanup, Promote, Reclaim, Retain, Ring
from reclaimd.daemon.recovery import IDLE_MS, RECHECK_MS, SHORTEST_MS, WAITING_MS, Memory, Plan, plan
from reclaimd.daemon.view import PartitionView
from reclaimd.streams.settings import DaemonSettings
from support.views import make_view

SETTINGS = DaemonSettings()
SETTLED = Memory(scanned_at=0.0, retained_at=0.0, cleaned_at=0.0)
"""A partition that was looked at before, at second 0."""


def decide(view: PartitionView, memory: Memory = SETTLED, now: float = 1.0) -> Plan:
    return plan(view, memory, SETTINGS, now)


def live(**fields: object) -> PartitionView:
    """A partition with one live worker, lease 15 s, renewed just now."""
    return make_view(**{"live": 1, "cap_ms": 5_000, "lease_now": 100_000, "next_lease_end": 115_000} | fields)


def test_a_partition_that_does_not_exist_is_left_alone() -> None:
    assert plan(make_view(state="absent"), Memory(), SETTINGS, 0.0) == Plan(
        actions=(), wake_in_ms=IDLE_MS, memory=Memory()
    )


def test_the_first_look_searches_for_unknown_owners() -> None:
    first = plan(make_view(), Memory(), SETTINGS, 7.0)
    assert first.actions == (Reclaim(Cause.START, unknown=True),)
    assert first.memory.scanned_at == 7.0
    assert decide(make_view(), first.memory, 8.0).actions == ()


def test_the_first_look_says_if_it_found_dead_workers() -> None:
    assert plan(make_view(expired=1), Memory(), SETTINGS, 0.0).actions == (Reclaim(Cause.LEASE_EXPIRED, unknown=True),)


@pytest.mark.parametrize(
    ("fields", "cause"), [({"expired": 1, "fenced": 2}, Cause.LEASE_EXPIRED), ({"fenced": 1}, Cause.UNFINISHED)]
)
def test_dead_workers_are_reclaimed_and_looked_at_again_soon(fields: dict[str, int], cause: Cause) -> None:
    todo = decide(make_view(**fields))
    assert todo.actions == (Reclaim(cause),)
    assert todo.wake_in_ms == RECHECK_MS


def test_unknown_owners_are_searched_for_now_and_then_while_anything_is_pending() -> None:
    every = SETTINGS.unknown_scan_every_ms / 1000
    pending = live(pending={"lane:low": 1})
    assert decide(pending, now=every - 0.1).actions == ()
    assert decide(pending, now=every).actions == (Reclaim(Cause.UNKNOWN_SCAN, unknown=True),)
    assert decide(live(), now=every).actions == ()


def test_recovery_comes_before_due_tasks() -> None:
    todo = decide(make_view(expired=1, overdue=2, delayed=2, next_due=1))
    assert todo.actions == (Reclaim(Cause.LEASE_EXPIRED), Promote())


@pytest.mark.parametrize(
    ("view", "wake"),
    [
        (make_view(), IDLE_MS),
        (live(), 4_000),
        (live(next_lease_end=100_120), 120),
        (live(cap_ms=333), 266),
        (live(next_lease_end=100_001), SHORTEST_MS),
        (make_view(now_ms=5_000, delayed=1, next_due=5_700), 700),
        (make_view(now_ms=5_000, delayed=1, next_due=99_000), IDLE_MS),
        (make_view(waiting={"lane:high": 1}, bell=True), WAITING_MS),
        (make_view(waiting={"lane:high": 1}, paused=True), IDLE_MS),
        (make_view(cap_ms=1, next_lease_end=None), IDLE_MS),
    ],
)
def test_it_wakes_when_something_can_have_happened(view: PartitionView, wake: int) -> None:
    assert decide(view) == Plan(actions=(), wake_in_ms=wake, memory=decide(view).memory)


def test_a_silent_bell_beside_old_work_is_rung_at_once() -> None:
    view = make_view(waiting={"lane:high": 1}, oldest_waiting_ms=WAITING_MS)
    assert decide(view).actions == (Ring(),)
    assert decide(msgspec.structs.replace(view, bell=True)).actions == ()
    assert decide(msgspec.structs.replace(view, paused=True)).actions == ()


def test_a_silent_bell_is_rung_after_two_looks_when_a_stepped_clock_spoilt_the_age() -> None:
    view = make_view(waiting={"lane:high": 1}, oldest_waiting_ms=0)
    first = decide(view, now=10.0)
    second = decide(view, first.memory, now=10.5)
    third = decide(view, second.memory, now=11.0)
    assert [first.actions, second.actions, third.actions] == [(), (), (Ring(),)]
    assert decide(view, third.memory, now=11.9).actions == ()
    assert decide(view, third.memory, now=12.0).actions == (Ring(),)


def test_a_bell_that_was_heard_in_between_is_not_silent() -> None:
    view = make_view(waiting={"lane:high": 1}, oldest_waiting_ms=0)
    memory = decide(view, now=10.0).memory
    memory = decide(msgspec.structs.replace(view, bell=True), memory, now=10.5).memory
    assert memory.silent_since is None
    assert decide(view, memory, now=11.5).actions == ()


def test_housekeeping_is_done_now_and_then_and_only_where_there_is_something() -> None:
    assert decide(make_view(), now=1e6).actions == ()
    assert decide(make_view(dead=1), now=59.0).actions == ()
    todo = decide(make_view(dead=1, gone=1), now=60.0)
    assert [type(action) for action in todo.actions] == [Retain, Cleanup]
    assert decide(make_view(dead=1, gone=1), todo.memory, now=61.0).actions == ()


def test_short_retention_is_kept_in_time() -> None:
    settings = DaemonSettings(dead_retention_ms=2_000, gone_retention_ms=0)
    todo = plan(make_view(dead=1, gone=1), SETTLED, settings, 2.0)
    assert todo.actions == (
        Retain(2_000, settings.dead_max, settings.events_retention_ms, settings.events_max),
        Cleanup(0),
    )


counts = st.integers(0, 3)
spans = st.integers(0, 20_000)
views = st.builds(
    make_view,
    state=st.sampled_from(["ok", "absent"]),
    now_ms=spans,
    lease_now=spans,
    cap_ms=st.integers(0, 5_000),
    next_lease_end=st.none() | st.integers(20_001, 40_000),
    live=counts,
    fenced=counts,
    expired=counts,
    gone=counts,
    delayed=counts,
    next_due=st.none() | spans,
    overdue=counts,
    waiting=st.dictionaries(st.sampled_from(["suspect", "lane:high"]), counts),
    pending=st.dictionaries(st.sampled_from(["suspect", "lane:high"]), counts),
    oldest_waiting_ms=st.none() | spans,
    dead=counts,
    events=counts,
    bell=st.booleans(),
    paused=st.booleans(),
)


@given(st.lists(st.tuples(views, st.floats(0.001, 100)), max_size=20))
def test_whatever_is_seen_nothing_waits_longer_than_promised(history: list[tuple[PartitionView, float]]) -> None:
    memory, now = Memory(), 0.0
    for view, passed in history:
        now += passed
        todo = plan(view, memory, SETTINGS, now)
        memory = todo.memory
        assert SHORTEST_MS <= todo.wake_in_ms <= IDLE_MS
        assert len(todo.actions) == len({type(action) for action in todo.actions})
        if view.state == "absent":
            assert todo.actions == ()
            continue
        assert has(todo.actions, Reclaim) or not view.has_orphans
        assert has(todo.actions, Promote) == (view.overdue > 0)
        if view.live and view.cap_ms >= 10:
            assert todo.wake_in_ms < view.cap_ms
        if view.total_waiting and not view.paused:
            assert todo.wake_in_ms <= WAITING_MS


@given(views, st.floats(1, 1_000))
def test_plans_are_calm_once_everything_was_done(view: PartitionView, now: float) -> None:
    """A second look at a partition where the actions had their effect finds nothing more to do."""
    todo = plan(view, Memory(), SETTINGS, now)
    calm = msgspec.structs.replace(view, expired=0, fenced=0, overdue=0, bell=True)
    assert plan(calm, todo.memory, SETTINGS, now + 0.1).actions == ()


def has(actions: tuple[Action, ...], kind: type[Action]) -> bool:
    return any(isinstance(action, kind) for action in actions)

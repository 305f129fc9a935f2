import itertools
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaimd.streams.schedules import zones
from reclaimd.streams.schedules.calculus import (
    LATEST_MS,
    count_between,
    due_between,
    explain,
    jitter_of,
    last_before,
    last_of,
    next_after,
    next_of,
)
from reclaimd.streams.schedules.cron import BadCron, read
from reclaimd.streams.schedules.instants import parse_instant
from reclaimd.streams.schedules.model import Cron, Every, Once, Schedule, Trigger
from reclaimd.streams.schedules.triggers import every, once
from reclaimd.streams.schedules.walk import shortest_gap
from reclaimd.streams.schedules.zones import UnknownZone, pieces_of, zone_of
from support.cron_expressions import written

ZONES = (
    "UTC",
    "Europe/Paris",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Africa/Casablanca",
    "Pacific/Apia",
)
AROUND_2027 = st.integers(parse_instant("2026-01-01T00:00"), parse_instant("2029-01-01T00:00"))
INSTANTS = AROUND_2027 | st.integers(parse_instant("2011-12-28T00:00"), parse_instant("2012-04-05T00:00"))
CRONS = st.builds(Cron, st.sampled_from(written()), st.sampled_from(ZONES))
TRIGGERS = st.one_of(
    CRONS, st.builds(Every, st.integers(1_000, 10**9), st.none() | AROUND_2027), st.builds(Once, AROUND_2027)
)
DAILY = Cron("30 2 * * *", "Europe/Paris")


def at(text: str, tz: str = "UTC") -> int:
    return parse_instant(text, tz)


def schedule(trigger: Trigger = DAILY, **fields: object) -> Schedule:
    return Schedule(name="n", task="t", queue="q", trigger=trigger, **fields)  # type: ignore[arg-type]


@given(TRIGGERS, INSTANTS, INSTANTS)
def test_next_and_last_are_each_others_inverse(trigger: Trigger, after: int, anchor: int) -> None:
    found = [after]
    for _ in range(5):
        following = next_after(trigger, found[-1], anchor_ms=anchor)
        if following is None:
            break
        assert following > found[-1]
        found.append(following)
    for earlier, later in itertools.pairwise(found[1:]):
        assert last_before(trigger, later, anchor_ms=anchor) == earlier
        assert last_before(trigger, earlier + 1, anchor_ms=anchor) == earlier
        assert next_after(trigger, later - 1, anchor_ms=anchor) == later
    if len(found) > 1:
        before = last_before(trigger, found[1], anchor_ms=anchor)
        assert before is None or (before <= after and next_after(trigger, before, anchor_ms=anchor) == found[1])


@given(TRIGGERS, INSTANTS, INSTANTS, st.integers(0, 200_000_000), st.integers(0, 40))
def test_due_and_count_equal_repeated_next(trigger: Trigger, anchor: int, after: int, length: int, most: int) -> None:
    until, expected, last = after + length, [], after
    while (following := next_after(trigger, last, anchor_ms=anchor)) is not None and following <= until:
        expected.append(following)
        last = following
        if len(expected) > 300:
            break
    assert due_between(trigger, after, until, anchor_ms=anchor, most=most) == expected[:most]
    counted = count_between(trigger, after, until, anchor_ms=anchor, most=most)
    assert counted == (len(expected) if len(expected) <= most else -1)
    if len(expected) <= 300:
        assert count_between(trigger, after, until, anchor_ms=anchor, most=300) == len(expected)


@given(st.integers(1, 60), st.integers(-100, 100), st.integers(-100, 200))
def test_an_interval_is_the_grid_of_its_anchor(step: int, anchor: int, after: int) -> None:
    base = 10**9
    grid = [base + anchor + step * k for k in range(-500, 500)]
    trigger = Every(step, base + anchor)
    assert next_after(trigger, base + after, anchor_ms=0) == min(ms for ms in grid if ms > base + after)
    assert last_before(trigger, base + after, anchor_ms=0) == max(ms for ms in grid if ms < base + after)
    assert next_after(Every(step), base + after, anchor_ms=base + anchor) == next_after(
        trigger, base + after, anchor_ms=0
    )


@given(CRONS, INSTANTS, st.lists(st.integers(-(10**8), 10**8), max_size=6))
def test_what_was_asked_before_changes_no_answer(trigger: Cron, start: int, steps: list[int]) -> None:
    for step in steps:
        first = next_after(trigger, start + step, anchor_ms=0)
        assert first == due_between(trigger, start + step, LATEST_MS, anchor_ms=0, most=1)[0]
        assert first is not None
        assert last_before(trigger, first, anchor_ms=0) in {None, last_before(trigger, start + step + 1, anchor_ms=0)}


def test_the_hour_that_does_not_exist() -> None:
    day = (at("2027-03-27T12:00Z"), at("2027-03-28T12:00Z"))
    jump = at("2027-03-28T01:00Z")
    assert due_between(DAILY, *day, anchor_ms=0, most=9) == [jump]
    assert due_between(Cron("0,20,40 2 * * *", "Europe/Paris"), *day, anchor_ms=0, most=9) == [jump]
    assert due_between(Cron("30 2,3 * * *", "Europe/Paris"), *day, anchor_ms=0, most=9) == [jump, jump + 1_800_000]
    assert due_between(Cron("*/30 2 * * *", "Europe/Paris"), *day, anchor_ms=0, most=9) == []


def test_the_hour_that_comes_twice() -> None:
    day = (at("2027-10-30T12:00Z"), at("2027-10-31T12:00Z"))
    first = at("2027-10-31T02:30+02:00")
    assert due_between(DAILY, *day, anchor_ms=0, most=9) == [first]
    assert next_after(DAILY, first, anchor_ms=0) == at("2027-11-01T02:30+01:00")
    assert last_before(DAILY, at("2027-10-31T02:59+01:00"), anchor_ms=0) == first
    assert due_between(Cron("*/30 2 * * *", "Europe/Paris"), *day, anchor_ms=0, most=9) == [
        at(f"2027-10-31T02:{minute}{offset}") for offset in ("+02:00", "+01:00") for minute in ("00", "30")
    ]


def test_the_bounds_of_a_schedule() -> None:
    bounded = schedule(Every(1_000, 0), start_ms=5_000, end_ms=8_000)
    assert next_of(bounded, 0, created_ms=0) == 5_000
    assert next_of(bounded, 7_500, created_ms=0) == 8_000
    assert next_of(bounded, 8_000, created_ms=0) is None
    assert last_of(bounded, 10**6, created_ms=0) == 8_000
    assert last_of(bounded, 5_001, created_ms=0) == 5_000
    assert last_of(bounded, 5_000, created_ms=0) is None
    assert due_between(bounded, -1, 10**6, anchor_ms=0, most=9) == [5_000, 6_000, 7_000, 8_000]
    assert count_between(bounded, -1, 10**6, anchor_ms=0, most=9) == 4
    assert next_of(schedule(Every(1_000)), 0, created_ms=300) == 300


def test_the_ends_of_time() -> None:
    for trigger in (Cron("* * * * *", "Asia/Kathmandu"), Every(1_000, 0)):
        assert next_after(trigger, -(10**15), anchor_ms=0) is not None
        assert next_after(trigger, LATEST_MS, anchor_ms=0) is None
        assert next_after(trigger, 10**18, anchor_ms=0) is None
        assert last_before(trigger, 0, anchor_ms=0) is None
        assert last_before(trigger, 10**18, anchor_ms=0) is not None
        assert count_between(trigger, 10, 5, anchor_ms=0, most=9) == 0
    assert next_after(Cron("0 0 * 2 MON#5"), at("2072-03-01T00:00"), anchor_ms=0) == at("2112-02-29T00:00")
    assert count_between(Cron("* * * * * *", "Europe/Paris"), 0, LATEST_MS, anchor_ms=0, most=10_000) == -1


def test_jitter_is_below_its_bound_and_always_the_same() -> None:
    late = schedule(jitter_ms=60_000)
    found = [jitter_of(late, nominal) for nominal in range(0, 10**8, 10**6)]
    assert found == [jitter_of(late, nominal) for nominal in range(0, 10**8, 10**6)]
    assert min(found) >= 0
    assert max(found) < 60_000
    assert len(set(found)) > 90
    assert jitter_of(schedule(), 5) == 0
    assert jitter_of(late, 1_800_000_000_000) == 9_767, "another value would move occurrences of every schedule"


@given(st.sampled_from(written()))
def test_the_shortest_gap_is_that_between_instants(expr: str) -> None:
    start = at("2027-01-01T00:00")
    instants = due_between(Cron(expr), start, LATEST_MS, anchor_ms=0, most=60)
    gaps = [later - earlier for earlier, later in itertools.pairwise(instants)]
    assert shortest_gap(read(expr)) * 1_000 <= min(gaps)
    if instants[-1] - start > 2 * 366 * 86_400_000 and min(gaps) < 365 * 86_400_000:
        assert shortest_gap(read(expr)) * 1_000 == min(gaps)


@pytest.mark.parametrize(
    ("expr", "seconds"),
    [
        ("* * * * *", 60),
        ("*/20 * * * * *", 20),
        ("0,50 * * * * *", 10),
        ("5,45 0 * * * *", 40),
        ("5,45 0-1 * * * *", 20),
        ("0,50 * * * *", 600),
        ("0,10 9 * * *", 600),
        ("59 23 * * *", 86_400),
        ("0 0,23 * * *", 3_600),
        ("0 0,23 1,15 * *", 23 * 3_600),
        ("0 0 31 * *", 31 * 86_400),
        ("0 0 * * 1,5", 3 * 86_400),
        ("0 0 29 2 *", 365 * 86_400),
    ],
)
def test_the_shortest_gap_of_common_expressions(expr: str, seconds: int) -> None:
    assert shortest_gap(read(expr)) == seconds


def test_explains_in_words() -> None:
    assert explain(Cron("0 9 * * 1-5", "Europe/Paris")) == "At 09:00 on Monday through Friday, Europe/Paris"
    assert explain(every("5m")) == "Every 5m, counted from its creation"
    assert explain(every("1d", anchor="2027-01-01T03:00Z")) == "Every 1d, counted from 2027-01-01T03:00:00+00:00"
    assert explain(once("2027-03-01T09:00", tz="Europe/Paris")) == "Once, at 2027-03-01T08:00:00+00:00"


@pytest.mark.parametrize(
    ("expr", "why"),
    [
        ("61 * * * *", "its minute '61'"),
        ("* 24 * * *", "its hour '24'"),
        ("* * 0 * *", "its day of month '0'"),
        ("* * * 13 *", "its month '13'"),
        ("* * * * 8", "its day of week '8'"),
        ("* * * * FRI-MON", "ranges go upwards"),
        ("99 * * * * *", "its second '99'"),
        ("*/0 * * * *", "its minute '*/0'"),
        ("5-5/0 * * * *", "its minute '5-5/0'"),
        ("* * * *", "it has 4 fields"),
        ("", "it has 0 fields"),
        ("@daily", "as '0 0 * * *'"),
        ("1," * 200 + "1 * * * *", "too long"),
        ("١ * * * *", "its minute"),
    ],
)
def test_refuses_what_is_no_cron_expression(expr: str, why: str) -> None:
    with pytest.raises(BadCron) as caught:
        read(expr)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", "Paris", "europe/paris", "right/UTC", "posix/UTC", "localtime", "../UTC", "/etc/localtime", "Europe"]
)
def test_refuses_what_is_no_zone_everywhere(name: str) -> None:
    with pytest.raises(UnknownZone):
        zone_of(name)


@pytest.mark.parametrize("tz", ZONES)
def test_pieces_fit_together_and_have_the_offset_of_the_zone(tz: str) -> None:
    pieces = [piece for year in range(2010, 2030) for piece in pieces_of(tz, year)]
    for piece, following in itertools.pairwise(pieces):
        assert (piece.end, piece.offset) == (following.start, following.before)
    for piece in pieces:
        for seconds in (piece.start, piece.end - 1):
            assert ZoneInfo(tz).utcoffset(_utc(seconds, tz)).total_seconds() == piece.offset  # type: ignore[union-attr]


def test_a_change_at_the_turn_of_the_utc_year_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """No zone has had one since 1971, one may."""
    turn = zones.year_start(2030)
    monkeypatch.setattr(zones, "_offset", lambda _, seconds: 3_600 if seconds >= turn else 0)
    assert zones.pieces_of.__wrapped__("UTC", 2030) == (zones.Piece(turn, zones.year_start(2031), 3_600, 0),)


def _utc(seconds: int, tz: str) -> datetime:
    return datetime.fromtimestamp(seconds, ZoneInfo(tz))

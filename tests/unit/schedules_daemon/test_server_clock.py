"""The server's clock, reckoned from answers that come late."""

import pytest

from reclaimd.daemon.schedules.server_clock import SAMPLES, STEP_MS, Seen, ServerClock
from support.clock import Clock


def test_nothing_is_known_before_the_first_answer() -> None:
    clock = ServerClock(Clock())
    assert not clock.known
    with pytest.raises(ValueError):
        clock.now()


def test_the_quickest_of_the_last_answers_counts() -> None:
    local = Clock(100.0)
    clock = ServerClock(local)
    for delay in (40, 3, 25):
        clock.saw(5_000_000 + delay, 100.0)
    assert clock.now() == 5_000_003
    local.now += 2
    assert clock.now() == 5_002_003
    for _ in range(SAMPLES):
        clock.saw(5_000_010, 100.0)
    assert clock.now() == 5_002_010


def test_a_clock_that_was_set_back_is_followed_at_once() -> None:
    clock = ServerClock(Clock(100.0))
    clock.saw(5_000_000, 100.0)
    clock.saw(1_000_000, 100.0)
    assert clock.now() == 1_000_000


def test_a_clock_that_was_set_forward_is_believed_the_second_time() -> None:
    clock = ServerClock(Clock(100.0))
    clock.saw(1_000_000, 100.0)
    ahead = 1_000_000 + STEP_MS + 1
    clock.saw(ahead, 100.0)
    assert clock.now() == 1_000_000
    clock.saw(ahead, 100.0)
    assert clock.now() == ahead


def test_what_was_seen_is_fresh_by_both_clocks() -> None:
    assert Seen(100_000, 50.0).is_fresh(104_999, 54.999, 5_000)
    assert not Seen(100_000, 50.0).is_fresh(105_000, 50.0, 5_000)
    # Set back.
    assert not Seen(100_000, 50.0).is_fresh(95_000, 50.0, 5_000)
    assert not Seen(100_000, 50.0).is_fresh(100_000, 55.0, 5_000)
    assert not Seen().is_fresh(0, 0.0, 5_000), "never seen"

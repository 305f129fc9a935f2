"""What loops report, and what becomes of it."""

import pytest

from reclaimd.daemon.health import Health, Problem, Stall
from support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(monotonic=clock, wall=clock, stall_after=10)


def test_nothing_expected_is_healthy(health: Health) -> None:
    assert health.problems() == []
    assert health.stalls() == []


def test_an_expected_loop_is_a_problem_until_its_first_success(health: Health) -> None:
    health.expect("reclaim", "mail")
    assert health.problems() == [
        Problem("reclaim", "mail", "1970-01-01T00:16:40.000Z", "has not succeeded yet since the start")
    ]
    health.progress("reclaim", "mail")
    assert health.problems()
    health.ok("reclaim", "mail")
    assert health.problems() == []
    health.expect("reclaim", "mail")
    assert health.problems() == []


def test_a_failure_lasts_until_the_step_succeeds_again(health: Health, clock: Clock) -> None:
    health.ok("reclaim", "mail")
    health.failed("reclaim", "mail", ConnectionError("refused\nby peer"))
    clock.now += 2
    health.failed("reclaim", "mail", "still refused")
    health.progress("reclaim", "mail")
    assert health.problems() == [Problem("reclaim", "mail", "1970-01-01T00:16:40.000Z", "still refused")]
    health.ok("reclaim", "mail")
    assert health.problems() == []


def test_one_queue_in_trouble_does_not_hide_another(health: Health, clock: Clock) -> None:
    health.failed("reclaim", "b", ValueError("x"))
    clock.now += 1
    health.failed("reclaim", "a", ValueError("y"))
    health.failed("promote", "", ValueError("z" * 400))
    assert [(p.what, p.queue) for p in health.problems()] == [("reclaim", "b"), ("promote", ""), ("reclaim", "a")]
    assert all(len(problem.detail) <= 300 for problem in health.problems())
    health.ok("reclaim", "b")
    assert len(health.problems()) == 2


def test_only_a_loop_that_hangs_is_a_stall(health: Health, clock: Clock) -> None:
    health.expect("slow", stall_after=60)
    health.ok("reclaim", "mail")
    health.failed("promote", "mail", "no Redis")
    clock.now += 10
    assert health.stalls() == []
    health.failed("promote", "mail", "no Redis")
    clock.now += 0.5
    assert health.stalls() == [Stall("reclaim", "mail", 10.5, 10)]
    health.progress("reclaim", "mail")
    assert health.stalls() == []


def test_a_loop_that_ended_on_purpose_is_forgotten(health: Health, clock: Clock) -> None:
    health.failed("reclaim", "mail", "x")
    clock.now += 100
    health.forget("reclaim", "mail")
    health.forget("reclaim", "mail")
    assert health.problems() == []
    assert health.stalls() == []

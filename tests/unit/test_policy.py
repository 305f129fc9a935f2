"""When a failed attempt is tried again, and how long an unknown task is parked."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaimd.streams.codec import Delivery
from reclaimd.streams.errors import InvalidTask
from reclaimd.streams.policy import NO_RETRY, Retry, parking_delay

HOUR = 3_600_000


def parked(times: int, *before: str) -> Delivery:
    rows = [json.dumps([1, what, "w", ""]) for what in (*before, *["parked"] * times)]
    return Delivery(
        stream=5,
        entry_id="1-1",
        task_id="t",
        enqueued_at=1,
        lane="normal",
        max_deliveries=5,
        body=b"",
        history="\n".join(rows),
    )


def test_delays_grow_by_the_factor_up_to_the_longest() -> None:
    retry = Retry(attempts=9, delay=1, factor=3, max_delay=20, jitter=0)
    delays = [retry.next_delay(failures, ValueError(), 0) for failures in range(1, 10)]
    assert delays == [1000, 3000, 9000, 20_000, 20_000, 20_000, 20_000, 20_000, None]


def test_the_first_attempt_counts() -> None:
    assert NO_RETRY.next_delay(1, ValueError(), 0) is None
    assert Retry(attempts=2).next_delay(1, ValueError(), 0) == 1000
    assert Retry(attempts=2).next_delay(2, ValueError(), 0) is None


def test_jitter_only_lengthens() -> None:
    retry = Retry(delay=2, jitter=0.5)
    assert [retry.next_delay(1, ValueError(), chance) for chance in (0.0, 0.5, 1.0)] == [2000, 2500, 3000]


def test_which_exceptions_are_retried() -> None:
    retry = Retry(on=(OSError, KeyError), never=(ConnectionError,))
    assert retry.next_delay(1, FileNotFoundError(), 0) is not None
    assert retry.next_delay(1, KeyError(), 0) is not None
    assert retry.next_delay(1, ConnectionResetError(), 0) is None
    assert retry.next_delay(1, ValueError(), 0) is None


def test_a_timeout_counts_as_timeout_error() -> None:
    assert Retry(never=(TimeoutError,)).next_delay(1, TimeoutError(), 0) is None


@given(failures=st.integers(1, 10**6), chance=st.floats(0, 1))
def test_no_number_of_failures_overflows(failures: int, chance: float) -> None:
    delay = Retry(attempts=10**7).next_delay(failures, ValueError(), chance)
    assert delay is not None
    assert 1000 <= delay <= 3600 * 1000 * 1.1


@pytest.mark.parametrize(
    "wrong",
    [{"attempts": 0}, {"delay": -1}, {"factor": 0.5}, {"max_delay": -1}, {"jitter": 1.5}, {"jitter": -0.1}],
    ids=str,
)
def test_a_policy_without_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidTask, match="retry"):
        Retry(**wrong)  # type: ignore[arg-type]


def test_parking_gets_longer_and_ends_after_about_the_set_time() -> None:
    waits = []
    for times in range(1000):
        delay = parking_delay(parked(times), HOUR)
        if delay is None:
            break
        waits.append(delay)
    assert waits[:4] == [1000, 2000, 4000, 8000]
    assert max(waits) == HOUR // 10
    assert HOUR <= sum(waits) <= HOUR * 1.1
    # The envelope remembers 20 rows: more parkings than that would never end.
    assert len(waits) < 20


def test_parking_begins_anew_after_the_task_has_run() -> None:
    assert parking_delay(parked(2, "parked", "parked", "retried"), HOUR) == 4000


def test_parking_may_be_forbidden() -> None:
    assert parking_delay(parked(0), 0) is None


@pytest.mark.parametrize("row", ["not json", "{}", "[]", "7", '"parked"', "[[1]]"])
def test_a_history_that_somebody_else_wrote_is_no_error(row: str) -> None:
    delivery = parked(0)
    strange = Delivery(**{name: getattr(delivery, name) for name in delivery.__struct_fields__} | {"history": row})
    assert parking_delay(strange, HOUR) == 1000

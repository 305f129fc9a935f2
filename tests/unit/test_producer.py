"""The producer's rules without IO: batches, addresses, what a failure means."""

import itertools
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaimd.streams.app import Reclaimd
from reclaimd.streams.enqueueing import (
    BATCH_BYTES,
    BATCH_TASKS,
    FIRST_WAIT,
    LONGEST_WAIT,
    Addressed,
    Attempt,
    EnqueueResult,
    Limits,
    accepted_id,
    address,
    batches,
    new_task_id,
)
from reclaimd.streams.errors import (
    EnqueueUncertain,
    InvalidTask,
    PayloadTooLarge,
    ReclaimdError,
    RedisFull,
    RedisUnreachable,
    RedisUnusable,
    Unusable,
)
from reclaimd.streams.ids import task_id_from
from reclaimd.streams.keys import Partition
from reclaimd.streams.scripts import NewTask

AWAY = RedisUnreachable("redis://h", "refused")
LIMITS = Limits(1000, 5)
app = Reclaimd("redis://localhost", "ns")


@app.task(queue="mail", lane="high", max_deliveries=7)
def send(to: str) -> None: ...


@app.task()
def plain() -> None: ...


def addressed(queue: str, size: int = 2) -> Addressed:
    return Addressed(Partition("ns", queue), NewTask("t", "normal", 5, b"x" * size))


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([1, 400_000, BATCH_BYTES, BATCH_BYTES + 9])), max_size=30)
)
def test_batches_keep_the_order_and_their_limits(shape: list[tuple[str, int]]) -> None:
    tasks = [addressed(queue, size) for queue, size in shape]
    made = list(batches(tasks))
    assert [Addressed(partition, task) for partition, batch in made for task in batch] == tasks
    for _, batch in made:
        assert batch
        assert len(batch) == 1 or sum(len(task.body) for task in batch) <= BATCH_BYTES
    for (one, first), (two, second) in itertools.pairwise(made):
        joined = sum(len(task.body) for task in first) + len(second[0].body)
        assert one != two or joined > BATCH_BYTES


def test_a_batch_has_no_more_tasks_than_one_script_call_takes() -> None:
    sizes = [len(batch) for _, batch in batches([addressed("a")] * (BATCH_TASKS * 2 + 1))]
    assert sizes == [BATCH_TASKS, BATCH_TASKS, 1]
    assert list(batches([])) == []


def test_waits_double_up_to_a_second_until_the_deadline() -> None:
    attempt = Attempt(deadline=100.0)
    waits = [attempt.after(AWAY, 0.0, sent=False) for _ in range(8)]
    assert waits == [FIRST_WAIT * 2**i for i in range(5)] + [LONGEST_WAIT] * 3
    assert attempt.after(AWAY, 99.5, sent=False) is None


@pytest.mark.parametrize(
    "error", [RedisFull(), RedisUnusable(Unusable.PASSWORD), RedisUnusable(Unusable.LAYOUT)], ids=repr
)
def test_what_waiting_does_not_cure_is_given_up_at_once(error: ReclaimdError) -> None:
    attempt = Attempt(deadline=100.0)
    assert attempt.after(error, 0.0, sent=True) is None
    assert attempt.verdict("t", error) == EnqueueResult("t", "refused", error)


@pytest.mark.parametrize("reason", [Unusable.LOADING, Unusable.READ_ONLY, Unusable.CANNOT_SAVE, Unusable.NO_REPLICAS])
def test_what_may_pass_is_waited_for_and_stays_certain(reason: Unusable) -> None:
    attempt = Attempt(deadline=1.0)
    error = RedisUnusable(reason)
    assert attempt.after(error, 0.0, sent=True) == FIRST_WAIT
    assert attempt.after(error, 2.0, sent=True) is None
    assert attempt.verdict("t", error).status == "refused"


def test_only_what_may_have_left_is_uncertain() -> None:
    certain = Attempt(deadline=1.0)
    certain.after(AWAY, 0.0, sent=False)
    assert certain.verdict("t", AWAY).error is AWAY
    uncertain = Attempt(deadline=1.0)
    uncertain.after(AWAY, 0.0, sent=True)
    # What follows cannot make it certain again: the first one may still arrive.
    uncertain.after(RedisFull(), 0.1, sent=True)
    result = uncertain.verdict("t", RedisFull())
    assert result.status == "uncertain"
    assert isinstance(result.error, EnqueueUncertain)
    assert result.error.task_id == "t"


def test_a_result_is_an_id_or_an_error() -> None:
    assert accepted_id(EnqueueResult("t", "exists")) == "t"
    with pytest.raises(RedisFull):
        accepted_id(EnqueueResult("t", "refused", RedisFull()))


def test_the_call_wins_over_the_task_and_the_task_over_the_settings() -> None:
    partition, task, _ = address(send.call(to="a"), "ns", LIMITS)
    assert (partition, task.lane, task.max_deliveries, task.delay_ms) == (Partition("ns", "mail"), "high", 7, 0)
    options = send.call(to="a").options(delay="2s", unique="u", lane="low", queue="q", task_id="id", max_deliveries=1)
    partition, task, _ = address(options, "ns", LIMITS)
    assert partition == Partition("ns", "q")
    assert task == NewTask("id", "low", 1, options.body, unique="u", delay_ms=2000)
    assert address(plain.call(), "ns", LIMITS).task.max_deliveries == 5


@pytest.mark.parametrize(
    "options", [{"lane": "x"}, {"queue": "a b"}, {"task_id": "a b"}, {"task_id": "x" * 129}], ids=str
)
def test_an_address_that_no_script_would_take(options: dict[str, str]) -> None:
    with pytest.raises(InvalidTask):
        address(send.call(to="a").options(**options), "ns", LIMITS)  # type: ignore[arg-type]


def test_the_limit_is_for_the_encoded_body() -> None:
    size = len(send.call(to="a" * 10).body)
    address(send.call(to="a" * 10), "ns", Limits(size, 5))
    with pytest.raises(PayloadTooLarge):
        address(send.call(to="a" * 11), "ns", Limits(size, 5))


@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
def test_task_ids_are_uuids_of_version_7(now: int, random: bytes) -> None:
    made = uuid.UUID(task_id_from(now, random))
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == now


def test_task_ids_sort_by_time_and_differ() -> None:
    assert task_id_from(1, b"\xff" * 10) < task_id_from(2, b"\x00" * 10)
    assert len({new_task_id() for _ in range(1000)}) == 1000

"""Batch sizes, and in which order and how long actions are carried out. Replies are handed in beforehand."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import redis

from reclaimd.daemon.actions import Action, Cause, Cleanup, Promote, Reclaim, Retain, Ring
from reclaimd.daemon.batches import FAST_MS, SMALLEST_BATCH, STEP_SECONDS, TOO_SLOW_MS, BatchSize
from reclaimd.daemon.execute import Executor, Outcome
from reclaimd.streams.errors import RedisUnreachable
from reclaimd.streams.keys import Partition
from reclaimd.streams.scripts import Call

T = TypeVar("T")
RETAIN = Retain(1, 2, 3, 4)


class Script:
    """Answers calls by script name with prepared replies, and records what was asked."""

    def __init__(self, **replies: list[Any]) -> None:
        self.replies = replies
        self.asked: list[tuple[str, tuple[object, ...]]] = []

    async def __call__(self, call: Call[T], /) -> T:
        self.asked.append((call.script.name, call.args[1:]))
        reply = self.replies[call.script.name].pop(0)
        if isinstance(reply, Exception):
            raise reply
        return call.parse(reply)


def execute(send: Script, *actions: Action, clock: Callable[[], float] = lambda: 0.0) -> Outcome:
    executor = Executor(Partition("t", "q"), send, 500, clock=clock)
    return asyncio.run(executor.execute(actions))


def test_batches_shrink_when_slow_and_grow_when_fast_and_full() -> None:
    size = BatchSize(500)
    started = size.size
    size.took(TOO_SLOW_MS + 1, started)
    assert size.size == started, "one slow call may be anybody's fault"
    size.took(TOO_SLOW_MS + 1, started)
    assert size.size == started // 2
    for _ in range(10):
        size.took(TOO_SLOW_MS + 1, size.size)
    assert size.size == SMALLEST_BATCH
    for _ in range(20):
        size.took(FAST_MS - 1, size.size)
    assert size.size == 500


def test_batches_stay_when_the_time_is_right_or_says_nothing() -> None:
    size = BatchSize(500)
    started = size.size
    size.took((FAST_MS + TOO_SLOW_MS) / 2, started)
    size.took(0.1, started - 1)
    assert size.size == started


def test_a_distant_server_is_not_a_slow_one() -> None:
    size = BatchSize(500)
    started = size.size
    size.took(40.0, started, idle_ms=39.0)
    assert size.size > started


def test_a_small_maximum_is_kept() -> None:
    size = BatchSize(5)
    for _ in range(3):
        size.took(100.0, 5)
    assert size.size == 5


def test_reclaim_goes_on_while_there_is_more_and_scans_once() -> None:
    send = Script(reclaim=[[64, 1, 2, b"ok"], [64, 1, 2, b"ok"], [3, 0, 2, b"ok"]])
    assert execute(send, Reclaim(Cause.START, unknown=True)) == Outcome(moved=131, workers=2)
    assert [args[1] for _, args in send.asked] == [1, 0, 0]


def test_an_action_stops_at_its_time_limit_and_says_so() -> None:
    send = Script(reclaim=[[64, 1, 1, b"ok"]] * 9)
    outcome = execute(send, Reclaim(Cause.LEASE_EXPIRED), clock=lambda: STEP_SECONDS / 3 * len(send.asked))
    assert outcome == Outcome(moved=64 * 3, workers=1, unfinished=True)


def test_two_calls_are_on_their_way_at_once_after_the_first() -> None:
    send = Script(reclaim=[[64, 1, 1, b"ok"]] * 4 + [[0, 0, 0, b"ok"]] * 2)
    at_once: list[int] = []
    running = 0

    async def slow(call: Call[T], /) -> T:
        nonlocal running
        running += 1
        at_once.append(running)
        await asyncio.sleep(0)
        reply = await send(call)
        running -= 1
        return reply

    outcome = asyncio.run(Executor(Partition("t", "q"), slow, 500).execute((Reclaim(Cause.START),)))
    assert (outcome.moved, outcome.unfinished) == (64 * 4, False)
    assert (at_once[0], at_once[1], max(at_once)) == (1, 1, 2)


def test_promotion_goes_on_while_there_is_more() -> None:
    send = Script(promote=[[64, b"5", 1, b"ok"], [3, b"0", 0, b"ok"]])
    assert execute(send, Promote()).promoted == 67


def test_the_rest_is_carried_out_in_order() -> None:
    send = Script(ring=[1], retain=[[10_000, 1], [2, 0]], cleanup=[[[b"w"], []]])
    outcome = execute(send, Ring(), RETAIN, Cleanup(7))
    assert outcome == Outcome(rung=True, dropped_dead=10_002, dropped_events=1, forgotten=("w",))
    assert [name for name, _ in send.asked] == ["ring", "retain", "retain", "cleanup"]
    assert send.asked[-1][1] == (7, 0)


def test_a_failing_action_does_not_keep_the_others_from_being_tried() -> None:
    first, second = redis.ResponseError("WRONGTYPE"), redis.ResponseError("later")
    send = Script(reclaim=[first], promote=[[1, b"0", 0, b"ok"]], ring=[second])
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        execute(send, Reclaim(Cause.START), Promote(), Ring())
    assert [name for name, _ in send.asked] == ["reclaim", "promote", "ring"]


def test_a_lost_server_stops_everything() -> None:
    send = Script(reclaim=[RedisUnreachable("redis://h", "gone")])
    with pytest.raises(RedisUnreachable):
        execute(send, Reclaim(Cause.START), Promote())
    assert len(send.asked) == 1

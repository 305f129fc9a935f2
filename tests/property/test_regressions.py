"""Histories that once broke a promise, or that a mutated script survived until they were written down.

A state machine takes no `@example`, and a seed or a blob of hypothesis means another history as soon as a move or its
arguments change. So each is written as the machine's own steps, by name, and judged by the same checker.
"""

from collections.abc import Iterator

import pytest

from property.machine import Partition
from property.world import Fate
from reclaimd.streams.scripts import NewTask
from support.servers import Server

ANSWERED, LATE, LOST, TWICE = Fate.ANSWERED, Fate.LATE, Fate.LOST, Fate.TWICE


def task(name: str, lane: str = "normal", most: int = 5, unique: str = "", delay_ms: int = 0) -> NewTask:
    return NewTask(name, lane, most, b'{"v":1,"name":"%s"}' % name.encode(), unique, "", delay_ms)


@pytest.fixture
def state(server: Server) -> Iterator[Partition]:
    """The machine with tasks t0 to t3 taken by worker a; everything runs out, judged, at the end."""
    state = type("Partition", (Partition,), {"server": server})()
    state.enqueue([task(f"t{i}") for i in range(4)], ANSWERED)
    state.start("a", 900, 0, False, 100, ANSWERED)
    state.plain_turn(0, 4, [])
    yield state
    state.teardown()


def test_a_fenced_worker_wakes_and_settles_nothing(state: Partition) -> None:
    state.start("b", 900, 0, False, 100, ANSWERED)
    state.outlive(1, True, True, 100)
    state.plain_turn(0, 4, [])
    state.thaw(0, 2, ["succeeded", "retry", "failed", "handback"], ANSWERED)
    assert state.world.seen.counters["fenced"] == 4


def test_a_late_audit_does_not_hand_back_what_runs(state: Partition) -> None:
    state.enqueue([task("t4"), task("t5")], ANSWERED)
    state.turn(0, 0, [], True, LATE)
    state.turn(0, 1, [], True, ANSWERED)
    state.start("b", 900, 0, False, 100, ANSWERED)
    state.arrive(0)
    state.plain_turn(0, 4, [])


def test_a_late_turn_of_a_dead_worker_settles_nothing_that_was_moved(state: Partition) -> None:
    state.start("b", 900, 0, False, 100, ANSWERED)
    state.turn(1, 2, ["succeeded", "retry"], False, LATE)
    state.outlive(1, False, True, 2)
    state.plain_turn(0, 4, [])
    state.arrive(0)


def test_two_dead_workers_and_calls_of_two_daemons_in_between(state: Partition) -> None:
    state.start("b", 900, 0, False, 100, ANSWERED)
    state.enqueue([task(f"u{i}", "high") for i in range(4)] + [task(f"v{i}") for i in range(3)], ANSWERED)
    state.plain_turn(0, 2, [])
    state.plain_turn(1, 4, [])
    state.plain_turn(0, 4, [])
    state.crash(0)
    state.crash(0)
    state.pass_time(10_000)
    for limit in (1, 2, 1, 3):
        state.world.simple("view", ANSWERED)
        state.world.pass_time(300)
        state.reclaim(limit, True, TWICE)


def test_a_takeover_in_the_middle_of_a_pass_keeps_its_order(state: Partition) -> None:
    state.enqueue([task(f"u{i}") for i in range(4)], ANSWERED)
    state.start("b", 900, 0, False, 100, ANSWERED)
    state.plain_turn(0, 4, [])
    state.outlive(1, False, True, 1)
    state.crash(0)
    state.start("b", 900, 0, True, 1, ANSWERED)
    for _ in range(8):
        if state.world.processes[-1].status == "joining":
            state.join_again(0, 1, ANSWERED)
    assert state.world.processes[-1].works


def test_a_retried_suspect_meets_no_other_suspect(state: Partition) -> None:
    for _ in range(2):
        state.crash(0)
        state.start("a", 900, 0, True, 100, ANSWERED)
        state.plain_turn(0, 4, [])
    for _ in range(3):
        state.plain_turn(0, 4, ["retry"])
        state.pass_time_alive(900)
        state.promote(100, ANSWERED)


def test_a_full_server_refuses_tasks_and_recovers_them(state: Partition) -> None:
    state.set_full(True)
    state.enqueue([task("t9"), task("t10", delay_ms=500)], ANSWERED)
    state.outlive(0, False, True, 2)
    state.start("b", 900, 0, False, 2, ANSWERED)
    state.plain_turn(0, 4, [])
    state.plain_turn(0, 4, ["succeeded", "retry", "failed", "handback"])


def test_a_reclaim_in_a_clock_step_takes_nothing_from_the_living(state: Partition) -> None:
    state.start("b", 3000, 0, False, 100, ANSWERED)
    state.step_clock(3_600_000)
    state.reclaim(100, True, ANSWERED)
    state.step_clock(-3_600_000)
    state.reclaim(100, True, ANSWERED)
    state.plain_turn(1, 1, ["succeeded", "succeeded"])
    assert state.world.seen.counters["succeeded"] == 2


def test_a_unique_key_passes_from_a_dead_letter_to_the_next_task(state: Partition) -> None:
    state.enqueue([task("t5", "high", unique="u1")], ANSWERED)
    state.plain_turn(0, 1, [])
    state.turn(0, 0, [None, None, None, None, "failed"], False, TWICE)
    state.enqueue([task("t6", "high", unique="u1")], LOST)
    state.dead("redrive", [0], ANSWERED)
    state.plain_turn(0, 1, [])
    state.turn(0, 0, [None, None, None, None, "succeeded"], False, ANSWERED)
    state.dead("redrive", [0], TWICE)

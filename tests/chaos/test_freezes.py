"""A process that is stopped for longer than its lease, and wakes."""

import os
import signal

import pytest

from support import task_app
from support.fleet import Fleet, process_state
from support.waiting import wait_until

pytestmark = pytest.mark.flavours("valkey")


def test_a_process_that_wakes_after_its_lease_settles_nothing(fleet: Fleet) -> None:
    # A machine that is busy must not end its lease before the freeze does: it would be another process.
    worker = fleet.start("frozen", lease="3s")
    ids = {fleet.enqueue(task_app.hold, "gate"), fleet.enqueue(task_app.hold_sync, "gate")}
    fleet.wait_journal("start", 2)
    fleet.start("heir")
    (child,) = worker.children
    with fleet.keeper():
        os.kill(child, signal.SIGSTOP)
        wait_until(lambda: process_state(child) == "T", "it to be stopped")
        lines = fleet.wait_journal("start", 4)[2:]
        assert {line["worker"] for line in lines} == {"heir"}
        assert {line["task"] for line in lines} == ids
        # Its handlers could end the moment it wakes, and it would tell.
        fleet.open_gate("gate")
        fleet.wait_counter("succeeded", 2)
        os.kill(child, signal.SIGCONT)
        fleet.wait_counter("false_reclaims")
        fleet.wait_counter("joined", 3)
    counters = fleet.counters()
    assert (counters["succeeded"], counters["false_reclaims"]) == (2, 1)
    assert counters["fenced"] >= 1
    assert "dead" not in counters
    wait_until(lambda: len(worker.children) == 1 and worker.children != [child], "a new process under the same ID")
    task = fleet.enqueue(task_app.note, 1)
    fleet.wait_journal("note", task=task)


def test_what_was_delivered_to_a_frozen_process_is_not_started_when_it_wakes(fleet: Fleet) -> None:
    """It was idle, a task came, and the turn that brings it may have been answered while it was frozen."""
    worker = fleet.start("frozen")
    (child,) = worker.children
    fleet.start("heir")
    with fleet.keeper():
        for round_number in range(3):
            os.kill(child, signal.SIGSTOP)
            wait_until(lambda pid=child: process_state(pid) == "T", "it to be stopped")  # type: ignore[misc]
            ids = [fleet.enqueue(task_app.note, n) for n in range(5)]
            fleet.wait_counter("succeeded", 5 * (round_number + 1))
            # Not only over: a lease that ended and was not fenced yet is renewed by the first beat after the freeze.
            wait_until(lambda: _leases(fleet) == (1, 0), "it to be fenced")
            os.kill(child, signal.SIGCONT)
            fleet.wait_counter("joined", 3 + round_number)
            assert all(len(fleet.journal("note", task=task)) == 1 for task in ids)
            wait_until(lambda pid=child: worker.children not in ([], [pid]), "a new process")  # type: ignore[misc]
            (child,) = worker.children
    assert {line["worker"] for line in fleet.journal("note")} == {"heir"}


def _leases(fleet: Fleet) -> tuple[int, int]:
    """Live ones, and those that are over but not fenced."""
    view = fleet.view()
    return view["live"], view["expired"]


def test_a_short_freeze_costs_nothing(fleet: Fleet) -> None:
    worker = fleet.start("w", lease="1h", RECLAIMD_WORKER_HEARTBEAT="100ms")
    task = fleet.enqueue(task_app.hold, "gate")
    fleet.wait_journal("start", task=task)
    (child,) = worker.children
    os.kill(child, signal.SIGSTOP)
    before = fleet.view()["lease_now"]
    with fleet.keeper():
        wait_until(lambda: fleet.view()["lease_now"] > before + 500, "a few heartbeats to be missed")
    os.kill(child, signal.SIGCONT)
    fleet.open_gate("gate")
    fleet.wait_counter("succeeded")
    assert worker.children == [child]
    assert len(fleet.journal("start")) == 1

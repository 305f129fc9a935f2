"""Which tasks a worker takes, how many, in which order, and what their handlers get."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reclaimd.streams import scripts
from reclaimd.streams.keys import Partition
from support import task_app
from support.fleet import MAIL, NAMESPACE, Fleet
from support.servers import Server
from support.waiting import wait_until

pytestmark = pytest.mark.flavours("valkey")
SIDE = Partition(NAMESPACE, "side")


@pytest.fixture
def fleet(server: Server, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(server, tmp_path) as fleet:
        yield fleet


def most_at_once(lines: list[dict[str, Any]]) -> int:
    """The greatest number of handlers between their start and their end."""
    running = most = 0
    for line in sorted(lines, key=lambda line: float(line["at"])):
        running += {"start": 1, "end": -1}[line["what"]]
        most = max(most, running)
    return most


def test_it_runs_as_many_as_allowed_and_never_more(fleet: Fleet) -> None:
    fleet.start("w", concurrency=3)
    for _ in range(12):
        fleet.enqueue(task_app.work, 30, False)
    fleet.wait_counter("succeeded", 12)
    assert most_at_once(fleet.journal("start", "end")) == 3


def test_it_takes_no_more_than_it_can_start(fleet: Fleet) -> None:
    fleet.start("w", concurrency=2)
    for _ in range(6):
        fleet.enqueue(task_app.hold, "gate")
    fleet.wait_journal("start", 2)
    fleet.wait_counter("started", 2)
    view = fleet.view()
    assert (sum(view["pending"].values()), sum(view["waiting"].values())) == (2, 4)
    fleet.open_gate("gate")
    fleet.wait_counter("succeeded", 6)


def test_sync_handlers_run_in_threads_side_by_side_within_the_limit(fleet: Fleet) -> None:
    fleet.start("w", concurrency=4)
    for _ in range(4):
        fleet.enqueue(task_app.hold_sync, "gate")
    # All four must run at once for the gate to be reached by all, and the loop is free for others' turns.
    fleet.wait_journal("start", 4)
    fleet.open_gate("gate")
    fleet.wait_counter("succeeded", 4)


def test_lanes_are_strict(fleet: Fleet) -> None:
    expected: list[str] = []
    for lane in ("low", "normal", "high"):
        ids = [fleet.enqueue(task_app.note, n, lane=lane) for n in range(5)]
        expected = ids + expected
    fleet.start("w", concurrency=1)
    fleet.wait_journal("note", 15)
    assert [line["task"] for line in fleet.journal("note")] == expected


def test_the_context(fleet: Fleet) -> None:
    fleet.start("w")
    first, second = fleet.enqueue(task_app.tell), fleet.enqueue(task_app.tell_sync)
    (line,) = fleet.wait_journal("context", task=first)
    assert 590 < line.pop("left") <= 600
    facts = {"name": "tell", "queue": "mail", "attempt": 1, "deliveries": 0, "cancelled": False, "thread": True}
    assert {name: line[name] for name in facts} == facts
    assert (line["worker"], line["token"]) == ("w", 1)
    (line,) = fleet.wait_journal("context", task=second)
    assert (line["deadline"], line["thread"]) == (None, False)


def test_a_handler_enqueues_through_the_app_that_runs_it(fleet: Fleet) -> None:
    """The app in the worker uses the worker's own settings, whatever it was made with."""
    fleet.start("w")
    fleet.enqueue(task_app.spawns, 30)
    fleet.enqueue(task_app.spawns_sync, 30)
    assert len(fleet.wait_journal("note", 60)) == 60
    fleet.wait_counter("succeeded", 62)


def test_one_worker_serves_several_queues(fleet: Fleet) -> None:
    fleet.start("w", queues=("mail", "side"))
    for n in range(5):
        fleet.enqueue(task_app.note, n)
        fleet.enqueue(task_app.aside, n)
    fleet.wait_journal("note", 10)
    fleet.wait_counter("succeeded", 5)
    fleet.wait_counter("succeeded", 5, partition=SIDE)


def wrong_types(fleet: Fleet) -> int:
    """How often the server has refused a command for the type of its key."""
    return int(fleet.raw("INFO", "errorstats").get("errorstat_WRONGTYPE", {"count": 0})["count"])


def test_a_queue_whose_turns_fail_holds_no_other_up(fleet: Fleet) -> None:
    worker = fleet.start("w", queues=("mail", "side"))
    fleet.wait_counter("joined", partition=SIDE)
    stream = SIDE.key("lane:normal")
    fleet.raw("DEL", stream)
    fleet.raw("SET", stream, "no stream")
    fleet.call(scripts.ring(SIDE))
    # Each failing turn meets the wrong type three times; the waits between them double up to a second.
    before = wrong_types(fleet)
    wait_until(lambda: wrong_types(fleet) >= before + 12, "the waits to have grown")
    took = []
    for n in range(9):
        began = time.monotonic()
        (line,) = fleet.wait_journal("note", task=fleet.enqueue(task_app.note, n))
        took.append(line["at"] - began)
        fleet.wait_counter("succeeded", n + 1)
    assert sorted(took)[4] < 0.2
    assert worker.said().count('"turn failed"') == 1, "logged once"
    fleet.raw("DEL", stream)
    task = fleet.enqueue(task_app.aside, 1)
    fleet.wait_journal("note", task=task)
    fleet.wait_counter("succeeded", partition=SIDE)
    assert fleet.counters()["joined"] == 1


def test_suspects_run_one_at_a_time(fleet: Fleet) -> None:
    """Two tasks that crashed their processes twice are never in one process again."""
    worker = fleet.start("w", concurrency=4)
    ids = [fleet.enqueue(task_app.hold, f"gate-{n}", max_deliveries=9) for n in range(3)]
    for round_number in (1, 2):
        fleet.wait_journal("start", 3 * round_number)
        (child,) = worker.children
        worker.kill_child(child)
    fleet.wait_journal("start", 7)
    fresh = fleet.enqueue(task_app.note, 1)
    fleet.wait_journal("note", task=fresh)
    view = fleet.view()
    assert (view["pending"]["suspect"], view["waiting"]["suspect"]) == (1, 2)
    for n in range(3):
        fleet.open_gate(f"gate-{n}")
    fleet.wait_counter("succeeded", 4)
    late = [line for line in fleet.journal("start", "end") if line["token"] == 3]
    assert most_at_once(late) == 1
    assert {line["task"] for line in late} == set(ids)


def test_an_idle_worker_hears_the_bell_at_once(fleet: Fleet) -> None:
    fleet.start("w")
    fleet.enqueue(task_app.note, 0)
    fleet.wait_counter("succeeded")
    took = []
    for n in range(5):
        began = time.monotonic()
        task = fleet.enqueue(task_app.note, n)
        (line,) = fleet.wait_journal("note", task=task)
        took.append(line["at"] - began)
    # Without the bell it would be the second that the daemon waits.
    assert sorted(took)[2] < 0.2


def test_a_paused_queue_delivers_nothing(fleet: Fleet) -> None:
    fleet.start("w")
    assert fleet.call(scripts.pause(MAIL, True))
    fleet.enqueue(task_app.note, 1)
    # Two more heartbeats and audits pass, each with a turn.
    beats = fleet.view()["lease_now"] + 1000
    wait_until(lambda: fleet.view()["lease_now"] >= beats, "a lease to pass")
    assert fleet.view()["live"] == 1
    assert fleet.journal() == []
    assert fleet.call(scripts.pause(MAIL, False))
    fleet.wait_journal("note")

"""Handlers that end their process, or do not end at all: a delivery without a verdict, and the work goes on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reclaimd.streams.tasks import Task
from support import task_app
from support.fleet import MAIL, Fleet
from support.servers import Server
from support.waiting import wait_until

pytestmark = pytest.mark.flavours("valkey")


@pytest.fixture
def fleet(server: Server, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(server, tmp_path) as fleet:
        yield fleet


DEATHS: dict[str, tuple[Task[..., Any], tuple[Any, ...]]] = {
    "exits": (task_app.exits, (3,)),
    "exits-in-a-thread": (task_app.exits_in_a_thread, (0,)),
    "exits-in-a-subtask": (task_app.exits_in_a_subtask, (2,)),
    # These codes look like a usage error and like an orderly stop.
    "exits-hard-2": (task_app.exits_hard, (2,)),
    "exits-hard-0": (task_app.exits_hard, (0,)),
    "aborts": (task_app.aborts, ()),
    "crashes": (task_app.crashes, ()),
}


def test_a_process_that_dies_of_a_task_comes_back_and_the_task_is_bounded(fleet: Fleet) -> None:
    """Each runs alone on its own worker, so that no other task is in the way."""
    worker = fleet.start("w", processes=2, concurrency=1)
    for name, (task, arguments) in DEATHS.items():
        fleet.enqueue(task, *arguments, task_id=name, max_deliveries=1)
    good = fleet.enqueue(task_app.note, 1)
    wait_until(lambda: len(fleet.dead()) == len(DEATHS), "every one of them to be a dead letter", 30)
    fleet.wait_journal("note", task=good)
    for letter in fleet.dead():
        assert (letter["cause"], letter["deliveries"]) == ("max_deliveries", "1"), letter
        assert len(fleet.journal("start", task=letter["task"])) == 1
    counters = fleet.counters()
    assert counters["reclaimed:released"] == len(DEATHS)
    assert "failed" not in counters
    assert worker.process.poll() is None


def test_a_crash_loop_ends_and_the_token_grows_with_each_run(fleet: Fleet) -> None:
    fleet.start("w", concurrency=1)
    poison = fleet.enqueue(task_app.exits_hard, 9, max_deliveries=3)
    (letter,) = wait_until(fleet.dead, "the poison to be buried", 20)
    assert (letter["task"], letter["cause"], letter["deliveries"]) == (poison, "max_deliveries", "3")
    assert [line["token"] for line in fleet.journal("start")] == [1, 2, 3]
    assert len({line["pid"] for line in fleet.journal("start")}) == 3


def test_what_ran_beside_it_is_handed_back_and_not_to_blame(fleet: Fleet) -> None:
    """sys.exit is no crash: the others are cancelled and return before the process ends."""
    fleet.start("w", concurrency=5)
    beside = fleet.enqueue(task_app.hold, "gate")
    fleet.wait_journal("start", task=beside)
    fleet.enqueue(task_app.exits, 1, max_deliveries=1)
    fleet.wait_journal("start", 2, task=beside)
    assert len(fleet.journal("cancelled", task=beside)) == 1
    fleet.open_gate("gate")
    fleet.wait_counter("succeeded")
    assert [line["token"] for line in fleet.journal("start", task=beside)] == [1, 2]
    assert fleet.counters()["handed_back"] == 1
    assert [letter["cause"] for letter in fleet.dead()] == ["max_deliveries"]


def test_handlers_that_do_not_end_cost_their_process(fleet: Fleet) -> None:
    """A sync one that never looks, an async one that swallows its cancellation, one that blocks the event loop."""
    worker = fleet.start("w", processes=3, concurrency=1, RECLAIMD_WORKER_GRACE="1s")
    hopeless: list[Task[..., Any]] = [task_app.deaf_sync, task_app.deaf_async, task_app.blocks_the_loop]
    ids = [fleet.enqueue(task, "never", max_deliveries=1) for task in hopeless]
    fleet.wait_journal("start", 3)
    first = {line["task"]: line["pid"] for line in fleet.journal("start")}
    assert len(set(first.values())) == 3
    # Their leases are renewed all the while: nobody else may run them.
    wait_until(lambda: len(fleet.dead()) == 3, "the three to be given up", 30)
    assert {letter["task"] for letter in fleet.dead()} == set(ids)
    assert {letter["cause"] for letter in fleet.dead()} == {"max_deliveries"}
    wait_until(lambda: len(worker.children) == 3 and not {*first.values()} & {*worker.children}, "three new ones", 15)
    counters = fleet.counters()
    assert counters["reclaimed:released"] == 3
    assert "fenced_workers:lease_expired" not in counters
    said = worker.said()
    for words in ("a sync handler does not end", "swallows its cancellation", "blocks the event loop"):
        assert words in said


def test_a_recycled_process_brings_the_task_back_with_one_delivery_more(fleet: Fleet) -> None:
    fleet.start("w", concurrency=1)
    task = fleet.enqueue(task_app.deaf_sync, "gate")
    fleet.wait_journal("start", 2, task=task, timeout=20)
    entries: Any = fleet.raw("XRANGE", MAIL.key("recovered:normal"), "-", "+")
    ((_, fields),) = entries
    assert fields[b"deliveries"] == b"1"
    assert b"attempts" not in fields
    fleet.open_gate("gate")
    fleet.wait_counter("succeeded")


def test_a_handler_that_holds_the_interpreter_costs_its_process_and_its_task_comes_back(fleet: Fleet) -> None:
    """No thread of that process runs: only its supervisor can see it. No daemon is here to end a lease."""
    worker = fleet.start("w", concurrency=2)
    beside = fleet.enqueue(task_app.hold, "beside")
    fleet.wait_journal("start", task=beside)
    task = fleet.enqueue(task_app.holds_the_interpreter)
    after = fleet.enqueue(task_app.note, 1)
    (end,) = fleet.wait_journal("end", task=task)
    first, second = fleet.journal("start", task=task)
    assert end["pid"] == second["pid"] != first["pid"]
    fleet.wait_journal("start", 2, task=beside)
    fleet.open_gate("beside")
    fleet.wait_journal("note", task=after)
    fleet.wait_counter("succeeded", 3)
    assert "a handler holds up its whole process" in worker.said()
    assert fleet.counters()["reclaimed:released"] == 2

"""The pure parts of inspection: worker rows, lease time, a task's steps out of events."""

import json
from typing import Any

import pytest

from reclaimd.daemon.inspect.letters import delayed_fields, history, task_info
from reclaimd.daemon.inspect.steps import Step, steps_of
from reclaimd.daemon.inspect.workers import Clock, Fleet, WorkerInfo, parse_row
from reclaimd.streams.events import decode_batch


def steps(*events: dict[str, Any], entry_ids: set[str] | None = None) -> list[Step]:
    batch = decode_batch(b"1000", json.dumps(events).encode(), "1000-0")
    return list(steps_of(batch, "mail", "t-1", set() if entry_ids is None else entry_ids))


def test_rows_of_workers() -> None:
    live = parse_row('7-ab|1000|{"host":"h"}')
    assert live is not None
    assert (live.state, live.token, live.lease_ms, live.evidence) == ("live", "7-ab", 1000, {"host": "h"})
    fenced = parse_row('!takeover|55|7-ab|1000|{"note":"a|b"}')
    assert fenced is not None
    assert (fenced.state, fenced.cause, fenced.ended, fenced.evidence) == ("fenced", "takeover", 55, {"note": "a|b"})
    gone = parse_row("~left|99|7-ab|1000|{}")
    assert gone is not None
    assert (gone.state, gone.cause, gone.ended) == ("gone", "left", 99)


@pytest.mark.parametrize("row", ["", "x", "!a|b", "7-ab|soon|{}", "7-ab|1|not json"])
def test_what_is_no_row(row: str) -> None:
    assert parse_row(row) is None


def test_lease_time_is_clamped_and_never_goes_back() -> None:
    assert Clock(now=1_500, wall=1_000, lease=10_000, cap=333).lease_now == 10_333
    assert Clock(now=1_100, wall=1_000, lease=10_000, cap=333).lease_now == 10_100
    assert Clock(now=500, wall=1_000, lease=10_000, cap=333).lease_now == 10_000


def test_silent_workers_are_those_that_only_the_clamp_keeps_alive() -> None:
    clock = Clock(now=61_000, wall=1_000, lease=1_000, cap=333)
    workers = [
        WorkerInfo(worker="short", queue="mail", state="live", lease_end=2_000),
        WorkerInfo(worker="long", queue="mail", state="live", lease_end=3_600_000),
        WorkerInfo(worker="over", queue="mail", state="expired", lease_end=1_200),
    ]
    assert [worker.worker for worker in Fleet(queue="mail", clock=clock, workers=workers).silent()] == ["short"]


def test_steps_are_those_of_the_task_alone() -> None:
    entry_ids: set[str] = set()
    found = steps(
        {"type": "Enqueued", "v": 1, "tasks": [["t-1", "high", "9-0", 0], ["t-10", "high", "9-1", 0]]},
        {"type": "Started", "v": 1, "worker": "w", "token": "7-ab", "tasks": [["t-1", 12, "9-0"]]},
        {"type": "WorkerGone", "v": 1, "worker": "t-1", "token": "7-ab", "cause": "left"},
        {"type": "Ghost", "v": 1, "worker": "w", "entries": [["lane:high", "9-0"], ["lane:high", "9-1"]]},
        {"type": "SettlementsRefused", "v": 1, "worker": "w", "token": "7-ab", "entries": [["t-1"]]},
        entry_ids=entry_ids,
    )
    assert [step.what for step in found] == ["enqueued", "started", "ghost", "refused"]
    assert found[1] == Step(
        at_ms=1000,
        queue="mail",
        event_id="1000-0",
        what="started",
        worker="w",
        token="7-ab",
        entry_id="9-0",
        wait_ms=12,
    )
    assert entry_ids == {"9-0"}


def test_a_death_without_a_verdict_has_no_run_time() -> None:
    row = ["t-1", "8-0", "max_deliveries", "came back", -1, ""]
    [died] = steps({"type": "Died", "v": 1, "worker": "w", "tasks": [row]})
    assert (died.what, died.stream, died.entry_id, died.run_ms, died.cause) == (
        "died",
        "dead",
        "8-0",
        None,
        "max_deliveries",
    )


def test_an_event_of_a_newer_version_is_told_as_such() -> None:
    [step] = steps({"type": "Teleported", "v": 1, "tasks": [["t-1"]]})
    assert step.what == "unreadable"
    assert "Teleported" in step.detail


def test_damaged_envelopes_are_read_as_far_as_they_go() -> None:
    fields = {b"task": b"\xff", b"at": b"soon", b"body": b"{", b"history": b'[5,"reclaimed","w","released"]\nnonsense'}
    task = task_info(fields, queue="mail", state="waiting", stream="lane:high", entry_id="9-0")
    assert (task.task_id, task.name, task.enqueued_at_ms, task.deliveries) == ("\\xff", "", None, 0)
    assert [(past.at_ms, past.cause) for past in history(fields)] == [(5, "released")]
    assert delayed_fields(b"not json") == {}
    assert delayed_fields(b'["task","t-1","at",5]') == {b"task": b"t-1", b"at": b"5"}

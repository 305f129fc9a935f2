"""`fire`: every status, every guard, and what each writes."""

import json
from typing import Any

import pytest
import redis

from property.lab import NOON, Lab, verdict
from reclaimd.streams.events import (
    OccurrenceFired,
    OccurrenceFiredRow,
    OccurrenceQueued,
    OccurrenceSkipped,
    decode_batch,
)
from reclaimd.streams.occurrence_scripts import Fired, FireRow, RunRow, SkipRow, fired_rows


def told(lab: Lab) -> list[Any]:
    """Rows of the events of schedules, in order."""
    rows: list[Any] = []
    for entry, (_, at, _, e) in lab.do("XRANGE", lab.key("events"), "-", "+"):
        for event in decode_batch(at, e, entry.decode()).events:
            match event:
                case OccurrenceFired() | OccurrenceQueued():
                    rows += event.tasks
                case OccurrenceSkipped():
                    rows += event.occurrences
    return rows


def statuses(lab: Lab, *rows: FireRow | SkipRow | RunRow) -> list[str]:
    return [result.status for result in lab.fire(*rows)]


def test_an_occurrence_becomes_a_task_of_its_lane(lab: Lab) -> None:
    lab.now = NOON + 250
    body = '{"v":1,"name":"n","args":{"a":[],"b":9007199254740993,"c":"é"}}'.encode()
    (result,) = lab.fire(lab.occurrence(NOON, due=NOON + 200, lane="high", max_deliveries=3, body=body))
    task = f"s:1-0:{NOON}"
    ((entry, fields),) = lab.do("XRANGE", lab.key("lane:high"), "-", "+")
    assert fields[::2] == [b"task", b"at", b"lane", b"max", b"schedule", b"body"]
    assert fields[1::2] == [task.encode(), str(lab.now).encode(), b"high", b"3", b"s", body]
    assert tuple(result) == ("fired", Fired("1-0", NOON, 1, task), entry.decode())
    assert lab.fired() == result.fired
    assert told(lab) == [OccurrenceFiredRow("s", "1-0", NOON, task, entry.decode(), 50, False)]
    assert (lab.counter("occurrences:fired"), lab.counter("enqueued"), lab.look().bell) == (1, 1, 1)
    assert lab.look().epoch["state"] == "ok"


def test_a_lost_reply_is_harmless(lab: Lab) -> None:
    for row in (lab.occurrence(NOON), SkipRow("s", "1-0", NOON, NOON + 5, 3, "misfire")):
        lab.now += 10
        call = lab.fire_call(row)
        first = lab.send(call).rows[0]
        before = lab.look()
        again = lab.send(call).rows[0]
        assert (again.status, again.fired, again.entry_id) == ("duplicate", first.fired, "")
        assert lab.look() == before
    assert len(told(lab)) == 2


def test_instants_go_in_their_order(lab: Lab) -> None:
    lab.now = NOON + 100
    behind = lab.fire(lab.occurrence(NOON + 20, after=NOON + 10))[0]
    assert (behind.status, behind.fired) == ("behind", Fired("1-0", 0, 0, ""))
    assert lab.look().fired == {}
    rows = [lab.occurrence(NOON + i, after=NOON + i - 1 if i else 0, overlap="allow") for i in range(3)]
    assert statuses(lab, *rows) == ["fired"] * 3
    # Another planned on the row as it was, and would skip what was fired.
    assert statuses(lab, SkipRow("s", "1-0", 0, NOON + 50, 9, "misfire")) == ["behind"]
    assert statuses(lab, lab.occurrence(NOON + 3, after=NOON)) == ["behind"]
    assert lab.order("lane:normal") == [f"s:1-0:{NOON + i}" for i in range(3)]


def test_two_callers_with_one_view_fire_once(lab: Lab) -> None:
    lab.now = NOON + 100
    mine, theirs = lab.occurrence(NOON), SkipRow("s", "1-0", 0, NOON + 50, 2, "misfire")
    assert statuses(lab, mine) == ["fired"]
    (late,) = lab.fire(theirs)
    assert (late.status, late.fired.last) == ("behind", NOON)
    again = theirs._replace(after=late.fired.last)
    assert statuses(lab, again) == ["skipped"]
    assert statuses(lab, mine, again) == ["duplicate", "duplicate"]


def test_a_clock_that_goes_back_fires_nothing_twice(lab: Lab) -> None:
    assert statuses(lab, lab.occurrence(NOON)) == ["fired"]
    lab.now -= 3_600_000
    assert statuses(lab, lab.occurrence(NOON)) == ["duplicate"]
    assert statuses(lab, lab.occurrence(NOON + 1, after=NOON)) == ["early"]
    assert statuses(lab, SkipRow("s", "1-0", NOON, NOON + 1, 1, "misfire")) == ["early"]
    assert lab.fired().last == NOON


def test_nothing_is_fired_before_its_jitter(lab: Lab) -> None:
    assert statuses(lab, lab.occurrence(NOON, due=NOON + 1)) == ["early"]
    lab.now += 1
    assert statuses(lab, lab.occurrence(NOON, due=NOON + 1)) == ["fired"]


def test_a_newer_generation_begins_anew_and_an_older_one_fires_no_more(lab: Lab) -> None:
    lab.now = NOON + 100
    assert statuses(lab, lab.occurrence(NOON, generation="9-9", limit=1)) == ["fired"]
    newer = lab.occurrence(NOON, generation="10-0", overlap="queue_one", limit=1)
    (queued,) = lab.fire(newer)
    assert (queued.status, queued.fired) == ("queued", Fired("10-0", NOON, 1, f"s:9-9:{NOON}"))
    for generation in ("9-9", "9-10", "1-0"):
        stale = lab.occurrence(NOON + 50, after=NOON, generation=generation)
        assert lab.fire(stale)[0] == ("stale", queued.fired, "")
    assert statuses(lab, newer) == ["duplicate"]
    # Of the newest one nothing was dealt with yet, whatever the row says of the one before.
    assert statuses(lab, lab.occurrence(NOON + 50, after=NOON, generation="10-1")) == ["behind"]
    assert lab.fired() == queued.fired


def test_a_limit_holds_for_a_generation(lab: Lab) -> None:
    lab.now = NOON + 100
    rows = [lab.occurrence(NOON + i, after=NOON + i - 1 if i else 0, overlap="allow", limit=2) for i in range(3)]
    assert statuses(lab, *rows) == ["fired", "fired", "finished"]
    assert (lab.fired().last, lab.fired().count) == (NOON + 1, 2)
    assert statuses(lab, lab.occurrence(NOON, generation="2-0", overlap="allow", limit=2)) == ["fired"]


def test_the_highest_limit_that_a_definition_may_have_is_no_error(lab: Lab) -> None:
    assert statuses(lab, lab.occurrence(NOON, limit=2**53)) == ["fired"]


def test_what_is_skipped_counts_towards_no_limit(lab: Lab) -> None:
    lab.now = NOON + 100
    rows = [lab.occurrence(NOON), lab.occurrence(NOON + 1, after=NOON, limit=2)]
    assert statuses(lab, *rows, SkipRow("s", "1-0", NOON + 1, NOON + 2, 1, "paused")) == ["fired", "skipped", "skipped"]
    assert (lab.fired().last, lab.fired().count) == (NOON + 2, 1)


def test_a_skip_is_told_with_its_reason(lab: Lab) -> None:
    assert statuses(lab, SkipRow("s", "1-0", 0, NOON, -1, "misfire")) == ["skipped"]
    lab.now += 10
    assert statuses(lab, SkipRow("s", "1-0", NOON, NOON + 10, 7, "cap")) == ["skipped"]
    rows = [(r.schedule, r.generation, r.after, r.upto, r.number, r.reason) for r in told(lab)]
    assert rows == [("s", "1-0", 0, NOON, -1, "misfire"), ("s", "1-0", NOON, NOON + 10, 7, "cap")]
    assert (lab.counter("occurrences:skipped:misfire"), lab.counter("occurrences:skipped:cap")) == (1, 7)
    assert lab.look().places == {}


@pytest.mark.parametrize("off", [-5_001, 5_001])
def test_a_plan_on_an_old_view_does_nothing(lab: Lab, off: int) -> None:
    rows = (lab.occurrence(NOON), RunRow("s", "r", "low", 1, b""))
    assert lab.send(lab.fire_call(*rows, seen_at=lab.now + off)).status == "old"
    assert lab.do("DBSIZE") == 0
    assert lab.send(lab.fire_call(*rows, seen_at=lab.now + off - off // abs(off))).status == "ok"


def test_only_a_partition_that_is_ok_fires(lab: Lab) -> None:
    assert lab.send(lab.fire_call(lab.occurrence(NOON), epoch_id="")) == ("state", (), 0, "absent")
    assert lab.do("DBSIZE") == 0
    lab.enqueue("t")
    lab.do("HSET", lab.key("epoch"), "state", "rebuilding")
    before = lab.look()
    assert lab.send(lab.fire_call(lab.occurrence(NOON))) == ("state", (), 0, "rebuilding")
    assert lab.look() == before


def test_schedules_in_one_call_do_not_touch_each_other(lab: Lab) -> None:
    rows = [
        lab.occurrence(NOON, schedule=name, lane=lane) for name, lane in (("a", "low"), ("b", "high"), ("c", "low"))
    ]
    rows[1] = rows[1]._replace(after=5)
    assert statuses(lab, *rows) == ["fired", "behind", "fired"]
    pairs = lab.do("HGETALL", lab.key("fired"))
    found = fired_rows(zip(pairs[::2], pairs[1::2], strict=True))
    assert {name: fired.open for name, fired in found.items()} == {"a": f"a:1-0:{NOON}", "c": f"c:1-0:{NOON}"}


def test_a_paused_queue_fires_and_its_tasks_wait(lab: Lab) -> None:
    token = lab.join("w")
    lab.do("HSET", lab.key("control"), "paused", "1")
    assert statuses(lab, lab.occurrence(NOON)) == ["fired"]
    assert lab.take("w", token) == []
    lab.do("HDEL", lab.key("control"), "paused")
    assert [d.schedule for d in lab.take("w", token)] == ["s"]


def test_a_run_passes_the_guard_once(lab: Lab) -> None:
    token = lab.join("w")
    lab.fire(lab.occurrence(NOON))
    row = lab.fired()
    ask = RunRow("s", "r-1", "high", 2, b"{}")
    call = lab.fire_call(ask, ask, seen_at=None)
    assert [(r.status, r.fired, bool(r.entry_id)) for r in lab.send(call).rows] == [
        ("fired", Fired(), True),
        ("duplicate", Fired(), False),
    ]
    assert lab.send(call).rows[0].status == "duplicate"
    assert [(r.generation, r.nominal, r.task_id) for r in told(lab)[1:]] == [("run", lab.now, "s:run:r-1")]
    delivery = lab.take("w", token, 1)[0]
    assert (delivery.task_id, delivery.schedule, delivery.max_deliveries) == ("s:run:r-1", "s", 2)
    lab.settle("w", token, verdict(delivery))
    assert lab.fired() == row, "a run neither opens nor closes"
    assert lab.send(call).rows[0].status == "duplicate", "also when it has ended"


def test_a_row_that_somebody_else_wrote_is_left_alone(lab: Lab) -> None:
    lab.enqueue("t")
    lab.do("HSET", lab.key("fired"), "s", "soon")
    assert statuses(lab, lab.occurrence(NOON), lab.occurrence(NOON, schedule="b")) == ["unreadable", "fired"]
    assert lab.look().fired["s"] == "soon"
    assert fired_rows([(b"s", b"soon"), (b"t", None), (b"u", b"1-0|2|3|")]) == {"u": Fired("1-0", 2, 3, "")}


BAD: dict[str, dict[str, Any]] = {
    "name": {"schedule": "a:b"},
    "no name": {"schedule": ""},
    "long name": {"schedule": "x" * 81},
    "generation": {"generation": "7"},
    "after": {"after": "never"},
    "instant": {"nominal": 10**15},
    "no instant": {"nominal": 0},
    "due": {"due": ""},
    "overlap": {"overlap": "perhaps"},
    "lane": {"lane": "urgent"},
    "max": {"max_deliveries": 0},
    "limit": {"limit": -1},
    "a bar": {"schedule": "a|1-0", "generation": "|"},
}


@pytest.mark.parametrize("what", BAD)
def test_one_bad_row_refuses_the_whole_call(lab: Lab, what: str) -> None:
    good = lab.occurrence(NOON, schedule="good")
    with pytest.raises(redis.ResponseError, match="RECLAIMD_SCHEDULE bad value in row 2"):
        lab.fire(good, lab.occurrence(NOON)._replace(**BAD[what]))
    assert lab.do("DBSIZE") == 0


@pytest.mark.parametrize(
    "row",
    [
        SkipRow("s", "1-0", 0, NOON, 1, "Because: I say so"),
        RunRow("s", "r" * 41, "high", 1, b""),
        RunRow("s", "r:1", "high", 1, b""),
        RunRow("s", "r", "urgent", 1, b""),
    ],
)
def test_bad_rows_of_other_kinds_too(lab: Lab, row: SkipRow | RunRow) -> None:
    with pytest.raises(redis.ResponseError, match="RECLAIMD_SCHEDULE"):
        lab.fire(row)
    assert lab.do("DBSIZE") == 0


@pytest.mark.parametrize("row", [FireRow, SkipRow])
def test_without_a_view_only_runs_are_taken(lab: Lab, row: type) -> None:
    plan = lab.occurrence(NOON) if row is FireRow else SkipRow("s", "1-0", 0, NOON, 1, "misfire")
    with pytest.raises(redis.ResponseError, match="RECLAIMD_SCHEDULE"):
        lab.fire(plan, seen_at=None)


WRONG = ("fired", "fired:queued", "events", "counters", "bell", "lane:low", "seen:1", "delayed:body", "clock")


@pytest.mark.parametrize("wrong", WRONG)
def test_a_key_of_the_wrong_type_stops_it_before_it_writes(lab: Lab, wrong: str) -> None:
    lab.do("HSET", lab.key("epoch"), "layout", "1", "state", "ok", "id", "e")
    lab.do(*(("HSET", lab.key(wrong), "f", "v") if wrong == "bell" else ("RPUSH", lab.key(wrong), "v")))
    before = lab.do("DBSIZE")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        lab.fire(lab.occurrence(NOON), lab.occurrence(NOON, schedule="b", lane="low"))
    assert lab.do("DBSIZE") == before


def test_events_are_one_of_a_kind_a_call(lab: Lab) -> None:
    lab.now = NOON + 100
    rows = [lab.occurrence(NOON, schedule=f"s{i}", overlap="queue_one") for i in range(9)]
    again = [row._replace(after=NOON, nominal=NOON + 1) for row in rows]
    skips = [row._replace(after=NOON + 1, nominal=NOON + 2) for row in rows]
    lab.fire(*rows, *again, *skips)
    ((_, (_, _, _, e)),) = lab.do("XRANGE", lab.key("events"), "-", "+")
    events = {event["type"]: event for event in json.loads(e)}
    assert len(json.loads(e)) == 3
    assert {kind: len(event.get("tasks", event.get("occurrences"))) for kind, event in events.items()} == {
        "OccurrenceFired": 9,
        "OccurrenceQueued": 9,
        "OccurrenceSkipped": 9,
    }

"""Reading the event stream: what Lua writes, what newer programs write, and what is broken."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaimd.streams import events as ev
from reclaimd.streams.events import Batch, Unreadable, decode_batch

ONE_OF_EACH: list[tuple[dict[str, Any], ev.Event]] = [
    (
        {"type": "Enqueued", "v": 1, "tasks": [["a", "high", "1-0", 0], ["b", "low", "", 1763757000123]]},
        ev.Enqueued(
            tasks=(ev.EnqueuedRow("a", "high", "1-0", 0), ev.EnqueuedRow("b", "low", "", 1763757000123)),
        ),
    ),
    (
        {"type": "Started", "v": 1, "worker": "w", "token": "7-x", "tasks": [["a", 12, "1-0"]]},
        ev.Started(worker="w", token="7-x", tasks=(ev.StartedRow("a", 12, "1-0"),)),
    ),
    (
        {"type": "Settled", "v": 1, "worker": "w", "token": "7-x", "tasks": [["a", 5, "send"]]},
        ev.Settled(worker="w", token="7-x", tasks=(ev.SettledRow("a", 5, "send"),)),
    ),
    (
        {"type": "Retried", "v": 1, "worker": "w", "token": "7-x", "tasks": [["a", 5, "send", 99, "c", "boom", 1]]},
        ev.Retried(worker="w", token="7-x", tasks=(ev.RetriedRow("a", 5, "send", 99, "c", "boom", True),)),
    ),
    (
        {"type": "Died", "v": 1, "worker": "w", "tasks": [["a", "2-0", "max_deliveries", "", -1, ""]]},
        ev.Died(worker="w", tasks=(ev.DiedRow("a", "2-0", "max_deliveries", "", -1, ""),)),
    ),
    (
        {
            "type": "Moved",
            "v": 1,
            "cause": "takeover",
            "worker": "w",
            "late_ms": 0,
            "tasks": [["a", "suspect", "3-0", 2, 0, "1-0"]],
        },
        ev.Moved(cause="takeover", worker="w", late_ms=0, tasks=(ev.MovedRow("a", "suspect", "3-0", 2, 0, "1-0"),)),
    ),
    (
        {"type": "Ghost", "v": 1, "worker": "w", "entries": [["lane:high", "1-0"]]},
        ev.Ghost(worker="w", entries=(ev.StreamEntry("lane:high", "1-0"),)),
    ),
    (
        {"type": "Promoted", "v": 1, "tasks": [["a", "low", "4-0", 30]]},
        ev.Promoted(tasks=(ev.PromotedRow("a", "low", "4-0", 30),)),
    ),
    (
        {"type": "Redriven", "v": 1, "tasks": [["a", "low", "5-0", "2-0"]]},
        ev.Redriven(tasks=(ev.RedrivenRow("a", "low", "5-0", "2-0"),)),
    ),
    ({"type": "Purged", "v": 1, "tasks": [["a", "2-0"]]}, ev.Purged(tasks=(ev.PurgedRow("a", "2-0"),))),
    (
        {"type": "OccurrenceFired", "v": 1, "tasks": [["s", "1-0", 77, "s:1-0:77", "5-0", 3, 0]]},
        ev.OccurrenceFired(tasks=(ev.OccurrenceFiredRow("s", "1-0", 77, "s:1-0:77", "5-0", 3, False),)),
    ),
    (
        {"type": "OccurrenceQueued", "v": 1, "tasks": [["s", "1-0", 77, "s:1-0:77", 3]]},
        ev.OccurrenceQueued(tasks=(ev.OccurrenceQueuedRow("s", "1-0", 77, "s:1-0:77", 3),)),
    ),
    (
        {"type": "OccurrenceSkipped", "v": 1, "occurrences": [["s", "1-0", 0, 77, -1, "misfire"]]},
        ev.OccurrenceSkipped(occurrences=(ev.OccurrenceSkippedRow("s", "1-0", 0, 77, -1, "misfire"),)),
    ),
    (
        {"type": "OccurrenceRetired", "v": 1, "schedules": [["s", "2-0", 77, 3, "s:1-0:77"]]},
        ev.OccurrenceRetired(schedules=(ev.OccurrenceRetiredRow("s", "2-0", 77, 3, "s:1-0:77"),)),
    ),
    (
        {"type": "OccurrenceClosed", "v": 1, "schedules": [["s", "1-0", "s:1-0:77"]]},
        ev.OccurrenceClosed(schedules=(ev.OccurrenceClosedRow("s", "1-0", "s:1-0:77"),)),
    ),
    (
        {"type": "Restored", "v": 1, "tasks": [["t", "recovered:high", "2-0", 1, 1, "1-0"]]},
        ev.Restored(tasks=(ev.RestoredRow("t", "recovered:high", "2-0", 1, 1, "1-0"),)),
    ),
    (
        {"type": "Dropped", "v": 1, "tasks": [["t", "lane:high", "2-0", "settled"]]},
        ev.Dropped(tasks=(ev.DroppedRow("t", "lane:high", "2-0", "settled"),)),
    ),
    (
        {
            "type": "WorkerJoined",
            "v": 1,
            "worker": "w",
            "token": "7-x",
            "lease_ms": 15000,
            "evidence": {"host": "h", "pid": 3},
            "took_over": "6-y",
        },
        ev.WorkerJoined(worker="w", token="7-x", lease_ms=15000, evidence={"host": "h", "pid": 3}, took_over="6-y"),
    ),
    (
        {"type": "WorkerFenced", "v": 1, "worker": "w", "token": "7-x", "cause": "released", "late_ms": 4},
        ev.WorkerFenced(worker="w", token="7-x", cause="released", late_ms=4),
    ),
    (
        {"type": "WorkerGone", "v": 1, "worker": "w", "token": "7-x", "cause": "left"},
        ev.WorkerGone(worker="w", token="7-x", cause="left"),
    ),
    (
        {"type": "SettlementsRefused", "v": 1, "worker": "w", "token": "7-x", "entries": [["a"], ["b"]]},
        ev.SettlementsRefused(worker="w", token="7-x", entries=(ev.TaskRef("a"), ev.TaskRef("b"))),
    ),
    ({"type": "QueuePaused", "v": 1}, ev.QueuePaused()),
    ({"type": "QueueResumed", "v": 1}, ev.QueueResumed()),
]


def events_of(text: bytes) -> tuple[ev.Event | Unreadable, ...]:
    return decode_batch(b"17", text, "1-0").events


def event_of(text: bytes) -> ev.Event | Unreadable:
    (event,) = events_of(b"[" + text + b"]")
    return event


@pytest.mark.parametrize(("wire", "event"), ONE_OF_EACH, ids=lambda value: type(value).__name__)
def test_each_type_is_read_as_the_protocol_states_it(wire: dict[str, Any], event: ev.Event) -> None:
    assert event_of(msgspec.json.encode(wire)) == event


def test_every_type_has_an_example_here() -> None:
    assert {type(event) for _, event in ONE_OF_EACH} == set(ev.Event.__args__)


def test_a_batch_keeps_its_place_and_the_order_of_its_events() -> None:
    wire = msgspec.json.encode([wire for wire, _ in ONE_OF_EACH])
    batch = decode_batch("1763757000123", wire, "8-3")
    assert batch == Batch(entry_id="8-3", at=1763757000123, events=tuple(event for _, event in ONE_OF_EACH))


@pytest.mark.parametrize("number", [b"1e+15", b"1000000000000000.0", b"1000000000000000"])
def test_integers_may_look_like_floats(number: bytes) -> None:
    event = event_of(b'{"type":"Enqueued","tasks":[["a","high","",' + number + b"]]}")
    assert event == ev.Enqueued(tasks=(ev.EnqueuedRow("a", "high", "", 10**15),))


@pytest.mark.parametrize("flag", [b"1", b"1.0", b"true"])
def test_flags_may_look_like_numbers(flag: bytes) -> None:
    event = event_of(b'{"type":"Retried","worker":"w","token":"1-a","tasks":[["a",1,"n",2,"c","e",' + flag + b"]]}")
    assert isinstance(event, ev.Retried)
    assert event.tasks[0].parked is True


@pytest.mark.parametrize("tasks", [b"", b',"tasks":[]', b',"tasks":{}', b',"tasks":null'])
def test_an_empty_array_may_be_absent_or_an_object(tasks: bytes) -> None:
    assert event_of(b'{"type":"Died","worker":"w"' + tasks + b"}") == ev.Died(worker="w")


def test_an_empty_batch_may_be_an_object() -> None:
    assert events_of(b"[]") == events_of(b"{}") == ()


def test_fields_and_columns_of_newer_programs_are_ignored() -> None:
    text = b'{"type":"Purged","tasks":[["a","2-0","who",[1]]],"by":{"name":"x"}}'
    assert event_of(text) == ev.Purged(tasks=(ev.PurgedRow("a", "2-0"),))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"type":"Teleported","v":1,"tasks":[["a"]]}', "unknown type 'Teleported'"),
        (b'{"tasks":[]}', "unknown type ''"),
        (b'{"type":"Died","v":2,"worker":"w"}', "Died has version 2, this program knows 1"),
        (b'{"type":"Died","v":2}', "Died has version 2, this program knows 1"),
        (b'{"type":"Died"}', "missing required field `worker`"),
        (b'{"type":"Purged","tasks":[["a"]]}', "Expected `array` of at least length 2"),
        (b'{"type":"Promoted","tasks":[["a","low","1-0",1.5]]}', "Expected `int`, got `float`"),
        (b'{"type":"Purged","tasks":{"a":1}}', "Expected `array`, got `object`"),
        (b'{"type":"Purged","tasks":[7]}', "Expected `array`, got `int`"),
        (b'{"type":"Purged","tasks":[["a","\xff"]]}', "utf-8"),
        (b"[1,2]", "Expected `object`, got `array`"),
        (b"null", "Expected `object`, got `null`"),
    ],
)
def test_what_cannot_be_read_is_carried_verbatim_beside_what_can(raw: bytes, reason: str) -> None:
    before, unreadable, after = events_of(b'[{"type":"QueuePaused"},' + raw + b',{"type":"QueueResumed"}]')
    assert (before, after) == (ev.QueuePaused(), ev.QueueResumed())
    assert isinstance(unreadable, Unreadable)
    assert unreadable.raw == raw
    assert reason in unreadable.reason


@pytest.mark.parametrize("raw", [b"", b"not json", b"[", b'{"type":"Died"}', b"3", b"[nan]", b"[" * 100_000, b"\xff"])
def test_a_broken_batch_is_carried_verbatim(raw: bytes) -> None:
    (unreadable,) = events_of(raw)
    assert isinstance(unreadable, Unreadable)
    assert unreadable.raw == raw


@pytest.mark.parametrize("at", ["", "soon", b"1.5", b"\xff"])
def test_a_batch_without_a_time_is_carried_verbatim(at: bytes | str) -> None:
    batch = decode_batch(at, b"[]", "1-0")
    assert batch.at == 0
    assert [type(event) for event in batch.events] == [Unreadable]


@given(st.binary(max_size=200), st.binary(max_size=300))
def test_no_bytes_raise(at: bytes, e: bytes) -> None:
    assert decode_batch(at, e, "1-0").entry_id == "1-0"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(ONE_OF_EACH), st.text(max_size=8), json_values)
def test_one_damaged_field_gives_the_event_or_the_reason(
    example: tuple[dict[str, Any], ev.Event], field: str, value: Any
) -> None:
    wire, _ = example
    for name in (field, *wire):
        event = event_of(msgspec.json.encode({**wire, name: value}))
        assert isinstance(event, Unreadable) or type(event) in ev.Event.__args__

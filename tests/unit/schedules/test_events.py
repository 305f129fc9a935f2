"""Schedule events as bytes: every version that was ever written can be read, and what cannot be is no error."""

import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from reclaimd.streams.schedules import events
from reclaimd.streams.schedules.events import (
    Event,
    SchedulePaused,
    ScheduleRejected,
    ScheduleRemoved,
    ScheduleResumed,
    ScheduleUpserted,
    Unreadable,
    decode,
    encode,
    upserted,
)
from reclaimd.streams.schedules.model import Cron, Schedule

SAMPLES = Path(__file__).resolve().parents[2] / "data/events"
DIGEST = Schedule(
    name="digest",
    task="send",
    queue="mail",
    trigger=Cron("0 9 * * 1-5", tz="Europe/Paris"),
    args={"to": "a@example.org"},
    jitter_ms=5000,
    start_ms=1_803_888_000_000,
    limit=10,
    source="crontab",
)
MEANT: dict[str, Event] = {
    "ScheduleUpserted": upserted(DIGEST),
    "ScheduleRemoved": ScheduleRemoved(name="digest", source="crontab"),
    "SchedulePaused": SchedulePaused(name="digest"),
    "ScheduleResumed": ScheduleResumed(name="digest"),
    "ScheduleRejected": ScheduleRejected(
        name="digest", field="cron", reason="use five fields", entry="1700000000000-0"
    ),
}


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_every_version_that_was_ever_written_is_read_as_the_same_event(path: Path) -> None:
    kind, _ = path.stem.split(".")
    read = decode(path.read_bytes())
    assert not isinstance(read, Unreadable), read
    assert as_values(read) == as_values(MEANT[kind])


def test_there_is_a_sample_of_every_version_and_a_way_up_from_each() -> None:
    assert set(events.VERSIONS) == {kind.__name__ for kind in get_args(Event)} == set(MEANT)
    stored = {path.stem for path in SAMPLES.glob("*.json")}
    assert stored == {f"{kind}.{v}" for kind, newest in events.VERSIONS.items() for v in range(1, newest + 1)}
    assert set(events.UPCASTERS) == {(kind, v) for kind, newest in events.VERSIONS.items() for v in range(1, newest)}
    assert all(event.v == events.VERSIONS[kind] for kind, event in MEANT.items())


def as_values(event: Event) -> Any:
    """With the definition decoded: the order of its keys is nobody's business."""
    return msgspec.json.decode(encode(event))


@pytest.mark.parametrize("event", MEANT.values(), ids=lambda event: type(event).__name__)
def test_what_is_written_is_read_back(event: Event) -> None:
    assert decode(encode(event)) == event


def test_an_older_version_is_lifted_step_by_step() -> None:
    def to_2(fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, "name": fields["id"] + "-2"}

    def to_3(fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, "name": fields["name"] + "-3"}

    versions = {"SchedulePaused": 3}
    ways = {("SchedulePaused", 1): to_2, ("SchedulePaused", 2): to_3}
    read = decode(b'{"type":"SchedulePaused","id":"a"}', versions, ways)
    assert read == SchedulePaused(name="a-2-3", v=3)
    assert decode(b'{"type":"SchedulePaused","v":2,"name":"a"}', versions, ways) == SchedulePaused(name="a-3", v=3)
    assert decode(b'{"type":"SchedulePaused","v":3,"name":"a"}', versions, ways) == SchedulePaused(name="a", v=3)


def test_an_older_version_that_its_way_up_cannot_take_is_unreadable() -> None:
    def to_2(fields: dict[str, Any]) -> dict[str, Any]:
        return {"name": fields["id"]}

    read = decode(b'{"type":"SchedulePaused","name":"a"}', {"SchedulePaused": 2}, {("SchedulePaused", 1): to_2})
    assert isinstance(read, Unreadable)
    assert read.name == "a"


def test_added_fields_are_ignored() -> None:
    assert decode(b'{"type":"SchedulePaused","name":"a","why":"lunch","v":1}') == SchedulePaused(name="a")


def test_a_definition_stays_as_it_was_written() -> None:
    written = b'{"name": "a",\n "what": [1e3, 9007199254740993]}'
    read = decode(b'{"type":"ScheduleUpserted","schedule":%s}' % written)
    assert isinstance(read, ScheduleUpserted)
    assert bytes(read.schedule) == written
    assert read.name == "a"


UNREADABLE = [
    (b"", "", "no event"),
    (b"\xff\xfe", "", "no event"),
    (b"[]", "", "no event"),
    (b'{"type":"SchedulePaused","name":"a"', "", "no event"),
    (b'{"type":5,"name":"a"}', "a", "no event"),
    (b'{"name":"a"}', "a", "unknown type ''"),
    (b'{"type":"ScheduleTagged","name":"a"}', "a", "unknown type 'ScheduleTagged'"),
    (b'{"type":"ScheduleTagged","schedule":{"name":"a"}}', "a", "unknown type"),
    (b'{"type":"ScheduleTagged","name":"a:b"}', "", "unknown type"),
    (b'{"type":"SchedulePaused","v":2,"name":"a"}', "a", "has version 2, this program knows 1 to 1"),
    (b'{"type":"SchedulePaused","v":0,"name":"a"}', "a", "has version 0"),
    (b'{"type":"ScheduleUpserted","v":2,"schedule":{"name":"a"}}', "a", "has version 2"),
    (b'{"type":"SchedulePaused"}', "", "missing required field"),
    (b'{"type":"SchedulePaused","name":["a"]}', "", "Expected `str`"),
    (b'{"type":"SchedulePaused","name":"a b"}', "", "name: use 1 to 80"),
    (b'{"type":"SchedulePaused","name":"a\\n"}', "", "name: use 1 to 80"),
    (b'{"type":"ScheduleUpserted"}', "", "missing required field"),
    (b'{"type":"ScheduleUpserted","schedule":[]}', "", "name: use 1 to 80"),
    (b'{"type":"ScheduleUpserted","schedule":{"name":"%s"}}' % (b"x" * 81), "", "name: use 1 to 80"),
    (b'{"type":"ScheduleRejected","name":"a"}', "a", "missing required field"),
    (b'{"type":"SchedulePaused","name":"a","x":' + b"[" * 5_000 + b"]" * 5_000 + b"}", "", "no event"),
]


@pytest.mark.parametrize(("raw", "name", "why"), UNREADABLE, ids=lambda value: repr(value)[:60])
def test_what_cannot_be_read_is_kept_with_the_schedule_that_it_is_about(raw: bytes, name: str, why: str) -> None:
    read = decode(raw)
    assert isinstance(read, Unreadable), read
    assert (read.name, read.raw) == (name, raw)
    assert re.search(re.escape(why), read.why), read.why

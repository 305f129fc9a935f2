from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaimd.streams.errors import InvalidSchedule
from reclaimd.streams.schedules.checks import check, parse_schedule
from reclaimd.streams.schedules.model import Cron, Every, Once, Schedule

CRON = {"type": "cron", "expr": "0 9 * * 1-5", "tz": "Europe/Paris"}
GOOD: dict[str, Any] = {"name": "digest", "task": "send", "queue": "mail", "trigger": CRON}


def complaint(raw: bytes | dict[str, Any], **limits: int) -> InvalidSchedule:
    with pytest.raises(InvalidSchedule) as caught:
        parse_schedule(raw, **limits)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return caught.value


def nested(levels: int) -> dict[str, Any]:
    args: Any = []
    for _ in range(levels - 1):
        args = {"a": args}
    return {"args": args}


def test_takes_what_is_right() -> None:
    assert parse_schedule(GOOD | nested(100)).name == "digest"
    assert parse_schedule(GOOD).trigger == Cron("0 9 * * 1-5", "Europe/Paris")
    for trigger in (Cron("0 0 29 2 *"), Cron("*/10 * * * * *"), Every(1_000), Every(5_000, 0), Once(0)):
        schedule = Schedule(name="a.b-c_D9", task="mail:send", queue="q", trigger=trigger, args={"to": ["é", 2**60]})
        assert parse_schedule(msgspec.json.encode(schedule)) == schedule
    bounded = GOOD | {"start_ms": 0, "end_ms": 10**12, "limit": 1, "misfire": "run_all", "overlap": "allow"}
    assert parse_schedule(bounded | {"jitter_ms": 86_399_999, "drip_ms": 0, "misfire_cap": 10_000}).limit == 1


@pytest.mark.parametrize(
    ("field", "changes", "why"),
    [
        ("name", {"name": "a:b"}, "use 1 to 80"),
        ("name", {"name": ""}, "use 1 to 80"),
        ("name", {"name": "n" * 81}, "use 1 to 80"),
        ("name", {"name": "a\n"}, "use 1 to 80"),
        ("name", {"name": 5}, "expected str"),
        ("task", {"task": "a b"}, "use 1 to 128"),
        ("task", {"task": None}, "expected str"),
        ("queue", {"queue": "a:b"}, "use 1 to 64"),
        ("trigger", {"trigger": 5}, "expected object"),
        ("trigger", {"trigger": {"type": "never"}}, "one of cron, every, once"),
        ("trigger", {"trigger": {}}, "missing"),
        ("trigger", {"trigger": {"type": ["cron"]}}, "one of cron, every, once"),
        ("cron", {"trigger": {"type": "cron"}}, "missing"),
        ("cron", {"trigger": CRON | {"expr": "61 * * * *"}}, "its minute '61'"),
        ("cron", {"trigger": CRON | {"expr": "0 0 30 2 *"}}, "never fires"),
        ("cron", {"trigger": CRON | {"expr": "0 0 31 4,6 */2"}}, "never fires"),
        ("cron", {"trigger": CRON | {"expr": "* " * 5_000}}, "too long"),
        ("tz", {"trigger": CRON | {"tz": "Europe/Pairs"}}, "did you mean Europe/Paris?"),
        ("tz", {"trigger": CRON | {"tz": "kathmandu"}}, "did you mean Asia/Kathmandu?"),
        ("tz", {"trigger": CRON | {"tz": "x" * 5_000}}, "no IANA zone"),
        ("zone", {"trigger": CRON | {"zone": "UTC"}}, "no such field"),
        ("every", {"trigger": {"type": "every", "every_ms": 999}}, "use 1s or more: "),
        ("every", {"trigger": {"type": "every", "every_ms": 10**16}}, "at most 36500d"),
        ("every", {"trigger": {"type": "every", "every_ms": "5m"}}, "expected int, got str"),
        ("anchor", {"trigger": {"type": "every", "every_ms": 5_000, "anchor_ms": -1}}, "between 1970"),
        ("at", {"trigger": {"type": "once", "at_ms": 10**17}}, "between 1970"),
        ("at", {"trigger": {"type": "once", "at_ms": True}}, "expected int, got bool"),
        ("args", {"args": [1]}, "expected object, got array"),
        ("args", {"args": {"a": "x" * 1_000_000}}, "limit is 1000000"),
        ("args", nested(101), "more than 100 levels"),
        ("lane", {"lane": "urgent"}, "say one of high, normal, low"),
        ("max_deliveries", {"max_deliveries": 0}, "say 1 to 1000"),
        ("misfire", {"misfire": "run"}, "say one of skip, run_once, run_all"),
        ("misfire_cap", {"misfire_cap": 0}, "say 1 to 10000"),
        ("misfire_cap", {"misfire_cap": 10_001}, "say 1 to 10000"),
        ("drip", {"drip_ms": -1}, "say 0s to 1d"),
        ("overlap", {"overlap": 5}, "say one of allow, skip, queue_one"),
        ("jitter", {"jitter_ms": -1}, "use 0s to"),
        ("jitter", {"jitter_ms": 86_400_000}, "use less than 1d"),
        ("jitter", {"jitter_ms": 600_000, "trigger": CRON | {"expr": "0,10 9 * * *"}}, "use less than 10m"),
        ("jitter", {"jitter_ms": 5_000, "trigger": {"type": "every", "every_ms": 5_000}}, "use less than 5s"),
        ("jitter", {"jitter_ms": 1.5}, "expected int, got float"),
        ("limit", {"limit": 0}, "say 1 to"),
        ("start", {"start_ms": -1}, "between 1970"),
        ("end", {"start_ms": 5_000, "end_ms": 5_000}, "later than start"),
        ("end", {"end_ms": 1_000}, "no instant lies"),
        ("end", {"end_ms": 4_999, "trigger": {"type": "once", "at_ms": 5_000}}, "no instant lies"),
        ("end", {"start_ms": 6_000, "trigger": {"type": "once", "at_ms": 5_000}}, "no instant lies"),
        ("source", {"source": "s" * 201}, "at most 200"),
        ("overlpa", {"overlpa": "skip"}, "did you mean overlap?"),
    ],
)
def test_names_the_field_and_the_reason(field: str, changes: dict[str, Any], why: str) -> None:
    error = complaint(GOOD | changes)
    assert error.field == field
    assert why in error.why
    assert error.name == (changes.get("name", "digest") if field != "name" or changes["name"] != 5 else "")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'"\xff"', b"[" * 100_000, b"{" * 5 + b'"a":' * 100_000])
def test_refuses_what_is_no_object(raw: bytes) -> None:
    assert complaint(raw).field == "schedule"


def test_names_a_missing_field() -> None:
    for field in ("name", "task", "queue", "trigger"):
        error = complaint({key: value for key, value in GOOD.items() if key != field})
        assert (error.field, error.why) == (field, "it is missing")


def test_the_payload_limit_is_the_callers() -> None:
    assert complaint(GOOD | {"args": {"a": "xyz"}}, payload_limit=10).field == "args"
    assert parse_schedule(GOOD | {"args": {"a": "xyz"}}, payload_limit=11).args == {"a": "xyz"}


def test_refuses_arguments_that_json_cannot_carry() -> None:
    with pytest.raises(InvalidSchedule, match="JSON cannot carry them"):
        check(Schedule(name="n", task="t", queue="q", trigger=Once(0), args={"a": object()}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from([*GOOD, "args", "misfire_cap", "start_ms", "end_ms", "limit", "jitter_ms", "source", "lane"])


@given(st.dictionaries(FIELDS, JSON, max_size=4), st.dictionaries(st.sampled_from(["expr", "tz", "type"]), JSON))
def test_any_json_is_a_schedule_or_a_complaint(changes: dict[str, Any], trigger: dict[str, Any]) -> None:
    raw = GOOD | {"trigger": CRON | trigger} | changes
    try:
        outcome = parse_schedule(raw).name
    except InvalidSchedule as error:
        outcome = error.field and error.why
    assert outcome

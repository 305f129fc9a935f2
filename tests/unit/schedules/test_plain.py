import tomllib
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reclaimd.streams.errors import InvalidSchedule
from reclaimd.streams.schedules.calculus import LATEST_MS
from reclaimd.streams.schedules.checks import check
from reclaimd.streams.schedules.instants import BadInstant, format_instant, parse_instant
from reclaimd.streams.schedules.model import Cron, Every, Once, Schedule
from reclaimd.streams.schedules.plain import KEYS, from_plain, to_plain
from reclaimd.streams.schedules.zones import UnknownZone
from support.cron_expressions import written

ZONES = ("UTC", "Europe/Paris", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia", "America/St_Johns")
INSTANTS = st.integers(0, LATEST_MS - 10**9)
MINIMAL = {"task": "send", "queue": "mail", "cron": "0 9 * * *"}
TRIGGERS = st.one_of(
    st.builds(Cron, st.sampled_from(written()), st.sampled_from(ZONES)),
    st.builds(Every, st.integers(1_000, 10**12), st.none() | INSTANTS),
    st.builds(Once, INSTANTS),
)
SCHEDULES = st.builds(
    Schedule,
    name=st.from_regex(r"[A-Za-z0-9._-]{1,80}", fullmatch=True),
    task=st.from_regex(r"[A-Za-z0-9_.:-]{1,128}", fullmatch=True),
    queue=st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True),
    trigger=TRIGGERS,
    args=st.dictionaries(
        st.text(max_size=4), st.text(max_size=4) | st.integers() | st.lists(st.booleans()), max_size=3
    ),
    lane=st.sampled_from(("high", "normal", "low")),
    max_deliveries=st.integers(1, 1_000),
    misfire=st.sampled_from(("skip", "run_once", "run_all")),
    misfire_cap=st.integers(1, 10_000),
    drip_ms=st.integers(0, 86_400_000),
    overlap=st.sampled_from(("allow", "skip", "queue_one")),
    jitter_ms=st.integers(0, 10_000),
    start_ms=st.none() | INSTANTS,
    end_ms=st.none() | INSTANTS,
    limit=st.none() | st.integers(1, 10**9),
    source=st.text(max_size=20),
)


def usable(schedule: Schedule) -> bool:
    try:
        check(schedule)
    except InvalidSchedule:
        return False
    return True


@given(SCHEDULES.filter(usable))
def test_what_is_written_reads_back_the_same(schedule: Schedule) -> None:
    plain = to_plain(schedule)
    assert from_plain(schedule.name, plain, source=schedule.source) == schedule
    # Escaped: unescaped, PyYAML writes U+0085 so that it reads back as a blank.
    through_yaml = yaml.safe_load(yaml.safe_dump(plain, sort_keys=False))
    assert from_plain(schedule.name, through_yaml, source=schedule.source) == schedule
    assert list(plain) == [key for key in KEYS if key in plain]


def test_writes_only_what_is_not_the_default() -> None:
    schedule = Schedule(
        name="n", task="t", queue="q", trigger=Cron("0 9 * * *", "Europe/Paris"), start_ms=1_800_000_000_000
    )
    assert to_plain(schedule) == {
        "task": "t",
        "queue": "q",
        "cron": "0 9 * * *",
        "tz": "Europe/Paris",
        "start": "2027-01-15T09:00:00+01:00",
    }
    assert to_plain(Schedule(name="n", task="t", queue="q", trigger=Every(300_000, 1))) == {
        "task": "t",
        "queue": "q",
        "every": "5m",
        "anchor": "1970-01-01T00:00:00.001+00:00",
    }


def test_reads_the_dates_of_toml_and_yaml() -> None:
    toml = tomllib.loads(
        'task = "t"\nqueue = "q"\nevery = "1d"\ntz = "Europe/Paris"\nanchor = 2027-03-01T09:00:00\n'
        "start = 2027-03-01T09:00:00Z\n[args]\nday = 2027-03-01\n"
    )
    schedule = from_plain("n", toml)
    assert schedule.trigger == Every(86_400_000, parse_instant("2027-03-01T08:00Z"))
    assert schedule.start_ms == parse_instant("2027-03-01T09:00Z")
    assert schedule.args == {"day": "2027-03-01"}
    read = yaml.safe_load("{task: t, queue: q, at: 2027-03-01T09:00:00+01:00, limit: null}")
    assert from_plain("n", read).trigger == Once(parse_instant("2027-03-01T08:00Z"))


@pytest.mark.parametrize(
    ("field", "changes", "why"),
    [
        ("overlpa", {"overlpa": "skip"}, "did you mean overlap?"),
        ("jitter_ms", {"jitter_ms": 5}, "did you mean jitter?"),
        ("task", {"task": None}, "missing"),
        ("queue", {"queue": 5}, "expected a text"),
        ("cron", {"cron": None}, "one of cron, every, at"),
        ("cron", {"cron": 5}, "in quotes"),
        ("cron", {"cron": "0 0 30 2 *"}, "never fires"),
        ("every", {"every": "5m"}, "exclude each other"),
        ("every", {"cron": None, "every": "5"}, "5s"),
        ("every", {"cron": None, "every": 5}, "in quotes"),
        ("anchor", {"anchor": "2027-01-01T00:00"}, "belongs to every"),
        ("at", {"cron": None, "at": "tomorrow"}, "no time or no date"),
        ("at", {"cron": None, "at": date(2027, 1, 1)}, "add a time"),
        ("at", {"cron": None, "at": 1_800_000_000}, "expected a date and a time"),
        ("at", {"cron": None, "tz": "Europe/Paris", "at": "2027-03-28T02:30"}, "does not exist in Europe/Paris"),
        ("tz", {"tz": "Europe/Pairs"}, "did you mean Europe/Paris?"),
        ("tz", {"tz": 1}, "expected a text"),
        ("start", {"start": "2027-01-01T00:00:00.0001Z"}, "parts of milliseconds"),
        ("start", {"start": "0001-01-01T00:00+14:00"}, "between 1970"),
        ("end", {"end": "9999-12-31T23:59:59-14:00"}, "between 1970"),
        ("args", {"args": [1]}, "names and values"),
        ("args", {"args": {1: 2}}, "names and values"),
        ("args", {"args": {"a": object()}}, "JSON cannot carry"),
        ("limit", {"limit": True}, "whole number"),
        ("limit", {"limit": "5"}, "whole number"),
        ("misfire", {"misfire": "never"}, "say one of skip, run_once, run_all"),
        ("overlap", {"overlap": ""}, "say one of allow"),
        ("lane", {"lane": "urgent"}, "say one of high"),
        ("drip", {"drip": 5}, "in quotes"),
        ("jitter", {"jitter": "1d"}, "use less than 1d"),
    ],
)
def test_names_the_key_and_the_reason(field: str, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidSchedule) as caught:
        from_plain("digest", MINIMAL | changes)
    assert (caught.value.name, caught.value.field) == ("digest", field)
    assert why in caught.value.why


@given(INSTANTS, st.sampled_from(ZONES))
def test_instants_read_back_the_same(ms: int, tz: str) -> None:
    assert parse_instant(format_instant(ms, tz)) == ms


def test_reads_instants() -> None:
    assert parse_instant(" 2027-03-01 09:00 ", "Europe/Paris") == parse_instant("2027-03-01T08:00Z")
    assert parse_instant(datetime(2027, 3, 1, 8, tzinfo=UTC)) == parse_instant("20270301T080000Z")
    assert parse_instant(datetime(2027, 3, 1, 8, tzinfo=timezone(timedelta(hours=1)))) == parse_instant(
        "2027-03-01T07:00Z"
    )
    assert parse_instant("2027-10-31T02:30", "Europe/Paris") == parse_instant("2027-10-31T02:30+02:00"), "the first"
    with pytest.raises(UnknownZone):
        parse_instant("2027-03-01T09:00", "Mars/Base")
    with pytest.raises(BadInstant, match="is not a date"):
        parse_instant("2027-13-01T09:00")

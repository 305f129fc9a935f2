"""Rows and documents of schedules: what is read, what each mistake is answered with, and that nothing is lost."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaimd.daemon.sources.documents import BadDocument, Format, dump, parse
from reclaimd.daemon.sources.rows import Wanted, read_row, read_rows, row_of
from reclaimd.streams.schedules.model import Cron, Every, Once, Schedule

GOOD: dict[str, Any] = {"name": "a", "task": "send", "queue": "mail", "cron": "0 9 * * *", "tz": "Europe/Paris"}

ARGUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
SCHEDULES = st.builds(
    Schedule,
    name=st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True),
    task=st.just("send"),
    queue=st.just("mail"),
    trigger=st.sampled_from(
        [
            Cron("0 9 * * 1-5", "Europe/Paris"),
            Cron("*/5 * * * * *"),
            Every(90_000),
            Every(86_400_000, anchor_ms=1_700_000_000_123),
            Once(1_900_000_000_000),
        ]
    ),
    args=st.dictionaries(st.text(max_size=8), ARGUMENTS, max_size=4),
    lane=st.sampled_from(["high", "normal", "low"]),
    overlap=st.sampled_from(["allow", "skip", "queue_one"]),
    jitter_ms=st.sampled_from([0, 500, 4_000]),
    limit=st.none() | st.integers(1, 1_000),
)


@pytest.mark.parametrize("form", ["toml", "yaml"])
@given(schedules=st.lists(SCHEDULES, max_size=4, unique_by=lambda one: one.name), paused=st.booleans())
def test_a_document_gives_back_exactly_what_was_written(form: Format, schedules: list[Schedule], paused: bool) -> None:
    text = dump([row_of(one, paused=paused) for one in schedules], form)
    wanted, problems = read_rows(parse(text, form))
    assert problems == []
    assert [one.schedule for one in wanted] == schedules
    assert [one.enabled for one in wanted] == [False if paused else None] * len(schedules)
    assert dump([row_of(one.schedule, paused=paused) for one in wanted], form) == text


def test_what_toml_has_no_words_for_is_json_text() -> None:
    rows = [
        {"name": "a", "args": value} for value in ({"x": None}, {"x": [2**63]}, {"x": -(2**63) - 1}, {"x": 2**63 - 1})
    ]
    written = [row["args"] for row in parse(dump(rows, "toml"), "toml")]
    assert written == ['{"x":null}', '{"x":[9223372036854775808]}', '{"x":-9223372036854775809}', {"x": 2**63 - 1}]


@pytest.mark.parametrize(
    ("text", "form", "why"),
    [
        ("a = ", "toml", "not valid TOML: "),
        ("schedules: [", "yaml", "not valid YAML: line 2: "),
        ("- 1", "yaml", "expected the key schedules"),
        ("jobs = []", "toml", "unknown key jobs: the only key is schedules"),
        ("schedules = 5", "toml", "schedules is no list of schedules: write [[schedules]]"),
        ("schedules:\n- 5\n", "yaml", "schedules is no list of schedules: write - name: …"),
        ("schedules:\n- name: a\n  name: b\n", "yaml", "line 3: the key name stands there twice: delete one"),
        ("schedules:\n- args: &x {a: 1}\n- args: *x\n", "yaml", "used twice (*name): write it out"),
        ("schedules: !!python/object:os.system {}", "yaml", "could not determine a constructor"),
        ("schedules: &x [*x]", "yaml", "no list of schedules"),
    ],
)
def test_what_is_no_document(text: str, form: Format, why: str) -> None:
    with pytest.raises(BadDocument) as caught:
        parse(text, form)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("text", "form"), [("", "yaml"), ("", "toml"), ("schedules:\n", "yaml"), ("schedules = []", "toml")]
)
def test_an_empty_document_holds_nothing(text: str, form: Format) -> None:
    assert parse(text, form) == []


def test_instants_that_the_formats_know_are_read() -> None:
    for text, form in (
        ('[[schedules]]\nname="a"\ntask="t"\nqueue="q"\nat=2030-01-01T09:00:00+01:00\nargs={day=2030-01-01}', "toml"),
        ("schedules:\n- {name: a, task: t, queue: q, at: 2030-01-01T08:00:00Z, args: {day: 2030-01-01}}", "yaml"),
    ):
        [wanted], _ = read_rows(parse(text, form))  # type: ignore[arg-type]
        assert wanted.schedule.trigger == Once(int(datetime(2030, 1, 1, 8, tzinfo=UTC).timestamp() * 1000))
        assert wanted.schedule.args == {"day": "2030-01-01"}


def wrong(**changes: Any) -> dict[str, str]:
    found = read_row(1, {**GOOD, **changes}, "")
    assert isinstance(found, list)
    assert {(one.row, one.name) for one in found} <= {(1, "a"), (1, ""), (1, "a:b")}
    assert len({one.field for one in found}) == len(found)
    return {one.field: one.reason for one in found}


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"name": None}, "name", "it is missing"),
        ({"name": 5}, "name", "expected a text, in quotes"),
        ({"name": "a:b"}, "name", "use 1 to 80"),
        ({"task": None}, "task", "it is missing"),
        ({"queue": None}, "queue", "it is missing"),
        ({"cron": None}, "cron", "say when: one of cron, every, at is missing"),
        ({"cron": "0 0 30 2 *"}, "cron", "never fires"),
        ({"every": "5m"}, "every", "exclude each other"),
        ({"tz": "Mars/Olympus"}, "tz", "no IANA zone"),
        ({"args": "{"}, "args", "it is not JSON"),
        ({"args": "[1]"}, "args", "expected a table of names and values"),
        ({"args": {1: 2}}, "args", "expected a table of names and values"),
        ({"enabled": "perhaps"}, "enabled", "say true or false"),
        ({"enabled": 2}, "enabled", "say true or false"),
        ({"misfires": "skip"}, "misfires", "did you mean misfire?"),
        ({"limit": 0}, "limit", "say 1 to"),
        ({"jitter": "2d"}, "jitter", "use less than 1d"),
    ],
)
def test_each_mistake_names_its_field(changes: dict[str, Any], field: str, reason: str) -> None:
    found = wrong(**changes)
    assert list(found) == [field]
    assert reason in found[field]


def test_every_mistake_of_a_row_is_told() -> None:
    found = wrong(
        task="",
        queue="a b",
        cron="61 * * * *",
        tz="Nowhere",
        jitter="soon",
        limit=-1,
        overlap="maybe",
        enabled="x",
        colour="red",
    )
    assert set(found) == {"task", "queue", "cron", "tz", "jitter", "limit", "overlap", "enabled", "colour"}


@pytest.mark.parametrize(
    ("given", "read"), [(True, True), (0, False), (1, True), ("TRUE", True), ("false", False), (None, None)]
)
def test_enabled_as_databases_write_it(given: object, read: bool | None) -> None:
    found = read_row(1, {**GOOD, "enabled": given}, "s")
    assert isinstance(found, Wanted)
    assert found.enabled is read
    assert found.schedule.source == "s"


def test_names_that_stand_twice_are_used_nowhere() -> None:
    rows = [GOOD, {**GOOD, "name": "b"}, {**GOOD, "queue": "other"}, {**GOOD, "cron": "x"}]
    wanted, problems = read_rows(rows)
    assert [one.schedule.name for one in wanted] == ["b"]
    assert [(one.row, one.field, one.reason) for one in problems] == [
        (1, "name", "another row has the same name: neither is used"),
        (3, "name", "row 1 has the same name: neither is used"),
        (4, "name", "row 1 has the same name: neither is used"),
    ]


def test_a_queue_for_rows_that_name_none_and_columns_of_no_concern() -> None:
    rows = [{**GOOD, "queue": None, "id": 7}, {**GOOD, "name": "b", "created_at": "x"}]
    wanted, problems = read_rows(rows, source="s", queue="other", only_known=True)
    assert problems == []
    assert [(one.schedule.queue, one.row) for one in wanted] == [("other", 1), ("mail", 2)]
    assert read_rows(rows, source="s", queue="other")[0] == []

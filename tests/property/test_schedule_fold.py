"""`fold(snapshot, tail) == fold(all)` at every cut, against a deliberately simple model."""

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reclaimd.streams.schedules import events, fold, snapshot
from reclaimd.streams.schedules.fold import Schedules, apply, revive
from support.schedule_model import Entry, expected

NAMES = st.sampled_from(["a", "b", "c"])


def _json(**fields: Any) -> bytes:
    return json.dumps({key: value for key, value in fields.items() if value is not None}).encode()


def _definition(**more: Any) -> dict[str, Any]:
    return {"task": "t", "queue": "q", **{key: value for key, value in more.items() if value is not None}}


DEFINITIONS = st.builds(
    _definition,
    name=NAMES,
    trigger=st.sampled_from([1, 1000, 2000]).map(lambda ms: {"type": "every", "every_ms": ms}),
    queue=st.sampled_from(["q", "p"]),
    source=st.sampled_from([None, "one", "two"]),
    limit=st.sampled_from([None, 3]),
    misfire=st.sampled_from([None, None, "skip", "perhaps"]),
    colour=st.sampled_from([None, None, None, "red"]),
    args=st.sampled_from([None, {"text": 'ü,]"', "list": [], "big": 9007199254740993}]),
)
VERSIONS = st.sampled_from([None, 1, 1, 1, 2])
UPSERTS = st.builds(partial(_json, type="ScheduleUpserted"), schedule=DEFINITIONS, v=VERSIONS)
SWITCHES = st.builds(_json, type=st.sampled_from(["SchedulePaused", "ScheduleResumed"]), name=NAMES, v=VERSIONS)
REMOVALS = st.builds(
    partial(_json, type="ScheduleRemoved"), name=NAMES, source=st.sampled_from([None, "", "one", "two"]), v=VERSIONS
)
REJECTIONS = st.builds(
    partial(_json, type="ScheduleRejected", field="cron", reason="no"),
    name=NAMES,
    entry=st.sampled_from([None, "", "what", "1-0", "2-0", "3-1", "5-0", "7-0"]),
)
STRANGE = st.one_of(
    st.builds(_json, type=st.sampled_from(["ScheduleTagged", ""]), name=NAMES, more=st.integers()),
    st.builds(_json, type=st.sampled_from(["SchedulePaused"]), name=st.sampled_from(["", "a:b", "x" * 81, None])),
    st.builds(lambda raw, cut: raw[: len(raw) - cut], UPSERTS, st.integers(1, 30)),
    st.binary(max_size=20),
    st.just(b'{"type":"ScheduleRejected","name":"a"}'),
)
EVENTS = st.one_of(UPSERTS, UPSERTS, SWITCHES, REMOVALS, REJECTIONS, STRANGE)


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    """Events under growing IDs, some of them read again later, as an older ID or at once."""
    entries: list[Entry] = []
    ms, seq = 1, 0
    for raw in draw(st.lists(EVENTS, max_size=14)):
        step = draw(st.sampled_from(["later", "later", "same ms", "duplicate", "old"]))
        if entries and step in {"duplicate", "old"}:
            entries.append(entries[-1] if step == "duplicate" else draw(st.sampled_from(entries)))
        ms, seq = (ms, seq + 1) if step == "same ms" else (ms + draw(st.integers(1, 3)), 0)
        entries.append((f"{ms}-{seq}", raw))
    return entries


def folded(entries: list[Entry], state: Schedules | None = None) -> Schedules:
    state = state or Schedules()
    for entry_id, raw in entries:
        apply(state, entry_id, raw)
    return state


def through_a_snapshot(state: Schedules) -> Schedules:
    decoder = snapshot.Decoder()
    fields = [snapshot.header(state), *snapshot.rest(state, "9-0")]
    results = [decoder.feed(f"9-{n}", as_read(entry)) for n, entry in enumerate(fields)]
    assert results[:-1] == [None] * (len(results) - 1)
    found = results[-1]
    assert isinstance(found, snapshot.Whole), found
    return found.state


def as_read(fields: snapshot.Fields) -> dict[bytes, bytes]:
    """As Redis returns them."""
    return {key.encode(): value.encode() if isinstance(value, str) else value for key, value in fields.items()}


def plain(state: Schedules) -> dict[str, Any]:
    """A state in the words of the model."""
    rows = {}
    for name, row in state.rows.items():
        body = json.loads(row.definition) if row.definition else None
        unread = [(item.event_id, item.raw) for item in row.unread]
        rows[name] = {"generation": row.generation, "since": row.since_ms, "paused": row.paused, "body": body}
        rows[name] |= {"unread": unread} | ({"changed": row.changed} if row.changed else {})
    return {
        "rows": rows,
        "problems": {name: (problem.entry, problem.reported) for name, problem in state.problems.items()},
        "unreadable": [item.event_id for item in state.unreadable],
        "position": tuple(state.position),
    }


UPSERT_OF_ONE = _json(
    type="ScheduleUpserted",
    schedule=_definition(name="a", source="one", trigger={"type": "every", "every_ms": 1000}),
)


@given(logs())
@example([("1-0", UPSERT_OF_ONE), ("2-0", b'{"type":"ScheduleTagged","name":"a"}'), ("1-0", b"{}")])
def test_the_fold_is_the_models(entries: list[Entry]) -> None:
    assert plain(folded(entries)) == expected(entries)


@given(logs())
def test_a_snapshot_at_any_cut_changes_nothing(entries: list[Entry]) -> None:
    whole = folded(entries)
    for cut in range(len(entries) + 1):
        state = through_a_snapshot(folded(entries[:cut]))
        assert folded(entries[cut:], state) == whole
        assert folded(entries, through_a_snapshot(folded(entries[:cut]))) == whole, "the tail overlaps"


@given(logs())
def test_reviving_what_still_cannot_be_read_changes_nothing(entries: list[Entry]) -> None:
    state = folded(entries)
    before = state.copy()
    revive(state)
    assert state == before


@given(logs(), st.sampled_from(["SchedulePaused", "ScheduleUpserted", "ScheduleRejected", "ScheduleRemoved"]))
def test_a_newer_program_makes_of_an_older_ones_snapshot_what_it_makes_of_all_events(
    entries: list[Entry], new_type: str
) -> None:
    """The older one does not know `new_type`."""
    older = {kind: version for kind, version in events.VERSIONS.items() if kind != new_type}
    whole = folded(entries)
    for cut in range(len(entries) + 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fold, "decode", partial(events.decode, versions=older))
            state = through_a_snapshot(folded(entries[:cut]))
        revive(state)
        upgraded = folded(entries[cut:], state)
        assert (upgraded.rows, upgraded.problems, upgraded.position) == (whole.rows, whole.problems, whole.position)


@given(logs())
def test_what_every_row_holds_can_be_decoded(entries: list[Entry]) -> None:
    for name, row in folded(entries).rows.items():
        assert row.suspended or row.definition
        if row.definition:
            assert row.schedule().name == name

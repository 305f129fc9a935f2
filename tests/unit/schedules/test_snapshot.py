"""Snapshots as entries: what is whole is used, and no damage makes a wrong state."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaimd.streams.ids import EntryID
from reclaimd.streams.schedules import snapshot
from reclaimd.streams.schedules.events import upserted
from reclaimd.streams.schedules.fold import Problem, Schedules, Unread, apply
from reclaimd.streams.schedules.model import Every, Schedule
from reclaimd.streams.schedules.snapshot import CHUNK_ROWS, Damaged, Decoder, Whole, header, read_commit, rest

HEADER = "5000-0"
Entry = tuple[str, dict[bytes, bytes]]


def state_of(count: int, size: int = 0) -> Schedules:
    state = Schedules()
    for number in range(count):
        schedule = Schedule(name=f"s{number}", task="t", queue="q", trigger=Every(1000), args={"x": "x" * size})
        apply(state, f"{1000 + number}-0", upserted(schedule))
    return state


def rich() -> Schedules:
    """Every kind of thing that a state can hold."""
    state = state_of(3)
    apply(state, "4000-0", b'{"type":"ScheduleTagged","name":"s1"}')
    apply(state, "4001-0", b'{"type":"ScheduleTagged","name":"new"}')
    apply(state, "4002-0", b"\xff\x00")
    apply(state, "4003-0", b'{"type":"SchedulePaused","name":"s2"}')
    apply(state, "4004-0", b'{"type":"ScheduleUpserted","schedule":{"name":"bad"}}')
    assert len(state.rows) == 4
    assert state.problems
    assert state.unreadable
    return state


def entries_of(state: Schedules, of: str = HEADER) -> list[Entry]:
    fields = [header(state), *rest(state, of)]
    base = EntryID.parse(of)
    return [(f"{base.ms}-{base.seq + n}", _as_read(one)) for n, one in enumerate(fields)]


def _as_read(fields: snapshot.Fields) -> dict[bytes, bytes]:
    return {key.encode(): value.encode() if isinstance(value, str) else value for key, value in fields.items()}


def results(entries: list[Entry], only: str | None = None) -> list[Whole | Damaged]:
    decoder = Decoder(only)
    found = [decoder.feed(entry_id, fields) for entry_id, fields in entries]
    return [result for result in found if result is not None]


@pytest.mark.parametrize("state", [Schedules(), state_of(1), rich()], ids=["empty", "one", "rich"])
def test_a_state_comes_back(state: Schedules) -> None:
    assert results(entries_of(state)) == [Whole(HEADER, state)]


def test_the_unreadable_keeps_its_bytes() -> None:
    state = Schedules(unreadable=[Unread("1-0", bytes(range(256)), "no event")], position=EntryID(1, 0))
    [found] = results(entries_of(state))
    assert found == Whole(HEADER, state)


@pytest.mark.parametrize(("count", "chunks"), [(999, 1), (1000, 1), (1001, 2), (2500, 3)])
def test_chunks_hold_a_thousand_rows(count: int, chunks: int) -> None:
    entries = entries_of(state_of(count))
    assert [fields[b"kind"] for _, fields in entries] == [b"header", *[b"chunk"] * chunks, b"commit"]
    assert max(len(json.loads(fields[b"rows"])) for _, fields in entries[1:-1]) <= CHUNK_ROWS
    assert results(entries) == [Whole(HEADER, state_of(count))]


def test_chunks_of_long_rows_hold_a_megabyte() -> None:
    state = state_of(30, size=100_000)
    entries = entries_of(state)
    assert len(entries) == 2 + 4
    assert max(len(fields[b"rows"]) for _, fields in entries[1:-1]) <= snapshot.CHUNK_BYTES + 100
    assert results(entries) == [Whole(HEADER, state)]


def test_a_snapshot_says_what_it_covers() -> None:
    entries = entries_of(rich())
    assert entries[0][1] == {b"kind": b"header", b"v": b"1", b"covers": b"4004-0"}
    commit = read_commit(entries[-1][1])
    assert commit is not None
    assert (commit.of, commit.covers, commit.rows, commit.chunks) == (HEADER, "4004-0", 4, 3)
    assert read_commit(entries[0][1]) is None


def test_without_its_commit_it_does_not_count() -> None:
    assert results(entries_of(rich())[:-1]) == []


def test_two_that_were_written_at_once_are_told_apart() -> None:
    first, second = entries_of(state_of(1500)), entries_of(rich(), "5000-100")
    mixed = [*first[:2], *second[:2], *first[2:], *second[2:]]
    assert results(mixed) == [Whole(HEADER, state_of(1500)), Whole("5000-100", rich())]
    assert results(mixed, only="5000-100") == [Whole("5000-100", rich())]


def test_entries_of_others_are_passed_over() -> None:
    entries = entries_of(rich())
    strange = ("5000-1", {b"hello": b"\xff"})
    assert results([strange, entries[0], strange, *entries[1:]]) == [Whole(HEADER, rich())]


def damages() -> Iterator[tuple[str, list[Entry], str]]:
    entries = entries_of(state_of(2100))
    yield "header gone", entries[1:], "its header is missing"
    yield "chunk gone", entries[:2] + entries[3:], "chunk 1 is missing"
    yield "last chunk gone", entries[:3] + entries[4:], "2 of 3 chunks are there"
    yield "chunk twice", entries[:2] + entries[1:], "chunk 1 is missing"
    yield "chunks swapped", [entries[0], entries[2], entries[1], *entries[3:]], "chunk 0 is missing"
    yield "newer", [(HEADER, {**entries[0][1], b"v": b"2"}), *entries[1:]], "its version is 2, this program knows 1"
    yield "covers", [(HEADER, {**entries[0][1], b"covers": b"1-0"}), *entries[1:]], "its header covers 1-0, its commit"
    yield "covers what", [(HEADER, {**entries[0][1], b"covers": b"x"}), *entries[1:]], "does not say what it covers"
    altered = {**entries[1][1], b"rows": entries[1][1][b"rows"].replace(b'"every_ms":1000', b'"every_ms":1001', 1)}
    yield "row altered", [entries[0], ("5000-1", altered), *entries[2:]], "its checksum is another"
    cut = {**entries[1][1], b"rows": entries[1][1][b"rows"][:-1]}
    yield "chunk cut", [entries[0], ("5000-1", cut), *entries[2:]], "chunk 0 cannot be read"
    odd = {**entries[1][1], b"what": b"pears"}
    yield "chunk of what", [entries[0], ("5000-1", odd), *entries[2:]], "it holds 'pears'"
    broken = {key: value for key, value in entries[-1][1].items() if key != b"checksum"}
    yield "commit cut", [*entries[:-1], (entries[-1][0], broken)], "its commit cannot be read"


@pytest.mark.parametrize(("entries", "why"), [case[1:] for case in damages()], ids=[case[0] for case in damages()])
def test_damage_is_named(entries: list[Entry], why: str) -> None:
    [found] = results(entries)
    assert isinstance(found, Damaged), found
    assert (found.of, why in found.why) == (HEADER, True), found.why


RICH = rich()


@given(st.data())
def test_no_changed_byte_makes_another_state(data: st.DataObject) -> None:
    entries = entries_of(RICH)
    number = data.draw(st.integers(0, len(entries) - 1))
    entry_id, fields = entries[number]
    name = data.draw(st.sampled_from([b"rows"] if b"rows" in fields and data.draw(st.booleans()) else sorted(fields)))
    value = fields[name]
    at = data.draw(st.integers(0, len(value)))
    changed = value[:at] + data.draw(st.binary(min_size=0, max_size=2)) + value[at + 1 :]
    entries[number] = (entry_id, {**fields, name: changed})
    for found in results(entries):
        assert isinstance(found, Damaged) or found == Whole(HEADER, RICH), found


def test_problems_come_back_as_they_were() -> None:
    problem = Problem("4004-0", "task", "it is missing", reported=True)
    state = Schedules(problems={"bad": problem}, position=EntryID(5, 0))
    assert results(entries_of(state)) == [Whole(HEADER, state)]

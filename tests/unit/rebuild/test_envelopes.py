"""Envelopes come out of the archive as they went in."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaimd.daemon.rebuild import envelopes

PLAIN = [b"task", b"t", b"at", b"17", b"lane", b"high", b"max", b"5", b"body", b"{}"]


@given(st.lists(st.binary(), min_size=2, max_size=8).filter(lambda fields: len(fields) % 2 == 0))
def test_any_bytes_survive(fields: list[bytes]) -> None:
    assert envelopes.unpack(envelopes.pack(fields)) == fields


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=2))
def test_text_is_plain_json(words: list[str]) -> None:
    assert json.loads(envelopes.pack([word.encode() for word in words])) == words


def test_what_the_scripts_write_is_read() -> None:
    assert envelopes.unpack(rb'["task","t","at","17","deliveries",1,"body","{\"a\":\"\/\u007f\"}"]') == [
        *(b"task", b"t", b"at", b"17", b"deliveries", b"1", b"body"),
        b'{"a":"/\x7f"}',
    ]


@pytest.mark.parametrize("text", [b"", b"{}", b'["a"]', b'"a"', b"[[]]", b'["a",', b"[" * 100_000, b"\xff"])
def test_what_is_no_envelope_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        envelopes.unpack(text)


@pytest.mark.parametrize(
    ("index", "value"),
    [(0, b"what"), (1, b""), (1, b"a b"), (1, b"a" * 129), (5, b"urgent"), (8, b"text"), (2, b"when"), (6, b"most")],
)
def test_foreign_entries_are_told_from_tasks(index: int, value: bytes) -> None:
    fields = list(PLAIN)
    assert envelopes.is_whole(fields)
    fields[index] = value
    assert not envelopes.is_whole(fields)


@pytest.mark.parametrize("bad", [b"", b"-1", b"x", b"1.5", b"1234567890123456"])
def test_counts_that_are_none_make_it_unusable(bad: bytes) -> None:
    assert envelopes.is_well_formed([*PLAIN[:8], b"deliveries", b"2", *PLAIN[8:]])
    assert not envelopes.is_well_formed([*PLAIN[:8], b"deliveries", bad, *PLAIN[8:]])
    assert not envelopes.is_well_formed([*PLAIN[:3], bad, *PLAIN[4:]])
    assert envelopes.count(bad) == 0


def test_the_token_counts_from_its_base() -> None:
    assert envelopes.token({}) == 1
    counted = {b"token": b"4", b"deliveries": b"1", b"attempts": b"2", b"handbacks": b"3"}
    assert envelopes.token(counted) == 10


def test_the_first_row_of_a_history_and_the_last_19_stay() -> None:
    history = b""
    for number in range(30):
        history = envelopes.remember(history, b"[%d]" % number)
    assert history.split(b"\n") == [b"[%d]" % n for n in (0, *range(11, 30))]


def test_the_first_entry_is_found_in_a_history() -> None:
    history = envelopes.remember(envelopes.history_row(7, "restored", "empty", "5-1"), b"[]")
    assert envelopes.first_entry(history) == "5-1"
    assert [envelopes.first_entry(text) for text in (b"", b"{", b"[1]", b"[1,2,3,4,5]", b"\xff")] == [""] * 5


def test_the_letter_that_a_task_was_redriven_from_last_is_found_in_a_history() -> None:
    told = [("reclaimed", "1-1"), ("redriven", "2-1"), ("redriven", "3-1"), ("restored", "4-1")]
    rows = [envelopes.history_row(7, what, "", entry) for what, entry in told]
    by_redriven = b'[7,"reclaimed","redriven","","5-1"]'
    assert envelopes.last_letter(b"\n".join([*rows, by_redriven])) == "3-1"
    assert [envelopes.last_letter(text) for text in (b"", by_redriven, b'"redriven"', b"\xff")] == [""] * 4

"""Order as text, cursors, marks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaimd.daemon.rebuild.marks import mark_number
from reclaimd.daemon.rebuild.values import (
    PLACES,
    RANKS,
    Cursor,
    Report,
    entry_ms,
    sort_of_due,
    sort_of_entry,
)

U64 = st.integers(0, 2**64 - 1)
IDS = st.tuples(U64, U64)


@given(IDS, IDS)
def test_entries_sort_as_redis_orders_them(a: tuple[int, int], b: tuple[int, int]) -> None:
    assert (sort_of_entry(f"{a[0]}-{a[1]}") < sort_of_entry(f"{b[0]}-{b[1]}")) == (a < b)


@given(U64, U64)
def test_dues_sort_by_number(a: int, b: int) -> None:
    assert (sort_of_due(a) < sort_of_due(b)) == (a < b)


def test_places_are_in_the_order_in_which_they_are_restored() -> None:
    assert PLACES[0] == "suspect"
    assert PLACES[-3:] == ("delayed", "queued", "dead")
    assert (RANKS["recovered:high"], RANKS["lane:high"], RANKS["lane:low"], RANKS["dead"]) == (1, 2, 6, 9)


def test_a_cursor_is_text_and_back() -> None:
    cursor = Cursor(3, sort_of_entry("5-1"), "a:b|c")
    assert Cursor.parse(str(cursor)) == cursor
    assert Cursor(3, "a", "z") < Cursor(3, "b", "a") < Cursor(4, "a", "a")
    with pytest.raises(ValueError, match=r"."):
        Cursor.parse("~facts")


def test_numbers_of_marks_and_instants_of_entries() -> None:
    assert [mark_number(text) for text in ("7:abc", "12:", "", "x:1", "²:1")] == [7, 12, 0, 0, 0]
    assert [entry_ms(text) for text in ("17-3", "", "x-1")] == [17, 0, 0]


def test_a_report_tells_tasks_from_letters() -> None:
    report = Report(rebuild_id="r", verdict="empty", namespace="n", queue="q", restored={"lane:low": 3, "dead": 4})
    assert report.tasks_restored == 3

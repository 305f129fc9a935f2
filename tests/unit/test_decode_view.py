"""The view script's reply, with all that Lua's cjson does to numbers and to nothing."""

import msgspec
import pytest

from reclaimd.daemon.view import decode_view

REPLY = {
    "now_ms": 1.7e12,
    "lease_now": 1700000000000.0,
    "cap_ms": 5000,
    "epoch_id": "e",
    "state": "ok",
    "live": 2.0,
    "fenced": 0,
    "expired": 0,
    "gone": 0,
    "delayed": 0,
    "overdue": 0,
    "waiting": {"lane:high": 3.0},
    "pending": {},
    "dead": 0,
    "events": 0,
    "bell": True,
    "paused": False,
    "counters": {"enqueued": 1e15},
}


def test_whole_numbers_and_absent_fields() -> None:
    view = decode_view("q", 0, msgspec.json.encode(REPLY))
    assert (view.queue, view.partition, view.now_ms, view.live) == ("q", 0, 1_700_000_000_000, 2)
    assert view.waiting == {"lane:high": 3}
    assert view.counter("enqueued") == 10**15
    assert (view.next_due, view.next_lease_end, view.oldest_waiting_ms, view.oldest_pending_ms) == (None,) * 4


def test_an_epoch_without_a_name() -> None:
    assert decode_view("q", 0, msgspec.json.encode(REPLY | {"epoch_id": False})).epoch_id == ""


@pytest.mark.parametrize("change", [{"live": 1.5}, {"state": "odd"}, {"bell": None}])
def test_nonsense_is_an_error(change: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_view("q", 0, msgspec.json.encode(REPLY | change))

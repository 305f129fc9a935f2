"""Views for tests that need one with a few numbers in it."""

from typing import Any

import msgspec

from reclaimd.daemon.view import PartitionView

EMPTY = PartitionView(
    queue="mail",
    partition=0,
    now_ms=1_763_757_000_000,
    lease_now=1_000,
    cap_ms=5_000,
    epoch_id="e1",
    state="ok",
    next_lease_end=None,
    live=0,
    fenced=0,
    expired=0,
    gone=0,
    delayed=0,
    next_due=None,
    overdue=0,
    waiting={},
    pending={},
    oldest_pending_ms=None,
    oldest_waiting_ms=None,
    dead=0,
    events=0,
    bell=False,
    paused=False,
    counters={},
)


def make_view(**numbers: Any) -> PartitionView:
    """An empty, healthy partition of the queue `mail`, except for the given fields."""
    return msgspec.structs.replace(EMPTY, **numbers)

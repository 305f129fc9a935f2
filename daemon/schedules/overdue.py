"""What to tell of schedules that were restored: what came due meanwhile, and which of them cannot fire."""

from typing import Final

import anyio
import msgspec

from reclaimd.daemon.rebuild.schedules import Judged
from reclaimd.daemon.rebuild.values import FiredRow, Unrestorable
from reclaimd.streams.ids import EntryID
from reclaimd.streams.schedules.calculus import count_between
from reclaimd.streams.schedules.fold import Row, Schedules

COUNTED: Final = 10_000
"""Occurrences of one schedule are counted up to so many."""
SLICE: Final = 200

# A zone that this machine does not know, a definition from a newer program: each concerns one schedule only.
_UNUSABLE = (ValueError, LookupError, ArithmeticError, TypeError, AssertionError, msgspec.MsgspecError)


async def judge(state: Schedules, fired: dict[str, FiredRow], now_ms: int) -> Judged:
    """Count what is overdue by these rows of `:fired`, and list what is wrong. Misfire policies decide what fires."""
    overdue = 0
    problems = [Unrestorable(f"schedule event {event.event_id}", event.why) for event in state.unreadable]
    for name, problem in state.problems.items():
        kept = "the definition before it is used" if name in state.rows else "there is no other"
        problems.append(Unrestorable(f"schedule {name}", f"{problem.field}: {problem.reason} ({kept})"))
    for number, (name, row) in enumerate(state.rows.items()):
        if number % SLICE == 0:
            await anyio.lowlevel.checkpoint()
        if row.suspended:
            problems.append(Unrestorable(f"schedule {name}", f"suspended: {row.unread[0].why or 'an event is unread'}"))
            continue
        try:
            overdue += _overdue(row, fired.get(name), now_ms)
        except _UNUSABLE as error:
            problems.append(Unrestorable(f"schedule {name}", f"cannot be planned: {error}"))
    return Judged(overdue, tuple(problems))


def _overdue(row: Row, fired: FiredRow | None, now_ms: int) -> int:
    what = row.schedule()
    if row.paused:
        return 0
    if fired is not None:
        row = row.at_least(fired.generation)
    born = EntryID.parse(row.generation).ms
    last, count = 0, 0
    if fired is not None and fired.generation == row.generation:
        last, count = fired.last, fired.count
    found = count_between(what, max(born, row.since_ms, last), now_ms, anchor_ms=born, most=COUNTED)
    due = COUNTED if found < 0 else found
    return due if what.limit is None else min(due, max(0, what.limit - count))

"""The instants of a schedule. Pure.

All instants are nominal ones, without jitter, in wall milliseconds UTC, from 1970 to the end of the year 9000; none
comes twice. What a call costs hangs on the clock changes and months between, never on the seconds. All raise BadCron or
UnknownZone for a cron trigger that `checks.check` would have refused.
"""

from functools import lru_cache
from hashlib import blake2b
from typing import Final

from reclaimd.streams.durations import format_duration
from reclaimd.streams.schedules import cron, walk
from reclaimd.streams.schedules.instants import format_instant
from reclaimd.streams.schedules.model import Cron, Every, Once, Outline, Schedule, Trigger
from reclaimd.streams.schedules.zones import LAST_YEAR, year_start

LATEST_MS: Final = year_start(LAST_YEAR + 1) * 1_000 - 1
"""No instant is later."""


def next_after(trigger: Trigger, after_ms: int, *, anchor_ms: int) -> int | None:
    """The first instant strictly after `after_ms`, or None.

    `anchor_ms`: what an interval without an anchor of its own counts from, the creation of its schedule.
    """
    found: int | None
    if isinstance(trigger, Cron):
        return _line(trigger.expr, trigger.tz).next_after(after_ms)
    if isinstance(trigger, Every):
        found = _next_multiple(trigger.every_ms, _zero(trigger, anchor_ms), max(after_ms, -1))
    else:
        found = trigger.at_ms if trigger.at_ms > after_ms else None
    return found if found is not None and found <= LATEST_MS else None


def last_before(trigger: Trigger, before_ms: int, *, anchor_ms: int) -> int | None:
    """The last instant strictly before `before_ms`, or None. `anchor_ms`: see `next_after`."""
    bound = min(before_ms, LATEST_MS + 1)
    found: int | None
    if isinstance(trigger, Cron):
        seconds = walk.last_until(cron.read(trigger.expr), trigger.tz, -(-bound // 1_000) - 1)
        found = None if seconds is None else seconds * 1_000
    elif isinstance(trigger, Every):
        found = _next_multiple(trigger.every_ms, _zero(trigger, anchor_ms), bound - 1 - trigger.every_ms)
    else:
        found = trigger.at_ms if trigger.at_ms < bound else None
    return found if found is not None and found >= 0 else None


def due_between(what: Schedule | Trigger, after_ms: int, until_ms: int, *, anchor_ms: int, most: int) -> list[int]:
    """The first `most` instants with after < instant <= until; those of a schedule between its start and end only."""
    trigger, after, until = _bounded(what, after_ms, until_ms)
    found: list[int] = []
    while len(found) < most:
        following = next_after(trigger, after, anchor_ms=anchor_ms)
        if following is None or following > until:
            break
        found.append(following)
        after = following
    return found


def count_between(what: Schedule | Trigger, after_ms: int, until_ms: int, *, anchor_ms: int, most: int) -> int:
    """How many instants with after < instant <= until; -1 if there are more than `most`."""
    trigger, after, until = _bounded(what, after_ms, until_ms)
    if until <= after:
        return 0
    if isinstance(trigger, Cron):
        count = walk.count_in(cron.read(trigger.expr), trigger.tz, after // 1_000 + 1, until // 1_000, most)
    elif isinstance(trigger, Every):
        zero = _zero(trigger, anchor_ms)
        count = (until - zero) // trigger.every_ms - (after - zero) // trigger.every_ms
    else:
        count = int(after < trigger.at_ms <= until)
    return count if count <= most else -1


def next_of(schedule: Schedule | Outline, after_ms: int, *, created_ms: int) -> int | None:
    """The first instant strictly after `after_ms` between the schedule's start and end, or None.

    `limit` is not looked at: only who knows how many there were can tell.
    """
    start, end, trigger = schedule.start_ms, schedule.end_ms, schedule.trigger
    after = after_ms if start is None else max(after_ms, start - 1)
    if isinstance(trigger, Cron):
        found = _line(trigger.expr, trigger.tz).next_after(after)
    else:
        found = next_after(trigger, after, anchor_ms=created_ms)
    return found if end is None or found is None or found <= end else None


def last_of(schedule: Schedule, before_ms: int, *, created_ms: int) -> int | None:
    """The last instant strictly before `before_ms` between the schedule's start and end, or None."""
    before = before_ms if schedule.end_ms is None else min(before_ms, schedule.end_ms + 1)
    found = last_before(schedule.trigger, before, anchor_ms=created_ms)
    return found if found is not None and (schedule.start_ms is None or found >= schedule.start_ms) else None


def jitter_of(schedule: Schedule | Outline, nominal_ms: int) -> int:
    """How much later this occurrence happens: from 0 to below `jitter_ms`, always the same for the same one."""
    if schedule.jitter_ms <= 0:
        return 0
    digest = blake2b(f"{schedule.name}:{nominal_ms}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % schedule.jitter_ms


def explain(trigger: Trigger) -> str:
    """In one English sentence without a full stop: `At 09:00 on Monday through Friday, Europe/Paris`."""
    if isinstance(trigger, Cron):
        return f"{cron.explanation(trigger.expr)}, {trigger.tz}"
    if isinstance(trigger, Once):
        return f"Once, at {format_instant(trigger.at_ms)}"
    zero = "its creation" if trigger.anchor_ms is None else format_instant(trigger.anchor_ms)
    return f"Every {format_duration(trigger.every_ms)}, counted from {zero}"


class _Line:
    """A cron expression in a zone, and the last stretch of time whose next instant was asked for.

    A million schedules share a few thousand expressions, and ask from about the same instant.
    """

    __slots__ = ("_expression", "_known", "_zone")

    def __init__(self, expression: cron.Expression, zone: str) -> None:
        self._expression = expression
        self._zone = zone
        self._known = (0, 0, 0)

    def next_after(self, after_ms: int) -> int | None:
        low, high, answer = self._known
        if low <= after_ms < high:
            return answer
        after = max(after_ms, -1)
        seconds = walk.first_from(self._expression, self._zone, after // 1_000 + 1)
        if seconds is None or seconds * 1_000 > LATEST_MS:
            return None
        found = seconds * 1_000
        # One tuple, so that threads see an old stretch or a new one; neighbours grow together.
        self._known = (min(low, after) if answer == found else after, found, found)
        return found


@lru_cache(maxsize=16_384)
def _line(expr: str, tz: str) -> _Line:
    return _Line(cron.read(expr), tz)


def _zero(trigger: Every, anchor_ms: int) -> int:
    return anchor_ms if trigger.anchor_ms is None else trigger.anchor_ms


def _next_multiple(every_ms: int, zero_ms: int, after_ms: int) -> int:
    """The first instant of the grid strictly after `after_ms`."""
    return zero_ms + ((after_ms - zero_ms) // every_ms + 1) * every_ms


def _bounded(what: Schedule | Trigger, after_ms: int, until_ms: int) -> tuple[Trigger, int, int]:
    until = min(until_ms, LATEST_MS)
    if not isinstance(what, Schedule):
        return what, max(after_ms, -1), until
    start = 0 if what.start_ms is None else what.start_ms
    end = until if what.end_ms is None else what.end_ms
    return what.trigger, max(after_ms, start - 1, -1), min(until, end)

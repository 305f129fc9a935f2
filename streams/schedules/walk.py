"""From cron expressions to instants, in zones whose clocks change. Pure.

The walk is ours, not cronsim's: in zones whose clocks move by half an hour or by a day, and around the hour that comes
twice, cronsim loses instants, repeats them or goes back (docs/schedules.md has the table).

An expression that names times of the day makes each of them happen once: one that does not exist, because the clocks
jump over it, happens at the jump; one that comes twice happens the first time. An expression that names a rhythm
follows elapsed time: what does not exist does not happen, and what comes twice happens twice. So does Debian's cron.

Everything is in seconds, *local* ones where it says so (`zones`); days count from 1970-01-01, months from year 0.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from datetime import date
from functools import lru_cache
from itertools import pairwise
from typing import Final

from reclaimd.streams.schedules.cron import Expression, days_rule
from reclaimd.streams.schedules.zones import DAY, FIRST_YEAR, LAST_YEAR, Piece, pieces_of, year_of

YEARS_TO_SEARCH: Final = 50
"""The 29th of February falls on a given day of the week at least every 40 years."""

YEAR: Final = 365 * DAY
_SAMPLE_MONTHS: Final = range(2027 * 12, 2031 * 12)
_EPOCH: Final = date(1970, 1, 1).toordinal()


def first_from(expr: Expression, zone: str, lower: int) -> int | None:
    """The first instant at or after `lower`; None if there is none in 50 years. Raises UnknownZone."""
    for piece in _pieces_from(zone, lower, YEARS_TO_SEARCH):
        found = _next_local(expr, _floor(expr, piece, lower), piece.end + piece.offset)
        if found is not None:
            return max(found - piece.offset, piece.start)
    return None


def last_until(expr: Expression, zone: str, upper: int) -> int | None:
    """The last instant at or before `upper`; None if there is none in 50 years. Raises UnknownZone."""
    for piece in _pieces_until(zone, upper):
        floor = _floor(expr, piece, piece.start)
        found = _previous_local(expr, min(upper, piece.end - 1) + piece.offset, floor)
        if found is not None:
            return max(found - piece.offset, piece.start)
    return None


def count_in(expr: Expression, zone: str, lower: int, until: int, most: int) -> int:
    """How many instants in [lower, until]; some number above `most` if there are more. Raises UnknownZone."""
    total = 0
    for piece in _pieces_from(zone, lower, (until - lower) // YEAR + 2):
        if piece.start > until or total > most:
            break
        floor, ceiling = _floor(expr, piece, lower), min(piece.end, until + 1) + piece.offset
        existing = max(lower, piece.start) + piece.offset
        if floor < existing:
            # All that the clocks jumped over happens at the jump, together with what is named for that very instant.
            total += _next_local(expr, floor, existing + 1) is not None
            floor = existing + 1
        total += _count_local(expr, floor, ceiling, most - total)
    return total


@lru_cache(maxsize=16_384)
def shortest_gap(expr: Expression) -> int:
    """The shortest time between two occurrences where clocks do not change; days are those of four years."""
    seconds, minutes, hours = expr.seconds, expr.minutes, expr.hours
    minute = seconds[-1] - seconds[0]
    hour = (minutes[-1] - minutes[0]) * 60 + minute
    day = (hours[-1] - hours[0]) * 3_600 + hour
    return min(
        _least_step(seconds, YEAR),
        _least_step(minutes, YEAR) * 60 - minute,
        _least_step(hours, YEAR) * 3_600 - hour,
        _shortest_days(expr) * DAY - day,
    )


def _shortest_days(expr: Expression) -> int:
    least, last = 365, -365
    for month in _SAMPLE_MONTHS:
        for day in _days(expr, month):
            least, last = min(least, day - last), day
        if least == 1:
            break
    return least


def _least_step(numbers: tuple[int, ...], none: int) -> int:
    return min((later - earlier for earlier, later in pairwise(numbers)), default=none)


def _floor(expr: Expression, piece: Piece, lower: int) -> int:
    """The local second from which on times belong to this piece, of which only instants from `lower` on are wanted."""
    if not expr.names_times:
        return max(lower, piece.start) + piece.offset
    # Where the last piece ended by its own clock: what a jump skipped is part of this one, what comes twice is not.
    start = piece.start + piece.before
    return start if lower <= piece.start else max(start, lower + piece.offset)


def _pieces_from(zone: str, lower: int, years: int) -> Iterator[Piece]:
    first = max(year_of(lower), FIRST_YEAR)
    for year in range(first, min(first + years, LAST_YEAR) + 1):
        for piece in pieces_of(zone, year):
            if piece.end > lower:
                yield piece


def _pieces_until(zone: str, upper: int) -> Iterator[Piece]:
    last = min(year_of(upper), LAST_YEAR)
    for year in range(last, max(last - YEARS_TO_SEARCH, FIRST_YEAR) - 1, -1):
        for piece in reversed(pieces_of(zone, year)):
            if piece.start <= upper:
                yield piece


def _next_local(expr: Expression, floor: int, ceiling: int) -> int | None:
    """The first local second in [floor, ceiling)."""
    day, second = divmod(floor, DAY)
    index = expr.position(second)
    if index == expr.times:
        day, index = day + 1, 0
    matching = _first_day(expr, day, (ceiling - 1) // DAY)
    if matching is None:
        return None
    found = matching * DAY + expr.time(index if matching == day else 0)
    return found if found < ceiling else None


def _previous_local(expr: Expression, top: int, floor: int) -> int | None:
    """The last local second in [floor, top]."""
    day, second = divmod(top, DAY)
    index = expr.position(second + 1) - 1
    if index < 0:
        day, index = day - 1, expr.times - 1
    matching = _last_day(expr, day, floor // DAY)
    if matching is None:
        return None
    found = matching * DAY + expr.time(index if matching == day else expr.times - 1)
    return found if found >= floor else None


def _count_local(expr: Expression, floor: int, ceiling: int, most: int) -> int:
    """How many local seconds in [floor, ceiling), a month at a time; some number above `most` if there are more."""
    if floor >= ceiling:
        return 0
    (first, early), (last, late) = divmod(floor, DAY), divmod(ceiling, DAY)
    total = expr.position(late) if _first_day(expr, last, last) is not None else 0
    if _first_day(expr, first, first) is not None:
        total -= expr.position(early)
    for month in range(_month_of(first), _month_of(last) + 1):
        if total > most:
            break
        days = _days(expr, month)
        total += expr.times * (bisect_left(days, last) - bisect_left(days, first))
    return total


def _first_day(expr: Expression, day: int, until: int) -> int | None:
    """The first matching day in [day, until]."""
    if day > until:
        return None
    for month in range(_month_of(day), _month_of(until) + 1):
        days = _days(expr, month)
        index = bisect_left(days, day)
        if index < len(days):
            return days[index] if days[index] <= until else None
    return None


def _last_day(expr: Expression, day: int, least: int) -> int | None:
    """The last matching day in [least, day]."""
    if day < least:
        return None
    for month in range(_month_of(day), _month_of(least) - 1, -1):
        days = _days(expr, month)
        index = bisect_right(days, day) - 1
        if index >= 0:
            return days[index] if days[index] >= least else None
    return None


def _days(expr: Expression, month: int) -> tuple[int, ...]:
    """The matching days of a month, ascending."""
    return _days_of(expr.dom, expr.dow, month) if month % 12 + 1 in expr.months else ()


@lru_cache(maxsize=8_192)
def _days_of(dom: str, dow: str, month: int) -> tuple[int, ...]:
    rule = days_rule(dom, dow)
    year, zero_based = divmod(month, 12)
    first = date(year, zero_based + 1, 1).toordinal()
    candidates = (date.fromordinal(first + day) for day in range(31))
    return tuple(day.toordinal() - _EPOCH for day in candidates if day.month == zero_based + 1 and rule.match_day(day))


@lru_cache(maxsize=4_096)
def _month_of(day: int) -> int:
    when = date.fromordinal(day + _EPOCH)
    return when.year * 12 + when.month - 1

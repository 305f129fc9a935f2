"""Cron expressions as they are written: five fields, or six with seconds first. Pure.

`cronsim` reads the fields, knows which days match, and explains the whole. The walk through time is in `walk`.
"""

import re
from bisect import bisect_left
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple

from cronsim import CronSim, CronSimError

LONGEST_EXPRESSION: Final = 256

MACROS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

_RANGE_OF_ONE: Final = re.compile(r"(?<![^,])([0-9A-Z]+)-\1/[1-9][0-9]*(?![^,])")
_SOME_TIME: Final = datetime(2000, 1, 1, tzinfo=UTC)
_FIELDS: Final = {
    "second": "0-59",
    "minute": "0-59",
    "hour": "0-23",
    "month": "1-12 or JAN-DEC",
    "day of month": "1-31, L (the last) or LW (the last from Monday to Friday)",
    "day of week": "0-7 or SUN-SAT, 5#2 (the second Friday) or 5L (the last)",
}
_FORMS: Final = "* , - and / combine them, and ranges go upwards"


class BadCron(ValueError):
    """An expression that cannot be read; the text says what is wrong and what to write."""


class Expression(NamedTuple):
    """One that was read. `dom`, `dow`: the text of the two fields that choose days.

    `names_times`: none of seconds, minutes and hours begins with `*`. Such an expression (`30 2 * * *`) names times of
    the day, all others (`*/15 * * * *`) a rhythm; the two differ where the clocks change (`walk`).
    """

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    months: frozenset[int]
    dom: str
    dow: str
    names_times: bool

    @property
    def times(self) -> int:
        """How many a day."""
        return len(self.hours) * len(self.minutes) * len(self.seconds)

    def time(self, index: int) -> int:
        """The index-th of a day: seconds after midnight."""
        rest, second = divmod(index, len(self.seconds))
        hour, minute = divmod(rest, len(self.minutes))
        return self.hours[hour] * 3_600 + self.minutes[minute] * 60 + self.seconds[second]

    def position(self, second: int) -> int:
        """Of the first time of a day that is not before `second` after midnight; `times` if there is none."""
        minute, second = divmod(second, 60)
        hour, minute = divmod(minute, 60)
        hours, minutes = bisect_left(self.hours, hour), bisect_left(self.minutes, minute)
        if hours == len(self.hours) or self.hours[hours] > hour:
            return hours * len(self.minutes) * len(self.seconds)
        before = (hours * len(self.minutes) + minutes) * len(self.seconds)
        if minutes == len(self.minutes) or self.minutes[minutes] > minute:
            return before
        return before + bisect_left(self.seconds, second)


@lru_cache(maxsize=16_384)
def read(expr: str) -> Expression:
    """Read an expression, in capitals or not; raises BadCron."""
    if len(expr) > LONGEST_EXPRESSION:
        raise BadCron(f"it is too long: use at most {LONGEST_EXPRESSION} characters")
    parts = expr.upper().split()
    if len(parts) == 1 and parts[0].lower() in MACROS:
        raise BadCron(f"write {parts[0].lower()} as {MACROS[parts[0].lower()]!r}")
    if len(parts) not in {5, 6}:
        raise BadCron(
            f"it has {len(parts)} fields: write five (minute, hour, day of month, month, day of week), or six with "
            "seconds first"
        )
    # cronsim takes 5-5/10 for 5/10; it is 5.
    parts = [_RANGE_OF_ONE.sub(r"\1", part) if "-" in part else part for part in parts]
    second, minute, hour, dom, month, dow = parts if len(parts) == 6 else ["0", *parts]
    days_rule(dom, dow)
    return Expression(
        seconds=_numbers("second", second),
        minutes=_numbers("minute", minute),
        hours=_numbers("hour", hour),
        months=frozenset(_numbers("month", month)),
        dom=dom,
        dow=dow,
        names_times=not any(field.startswith("*") for field in (second, minute, hour)),
    )


def explanation(expr: str) -> str:
    """In English, by cronsim: `At 09:00 on Monday through Friday`. Raises BadCron."""
    read(expr)
    return CronSim(expr, _SOME_TIME).explain()


@lru_cache(maxsize=1_024)
def days_rule(dom: str, dow: str) -> CronSim:
    """What tells by `match_day` whether a date matches the two fields; raises BadCron.

    Both must match if either begins with `*`, else one is enough, as in Debian's cron.
    """
    _sim(f"0 0 {dom} * *", "day of month", dom)
    return _sim(f"0 0 {dom} * {dow}", "day of week", dow)


@lru_cache(maxsize=4_096)
def _numbers(field: str, text: str) -> tuple[int, ...]:
    """The numbers of one field, ascending: equal fields of many expressions are read once and share them."""
    match field:
        case "second":
            numbers = _sim(f"{text} 0 0 * * *", field, text).seconds
        case "minute":
            numbers = _sim(f"{text} 0 * * *", field, text).minutes
        case "hour":
            numbers = _sim(f"0 {text} * * *", field, text).hours
        case _:
            numbers = _sim(f"0 0 * {text} *", field, text).months
    return tuple(sorted(numbers))


def _sim(expr: str, field: str, text: str) -> CronSim:
    try:
        return CronSim(expr, _SOME_TIME)
    except (CronSimError, ValueError):
        raise BadCron(f"its {field} {text!r} cannot be read: use {_FIELDS[field]}; {_FORMS}") from None

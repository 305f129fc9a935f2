"""Cron, deliberately dumb: looks at every second minute by minute and shares no code with what it is compared to.

It knows no offsets and no clock changes. It walks through UTC time, reads a wall clock and remembers the latest time
that this clock has shown so far:

- an expression that names a rhythm fires whenever the clock shows a time that matches;
- an expression that names times of the day fires when a time that matches has gone by for the first time, be it that
  the clock shows it or that the clock has just jumped over it.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
MINUTE = timedelta(minutes=1)


class Minute(NamedTuple):
    """One of UTC, from second `at` on, and what the wall clock shows then. `skipped`: what it jumped over just before;
    `again`: it has shown this time before.
    """

    at: int
    local: datetime
    skipped: list[datetime]
    again: bool


class Hour(NamedTuple):
    """Minutes that show the same hour of the same day; nothing is skipped in a `plain` one."""

    minutes: list[Minute]
    plain: bool


class Model:
    """One expression."""

    def __init__(self, expr: str) -> None:
        fields = expr.upper().split()
        if len(fields) == 5:
            fields = ["0", *fields]
        second, minute, hour, self.dom, month, self.dow = fields
        self.seconds = sorted(numbers(second, 0, 59))
        self.minutes, self.hours = numbers(minute, 0, 59), numbers(hour, 0, 23)
        self.months = numbers(month, 1, 12, MONTHS, 1)
        self.names_times = "*" not in second[0] + minute[0] + hour[0]
        self.both = self.dom[0] == "*" or self.dow[0] == "*"
        self._dates: dict[tuple[int, int, int], bool] = {}

    def matches_minute(self, local: datetime) -> bool:
        return local.minute in self.minutes and local.hour in self.hours and self.matches_date(local)

    def matches_date(self, local: datetime) -> bool:
        key = (local.year, local.month, local.day)
        if key not in self._dates:
            dom, dow = matches_dom(self.dom, local), matches_dow(self.dow, local)
            self._dates[key] = local.month in self.months and (dom and dow if self.both else dom or dow)
        return self._dates[key]

    def instants(self, hours: list[Hour]) -> list[int]:
        """UTC seconds at which it fires, in the hours of `wall_clock`."""
        found: list[int] = []
        for hour in hours:
            if hour.plain and not (
                hour.minutes[0].local.hour in self.hours and self.matches_date(hour.minutes[0].local)
            ):
                continue
            for minute in hour.minutes:
                if minute.skipped and self.names_times and any(map(self.matches_minute, minute.skipped)):
                    found.append(minute.at)
                if self.matches_minute(minute.local) and not (self.names_times and minute.again):
                    found.extend(minute.at + second for second in self.seconds)
        return sorted(set(found))


def numbers(field: str, least: int, most: int, names: tuple[str, ...] = (), base: int = 0) -> set[int]:
    """The numbers of a field without L, W and #."""

    def number(text: str) -> int:
        return names.index(text) + base if text in names else int(text)

    found: set[int] = set()
    for term in field.split(","):
        span, _, step = term.partition("/")
        if span == "*":
            first, last = least, most
        elif "-" in span:
            first, last = (number(end) for end in span.split("-"))
        else:
            first = number(span)
            last = most if step else first
        found.update(range(first, last + 1, int(step or 1)))
    return found


def matches_dom(field: str, local: datetime) -> bool:
    """Day of month, with L and LW."""
    following = [local + timedelta(days=ahead) for ahead in range(1, 4)]
    last = following[0].month != local.month
    rest_is_weekend = all(day.month != local.month or day.weekday() >= 5 for day in following)
    terms = field.split(",")
    plain = [term for term in terms if term not in {"L", "LW"}]
    if "L" in terms and last:
        return True
    if "LW" in terms and local.weekday() < 5 and rest_is_weekend:
        return True
    return bool(plain) and local.day in numbers(",".join(plain), 1, 31)


def matches_dow(field: str, local: datetime) -> bool:
    """Day of week, with 5L and 5#2; 0 and 7 are Sunday."""
    today = {local.isoweekday(), local.isoweekday() % 7}
    for term in field.split(","):
        if "#" in term:
            day, nth = term.split("#")
            if numbers(day, 0, 7, DAYS) & today and (local.day - 1) // 7 + 1 == int(nth):
                return True
        elif term.endswith("L"):
            if numbers(term[:-1], 0, 7, DAYS) & today and (local + timedelta(days=7)).month != local.month:
                return True
        elif numbers(term, 0, 7, DAYS) & today:
            return True
    return False


@cache
def wall_clock(tz: str, start: str, hours: int) -> list[Hour]:
    """From `start` (UTC) on. The zone's offsets must be whole minutes then."""
    zone = ZoneInfo(tz)
    begin = datetime.fromisoformat(start).replace(tzinfo=UTC)
    latest = (begin - timedelta(hours=48)).astimezone(zone).replace(tzinfo=None)
    found: list[Hour] = []
    for moment in _every_minute(begin - timedelta(hours=48), begin + timedelta(hours=hours)):
        local = moment.astimezone(zone).replace(tzinfo=None)
        skipped = []
        while latest + MINUTE < local:
            latest += MINUTE
            skipped.append(latest)
        minute = Minute(int(moment.timestamp()), local, skipped, again=local <= latest)
        latest = max(latest, local)
        if moment < begin:
            continue
        if not found or local.minute == 0 or skipped:
            found.append(Hour([], plain=not skipped))
        found[-1].minutes.append(minute)
    return found


def _every_minute(moment: datetime, end: datetime) -> Iterator[datetime]:
    while moment < end:
        yield moment
        moment += MINUTE

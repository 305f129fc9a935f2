"""IANA zones as pieces of time with one offset each. Pure, but for the zone files that `zoneinfo` reads and keeps.

Here and in `cron`, *local* seconds are those that a wall clock shows, counted from its own 1970-01-01 00:00; *seconds*
alone are UTC. `local = seconds + offset`.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

FIRST_YEAR: Final = 1970
LAST_YEAR: Final = 9_000
DAY: Final = 86_400

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+-]{0,30}(?:/[A-Za-z0-9_+-]{1,30}){0,2}\Z")
_OF_THE_MACHINE = ("localtime", "posixrules", "Factory", "posix/", "right/")


class UnknownZone(LookupError):
    """No such IANA zone; the argument is the name."""


class Piece(NamedTuple):
    """Seconds [start, end) at one `offset`; `before`: the offset just before `start`.

    `before > offset`: clocks went back at `start`, and the local hour behind it comes twice.
    `before < offset`: clocks went forward, and local [start + before, start + offset) does not exist.
    """

    start: int
    end: int
    offset: int
    before: int


@lru_cache(maxsize=1_024)
def zone_of(name: str) -> ZoneInfo:
    """The zone, from the system's files, else from the package `tzdata`; raises UnknownZone.

    Names that mean another zone on another machine, and `right/…`, which counts leap seconds, are none.
    """
    if not _NAME.match(name) or name.startswith(_OF_THE_MACHINE):
        raise UnknownZone(name)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UnknownZone(name) from None


@lru_cache(maxsize=8_192)
def pieces_of(name: str, year: int) -> tuple[Piece, ...]:
    """The pieces of one UTC year, in order and without holes; raises UnknownZone.

    `zoneinfo` tells no transitions: they are found between two midnights whose offsets differ. No zone has changed its
    clocks and changed them back within a day since 1970.
    """
    zone = zone_of(name)
    start, end = year_start(year), year_start(year + 1)
    offset = before = _offset(zone, start)
    if year > FIRST_YEAR:
        before = _offset(zone, start - 1)
    pieces = []
    for midnight in range(start + DAY, end + DAY, DAY):
        last = min(midnight, end - 1)
        if (after := _offset(zone, last)) != offset:
            change = _first_with_other_offset(zone, midnight - DAY, last)
            pieces.append(Piece(start, change, offset, before))
            start, before, offset = change, offset, after
    pieces.append(Piece(start, end, offset, before))
    return tuple(pieces)


@lru_cache(maxsize=256)
def year_start(year: int) -> int:
    """Seconds of its first midnight in UTC."""
    return int(datetime(year, 1, 1, tzinfo=UTC).timestamp())


def year_of(seconds: int) -> int:
    """The UTC year, or the one before the first or behind the last that is reckoned with."""
    if seconds < 0:
        return FIRST_YEAR - 1
    guess = FIRST_YEAR + seconds // 31_556_952
    if guess > LAST_YEAR:
        return LAST_YEAR + 1
    if seconds < year_start(guess):
        return guess - 1
    return guess + (seconds >= year_start(guess + 1))


def _offset(zone: ZoneInfo, seconds: int) -> int:
    offset = datetime.fromtimestamp(seconds, zone).utcoffset()
    assert offset is not None
    return offset.days * DAY + offset.seconds


def _first_with_other_offset(zone: ZoneInfo, low: int, high: int) -> int:
    """The instant in (low, high] from which on the offset is no longer that of `low`."""
    offset = _offset(zone, low)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(zone, middle) == offset:
            low = middle
        else:
            high = middle
    return high

"""Instants as people write them: ISO 8601, with an offset or in a zone. Pure."""

from datetime import UTC, date, datetime, timedelta
from typing import Final

from reclaimd.streams.schedules.zones import LAST_YEAR, UnknownZone, zone_of

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_EXAMPLE: Final = "write it as 2027-03-01T09:00:00+01:00, or without the offset for a time in tz"


class BadInstant(ValueError):
    """What cannot be read as an instant; the text says what is wrong and what to write."""


def parse_instant(value: object, tz: str = "UTC") -> int:
    """Read a text or a datetime. `tz`: the zone of one without an offset.

    Of a time that comes twice the first is meant. Returns wall milliseconds UTC, from 1970 to 9000. Raises BadInstant
    (also for a time that the clocks of `tz` jump over, and for parts of milliseconds) and UnknownZone.
    """
    moment = _datetime(value)
    if moment.tzinfo is None:
        moment = _placed(moment, tz)
    try:
        ms, rest = divmod(moment - _EPOCH, _MILLISECOND)
    except OverflowError:
        raise BadInstant(_range()) from None
    if rest:
        raise BadInstant("it has parts of milliseconds: leave them out")
    if ms < 0 or moment.year > LAST_YEAR:
        raise BadInstant(_range())
    return ms


def format_instant(ms: int, tz: str = "UTC") -> str:
    """ISO 8601 with the offset of `tz`, which `parse_instant` reads back. Raises UnknownZone."""
    moment = (_EPOCH + timedelta(milliseconds=ms)).astimezone(zone_of(tz))
    return moment.isoformat(timespec="milliseconds" if ms % 1_000 else "seconds")


def _datetime(value: object) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        raise BadInstant(f"{value.isoformat()} is a whole day: add a time")
    if not isinstance(value, str):
        raise BadInstant(f"expected a date and a time: {_EXAMPLE}")
    text = value.strip()
    if len(text) <= 10:
        raise BadInstant(f"{text!r} has no time or no date: {_EXAMPLE}")
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise BadInstant(f"{text[:40]!r} is not a date and a time: {_EXAMPLE}") from None


def _placed(naive: datetime, tz: str) -> datetime:
    local = naive.replace(tzinfo=zone_of(tz), fold=0)
    if local.astimezone(UTC).astimezone(local.tzinfo).replace(tzinfo=None) != naive.replace(fold=0):
        raise BadInstant(f"{naive.isoformat()} does not exist in {tz}: the clocks jump over it")
    return local


def _range() -> str:
    return f"it must lie between 1970 and the year {LAST_YEAR}"


__all__ = ["BadInstant", "UnknownZone", "format_instant", "parse_instant"]

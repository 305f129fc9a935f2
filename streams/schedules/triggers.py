"""Triggers from what people write. Pure."""

from datetime import datetime

from reclaimd.streams.durations import parse_duration
from reclaimd.streams.schedules.instants import parse_instant
from reclaimd.streams.schedules.model import Every, Once


def every(interval: str, *, anchor: datetime | str | None = None, tz: str = "UTC") -> Every:
    """`every("5m")`: from the creation of the schedule on; with an anchor, at it and every 5 minutes before and after.

    The anchor sets the beat, not the beginning: that is the schedule's `start`. `tz`: the zone of an anchor without an
    offset. Raises InvalidDuration, BadInstant, UnknownZone.
    """
    return Every(parse_duration(interval), None if anchor is None else parse_instant(anchor, tz))


def once(at: datetime | str, *, tz: str = "UTC") -> Once:
    """`once("2027-03-01T09:00", tz="Europe/Paris")`. Raises BadInstant, UnknownZone."""
    return Once(parse_instant(at, tz))

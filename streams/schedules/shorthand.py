"""Lengths and instants as people write them; what cannot be read names the schedule and its field."""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

from reclaimd.streams.errors import InvalidDuration, InvalidSchedule, InvalidTask
from reclaimd.streams.schedules.instants import BadInstant, parse_instant
from reclaimd.streams.schedules.zones import UnknownZone
from reclaimd.streams.tasks import Duration, to_ms

Instant: TypeAlias = datetime | str
"""With an offset, or without one for UTC: `2027-03-01T09:00:00+01:00`."""


def length_ms(name: str, field: str, value: Duration) -> int:
    """Milliseconds; raises InvalidSchedule that names schedule and field."""
    try:
        return to_ms(value, field)
    except InvalidDuration as error:
        raise InvalidSchedule(name, field, str(error)) from None
    except (InvalidTask, TypeError) as error:
        raise InvalidSchedule(name, field, f"{error}: say 250ms, 15s, 2m, 1h30m or 7d") from None


def instant_ms(name: str, field: str, value: Instant | None, tz: str = "UTC") -> int | None:
    """Wall milliseconds UTC, None for None; raises InvalidSchedule that names schedule and field."""
    if value is None:
        return None
    try:
        return parse_instant(value, tz)
    except BadInstant as error:
        raise InvalidSchedule(name, field, str(error)) from None
    except UnknownZone:
        raise InvalidSchedule(name, "tz", f"{tz[:40]!r} is no IANA zone: use one such as Europe/Paris") from None

"""Transcripts of weekends on which clocks change: what fires when, by the wall clock and in UTC.

`python -m support.transcripts` (with `tests` on the path) writes them anew; read the difference before you keep it.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from reclaimd.streams.schedules.calculus import due_between, explain
from reclaimd.streams.schedules.model import Cron

FOLDER = Path(__file__).parents[1] / "data" / "schedules"
EXPRESSIONS = (
    "30 2 * * *",
    "0,30 1-3 * * *",
    "15 2 * * 0",
    "0 */2 * * *",
    "*/30 1-3 * * *",
    "0 30 2 * * *",
    "0 0 * * *",
)


class Weekend(NamedTuple):
    """`first` to the day after `last`, by the wall clock of the zone."""

    name: str
    tz: str
    first: str
    last: str
    what: str


WEEKENDS = (
    Weekend("paris-spring", "Europe/Paris", "2027-03-27", "2027-03-29", "02:00 becomes 03:00 on Sunday"),
    Weekend("paris-autumn", "Europe/Paris", "2027-10-30", "2027-11-01", "03:00 becomes 02:00 on Sunday"),
    Weekend("new-york-spring", "America/New_York", "2027-03-13", "2027-03-15", "02:00 becomes 03:00 on Sunday"),
    Weekend("new-york-autumn", "America/New_York", "2027-11-06", "2027-11-08", "02:00 becomes 01:00 on Sunday"),
    Weekend("lord-howe-spring", "Australia/Lord_Howe", "2027-10-02", "2027-10-04", "02:00 becomes 02:30 on Sunday"),
    Weekend("lord-howe-autumn", "Australia/Lord_Howe", "2027-04-03", "2027-04-05", "02:00 becomes 01:30 on Sunday"),
    Weekend("apia-lost-day", "Pacific/Apia", "2011-12-29", "2012-01-01", "Friday, 30 December does not exist"),
)


def transcript(weekend: Weekend) -> str:
    """All instants of each expression, one a line."""
    zone = ZoneInfo(weekend.tz)
    begin = datetime.fromisoformat(weekend.first).replace(tzinfo=zone)
    end = datetime.fromisoformat(weekend.last).replace(tzinfo=zone)
    lines = [f"{weekend.tz}, {weekend.first} to {weekend.last}: {weekend.what}"]
    after, until = int(begin.timestamp()) * 1_000 - 1, int(end.timestamp()) * 1_000 - 1
    for expr in EXPRESSIONS:
        trigger = Cron(expr, weekend.tz)
        lines += ["", f"{expr}    {explain(trigger)}"]
        for ms in due_between(trigger, after, until, anchor_ms=0, most=1_000):
            moment = datetime.fromtimestamp(ms // 1_000, UTC)
            lines.append(f"    {moment.astimezone(zone):%a %d %b %H:%M:%S %z}    {moment:%a %d %b %H:%M:%S} UTC")
    return "\n".join(lines) + "\n"


def path(weekend: Weekend) -> Path:
    """Where its transcript is kept."""
    return FOLDER / f"{weekend.name}.txt"


if __name__ == "__main__":
    for each in WEEKENDS:
        path(each).write_text(transcript(each))

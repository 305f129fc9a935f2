"""Schedules as they are now: the fold, what has been fired, what comes next, and what is wrong."""

from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from reclaimd.daemon.inspect.reports import SourceReport, decode_reports
from reclaimd.daemon.inspect.source import Source
from reclaimd.streams.keys import schedule_problems_key
from reclaimd.streams.occurrence_scripts import Fired, fired_rows
from reclaimd.streams.schedules.calculus import jitter_of, next_of
from reclaimd.streams.schedules.fold import Row, Schedules
from reclaimd.streams.schedules.instants import format_instant
from reclaimd.streams.schedules.log import ScheduleLog
from reclaimd.streams.schedules.model import Cron, Schedule

State: TypeAlias = Literal["enabled", "paused", "suspended", "unusable"]
AT_ONCE = 500
LOST_FIELD: Final = "generation"
LOST_CHANGE: Final = (
    "a change of it is lost, though it was fired: it goes on as it was before; change it again if need be"
)

# A zone that this machine does not know, a definition from a newer program.
_UNREADABLE = (ValueError, LookupError, ArithmeticError, msgspec.MsgspecError)


class Instant(msgspec.Struct, frozen=True):
    """A coming occurrence, jitter included. `local`: in the schedule's zone, both ISO 8601; `ms`: wall ms."""

    ms: int
    utc: str
    local: str


class Trouble(msgspec.Struct, frozen=True):
    """One thing that is wrong. `where`: schedule, source or event; `source`, `row`: of those that come from one."""

    where: Literal["schedule", "source", "event"]
    name: str
    field: str
    reason: str
    source: str = ""
    row: int = 0


class Totals(msgspec.Struct, frozen=True):
    """How many schedules are enabled and paused, and how much is wrong with any or with their sources."""

    enabled: int
    paused: int
    problems: int


class Known(msgspec.Struct, frozen=True):
    """Everything that Redis holds of schedules, and its wall clock."""

    fold: Schedules
    reports: list[SourceReport]
    damage: list[str]
    now_ms: int

    @property
    def totals(self) -> Totals:
        """Numbers for `status`."""
        rows = self.fold.rows.values()
        enabled = sum(state_of(row) == "enabled" for row in rows)
        paused = sum(state_of(row) == "paused" for row in rows)
        return Totals(enabled, paused, len(self.troubles()))

    def troubles(self) -> list[Trouble]:
        """All that is wrong: of schedules by name, of sources, of events that nobody can say the schedule of."""
        found = [
            Trouble("schedule", name, problem.field, problem.reason)
            for name, problem in sorted(self.fold.problems.items())
        ]
        for name, row in sorted(self.fold.rows.items()):
            if row.suspended:
                why = row.unread[0].why
                found.append(Trouble("schedule", name, "event", f"suspended, it does not fire: {why}"))
            elif not row.definition:
                found.append(Trouble("schedule", name, "schedule", "it has no definition that can be read"))
        for report in self.reports:
            found += _troubles_of(report)
        found += [Trouble("event", unread.event_id, "event", unread.why) for unread in self.fold.unreadable]
        return found


async def read_known(source: Source) -> Known:
    """Read all of it."""
    loaded = await source.use(lambda client: ScheduleLog(client, source.namespace).load())
    key = schedule_problems_key(source.namespace)
    fields, (seconds, micros) = await source.read(lambda pipe: [pipe.hgetall(key), pipe.time()])
    return Known(loaded.state, decode_reports(fields or {}), loaded.problems, seconds * 1000 + micros // 1000)


async def read_lost(source: Source, known: Known) -> list[Trouble]:
    """Schedules of which a change was fired that is not in the log: it is lost, and what was before it goes on."""
    rows = known.fold.rows
    fired = await read_fired(source, [what for row in rows.values() if (what := schedule_of(row)) is not None])
    ahead = [name for name, one in fired.items() if known.fold.has_lost(name, one.generation)]
    if ahead:
        # A change that came between the two readings has its event now.
        fold = (await read_known(source)).fold
        ahead = [name for name in ahead if fold.has_lost(name, fired[name].generation)]
    return [Trouble("schedule", name, LOST_FIELD, LOST_CHANGE) for name in sorted(ahead)]


def state_of(row: Row) -> State:
    """What the scheduler does with it."""
    if row.suspended:
        return "suspended"
    return "paused" if row.paused else "enabled"


def schedule_of(row: Row) -> Schedule | None:
    """Its definition, None when there is none that can be read."""
    return _schedule(row)


async def read_fired(source: Source, schedules: Iterable[Schedule]) -> dict[str, Fired]:
    """What has been dealt with of each, as its queue tells it; those that never fired are not in it."""
    by_queue: dict[str, list[str]] = {}
    for schedule in schedules:
        by_queue.setdefault(schedule.queue, []).append(schedule.name)
    found: dict[str, Fired] = {}
    for queue, names in by_queue.items():
        key = source.partition(queue).key("fired")
        for i in range(0, len(names), AT_ONCE):
            some = names[i : i + AT_ONCE]
            [values] = await source.read(lambda pipe, key=key, some=some: pipe.hmget(key, some))  # type: ignore[misc]
            found |= fired_rows(zip((name.encode() for name in some), values or [], strict=False))
    return found


def coming(schedule: Schedule, row: Row | None, fired: Fired | None, now_ms: int, count: int) -> list[Instant]:
    """The next occurrences after now, at most `count`, fewer where `limit` or `end` comes first; overlap aside.

    `row`: None for a schedule that does not exist yet. Raises nothing for a zone that this machine does not know.
    """
    created, after = now_ms, now_ms
    left = schedule.limit
    if row is not None:
        created = _created(row)
        after = max(now_ms, row.since_ms)
        if fired is not None and fired.generation == row.generation:
            after = max(after, fired.last)
            left = None if left is None else left - fired.count
    found: list[Instant] = []
    zone = schedule.trigger.tz if isinstance(schedule.trigger, Cron) else "UTC"
    try:
        while len(found) < (count if left is None else min(count, left)):
            following = next_of(schedule, after, created_ms=created)
            if following is None:
                break
            after = following
            due = following + jitter_of(schedule, following)
            found.append(Instant(due, _utc(due), format_instant(due, zone)))
    except _UNREADABLE:
        return found
    return found


def _created(row: Row) -> int:
    """What an interval without an anchor counts from."""
    return int(row.generation.partition("-")[0] or 0)


def _schedule(row: Row) -> Schedule | None:
    try:
        return row.schedule() if row.definition else None
    except _UNREADABLE:
        return None


def _troubles_of(report: SourceReport) -> Sequence[Trouble]:
    source = report.source
    found = [
        Trouble("source", source, what, why, source)
        for what, why in (("poll", report.failed), ("removal", report.held))
        if why
    ]
    found += [Trouble("source", one.name, one.field, one.reason, source, one.row) for one in report.problems]
    more = report.problem_count - len(report.problems)
    if more > 0:
        found.append(Trouble("source", source, "rows", f"{more} more rows cannot be used", source))
    return found


def _utc(ms: int) -> str:
    return format_instant(ms).replace("+00:00", "Z")

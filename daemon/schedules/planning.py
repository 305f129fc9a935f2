"""What to do about one schedule now, and when to ask again: a pure function of its rule, its row and what was fired.

Every instant is in wall milliseconds of the server. Nothing loops over the instants of a long time: those that are
skipped are found by their last one and counted by the calculus.
"""

from typing import Final, Literal, NamedTuple, TypeAlias

from reclaimd.streams.ids import EntryID
from reclaimd.streams.occurrence_scripts import Fired
from reclaimd.streams.schedules.calculus import count_between, due_between, jitter_of, last_of, next_of
from reclaimd.streams.schedules.model import Outline, Overlap, Schedule

MOST_STEPS: Final = 20
"""Occurrences that one plan fires at most; what is left is planned again at once."""
COUNTED: Final = 10_000
"""Instants of a skip are counted up to so many; more are -1."""

Reason = Literal["misfire", "paused", "cap"]


class Standing(NamedTuple):
    """What the fold says: an event ID, wall ms before which nothing is fired, and whether anything may fire at all."""

    generation: str
    since_ms: int
    active: bool = True


class Fire(NamedTuple):
    """Make the task of `nominal`, which was due at `due`. `after`: the instant that must have been the last before."""

    after: int
    nominal: int
    due: int
    overlap: Overlap | Literal["wait"]


class Skip(NamedTuple):
    """Deal with all instants up to `upto` by saying that they were skipped. `many`: how many, -1 for uncounted."""

    after: int
    upto: int
    many: int
    reason: Reason


Step: TypeAlias = Fire | Skip


class Plan(NamedTuple):
    """Steps in the order in which to take them; then plan anew from what came of them. Without steps: `wake_ms` is when
    to plan again if no event comes before, None for never.
    """

    steps: tuple[Step, ...] = ()
    wake_ms: int | None = None


class Moment(NamedTuple):
    """When it is. `late_before`: what was due earlier was missed; `drip_from`: before it no backlog is fired."""

    now: int
    late_before: int
    drip_from: int = 0


NOTHING: Final = Plan()
ASK: Final = -1
"""The answer of `wake_of` that is none."""


def wake_of(what: Outline, generation: str, since_ms: int, fired: Fired | None, now_ms: int) -> int | None:
    """When an active schedule is to be planned next, None for never; ASK when only `plan` can tell.

    That is nearly all that a start asks of all schedules, and whoever fired one of it: nothing is due, nothing was
    skipped by a pause. A fifth of the work of a plan.
    """
    born = base = int(generation[: generation.index("-")])
    if fired is not None:
        if fired.generation != generation:
            return ASK
        base = max(base, fired.last)
    if since_ms > base or what.limit is not None:
        return ASK
    first = next_of(what, base, created_ms=born)
    if first is None:
        return None
    due = first + jitter_of(what, first) if what.jitter_ms else first
    return due if due > now_ms else ASK


def plan(schedule: Schedule, standing: Standing, fired: Fired | None, moment: Moment) -> Plan:
    """Decide. A row of a newer generation than ours means that our view is old: nothing is done until events come."""
    if not standing.active:
        return NOTHING
    last, count = 0, 0
    if fired is not None and fired.generation == standing.generation:
        last, count = fired.last, fired.count
    elif fired is not None and EntryID.parse(fired.generation) > EntryID.parse(standing.generation):
        return NOTHING
    left = MOST_STEPS if schedule.limit is None else min(MOST_STEPS, schedule.limit - count)
    if left <= 0:
        return NOTHING
    born = int(standing.generation.partition("-")[0])
    return _Planner(schedule, standing.since_ms, born, moment).plan(last, left)


class _Planner:
    """Walks over the instants of one schedule, collecting steps."""

    def __init__(self, schedule: Schedule, since: int, born: int, moment: Moment) -> None:
        self._schedule = schedule
        self._born = born
        self._since = since
        self._moment = moment
        self._steps: list[Step] = []
        self._after = 0
        self._from = 0

    def plan(self, last: int, left: int) -> Plan:
        """`last`: as in the row; `left`: how many may be fired."""
        self._after, self._from = last, max(last, self._born)
        if self._since > self._from:
            # Not what is still to come, because the clock was set back since: the script would refuse it until then.
            self._skip_until(self._last_before(min(self._since, self._moment.now) + 1), "paused")
        first = self._next()
        if first is None:
            return Plan(tuple(self._steps))
        if self._due(first) < self._moment.late_before:
            wait_until = self._missed(self._last_late(first))
            if wait_until is not None:
                return Plan(tuple(self._steps), wait_until if not self._steps else None)
            if self._schedule.misfire == "run_all":
                return Plan(tuple(self._steps))
            left -= sum(isinstance(step, Fire) for step in self._steps)
            first = self._next()
        return self._on_time(first, left)

    def _on_time(self, nominal: int | None, left: int) -> Plan:
        while nominal is not None:
            due = self._due(nominal)
            if due > self._moment.now:
                return Plan(tuple(self._steps), None if self._steps else due)
            if left <= 0:
                break
            self._fire(nominal, due, self._schedule.overlap)
            left -= 1
            nominal = self._next()
        return Plan(tuple(self._steps))

    def _missed(self, latest: int) -> int | None:
        """Deal with what is late, `latest` being the last of it. Returns until when to wait, if that is all for now."""
        match self._schedule.misfire:
            case "skip":
                self._skip_until(latest, "misfire")
            case "run_once":
                self._skip_until(self._last_before(latest), "misfire")
                self._fire(latest, self._due(latest), self._schedule.overlap)
            case "run_all":
                self._skip_until(self._before_cap(latest), "cap")
                if self._moment.now < self._moment.drip_from:
                    return self._moment.drip_from
                nominal = self._next()
                assert nominal is not None
                self._fire(nominal, self._due(nominal), "wait")
        return None

    def _before_cap(self, latest: int) -> int | None:
        """The last instant that is too old to be among the `misfire_cap` latest; None when there is none."""
        cap = self._schedule.misfire_cap
        late = self._count(latest, 2 * cap)
        if 0 <= late <= cap:
            return None
        if late > cap:
            return due_between(self._schedule, self._from, latest, anchor_ms=self._born, most=late - cap)[-1]
        for _ in range(cap):
            earlier = self._last_before(latest)
            assert earlier is not None
            latest = earlier
        return latest

    def _last_late(self, first: int) -> int:
        """The latest instant whose due time is late; `first` is one."""
        found = self._last_before(self._moment.late_before)
        while found is not None and found > first and self._due(found) >= self._moment.late_before:
            found = self._last_before(found)
        return first if found is None else max(first, found)

    def _skip_until(self, upto: int | None, reason: Reason) -> None:
        if upto is None or upto <= self._from:
            return
        self._steps.append(Skip(self._after, upto, self._count(upto, COUNTED), reason))
        self._after = self._from = upto

    def _fire(self, nominal: int, due: int, overlap: Overlap | Literal["wait"]) -> None:
        self._steps.append(Fire(self._after, nominal, due, overlap))
        self._after = self._from = nominal

    def _next(self) -> int | None:
        return next_of(self._schedule, self._from, created_ms=self._born)

    def _last_before(self, before: int) -> int | None:
        return last_of(self._schedule, before, created_ms=self._born)

    def _count(self, upto: int, most: int) -> int:
        return count_between(self._schedule, self._from, upto, anchor_ms=self._born, most=most)

    def _due(self, nominal: int) -> int:
        return nominal + jitter_of(self._schedule, nominal)

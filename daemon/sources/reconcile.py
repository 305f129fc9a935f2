"""What is to be done so that the schedules of a source are those that it holds. Pure.

A source touches only what it owns. Two daemons that reconcile the same source at the same time append the same events
twice, and the second ones change nothing.
"""

from collections.abc import Iterable, Sequence

import msgspec

from reclaimd.daemon.inspect.reports import SourceProblem
from reclaimd.daemon.sources.rows import NAME, Wanted
from reclaimd.streams.schedules.events import (
    Event,
    SchedulePaused,
    ScheduleRemoved,
    ScheduleResumed,
    upserted,
)
from reclaimd.streams.schedules.fold import Row, Schedules

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError)


class Reconciled(msgspec.Struct, frozen=True, kw_only=True):
    """`events`: to be appended in this order. The lists hold names. `held`: why what is gone was not removed.

    `drift`: how many schedules differ from the source, whether or not that is mended now; `enabled`: how many it wants
    to fire.
    """

    events: list[Event]
    created: list[str]
    updated: list[str]
    removed: list[str]
    switched: list[str]
    problems: list[SourceProblem]
    enabled: int
    drift: int
    held: str = ""


def reconcile(
    source: str, wanted: Sequence[Wanted], problems: Sequence[SourceProblem], state: Schedules, *, allow_empty: bool
) -> Reconciled:
    """Compare a source's rows with the fold. `problems`: of rows that cannot be used; what they name stays as it is.

    Nothing is removed while a row has no name that can be read, because nobody can tell what it was to be; nor when a
    source that owns schedules holds nothing at all, unless `allow_empty`.
    """
    events: list[Event] = []
    changes: dict[str, list[str]] = {"created": [], "updated": [], "removed": [], "switched": []}
    found = list(problems)
    enabled = 0
    for one in wanted:
        name, row = one.schedule.name, state.rows.get(one.schedule.name)
        owner = None if row is None else _owner(row)
        if row is not None and owner != source:
            found.append(SourceProblem(one.row, name, NAME, _taken(owner)))
            continue
        enabled += one.enabled is not False
        if row is not None and row.suspended:
            # It would only be carried along unapplied, once more at each poll.
            continue
        if row is None or not _same(one, row):
            events.append(upserted(one.schedule))
            changes["created" if row is None else "updated"].append(name)
        switch = _switch(one, row)
        if switch is not None:
            events.append(switch)
            changes["switched"].append(name)
    kept = {one.schedule.name for one in wanted} | {problem.name for problem in problems}
    # A removal that names its source would wait in a suspended schedule too, once more at each poll.
    gone = sorted(name for name in owned(source, state) if name not in kept and not state.rows[name].suspended)
    held = _held(gone, wanted, problems, allow_empty=allow_empty)
    if not held:
        events += [ScheduleRemoved(name=name, source=source) for name in gone]
        changes["removed"] = gone
    differing = {*changes["created"], *changes["updated"], *changes["switched"], *gone}
    return Reconciled(events=events, problems=found, enabled=enabled, drift=len(differing), held=held, **changes)


def owned(source: str, state: Schedules) -> Iterable[str]:
    """The names that belong to a source; `source` must not be empty."""
    # Decoding all of them at each poll would cost seconds where there are a million.
    mark = source.encode()
    return [name for name, row in state.rows.items() if mark in row.definition and _owner(row) == source]


def _owner(row: Row) -> str | None:
    """None when no definition can be read."""
    try:
        return row.schedule().source
    except _UNREADABLE:
        return None


def _taken(owner: str | None) -> str:
    if owner is None:
        return "a schedule of that name is there, which this version cannot read: choose another name, or upgrade"
    whose = f"source {owner}" if owner else "nobody: it was made by hand or by a program"
    return f"a schedule of that name is there and belongs to {whose}; choose another name, or remove that one"


def _same(one: Wanted, row: Row) -> bool:
    return msgspec.json.encode(one.schedule) == row.definition or one.schedule == row.schedule()


def _switch(one: Wanted, row: Row | None) -> Event | None:
    paused = row is not None and row.paused
    if one.enabled is None or one.enabled is not paused:
        return None
    return ScheduleResumed(name=one.schedule.name) if one.enabled else SchedulePaused(name=one.schedule.name)


def _held(gone: list[str], wanted: Sequence[Wanted], problems: Sequence[SourceProblem], *, allow_empty: bool) -> str:
    if not gone:
        return ""
    which = f"{len(gone)} schedule{'' if len(gone) == 1 else 's'} of it"
    if any(not problem.name for problem in problems):
        return f"{which} would be removed, but a row has no name that can be read: set it right first"
    if not wanted and not problems and not allow_empty:
        return f"it holds nothing any more and {which} stay: set allow_empty = true if that is meant, or clear them"
    return ""

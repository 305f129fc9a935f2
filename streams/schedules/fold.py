"""Schedule events folded to the schedules that there are. Pure: only the events and their IDs decide what comes out.

A row's definition stays JSON until somebody needs it, so that a million schedules fit in little memory; it is checked
when its event is folded, not again when its row comes from a snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import msgspec

from reclaimd.streams.errors import InvalidSchedule
from reclaimd.streams.ids import EntryID
from reclaimd.streams.schedules.checks import parse_schedule
from reclaimd.streams.schedules.events import (
    Event,
    SchedulePaused,
    ScheduleRejected,
    ScheduleRemoved,
    ScheduleResumed,
    ScheduleUpserted,
    Unreadable,
    decode,
    encode,
)
from reclaimd.streams.schedules.model import Outline, Schedule

START: Final = EntryID(0, 0)


class Unread(msgspec.Struct, frozen=True, array_like=True):
    """An event that waits, verbatim, for a program that can read it."""

    event_id: str
    raw: bytes
    why: str = ""


class Row(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One schedule. `generation` and `changed`: event IDs, that of the last one applied; `since_ms`: wall ms, nothing
    before it is fired.

    `definition`: JSON, empty when no readable event defined it. `unread`: events that this program cannot read and all
    that came after them; a row with any is suspended.
    """

    generation: str
    since_ms: int
    definition: bytes
    changed: str
    paused: bool = False
    unread: tuple[Unread, ...] = ()

    @property
    def suspended(self) -> bool:
        """Nothing is fired until a program reads what is unread, or the schedule is removed."""
        return bool(self.unread)

    def at_least(self, fired: str) -> Row:
        """With the generation that was fired of it if that is newer: the change that began it is lost, and what is left
        goes on in it.
        """
        newer = fired != self.generation and EntryID.parse(fired) > EntryID.parse(self.generation or "0-0")
        return msgspec.structs.replace(self, generation=fired) if newer else self

    def schedule(self) -> Schedule:
        """The definition decoded; raises msgspec.ValidationError when there is none."""
        return _schedules.decode(self.definition)

    def outline(self) -> Outline:
        """The part of it that decides when it fires; raises as `schedule` does, for what is wrong in that part."""
        return _outlines.decode(self.definition)


class Problem(msgspec.Struct, frozen=True, array_like=True):
    """Why a definition is not used. `entry`: the event that carried it, empty when it never became one.

    `reported`: a ScheduleRejected says so in the log.
    """

    entry: str
    field: str
    reason: str
    reported: bool = False


What = Literal[
    "created", "retimed", "updated", "removed", "paused", "resumed", "rejected", "suspended", "unreadable", "noted",
    "nothing",
]  # fmt: skip


class Applied(NamedTuple):
    """What one event did. `name` is empty when no schedule can be told; `before`: the row until then.

    created, retimed (both: a new generation), updated, removed, paused, resumed: the row changed. suspended: the event
    waits in its row. unreadable: it waits in the state. rejected: its definition cannot be used, see `problem`. noted:
    a rejection was recorded. nothing: it says what is so already, is about no schedule that there is, or is not newer
    than the state.
    """

    what: What
    name: str = ""
    problem: Problem | None = None
    event_id: str = ""
    before: Row | None = None


@dataclass(slots=True)
class Schedules:
    """The state: mutable, its rows are not. `position`: the last event applied.

    `problems`: by name, also of schedules that have no row. `unreadable`: events that nobody can say the schedule of.
    """

    position: EntryID = START
    rows: dict[str, Row] = field(default_factory=dict)
    problems: dict[str, Problem] = field(default_factory=dict)
    unreadable: list[Unread] = field(default_factory=list)

    def has_lost(self, name: str, fired: str) -> bool:
        """Whether a schedule was fired in a generation that is newer than its own, and not by an event that is here and
        that only others can read or use. In a state that is complete the event is lost then.
        """
        row, problem = self.rows.get(name), self.problems.get(name)
        if row is None or row.unread or row.at_least(fired) is row:
            return False
        if problem is not None and problem.entry and EntryID.parse(problem.entry) >= EntryID.parse(fired):
            return False
        return all(unread.event_id != fired for unread in self.unreadable)

    def copy(self) -> Schedules:
        """A state that later events do not change; shares the rows."""
        return Schedules(self.position, dict(self.rows), dict(self.problems), list(self.unreadable))


class _Owned(msgspec.Struct, frozen=True):
    source: str = ""


_schedules = msgspec.json.Decoder(Schedule)
_outlines = msgspec.json.Decoder(Outline)
_owners = msgspec.json.Decoder(_Owned)
_NOTHING: Final = Applied("nothing")


def apply(state: Schedules, event_id: str, event: bytes | Event) -> Applied:
    """Change the state by one event, given as its bytes or read already; IDs not above `position` do nothing."""
    entry = EntryID.parse(event_id)
    if entry <= state.position:
        return _NOTHING
    state.position = entry
    return _fold(state, entry, event)


def revive(state: Schedules) -> list[Applied]:
    """Apply what suspended schedules carry, in its order: a newer program may be able to read it.

    A row comes out as if this program had folded all its events. What is in `unreadable` stays there: the schedule that
    it may be about has gone on without it.
    """
    applied: list[Applied] = []
    for name in [name for name, row in state.rows.items() if row.unread]:
        row = state.rows[name]
        if row.definition:
            state.rows[name] = msgspec.structs.replace(row, unread=())
        else:
            del state.rows[name]
        applied += [_fold(state, EntryID.parse(unread.event_id), unread.raw) for unread in row.unread]
    return applied


def _fold(state: Schedules, entry: EntryID, event: bytes | Event) -> Applied:
    read = decode(event) if isinstance(event, bytes) else event
    row = state.rows.get(read.name)
    if isinstance(read, Unreadable):
        applied = _carry(state, entry, read)
    elif row is not None and row.unread and not _lifts(read):
        raw = event if isinstance(event, bytes) else encode(event)
        repeats = _repeats(row, read, raw)
        applied = _NOTHING if repeats else _suspend(state, entry, read.name, Unread(str(entry), raw))
    else:
        applied = _change(state, entry, row, read)
    return applied._replace(event_id=str(entry), before=row)


def _change(state: Schedules, entry: EntryID, row: Row | None, event: Event) -> Applied:
    match event:
        case ScheduleUpserted():
            return _upsert(state, entry, row, event)
        case ScheduleRemoved():
            return _remove(state, row, event)
        case SchedulePaused() | ScheduleResumed():
            return _switch(state, entry, row, event)
        case ScheduleRejected():
            return _reject(state, row, event)


def _carry(state: Schedules, entry: EntryID, event: Unreadable) -> Applied:
    unread = Unread(str(entry), event.raw, event.why)
    if event.name:
        return _suspend(state, entry, event.name, unread)
    state.unreadable.append(unread)
    return Applied("unreadable", "", Problem(str(entry), "event", event.why))


def _suspend(state: Schedules, entry: EntryID, name: str, unread: Unread) -> Applied:
    row = state.rows.get(name) or Row(generation="", since_ms=0, definition=b"", changed="")
    state.rows[name] = msgspec.structs.replace(row, unread=(*row.unread, unread))
    return Applied("suspended", name)


def _lifts(event: Event) -> bool:
    """A removal by a source waits too: whose the schedule is by now, the unread events may say."""
    return isinstance(event, ScheduleRemoved) and not event.source


def _repeats(row: Row, event: Event, raw: bytes) -> bool:
    """Its source asks for the same removal over and over; the second has nothing to do whatever the first does."""
    return isinstance(event, ScheduleRemoved) and row.unread[-1].raw == raw


def _upsert(state: Schedules, entry: EntryID, row: Row | None, event: ScheduleUpserted) -> Applied:
    definition = bytes(event.schedule)
    name = event.name
    try:
        # Strict about keys that are not known: a definition with more of them is a newer version of the event.
        schedule = parse_schedule(definition)
    except (InvalidSchedule, RecursionError) as error:
        where = (error.field, error.why) if isinstance(error, InvalidSchedule) else ("args", "nested too deeply")
        problem = Problem(str(entry), *where)
        state.problems[name] = problem
        return Applied("rejected", name, problem)
    state.problems.pop(name, None)
    event_id = str(entry)
    if row is not None and _timing(row) == schedule.timing:
        state.rows[name] = msgspec.structs.replace(row, definition=definition, changed=event_id)
        return Applied("updated", name)
    state.rows[name] = Row(
        generation=event_id,
        since_ms=entry.ms,
        definition=definition,
        changed=event_id,
        paused=row is not None and row.paused,
    )
    return Applied("created" if row is None else "retimed", name)


def _remove(state: Schedules, row: Row | None, event: ScheduleRemoved) -> Applied:
    if row is None:
        return Applied("noted", event.name) if state.problems.pop(event.name, None) else _NOTHING
    if event.source and _owner(row) != event.source:
        return _NOTHING
    del state.rows[event.name]
    state.problems.pop(event.name, None)
    return Applied("removed", event.name)


def _timing(row: Row) -> tuple[object, ...] | None:
    """None of a definition that a newer program put into a snapshot, and that this one cannot read."""
    try:
        return row.schedule().timing
    except msgspec.MsgspecError:
        return None


def _owner(row: Row) -> str | None:
    try:
        return _owners.decode(row.definition).source
    except msgspec.MsgspecError:
        return None


def _switch(state: Schedules, entry: EntryID, row: Row | None, event: SchedulePaused | ScheduleResumed) -> Applied:
    pause = isinstance(event, SchedulePaused)
    # A resume that is sent twice must not move `since` again: what came due between the two would never be fired.
    if row is None or row.paused == pause:
        return _NOTHING
    since_ms = row.since_ms if pause else entry.ms
    state.rows[event.name] = msgspec.structs.replace(row, paused=pause, since_ms=since_ms, changed=str(entry))
    return Applied("paused" if pause else "resumed", event.name)


def _reject(state: Schedules, row: Row | None, event: ScheduleRejected) -> Applied:
    """A rejection that comes after the schedule was set right, or removed, is of no interest any more."""
    known = state.problems.get(event.name)
    if known is not None and known.entry == event.entry:
        problem = msgspec.structs.replace(known, reported=True) if event.entry else _problem_of(event)
    elif not event.entry or _is_news(row, known, event.entry):
        problem = _problem_of(event)
    else:
        return _NOTHING
    state.problems[event.name] = problem
    return Applied("noted", event.name, problem)


def _is_news(row: Row | None, known: Problem | None, entry: str) -> bool:
    try:
        rejected = EntryID.parse(entry)
    except ValueError:
        return False
    if known is not None and known.entry:
        return rejected > EntryID.parse(known.entry)
    return row is not None and rejected > EntryID.parse(row.changed)


def _problem_of(event: ScheduleRejected) -> Problem:
    return Problem(event.entry, event.field, event.reason, reported=True)

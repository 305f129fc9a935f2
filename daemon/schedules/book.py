"""All schedules as the fold has them, shared out among the queues in which they fire. No IO."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from reclaimd.daemon.schedules.planning import ASK, NOTHING, Fire, Moment, Plan, Standing, Step, plan, wake_of
from reclaimd.daemon.schedules.roster import Roster
from reclaimd.daemon.schedules.server_clock import Seen
from reclaimd.streams.ids import EntryID
from reclaimd.streams.occurrence_scripts import Fired, FireResult, fired_columns
from reclaimd.streams.schedules.fold import Applied, Problem, Row, Schedules
from reclaimd.streams.schedules.log import Loaded
from reclaimd.streams.schedules.model import Schedule

AT_ONCE: Final = 0
"""A due instant that is always over."""
EARLY_MS: Final = 5
"""When to ask again after the server's clock turned out to be behind ours."""
WAIT_MS: Final = 1_000
"""The shortest time between two looks at a backlog whose task before is still open."""
BROKEN_MS: Final = 60_000
"""When to look again at a schedule that could not be planned, or whose row nobody can read."""
PATIENCE_MS: Final = 10_000
"""How long a change that was fired already may be missing from the log before it is taken for lost: an archive that
has it finds the log damaged by then, and brings it back.
"""
SLICE: Final = 1_000
"""Schedules that are looked at without a pause for others: some milliseconds."""

# A zone that this machine does not know, a definition from a newer program: each concerns one schedule only.
_UNPLANNABLE = (ValueError, LookupError, ArithmeticError, TypeError, AssertionError, msgspec.MsgspecError)


class Due(NamedTuple):
    """What is to be done about one schedule now."""

    name: str
    generation: str
    schedule: Schedule
    steps: tuple[Step, ...]


class States(NamedTuple):
    """How many schedules are in which state. `problems`: definitions that cannot be used, events nobody can read,
    changes that are lost.
    """

    enabled: int = 0
    paused: int = 0
    suspended: int = 0
    problems: int = 0


class Book:
    """`loaded` is the fold; `ready`: it and the rows of what was fired are known, so that firing may go on.

    `seen`: when the fold was known to be complete. `on_roster` is told of each new queue,
    `on_unplannable` of each schedule that cannot be planned, and why, `on_loss` of a queue in which Redis has forgotten
    what it knew, `on_lifted` of each schedule that goes on in a generation of which no event is left, and of that.
    `grace_ms`: what is later than that was missed.
    """

    def __init__(
        self,
        grace_ms: int,
        *,
        on_roster: Callable[[Roster], None] = lambda _: None,
        on_unplannable: Callable[[str, str], None] = lambda _, __: None,
        on_loss: Callable[[str], None] = lambda _: None,
        on_lifted: Callable[[str, str], None] = lambda _, __: None,
    ) -> None:
        self.loaded = Loaded(Schedules())
        self.ready = False
        self.seen = Seen()
        self.rosters: dict[str, Roster] = {}
        self.unplannable: dict[str, str] = {}
        self._grace_ms = grace_ms
        self._on_roster = on_roster
        self._on_unplannable = on_unplannable
        self._on_loss = on_loss
        self._on_lifted = on_lifted
        self._home: dict[str, Roster] = {}
        self._leaving: dict[str, set[str]] = {}
        self._paused: set[str] = set()
        self._suspended: set[str] = set()
        self._ahead: dict[str, tuple[str, int]] = {}
        self._lifted: dict[str, str] = {}

    @property
    def state(self) -> Schedules:
        """The fold."""
        return self.loaded.state

    @property
    def states(self) -> States:
        """Numbers for metrics and health."""
        problems = len(self.state.problems) + len(self.state.unreadable) + len(self.unplannable) + len(self._lifted)
        paused, suspended = len(self._paused), len(self._suspended)
        return States(len(self.state.rows) - paused - suspended, paused, suspended, problems)

    def start_over(self, loaded: Loaded) -> Iterator[None]:
        """Take a newly loaded fold, in slices: iterate until the end. Not ready until `plan_all` was called too."""
        self.ready = False
        self.loaded = loaded
        for known in (self._home, self._leaving, self._paused, self._suspended):
            known.clear()
        self.unplannable.clear()
        self._ahead.clear()
        self._lifted.clear()
        for roster in self.rosters.values():
            roster.timers.clear()
            for part in (roster.fired, roster.retiring, roster.refused, roster.waiting, roster.drips):
                part.clear()
        for number, (name, row) in enumerate(loaded.state.rows.items()):
            self._settle_in(name, row)
            if number % SLICE == 0:
                yield

    def plan_all(self, now_ms: int) -> Iterator[None]:
        """Set the timer of every schedule, in slices; `ready` after the last."""
        for roster in list(self.rosters.values()):
            dues: dict[str, int] = {}
            for number, (name, fired) in enumerate(roster.fired.items()):
                wake_ms = self._wake(roster, name, fired, now_ms)
                if wake_ms is not None:
                    dues[name] = wake_ms
                if number % SLICE == 0:
                    yield
            roster.timers.fill(dues)
            yield
        self.ready = True
        for roster in self.rosters.values():
            roster.wake()

    def changed(self, applied: Iterable[Applied], now_ms: int) -> None:
        """Follow the fold after these events."""
        names = set()
        for change in applied:
            if change.what in {"removed", "retimed"} and change.before is not None:
                self._leave(change.name, change.before, change.event_id)
            if change.name:
                names.add(change.name)
        for name in names:
            self._paused.discard(name)
            self._suspended.discard(name)
            self.unplannable.pop(name, None)
            row, home = self.state.rows.get(name), self._home.pop(name, None)
            if name in self._lifted and (row is None or not _is_newer(self._lifted[name], row.generation)):
                del self._lifted[name]
            new = None if row is None else self._settle_in(name, row)
            if home is not None and home is not new:
                home.forget(name)
            if new is not None:
                new.waiting.discard(name)
                fired = new.fired.get(name)
                if fired is not None:
                    self._note_ahead(name, fired.generation, now_ms)
                self._replan(new, name, now_ms)

    def ahead(self, now_ms: int) -> dict[str, str]:
        """Schedules of which, since long before now, a newer generation was fired than the fold knows, and that.

        All those that were fired were in the log before: whoever has read that to its end after asking this, knows
        that the events of these are lost.
        """
        if not self._ahead:
            return {}
        return {name: newer for name, (newer, at_ms) in self._ahead.items() if at_ms <= now_ms - PATIENCE_MS}

    def lift(self, lost: Mapping[str, str], now_ms: int) -> None:
        """Go on with what is left of these schedules, in the generation that was fired of each, so that it fires again
        and nothing twice. A change that comes after all has that generation too, or a newer one.
        """
        for name, generation in lost.items():
            if self._ahead.get(name, ("", 0))[0] == generation:
                del self._ahead[name]
            home = self._home.get(name)
            if home is None or self._lifted.get(name) == generation or not self.state.has_lost(name, generation):
                continue
            self._lifted[name] = generation
            self._on_lifted(name, generation)
            self._replan(home, name, now_ms)

    def take_rows(self, queue: str, page: Mapping[bytes, bytes], now_ms: int) -> list[tuple[str, str]]:
        """Rows of `:fired` were read. Returns the name and generation of those of schedules that nobody knows and of
        which something may be queued.
        """
        orphans: list[tuple[str, str]] = []
        rows, roster = self.state.rows, self.rosters.get(queue)
        here = {} if roster is None else roster.fired
        for key, value in page.items():
            columns = fired_columns(value)
            if columns is None:
                continue
            name = key.decode(errors="replace")
            generation, last, count, task = columns.groups()
            if name in here:
                fired = here[name] = _slim(generation.decode(), int(last), int(count), rows[name].generation)
                self._note_ahead(name, fired.generation, now_ms)
            elif name in self._home:
                if EntryID.parse(generation) < EntryID.parse(rows[name].generation):
                    self._retire(self.roster(queue), name, rows[name].generation)
            elif task and name not in rows:
                orphans.append((name, generation.decode()))
        return orphans

    def take(self, roster: Roster, now_ms: int, limit: int) -> list[Due]:
        """Take up to about `limit` steps of what is due in this queue; each name must come back by `put_back`."""
        due: list[Due] = []
        steps = 0
        while steps < limit and (names := roster.timers.pop(now_ms, limit - steps)):
            for name in names:
                schedule, found = self._plan(roster, name, now_ms)
                if schedule is not None and found.steps:
                    due.append(Due(name, self._generation(name, self.state.rows[name]), schedule, found.steps))
                    steps += len(found.steps)
                    roster.in_flight.add(name)
                elif found.wake_ms is not None:
                    roster.timers.set(name, found.wake_ms)
        return due

    def answered(self, roster: Roster, due: Due, step: Step, result: FireResult, now_ms: int) -> int | None:
        """Learn what became of a step. Returns when to look again if planning alone would be too soon."""
        if result.status == "unreadable":
            return now_ms + BROKEN_MS
        if self._home.get(due.name) is roster:
            if _is_older(result.fired, roster.fired.get(due.name)):
                self.ready = False
                self._on_loss(roster.queue)
            generation, last, count, _ = msgspec.structs.astuple(result.fired)
            roster.fired[due.name] = _slim(generation, last, count, due.generation)
            self._note_ahead(due.name, generation, now_ms)
        if result.status == "open":
            roster.waiting.add(due.name)
            return now_ms + max(due.schedule.drip_ms, WAIT_MS)
        if result.status == "early":
            return now_ms + EARLY_MS
        if result.status != "behind":
            roster.waiting.discard(due.name)
        if result.status == "fired" and isinstance(step, Fire) and step.overlap == "wait":
            roster.drips[due.name] = now_ms + due.schedule.drip_ms
        return None

    def put_back(self, roster: Roster, name: str, now_ms: int, not_before: int | None = None) -> None:
        """The call about this schedule has come back, or failed: plan it again."""
        roster.in_flight.discard(name)
        if self._home.get(name) is not roster:
            return
        if not_before is not None:
            roster.look_at(name, not_before)
        else:
            self._replan(roster, name, now_ms)

    def ended(self, queue: str, names: Iterable[str]) -> None:
        """Tasks of these schedules have ended: a backlog that waits for that may go on."""
        roster = self.rosters.get(queue)
        if roster is not None and roster.waiting:
            for name in names:
                if name in roster.waiting and self._home.get(name) is roster:
                    roster.waiting.discard(name)
                    roster.look_at(name, AT_ONCE)

    def retired(self, roster: Roster, names: Iterable[str], now_ms: int) -> None:
        """These fire in that queue no more, so that they may in another."""
        for name in names:
            roster.retired(name)
            queues = self._leaving.get(name)
            if queues is None:
                continue
            queues.discard(roster.queue)
            if not queues:
                del self._leaving[name]
                home = self._home.get(name)
                if home is not None:
                    self._replan(home, name, now_ms)

    def unreported(self) -> list[tuple[str, Problem]]:
        """Definitions that cannot be used, of which no event says so yet."""
        return [(name, problem) for name, problem in self.state.problems.items() if not problem.reported]

    def roster(self, queue: str) -> Roster:
        """That of a queue, made if need be."""
        if queue not in self.rosters:
            self.rosters[queue] = Roster(queue)
            self._on_roster(self.rosters[queue])
        return self.rosters[queue]

    def _settle_in(self, name: str, row: Row) -> Roster | None:
        """Note where the schedule fires; None when its definition is not there or cannot be read."""
        if row.unread:
            self._suspended.add(name)
        elif row.paused:
            self._paused.add(name)
        if not row.definition:
            return None
        queue = _queue_of(row)
        if queue is None:
            self._cannot_plan(name, ValueError("its definition names no queue"))
            return None
        roster = self._home[name] = self.rosters.get(queue) or self.roster(queue)
        roster.fired.setdefault(name, None)
        return roster

    def _leave(self, name: str, before: Row, event_id: str) -> None:
        """The schedule was removed, or is another one from this event on: nothing older fires in its queue any more."""
        row = self.state.rows.get(name)
        queue = _queue_of(before)
        if queue is not None and (row is None or row.generation != event_id or _queue_of(row) != queue):
            self._retire(self.roster(queue), name, event_id)

    def _retire(self, roster: Roster, name: str, generation: str) -> None:
        self._leaving.setdefault(name, set()).add(roster.queue)
        roster.retire(name, generation)

    def _generation(self, name: str, row: Row) -> str:
        return self._lifted.get(name, row.generation) if self._lifted else row.generation

    def _note_ahead(self, name: str, fired: str, now_ms: int) -> None:
        """Mostly another daemon is ahead of us, and the event comes soon."""
        ours = self._generation(name, self.state.rows[name])
        if fired == ours:
            return
        if _is_newer(fired, ours) and self._ahead.get(name, ("", 0))[0] != fired:
            self._ahead[name] = fired, now_ms

    def _replan(self, roster: Roster, name: str, now_ms: int) -> None:
        if name in roster.in_flight:
            return
        wake_ms = self._wake(roster, name, roster.fired.get(name), now_ms)
        if wake_ms is None:
            roster.timers.remove(name)
        else:
            roster.look_at(name, wake_ms)

    def _wake(self, roster: Roster, name: str, fired: Fired | None, now_ms: int) -> int | None:
        """When to plan this schedule: AT_ONCE if that gives something to do, None for never."""
        row = self.loaded.state.rows[name]
        if not (row.paused or row.unread or name in self._leaving):
            try:
                wake_ms = wake_of(row.outline(), self._generation(name, row), row.since_ms, fired, now_ms)
            except _UNPLANNABLE:
                wake_ms = ASK
            if wake_ms != ASK:
                return wake_ms
        _, found = self._plan(roster, name, now_ms)
        return AT_ONCE if found.steps else found.wake_ms

    def _plan(self, roster: Roster, name: str, now_ms: int) -> tuple[Schedule | None, Plan]:
        row = self.state.rows.get(name)
        if row is None or self._home.get(name) is not roster or name in self._leaving:
            return None, NOTHING
        standing = Standing(self._generation(name, row), row.since_ms, not row.paused and not row.suspended)
        moment = Moment(now_ms, now_ms - self._grace_ms, roster.drips.get(name, 0))
        try:
            schedule = row.schedule()
            return schedule, plan(schedule, standing, roster.fired.get(name), moment)
        except _UNPLANNABLE as error:
            self._cannot_plan(name, error)
            return None, Plan(wake_ms=now_ms + BROKEN_MS)

    def _cannot_plan(self, name: str, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        if self.unplannable.get(name) != reason:
            self.unplannable[name] = reason
            self._on_unplannable(name, reason)


def _is_older(fired: Fired, known: Fired | None) -> bool:
    """Rows only move on: one that has not is what is left after a loss of data."""
    if known is None or fired.generation == known.generation:
        return known is not None and fired.last < known.last
    return EntryID.parse(fired.generation) < EntryID.parse(known.generation)


def _is_newer(one: str, other: str) -> bool:
    return EntryID.parse(one) > EntryID.parse(other)


def _slim(generation: str, last: int, count: int, ours: str) -> Fired:
    """Of what there may be a million: one text for equal generations, and no task, which nobody here asks for."""
    return Fired(ours if generation == ours else generation, last, count)


class _Queue(msgspec.Struct):
    queue: str


# At the start this is asked a million times, and the rest of a definition is not needed for it.
_read_queue = msgspec.json.Decoder(_Queue).decode


def _queue_of(row: Row) -> str | None:
    """None when its definition is not there or cannot be read."""
    try:
        return _read_queue(row.definition).queue if row.definition else None
    except msgspec.MsgspecError:
        return None

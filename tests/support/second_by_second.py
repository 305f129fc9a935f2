"""Schedules played second by second, in the simplest way that can be right: the judge of the daemon's planning.

It shares no code with it: it lists all instants, and walks over time with a list of what is not dealt with yet. Times
are whole seconds, made milliseconds at the end.
"""

from collections.abc import Callable
from typing import NamedTuple


class Told(NamedTuple):
    """What became of one instant. `what`: fired, queued, or the reason of a skip; `at`: the second in which."""

    nominal: int
    what: str
    at: int


class Rule(NamedTuple):
    """A schedule in seconds: an instant every `every`, from `every` on, each due `jitter_ms(instant)` later."""

    every: int
    misfire: str
    overlap: str
    cap: int
    drip: int
    limit: int | None
    jitter_ms: Callable[[int], int]


class World(NamedTuple):
    """What happens: seconds in which the daemon is up, in which the schedule is paused, and how long its tasks run."""

    up: frozenset[int]
    paused: frozenset[int]
    run: int
    until: int


def play(rule: Rule, world: World, grace: int) -> list[Told]:
    """Everything that is told, in the order of the instants."""
    player = _Player(rule, world, grace)
    for now in range(1, world.until + 1):
        player.second(now)
    return player.told


class _Player:
    def __init__(self, rule: Rule, world: World, grace: int) -> None:
        self.told: list[Told] = []
        self._rule = rule
        self._world = world
        self._grace = grace
        self._todo: list[int] = []
        self._ends: int | None = None
        self._queued = False
        self._paused_until = self._drip_from = self._count = 0

    def second(self, now: int) -> None:
        """What comes, what ends, and then, if somebody is there, what is to be done."""
        if now % self._rule.every == 0:
            self._todo.append(now)
        if self._ends is not None and now >= self._ends:
            self._ends = now + self._world.run if self._queued else None
            self._queued = False
        if now in self._world.paused:
            self._paused_until = now
        if now not in self._world.up:
            self._drip_from = 0
        elif now not in self._world.paused:
            while self._todo and (self._rule.limit is None or self._count < self._rule.limit):
                what = self._verdict(self._todo[0], now)
                if not what:
                    break
                self._count += what in {"fired", "queued"}
                self.told.append(Told(self._todo.pop(0), what, now))

    def _verdict(self, first: int, now: int) -> str:
        """On the oldest instant; empty: it has to wait."""
        late = [n for n in self._todo if n > self._paused_until and self._due(n) < (now - self._grace) * 1000]
        if first <= self._paused_until:
            return "paused"
        if first in late:
            if self._rule.misfire == "run_all":
                return self._of_backlog(len(late), now)
            if self._rule.misfire == "skip" or len(late) > 1:
                return "misfire"
        elif self._due(first) > now * 1000:
            return ""
        return self._run(now)

    def _of_backlog(self, late: int, now: int) -> str:
        if late > self._rule.cap:
            return "cap"
        if now < self._drip_from or self._ends is not None:
            return ""
        self._drip_from = now + self._rule.drip
        return self._run(now)

    def _run(self, now: int) -> str:
        if self._ends is None or self._rule.overlap == "allow":
            self._ends = now + self._world.run
            return "fired"
        if self._rule.overlap == "queue_one" and not self._queued:
            self._queued = True
            return "queued"
        return "overlap"

    def _due(self, instant: int) -> int:
        return instant * 1000 + self._rule.jitter_ms(instant)

"""The judge of occurrences: holds what raw Redis and the events say against what was scheduled.

It knows the rules of the schedules and which keys there are, and nothing of plans, views and scripts.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from property.snapshot import Raw, Snapshot, entry_order


class Rule(NamedTuple):
    """A schedule in one generation: every multiple of `every` after `since`, each up to `jitter` later."""

    name: str
    generation: str
    every: int
    since: int
    overlap: str
    limit: int
    jitter: int

    def due(self, nominal: int) -> int:
        return nominal + nominal // self.every * 7_919 % (self.jitter + 1)

    def after(self, instant: int) -> int:
        """The first instant behind that one."""
        return (max(instant, self.since) // self.every + 1) * self.every

    def number(self, after: int, upto: int) -> int:
        return upto // self.every - max(after, self.since) // self.every


class Dealing(NamedTuple):
    """One thing that an event says of a schedule: what became of the instants behind `after`, up to `upto`."""

    what: str
    upto: int
    after: int = -1
    number: int = -1
    task: str = ""


@dataclass
class Judge:
    """Feed `judge` after each step. `rules`: every generation that ever was, by (name, generation)."""

    rules: dict[tuple[str, str], Rule] = field(default_factory=dict)
    dealt: dict[tuple[str, str], int] = field(default_factory=dict)
    counted: dict[tuple[str, str], int] = field(default_factory=dict)
    newest: dict[str, str] = field(default_factory=dict)
    appeared: set[str] = field(default_factory=set)
    fired: set[str] = field(default_factory=set)
    queued: set[str] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)
    places: set[str] = field(default_factory=set)
    position: str = "-"

    def judge(self, raw: Raw, tag: str, now: int, seen: Snapshot) -> None:
        """Raises AssertionError for what must not be."""
        for entry, flat in raw.execute_command("XRANGE", f"{tag}:events", self.position, "+"):
            self.position = f"({entry.decode()}"
            self._take(json.loads(flat[3]), now)
        self._appear(seen)
        self._rows(seen)
        self._overlap(seen)
        waiting = {fields["task"] for fields in seen.queued.values()}
        assert waiting == self.queued - self.appeared - self.dropped, "what was queued is lost, or comes from nowhere"
        self.newest |= {name: row.partition("|")[0] for name, row in seen.fired.items()}

    def _take(self, batch: list[dict[str, Any]], now: int) -> None:
        dealings: dict[tuple[str, str], list[Dealing]] = {}
        for event in batch:
            for name, generation, dealing in _told(event):
                if dealing.what == "removed":
                    self.dropped.add(f"{name}:{generation}:{dealing.upto}")
                elif dealing.what == "released":
                    self._fire(dealing.task)
                else:
                    dealings.setdefault((name, generation), []).append(dealing)
        for (name, generation), rows in dealings.items():
            for dealing in sorted(rows, key=lambda row: row.upto):
                self._deal(self.rules[name, generation], dealing, now)

    def _deal(self, rule: Rule, dealing: Dealing, now: int) -> None:
        newest = self.newest.get(rule.name, "0-0")
        assert entry_order(rule.generation) >= entry_order(newest), f"{dealing} of {rule}, after {newest} had begun"
        self.newest[rule.name] = rule.generation
        key = rule.name, rule.generation
        last = self.dealt.get(key, 0)
        assert dealing.upto > last, f"{dealing} of {rule}, which was dealt with up to {last}"
        assert dealing.upto <= now, f"{dealing} of {rule} before its time, {now}"
        if dealing.what == "skipped":
            assert dealing.after == last, f"{dealing} of {rule} passes over what is behind {last} in silence"
            assert dealing.number in {-1, rule.number(last, dealing.upto)}, f"{dealing} of {rule} is miscounted"
        else:
            assert dealing.upto == rule.after(last), f"{dealing} of {rule} passes over {rule.after(last)} in silence"
            assert dealing.task == f"{rule.name}:{rule.generation}:{dealing.upto}"
            assert rule.due(dealing.upto) <= now, f"{dealing} of {rule} is early: {now}"
            self.counted[key] = self.counted.get(key, 0) + 1
            assert not rule.limit or self.counted[key] <= rule.limit, f"{dealing} of {rule} is one too many"
            if dealing.what == "fired":
                self._fire(dealing.task)
            else:
                self.queued.add(dealing.task)
        self.dealt[key] = dealing.upto

    def _fire(self, task: str) -> None:
        assert task not in self.fired, f"{task} was fired twice"
        self.fired.add(task)

    def _appear(self, seen: Snapshot) -> None:
        """Every task of a schedule enters a lane once, and an event says so."""
        places = {task for task, found in seen.places.items() if found}
        for task in places - self.places:
            assert task not in self.appeared, f"{task} was enqueued twice"
            self.appeared.add(task)
        self.places = places
        assert all(len(found) == 1 for found in seen.places.values()), "a task is in two places"
        # One that was fired and settled within one call was never seen.
        assert self.appeared <= self.fired, f"no event tells of {self.appeared - self.fired}"
        self.appeared |= self.fired

    def _rows(self, seen: Snapshot) -> None:
        for name, text in seen.fired.items():
            generation, last, count, task = text.split("|")
            assert entry_order(generation) >= entry_order(self.newest.get(name, "0-0")), f"{name} went back: {text}"
            if (name, generation) in self.dealt:
                assert int(last) == self.dealt[name, generation], f"{name}: {text}, but told {self.dealt}"
                assert int(count) == self.counted.get((name, generation), 0), f"{name}: {text} is miscounted"
            is_open = any(place.where != "dead" for place in seen.places.get(task, []))
            assert not task or is_open, f"{name} waits for {task}, which has ended"

    def _overlap(self, seen: Snapshot) -> None:
        for name, text in seen.fired.items():
            mine = {
                task
                for task, (place,) in seen.places.items()
                if place.text("schedule") == name and place.where != "dead" and ":run:" not in task
            }
            if not name.startswith("allow"):
                assert len(mine) <= 1, f"{name} has {mine} open"
                assert mine <= {text.split("|")[3]}, f"{name} does not know that {mine} is open: {text}"


def _told(event: dict[str, Any]) -> Iterator[tuple[str, str, Dealing]]:
    if event["type"] == "OccurrenceFired":
        for name, generation, nominal, task, _, _, waited in event["tasks"]:
            what = "released" if waited or generation == "run" else "fired"
            yield name, generation, Dealing(what, nominal, task=task)
    elif event["type"] == "OccurrenceQueued":
        for name, generation, nominal, task, _ in event["tasks"]:
            yield name, generation, Dealing("queued", nominal, task=task)
    elif event["type"] == "OccurrenceSkipped":
        for name, generation, after, upto, number, reason in event["occurrences"]:
            yield name, generation, Dealing("removed" if reason == "removed" else "skipped", upto, after, number)

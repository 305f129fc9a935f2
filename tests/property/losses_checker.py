"""What must hold of a partition that loses data, by what the test did and what the archive had at each loss.

Reads Redis by plain commands and the archive by plain SQL; of the code under test it uses the names of
keys only.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from property.snapshot import STREAMS, Raw
from reclaimd.streams.keys import Partition

SENTINEL = "{archive}"


class Delivered(Protocol):
    """A delivery."""

    @property
    def task_id(self) -> str: ...


@dataclass(frozen=True)
class Archived:
    """What is committed. `open`: due by task, 0 unless it is delayed; `events`: the log of schedules, as raw text."""

    open: dict[str, int] = field(default_factory=dict)
    letters: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    fired: set[str] = field(default_factory=set)
    events: set[bytes] = field(default_factory=set)


def read_archive(file: Path) -> Archived:
    """All of it, from the file."""
    found = Archived()
    database = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        for task, place, due in database.execute("SELECT task_id, place, due FROM reclaimd_tasks"):
            if place == "dead":
                found.letters.add(task)
            else:
                found.open[task] = due if place == "delayed" else 0
        for (e,) in database.execute("SELECT e FROM reclaimd_events"):
            for event in json.loads(e):
                _note(found, event)
        found.events.update(e for (e,) in database.execute("SELECT e FROM reclaimd_schedule_log"))
    finally:
        database.close()
    return found


def _note(found: Archived, event: Mapping[str, Any]) -> None:
    if event["type"] in {"Settled", "Purged"}:
        found.ended.update(row[0] for row in event["tasks"])
    if event["type"] in {"OccurrenceFired", "OccurrenceQueued"}:
        found.fired.update(row[3] for row in event["tasks"])


@dataclass(frozen=True)
class Held:
    """What a partition holds. `open`: due by task, 0 unless it is delayed; `tokens`: of open tasks and letters."""

    open: dict[str, int]
    tokens: dict[str, int]
    keys: dict[str, str]
    letters: list[str]
    unique: dict[str, str]
    fired: dict[str, str]
    queued: dict[str, str]
    twice: set[str]


def read_redis(raw: Raw, tag: str) -> Held:
    """All of it, key by key."""
    held = Held({}, {}, {}, [], _pairs(raw, f"{tag}:unique"), _pairs(raw, f"{tag}:fired"), {}, set())

    def add(flat: list[str], due: int) -> str:
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        task = fields["task"]
        if task in held.open:
            held.twice.add(task)
        held.open[task] = due
        held.tokens[task] = sum(int(fields.get(n, 0)) for n in ("deliveries", "attempts", "handbacks"))
        held.tokens[task] += int(fields.get("token", 1))
        if "unique" in fields:
            held.keys[task] = fields["unique"]
        return task

    for name in STREAMS:
        for _, flat in raw.execute_command("XRANGE", f"{tag}:{name}", "-", "+"):
            add([part.decode() for part in flat], 0)
    dues = [part.decode() for part in raw.execute_command("ZRANGE", f"{tag}:delayed", 0, -1, "WITHSCORES")]
    bodies = _pairs(raw, f"{tag}:delayed:body")
    for task, due in zip(dues[::2], dues[1::2], strict=True):
        if task in bodies:
            add(json.loads(bodies.pop(task)), int(float(due)))
    for task, body in bodies.items():
        # Its instant is lost: it may run at once.
        if task not in held.open:
            add(json.loads(body), 0)
    for schedule, body in _pairs(raw, f"{tag}:fired:queued").items():
        held.queued[schedule] = add(json.loads(body), 0)
    for _, flat in raw.execute_command("XRANGE", f"{tag}:dead", "-", "+"):
        held.letters.append(flat[flat.index(b"task") + 1].decode())
    return held


def _pairs(raw: Raw, key: str) -> dict[str, str]:
    flat = [part.decode() for part in raw.execute_command("HGETALL", key)]
    return {name: value for name, value in zip(flat[::2], flat[1::2], strict=True) if name != SENTINEL}


def check_same(was: Held, now: Held) -> None:
    """But for rows of schedules: what was fired last the archive may learn only when it reads on after the first.

    An ID that was buried in several pasts may have a letter of each. Nor does it count which of several open tasks a
    schedule names: what was redriven, or came back beside its successor.
    """
    assert set(was.letters) == set(now.letters), f"letters changed: {was.letters}, {now.letters}"
    changed = {name: (old, getattr(now, name)) for name, old in vars(was).items() if getattr(now, name) != old}
    changed.pop("letters", None)
    rows = changed.pop("fired", ({}, {}))
    assert not changed, f"a second rebuild changed something: {changed}"
    back = [name for name, row in rows[0].items() if name not in rows[1] or _last(row) > _last(rows[1][name])]
    assert not back, f"a second rebuild took rows of schedules back: {back} of {rows}"


def _last(row: str) -> int:
    return int(row.split("|")[1])


@dataclass
class Known:
    """What the history knows of a task. `owed`: it must be done in the end; `lives`: how often its ID was accepted."""

    not_before: int
    owed: bool = True
    settled: bool = False
    redriven: bool = False
    lives: int = 1


class Checker:
    """Told of everything, in order. `losses`: how many there were so far."""

    def __init__(self, raw: Raw, partition: Partition, file: Path) -> None:
        self.losses = 0
        self.tasks: dict[str, Known] = {}
        self.letters: set[str] = set()
        self.log: list[tuple[str, bytes, str, int | None]] = []
        self.problem = ""
        self._put: list[tuple[str, bytes, str, int | None]] = []
        self._raw = raw
        self._partition = partition
        self._file = file
        self._ended: set[str] = set()
        self._buried: set[str] = set()
        self._barred_fires: set[str] = set()
        self._undetected = False
        self._archived_events: set[bytes] = set()

    def close(self) -> None:
        """Nothing of its own is open."""

    def held(self) -> Held:
        return read_redis(self._raw, self._partition.tag)

    def accepted(self, task: str, unique: str, not_before: int) -> None:
        """A producer was told so."""
        known = self.tasks.get(task)
        if known is None:
            self.tasks[task] = Known(not_before)
            return
        assert self.losses, f"{task} was accepted twice"
        known.owed, known.not_before = True, min(known.not_before, not_before)
        known.lives += 1
        self._buried.discard(task)

    def delivered(self, task: str, now: int, elsewhere: Iterable[tuple[Delivered, int]]) -> None:
        """`elsewhere`: what others run who know of no takeover, each with the number of losses before it."""
        assert task not in self._ended | self._buried, f"{task} starts, and the archive knew that it had ended"
        twice = [one for one, losses in elsewhere if one.task_id == task and losses == self.losses]
        assert not twice, f"{task} runs twice"
        known = self.tasks.get(task)
        assert known is not None, f"{task} is delivered, and nobody enqueued it"
        assert now >= known.not_before, f"{task} starts {known.not_before - now} ms early"

    def settled(self, task: str, outcome: str, now: int, delay_ms: int) -> None:
        """A verdict that counted."""
        known = self.tasks[task]
        if outcome == "succeeded":
            known.settled = True
        if outcome in {"retry", "parked"}:
            known.not_before = now + delay_ms

    def letter_gone(self, task: str, what: str) -> None:
        """Redriven or purged."""
        known = self.tasks[task]
        self.letters.discard(task)
        if what == "purge":
            known.owed = False
        else:
            known.redriven = True
            self._buried.discard(task)

    def fired(self, occurrence: str) -> None:
        """A daemon was told that it is fired, or queued. A task of its own, whose ID is the occurrence's."""
        assert self._undetected or occurrence not in self._barred_fires, f"{occurrence} fires again"
        if occurrence in self.tasks:
            assert self.losses, f"{occurrence} fires twice"
            self.tasks[occurrence].lives += 1
            self.tasks[occurrence].owed = True
        else:
            self.tasks[occurrence] = Known(0)

    def put(self, entry_id: str, name: str, version: int | None) -> None:
        """A schedule was created, changed, or removed."""
        row = entry_id, self._events()[entry_id], name, version
        self._put.append(row)
        self.log.append(row)

    def _events(self) -> dict[str, bytes]:
        rows = self._raw.execute_command("XRANGE", f"{{{self._partition.namespace}:schedules}}:events", "-", "+")
        return {entry.decode(): flat[flat.index(b"e") + 1] for entry, flat in rows}

    def lost(self, known: Archived, *, rolled_back: bool) -> None:
        """`known`: what the archive had then. What it has, or Redis still has, is owed from now on."""
        self.losses += 1
        held = self.held()
        for name, task in self.tasks.items():
            letter = name in known.letters or name in held.letters
            task.owed = task.owed and (name in known.open or name in held.open or letter)
            dues = [where[name] for where in (known.open, held.open) if name in where]
            task.not_before = min(dues, default=0)
        alive = known.ended | known.open.keys()
        self.letters = known.letters | {name for name in held.letters if name not in alive}
        self._archived_events |= known.events
        there = set(self._events().values()) | self._archived_events
        # A copy may bring back what a loss before it took.
        self.log = [row for row in self._put if row[1] in there]
        # Until somebody has looked, what is there may run.
        self._ended, self._buried = set(), set()
        self._barred_fires |= known.fired
        self._undetected = self._undetected or rolled_back

    def detected(self) -> None:
        """From now on nothing starts that the archive knows to have ended."""
        known = read_archive(self._file)
        self._undetected = False
        again = {name for name, task in self.tasks.items() if task.lives > 1}
        redriven = {name for name, task in self.tasks.items() if task.redriven}
        self._ended = known.ended - (known.open.keys() & again)
        self._buried = known.letters - known.open.keys() - again - redriven

    def opened(self) -> None:
        """A rebuild has finished, and nobody has done anything since."""
        try:
            held = self.held()
            self.check_shape(held)
            # Later only one of two has it: of those that lost it, and a new one to whom it seemed free.
            free = {task: key for task, key in held.keys.items() if key not in held.unique}
            assert not free, f"open tasks without their unique keys: {free}"
        except AssertionError as error:
            # The daemon must not swallow it.
            self.problem = self.problem or str(error)
            raise

    def check_shape(self, held: Held) -> None:
        """What holds between the keys whenever nothing is lost."""
        assert not held.twice, f"open twice: {held.twice}"
        gone = [
            name
            for name, task in self.tasks.items()
            if task.owed and not task.settled and name not in held.open and name not in held.letters
        ]
        assert not gone, f"accepted, known to the archive or to Redis, and nowhere: {gone}"
        assert self._letters_gone(held) == set(), f"letters are gone: {self._letters_gone(held)}"
        idle = {key: task for key, task in held.unique.items() if held.keys.get(task) != key}
        assert not idle, f"unique keys of tasks that are not open: {idle}"
        for schedule, row in held.fired.items():
            task = row.rpartition("|")[2]
            assert not task or task in held.open, f"{schedule} waits for {task}, which is nowhere"
            assert task or schedule not in held.queued, f"{held.queued[schedule]} waits for nothing"
        ended = held.open.keys() & (self._ended | self._buried)
        assert not ended, f"open, and the archive knew that they had ended: {ended}"

    def _letters_gone(self, held: Held) -> set[str]:
        known = ((name, self.tasks[name]) for name in self.letters if name not in held.letters)
        return {name for name, task in known if not task.redriven and not task.settled}

    def check_archive(self, held: Held) -> None:
        """It has read everything."""
        known = read_archive(self._file)
        assert known.open == held.open, f"archive: {known.open}, Redis: {held.open}"
        assert known.letters == set(held.letters)

    def check_schedules(self, defined: dict[str, int]) -> None:
        """The definitions are the fold of what was put and not lost."""
        expected: dict[str, int] = {}
        for _, _, name, version in self.log:
            expected.pop(name, None)
            if version is not None:
                expected[name] = version
        assert defined == expected, f"schedules: {defined}, put: {expected}"

    def check_end(self, held: Held) -> None:
        """Workers have done all that they were given."""
        assert not held.open, f"never done: {held.open}"
        assert not held.unique, f"unique keys are held by nobody: {held.unique}"
        left = [n for n, t in self.tasks.items() if t.owed and not t.settled and n not in held.letters]
        assert not left, f"accepted and never settled: {left}"
        assert self._letters_gone(held) == set()
        waiting = {name: row for name, row in held.fired.items() if not row.endswith("|")}
        assert not waiting, f"schedules wait for tasks that have ended: {waiting}"

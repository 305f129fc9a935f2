"""What must hold of a partition that loses data, by what the test did and what the archive had at each loss."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from property.losses_state import Archived, Held, read_archive, read_redis, schedule_log
from property.snapshot import Raw
from reclaimd.streams.keys import Partition


class Delivered(Protocol):
    """A delivery."""

    @property
    def task_id(self) -> str: ...
    @property
    def token_base(self) -> int: ...
    @property
    def deliveries(self) -> int: ...
    @property
    def attempts(self) -> int: ...
    @property
    def handbacks(self) -> int: ...


def token_of(one: Delivered) -> int:
    """Its fencing token."""
    return one.token_base + one.deliveries + one.attempts + one.handbacks


@dataclass
class Known:
    """What the history knows of a task. `owed`: it must be done in the end; `lives`: how often its ID was accepted;
    `revived`: it was purged, and redriven of a letter that had come back.
    """

    not_before: int
    owed: bool = True
    settled: bool = False
    redriven: bool = False
    purged: bool = False
    revived: bool = False
    lives: int = 1


class Checker:
    """Told of everything, in order. `losses`: how many there were so far."""

    def __init__(self, raw: Raw, partition: Partition, file: Path) -> None:
        self.losses = 0
        self.unnoticed = False
        self._rebuild: bytes | None = None
        self._is_frozen = False
        self.tasks: dict[str, Known] = {}
        self.letters: set[str] = set()
        self.log: list[tuple[str, bytes, str, int | None]] = []
        self.problem = ""
        self._put: list[tuple[str, bytes, str, int | None]] = []
        self._raw = raw
        self._partition = partition
        self._file = file
        self._ended: set[str] = set()
        self._buried: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        self._newer: dict[str, int] = {}
        self._order: list[str] = []
        self._totals: dict[str, int] = {}
        self._ever_open: set[str] = set()
        self._ever_dead: set[str] = set()
        self._is_archived = False
        self._wants_pause = False
        self._must_pause = False
        self._barred_fires: set[str] = set()
        self._undetected = False
        self._archived_events: set[tuple[str, bytes]] = set()
        self._unremembered: set[str] = set()
        self._judged: set[tuple[str, int]] = set()

    def close(self) -> None:
        """Nothing of its own is open."""

    def _epoch(self, name: str) -> bytes | None:
        found: bytes | None = self._raw.execute_command("HGET", self._partition.key("epoch"), name)
        return found

    def held(self) -> Held:
        return read_redis(self._raw, self._partition.tag)

    def accepted(self, task: str, unique: str, not_before: int) -> None:
        """A producer was told so."""
        known = self.tasks.get(task)
        if known is None:
            self.tasks[task] = Known(not_before)
            return
        assert self.losses, f"{task} was accepted twice"
        # Whole, Redis would have known the ID of one that was purged, and taken it for sent twice.
        known.owed, known.not_before = known.owed or not known.purged, min(known.not_before, not_before)
        known.lives += 1
        self._forget_lives(task)
        if task in self._unremembered:
            self._unremembered.remove(task)
            self._ended.discard(task)

    def _forget_lives(self, task: str) -> None:
        """A task of this ID may begin anew."""
        self._buried.pop(task, None)
        self._tokens.pop(task, None)
        self._newer.pop(task, None)

    def delivered(self, one: Delivered, now: int, elsewhere: Iterable[tuple[Delivered, int]]) -> None:
        """`elsewhere`: what others run who know of no takeover, each with the number of losses before it."""
        task = one.task_id
        token = token_of(one)
        assert task not in self._ended, f"{task} starts, and the archive knew that it had ended"
        assert token > self._buried.get(task, 0), f"{task} starts, and the archive knew that it had died"
        # Somebody began it of older data before that was noticed. It goes on from the newer state that the archive had,
        # in a new epoch, and that one is fenced from it: were it kept instead, fencing tokens would go back.
        outdated = self._newer.get(task, 0)
        twice = [
            other
            for other, losses in elsewhere
            if other.task_id == task
            and losses == self.losses
            and token_of(other) >= outdated
            # It had begun the same before the loss, and its verdict on that counted: this one's will not.
            and (task, token_of(other)) not in self._judged
        ]
        assert not twice, f"{task} runs twice"
        known = self.tasks.get(task)
        assert known is not None, f"{task} is delivered, and nobody enqueued it"
        assert now >= known.not_before, f"{task} starts {known.not_before - now} ms early"

    def settled(self, one: Delivered, outcome: str, now: int, delay_ms: int) -> None:
        """A verdict that counted."""
        known = self.tasks[one.task_id]
        self._judged.add((one.task_id, token_of(one)))
        if outcome == "succeeded":
            known.settled, known.revived = True, False
        if outcome in {"retry", "parked"}:
            known.not_before = now + delay_ms

    def paused(self, paused: bool) -> None:
        """An operator wants it so."""
        self._wants_pause = paused
        self._must_pause = self._must_pause and paused

    def letter_gone(self, task: str, what: str) -> None:
        """Redriven or purged."""
        known = self.tasks[task]
        self.letters.discard(task)
        self._ever_dead.discard(task)
        if what == "purge":
            known.owed, known.purged, known.revived = False, True, False
        else:
            known.redriven = True
            # It was purged, came back because the archive had not read of that, and lives again; however often the
            # archive read of it since.
            known.lives += known.purged
            known.revived = known.purged
            if known.revived:
                self._ended.discard(task)
            self._buried.pop(task, None)

    def fired(self, occurrence: str) -> None:
        """A daemon was told that it is fired, or queued. A task of its own, whose ID is the occurrence's."""
        assert self._undetected or occurrence not in self._barred_fires, f"{occurrence} fires again"
        if occurrence in self.tasks:
            assert self.losses, f"{occurrence} fires twice"
            self.tasks[occurrence].lives += 1
            self.tasks[occurrence].owed = True
            self._forget_lives(occurrence)
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

    def archived(self) -> None:
        """Something was written there. What it has seen once it may not forget."""
        database = sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)
        try:
            rows = database.execute("SELECT task_id, letter FROM reclaimd_tasks").fetchall()
            log = schedule_log(database)
        finally:
            database.close()
        self._ever_open |= {task for task, letter in rows if not letter}
        self._ever_dead |= {task for task, letter in rows if letter}
        # A daemon may have had it in its hands when Redis lost it.
        self.log = [row for row in self._put if row in self.log or row[:2] in log - self._archived_events]
        self._archived_events |= log

    def restored(self) -> None:
        """The schedules are, and nobody has done anything since. Older data may hold events that the archive never saw,
        and it has newer ones by now. Nothing tells these from what was put since, by a clock that had gone back: they
        are put again, by other IDs, and win. What the archive has seen never is.
        """
        there = self._events()
        known = {row[0] for row in self._put}
        again = [row for row in self.log if row[0] not in there and row[:2] not in self._archived_events]
        for entry_id, e in there.items():
            if entry_id in known:
                continue
            row = next((row for row in again if row[1] == e), None)
            if row is None:
                self._say(f"nobody put the event {e!r} of schedules, or the archive had it")
                continue
            again.remove(row)
            self.log.remove(row)
            for rows in (self._put, self.log):
                rows.append((entry_id, *row[1:]))

    def lost(self, known: Archived, kind: str, *, unnoticed: bool) -> None:
        """`kind`: all, copy (to what an older one has) or key. What the archive has seen, or Redis still has, is owed
        from now on. `unnoticed`: not before the rebuild that is running has ended.
        """
        self.unnoticed = unnoticed
        self._is_frozen = self._is_frozen and self._epoch("state") in {b"lost", b"rebuilding"}
        self.losses += 1
        held = self.held()
        for name, task in self.tasks.items():
            somewhere = name in held.open or name in held.dead or name in self._ever_open | self._ever_dead
            task.owed = task.owed and somewhere
            dues = [where[name] for where in (known.open, held.open) if name in where]
            task.not_before = min(dues, default=0)
        alive = known.ended | known.open.keys()
        self.letters = {name for name, _ in known.letters} | {name for name in held.dead if name not in alive}
        self._archived_events |= known.events
        there = set(self._events().items()) | self._archived_events
        # A copy may bring back what a loss before it took.
        self.log = [row for row in self._put if row[:2] in there]
        # Until somebody has looked, what is there may run.
        self._ended, self._buried, self._newer = set(), {}, {}
        self._judged = set()
        self._must_pause = self._wants_pause and known.paused
        self._barred_fires |= known.fired
        self._undetected = kind == "copy" or (self._undetected and kind == "key")

    def forgot(self) -> None:
        """The archive has no history any more: what it has it knows, but not when that was sent, so that its ID may be
        accepted again after a loss, though it reads of its end later. In the middle of a rebuild it forgets nothing.
        """
        known = read_archive(self._file)
        self._ended &= known.ended
        self._unremembered = known.open.keys() | {name for name, _ in known.letters}

    def adopted(self) -> None:
        """An archive has begun, or begun anew: this one is never behind, and belongs here."""
        self._say("the archive began anew" if self._is_archived else "")
        self._is_archived = True

    def detected(self) -> None:
        """From now on nothing starts that the archive knows to have ended."""
        self._is_frozen = True
        rebuild = self._epoch("rebuild")
        self.unnoticed = self.unnoticed and rebuild == self._rebuild
        self._rebuild = rebuild
        if self.unnoticed:
            return
        known, held = read_archive(self._file), self.held()
        self._undetected = False
        for name, task in self.tasks.items():
            # It ended, and the archive has not heard of that: it may live again.
            task.lives += name in known.open and (task.settled or task.purged or name in held.dead)
        again = {name for name, task in self.tasks.items() if task.lives > 1}
        self._barred_fires |= known.fired
        revived = {name for name, task in self.tasks.items() if task.revived}
        self._ended = known.ended - (known.open.keys() & again) - revived
        self._buried = {name: token for name, token in sorted(known.letters) if name not in known.open.keys() | again}
        self._tokens = {name: token for name, token in known.tokens.items() if name not in again}
        self._newer = {**{name: token + 1 for name, token in sorted(known.letters)}, **known.tokens}
        self._order = [name for name in known.order if name not in held.open]
        self._totals = known.totals

    def opened(self) -> None:
        """A rebuild has finished, and nobody has done anything since."""
        first, self._is_frozen = self._is_frozen, False
        if self.unnoticed or not first:
            return
        try:
            held = self.held()
            self.check_shape(held)
            # Later only one of two has it: of those that lost it, and a new one to whom it seemed free.
            free = {task: key for task, key in held.keys.items() if key not in held.unique}
            assert not free, f"open tasks without their unique keys: {free}"
            self._check_restored(held)
        except AssertionError as error:
            self._say(str(error))
            raise

    def _say(self, problem: str) -> None:
        """The daemon must not swallow it."""
        self.problem = self.problem or problem

    def _check_restored(self, held: Held) -> None:
        paused = self._raw.execute_command("HGET", self._partition.key("control"), "paused")
        assert paused == b"1" or not self._must_pause, "it was paused, and goes on"
        lower = {
            name: (token, held.tokens[name])
            for name, token in self._tokens.items()
            if held.tokens.get(name, token) < token
        }
        assert not lower, f"fencing tokens went back: {lower}"
        for stream, tasks in held.recovered.items():
            back = [name for name in tasks if name in self._order]
            ordered = [name for name in self._order if name in back]
            assert back == ordered, f"{stream}: {back} instead of {ordered}"
        less = {n: (number, held.totals.get(n)) for n, number in self._totals.items() if held.totals.get(n, 0) < number}
        assert not less, f"totals went back: {less}"

    def check_shape(self, held: Held) -> None:
        """What holds between the keys whenever nothing is lost."""
        assert not held.twice, f"open twice: {held.twice}"
        gone = [
            name
            for name, task in self.tasks.items()
            if task.owed and not task.settled and name not in held.open and name not in held.dead
        ]
        assert not gone, f"accepted, known to the archive or to Redis, and nowhere: {gone}"
        assert self._letters_gone(held) == set(), f"letters are gone: {self._letters_gone(held)}"
        idle = {key: task for key, task in held.unique.items() if held.keys.get(task) != key}
        assert not idle, f"unique keys of tasks that are not open: {idle}"
        for schedule, row in held.fired.items():
            task = row.rpartition("|")[2]
            assert not task or task in held.open, f"{schedule} waits for {task}, which is nowhere"
            assert task or schedule not in held.queued, f"{held.queued[schedule]} waits for nothing"
        buried = {name for name, token in self._buried.items() if held.tokens.get(name, token + 1) <= token}
        ended = held.open.keys() & (self._ended | buried)
        assert not ended, f"open, and the archive knew that they had ended: {ended}"

    def _letters_gone(self, held: Held) -> set[str]:
        known = ((name, self.tasks[name]) for name in self.letters if name not in held.dead)
        # One that was purged may come back when the archive had not read of that.
        return {name for name, task in known if task.owed and not task.redriven and not task.settled}

    def check_archive(self, held: Held) -> None:
        """It has read everything."""
        known = read_archive(self._file)
        assert known.open == held.open, f"archive: {known.open}, Redis: {held.open}"
        assert known.tokens == held.tokens, f"tokens in the archive: {known.tokens}, in Redis: {held.tokens}"
        assert sorted(known.letters) == sorted((letter.task, letter.token) for letter in held.letters)
        # An open task that was lost no event tells; nor does a rebuild believe in one that is nowhere.
        rows = {
            name: row if row.rpartition("|")[2] in known.open else f"{row.rpartition('|')[0]}|"
            for name, row in known.rows.items()
        }
        assert rows == held.fired, f"rows of schedules in the archive: {known.rows}, in Redis: {held.fired}"

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
        left = [n for n, t in self.tasks.items() if t.owed and not t.settled and n not in held.dead]
        assert not left, f"accepted and never settled: {left}"
        assert self._letters_gone(held) == set()
        waiting = {name: row for name, row in held.fired.items() if not row.endswith("|")}
        assert not waiting, f"schedules wait for tasks that have ended: {waiting}"

"""An archive in memory: tails of any size taken from raw Redis at any moment, and what it must hold in the end.

It applies changes as their docstring says, with a dictionary for each table; what it is held against is a reading of
Redis that knows nothing of events.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from property.snapshot import STREAMS, Raw, Snapshot, entry_order
from reclaimd.daemon.rebuild import apply, envelopes
from reclaimd.daemon.rebuild.values import (
    DEAD,
    DELAYED,
    QUEUED,
    RANKS,
    Bodies,
    Changes,
    EventEntry,
    FiredRow,
    Positions,
    StreamEntry,
    Tail,
    TaskRow,
    sort_of_due,
    sort_of_entry,
)

Key = tuple[str, str]


@dataclass
class Tables:
    """What a database would hold of one partition."""

    tasks: dict[Key, TaskRow] = field(default_factory=dict)
    fired: dict[str, FiredRow] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    paused: bool = False

    def copy(self) -> "Tables":
        return replace(self, tasks=dict(self.tasks), fired=dict(self.fired))

    def commit(self, changes: Changes) -> None:
        """Apply in the order of the docstring of Changes, and check what that promises."""
        ends = [end for c in changes.carried for end in ((c.task_id, c.letter), (c.task_id, c.to))]
        assert len(ends) == len(set(ends)), f"a row is carried twice: {changes.carried}"
        for c in changes.carried:
            self._carry((c.task_id, c.letter), (c.task_id, c.to), c.place, c.entry_id)
        gone = set(changes.gone)
        self._delete(key for key, row in self.tasks.items() if (row.rank, row.sort) in gone)
        self._delete(changes.deletes)
        self.tasks |= {(row.task_id, row.letter): row for row in changes.upserts}
        self._delete(key for key, row in self.tasks.items() if row.place == DEAD and row.sort < changes.dead_from)
        self.fired |= {row.schedule: row for row in changes.fired}
        self.counters = self.counters if changes.counters is None else changes.counters
        self.paused = self.paused if changes.paused is None else changes.paused

    def _carry(self, source: Key, target: Key, place: str, entry_id: str) -> None:
        row = self.tasks.pop(source, None)
        if row is not None and target not in self.tasks:
            self.tasks[target] = TaskRow(
                task_id=row.task_id,
                place=place,
                rank=RANKS[place],
                sort=sort_of_entry(entry_id),
                envelope=row.envelope,
                letter=target[1],
                entry_id=entry_id,
                lane=row.lane,
                schedule=row.schedule,
                unique=row.unique,
                token=row.token,
                at=row.at,
            )

    def _delete(self, keys: Iterable[Key]) -> None:
        for key in list(keys):
            self.tasks.pop(key, None)


class Archive:
    """An archiver, one step at a time: `read` a tail, and `commit` it at any time after that."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.tables = Tables()
        self.positions: Positions = {}
        self._tail: Tail | None = None

    def read(self, raw: Raw, events: int, entries: int) -> None:
        """A tail with at most so many events, and so many entries of all streams together. One that was read before and
        not committed is forgotten: the archiver was killed.
        """
        found = self._range(raw, "events", events + 1)
        told = tuple(EventEntry(entry, int(flat[1]), flat[3]) for entry, flat in found[:events])
        if len(found) > events:
            self._tail = Tail(events=told)
            return
        read: dict[str, tuple[StreamEntry, ...]] = {}
        more = False
        for name in (DEAD, *STREAMS):
            rows = self._range(raw, name, entries + 1)
            more = more or len(rows) > entries
            read[name] = tuple(StreamEntry(entry, flat) for entry, flat in rows[:entries])
            entries -= len(read[name])
        first = raw.execute_command("XRANGE", f"{self.tag}:{DEAD}", "-", "+", "COUNT", 1)
        totals = _pairs(raw.execute_command("HGETALL", f"{self.tag}:counters"))
        self._tail = Tail(
            events=told,
            drained=True,
            entries=read,
            more=more,
            dead_first=first[0][0].decode() if first else "",
            counters={name.decode(): int(value) for name, value in totals},
            paused=raw.execute_command("HGET", f"{self.tag}:control", "paused") == b"1",
        )

    def commit(self, raw: Raw) -> Tail | None:
        """Fetch the envelopes, as they are by now, and commit. Returns the tail."""
        tail, self._tail = self._tail, None
        if tail is None:
            return None
        read = apply.batches(tail)
        wanted = apply.wanted(read)
        bodies = Bodies(
            delayed=self._fetch(raw, "delayed:body", wanted.delayed),
            queued=self._fetch(raw, "fired:queued", wanted.queued),
        )
        known = {name: self.tables.fired[name] for name in wanted.fired if name in self.tables.fired}
        self.tables.commit(apply.changes(tail, bodies, known, read))
        self.positions = apply.positions_after(tail, self.positions)
        return tail

    def catch_up(self, raw: Raw, events: int = 1000, entries: int = 1000) -> None:
        """Until there is nothing left."""
        while True:
            self.read(raw, events, entries)
            tail = self.commit(raw)
            if tail is not None and tail.drained and not tail.more:
                return

    def scan(self, raw: Raw) -> None:
        """What events need not tell any more, as when the archive begins; they are all read again from the first."""
        self.positions = {}
        delayed = [
            (task.decode(), int(float(due)), body)
            for task, due in _pairs(raw.execute_command("ZRANGE", f"{self.tag}:delayed", 0, -1, "WITHSCORES"))
            if (body := raw.execute_command("HGET", f"{self.tag}:delayed:body", task)) is not None
        ]
        fired = []
        for name, text in _pairs(raw.execute_command("HGETALL", f"{self.tag}:fired")):
            generation, last, count, task = text.decode().split("|")
            fired.append(
                FiredRow(schedule=name.decode(), generation=generation, last=int(last), count=int(count), open=task)
            )
        queued = [(n.decode(), b) for n, b in _pairs(raw.execute_command("HGETALL", f"{self.tag}:fired:queued"))]
        self.tables.commit(apply.scanned(delayed, queued, fired))

    def _range(self, raw: Raw, name: str, count: int) -> list[tuple[str, list[bytes]]]:
        after = f"({self.positions.get(name, '0-0')}"
        rows = raw.execute_command("XRANGE", f"{self.tag}:{name}", after, "+", "COUNT", count)
        return [(entry.decode(), flat) for entry, flat in rows]

    def _fetch(self, raw: Raw, name: str, keys: tuple[str, ...]) -> dict[str, bytes]:
        found = raw.execute_command("HMGET", f"{self.tag}:{name}", *keys) if keys else []
        return {key: value for key, value in zip(keys, found, strict=True) if value is not None}


def _pairs(flat: list[Any]) -> list[tuple[Any, Any]]:
    """Without the sentinels, which a rebuild plants."""
    return [pair for pair in zip(flat[::2], flat[1::2], strict=True) if pair[0] != b"{archive}"]


def check(tables: Tables, seen: Snapshot) -> None:
    """The archive holds what Redis shows, and nothing else."""
    held = {key: (row.place, row.entry_id, row.due, _fields(row)) for key, row in tables.tasks.items()}
    assert held == _shown(seen)
    assert {row.schedule: row_text(row) for row in tables.fired.values()} == seen.fired
    assert {row.schedule: row.queued for row in tables.fired.values() if row.queued} == {
        schedule: fields["task"] for schedule, fields in seen.queued.items()
    }
    assert tables.counters == seen.counters
    assert tables.paused == seen.paused
    for row in tables.tasks.values():
        assert row.rank == RANKS[row.place]
        assert row.sort == (sort_of_entry(row.entry_id) if row.entry_id else sort_of_due(row.due) if row.due else "")
    for name in (*STREAMS, DEAD):
        rows = sorted((row for row in tables.tasks.values() if row.place == name), key=lambda row: row.sort)
        assert [row.entry_id for row in rows] == sorted((row.entry_id for row in rows), key=entry_order)


def row_text(row: FiredRow) -> str:
    """As `:fired` has it."""
    return f"{row.generation}|{row.last}|{row.count}|{row.open}"


def _fields(row: TaskRow) -> dict[str, str]:
    words = [word.decode("latin-1") for word in envelopes.unpack(row.envelope)]
    return dict(zip(words[::2], words[1::2], strict=True))


def _shown(seen: Snapshot) -> dict[Key, tuple[str, str, int, dict[str, str]]]:
    shown: dict[Key, tuple[str, str, int, dict[str, str]]] = {}
    for name in STREAMS:
        for entry, fields in seen.streams[name]:
            task = fields.get("task", f"foreign:{name}:{entry}")
            assert (task, "") not in shown, f"{task} is open twice"
            shown[task, ""] = (name, entry, 0, fields)
    for task, due in seen.delayed.items():
        shown[task, ""] = (DELAYED, "", due, seen.bodies[task])
    for fields in seen.queued.values():
        shown[fields["task"], ""] = (QUEUED, "", 0, fields)
    for entry, fields in seen.dead:
        shown[fields["task"], entry] = (DEAD, entry, 0, fields)
    return shown

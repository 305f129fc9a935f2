"""What the archive has committed, and what Redis holds, at one instant: by plain SQL and plain commands.

Of the code under test only the names of keys and tables are used here.
"""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from property.snapshot import STREAMS, Raw, token_of

SENTINEL = "{archive}"


@dataclass(frozen=True)
class Archived:
    """What is committed. `open`: due by task, 0 unless it is delayed; `letters`: each with its fencing token;
    `tokens`: of open tasks; `order`: those in streams, as they are to be restored;
    `rows`: of schedules, as Redis would have them; `totals`: the counters; `events`: the log
    of schedules, by entry ID and raw text.
    """

    open: dict[str, int] = field(default_factory=dict)
    letters: list[tuple[str, int]] = field(default_factory=list)
    tokens: dict[str, int] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    rows: dict[str, str] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    paused: bool = False
    ended: set[str] = field(default_factory=set)
    fired: set[str] = field(default_factory=set)
    events: set[tuple[str, bytes]] = field(default_factory=set)


def read_archive(file: Path) -> Archived:
    """All of it, from the file."""
    found = Archived()
    database = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        rows = "SELECT task_id, place, due, token FROM reclaimd_tasks ORDER BY rank, sort, task_id"
        for task, place, due, token in database.execute(rows):
            if place == "dead":
                found.letters.append((task, token))
                continue
            found.open[task] = due if place == "delayed" else 0
            found.tokens[task] = token
            if place in STREAMS:
                found.order.append(task)
        for schedule, *row in database.execute('SELECT schedule, generation, last, "count", open FROM reclaimd_fired'):
            found.rows[schedule] = "|".join(map(str, row))
        for paused, totals in database.execute("SELECT paused, counters FROM reclaimd_partitions WHERE queue <> ''"):
            found.totals.update(json.loads(totals))
            found = replace(found, paused=bool(paused))
        for (e,) in database.execute("SELECT e FROM reclaimd_events"):
            for event in json.loads(e):
                _note(found, event)
        found.events.update(schedule_log(database))
    finally:
        database.close()
    return found


def schedule_log(database: sqlite3.Connection) -> set[tuple[str, bytes]]:
    """Entry ID and raw text of each event of schedules that is archived."""
    rows = database.execute("SELECT entry, e FROM reclaimd_schedule_log")
    return {("-".join(str(int(part)) for part in entry.split("-")), e) for entry, e in rows}


def _note(found: Archived, event: Mapping[str, Any]) -> None:
    if event["type"] in {"Settled", "Purged"}:
        found.ended.update(row[0] for row in event["tasks"])
    if event["type"] in {"OccurrenceFired", "OccurrenceQueued"}:
        found.fired.update(row[3] for row in event["tasks"])


class Letter(NamedTuple):
    """A dead letter, whatever entry it is."""

    task: str
    token: int
    dead_at: int
    cause: str


@dataclass(frozen=True)
class Held:
    """What a partition holds. `open`: due by task, 0 unless it is delayed; `tokens`: of open tasks; `recovered`: the
    tasks in these streams, in their order.
    """

    open: dict[str, int]
    tokens: dict[str, int]
    keys: dict[str, str]
    letters: list[Letter]
    unique: dict[str, str]
    fired: dict[str, str]
    queued: dict[str, str]
    recovered: dict[str, list[str]]
    totals: dict[str, int]
    twice: set[str]

    @property
    def dead(self) -> set[str]:
        """Tasks that have a letter."""
        return {letter.task for letter in self.letters}


def read_redis(raw: Raw, tag: str) -> Held:
    """All of it, key by key."""
    totals = {name: int(value) for name, value in _pairs(raw, f"{tag}:counters").items()}
    held = Held({}, {}, {}, [], _pairs(raw, f"{tag}:unique"), _pairs(raw, f"{tag}:fired"), {}, {}, totals, set())

    def add(flat: list[str], due: int) -> str:
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        task = fields["task"]
        if task in held.open:
            held.twice.add(task)
        held.open[task] = due
        held.tokens[task] = token_of(fields)
        if "unique" in fields:
            held.keys[task] = fields["unique"]
        return task

    for name in STREAMS:
        rows = raw.execute_command("XRANGE", f"{tag}:{name}", "-", "+")
        tasks = [add([part.decode() for part in flat], 0) for _, flat in rows]
        if name.startswith("recovered:"):
            held.recovered[name] = tasks
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
        fields = {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}
        held.letters.append(Letter(fields["task"], token_of(fields), int(fields["dead_at"]), fields["cause"]))
    return held


def _pairs(raw: Raw, key: str) -> dict[str, str]:
    flat = [part.decode() for part in raw.execute_command("HGETALL", key)]
    return {name: value for name, value in zip(flat[::2], flat[1::2], strict=True) if name != SENTINEL}


def check_same(was: Held, now: Held) -> None:
    """To the last letter. What was in the lanes may be in the recovered ones, but nothing says that it must.

    Of two open tasks that share a unique key since a loss one holds it; when that ends, the other has none until a
    rebuild gives it to that.
    """
    taken = {key: task for key, task in now.unique.items() if key not in was.unique}
    assert all(now.keys.get(task) == key for key, task in taken.items()), f"unique keys of others: {taken}"
    was = replace(was, unique={**was.unique, **taken})
    changed = {name: (old, getattr(now, name)) for name, old in vars(was).items() if getattr(now, name) != old}
    assert not changed, f"a second rebuild changed something: {changed}"

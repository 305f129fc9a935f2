"""What an archive does to a partition, as pure functions like those of `protocol.py`: adopt it, freeze it, mend it.

Schedules are left out, as they are there. Marks, epochs, rebuilds and cursors are texts that only need to differ.
"""

from typing import NamedTuple

from model.partition import SEEN_BUCKET, STREAMS, Draft, Entry, State, Step
from model.rules import SOUND

SENTINELS = ("dead", "events", *STREAMS, "delayed:body", "fired", "fired:queued", "unique", "control", "counters")
"""Names of the keys that have one, in the order in which they are told; `delayed` comes last."""


class Back(NamedTuple):
    """A task to bring back. `place`: a stream, delayed or dead; `due`: of a delayed one."""

    entry: Entry
    place: str
    due: int = 0
    cause: str = ""
    seen: bool = False


class Out(NamedTuple):
    """What is to go. `entry`: the ID in a stream or of a dead letter; of a delayed one 0."""

    place: str
    entry: int
    task: str
    unique: str
    why: str


def _missing(d: Draft) -> tuple[str, ...]:
    return () if d.planted else (*SENTINELS, "delayed")


def facts(state: State, now: int) -> Step:
    """What shows an archive whether it is the partition that it knows."""
    d = Draft(state, now, SOUND)
    texts = (d.epoch.get(name, "") for name in ("id", "archive_id", "mark", "mark_before", "rebuild", "cursor"))
    return d.step(d.mode, *texts, _missing(d))


def adopt(state: State, now: int, archive: str, seen: tuple[str, str], mark: str, cap: int) -> Step:
    """An archive begins: `ok`, `changed`, `foreign`, or `state` while it is frozen. `seen`: epoch and mark."""
    d = Draft(state, now, SOUND)
    known, owner = d.epoch.get("id", ""), d.epoch.get("archive_id", "")
    if known != seen[0] or d.epoch.get("mark", "") not in (mark, seen[1]):
        return d.step("changed", known, d.mode)
    if owner not in ("", archive):
        return d.step("foreign", known, d.mode)
    if d.frozen:
        return d.step("state", known, d.mode)
    d.epoch |= {"archive_id": archive, "mark": mark, "mark_before": "", "events_cap": str(cap)}
    d.epoch.pop("fence", None)
    d.planted = True
    return d.step("ok", known, d.mode)


def disown(state: State, now: int, archive: str) -> Step:
    """This archive is gone: nobody has the partition, and it is open. `changed`: another one has it."""
    d = Draft(state, now, SOUND)
    owner = d.epoch.get("archive_id", "")
    if owner not in ("", archive):
        return d.step("changed")
    if owner:
        d.epoch |= {"archive_id": "", "state": "ok"}
        for name in ("cursor", "lost"):
            d.epoch.pop(name, None)
        d.accepted.clear()
    return d.step("ok")


def freeze(state: State, now: int, archive: str, seen: tuple[str, str], epoch: str, rebuild: str, into: str) -> Step:
    """Data were lost. `seen`: epoch and mark; `epoch`: the new one; `into`: lost or rebuilding. `ok` and the cursor of
    this rebuild, `changed`, or `foreign`.
    """
    d = Draft(state, now, SOUND)
    if d.epoch.get("archive_id", "") not in ("", archive):
        return d.step("foreign", "")
    if d.frozen and (d.epoch["rebuild"], d.epoch["id"]) == (rebuild, epoch):
        if into == "rebuilding":
            d.epoch["state"] = into
        return d.step("ok", d.epoch["cursor"])
    known = d.epoch.get("id", ""), d.epoch.get("mark", "")
    if known != seen or d.epoch.get("rebuild", "") == rebuild:
        return d.step("changed", "")
    lost = [*_missing(d), *([d.epoch.get("lost", "")] if d.frozen else [])]
    d.epoch |= {"id": epoch, "archive_id": archive, "state": into, "rebuild": rebuild, "cursor": ""}
    d.epoch["lost"] = " ".join(lost)
    d.accepted.clear()
    d.planted = True
    return d.step("ok", "")


def _stands(d: Draft, rebuild: str, cursor: str | None) -> bool:
    """Whether this rebuild runs, and stands there (None: anywhere)."""
    ours = d.mode == "rebuilding" and d.epoch["rebuild"] == rebuild
    return ours and cursor in (None, d.epoch["cursor"])


def _stood(d: Draft, rebuild: str) -> str:
    return d.epoch.get("cursor", "") if d.epoch.get("rebuild", "") == rebuild else ""


def _put_back(d: Draft, back: Back, rebuild: str) -> bool:
    entry, place = back.entry, back.place
    if place != "dead" and entry.task in d.accepted:
        return False
    if place == "delayed":
        if any(row[1] == entry.task for row in d.delayed):
            return False
        d.delay(back.due, entry.task, entry)
    elif place == "dead":
        d.last_id += 1
        d.dead.append((d.last_id, back.cause, entry._replace(id=0)))
    else:
        # No bell: nobody takes anything before `finish`, which rings.
        rang, d.rang = d.rang, False
        d.append(STREAMS.index(place), entry)
        d.rang = rang
    d.events.append(("Restored", rebuild, entry.task, place, entry.deliveries, entry.handbacks, back.due))
    if entry.unique:
        d.unique.setdefault(entry.unique, entry.task)
    if back.seen:
        d.seen.add((d.lease // SEEN_BUCKET, entry.task))
    return True


def restore(state: State, now: int, rebuild: str, step: tuple[str, str], tasks: tuple[Back, ...]) -> Step:
    """A batch comes back, but for what was accepted meanwhile. `ok` cursor restored skipped, or `moved` cursor 0 0."""
    d = Draft(state, now, SOUND)
    if not _stands(d, rebuild, step[0]):
        return d.step("moved", _stood(d, rebuild), 0, 0, d.mode)
    d.tick()
    done = [_put_back(d, back, rebuild) for back in tasks]
    d.epoch["cursor"] = step[1]
    return d.step("ok", step[1], done.count(True), done.count(False), d.mode)


def restore_seen(state: State, now: int, rebuild: str, step: tuple[str, str], tasks: tuple[str, ...]) -> Step:
    """These count as enqueued lately."""
    d = Draft(state, now, SOUND)
    if not _stands(d, rebuild, step[0]):
        return d.step("moved", _stood(d, rebuild), 0, 0, d.mode)
    d.tick()
    d.seen |= {(d.lease // SEEN_BUCKET, task) for task in tasks}
    d.epoch["cursor"] = step[1]
    return d.step("ok", step[1], len(tasks), 0, d.mode)


def restore_unique(
    state: State, now: int, rebuild: str, step: tuple[str, str], pairs: tuple[tuple[str, str], ...], free: bool
) -> Step:
    """Tasks get their keys unless somebody holds them; or lose them (`free`), unless they were accepted meanwhile."""
    d = Draft(state, now, SOUND)
    if not _stands(d, rebuild, step[0]):
        return d.step("moved", _stood(d, rebuild), 0, 0, d.mode)
    d.tick()
    done = 0
    for key, task in pairs:
        if not free:
            done += d.unique.setdefault(key, task) == task
        elif d.unique.get(key) == task and task not in d.accepted:
            del d.unique[key]
            done += 1
    d.epoch["cursor"] = step[1]
    return d.step("ok", step[1], done, len(pairs) - done, d.mode)


def restore_facts(state: State, now: int, rebuild: str, step: tuple[str, str], paused: bool, counters: int) -> Step:
    """So many counters, and a pause that stays if there is one."""
    d = Draft(state, now, SOUND)
    if not _stands(d, rebuild, step[0]):
        return d.step("moved", _stood(d, rebuild), 0, 0, d.mode)
    d.tick()
    if paused and not d.paused:
        d.paused = True
        d.events.append(("QueuePaused",))
    d.epoch |= {"cursor": step[1], "lost": ""}
    return d.step("ok", step[1], counters, 0, d.mode)


def _take_out(d: Draft, out: Out, rebuild: str) -> bool:
    if out.place == "delayed":
        left = [row for row in d.delayed if row[1] != out.task]
        there, d.delayed = len(left) < len(d.delayed), left
    elif out.place == "dead":
        letters = [row for row in d.dead if row[0] != out.entry]
        there, d.dead = len(letters) < len(d.dead), letters
    else:
        index = STREAMS.index(out.place)
        there = d.find(index, out.entry) is not None
        d.drop(index, out.entry)
    if there:
        d.events.append(("Dropped", rebuild, out.task, out.place, out.why))
        if out.place != "dead" and out.why != "superseded":
            d.release_unique(out.task, out.unique)
    return there


def drop(state: State, now: int, rebuild: str, cursor: str | None, rows: tuple[Out, ...]) -> Step:
    """Entries go that must not run. `ok` dropped, or `moved` 0; then state and cursor."""
    d = Draft(state, now, SOUND)
    if not _stands(d, rebuild, cursor):
        return d.step("moved", 0, d.mode, _stood(d, rebuild))
    done = [_take_out(d, row, rebuild) for row in rows]
    return d.step("ok", done.count(True), d.mode, d.epoch["cursor"])


def finish(state: State, now: int, rebuild: str, cursor: str, mark: str, cap: int) -> Step:
    """The partition is open again: `ok`, also when it was before; or `moved`. Then cursor and state."""
    d = Draft(state, now, SOUND)
    stood = _stood(d, rebuild)
    if d.epoch.get("rebuild", "") == rebuild and not d.frozen:
        return d.step("ok", stood, d.mode)
    if not _stands(d, rebuild, cursor):
        return d.step("moved", stood, d.mode)
    d.epoch |= {"mark": mark, "mark_before": "", "events_cap": str(cap), "state": "ok"}
    for name in ("fence", "lost"):
        d.epoch.pop(name, None)
    d.accepted.clear()
    d.rang = True
    return d.step("ok", stood, d.mode)

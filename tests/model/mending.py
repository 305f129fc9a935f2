"""Moves of a history in which an archive has the partition, loses trust in its data, and mends them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from model import archive_requests as arc
from model import requests
from model.archive import Back, Out
from model.partition import STREAMS, Entry

if TYPE_CHECKING:
    from model.history import History, Pick

ARCHIVES = ("a", "a", "a", "a", "b")
PLACES = ("recovered:normal", "delayed", "suspect", "dead", "recovered:high", "recovered:low", "lane:normal")


def _epoch(history: History, name: str) -> str:
    return dict(history.both.state.epoch).get(name, "")


def adopt(history: History, pick: Pick) -> None:
    """Mostly of the epoch that is there."""
    seen = _epoch(history, "id"), _epoch(history, "mark")
    seen = pick((seen, seen, seen, ("x", seen[1]), (seen[0], "m0")))
    history.send(arc.adopt(pick(ARCHIVES), seen, history.new_id("m")))


def disown(history: History, pick: Pick) -> None:
    """An archive is said to be gone for good, as a rule the one that has it."""
    history.send(arc.disown(pick((_epoch(history, "archive_id"), "a", "b"))))


def freeze(history: History, pick: Pick) -> None:
    """For a loss that was seen here or is no more there; or once more for the same one."""
    seen = _epoch(history, "id"), _epoch(history, "mark")
    seen = pick((seen, seen, seen, (seen[0], "m0"), ("x", seen[1])))
    rebuild, epoch = history.new_id("r"), history.new_id("e")
    if pick((False, False, True)):
        rebuild, epoch = _epoch(history, "rebuild") or rebuild, _epoch(history, "id")
    owner = _epoch(history, "archive_id") if pick((True, True, False)) else pick(ARCHIVES)
    history.send(arc.freeze(owner or "a", seen, epoch, rebuild, pick(("rebuilding", "lost"))))


def _running(history: History, pick: Pick) -> tuple[str, tuple[str, str]]:
    """A rebuild and its step: mostly the one that runs, from where it stands."""
    rebuild = pick((_epoch(history, "rebuild") or "r0",) * 6 + ("r0",))
    cursor = pick((_epoch(history, "cursor"),) * 6 + ("c0",))
    return rebuild, (cursor, history.new_id("c"))


def _back(history: History, pick: Pick) -> Back:
    """Something new to Redis; or what was accepted meanwhile, or waits for its time."""
    state = history.both.state
    place = pick(PLACES)
    names = [history.new_id("b")] * 3 + [*state.accepted[-2:]]
    if place == "delayed":
        names += [row[1] for row in state.delayed[-2:]]
    deliveries, handbacks, base = pick((0, 1, 2)), pick((1, 0, 2)), pick((1, 4))
    token = base + deliveries + handbacks
    lane, unique = pick(("normal", "high", "low")), pick(("", "", "u1", "u2"))
    entry = Entry(0, pick(names), lane, pick((5, 3)), deliveries, 0, handbacks, token, unique=unique)
    due = history.both.now + pick((0, 700, 5000)) if place == "delayed" else 0
    return Back(entry, place, due, "test" if place == "dead" else "", pick((False, True)))


def restore(history: History, pick: Pick) -> None:
    """One batch of any kind."""
    rebuild, step = _running(history, pick)
    known = [task.task_id for task in history.tasks[-8:]]
    kind = pick(("tasks", "tasks", "tasks", "seen", "unique", "free", "facts"))
    if kind == "tasks":
        batch = {back.entry.task: back for back in (_back(history, pick) for _ in range(pick((2, 1, 4))))}
        history.send(arc.restore(rebuild, step, tuple(batch.values())))
    elif kind == "seen":
        history.send(arc.restore_seen(rebuild, step, (pick(known), history.new_id("b"))))
    elif kind == "facts":
        history.send(arc.restore_facts(rebuild, step, paused=pick.once_in(4), enqueued=pick((0, 3))))
    else:
        state = history.both.state
        accepted = [pair for pair in state.unique if pair[1] in state.accepted]
        held = [*accepted, *state.unique, ("u1", pick(known)), ("u3", pick(known))]
        pairs = pick(held), pick(held)
        history.send(arc.restore_unique(rebuild, step, pairs, free=kind == "free"))


def _out(history: History, pick: Pick) -> Out:
    state = history.both.state
    there = [(name, entry) for name, stream in zip(STREAMS, state.streams, strict=True) for entry in stream[:3]]
    there += [("delayed", row[2]._replace(id=0)) for row in state.delayed[:3]]
    there += [("dead", row[2]._replace(id=row[0])) for row in state.dead[:3]]
    place, entry = pick([*there, ("lane:normal", Entry(0, "t0", "normal", 5))])
    return Out(place, entry.id, entry.task, entry.unique, pick(("settled", "superseded", "buried", "purged")))


def drop(history: History, pick: Pick) -> None:
    """Some of what is there, perhaps one twice."""
    rebuild, step = _running(history, pick)
    rows = tuple(_out(history, pick) for _ in range(pick((1, 2, 3))))
    history.send(arc.drop(rebuild, pick((step[0], None)), rows, history.both.names))


def finish(history: History, pick: Pick) -> None:
    """The partition is open again, if it was a rebuild."""
    rebuild, step = _running(history, pick)
    history.send(arc.finish(rebuild, step[0], history.new_id("m")))


def mend(history: History, pick: Pick) -> None:
    """A whole rebuild, with whatever clients do in it; it may stop before its end."""
    if history.both.state.mode == "ok":
        freeze(history, pick)
    begun = _epoch(history, "rebuild") or "r0"
    between = (history.turn, history.enqueue, history.leave, history.release, history.reclaim, history.join)
    for _ in range(pick((2, 4, 1))):
        pick((restore, restore, drop))(history, pick)
        pick(between)(pick)
    refused(history, pick)
    if history.both.state.mode == "lost":
        owner, epoch = _epoch(history, "archive_id"), _epoch(history, "id")
        history.send(arc.freeze(owner, (epoch, ""), epoch, begun, "rebuilding"))
    if not pick.once_in(4):
        history.send(arc.finish(begun, _epoch(history, "cursor"), history.new_id("m")))
        history.send(requests.reclaim(1000, unknown=False))


def refused(history: History, pick: Pick) -> None:
    """What only answers while it is frozen. Sent late it would do something, so it is not kept for that."""
    if history.both.state.mode != "ok":
        history.both.send(arc.fire_while_frozen(history.both.now))
        history.both.send(arc.retire_while_frozen())
        history.redrive(pick)
        history.purge(pick)


def facts(history: History, pick: Pick) -> None:
    """An archive looks."""
    history.send(arc.facts())

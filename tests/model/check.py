"""The independent checker of DESIGN's promises 1 to 4. It reads states and events, and calls none of the code under
test.

1. *Nothing accepted is lost.* An accepted task is in exactly one place (a stream entry that waits or is pending to
   a worker that has a row, or delayed) or has ended exactly once (succeeded, or a dead letter); a unique key is
   held exactly while its task is open; an envelope's fencing token grows by one with each new entry. That
   everything does end once faults stop is checked on the whole graph, in `explore.py`.
2. *One owner at a time.* No two processes that are neither frozen nor just awake from a freeze beyond their lease
   run the same task, nor does one run it twice. What an incarnation sends after it was fenced settles and delivers
   nothing.
3. *Order.* What a pass found is moved in its order (stream in reading order, then entry ID), and nothing that died
   later comes in between; what a turn delivers is the head of all that waits, recovered before new.
4. *Poison is bounded.* Deliveries stay below the maximum outside the dead letters; a poison task kills at most that
   often; a worker runs at most one suspect; an innocent task is not blamed for more than two deliveries beyond the
   faults.
"""

from collections.abc import Iterator
from typing import Any

from model.world import OVERDUE, Move, Proc, Scope, World

SUSPECT_FROM = 2
WITHOUT_VERDICT = ("lease_expired", "takeover", "released", "unknown")


def observe(before: World, move: Move) -> World:
    """The world after `move` with the checker's memory brought up to date; what it broke is in `broken`."""
    after = move.world
    broken = list(_tokens_grow(before, after))
    ended, queue = list(after.ended), list(after.queue)
    fenced = set()
    for event in move.events:
        kind = event[0]
        if kind == "WorkerFenced":
            fenced.add(event[2])
        elif kind == "Settled":
            ended.append((str(event[2]), "succeeded"))
        elif kind == "Died":
            ended.append((str(event[2]), str(event[3])))
        elif kind == "PassBegan":
            queue = _snapshot(before, event[1], queue)
        elif kind == "Moved":
            queue, why = _moved(queue, event)
            broken += why
        elif kind == "Started":
            broken += _started(after, event)
    procs = after.procs
    if fenced:
        procs = tuple(p._replace(was_fenced=True) if p.token in fenced else p for p in procs)
    broken += _refused(before, move)
    return after._replace(procs=procs, ended=tuple(sorted(ended)), queue=tuple(queue), broken=tuple(broken))


def state(w: World, scope: Scope) -> list[str]:
    """What is broken in this world as it stands."""
    return [*_places(w, scope), *_owners(w), *_poison(w, scope)]


def _places(w: World, scope: Scope) -> Iterator[str]:
    rows = {name for name, _ in w.p.workers}
    places: dict[str, int] = dict.fromkeys(scope.tasks, 0)
    for stream in w.p.streams:
        for entry in stream:
            places[entry.task] += 1
            if entry.owner and entry.owner not in rows:
                yield f"1: {entry.task} is pending to nobody ({entry.owner!r})"
    for row in w.p.delayed:
        places[row[1]] += 1
    seen = {task for _, task in w.p.seen}
    holders = {task for _, task in w.p.unique}
    for task, n in places.items():
        ends = sum(1 for t, _ in w.ended if t == task)
        accepted = task != scope.tasks[-1] or w.client == "sure" or task in seen
        if n + ends != (1 if accepted else 0):
            yield f"1: {task} is in {n} places and ended {ends} times"
        if (task in holders) != (n > 0):
            yield f"1: unique key of {task} is {'held' if task in holders else 'free'}, but it is in {n} places"


def _owners(w: World) -> Iterator[str]:
    running: dict[str, Proc] = {}
    for proc in w.procs:
        for run in proc.running:
            if proc.frozen or proc.since == OVERDUE:
                continue
            other = running.get(run[2])
            if other is not None:
                yield f"2: {run[2]} runs in {other.worker}.{other.slot} and in {proc.worker}.{proc.slot}"
            running[run[2]] = proc


def _refused(before: World, move: Move) -> Iterator[str]:
    """Settling and delivering need the newest incarnation of the ID, not fenced."""
    fenced = {p.token for p in before.procs if p.was_fenced}
    for sender in _senders(before, move):
        if sender in fenced and any(e[0] in ("Settled", "Retried", "Started") for e in move.events):
            yield f"2: {sender} was fenced, but its turn took effect"


def _senders(before: World, move: Move) -> Iterator[tuple[int, int]]:
    for old, new in zip(before.procs, move.world.procs, strict=True):
        if old != new and old.status == "live" and " turn" in move.label:
            yield old.token
    gone = [item for item in before.net if item not in move.world.net]
    for item in gone:
        if item[0] == "turn":
            yield item[2]


def _snapshot(before: World, members: object, queue: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    assert isinstance(members, tuple)
    found = [(i, e.id, e.task) for i, s in enumerate(before.p.streams) for e in s if e.owner in members]
    return queue + sorted(found)


def _moved(queue: list[tuple[int, int, str]], event: tuple[Any, ...]) -> tuple[list[tuple[int, int, str]], list[str]]:
    _, cause, worker, index, old_id, task, _target = event
    here = (index, old_id, task)
    if queue and here == queue[0]:
        return queue[1:], []
    if here in queue:
        ahead = " ".join(t for _, _, t in queue[: queue.index(here)])
        return [q for q in queue if q != here], [
            f"3: {task} of {worker} was moved before {ahead}, out of the pass's order"
        ]
    if queue and (cause in WITHOUT_VERDICT or cause == "left"):
        return queue, [f"3: {task} of {worker} ({cause}) overtook a pass that still had {queue[0][2]} to move"]
    return queue, []


def _started(after: World, event: tuple[Any, ...]) -> Iterator[str]:
    _, worker, task, index, entry_id = event
    for i, stream in enumerate(after.p.streams):
        for entry in stream:
            earlier = 0 < i < index or (i == index and entry.id < entry_id)
            if not entry.owner and earlier:
                yield f"3: {worker} got {task} before {entry.task}"


def _poison(w: World, scope: Scope) -> Iterator[str]:
    open_entries = [e for stream in w.p.streams for e in stream] + [row[2] for row in w.p.delayed]
    for entry in open_entries:
        if entry.deliveries >= entry.max:
            yield f"4: {entry.task} was delivered {entry.deliveries} times and is no dead letter"
    if w.poisonings > scope.max_deliveries * len(scope.poison):
        yield f"4: poison killed {w.poisonings} processes"
    for proc in w.procs:
        if sum(run[3] for run in proc.running) > 1:
            suspects = " ".join(run[2] for run in proc.running if run[3])
            yield f"4: {proc.worker}.{proc.slot} runs suspects {suspects}"
    for entry in [*open_entries, *(row[2] for row in w.p.dead)]:
        if entry.task not in scope.poison and entry.deliveries > SUSPECT_FROM + w.faults:
            yield f"4: innocent {entry.task} was blamed {entry.deliveries} times with {w.faults} faults"


def _tokens_grow(before: World, after: World) -> Iterator[str]:
    if before.p is after.p:
        return
    old: dict[str, tuple[int, int]] = {}
    for stream in before.p.streams:
        old.update((e.task, (e.id, e.token)) for e in stream)
    old.update((row[1], (0, row[2].token - 1)) for row in before.p.delayed)
    for stream in after.p.streams:
        for entry in stream:
            was = old.get(entry.task)
            if was is not None and was[0] != entry.id and entry.token != was[1] + 1:
                yield f"2: fencing token of {entry.task} went from {was[1]} to {entry.token}"

"""Breadth-first search over all worlds of a scope: the shortest way to a broken promise, or none."""

import gc
from collections import deque
from dataclasses import dataclass
from typing import Any, TypeAlias

from model import check
from model.moves import Explorer
from model.protocol import Entry, Row, State
from model.world import FAR, LEASE, Proc, Scope, World, start

LEASE_BASE, WALL_BASE = 10, 1000
Names: TypeAlias = dict[Any, int]


@dataclass(frozen=True, slots=True)
class Result:
    """What the search found: `trace` is the shortest way to `broken`; `complete` says that nothing was left out."""

    states: int
    transitions: int
    depth: int
    complete: bool
    broken: tuple[str, ...] = ()
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = f"{self.states} states, {self.transitions} transitions, depth {self.depth}"
        steps = "".join(f"\n  {i:2}. {line}" for i, line in enumerate(self.trace, 1))
        return head + steps + "".join(f"\n  ==> promise {line}" for line in self.broken)


class Canonical:
    """Merges worlds that differ in names only. See "Abstractions" in `world.py`."""

    def __init__(self, scope: Scope) -> None:
        self.rules = scope.rules
        self.lag_max = 1 if scope.rules.clock_is_clamped else LEASE + 1

    def __call__(self, w: World) -> World:
        """The representative of this world's class."""
        p = w.p
        if w.net:
            w = w._replace(net=tuple(x for x in w.net if self._has_effect(p, x)))
        ids = {(i, e.id): k for i, s in enumerate(p.streams) for k, e in enumerate(s, 1)}
        nonces = _names(w)
        turns = _turn_numbers(w)
        lag = min(w.wall - (p.wall or 0), self.lag_max)
        lag = lag if lag >= -1 else -FAR
        return w._replace(
            p=_state(p, nonces, turns, w.wall, lag, {x.token for x in w.procs} | _late_tokens(w)),
            procs=tuple(_proc(x, ids, nonces, turns[x.worker]) for x in w.procs),
            wall=WALL_BASE + lag,
            net=tuple(sorted((_item(x, ids, nonces, turns) for x in w.net), key=repr)) if w.net else (),
            queue=_refs(w.queue, ids) if w.queue else (),
        )

    def _has_effect(self, p: State, x: Any) -> bool:
        if x[0] == "enqueue":
            return not self.rules.enqueue_remembers or all(task != x[1] for _, task in p.seen)
        if x[0] == "turn" and not (self.rules.turn_checks_token and self.rules.reclaim_fences):
            return True
        if x[0] in ("turn", "beat"):
            name, token = (x[1], x[2]) if x[0] == "turn" else (x[2], x[3])
            if all(n != name or r.token != token or r.state != "live" for n, r in p.workers):
                return False
        if x[0] == "turn" and self.rules.turns_are_numbered:
            return all(n != x[1] or last < x[3] for n, last in p.turns)
        return True


def _token(token: Any, nonces: Names) -> tuple[int, int]:
    """The counter only tells incarnations with the same nonce apart: `start` and later joins give it a few values."""
    nonce = nonces.get(token[1], 0)
    return (nonces.get(token, 0), nonce)


def _refs(rows: Any, ids: dict[tuple[int, int], int]) -> Any:
    return tuple(sorted((row[0], ids.get(row[:2], 0), *row[2:]) for row in rows))


def _proc(p: Proc, ids: dict[tuple[int, int], int], nonces: Names, turns: dict[int, int]) -> Proc:
    if p.status == "off":
        return p._replace(releasable=nonces[p.releasable]) if p.releasable else p
    return Proc(
        p.worker,
        p.slot,
        p.status,
        _token(p.token, nonces),
        p.frozen,
        p.cut,
        p.since,
        turns[p.number],
        p.audit,
        _refs(p.running, ids) if p.running else (),
        _refs(p.done, ids) if p.done else (),
        None if p.inbox is None else _refs(p.inbox, ids),
        p.was_fenced,
        p.releasable,
    )


def _item(x: Any, ids: dict[tuple[int, int], int], nonces: Names, turns: dict[str, dict[int, int]]) -> Any:
    if x[0] == "turn":
        _, name, who, number, want, done, running = x
        listed = None if running is None else _refs(running, ids)
        return "turn", name, _token(who, nonces), turns[name][number], want, _refs(done, ids), listed
    if x[0] == "join":
        return "join", x[1], nonces[x[2]], x[3], x[4], nonces.get(x[5], 0)
    if x[0] == "beat":
        return (*x[:3], _token(x[3], nonces), min(x[4], LEASE))
    return x


def _plain(e: Entry, number: int) -> Entry:
    return Entry(number, e.task, e.lane, e.max, e.deliveries, e.attempts, 0, 1, 0, e.unique, e.owner)


def _row(r: Row, nonces: Names) -> Row:
    nonce = nonces.get(r.nonce, 0)
    if r.state == "gone":
        return Row("gone", nonces.get(r.token, 0), nonce, LEASE, "")
    return Row(r.state, nonces.get(r.token, 0), nonce, r.term, r.host, r.cause)


def _state(p: State, nonces: Names, turns: dict[str, dict[int, int]], wall: int, lag: int, known: set[Any]) -> State:
    forgotten = {n for n, r in p.workers if r.state == "live" and r.token not in known}
    base, ahead = p.lease - LEASE_BASE, WALL_BASE + lag
    return State(
        tuple(tuple(_plain(e, k) for k, e in enumerate(s, 1)) if s else s for s in p.streams),
        tuple((n, _row(r, nonces)) for n, r in p.workers),
        tuple(
            (n, LEASE_BASE if n in forgotten else max(end - base, LEASE_BASE) if end > 0 else end)
            for n, end in p.leases
        ),
        tuple((n, turns[n][k]) for n, k in p.turns),
        WALL_BASE,
        LEASE_BASE,
        tuple(sorted((min(max(due - wall, 0), LEASE) + ahead, task, _plain(e, 0)) for due, task, e in p.delayed)),
        tuple(sorted((0, cause, _plain(e, 0)) for _, cause, e in p.dead)),
        p.unique,
        p.seen,
        p.paused,
        9,
    )


def _names(w: World) -> Names:
    """Short names for the nonces and tokens that still mean something: a row's while it lives or somebody knows it."""
    tokens: list[Any] = [p.token for p in w.procs] + [r.token for _, r in w.p.workers if r.state == "live"]
    found: list[Any] = [p.releasable for p in w.procs]
    for x in w.net:
        known: Any = x
        if x[0] == "join":
            found += [known[2], known[5]]
        elif x[0] in ("turn", "beat"):
            tokens.append(known[2 if x[0] == "turn" else 3])
    names: Names = {0: 0, (0, 0): 0}
    for nonce in [token[1] for token in tokens] + found:
        names.setdefault(nonce, len(names) - 1)
    for token in tokens:
        if token[0]:
            names.setdefault(
                token, names[token[1]] + 50 * sum(1 for t in names if isinstance(t, tuple) and t[1] == token[1])
            )
    return names


def _late_tokens(w: World) -> set[Any]:
    return {x[2 if x[0] == "turn" else 3] for x in w.net if x[0] in ("turn", "beat")}


def _turn_numbers(w: World) -> dict[str, dict[int, int]]:
    numbers: dict[str, set[int]] = {"w0": {0}, "w1": {0}}
    for p in w.procs:
        numbers[p.worker].add(p.number)
    for name, n in w.p.turns:
        numbers[name].add(n)
    for x in w.net:
        if x[0] == "turn":
            numbers[str(x[1])].add(int(str(x[3])))
    return {name: {n: k for k, n in enumerate(sorted(used))} for name, used in numbers.items()}


def search(scope: Scope, max_states: int | None = None) -> Result:
    """Explores everything, up to the first broken promise or `max_states`."""
    gc.disable()
    try:
        return _search(scope, max_states)
    finally:
        gc.enable()


def _search(scope: Scope, max_states: int | None) -> Result:
    explorer, canonical = Explorer(scope), Canonical(scope)
    first = canonical(start(scope))
    number, worlds = {first: 0}, [first]
    came: list[tuple[int, str]] = [(0, "")]
    fair: list[int] = []
    depths, todo, transitions = [0], deque([0]), 0
    while todo:
        here = todo.popleft()
        world, best, towards = worlds[here], 99, here
        for move in explorer.moves(world):
            transitions += 1
            seen = check.observe(world, move)
            after = canonical(seen)
            there = number.setdefault(after, len(worlds))
            new = there == len(worlds)
            broken = (*seen.broken, *(check.state(after, scope) if new else ()))
            if broken:
                trace = (*_trace(came, here), move.label)
                return Result(len(worlds), transitions, depths[here] + 1, False, broken, trace)
            if new:
                worlds.append(after)
                came.append((here, move.label))
                depths.append(depths[here] + 1)
                todo.append(there)
            if move.fair is not None and move.fair < best and there != here:
                best, towards = move.fair, there
        fair.append(towards)
        if max_states is not None and len(worlds) >= max_states:
            return Result(len(worlds), transitions, depths[here], False)
    stuck = _stuck(worlds, fair, scope)
    if stuck is not None:
        trace = _trace(came, stuck)
        broken = (f"1: faults stop here, and {_open(worlds[stuck], scope)} never end",)
        return Result(len(worlds), transitions, max(depths), True, broken, trace)
    return Result(len(worlds), transitions, max(depths), True)


def _open(world: World, scope: Scope) -> str:
    return " ".join(sorted(set(scope.tasks) - {task for task, _ in world.ended}))


def _stuck(worlds: list[World], fair: list[int], scope: Scope) -> int | None:
    """The first world from which the fair schedule does not lead to a world where every task has ended."""
    good = [len(w.ended) == len(scope.tasks) for w in worlds]
    for i in range(len(worlds)):
        path, on_path, at = [], set(), i
        while not good[at] and at not in on_path:
            path.append(at)
            on_path.add(at)
            at = fair[at]
        if not good[at]:
            return i
        for node in path:
            good[node] = True
    return None


def _trace(came: list[tuple[int, str]], at: int) -> tuple[str, ...]:
    lines = []
    while at:
        at, label = came[at]
        lines.append(label)
    return tuple(reversed(lines))

"""What can happen next in a world: every transition that a scope allows. The words are those of `world.py`."""

from collections.abc import Iterator
from typing import Any

from model import protocol as proto
from model.protocol import Entry, Event, Step
from model.world import FAR, FENCE_AT, LEASE, OVERDUE, Item, Move, Proc, Run, Scope, World, token_of


def _with(world: World, proc: Proc, step: Step | None = None, **changes: Any) -> World:
    procs = tuple(proc if p.slot == proc.slot else p for p in world.procs)
    if step is not None:
        changes["p"] = step.state
    return world._replace(procs=procs, **changes)


def _delivered(step: Step) -> tuple[tuple[int, Entry], ...]:
    entries: Any = step.reply[1]
    return tuple(entries)


def _die(proc: Proc) -> Proc:
    nonce = proc.token[1] if proc.worker == "w1" else 0
    return Proc(proc.worker, proc.slot, releasable=nonce)


def _runs(entries: tuple[tuple[int, Entry], ...]) -> tuple[Run, ...]:
    return tuple((i, e.id, e.task, e.deliveries >= proto.SUSPECT_FROM) for i, e in entries)


def _fresh(proc: Proc) -> bool:
    return proc.since < FENCE_AT


class Explorer:
    """The transitions of one scope."""

    def __init__(self, scope: Scope) -> None:
        self.scope, self.rules = scope, scope.rules

    def moves(self, w: World) -> Iterator[Move]:
        """Every transition that is possible in this world."""
        yield from self._daemons(w)
        yield from self._client(w)
        for i, item in enumerate(w.net):
            yield self._arrive(w, item, w.net[:i] + w.net[i + 1 :])
        for proc in w.procs:
            if proc.status == "off":
                yield from self._off(w, proc)
            elif proc.frozen:
                yield self._thaw(w, proc)
            else:
                yield from self._awake(w, proc)
            if proc.status == "live":
                yield from self._strike(w, proc)

    def _may(self, w: World, kind: str) -> bool:
        return w.faults < self.scope.faults and kind in self.scope.kinds

    def _daemons(self, w: World) -> Iterator[Move]:
        if w.wall != w.p.wall or any(end <= w.p.lease for _, end in w.p.leases):
            step = proto.reclaim(w.p, w.wall, 1, rules=self.rules)
            yield Move("daemon reclaims one", 7, w._replace(p=step.state), step.events)
        if w.p.delayed:
            step = proto.promote(w.p, w.wall, rules=self.rules)
            yield Move("daemon promotes", 8, w._replace(p=step.state), step.events)
        if self._time_matters(w):
            yield Move("a tick passes", 9, *self._tick(w))
        for kind, by in (("forward", 50), ("backward", -FAR)):
            if self._may(w, kind):
                yield Move(f"clock steps {kind}", None, w._replace(wall=w.wall + by, faults=w.faults + 1), ())

    def _time_matters(self, w: World) -> bool:
        alive = [p for p in w.procs if p.status == "live"]
        healthy = sum(not (p.frozen or p.cut or p.since) for p in alive)
        rows = sum(row.state == "live" for _, row in w.p.workers)
        return w.wall != w.p.wall or bool(w.p.delayed) or healthy != len(alive) or healthy != rows

    def _tick(self, w: World) -> tuple[World, tuple[Event, ...]]:
        net = tuple((*item[:-1], item[-1] + 1) if item[0] == "beat" else item for item in w.net)
        w = w._replace(p=proto.view(w.p, w.wall + 1, self.rules).state, wall=w.wall + 1, net=net)
        events: tuple[Event, ...] = ()
        for proc in w.procs:
            if proc.status != "live":
                continue
            if proc.cut or proc.frozen:
                older = proc._replace(since=min(proc.since + 1, LEASE))
                fences = not proc.frozen and not _fresh(older) and self.rules.client_fences_itself
                w = _with(w, _die(proc) if fences else older)
            elif not _fresh(proc) and self.rules.client_fences_itself:
                w = _with(w, _die(proc))
            else:
                step = proto.beat(w.p, w.wall, proc.worker, proc.token, self.rules)
                w = _with(w, proc._replace(since=0) if step.reply[0] == "ok" else _die(proc), step)
                events += step.events
        return w, events

    def _client(self, w: World) -> Iterator[Move]:
        if w.client == "sure":
            return
        task = self.scope.tasks[-1]
        step = self._enqueue(w)
        sent = w._replace(p=step.state)
        yield Move(f"client enqueues {task}: {step.reply[0]}", 1, sent._replace(client="sure"), step.events)
        if self._may(w, "lost"):
            unsure = sent._replace(client="unsure", faults=w.faults + 1)
            yield Move(f"client enqueues {task}, reply lost", None, unsure, step.events)
        if self._may(w, "late-enqueue"):
            late = w._replace(client="unsure", faults=w.faults + 1, net=_sorted(w.net, ("enqueue", task)))
            yield Move(f"client sends enqueue of {task}, closes the connection", None, late, ())

    def _enqueue(self, w: World) -> Step:
        task = self.scope.tasks[-1]
        return proto.enqueue(
            w.p, w.wall, task, max_deliveries=self.scope.max_deliveries, unique="u" + task, rules=self.rules
        )

    def _arrive(self, w: World, item: Item, net: tuple[Item, ...]) -> Move:
        kind = item[0]
        if kind == "enqueue":
            step = self._enqueue(w)
        elif kind == "join":
            args: Any = (*item[1:], 1, self.rules)
            step = proto.join(w.p, w.wall, *args)
        elif kind == "turn":
            args = (*item[1:], True, self.rules)
            step = proto.turn(w.p, w.wall, *args)
        else:
            return self._beat_arrives(w, item, net)
        label = f"late {kind} arrives: {' '.join(str(x) for x in item[1:])} -> {step.reply[0]}"
        return Move(label, None, w._replace(p=step.state, net=net), step.events)

    def _beat_arrives(self, w: World, item: Item, net: tuple[Item, ...]) -> Move:
        _, slot, worker, token, age = item
        after = w._replace(net=net)
        proc = next(p for p in w.procs if p.slot == slot)
        if proc.token == token and proc.status == "live" and not proc.frozen:
            since = age if self.rules.client_counts_from_sending else 0
            heard = proc._replace(since=min(proc.since, since))
            # Awake too late, and what it hears is as old: it has yet to notice that, and then it kills itself.
            if proc.since != OVERDUE or _fresh(heard):
                after = _with(after, heard)
        return Move(f"slow reply to a beat reaches {worker}.{slot}", None, after, ())

    def _off(self, w: World, proc: Proc) -> Iterator[Move]:
        if proc.releasable:
            step = proto.release(w.p, w.wall, proc.worker, proc.releasable, 1, self.rules)
            over = step.reply[0] != "more"
            after = _with(w, proc._replace(releasable=0 if over else proc.releasable), step)
            yield Move(f"parent releases {proc.worker}: {step.reply[0]}", 2, after, step.events)
            return
        if self.scope.twin and proc.slot == 1 and w.procs[0].status == "off":
            return
        nonces = [p.token[1] for p in w.procs] + [row.nonce for _, row in w.p.workers]
        nonces += [n for item in w.net if item[0] == "join" for n in (item[2], item[5])]
        nonces += [item[2][1] for item in w.net if item[0] == "turn"]
        born = Proc(proc.worker, proc.slot, "join", (0, max(nonces) + 1))
        for move in self._join(w, born):
            if move.world.p != w.p or len(move.world.net) > len(w.net):
                yield move

    def _thaw(self, w: World, proc: Proc) -> Move:
        awake = proc._replace(frozen=False, inbox=None, since=proc.since if _fresh(proc) else OVERDUE)
        if proc.inbox is not None:
            awake = awake._replace(running=proc.running + proc.inbox) if _fresh(proc) else awake._replace(audit=True)
        needed = not any(p.status == "live" and not p.frozen for p in w.procs)
        return Move(f"{proc.worker}.{proc.slot} thaws", 10 if needed else None, _with(w, awake), ())

    def _awake(self, w: World, proc: Proc) -> Iterator[Move]:
        name = f"{proc.worker}.{proc.slot}"
        if proc.status == "join":
            yield from self._join(w, proc)
            return
        if proc.status == "leaving":
            step = proto.leave(w.p, w.wall, proc.worker, proc.token, 1, self.rules)
            after = _with(w, proc if step.reply[0] == "more" else Proc(proc.worker, proc.slot), step)
            yield Move(f"{name} leaves: {step.reply[0]}", 2, after, step.events)
            return
        for run in proc.running:
            if run[2] in self.scope.poison:
                dead = _with(w, _die(proc), poisonings=w.poisonings + 1)
                yield Move(f"{run[2]} kills {name}", 3, dead, ())
        if proc.cut:
            yield Move(f"{name} reaches Redis again", 0, _with(w, proc._replace(cut=False, audit=True)), ())
        else:
            yield from self._turns(w, proc)

    def _join(self, w: World, proc: Proc) -> Iterator[Move]:
        row = dict(w.p.workers).get(proc.worker)
        proof = row.nonce if row is not None and row.state == "live" and row.host == str(proc.slot) else 0
        args = (proc.worker, proc.token[1], LEASE, str(proc.slot), proof)
        held = row is not None and row.state == "live" and dict(w.p.leases).get(proc.worker, 0) > w.p.lease
        if (
            held
            and not proof
            and w.wall == w.p.wall
            and self.rules.join_respects_lease
            and not self._may(w, "late-join")
        ):
            return
        step = proto.join(w.p, w.wall, *args, limit=1, rules=self.rules)
        # A process that has not got its ID yet is as good as one not started yet: its next try brings another nonce.
        after = _with(w, Proc(proc.worker, proc.slot), step)
        if step.reply[0] == "ok":
            live = proc._replace(status="live", token=token_of(step))
            if not self.rules.join_moves_pending:
                mine = ((i, e) for i, s in enumerate(step.state.streams) for e in s if e.owner == proc.worker)
                live = live._replace(running=_runs(tuple(mine)))
            after = _with(w, live, step)
        idle = not any(p.status == "live" and not p.frozen for p in w.procs)
        yield Move(f"{proc.worker}.{proc.slot} joins: {step.reply[0]}", 5 if idle else None, after, step.events)
        if self._may(w, "late-join"):
            for heir, then in ((proc, "tries again"), (_die(proc), "is killed")):
                late = _with(w, heir, faults=w.faults + 1, net=_sorted(w.net, ("join", *args)))
                yield Move(f"{proc.worker}.{proc.slot} sends join, no reply, {then}", None, late, ())

    def _turns(self, w: World, proc: Proc) -> Iterator[Move]:
        choices: list[tuple[Run | None, str]] = []
        attempts = {(i, e.id): e.attempts for i, s in enumerate(w.p.streams) for e in s}
        for run in proc.running:
            if run[2] not in self.scope.poison:
                choices.append((run, "succeeded"))
                if run[2] in self.scope.flaky and not attempts.get(run[:2]):
                    choices.append((run, "retry"))
        choices.append((None, ""))
        chosen: Run | None
        for chosen, outcome in choices:
            done = proc.done if chosen is None else (*proc.done, (chosen[0], chosen[1], outcome, chosen[2], 0))
            running = tuple(r for r in proc.running if r != chosen)
            ready = proc._replace(running=running, done=done, number=proc.number + 1)
            yield from self._turn(w, ready, 4 if done else 6, audit=proc.audit)
            if not proc.audit and chosen is None and self._has_strays(w, proc):
                yield from self._turn(w, ready, 6, audit=True)
            elif not proc.audit and chosen is None and self._may(w, "late"):
                yield self._late_turn(w, ready, self._arguments(ready, audit=True))

    def _has_strays(self, w: World, proc: Proc) -> bool:
        known = {r[:2] for r in proc.running} | {s[:2] for s in proc.done}
        return any(e.owner == proc.worker and (i, e.id) not in known for i, s in enumerate(w.p.streams) for e in s)

    def _arguments(self, proc: Proc, *, audit: bool) -> Item:
        want = self.scope.concurrency - len(proc.running)
        running = tuple(r[:2] for r in proc.running) if audit else None
        return (proc.worker, proc.token, proc.number, want, proc.done, running)

    def _turn(self, w: World, proc: Proc, fair: int, *, audit: bool) -> Iterator[Move]:
        args: Any = self._arguments(proc, audit=audit)
        complete: Any = (*args, True, self.rules)
        step = proto.turn(w.p, w.wall, *complete)
        what = f"{proc.worker}.{proc.slot} turn{' (audit)' if audit else ''}"
        what += "".join(f", {s[3]} {s[2]}" for s in proc.done)
        if step.reply[0] != "ok":
            yield Move(f"{what}: {step.reply[0]}", fair, _with(w, _die(proc), step), step.events)
            return
        got = _runs(_delivered(step))
        took = f", takes {' '.join(r[2] for r in got)}" if got else ""
        after = proc._replace(running=proc.running + got, done=(), audit=False, since=0)
        yield Move(what + took, fair, _with(w, after, step), step.events)
        if self._may(w, "lost"):
            broken = proc._replace(audit=True)
            yield Move(f"{what}{took}, reply lost", None, _with(w, broken, step, faults=w.faults + 1), step.events)
        if self._may(w, "deaf"):
            deaf = proc._replace(done=(), audit=False, since=0, frozen=True, inbox=got)
            label = f"{what}{took}, freezes before it reads the reply"
            yield Move(label, None, _with(w, deaf, step, faults=w.faults + 1), step.events)
        if self._may(w, "late"):
            yield self._late_turn(w, proc, args)

    def _late_turn(self, w: World, proc: Proc, args: Item) -> Move:
        label = f"{proc.worker}.{proc.slot} sends turn {args[2:]}, closes the connection"
        after = _with(w, proc._replace(audit=True), faults=w.faults + 1, net=_sorted(w.net, ("turn", *args)))
        return Move(label, None, after, ())

    def _strike(self, w: World, proc: Proc) -> Iterator[Move]:
        name = f"{proc.worker}.{proc.slot}"
        hits: list[tuple[str, str, Proc]] = [("crash", "is killed", _die(proc))]
        if not proc.frozen:
            hits.append(("freeze", "freezes", proc._replace(frozen=True)))
            hits.append(("leave", "begins to leave", proc._replace(status="leaving", running=(), done=())))
            if not proc.cut:
                hits.append(("cut", "is cut off", proc._replace(cut=True)))
        for kind, what, after in hits:
            if self._may(w, kind):
                yield Move(f"{name} {what}", None, _with(w, after, faults=w.faults + 1), ())
        if self._may(w, "slow-beat") and not proc.frozen and not proc.cut:
            step = proto.beat(w.p, w.wall, proc.worker, proc.token, self.rules)
            if step.reply[0] == "ok":
                net = _sorted(w.net, ("beat", proc.slot, proc.worker, proc.token, 0))
                cut = _with(w, proc._replace(cut=True), step, faults=w.faults + 1, net=net)
                yield Move(f"{name} sends a beat, its reply is slow, and is cut off", None, cut, step.events)


def _sorted(net: tuple[Item, ...], item: Item) -> tuple[Item, ...]:
    return tuple(sorted((*net, item), key=repr)) if net else (item,)

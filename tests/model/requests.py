"""Every script as a request to both the model and the server: the same arguments in each side's own form."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from model import protocol as proto
from model.lockstep import PARTITION, Request
from model.normal import Names, nonce_text, token_text
from model.partition import STREAMS, WAITING, Entry, Ref, Settlement, State, Step
from property.snapshot import first_of
from reclaimd.streams import scripts
from reclaimd.streams.codec import Settlement as Verdict


class Incarnation(NamedTuple):
    """One life of a worker ID."""

    worker: str
    nonce: int
    term: int
    token: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Ask:
    """What a turn asks for, in the model's terms. `unique` of a task that is settled is found in `uniques`."""

    number: int
    want: int
    suspects: bool = True
    settlements: tuple[Settlement, ...] = ()
    running: tuple[Ref, ...] | None = None
    uniques: dict[str, str] = field(default_factory=dict)


def _in_turn(state: State, steps: Sequence[Callable[[State], Step]]) -> Step:
    """One script that does several of the model's steps."""
    replies: list[object] = []
    events: list[proto.Event] = []
    rang = False
    for run in steps:
        step = run(state)
        state = step.state
        replies.append(step.reply)
        events += step.events
        rang = rang or step.rang
    return Step(state, tuple(replies), tuple(events), rang)


def enqueue(tasks: Sequence[scripts.NewTask]) -> Request:
    """Several tasks at once, one result each."""

    def model(state: State, now: int) -> Step:
        def add(t: scripts.NewTask) -> Callable[[State], Step]:
            return lambda s: proto.enqueue(s, now, t.task_id, t.lane, t.max_deliveries, t.unique, t.delay_ms)

        return _in_turn(state, [add(t) for t in tasks])

    return Request(
        f"enqueue {' '.join(f'{t.task_id}/{t.lane}/{t.unique}/{t.delay_ms}' for t in tasks)}",
        model,
        lambda now: scripts.enqueue(PARTITION, tasks, epoch_id="e", now=now),
        lambda rows: tuple((row.status, row.task_id) for row in rows),
        lambda step: _results(step, duplicates="duplicate", exists="exists"),
    )


def _results(step: Step, **statuses: str) -> dict[str, int]:
    rows: Any = step.reply
    return {name: sum(row[0] == status for row in rows) for name, status in statuses.items()}


def join(who: Incarnation, proof: tuple[int, ...], limit: int, *, after_fence: bool) -> Request:
    """`proof`: the nonces that are proven dead."""
    proven = " ".join(nonce_text(nonce) for nonce in proof)
    identity = scripts.Identity(who.worker, nonce_text(who.nonce), who.term, "{}", proven, after_fence)

    def model(state: State, now: int) -> Step:
        step = proto.join(state, now, who.worker, who.nonce, who.term, limit=limit, also_dead=proof)
        status, *detail = step.reply
        known: Any = detail
        if status == "ok":
            return step._replace(reply=(status, token_text(known[0])))
        return step._replace(reply=(status, known[0] if status in ("live", "state") else None))

    def answer(joined: scripts.Joined) -> tuple[object, ...]:
        return joined.status, {"ok": joined.token, "live": joined.left_ms, "state": joined.state}.get(joined.status)

    return Request(
        f"join {identity.worker} {who.nonce} term {who.term} proof {proof} limit {limit}",
        model,
        lambda now: scripts.join(PARTITION, identity, epoch_id="e", limit=limit, now=now),
        answer,
        lambda step: {"false_reclaims": sum(after_fence for e in step.events if e[0] == "WorkerJoined")},
    )


def _delivered(index: int, e: Entry) -> tuple[object, ...]:
    return index, e.id, e.task, e.lane, e.max, e.deliveries, e.attempts, e.handbacks, e.token, e.first, e.unique


def turn(who: Incarnation, ask: Ask, names: Names) -> Request:
    """The reply: status, what was delivered in which order, handed back, settlements too late, lost, paused."""
    verdicts = [
        Verdict(index + 1, names.real(entry), outcome, task, ask.uniques.get(task, ""), 5, "n", delay, outcome, "x")  # type: ignore[arg-type]
        for index, entry, outcome, task, delay in ask.settlements
    ]
    running = None if ask.running is None else [(index + 1, names.real(entry)) for index, entry in ask.running]
    real = scripts.Turn(ask.want, ask.suspects, verdicts, running, ask.number)

    def model(state: State, now: int) -> Step:
        step = proto.turn(
            state, now, who.worker, who.token, ask.number, ask.want, ask.settlements, ask.running, ask.suspects
        )
        if step.reply[0] != "ok":
            return step
        known: Any = step.reply
        taken = tuple(_delivered(index, entry) for index, entry in known[1])
        return step._replace(reply=("ok", taken, *known[2:], state.paused))

    def answer(t: scripts.Turned) -> tuple[object, ...]:
        if t.status != "ok":
            return ("state", t.state) if t.status == "state" else (t.status,)
        taken = []
        for d in t.deliveries:
            entry = Entry(names.model(d.stream_name, d.entry_id), d.task_id, d.lane, d.max_deliveries)
            entry = entry._replace(deliveries=d.deliveries, attempts=d.attempts, handbacks=d.handbacks, token=d.token)
            entry = entry._replace(first=names.first(d.task_id, first_of(d.history)), unique=d.unique)
            taken.append(_delivered(d.stream - 1, entry))
        lost = tuple((stream - 1, names.model(STREAMS[stream - 1], entry)) for stream, entry in t.lost)
        return "ok", tuple(taken), t.handed_back, t.stale, lost, t.paused

    what = " ".join(f"{s[2]}:{s[3]}@{s[1]}" for s in ask.settlements)
    audit = "" if ask.running is None else f" audit {ask.running}"
    return Request(
        f"turn {who.worker} {who.token} #{ask.number} want {ask.want}/{int(ask.suspects)} [{what}]{audit}",
        model,
        lambda now: scripts.turn(PARTITION, who.worker, token_text(who.token), real, now=now),
        answer,
        _stale,
    )


def _stale(step: Step) -> dict[str, int]:
    known: Any = step.reply
    return {"stale": known[3] if known[0] == "ok" else 0}


def beat(who: Incarnation) -> Request:
    """Renew only."""
    return Request(
        f"beat {who.worker} {who.token}",
        lambda state, now: proto.beat(state, now, who.worker, who.token),
        lambda now: scripts.beat(PARTITION, who.worker, token_text(who.token), now=now),
        lambda ok: ("ok" if ok else "fenced",),
    )


def _drained(step: Step) -> Step:
    return step if len(step.reply) > 1 else step._replace(reply=(*step.reply, 0))


def leave(who: Incarnation, limit: int) -> Request:
    """A graceful end."""
    return Request(
        f"leave {who.worker} {who.token} limit {limit}",
        lambda state, now: _drained(proto.leave(state, now, who.worker, who.token, limit)),
        lambda now: scripts.leave(PARTITION, who.worker, token_text(who.token), limit=limit, now=now),
        tuple,
        lambda step: {"left": sum(e[0] == "WorkerFenced" for e in step.events)},
    )


def release(who: Incarnation, limit: int, *, asked: bool) -> Request:
    """`asked`: it died because it was told to stop."""
    cause = "left" if asked else "released"
    return Request(
        f"release {who.worker} {who.nonce} {cause} limit {limit}",
        lambda state, now: proto.release(state, now, who.worker, who.nonce, limit, cause=cause),
        lambda now: scripts.release(PARTITION, who.worker, nonce_text(who.nonce), asked=asked, limit=limit, now=now),
        tuple,
    )


def reclaim(limit: int, *, unknown: bool) -> Request:
    """One call of a pass."""
    return Request(
        f"reclaim {limit}{' and look' if unknown else ''}",
        lambda state, now: proto.reclaim(state, now, limit, unknown),
        lambda now: scripts.reclaim(PARTITION, limit=limit, unknown=unknown, now=now),
        lambda r: (r.state, r.moved, r.more, r.workers),
    )


def promote(limit: int) -> Request:
    """What is due goes to its lane."""
    return Request(
        f"promote {limit}",
        lambda state, now: proto.promote(state, now, limit),
        lambda now: scripts.promote(PARTITION, limit=limit, now=now),
        lambda p: (p.state, p.promoted, p.next_due or 0),
    )


def _refused(state: State) -> Step:
    """What is an error while the partition is frozen."""
    return Step(state, (f"RECLAIMD_STATE queue {PARTITION.queue} is {state.mode}",), ())


def redrive(dead: Sequence[int], names: Names) -> Request:
    """Dead letters back to their lanes."""

    def model(state: State, now: int) -> Step:
        if state.mode != "ok":
            return _refused(state)

        def back(i: int) -> Callable[[State], Step]:
            return lambda s: proto.redrive(s, now, i)

        return _in_turn(state, [back(i) for i in dead])

    def answer(row: scripts.Redriven) -> tuple[str, ...]:
        detail = {"ok": row.task_id, "exists": row.detail}.get(row.status)
        return (row.status, *([] if detail is None else [detail]))

    reals = [names.real(i) for i in dead]
    return Request(
        f"redrive {dead}",
        model,
        lambda now: scripts.redrive(PARTITION, reals, now=now),
        lambda rows: tuple(answer(row) for row in rows),
    )


def purge(dead: Sequence[int], names: Names) -> Request:
    """Dead letters away."""

    def model(state: State, now: int) -> Step:
        if state.mode != "ok":
            return _refused(state)

        def away(i: int) -> Callable[[State], Step]:
            return lambda s: proto.purge(s, now, i)

        step = _in_turn(state, [away(i) for i in dead])
        return step._replace(reply=(step.reply.count(("ok",)),))

    reals = [names.real(i) for i in dead]
    return Request(f"purge {dead}", model, lambda now: scripts.purge(PARTITION, reals, now=now), lambda n: (n,))


def pause(paused: bool) -> Request:
    """Pause or resume."""
    return Request(
        "pause" if paused else "resume",
        lambda state, now: proto.pause(state, now, paused),
        lambda now: scripts.pause(PARTITION, paused, now=now),
        lambda changed: ("ok", changed),
    )


def cleanup(older_than: int) -> Request:
    """Forget who is gone."""
    return Request(
        f"cleanup {older_than}",
        lambda state, now: proto.cleanup(state, now, older_than),
        lambda now: scripts.cleanup(PARTITION, older_than_ms=older_than, now=now),
        lambda cleaned: ("ok", tuple(sorted(cleaned.workers))),
    )


def view() -> Request:
    """Advance the clock and read the numbers."""

    def model(state: State, now: int) -> Step:
        step = proto.view(state, now)
        return step._replace(reply=(_numbers(step.state, now),))

    def answer(text: bytes) -> tuple[object, ...]:
        v = json.loads(text)
        return ({name: v.get(name) for name in _numbers(State(), 0)},)

    return Request("view", model, lambda now: scripts.view(PARTITION, now=now), answer)


def _numbers(s: State, now: int) -> dict[str, object]:
    named = list(zip(STREAMS, s.streams, strict=True))
    ends = [end for _, end in s.leases]
    return {
        "now_ms": now,
        "state": s.mode,
        "lease_now": s.lease,
        "waiting": {name: sum(e.owner == WAITING for e in stream) for name, stream in named},
        "pending": {name: sum(e.owner != WAITING for e in stream) for name, stream in named},
        "next_lease_end": min((end for end in ends if end > s.lease), default=None),
        "live": sum(end > s.lease for end in ends),
        "fenced": sum(end <= 0 for end in ends),
        "expired": sum(0 < end <= s.lease for end in ends),
        "gone": sum(row.state == "gone" for _, row in s.workers),
        "delayed": len(s.delayed),
        "next_due": min((due for due, _, _ in s.delayed), default=None),
        "overdue": sum(due <= now for due, _, _ in s.delayed),
        "dead": len(s.dead),
        "paused": s.paused,
    }

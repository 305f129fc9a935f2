"""One partition's protocol as pure functions, one for each script of docs/protocol.md that moves tasks.

Each takes a `State`, `now` (wall milliseconds; any integer unit does) and the script's own arguments, and returns a
`Step(state, reply, events)`. Entry IDs are integers from one counter: only their order matters. Events are tuples that
begin with their type. Bodies, history, errors and `:events` itself are left out: no decision rests on them. What an
archive does to a partition is in `archive.py`.
`rules` turns single safeguards off, see `rules.py`.
"""

from model.partition import (
    LANE,
    NOBODY,
    SEEN_BUCKET,
    SUSPECT,
    SUSPECT_FROM,
    WAITING,
    Draft,
    Entry,
    Event,
    Ref,
    Row,
    Settlement,
    State,
    Step,
    bury,
    drain_one,
    fence_expired,
    move,
    place,
    renumbered,
    run_pass,
)
from model.rules import SOUND, Rules

__all__ = ["SUSPECT_FROM", "Entry", "Event", "Row", "Settlement", "State", "Step"]


def enqueue(
    state: State,
    now: int,
    task: str,
    lane: str = "normal",
    max_deliveries: int = 5,
    unique: str = "",
    delay: int = 0,
    rules: Rules = SOUND,
) -> Step:
    """Adds one task: `ok`, `duplicate` (this ID was seen) or `exists` (the unique key is held by another task).

    It goes on whatever the state; during a rebuild it notes what it accepts, which is not to be restored any more.
    """
    d = Draft(state, now, rules)
    d.begin()
    d.tick()
    bucket = d.lease // SEEN_BUCKET
    seen = (bucket, task) in d.seen or (bucket - 1, task) in d.seen or any(row[2].task == task for row in d.delayed)
    seen = seen or (d.mode == "rebuilding" and task in d.accepted)
    if rules.enqueue_remembers and seen:
        return d.step("duplicate", task)
    if unique and unique in d.unique:
        return d.step("exists", d.unique[unique])
    entry = Entry(0, task, lane, max_deliveries, unique=unique)
    if delay:
        d.delay(now + delay, task, entry)
    else:
        d.append(LANE[lane], entry)
    d.seen.add((bucket, task))
    if d.mode == "rebuilding":
        d.accepted.add(task)
    if unique:
        d.unique[unique] = task
    d.events.append(("Enqueued", task))
    return d.step("ok", task)


def join(
    state: State,
    now: int,
    worker: str,
    nonce: int,
    term: int,
    host: str = "",
    dead_nonce: int = 0,
    limit: int = 1000,
    rules: Rules = SOUND,
    also_dead: tuple[int, ...] = (),
) -> Step:
    """A new incarnation: `ok` token, `live`, `more`, `fenced` when this nonce was fenced before, or `state`.

    `dead_nonce` (0: none) and `also_dead` name incarnations of this ID that are proven dead.
    """
    d = Draft(state, now, rules)
    if d.frozen:
        return d.step("state", d.mode)
    d.begin()
    d.tick()
    row = d.workers.get(worker)
    if row is not None and row.nonce == nonce:
        if row.state != "live":
            return d.step("fenced")
        if rules.join_same_nonce_is_idempotent:
            d.renew(worker, row)
            return d.step("ok", row.token)
    if row is not None and row.state == "live":
        proven = row.nonce in (dead_nonce, *also_dead)
        if not rules.proof_names_nonce:
            proven = bool(dead_nonce) and row.host == host
        proven = proven or row.nonce == nonce
        if d.leases.get(worker, 0) > d.lease and not proven and rules.join_respects_lease:
            return d.step("live", d.leases[worker] - d.lease)
        d.fence(worker, "takeover")
    if (row is None or row.state == "gone") and d.pending([worker]):
        d.fence(worker, "unknown")
    if rules.join_moves_pending:
        moved, more = drain_one(d, worker, limit)
        if more:
            return d.step("more", moved)
    token = max((row.counter if row else 0) + 1, now), nonce
    d.workers[worker] = Row("live", *token, term, host)
    d.leases[worker] = d.lease + term
    d.turns.pop(worker, None)
    d.events.append(("WorkerJoined", worker, token))
    return d.step("ok", token)


def beat(state: State, now: int, worker: str, token: tuple[int, int], rules: Rules = SOUND) -> Step:
    """Renews: `ok` or `fenced`."""
    d = Draft(state, now, rules)
    d.tick()
    row = d.current(worker, token)
    if row is None:
        return d.step("fenced")
    d.renew(worker, row)
    return d.step("ok")


def _settle(d: Draft, worker: str, settlement: Settlement) -> bool:
    index, entry_id, outcome, task, delay = settlement
    entry = d.find(index, entry_id, worker)
    if entry is None:
        if outcome == "retry" and not d.rules.retry_checks_pending:
            d.delay(d.now, task, Entry(entry_id, task, "normal", 5, attempts=1))
        return False
    if outcome == "handback":
        move(d, index, entry, "handback", worker)
        return True
    d.drop(index, entry_id)
    if outcome == "succeeded":
        d.release_unique(task, entry.unique)
        d.events.append(("Settled", worker, task))
        return True
    failed = renumbered(entry)._replace(owner=WAITING)
    if outcome == "dead":
        # Nothing was tried, so nothing counts; the token grows when it is redriven.
        failed = failed._replace(token=entry.token)
    if outcome in ("retry", "failed"):
        failed = failed._replace(attempts=failed.attempts + 1)
    if outcome in ("retry", "parked"):
        if outcome == "parked":
            failed = failed._replace(handbacks=failed.handbacks + 1)
        d.delay(d.now + delay, task, failed)
        d.events.append(("Retried", worker, task, outcome))
    else:
        bury(d, failed, outcome, worker)
    return True


def _take(d: Draft, worker: str, want: int, suspects: bool) -> list[tuple[int, Entry]]:
    taken: list[tuple[int, Entry]] = []
    mine = d.pending([worker])
    has_suspect = any(i == SUSPECT for i, _ in mine)
    if d.rules.suspect_runs_alone:
        suspects = suspects and not mine
        want = 0 if has_suspect else want
    for index, stream in enumerate(d.streams):
        room = want - len(taken)
        if index == SUSPECT and d.rules.one_suspect_a_worker:
            room = min(room, int(suspects and not has_suspect))
        if index > SUSPECT and d.rules.suspect_runs_alone and taken and taken[0][0] == SUSPECT:
            room = 0
        chosen = [e.id for e in stream if e.owner == WAITING][: max(room, 0)]
        if chosen:
            d.streams[index] = tuple(e._replace(owner=worker) if e.id in chosen else e for e in stream)
            taken += [(index, e) for e in d.streams[index] if e.id in chosen]
    return taken


def turn(
    state: State,
    now: int,
    worker: str,
    token: tuple[int, int],
    number: int,
    want: int,
    settlements: tuple[Settlement, ...] = (),
    running: tuple[Ref, ...] | None = None,
    suspects: bool = True,
    rules: Rules = SOUND,
) -> Step:
    """Token, number, renew, settle (first what succeeded), audit (when `running` is given), read.

    `ok` entries handed_back stale lost, `fenced`, `state`, or `late` when a turn with this number or a higher one was
    executed.
    """
    d = Draft(state, now, rules)
    row = d.current(worker, token) if rules.turn_checks_token else d.workers.get(worker)
    if row is None:
        if settlements:
            d.events.append(("SettlementsRefused", worker, token, tuple(s[3] for s in settlements)))
        return d.step("fenced")
    if d.frozen:
        return d.step("state", d.mode)
    if rules.turns_are_numbered:
        if number <= d.turns.get(worker, 0):
            return d.step("late")
        d.turns[worker] = number
    d.tick()
    if row.state == "live":
        d.renew(worker, row)
    settled = [_settle(d, worker, s) for s in sorted(settlements, key=lambda s: s[2] != "succeeded")]
    handed_back = 0
    lost: list[Ref] = []
    if running is not None:
        spared = set(running) if rules.audit_spares_running else set()
        for index, entry in d.pending([worker]):
            if (index, entry.id) not in spared:
                move(d, index, entry, "audit", worker)
                handed_back += 1
        held = {(index, entry.id) for index, entry in d.pending([worker])}
        lost = [ref for ref in running if ref not in held]
    taken = [] if d.paused else _take(d, worker, want, suspects)
    d.events += [("Started", worker, e.task, i, e.id) for i, e in taken]
    d.rang = d.rang or 0 < want == len(taken)
    return d.step("ok", tuple(taken), handed_back, settled.count(False), tuple(lost))


def leave(state: State, now: int, worker: str, token: tuple[int, int], limit: int = 1000, rules: Rules = SOUND) -> Step:
    """A graceful end: fences oneself and hands everything back. `ok`, `more`, `fenced`, or `state`: only fenced."""
    d = Draft(state, now, rules)
    d.tick()
    row = d.workers.get(worker)
    if row is None or row.token != token:
        return d.step("fenced")
    if row.state == "gone":
        return d.step("ok", 0)
    if row.state == "live":
        d.fence(worker, "left")
    moved, more = drain_one(d, worker, limit)
    return d.step("state" if d.frozen else "more" if more else "ok", moved)


def release(
    state: State,
    now: int,
    worker: str,
    nonce: int,
    limit: int = 1000,
    rules: Rules = SOUND,
    cause: str = "released",
) -> Step:
    """The parent saw this nonce die: fence it, move what it had. `ok`, `more`, `state`, or `gone`: not the holder.

    `cause`: `left` when it died because it was told to stop.
    """
    d = Draft(state, now, rules)
    d.tick()
    row = d.workers.get(worker)
    if row is None or row.nonce != nonce or row.state == "gone":
        return d.step("gone", 0)
    if row.state == "live":
        d.fence(worker, cause)
    moved, more = drain_one(d, worker, limit)
    return d.step("state" if d.frozen else "more" if more else "ok", moved)


def reclaim(state: State, now: int, limit: int = 1000, look: bool = False, rules: Rules = SOUND) -> Step:
    """Fences everyone whose lease ended (and, when it looks, consumers nobody joined as), and runs the pass.

    The reply begins with the state, and nothing is done unless that is ok.
    """
    d = Draft(state, now, rules)
    if d.frozen:
        return d.step(d.mode, 0, False, 0)
    d.tick()
    fence_expired(d)
    if look:
        for owner in sorted({e.owner for stream in d.streams for e in stream} - {WAITING, NOBODY}):
            row = d.workers.get(owner)
            if row is None or row.state == "gone":
                d.fence(owner, "unknown")
    moved, _, workers = run_pass(d, limit)
    return d.step(d.mode, moved, any(score <= 0 for score in d.leases.values()), workers)


def view(state: State, now: int, rules: Rules = SOUND) -> Step:
    """Advances the clock, changes nothing else."""
    d = Draft(state, now, rules)
    d.tick()
    return d.step("ok", d.lease)


def promote(state: State, now: int, limit: int = 1000, rules: Rules = SOUND) -> Step:
    """Delayed tasks that are due go to the tail of their lane, suspects to theirs. Replies as `reclaim` does."""
    d = Draft(state, now, rules)
    if d.frozen:
        return d.step(d.mode, 0, 0)
    due = [row for row in sorted(d.delayed) if row[0] <= now][:limit]
    for row in due:
        entry = row[2]
        d.delayed.remove(row)
        d.append(place(entry) if rules.promote_knows_suspects else LANE[entry.lane], entry)
        d.events.append(("Promoted", entry.task))
    return d.step(d.mode, len(due), min((row[0] for row in d.delayed), default=0))


def redrive(state: State, now: int, dead_id: int, rules: Rules = SOUND) -> Step:
    """A dead letter back to the tail of its lane, counts at 0. `ok`, `missing`, or `exists`: its key is taken."""
    d = Draft(state, now, rules)
    found = next((row for row in d.dead if row[0] == dead_id), None)
    if found is None:
        return d.step("missing")
    entry = found[2]
    if entry.unique and d.unique.get(entry.unique, entry.task) != entry.task:
        return d.step("exists", d.unique[entry.unique])
    fresh = entry._replace(deliveries=0, attempts=0, handbacks=0, token=entry.token + 1, first=entry.first or dead_id)
    d.append(LANE[entry.lane], fresh)
    if entry.unique:
        d.unique[entry.unique] = entry.task
    d.dead.remove(found)
    d.events.append(("Redriven", entry.task))
    return d.step("ok", entry.task)


def purge(state: State, now: int, dead_id: int, rules: Rules = SOUND) -> Step:
    """Deletes a dead letter: `ok` or `missing`."""
    d = Draft(state, now, rules)
    found = next((row for row in d.dead if row[0] == dead_id), None)
    if found is None:
        return d.step("missing")
    d.dead.remove(found)
    d.events.append(("Purged", found[2].task))
    return d.step("ok")


def cleanup(state: State, now: int, older_than: int, rules: Rules = SOUND) -> Step:
    """Forgets the workers that have been gone for that long."""
    d = Draft(state, now, rules)
    old = [w for w, row in sorted(d.workers.items()) if row.state == "gone" and now - row.ended >= older_than]
    for worker in old:
        del d.workers[worker]
    return d.step("ok", tuple(old))


def stray_read(state: State, now: int, consumer: str, index: int, count: int, rules: Rules = SOUND) -> Step:
    """Somebody reads outside the protocol, under any name."""
    d = Draft(state, now, rules)
    chosen = [e.id for e in d.streams[index] if e.owner == WAITING][:count]
    d.streams[index] = tuple(e._replace(owner=consumer) if e.id in chosen else e for e in d.streams[index])
    return d.step("ok")


def pause(state: State, now: int, paused: bool, rules: Rules = SOUND) -> Step:
    """A paused queue settles and recovers, but delivers nothing."""
    d = Draft(state, now, rules)
    changed = d.paused != paused
    d.paused = paused
    d.rang = changed and not paused
    d.events += [("QueuePaused" if paused else "QueueResumed",)] if changed else []
    return d.step("ok", changed)

"""The judge: knows what was accepted and what each call may do, and compares that with what raw Redis shows.

It is told each call and its reply, sees the partition before and after, and raises AssertionError for what must not
be. It shares no code with the scripts, their callers or the executable model.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from property.shape import Known, Sent, check_shape
from property.snapshot import STREAMS, Place, Row, Snapshot, entry_order, sorted_entries

WITHOUT_VERDICT = {"lease_expired", "takeover", "released", "unknown"}
RETURNS = {"join", "leave", "release", "reclaim", "turn"}


class Verdict(NamedTuple):
    """A settlement as the history knows it."""

    stream: str
    entry: str
    outcome: str
    task: str


@dataclass
class Step:
    """One execution of one script. `refused`: the server was full and the call raised that; `forbidden`: the
    partition's state, and the call raised that.
    """

    kind: str
    now: int
    worker: str = ""
    token: str = ""
    nonce: str = ""
    proof: str = ""
    verdicts: Sequence[Verdict] = ()
    audited: Sequence[tuple[str, str]] | None = None
    number: int = 0
    cause: str = ""
    unknown: bool = False
    tasks: Sequence[Sent] = ()
    entries: Sequence[str] = ()
    refused: bool = False
    forbidden: bool = False
    full: bool = False
    statuses: Sequence[str] = ()


@dataclass
class Judge:
    """Feed `judge` with every step. `tasks` is the history of all that was accepted."""

    tasks: dict[str, Known] = field(default_factory=dict)
    expected: Counter[str] = field(default_factory=Counter)
    foreign: set[str] = field(default_factory=set)
    last_turns: dict[str, int] = field(default_factory=dict)
    moved_in_step: list[tuple[Place, Place]] = field(default_factory=list)

    def judge(self, step: Step, before: Snapshot, after: Snapshot) -> None:
        """Raises AssertionError when the step did what it must not, or did not what it must."""
        if step.refused:
            assert after == before, f"refused for want of memory, yet something was written: {step}"
            assert step.kind in {"enqueue", "redrive"}, f"{step.kind} must go on when Redis is full"
            return
        assert not (step.full and step.kind == "enqueue"), "a full server accepted tasks"
        frozen = _is_frozen(before)
        if frozen:
            self._frozen(step, before, after)
        assert frozen or not step.forbidden, f"nothing forbade {step}"
        self.moved_in_step = []
        effective = self._effective(step, before)
        for task in before.places.keys() | after.places.keys():
            self._transition(task, step, before, after, effective)
        self._order(step, before)
        self._fencing(step, before, after)
        self._count(step, before, after, effective)
        self._clock(step, before, after)
        check_shape(self.tasks, after)
        late = step.kind == "turn" and step.number <= self.last_turns.get(step.token, 0)
        if step.kind in {"turn", "beat", "leave"} and (late or not before.is_current(step.worker, step.token)):
            self._refused_whole(step, before, after)
        elif step.kind == "turn" and step.audited is not None and not frozen:
            known = set(before.owned_by(step.worker)) - set(step.audited)
            assert not known & set(after.owned_by(step.worker)), f"an audit left what does not run: {step}"
        if step.kind == "turn" and before.is_current(step.worker, step.token) and not frozen:
            self.last_turns[step.token] = max(step.number, self.last_turns.get(step.token, 0))

    @staticmethod
    def _frozen(step: Step, before: Snapshot, after: Snapshot) -> None:
        """Data were lost: tasks come, and workers are fenced, but none runs, returns, rises or is buried."""
        if step.kind in {"reclaim", "promote", "redrive", "purge", "join"}:
            assert after == before, f"{step.kind} did something while the partition was frozen: {step}"
        kept = {task: places for task, places in after.places.items() if task in before.places}
        assert kept == before.places, f"tasks changed while the partition was frozen: {step}"
        assert (step.kind in {"redrive", "purge"}) == step.forbidden, f"not refused: {step}"

    def _effective(self, step: Step, before: Snapshot) -> dict[tuple[str, str], str]:
        """The verdicts that may have an effect: the token is current and the entry still pending to it."""
        if step.kind != "turn" or not before.is_current(step.worker, step.token) or _is_frozen(before):
            return {}
        if step.number <= self.last_turns.get(step.token, 0):
            return {}
        effective: dict[tuple[str, str], str] = {}
        for v in step.verdicts:
            if before.pending[v.stream].get(v.entry) == step.worker:
                effective.setdefault((v.stream, v.entry), v.outcome)
        return effective

    def _refused_whole(self, step: Step, before: Snapshot, after: Snapshot) -> None:
        row = before.workers.get(step.worker)
        if step.kind == "leave" and row is not None and row.token == step.token:
            return
        assert after.places == before.places, f"fenced, yet tasks changed: {step}"
        assert after.leases == before.leases, f"fenced, yet leases changed: {step}"

    def _transition(
        self, task: str, step: Step, before: Snapshot, after: Snapshot, effective: dict[tuple[str, str], str]
    ) -> None:
        was, is_ = before.places.get(task, []), after.places.get(task, [])
        assert len(is_) <= 1, f"{task} is in {len(is_)} places after {step}: {is_}"
        if task.startswith(("?", "foreign:")):
            return
        if was == is_:
            assert not is_ or is_[0].owner == "" or (is_[0].where, is_[0].entry) not in effective, f"no effect: {step}"
            return
        old, new = (was[0] if was else None), (is_[0] if is_ else None)
        if old is None and new is not None:
            self._appeared(task, new, step)
        elif old is not None and new is None:
            self._vanished(task, old, step, effective)
        elif old is not None and new is not None:
            if (old.where, old.entry) == (new.where, new.entry):
                self._delivered(task, old, new, step, before)
            else:
                self._moved(task, old, new, step, before, effective)
        if new is not None:
            self._envelope(task, old, new)

    def _appeared(self, task: str, new: Place, step: Step) -> None:
        sent = [t for t, status in zip(step.tasks, step.statuses, strict=False) if t.task == task and status == "ok"]
        assert step.kind == "enqueue", f"{task} came from nowhere: {step}"
        assert len(sent) == 1, f"{task} came from nowhere: {step}"
        known = self.tasks.get(task)
        assert known is None, f"{task} was accepted twice ({known}): {step}"
        self.tasks[task] = Known(sent[0])
        where = "delayed" if sent[0].due else f"lane:{sent[0].lane}"
        assert new.where == where, f"{task} was sent to {where} and is in {new.where}"
        assert new.owner == ""
        if sent[0].due:
            assert new.entry == str(sent[0].due)

    def _vanished(self, task: str, old: Place, step: Step, effective: dict[tuple[str, str], str]) -> None:
        known = self.tasks[task]
        if old.where == "dead":
            assert (step.kind, old.entry in step.entries) == ("purge", True), f"{task} is lost from :dead by {step}"
            known.state = "purged"
            return
        assert effective.get((old.where, old.entry)) == "succeeded", f"{task} is lost from {old} by {step}"
        assert known.state == "open", f"{task} settled twice: {known.state}"
        known.state = "succeeded"

    def _delivered(self, task: str, old: Place, new: Place, step: Step, before: Snapshot) -> None:
        assert old.fields == new.fields
        assert (step.kind, old.owner, new.owner) == ("turn", "", step.worker), f"{task} changed hands: {step}"
        assert before.is_current(step.worker, step.token), f"{task} was delivered to a fenced worker: {step}"
        assert not before.paused, f"{task} was delivered though the queue is paused"

    def _moved(
        self,
        task: str,
        old: Place,
        new: Place,
        step: Step,
        before: Snapshot,
        effective: dict[tuple[str, str], str],
    ) -> None:
        known = self.tasks[task]
        outcome = effective.get((old.where, old.entry))
        if old.where == "delayed":
            assert (step.kind, int(old.entry) <= step.now) == ("promote", True), f"{task} was promoted early by {step}"
            assert new.where == ("suspect" if known.deliveries >= 2 else f"lane:{known.sent.lane}")
            assert new.owner == ""
            return
        if old.where == "dead":
            assert (step.kind, old.entry in step.entries) == ("redrive", True), f"{task} rose from the dead by {step}"
            assert new.where == f"lane:{known.sent.lane}"
            known.state, known.deliveries, known.attempts, known.handbacks = "open", 0, 0, 0
            return
        assert old.owner, f"{task} was moved while waiting: {old} to {new} by {step}"
        if outcome is not None and outcome != "handback":
            assert new.where == {"retry": "delayed", "parked": "delayed"}.get(outcome, "dead"), f"{outcome}: {new}"
            known.attempts += outcome in {"retry", "failed"}
            known.handbacks += outcome == "parked"
            known.state = "dead" if new.where == "dead" else "open"
            return
        cause = "handback" if outcome else self._cause(old, step, before)
        self.moved_in_step.append((old, new))
        known.deliveries += cause in WITHOUT_VERDICT
        known.handbacks += cause not in WITHOUT_VERDICT
        assert known.deliveries <= known.sent.max_deliveries, f"{task} was delivered too often"
        target = f"recovered:{known.sent.lane}"
        if cause in WITHOUT_VERDICT and known.deliveries >= known.sent.max_deliveries:
            target, known.state = "dead", "dead"
            assert new.text("cause") == "max_deliveries"
        elif known.deliveries >= 2:
            target = "suspect"
        assert new.where == target, f"{task} came back ({cause}) to {new.where}, not {target}"
        # A turn reads after it has moved, and may take the same task again.
        assert new.owner == "" or (step.kind == "turn" and new.owner == step.worker)

    def _cause(self, old: Place, step: Step, before: Snapshot) -> str:
        """Why the owner of a pending entry lost it; the owner must have lost its right to it."""
        row = before.workers.get(old.owner)
        assert step.kind in RETURNS, f"{old} was taken away by {step}"
        if step.kind == "turn":
            assert old.owner == step.worker
            assert step.audited is not None, f"{old} was taken away by {step}"
            assert (old.where, old.entry) not in step.audited, f"running, yet moved: {old}"
            assert before.is_current(step.worker, step.token)
            return "audit"
        if row is None or row.state == "gone":
            assert step.unknown or (step.kind == "join" and step.worker == old.owner)
            return "unknown"
        if row.state == "fenced":
            return row.cause
        assert step.kind == "reclaim" or step.worker == old.owner, f"{old} was taken away by {step}"
        if step.kind == "leave":
            assert row.token == step.token
            return "left"
        if step.kind == "release":
            assert row.nonce == step.nonce
            return step.cause
        expired = before.leases[old.owner] <= self._lease_now(before, step.now)
        if step.kind == "join":
            assert expired or (step.proof and row.nonce == step.proof), f"{step} took over a live incarnation: {row}"
            return "takeover"
        assert expired, f"a live worker was reclaimed: {old} {row}"
        return "lease_expired"

    def _envelope(self, task: str, old: Place | None, new: Place) -> None:
        """Fields that every carrier of a task must have right, against the history."""
        known = self.tasks[task]
        sent = known.sent
        if new.where != "delayed":
            # Nobody runs a dead letter, so one may keep its token: whatever redrives it makes a greater one.
            least = known.token + (new.where != "dead")
            is_carrier = old is None or (old.where, old.entry) != (new.where, new.entry)
            assert new.token >= least if is_carrier else new.token == known.token, (
                f"the token of {task} is {new.token}: {known}"
            )
            known.token = new.token
        if not known.first and new.where in STREAMS:
            known.first = new.entry
        assert new.first in {"", known.first}, f"{task} forgot its first entry"
        assert new.number("max") == sent.max_deliveries
        assert (new.text("lane"), new.text("unique")) == (sent.lane, sent.unique)
        counted = (new.number("deliveries"), new.number("attempts"), new.number("handbacks"))
        assert counted == (known.deliveries, known.attempts, known.handbacks), f"{task} is miscounted: {new} {known}"
        assert new.text("body") == f'{{"v":1,"name":"{task}"}}'
        assert len(new.text("history").split("\n")) <= 20

    def _order(self, step: Step, before: Snapshot) -> None:
        """Promise 3: what is moved is the head of the running pass, then that of the next one, and arrives so."""
        if step.kind == "turn" or not self.moved_in_step:
            return
        expected = [pair for members in self._passes(step, before) for pair in self._pass_order(members, before)]
        moved = {(old.where, old.entry) for old, _ in self.moved_in_step}
        assert moved == set(expected[: len(moved)]), f"moved {moved}, the pass begins {expected[: len(moved)]}; {step}"
        by_target: dict[str, list[tuple[Place, Place]]] = {}
        for old, new in self.moved_in_step:
            by_target.setdefault(new.where, []).append((old, new))
        for pairs in by_target.values():
            pairs.sort(key=lambda pair: entry_order(pair[1].entry))
            came = [expected.index((old.where, old.entry)) for old, _ in pairs]
            assert came == sorted(came), f"moved out of order: {pairs}"

    def _passes(self, step: Step, before: Snapshot) -> list[set[str]]:
        """The workers of the pass that runs, and of the one that begins after it. A reclaim works for one only."""
        running = {worker for worker, score in before.leases.items() if score == -1}
        waiting = {worker for worker, score in before.leases.items() if score == 0}
        if step.kind != "reclaim":
            return [running, waiting | {step.worker}]
        if running:
            return [running]
        lease_now = self._lease_now(before, step.now)
        waiting |= {worker for worker, score in before.leases.items() if 0 < score <= lease_now}
        return [waiting | (self._strangers(before) if step.unknown else set())]

    @staticmethod
    def _pass_order(members: set[str], before: Snapshot) -> list[tuple[str, str]]:
        """What is pending to them in reading order, then by entry ID; foreign entries, which are buried, left out."""
        tasks = {(s, entry) for s in STREAMS for entry, fields in before.streams[s] if "task" in fields}
        return [
            (s, entry)
            for s in STREAMS
            for entry, owner in sorted_entries(before.pending[s])
            if owner in members and (s, entry) in tasks
        ]

    @staticmethod
    def _strangers(before: Snapshot) -> set[str]:
        owners = {owner for s in STREAMS for owner in before.pending[s].values()}
        return {w for w in owners if w not in before.workers or before.workers[w].state == "gone"}

    @staticmethod
    def _lease_now(before: Snapshot, now: int) -> int:
        if "wall" not in before.clock:
            return max(now, before.clock.get("lease", 0))
        elapsed = max(now - before.clock["wall"], 0)
        return before.clock["lease"] + min(elapsed, before.clock.get("cap", 5000))

    def _clock(self, step: Step, before: Snapshot, after: Snapshot) -> None:
        was, is_ = before.clock.get("lease", 0), after.clock.get("lease", 0)
        assert is_ in {was, self._lease_now(before, step.now)}, f"lease time went from {was} to {is_} by {step}"
        assert is_ >= was, "lease time went back"

    def _fencing(self, step: Step, before: Snapshot, after: Snapshot) -> None:
        """Who lost and who won a worker ID, and by what right."""
        lease_now = self._lease_now(before, step.now)
        running = {w for w, score in before.leases.items() if score == -1}
        if running:
            late = {w for w, score in after.leases.items() if score == -1} - running
            left = [w for w in running if after.owned_by(w)]
            assert not late or not left, f"{late} joined the pass of {left}"
        for worker in before.workers.keys() | after.workers.keys():
            was, is_ = before.workers.get(worker), after.workers.get(worker)
            if was == is_:
                continue
            if was is not None and was.state == "live":
                cause = "takeover" if is_ is None or is_.state == "live" else is_.cause
                self._lost_rightly(step, worker, was, cause, before.leases[worker] <= lease_now)
                self.expected[f"fenced_workers:{cause}"] += 1
                self.expected["left"] += step.kind == "leave"
            if is_ is not None and is_.state == "live":
                assert (step.kind, step.worker, step.nonce) == ("join", worker, is_.nonce), f"{is_} by {step}"
                assert was is None or int(is_.token.partition("-")[0]) > int(was.token.partition("-")[0])
                assert not before.owned_by(worker) or not after.owned_by(worker), "joined before all was moved"
                self.expected["joined"] += 1
        strangers = set[str]() if _is_frozen(before) else self._strangers(before)
        if step.kind == "reclaim" and step.unknown:
            self.expected["fenced_workers:unknown"] += len(strangers)
        elif step.kind == "join" and step.worker in strangers:
            self.expected["fenced_workers:unknown"] += 1

    @staticmethod
    def _lost_rightly(step: Step, worker: str, was: Row, cause: str, expired: bool) -> None:
        allowed = {
            "lease_expired": step.kind == "reclaim" and expired,
            "takeover": step.kind == "join" and step.worker == worker and (expired or was.nonce == step.proof),
            "left": step.kind == "leave" and step.worker == worker and was.token == step.token,
        }
        if step.kind == "release":
            allowed[step.cause] = step.worker == worker and was.nonce == step.nonce
        assert allowed.get(cause), f"{worker} {was} was fenced ({cause}) by {step}"

    def _count(self, step: Step, before: Snapshot, after: Snapshot, effective: dict[tuple[str, str], str]) -> None:
        """Totals that follow from what changed."""
        for status in step.statuses if step.kind == "enqueue" else ():
            self.expected[{"ok": "enqueued", "duplicate": "duplicates", "exists": "exists"}[status]] += 1
        current = step.kind == "turn" and before.is_current(step.worker, step.token)
        late = current and step.number <= self.last_turns.get(step.token, 0)
        # While it is frozen, it keeps its settlements.
        if step.kind == "turn" and not late and not (current and _is_frozen(before)):
            unsettled = len(step.verdicts) - len(effective)
            self.expected["stale" if current else "fenced"] += unsettled if current else len(step.verdicts)
        self.expected.update(
            {"retry": "retried"}.get(o, o) for o in effective.values() if o not in {"dead", "handback"}
        )
        for old, _ in self.moved_in_step:
            outcome = effective.get((old.where, old.entry))
            cause = "handback" if outcome else self._cause(old, step, before)
            self.expected[f"reclaimed:{cause}" if cause in WITHOUT_VERDICT else "handed_back"] += 1
        was_dead, is_dead = {e for e, _ in before.dead}, {e for e, _ in after.dead}
        for entry, fields in after.dead:
            if entry not in was_dead:
                self.expected["dead"] += 1
                self.expected[f"dead:{fields['cause']}"] += 1
        if step.kind in {"redrive", "purge"}:
            self.expected["redriven" if step.kind == "redrive" else "purged"] += len(was_dead - is_dead)
        if step.kind == "promote":
            self.expected["promoted"] += len(before.delayed.keys() - after.delayed.keys())
        for s in STREAMS:
            self.expected["started"] += self._newly_pending(s, step, before, after) if step.kind == "turn" else 0
        self._compare_counters(step, after)

    @staticmethod
    def _newly_pending(s: str, step: Step, before: Snapshot, after: Snapshot) -> int:
        return len(after.pending[s].keys() - before.pending[s].keys())

    def _compare_counters(self, step: Step, after: Snapshot) -> None:
        # What a foreign entry counted as when it was moved or buried is not promised, only that it is dead now.
        uncertain = ("reclaimed:", "handed_back") if self.foreign else ()
        for name in self.expected.keys() | after.counters.keys():
            if name not in {"ghosts", "false_reclaims", "dead_dropped"} and not name.startswith(uncertain or "\0"):
                found, wanted = after.counters.get(name, 0), self.expected[name]
                assert found == wanted, f"counter {name} is {found}, the history says {wanted}; {step}"


def _is_frozen(s: Snapshot) -> bool:
    return s.epoch.get("state", "ok") != "ok"

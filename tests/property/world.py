"""Processes, the network and time around one real partition: carries out what a rule wants, and has it judged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Literal

import redis

from property.checker import Judge, Step, Verdict
from property.shape import Sent
from property.snapshot import STREAMS, Raw, Snapshot, raw_client, take
from reclaimd.streams import scripts
from reclaimd.streams.archive_scripts import finish, freeze
from reclaimd.streams.codec import Delivery, Outcome, Settlement, settle
from reclaimd.streams.keys import Partition
from reclaimd.streams.redis_log import connect_sync, send_sync
from support.servers import Server

START = 1_700_000_000_000
LONGEST_LEASE = 3000
LEASES = (900, LONGEST_LEASE)


class Fate(Enum):
    """What the network does to a request. LATE: executed when `World.deliver` says so; its sender gets no answer."""

    ANSWERED = "answered"
    LOST = "lost"
    LATE = "late"
    TWICE = "twice"


@dataclass(eq=False)
class Process:
    """A worker process: what it believes, which may be stale. `verdicts`: settlements not known to have arrived."""

    worker: str
    nonce: str
    term: int
    proof: str = ""
    token: str = ""
    status: str = "joining"
    frozen: bool = False
    renewed_at: int = 0
    audit_due: bool = False
    turns: int = 0
    cloned: bool = False
    running: dict[tuple[int, str], Delivery] = field(default_factory=dict)
    verdicts: list[Settlement] = field(default_factory=list)

    @property
    def awake(self) -> bool:
        return self.status != "ended" and not self.frozen

    @property
    def works(self) -> bool:
        return self.status == "working" and not self.frozen

    def end(self) -> None:
        self.status = "ended"
        self.running.clear()
        self.verdicts.clear()


@dataclass(eq=False)
class Request:
    """A call on its way. `build` makes it at the instant of its execution, as the server's clock does."""

    step: Callable[[int], Step]
    build: Callable[[int], scripts.Call[Any]]
    is_turn: bool = False


class World:
    """`real` never steps; the server's wall clock is `real + offset`."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.partition = Partition("t", "q")
        self.real = 0
        self.offset = START
        self.stepped_at = -LONGEST_LEASE
        self.full = False
        self.broken = False
        self.judge = Judge()
        self.processes: list[Process] = []
        self.held: list[Request] = []
        self.nonces = 0
        self.connect()
        self.raw.execute_command("FLUSHALL")
        self.seen = self.look()

    def connect(self) -> None:
        self.client = connect_sync(self.server.url)
        self.raw = raw_client(self.server.port)

    def close(self) -> None:
        self.client.close()
        self.raw.close()

    @property
    def wall(self) -> int:
        return self.real + self.offset

    def look(self) -> Snapshot:
        return take(self.raw, self.partition.tag)

    def execute(self, request: Request) -> Any:
        """Run it on the server now and let the judge see what it did. None when a full server refused it."""
        step = request.step(self.wall)
        step.full = self.full
        reply: Any = None
        try:
            reply = send_sync(self.client, request.build(self.wall))
        except redis.ResponseError as error:
            # Redis 6.2 wraps it in an error of the script.
            step.refused = isinstance(error, redis.OutOfMemoryError) or "OOM" in str(error)
            step.forbidden = str(error).startswith("RECLAIMD_STATE")
            if not step.refused and not step.forbidden:
                raise
        _note_reply(step, reply)
        before, self.seen = self.seen, self.look()
        self.broken = True
        self.judge.judge(step, before, self.seen)
        self.broken = False
        return reply

    def send(self, request: Request, fate: Fate) -> Any:
        """The reply that the sender gets to see; None when it gets none."""
        if fate is Fate.LATE:
            self.held.append(request)
            return None
        if fate is Fate.TWICE and request.is_turn:
            reply = self.execute(request)
            self.execute(request)
            return reply
        if fate is Fate.TWICE:
            self.execute(request)
        reply = self.execute(request)
        return None if fate is Fate.LOST else reply

    def deliver(self, request: Request) -> None:
        """A held request arrives."""
        self.held.remove(request)
        self.execute(request)

    def pass_time(self, ms: int) -> None:
        """Real time passes; a process that could not renew for two thirds of its lease kills itself."""
        self.real += ms
        for p in self.processes:
            self.mind_lease(p)

    def mind_lease(self, p: Process) -> None:
        """It kills itself when two thirds of its lease have passed."""
        if p.works and 3 * (self.real - p.renewed_at) >= 2 * p.term:
            p.end()

    def step_clock(self, ms: int) -> None:
        """The server's clock steps; one step forward within a lease is what the protocol bears."""
        if ms > 0:
            if self.real - self.stepped_at < LONGEST_LEASE:
                return
            self.stepped_at = self.real
        self.offset += ms

    def enqueue(self, tasks: Sequence[scripts.NewTask], fate: Fate) -> None:
        def step(now: int) -> Step:
            sent = [
                Sent(t.task_id, t.lane, t.max_deliveries, t.unique, now + t.delay_ms if t.delay_ms else 0)
                for t in tasks
            ]
            return Step("enqueue", now, tasks=sent)

        build = lambda now: scripts.enqueue(self.partition, tasks, epoch_id="e", now=now)  # noqa: E731
        self.send(Request(step, build), fate)

    def spawn(self, worker: str, term: int, proof: str) -> Process:
        self.nonces += 1
        p = Process(worker, f"{self.nonces:016x}", term, proof)
        self.processes.append(p)
        return p

    def clone(self, p: Process) -> None:
        """A copy of a running process, as from a snapshot of its machine; nobody can tell the two apart."""
        p.cloned = True
        twin = replace(p, running=dict(p.running), verdicts=list(p.verdicts))
        self.processes.append(twin)

    def join(self, p: Process, limit: int, fate: Fate) -> None:
        who = scripts.Identity(p.worker, p.nonce, p.term, "{}", p.proof)
        sent_at = self.real

        def step(now: int) -> Step:
            return Step("join", now, p.worker, nonce=p.nonce, proof=p.proof)

        build = lambda now: scripts.join(self.partition, who, epoch_id="e", limit=limit, now=now)  # noqa: E731
        reply = self.send(Request(step, build), fate)
        if reply is not None and reply.status == "ok":
            p.status, p.token, p.renewed_at = "working", reply.token, sent_at
        elif reply is not None and reply.status == "fenced":
            p.end()

    def turn(self, p: Process, want: int, outcomes: Sequence[Outcome | None], audit: bool, fate: Fate) -> None:
        """Verdicts for the first of what runs, by `outcomes` (None: keep running), then as many as `want`."""
        for place, outcome in zip(list(p.running), outcomes, strict=False):
            if outcome is not None:
                p.verdicts.append(settle(p.running.pop(place), outcome, delay_ms=500, cause="test"))
        running = list(p.running) if audit or p.audit_due else None
        suspect_ok = all(stream != 1 for stream, _ in p.running)
        p.turns += 1
        ask = scripts.Turn(want, suspect_ok, tuple(p.verdicts), running, p.turns)
        audited = None if running is None else [(STREAMS[stream - 1], entry) for stream, entry in running]
        verdicts = [Verdict(STREAMS[v.stream - 1], v.entry_id, v.outcome, v.task_id) for v in ask.settlements]
        token = p.token

        def step(now: int) -> Step:
            return Step("turn", now, p.worker, token, verdicts=verdicts, audited=audited, number=ask.number or 0)

        build = lambda now: scripts.turn(self.partition, p.worker, token, ask, now=now)  # noqa: E731
        sent_at = self.real
        reply = self.send(Request(step, build, is_turn=True), fate)
        if reply is None:
            p.audit_due = True
        elif reply.status == "ok":
            p.renewed_at, p.audit_due = sent_at, False
            p.verdicts.clear()
            for place in reply.lost:
                p.running.pop(place, None)
            p.running.update({(d.stream, d.entry_id): d for d in reply.deliveries})
        elif reply.status != "state":
            p.end()
        self.check_owners()

    def beat(self, p: Process, fate: Fate) -> None:
        sent_at, token = self.real, p.token
        build = lambda now: scripts.beat(self.partition, p.worker, token, now=now)  # noqa: E731
        reply = self.send(Request(lambda now: Step("beat", now, p.worker, token), build), fate)
        if reply is True:
            p.renewed_at = sent_at
        elif reply is False:
            p.end()

    def leave(self, p: Process, limit: int, fate: Fate) -> None:
        """Its handlers have ended before it says that it leaves."""
        p.status, token = "leaving", p.token
        p.running.clear()
        p.verdicts.clear()
        build = lambda now: scripts.leave(self.partition, p.worker, token, limit=limit, now=now)  # noqa: E731
        reply = self.send(Request(lambda now: Step("leave", now, p.worker, token), build), fate)
        if reply is not None and reply.status != "more":
            p.end()

    def release(self, p: Process, asked: bool, limit: int, fate: Fate) -> None:
        """`asked`: it died because it was told to stop."""

        def step(now: int) -> Step:
            return Step("release", now, p.worker, nonce=p.nonce, cause="left" if asked else "released")

        def build(now: int) -> scripts.Call[Any]:
            return scripts.release(self.partition, p.worker, p.nonce, asked=asked, limit=limit, now=now)

        self.send(Request(step, build), fate)

    def reclaim(self, limit: int, unknown: bool, fate: Fate) -> Any:
        build = lambda now: scripts.reclaim(self.partition, limit=limit, unknown=unknown, now=now)  # noqa: E731
        return self.send(Request(lambda now: Step("reclaim", now, unknown=unknown), build), fate)

    def promote(self, limit: int, fate: Fate) -> None:
        build = lambda now: scripts.promote(self.partition, limit=limit, now=now)  # noqa: E731
        self.send(Request(lambda now: Step("promote", now), build), fate)

    def dead(self, kind: str, entries: Sequence[str], fate: Fate) -> None:
        """kind: redrive or purge."""
        script: Callable[..., scripts.Call[Any]] = scripts.redrive if kind == "redrive" else scripts.purge
        build = lambda now: script(self.partition, entries, now=now)  # noqa: E731
        self.send(Request(lambda now: Step(kind, now, entries=entries), build), fate)

    @property
    def frozen(self) -> bool:
        """Data were lost, and are not mended."""
        return self.seen.epoch.get("state", "ok") != "ok"

    def lose(self, state: Literal["lost", "rebuilding"], fate: Fate) -> None:
        """An archive finds that data were lost; or goes on with what it has found."""
        self.nonces += not self.frozen
        number, epoch, mark = self.nonces, self.seen.epoch.get("id", ""), self.seen.epoch.get("mark", "")
        rebuild, heir = (self.seen.epoch["rebuild"], epoch) if self.frozen else (f"r{number}", f"e{number}")

        def build(now: int) -> scripts.Call[Any]:
            ids: dict[str, Any] = {"archive_id": "a", "seen_epoch_id": epoch, "seen_mark": mark, "new_epoch_id": heir}
            return freeze(self.partition, **ids, rebuild_id=rebuild, state=state, now=now)

        self.send(Request(lambda now: Step("freeze", now), build), fate)

    def mend(self, fate: Fate) -> None:
        """Nothing was lost after all."""
        rebuild, mark = self.seen.epoch.get("rebuild", "r"), f"{self.nonces}:m"
        how: dict[str, Any] = {"cursor": "", "mark": mark, "events_cap": 10**6}
        build = lambda now: finish(self.partition, rebuild, **how, now=now)  # noqa: E731
        self.send(Request(lambda now: Step("finish", now), build), fate)

    def simple(self, kind: str, fate: Fate) -> None:
        """A script that changes nothing about tasks."""
        calls: dict[str, Callable[[int], scripts.Call[Any]]] = {
            "view": lambda now: scripts.view(self.partition, now=now),
            "ring": lambda now: scripts.ring(self.partition, now=now),
            "pause": lambda now: scripts.pause(self.partition, True, now=now),
            "resume": lambda now: scripts.pause(self.partition, False, now=now),
            "cleanup": lambda now: scripts.cleanup(self.partition, older_than_ms=5000, now=now),
            "retain": lambda now: scripts.retain(self.partition, KEEP_ALL, now=now),
        }
        self.send(Request(lambda now: Step(kind, now), calls[kind]), fate)

    def change(self, action: Callable[[Raw], object]) -> None:
        """Something outside the protocol happens; the next step is judged from what it left."""
        action(self.raw)
        self.seen = self.look()

    def set_full(self, full: bool) -> None:
        self.full = full
        self.raw.execute_command("CONFIG", "SET", "maxmemory", "1" if full else "0")

    def restart_server(self) -> None:
        """kill -9 and a new start from the append-only file: everything acknowledged is there."""
        self.close()
        self.server.kill9()
        self.server.start()
        self.connect()
        self.full = False
        before, self.seen = self.seen, self.look()
        assert self.seen.without_consumers() == before.without_consumers(), "the restart changed the partition"

    def check_owners(self) -> None:
        """Promise 2: no task runs in two processes; a frozen one runs nothing."""
        runs: dict[str, Process] = {}
        for p in self.processes:
            for d in p.running.values() if p.works else ():
                other = runs.setdefault(d.task_id, p)
                assert other is p or other.cloned or p.cloned, f"{d.task_id} runs in two processes: {other} {p}"


KEEP_ALL = scripts.Limits(10**12, 10**6, 10**12, 10**6)


def _note_reply(step: Step, reply: Any) -> None:
    if step.kind == "enqueue" and reply is not None:
        step.statuses = [r.status for r in reply]

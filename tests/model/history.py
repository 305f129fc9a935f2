"""Histories of one partition, drawn as numbers: what its clients do, with honest, late and repeated requests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from model import mending, requests
from model import protocol as proto
from model.lockstep import Lockstep, Request
from model.partition import Ref, Settlement
from model.requests import Ask, Incarnation
from reclaimd.streams.scripts import NewTask
from support.servers import Server

T = TypeVar("T")

WORKERS = ("w0", "w1", "w2")
TERMS = (3000, 3000, 3000, 900, 900_000)
LIMITS = (1000, 1, 2, 12)
VERDICTS = ("", "succeeded", "retry", "handback", "parked", "failed", "dead", "", "", "")
UNIQUE = ("", "", "", "u1", "u2")


class Pick:
    """Choices out of one number; 0 is the first of every list, so smaller numbers make plainer steps."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, options: Sequence[T]) -> T:
        self.number, chosen = divmod(self.number, len(options))
        return options[chosen]

    def once_in(self, n: int) -> bool:
        """True for one of `n` numbers."""
        return self(range(n)) == n - 1


@dataclass(eq=False)
class Life:
    """A worker process as it sees itself. `unconfirmed`: verdicts whose turn was not answered."""

    who: Incarnation
    proof: tuple[int, ...]
    over: bool = False
    number: int = 0
    running: list[tuple[Ref, str]] = field(default_factory=list)
    unconfirmed: list[Settlement] = field(default_factory=list)


class History:
    """Carries out one history on a server and the model."""

    def __init__(self, server: Server) -> None:
        self.both = Lockstep(server)
        self.tasks: list[NewTask] = []
        self.sent: list[Request] = []
        self.lives: list[Life] = []
        self.joining: list[Life] = []
        self.nonces = 0
        self.ids = 0

    def new_id(self, prefix: str) -> str:
        """For epochs, rebuilds, cursors, marks and what is restored."""
        self.ids += 1
        return f"{prefix}{self.ids}"

    def run(self, steps: Sequence[tuple[str, int]]) -> None:
        """Raises ConformanceError at the first difference."""
        try:
            self.begin()
            for move, number in steps:
                pick = Pick(number)
                self.both.now += pick((0, 0, 0, 10, 300, 1000))
                MOVES[move](self, pick)
        finally:
            self.both.close()

    def begin(self) -> None:
        """Three workers that share eight tasks."""
        self.send(requests.enqueue([NewTask(f"t{i}", "normal", 5, b"{}") for i in range(8)]))
        self.tasks += [NewTask(f"t{i}", "normal", 5, b"{}") for i in range(8)]
        for worker in WORKERS:
            self.enter(self.newcomer(worker, (), 3000), 1000, after_fence=False)

    def send(self, request: Request) -> proto.Step:
        """To both; it may be repeated or come late by `again`."""
        self.sent.append(request)
        return self.both.send(request)

    def nothing(self, pick: Pick) -> None:
        """Time passes."""

    def time(self, pick: Pick) -> None:
        """The server's clock steps."""
        self.both.now += pick((100, 400, 1100, 3500, 400_000, -50, -5000, -3_600_000))

    def again(self, pick: Pick) -> None:
        """A request arrives a second time, or late: nobody reads the reply."""
        self.both.send(pick(self.sent[-16:]))

    def enqueue(self, pick: Pick) -> None:
        batch: list[NewTask] = []
        for _ in range(pick((1, 2, 4, 16))):
            if self.tasks and pick.once_in(8):
                batch.append(pick(self.tasks[-12:]))
                continue
            name = f"t{len(self.tasks)}"
            lane, most = pick(("normal", "high", "low")), pick((5, 2, 3, 1))
            task = NewTask(name, lane, most, b"{}", pick(UNIQUE), "", pick((0, 0, 0, 1, 700, 5000)))
            self.tasks.append(task)
            batch.append(task)
        self.send(requests.enqueue(batch))

    def join(self, pick: Pick) -> None:
        worker = pick(WORKERS)
        life = pick([None, *self.joining[-2:]])
        if life is None:
            row = dict(self.both.state.workers).get(worker)
            held, older = row.nonce if row else 0, max(self.nonces - 1, 0)
            life = self.newcomer(worker, pick(((), (held,), (older,), (older, held))), pick(TERMS))
        else:
            self.joining.remove(life)
        self.enter(life, pick(LIMITS), after_fence=pick.once_in(4))

    def newcomer(self, worker: str, proof: tuple[int, ...], term: int) -> Life:
        """A process with a nonce of its own, not yet joined."""
        self.nonces += 1
        return Life(Incarnation(worker, self.nonces, term), tuple(nonce for nonce in proof if nonce))

    def enter(self, life: Life, limit: int, *, after_fence: bool) -> bool:
        """One try to join."""
        step = self.send(requests.join(life.who, life.proof, limit, after_fence=after_fence))
        row = dict(self.both.state.workers).get(life.who.worker)
        joined = step.reply[0] == "ok" and row is not None
        if row is not None and joined:
            life.who = life.who._replace(token=row.token)
            self.lives.append(life)
        elif step.reply[0] in ("more", "state"):
            self.joining.append(life)
        return joined

    def crash_loop(self, pick: Pick) -> None:
        """A worker dies of what it takes, again and again: that becomes suspect."""
        worker, want = pick(WORKERS), pick((3, 20))
        for _ in range(pick((2, 1, 3))):
            row = dict(self.both.state.workers).get(worker)
            life = self.newcomer(worker, (row.nonce,) if row else (), 3000)
            if not self.enter(life, 1000, after_fence=False):
                return
            life.over, life.number = True, 1
            self.send(requests.turn(life.who, Ask(1, want), self.both.names))
            self.send(requests.release(life.who, 1000, asked=False))
        life = self.newcomer(worker, (), 3000)
        if pick((True, False)) and self.enter(life, 1000, after_fence=False):
            self.fail_first(life)

    def fail_first(self, life: Life) -> None:
        """What comes first, a suspect perhaps, fails and is tried again."""
        known: Any = self.send(requests.turn(life.who, Ask(1, 1), self.both.names)).reply
        failed = tuple((row[0], row[1], "retry", row[2], 0) for row in (known[1] if known[0] == "ok" else ()))
        life.number = 2
        self.send(requests.turn(life.who, Ask(2, 0, settlements=failed), self.both.names))
        self.send(requests.promote(1000))

    def blackout(self, pick: Pick) -> None:
        """All take much, by turns; then nobody renews for a while, and the daemon begins to clear up."""
        backlog = [NewTask(f"t{len(self.tasks) + i}", "normal", 3, b"{}") for i in range(pick((16, 4)))]
        self.tasks += backlog
        self.send(requests.enqueue(backlog))
        for life in [life for life in self.lives if not life.over][:: pick((-1, 1))] * 2:
            life.number += 1
            self.send(requests.turn(life.who, Ask(life.number, pick((2, 1, 12))), self.both.names))
        for _ in range(4):
            self.both.now += 1100
            self.view(pick)
        self.send(requests.reclaim(pick((12, 5, 2, 1000)), unknown=False))
        pick((self.release, self.leave, self.join))(pick)
        self.send(requests.reclaim(pick((12, 5, 2, 1000)), unknown=False))

    def long_leases(self, pick: Pick) -> None:
        """Only long leases are left, so that lease time takes great strides: task IDs seen once are forgotten."""
        for worker, row in self.both.state.workers:
            if row.state == "live":
                gone = Incarnation(worker, row.nonce, row.term)
                self.send(requests.release(gone, 1000, asked=True))
        self.enter(self.newcomer(pick(WORKERS), (), 900_000), 1000, after_fence=False)
        for _ in range(pick((2, 3, 4))):
            self.both.now += 290_000
            self.send(requests.enqueue([pick(self.tasks[-12:]), pick(self.tasks[-12:])]))

    def somebody(self, pick: Pick) -> Life:
        """Mostly one that has not been told that it is over."""
        alive = [life for life in self.lives if not life.over]
        return pick(self.lives[-4:]) if pick.once_in(8) or not alive else pick(alive)

    def turn(self, pick: Pick) -> None:
        if all(life.over for life in self.lives) and not pick.once_in(4):
            self.join(pick)
            return
        life = self.somebody(pick)
        busy, lost, audited = pick((False, True)), pick.once_in(5), pick.once_in(3)
        settlements, kept = list(life.unconfirmed), []
        for ref, task in life.running:
            verdict = "" if busy else pick(VERDICTS)
            if verdict:
                settlements.append((*ref, verdict, task, pick((1000, 0, 50)) if verdict in ("retry", "parked") else 0))
            else:
                kept.append((ref, task))
        if settlements and pick.once_in(4):
            index, entry, _, task, delay = settlements[-1]
            settlements.append((index, entry, pick(VERDICTS[1:7]), task, delay))
        life.number += 1
        ask = Ask(
            life.number - pick.once_in(12),
            pick((2, 3, 20, 1, 0)),
            not pick.once_in(5),
            tuple(settlements),
            tuple(ref for ref, _ in kept) if audited else None,
            {t.task_id: t.unique for t in self.tasks if t.unique},
        )
        step = self.send(requests.turn(life.who, ask, self.both.names))
        life.running, life.unconfirmed = kept, []
        known: Any = step.reply
        if lost or known[0] == "state":
            life.unconfirmed = settlements
            return
        if known[0] == "ok":
            life.running = [row for row in kept if row[0] not in known[4]]
            life.running += [((row[0], row[1]), row[2]) for row in known[1]]
        else:
            life.over = True

    def beat(self, pick: Pick) -> None:
        self.send(requests.beat(self.somebody(pick).who))

    def leave(self, pick: Pick) -> None:
        life = self.somebody(pick)
        life.over = True
        self.send(requests.leave(life.who, pick(LIMITS)))

    def release(self, pick: Pick) -> None:
        life = self.somebody(pick)
        life.over = True
        self.send(requests.release(life.who, pick(LIMITS), asked=pick((False, True))))

    def reclaim(self, pick: Pick) -> None:
        self.send(requests.reclaim(pick((1000, 1, 2, 5, 12)), unknown=pick((False, True))))

    def promote(self, pick: Pick) -> None:
        self.send(requests.promote(pick((1000, 1, 2))))

    def letters(self, pick: Pick) -> list[int]:
        """Up to three dead letters, perhaps one that is not there, or one twice."""
        there = [row[0] for row in self.both.state.dead][-6:]
        return [pick([*there, 0]) for _ in range(pick((1, 2, 3)))]

    def redrive(self, pick: Pick) -> None:
        if not self.both.state.dead:
            self.crash_loop(pick)
        self.send(requests.redrive(self.letters(pick), self.both.names))

    def purge(self, pick: Pick) -> None:
        self.send(requests.purge(self.letters(pick), self.both.names))

    def pause(self, pick: Pick) -> None:
        self.send(requests.pause(pick((False, False, True))))

    def view(self, pick: Pick) -> None:
        self.send(requests.view())

    def cleanup(self, pick: Pick) -> None:
        self.send(requests.cleanup(pick((0, 1000, 3_600_000))))

    def stray(self, pick: Pick) -> None:
        """Somebody reads without the scripts, under a name of its own or under a worker's."""
        gone = [worker for worker, row in self.both.state.workers if row.state == "gone"]
        name, index, n = pick((*gone, "x", "y", *WORKERS)), pick((4, 3, 0, 1, 2, 5, 6)), pick((1, 2, 3))
        step = proto.stray_read(self.both.state, self.both.now, name, index, n)
        self.both.stray_read(name, index, n, step)
        if pick((True, False)):
            self.send(requests.reclaim(pick(LIMITS), unknown=True))


MOVES: dict[str, Callable[[History, Pick], None]] = {
    "nothing": History.nothing,
    "turn": History.turn,
    "enqueue": History.enqueue,
    "time": History.time,
    "reclaim": History.reclaim,
    "join": History.join,
    "again": History.again,
    "release": History.release,
    "leave": History.leave,
    "promote": History.promote,
    "beat": History.beat,
    "redrive": History.redrive,
    "stray": History.stray,
    "crash_loop": History.crash_loop,
    "blackout": History.blackout,
    "long_leases": History.long_leases,
    "view": History.view,
    "pause": History.pause,
    "purge": History.purge,
    "cleanup": History.cleanup,
    "adopt": mending.adopt,
    "freeze": mending.freeze,
    "restore": mending.restore,
    "drop": mending.drop,
    "finish": mending.finish,
    "mend": mending.mend,
    "refused": mending.refused,
    "facts": mending.facts,
    "disown": mending.disown,
}

_WEIGHTS = {
    "turn": 14,
    "enqueue": 5,
    "time": 6,
    "reclaim": 6,
    "join": 4,
    "again": 4,
    "release": 3,
    "leave": 2,
    "promote": 3,
    "crash_loop": 2,
    "redrive": 2,
    "stray": 2,
    "finish": 2,
    "mend": 2,
}

DRAWN = [move for move in MOVES for _ in range(_WEIGHTS.get(move, 1))]
"""The moves by weight, the plainest first."""

"""Histories of one partition, drawn as numbers: what its clients do, with honest, late and repeated requests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from model import protocol as proto
from model import requests
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
    proof: int
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
        """Two workers and four tasks."""
        for _ in range(4):
            self.enqueue(Pick(0))
        self.join(Pick(0))
        self.join(Pick(1))

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
            lane, most = pick(("normal", "high", "low")), pick((5, 3, 1, 2))
            task = NewTask(name, lane, most, b"{}", pick(UNIQUE), "", pick((0, 0, 0, 1, 700, 5000)))
            self.tasks.append(task)
            batch.append(task)
        self.send(requests.enqueue(batch))

    def join(self, pick: Pick) -> None:
        worker = pick(WORKERS)
        life = pick([None, *self.joining[-2:]])
        if life is None:
            self.nonces += 1
            row = dict(self.both.state.workers).get(worker)
            proof = pick((0, row.nonce if row else 0, max(self.nonces - 2, 0)))
            life = Life(Incarnation(worker, self.nonces, pick(TERMS)), proof)
        else:
            self.joining.remove(life)
        step = self.send(requests.join(life.who, life.proof, pick(LIMITS), after_fence=pick.once_in(4)))
        row = dict(self.both.state.workers).get(life.who.worker)
        if step.reply[0] == "ok" and row is not None:
            life.who = life.who._replace(token=row.token)
            self.lives.append(life)
        elif step.reply[0] == "more":
            self.joining.append(life)

    def somebody(self, pick: Pick) -> Life:
        """Mostly one that has not been told that it is over."""
        alive = [life for life in self.lives if not life.over]
        return pick(self.lives[-4:]) if pick.once_in(8) or not alive else pick(alive)

    def turn(self, pick: Pick) -> None:
        if all(life.over for life in self.lives) and not pick.once_in(4):
            self.join(pick)
            return
        life = self.somebody(pick)
        settlements, kept = list(life.unconfirmed), []
        busy = pick((False, True))
        for ref, task in life.running:
            verdict = "" if busy else pick(VERDICTS)
            if verdict:
                settlements.append((*ref, verdict, task, pick((1000, 0, 50)) if verdict in ("retry", "parked") else 0))
            else:
                kept.append((ref, task))
        if settlements and pick.once_in(6):
            index, entry, _, task, delay = settlements[0]
            settlements.append((index, entry, pick(VERDICTS[1:7]), task, delay))
        life.number += 1
        audit = tuple(ref for ref, _ in kept) if pick.once_in(3) else None
        ask = Ask(
            life.number - pick.once_in(12),
            pick((2, 3, 20, 1, 0)),
            not pick.once_in(5),
            tuple(settlements),
            audit,
            {t.task_id: t.unique for t in self.tasks if t.unique},
        )
        step = self.send(requests.turn(life.who, ask, self.both.names))
        life.running, life.unconfirmed = kept, []
        if pick.once_in(5):
            life.unconfirmed = settlements
            return
        known: Any = step.reply
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
        name, index, n = pick(("x", "y", *WORKERS)), pick((4, 3, 0, 1, 2, 5, 6)), pick((1, 2, 3))
        step = proto.stray_read(self.both.state, self.both.now, name, index, n)
        self.both.stray_read(name, index, n, step)


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
    "view": History.view,
    "pause": History.pause,
    "purge": History.purge,
    "cleanup": History.cleanup,
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
}

DRAWN = [move for move in MOVES for _ in range(_WEIGHTS.get(move, 1))]
"""The moves by weight, the plainest first."""

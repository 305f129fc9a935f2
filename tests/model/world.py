"""The world around one partition: processes, their faults, commands in flight, clocks. `moves.py` has what can happen
in it, `explore.py` the search.

In scope: worker `w0` with a twin (two process slots that share the ID, on two hosts, each restarted at will with a
new nonce and the proof that its own host's last process is dead), worker `w1` under a parent that may `release` it,
daemons, a client that enqueues the last task; poison tasks, which kill the process that runs them at any instant;
flaky tasks, whose first attempt may fail. Free of charge are restarts, poison, time, daemons, thawing and healing.
Everything else is a *fault*, and all interleavings with at most `Scope.faults` of them are explored:

    crash · freeze · freeze with a turn's reply unread · a turn's reply lost · a turn, join or enqueue that arrives late
    (any time after its connection was closed) or not at all · an enqueue's reply lost · cut off from Redis · cut off
    with the reply to a beat still on its way · leave · the server's wall clock steps forward or backward

Abstractions, each of which only merges states or makes a step coarser:

- A lease is 3 ticks, so one clamped step is 1 and a client fences itself at 2 (cancelling at 1.5 and killing at 2
  are one).
- A healthy process renews at every tick; so leases decay only for those that are cut off, frozen or dead.
- A command without a fault is sent, executed and answered at once. A daemon keeps nothing between calls and its
  scripts take no argument from its view, hence two daemons, a delayed one and one that runs at any instant are the
  same.
- The lease of a process that is dead counts as over at once: until somebody acts on it, that is the same as
  waiting. The twin starts only while the older process exists, which is then frozen or cut off: else it is a
  restart. A parent releases before it restarts.
- A late command that can have no effect any more (its token, turn number or task ID is used up) is forgotten.
- Some daemon looks at the clock at every tick, as it must (when none does, leases end later, never earlier).
- Recovery moves one entry a call, so that every script may come between any two moves.
- Entry IDs, nonces and turn numbers are renumbered by rank, lease and wall time are kept relative, fencing tokens
  and handbacks are reset: their growth by one is checked at each step instead.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from model import protocol as proto
from model.protocol import Event, Settlement, State, Step
from model.rules import SOUND, Rules

LEASE = 3
FENCE_AT = 2
OVERDUE = LEASE + 1
FAR = 500
ALL_FAULTS = frozenset(
    [
        "crash",
        "freeze",
        "deaf",
        "lost",
        "late",
        "late-join",
        "late-enqueue",
        "cut",
        "slow-beat",
        "leave",
        "forward",
        "backward",
    ]
)
Run: TypeAlias = tuple[int, int, str, bool]
Item: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """What is explored. Tasks are enqueued in this order, the last one by a client while the others run."""

    faults: int = 2
    kinds: frozenset[str] = ALL_FAULTS
    tasks: tuple[str, ...] = ("p", "a", "b")
    poison: frozenset[str] = frozenset({"p"})
    flaky: frozenset[str] = frozenset({"a"})
    client: bool = True
    twin: bool = True
    max_deliveries: int = 3
    concurrency: int = 2
    rules: Rules = SOUND


class Proc(NamedTuple):
    """A process slot. `status` is off, join (has not got the ID yet), live or leaving.

    `since`: ticks since its last renewal that succeeded was sent, OVERDUE once it wakes from a freeze too late. `done`:
    verdicts that no reply has confirmed yet. `inbox`: a turn's reply that it froze before reading. `was_fenced` is the
    checker's. `releasable`: the nonce that its parent saw die.
    """

    worker: str
    slot: int
    status: str = "off"
    token: tuple[int, int] = (0, 0)
    frozen: bool = False
    cut: bool = False
    since: int = 0
    number: int = 0
    audit: bool = False
    running: tuple[Run, ...] = ()
    done: tuple[Settlement, ...] = ()
    inbox: tuple[Run, ...] | None = None
    was_fenced: bool = False
    releasable: int = 0


class World(NamedTuple):
    """Everything: the partition, the processes, what is in flight, and the checker's memory (the last four)."""

    p: State
    procs: tuple[Proc, ...]
    wall: int
    faults: int
    net: tuple[Item, ...] = ()
    client: str = "idle"
    ended: tuple[tuple[str, str], ...] = ()
    poisonings: int = 0
    queue: tuple[tuple[int, int, str], ...] = ()
    broken: tuple[str, ...] = ()


class Move(NamedTuple):
    """One transition. `fair`: the rank by which a world without further faults chooses; None: never."""

    label: str
    fair: int | None
    world: World
    events: tuple[Event, ...]


def token_of(step: Step) -> tuple[int, int]:
    """The token that a join answered."""
    token: Any = step.reply[1]
    return token[0], token[1]


def start(scope: Scope) -> World:
    """Both workers live, all tasks but the client's are waiting."""
    step = Step(State(), (), ())
    initial = scope.tasks[:-1] if scope.client else scope.tasks
    for task in initial:
        step = proto.enqueue(step.state, 1000, task, max_deliveries=scope.max_deliveries, unique="u" + task)
    procs = [Proc("w0", 0), Proc("w0", 1), Proc("w1", 2)] if scope.twin else [Proc("w0", 0), Proc("w1", 1)]
    for slot in (0, len(procs) - 1):
        proc = procs[slot]
        step = proto.join(step.state, 1000, proc.worker, slot + 1, LEASE, str(slot), rules=scope.rules)
        procs[slot] = proc._replace(status="live", token=(token_of(step)[0], slot + 1))
    return World(step.state, tuple(procs), 1000, 0, client="idle" if scope.client else "sure")

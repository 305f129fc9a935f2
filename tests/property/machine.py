"""The moves that hypothesis draws from: everything that can happen to a partition, in any order.

One rule draws a move by weight and its arguments. Rules of their own would be switched off at random in each history,
and what breaks promises takes five or six different ones.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from property.events import check_events
from property.world import LEASES, Fate, Process, World
from reclaimd.streams.codec import Outcome
from reclaimd.streams.scripts import NewTask
from support.servers import Server

FATES = st.sampled_from([Fate.ANSWERED] * 6 + [Fate.LOST, Fate.LATE, Fate.TWICE])
PICK = st.integers(0, 7)
LIMITS = st.sampled_from([1, 2, 3, 100])
OUTCOMES: st.SearchStrategy[Outcome | None] = st.sampled_from(
    [None, None, "succeeded", "retry", "parked", "failed", "dead", "handback"]
)
NEW_TASKS = st.builds(
    lambda number, lane, most, unique, delay: NewTask(
        f"t{number}", lane, most, b'{"v":1,"name":"t%d"}' % number, unique, "", delay
    ),
    st.integers(0, 60),
    st.sampled_from(["high", "normal", "low"]),
    st.sampled_from([1, 2, 3, 5]),
    st.sampled_from(["", "", "", "u1", "u2"]),
    st.sampled_from([0, 0, 0, 500, 4000]),
)
WORKERS = st.sampled_from(["a", "b", "c"])
STREAMS = st.sampled_from(["suspect", "lane:high", "lane:normal", "recovered:normal", "recovered:high"])

IS: dict[str, Callable[[Process], bool]] = {
    "working": lambda p: p.works,
    "joining": lambda p: p.status == "joining" and not p.frozen,
    "going": lambda p: p.works or (p.status == "leaving" and not p.frozen),
    "awake": lambda p: p.awake,
    "frozen": lambda p: p.frozen,
    "ended": lambda p: p.status == "ended",
}


class Move(NamedTuple):
    """How often a method of the machine is drawn, of which process it needs one, and its arguments."""

    weight: int
    needs: str
    arguments: dict[str, st.SearchStrategy[Any]]


OUTCOME_LISTS = st.lists(OUTCOMES, min_size=1, max_size=5)
TASK_LISTS = st.lists(NEW_TASKS, min_size=2, max_size=6)
MS = st.sampled_from([1, 50, 300, 300, 600, 2000, 10000])
STEPS = st.sampled_from([-3_600_000, -1000, -1, 1, 700, 10_000, 3_600_000])
SIMPLE = st.sampled_from(["view", "ring", "pause", "resume", "resume", "cleanup", "retain"])
MOVES: dict[str, Move] = {
    "enqueue": Move(4, "", {"tasks": TASK_LISTS, "fate": FATES}),
    "start": Move(
        5,
        "",
        {"worker": WORKERS, "term": st.sampled_from(LEASES), "number": PICK, "proven": st.booleans()}
        | {"limit": LIMITS, "fate": FATES},
    ),
    "join_again": Move(4, "joining", {"number": PICK, "limit": LIMITS, "fate": FATES}),
    "turn": Move(
        7,
        "working",
        {"number": PICK, "want": st.integers(0, 4), "outcomes": OUTCOME_LISTS, "audit": st.booleans(), "fate": FATES},
    ),
    "plain_turn": Move(8, "working", {"number": PICK, "want": st.integers(1, 4), "outcomes": OUTCOME_LISTS}),
    "beat": Move(2, "working", {"number": PICK, "fate": FATES}),
    "leave": Move(2, "going", {"number": PICK, "limit": LIMITS, "fate": FATES}),
    "crash": Move(2, "awake", {"number": PICK}),
    "outlive": Move(
        5, "working", {"number": PICK, "freezes": st.booleans(), "reclaims": st.booleans(), "limit": LIMITS}
    ),
    "all_die": Move(3, "working", {"limit": LIMITS}),
    "freeze": Move(1, "awake", {"number": PICK}),
    "thaw": Move(4, "frozen", {"number": PICK, "want": st.integers(0, 3), "outcomes": OUTCOME_LISTS, "fate": FATES}),
    "clone": Move(1, "working", {"number": PICK}),
    "release": Move(3, "ended", {"number": PICK, "asked": st.booleans(), "limit": LIMITS, "fate": FATES}),
    "reclaim": Move(5, "", {"limit": LIMITS, "unknown": st.booleans(), "fate": FATES}),
    "promote": Move(3, "", {"limit": LIMITS, "fate": FATES}),
    "dead": Move(
        2,
        "",
        {
            "kind": st.sampled_from(["redrive", "redrive", "purge"]),
            "numbers": st.lists(PICK, min_size=1, max_size=3),
            "fate": FATES,
        },
    ),
    "simple": Move(2, "", {"kind": SIMPLE, "fate": FATES}),
    "arrive": Move(3, "", {"number": PICK}),
    "pass_time": Move(2, "", {"ms": MS}),
    "pass_time_alive": Move(2, "", {"ms": st.sampled_from([300, 900, 3000])}),
    "step_clock": Move(2, "", {"ms": STEPS}),
    "set_full": Move(2, "", {"full": st.booleans()}),
    "lose": Move(2, "", {"state": st.sampled_from(["rebuilding", "rebuilding", "lost"]), "fate": FATES}),
    "mend": Move(4, "", {"fate": FATES}),
    "stranger_reads": Move(1, "", {"stream": STREAMS, "n": st.integers(1, 2)}),
    "foreign_entry": Move(1, "", {"stream": STREAMS}),
}


class Partition(RuleBasedStateMachine):
    """One partition, three worker IDs, any number of processes, two daemons (the judge cannot tell them apart)."""

    server: ClassVar[Server]
    moves: ClassVar[dict[str, Move]] = MOVES

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.server)

    @initialize(tasks=st.lists(NEW_TASKS, min_size=4, max_size=8))
    def begin(self, tasks: list[NewTask]) -> None:
        """Two workers that took tasks by turns, so that short histories are about something."""
        self.enqueue(tasks, Fate.ANSWERED)
        for worker in ("a", "b"):
            self.start(worker, 900, 0, False, 100, Fate.ANSWERED)
        for number in (0, 1, 1, 0):
            self.plain_turn(number, 1, [])

    @rule(data=st.data())
    def move(self, data: st.DataObject) -> None:
        """One move that is possible now. What it notes can be pasted into a regression test."""
        possible = [
            name
            for name, move in self.moves.items()
            for _ in range(move.weight)
            if not move.needs or any(IS[move.needs](p) for p in self.world.processes)
        ]
        name = data.draw(st.sampled_from(possible))
        arguments = data.draw(st.fixed_dictionaries(self.moves[name].arguments))
        note(f"state.{name}({', '.join(f'{key}={value}' for key, value in arguments.items())})")
        getattr(self, name)(**arguments)

    def pick(self, number: int, of: str) -> Process:
        found = [p for p in self.world.processes if IS[of](p)]
        return found[-1 - number % len(found)]

    def enqueue(self, tasks: list[NewTask], fate: Fate) -> None:
        self.world.enqueue(tasks, fate)

    def start(self, worker: str, term: int, number: int, proven: bool, limit: int, fate: Fate) -> None:
        """A new process; `proven`: it holds the lock of one that is dead, and knows its nonce."""
        ended = [p for p in self.world.processes if p.status == "ended" and p.worker == worker and not p.cloned]
        proof = ended[-1 - number % len(ended)].nonce if proven and ended else ""
        self.world.join(self.world.spawn(worker, term, proof), limit, fate)

    def join_again(self, number: int, limit: int, fate: Fate) -> None:
        p = self.pick(number, "joining")
        self.world.join(p, limit, fate)

    def turn(self, number: int, want: int, outcomes: list[Outcome | None], audit: bool, fate: Fate) -> None:
        p = self.pick(number, "working")
        self.world.turn(p, want, outcomes, audit, fate)

    def plain_turn(self, number: int, want: int, outcomes: list[Outcome | None]) -> None:
        """The usual case must be frequent, or nothing is ever running when something breaks."""
        self.turn(number, want, outcomes, False, Fate.ANSWERED)

    def beat(self, number: int, fate: Fate) -> None:
        p = self.pick(number, "working")
        self.world.beat(p, fate)

    def leave(self, number: int, limit: int, fate: Fate) -> None:
        self.world.leave(self.pick(number, "going"), limit, fate)

    def crash(self, number: int) -> None:
        p = self.pick(number, "awake")
        p.end()

    def outlive(self, number: int, freezes: bool, reclaims: bool, limit: int) -> None:
        """One dies, or freezes beyond its lease; the others live on, and its tasks come back."""
        p = self.pick(number, "working")
        p.frozen = True
        self.pass_time_alive(3600)
        if not freezes:
            p.end()
        if reclaims:
            self.world.reclaim(limit, False, Fate.ANSWERED)

    def all_die(self, limit: int) -> None:
        """One pass for all workers, most often in several calls."""
        for p in self.world.processes:
            p.end()
        for _ in range(12):
            self.world.pass_time(300)
            self.world.simple("view", Fate.ANSWERED)
        self.world.reclaim(limit, False, Fate.ANSWERED)

    def freeze(self, number: int) -> None:
        p = self.pick(number, "awake")
        p.frozen = True

    def thaw(self, number: int, want: int, outcomes: list[Outcome | None], fate: Fate) -> None:
        """What it was about to send goes out before it looks at its clock."""
        p = self.pick(number, "frozen")
        p.frozen = False
        if p.works:
            self.world.turn(p, want, outcomes, False, fate)
            self.world.mind_lease(p)

    def clone(self, number: int) -> None:
        p = self.pick(number, "working")
        self.world.clone(p)

    def release(self, number: int, asked: bool, limit: int, fate: Fate) -> None:
        p = self.pick(number, "ended")
        if not p.cloned:
            self.world.release(p, asked, limit, fate)

    def reclaim(self, limit: int, unknown: bool, fate: Fate) -> None:
        self.world.reclaim(limit, unknown, fate)

    def promote(self, limit: int, fate: Fate) -> None:
        self.world.promote(limit, fate)

    def dead(self, kind: str, numbers: list[int], fate: Fate) -> None:
        letters = [entry for entry, fields in self.world.seen.dead if fields["cause"] != "foreign"]
        if letters:
            self.world.dead(kind, [letters[n % len(letters)] for n in numbers], fate)

    def simple(self, kind: str, fate: Fate) -> None:
        self.world.simple(kind, fate)

    def arrive(self, number: int) -> None:
        """A request that was held back arrives, whatever became of its sender."""
        if self.world.held:
            self.world.deliver(self.world.held[number % len(self.world.held)])

    def pass_time(self, ms: int) -> None:
        self.world.pass_time(ms)

    def pass_time_alive(self, ms: int) -> None:
        """Time in which everybody awake can renew."""
        for _ in range(ms // 300):
            self.world.pass_time(300)
            for p in [p for p in self.world.processes if p.works]:
                self.world.beat(p, Fate.ANSWERED)

    def step_clock(self, ms: int) -> None:
        self.world.step_clock(ms)

    def set_full(self, full: bool) -> None:
        self.world.set_full(full)

    def lose(self, state: Literal["lost", "rebuilding"], fate: Fate) -> None:
        self.world.lose(state, fate)

    def mend(self, fate: Fate) -> None:
        """Most often what is frozen is open again soon."""
        if self.world.frozen:
            self.world.lose("rebuilding", Fate.ANSWERED)
            self.world.mend(fate)

    def stranger_reads(self, stream: str, n: int) -> None:
        """A consumer that never joined."""
        key = self.world.partition.key(stream)
        if self.world.seen.streams[stream] and not self.world.full:
            self.world.change(lambda raw: self._read(key, n))

    def _read(self, key: str, n: int) -> None:
        created = "workers" in str(self.world.raw.execute_command("XINFO", "GROUPS", key))
        if not created:
            self.world.raw.execute_command("XGROUP", "CREATE", key, "workers", "0")
        self.world.raw.execute_command("XREADGROUP", "GROUP", "workers", "stranger", "COUNT", n, "STREAMS", key, ">")

    def foreign_entry(self, stream: str) -> None:
        if not self.world.full and len(self.world.judge.foreign) < 3:
            key = self.world.partition.key(stream)
            self.world.change(lambda raw: raw.execute_command("XADD", key, "*", "what", "is this"))
            entry = self.world.seen.streams[stream][-1][0]
            self.world.judge.foreign.add(f"foreign:{stream}:{entry}")

    @invariant()
    def one_owner(self) -> None:
        self.world.check_owners()

    def teardown(self) -> None:
        try:
            if not self.world.broken:
                self.run_out()
        finally:
            self.world.set_full(False)
            self.world.close()

    def run_out(self) -> None:
        """A fair end: everybody dies, what is late arrives, one worker does what is left. Nothing may remain open."""
        world = self.world
        world.set_full(False)
        for p in world.processes:
            p.end()
        while world.held:
            world.deliver(world.held[0])
        self.mend(Fate.ANSWERED)
        world.simple("resume", Fate.ANSWERED)
        # A clock that went back for good holds delayed tasks back for good: it is set right.
        world.offset += max(0, *(due - world.wall for due in world.seen.delayed.values()), 0)
        last = self._last_worker()
        for _ in range(300):
            world.promote(100, Fate.ANSWERED)
            world.turn(last, 10, ["succeeded"] * 10, True, Fate.ANSWERED)
            assert last.works, "the last worker was fenced"
            if not any(world.seen.streams.values()) and not world.seen.delayed:
                break
            world.offset += 1000
        left = {t: world.seen.places.get(t) for t, known in world.judge.tasks.items() if known.state == "open"}
        assert not left, f"accepted and never settled: {left}"
        buried = {fields["task"] for _, fields in world.seen.dead}
        assert world.judge.foreign <= buried, "a foreign entry is neither in a lane nor dead"
        assert world.seen.unique == {}
        idle = {name: names for name, names in world.seen.consumers.items() if any(names.values())}
        assert not idle, f"something is still pending: {idle}"
        check_events(world.raw, world.partition.tag, world.seen.counters, world.judge)

    def _last_worker(self) -> Process:
        """Reclaims until nobody else holds a lease, then joins."""
        world = self.world
        for _ in range(60):
            world.pass_time(300)
            reply = world.reclaim(100, True, Fate.ANSWERED)
            if not reply.more and not world.seen.leases:
                break
        assert not world.seen.leases, f"the dead were never reclaimed: {world.seen.leases}"
        world.pass_time(5000)
        last = world.spawn("z", LEASES[0], "")
        world.join(last, 100, Fate.ANSWERED)
        assert last.works
        return last

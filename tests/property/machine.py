"""The rules that hypothesis draws from: everything that can happen to a partition, in any order."""

from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

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
IS: dict[str, Callable[[Process], bool]] = {
    "working": lambda p: p.works,
    "joining": lambda p: p.status == "joining" and not p.frozen,
    "going": lambda p: p.works or (p.status == "leaving" and not p.frozen),
    "awake": lambda p: p.awake,
    "frozen": lambda p: p.frozen,
    "ended": lambda p: p.status == "ended",
}
WORKERS = st.sampled_from(["a", "b", "c"])


def needs(kind: str) -> Callable[[Any], Any]:
    """A precondition: some process is in that state."""
    return precondition(lambda self: any(IS[kind](p) for p in self.world.processes))


class Partition(RuleBasedStateMachine):
    """One partition, three worker IDs, any number of processes, two daemons (the judge cannot tell them apart)."""

    server: ClassVar[Server]

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.server)

    def pick(self, number: int, of: str) -> Process:
        found = [p for p in self.world.processes if IS[of](p)]
        return found[-1 - number % len(found)]

    @initialize(tasks=st.lists(NEW_TASKS, min_size=4, max_size=8), outcomes=st.lists(OUTCOMES, max_size=3))
    def begin(self, tasks: list[NewTask], outcomes: list[Outcome | None]) -> None:
        """Two workers with something to do, so that short histories are about something."""
        self.enqueue(tasks, Fate.ANSWERED)
        for worker in ("a", "b"):
            self.start(worker, 900, 0, False, 100, Fate.ANSWERED)
            self.plain_turn(0, 3, [])
            self.plain_turn(0, 1, outcomes)

    @rule(tasks=st.lists(NEW_TASKS, min_size=2, max_size=6), fate=FATES)
    def enqueue(self, tasks: list[NewTask], fate: Fate) -> None:
        self.world.enqueue(tasks, fate)

    @rule(worker=WORKERS, term=st.sampled_from(LEASES), number=PICK, proven=st.booleans(), limit=LIMITS, fate=FATES)
    def start(self, worker: str, term: int, number: int, proven: bool, limit: int, fate: Fate) -> None:
        """A new process; `proven`: it holds the lock of one that is dead, and knows its nonce."""
        ended = [p for p in self.world.processes if p.status == "ended" and p.worker == worker and not p.cloned]
        proof = ended[-1 - number % len(ended)].nonce if proven and ended else ""
        self.world.join(self.world.spawn(worker, term, proof), limit, fate)

    @needs("joining")
    @rule(number=PICK, limit=LIMITS, fate=FATES)
    def join_again(self, number: int, limit: int, fate: Fate) -> None:
        p = self.pick(number, "joining")
        self.world.join(p, limit, fate)

    @needs("working")
    @rule(number=PICK, want=st.integers(0, 4), outcomes=st.lists(OUTCOMES, max_size=6), audit=st.booleans(), fate=FATES)
    def turn(self, number: int, want: int, outcomes: list[Outcome | None], audit: bool, fate: Fate) -> None:
        p = self.pick(number, "working")
        self.world.turn(p, want, outcomes, audit, fate)

    @needs("working")
    @rule(number=PICK, want=st.integers(1, 4), outcomes=st.lists(OUTCOMES, max_size=6))
    def plain_turn(self, number: int, want: int, outcomes: list[Outcome | None]) -> None:
        """The usual case must be frequent, or nothing is ever running when something breaks."""
        self.turn(number, want, outcomes, False, Fate.ANSWERED)

    @needs("working")
    @rule(number=PICK, fate=FATES)
    def beat(self, number: int, fate: Fate) -> None:
        p = self.pick(number, "working")
        self.world.beat(p, fate)

    @needs("going")
    @rule(number=PICK, limit=LIMITS, fate=FATES)
    def leave(self, number: int, limit: int, fate: Fate) -> None:
        self.world.leave(self.pick(number, "going"), limit, fate)

    @needs("awake")
    @rule(number=PICK)
    def crash(self, number: int) -> None:
        p = self.pick(number, "awake")
        p.end()

    @needs("working")
    @rule(number=PICK)
    def crash_for_good(self, number: int) -> None:
        """The dead one's lease ends while the others live on."""
        self.pick(number, "working").end()
        self.pass_time_alive(3600)

    @needs("awake")
    @rule(number=PICK)
    def freeze(self, number: int) -> None:
        p = self.pick(number, "awake")
        p.frozen = True

    @needs("frozen")
    @rule(number=PICK)
    def thaw(self, number: int) -> None:
        p = self.pick(number, "frozen")
        self.world.thaw(p)

    @needs("working")
    @rule(number=PICK)
    def clone(self, number: int) -> None:
        p = self.pick(number, "working")
        self.world.clone(p)

    @needs("ended")
    @rule(number=PICK, asked=st.booleans(), limit=LIMITS, fate=FATES)
    def release(self, number: int, asked: bool, limit: int, fate: Fate) -> None:
        p = self.pick(number, "ended")
        if not p.cloned:
            self.world.release(p, asked, limit, fate)

    @rule(limit=LIMITS, unknown=st.booleans(), fate=FATES)
    def reclaim(self, limit: int, unknown: bool, fate: Fate) -> None:
        self.world.reclaim(limit, unknown, fate)

    @rule(limit=LIMITS, fate=FATES)
    def promote(self, limit: int, fate: Fate) -> None:
        self.world.promote(limit, fate)

    @rule(kind=st.sampled_from(["redrive", "purge"]), numbers=st.lists(PICK, min_size=1, max_size=3), fate=FATES)
    def dead(self, kind: str, numbers: list[int], fate: Fate) -> None:
        letters = [entry for entry, fields in self.world.seen.dead if fields["cause"] != "foreign"]
        if letters:
            self.world.dead(kind, [letters[n % len(letters)] for n in numbers], fate)

    @rule(kind=st.sampled_from(["view", "ring", "pause", "resume", "resume", "cleanup", "retain"]), fate=FATES)
    def simple(self, kind: str, fate: Fate) -> None:
        self.world.simple(kind, fate)

    @precondition(lambda self: self.world.held)
    @rule(number=PICK)
    def arrive(self, number: int) -> None:
        """A request that was held back arrives, whatever became of its sender."""
        self.world.deliver(self.world.held[number % len(self.world.held)])

    @rule(ms=st.sampled_from([1, 50, 300, 300, 600, 2000, 10000]))
    def pass_time(self, ms: int) -> None:
        self.world.pass_time(ms)

    @rule(ms=st.sampled_from([300, 900, 3000]))
    def pass_time_alive(self, ms: int) -> None:
        """Time in which everybody awake can renew."""
        for _ in range(ms // 300):
            self.world.pass_time(300)
            for p in [p for p in self.world.processes if p.works]:
                self.world.beat(p, Fate.ANSWERED)

    @rule(ms=st.sampled_from([-3_600_000, -1000, -1, 1, 700, 10_000, 3_600_000]))
    def step_clock(self, ms: int) -> None:
        self.world.step_clock(ms)

    @rule(full=st.booleans())
    def set_full(self, full: bool) -> None:
        self.world.set_full(full)

    @rule(stream=st.sampled_from(["lane:high", "lane:normal", "recovered:normal"]), n=st.integers(1, 2))
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

    @precondition(lambda self: len(self.world.judge.foreign) < 3)
    @rule(stream=st.sampled_from(["suspect", "lane:normal", "recovered:high"]))
    def foreign_entry(self, stream: str) -> None:
        if not self.world.full:
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
            world.pass_time(200)
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

"""Promise 5: an occurrence is enqueued exactly once, whichever daemons run, die, are paused or cut off."""

from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from property.occurrences_world import NAMES, STYLES, Daemon, Letter, World
from property.test_scripts_stateful import explore
from reclaimd.streams.codec import Outcome
from support.servers import FreshServer, Server

FEW = st.integers(0, 5)
NAME = st.sampled_from(NAMES)
SOME = st.sampled_from([NAMES, NAMES, NAMES, *((name,) for name in NAMES)])
OUTCOMES: st.SearchStrategy[list[Outcome | None]] = st.lists(
    st.sampled_from([None, "succeeded", "succeeded", "failed", "dead", "retry", "parked", "handback"]), max_size=4
)
FATES = st.sampled_from(
    ["answered"] * 6 + ["reply lost", "reply late", "call late", "twice", "call lost", "overtaken", "overtaken"]
)
STEPS = st.sampled_from([100, 900, 900, 3_000, 3_000, 20_000, 600_000, -50, -2_000, -30_000, -3_600_000])


class Move(NamedTuple):
    """How often it is drawn, and its arguments."""

    weight: int
    arguments: dict[str, st.SearchStrategy[Any]]


MOVES: dict[str, Move] = {
    "pass_time": Move(4, {"ms": STEPS}),
    "fire": Move(
        24,
        {"ms": st.sampled_from([1_000, 0, 0, 400, 2_500]), "who": FEW, "style": st.sampled_from(STYLES)}
        | {"names": SOME, "fate": FATES},
    ),
    "look": Move(6, {"who": FEW}),
    "pause": Move(2, {"who": FEW, "paused": st.booleans()}),
    "arrive": Move(4, {"which": FEW}),
    "hear": Move(3, {"which": FEW}),
    "upsert": Move(
        2,
        {"name": NAME, "every": st.sampled_from([1_000, 2_500, 7_000]), "overlap": FEW}
        | {"limit": st.sampled_from([0, 0, 0, 2, 5]), "jitter": st.sampled_from([0, 0, 400])},
    ),
    "change_overlap": Move(2, {"name": NAME, "overlap": FEW}),
    "remove": Move(2, {"name": NAME, "who": FEW}),
    "retire": Move(2, {"who": FEW}),
    "crash": Move(1, {"who": FEW}),
    "skew": Move(1, {"who": FEW, "ms": st.sampled_from([0, 300, 5_000, -5_000])}),
    "run_now": Move(1, {"name": NAME}),
    "work": Move(12, {"worker": st.sampled_from(["a", "b"]), "want": st.integers(0, 3), "outcomes": OUTCOMES}),
    "die": Move(3, {"worker": st.sampled_from(["a", "b"])}),
    "blackout": Move(1, {}),
    "promote": Move(3, {}),
}


def _drawn(moves: dict[str, Move]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    names = [name for name, move in moves.items() for _ in range(move.weight)]
    return st.sampled_from(names).flatmap(lambda n: st.tuples(st.just(n), st.fixed_dictionaries(moves[n].arguments)))


class Occurrences(RuleBasedStateMachine):
    """Bound to a server by a subclass."""

    server: ClassVar[Server]
    steps = _drawn(MOVES)

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.server)

    def teardown(self) -> None:
        try:
            self.world.run_out()
        finally:
            self.world.close()

    @initialize()
    def begin(self) -> None:
        """Every schedule is there, and every daemon knows."""
        for name in NAMES:
            self.world.upsert(name, 1_000, 0, 0, 0)
        for daemon in self.world.daemons:
            self.world.look(daemon, rows=True)

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        name, arguments = data.draw(self.steps)
        getattr(self, name)(**arguments)

    @invariant()
    def nothing_is_fired_twice_or_passed_over(self) -> None:
        self.world.check()

    def _daemon(self, who: int) -> Daemon:
        return self.world.daemons[who % len(self.world.daemons)]

    def pass_time(self, ms: int) -> None:
        self.world.pass_time(ms)

    def look(self, who: int) -> None:
        """At what was fired."""
        self.world.look(self._daemon(who), rows=True)

    def pause(self, who: int, paused: bool) -> None:
        self._daemon(who).paused = paused

    def fire(self, ms: int, who: int, style: str, names: tuple[str, ...], fate: str) -> None:
        """By what it knows then; the call or its reply may take its time, or never come."""
        self.pass_time(ms)
        daemon = self._daemon(who)
        plan = daemon.plan(style, self.world.lab.now, names)
        if not plan:
            return
        call = Letter(tuple(plan), daemon.seen_at)
        if fate in {"call late", "twice"}:
            self.world.calls.append(call)
        if fate in {"call late", "call lost"}:
            return
        if fate == "overtaken":
            self.remove(names[0], who + 1)
            self.world.check()
        answered = self.world.execute(call)
        if fate == "reply late":
            self.world.replies.append((daemon, answered))
        elif fate != "reply lost":
            daemon.learn(answered)

    def arrive(self, which: int) -> None:
        """A call that was long on its way, or comes a second time."""
        if self.world.calls:
            self.world.execute(self.world.calls[-1 - which % min(3, len(self.world.calls))])

    def hear(self, which: int) -> None:
        """A reply that was long on its way."""
        if self.world.replies:
            daemon, letter = self.world.replies[-1 - which % min(3, len(self.world.replies))]
            daemon.learn(letter)

    def upsert(self, name: str, every: int, overlap: int, limit: int, jitter: int) -> None:
        self.world.upsert(name, every, overlap, limit, jitter)

    def change_overlap(self, name: str, overlap: int) -> None:
        self.world.change_overlap(name, overlap)

    def remove(self, name: str, who: int) -> None:
        """Perhaps a daemon hears of it at once, while others go on firing."""
        self.world.remove(name)
        if who <= len(self.world.daemons):
            self.world.look(self._daemon(who), rows=False)
            self.retire(who)

    def retire(self, who: int) -> None:
        self.world.retire(self._daemon(who))

    def crash(self, who: int) -> None:
        """It starts anew and reads everything."""
        self.world.daemons[who % len(self.world.daemons)] = daemon = Daemon()
        self.world.look(daemon, rows=True)

    def skew(self, who: int, ms: int) -> None:
        self._daemon(who).skew = ms

    def run_now(self, name: str) -> None:
        self.world.run_now(name)

    def work(self, worker: str, want: int, outcomes: list[Outcome | None]) -> None:
        self.world.work(worker, want, outcomes)

    def die(self, worker: str) -> None:
        self.world.die(worker)

    def blackout(self) -> None:
        self.world.blackout()

    def promote(self) -> None:
        self.world.lab.promote()


class Restarting(Occurrences):
    """The server is killed with -9 now and then."""

    steps = _drawn(MOVES | {"restart": Move(3, {})})

    def restart(self) -> None:
        self.world.restart()


def on(server: Server, base: type[Occurrences] = Occurrences) -> type[Occurrences]:
    """The machine bound to a server."""
    return type(base.__name__, (base,), {"server": server})


@pytest.mark.flavours("valkey")
def test_an_occurrence_is_enqueued_once_under_any_interleaving(server: Server) -> None:
    explore(on(server), examples=30, steps=40)


@pytest.mark.flavours("valkey")
def test_an_occurrence_is_enqueued_once_when_the_server_restarts(fresh_server: FreshServer, flavour: str) -> None:
    server = fresh_server(flavour, appendonly="yes", appendfsync="always")
    explore(on(server, Restarting), examples=5, steps=40)


@pytest.mark.flavours("valkey")
def test_a_retry_that_a_clock_step_has_put_off_by_an_hour_is_played_to_its_end(server: Server) -> None:
    state = on(server)()
    state.begin()
    state.pass_time(300)
    state.upsert("mixed", 1_000, 0, 0, 0)
    state.upsert("allow", 1_000, 0, 2, 0)
    state.fire(600_000, 0, "latest", ("skip",), "answered")
    state.work("a", 1, [])
    state.work("a", 0, ["retry"])
    state.world.check()
    state.pass_time(-3_600_000)
    state.teardown()


@pytest.mark.soak
def test_soak(server: Server, soak_rounds: Iterator[int]) -> None:
    for _ in soak_rounds:
        explore(on(server), examples=25, steps=100)

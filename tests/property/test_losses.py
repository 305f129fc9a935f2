"""Promise 8, and the last clause of promise 1: what the archive saw survives any loss, and what had ended stays so.

Any history, any loss at any point of it, and any end of those who mend it; everybody else goes on all the while.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from property.losses_daemons import adapt
from property.losses_histories import HISTORIES
from property.losses_state import check_same
from property.losses_world import World
from property.test_scripts_stateful import explore
from reclaimd.daemon.archive.store import open_store
from reclaimd.streams.codec import Outcome
from support.servers import Server

FEW = st.integers(0, 5)
WHO = st.integers(0, 1)
ON = st.sampled_from(["tasks", "tasks", "tasks", "schedules"])
POINTS = st.sampled_from([1, 1, 2, 3, 5, 8, 20, 60, 3000])
WHERE = st.sampled_from(
    [
        "tail",
        "before commit",
        "begin_rebuild",
        "freeze",
        "before restore",
        "before restore",
        "after restore",
        "drop",
        "before finish",
        "after finish",
        "before end_rebuild",
    ]
)
LANE = st.sampled_from(["high", "normal", "low"])
NAME = st.sampled_from(["s", "z"])
OUTCOMES: st.SearchStrategy[list[Outcome | None]] = st.lists(
    st.sampled_from([None, "succeeded", "succeeded", "succeeded", "failed", "dead", "retry", "parked", "handback"]),
    max_size=4,
)


class Move(NamedTuple):
    """How often it is drawn, and its arguments."""

    weight: int
    arguments: dict[str, st.SearchStrategy[Any]]


MOVES: dict[str, Move] = {
    "enqueue": Move(
        8,
        {"how_many": st.integers(1, 3), "lane": LANE, "delay_ms": st.sampled_from([0, 0, 0, 400, 3_000])}
        | {"unique": st.sampled_from(["", "", "u1", "u2"])},
    ),
    "send_again": Move(4, {"pick": st.integers(0, 30)}),
    "work": Move(12, {"name": st.sampled_from(["a", "b"]), "want": st.integers(0, 4), "outcomes": OUTCOMES}),
    "die": Move(2, {"name": st.sampled_from(["a", "b"])}),
    "blackout": Move(1, {}),
    "promote": Move(3, {"ms": st.sampled_from([0, 500, 3_000])}),
    "pause": Move(1, {"paused": st.sampled_from([True, False, False])}),
    "letter": Move(3, {"what": st.sampled_from(["redrive", "purge"]), "pick": FEW}),
    "fire": Move(
        5, {"name": NAME, "overlap": st.sampled_from(["queue_one", "queue_one", "skip", "allow"]), "how_many": WHO}
    ),
    "put": Move(2, {"name": NAME}),
    "remove": Move(1, {"name": NAME}),
    "go_on": Move(24, {"who": WHO, "on": ON, "points": POINTS}),
    "go_until": Move(10, {"who": WHO, "where": WHERE}),
    "race": Move(4, {"points": st.lists(st.integers(1, 8), min_size=2, max_size=12)}),
    "kill": Move(4, {"who": WHO, "points": POINTS}),
    "lose_answer": Move(3, {"who": WHO}),
    "copy": Move(3, {}),
    "forget": Move(1, {}),
    "lose": Move(4, {"kind": st.sampled_from(["all", "copy", "copy", "key"]), "pick": st.integers(0, 30)}),
    "until_whole": Move(2, {}),
}


def drawn(moves: dict[str, Move]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    names = [name for name, move in moves.items() for _ in range(move.weight)]
    return st.sampled_from(names).flatmap(lambda n: st.tuples(st.just(n), st.fixed_dictionaries(moves[n].arguments)))


class Losses(RuleBasedStateMachine):
    """Bound to a server, an archive and an event loop by a subclass."""

    server: ClassVar[Server]
    template: ClassVar[Path]
    folder: ClassVar[Path]
    loop: ClassVar[asyncio.AbstractEventLoop]
    steps = drawn(MOVES)

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.server, self.template, self.folder, self.loop)
        self.failed = False

    @initialize(copies=st.booleans())
    def begin(self, copies: bool) -> None:
        """Something of every kind, archived, so that short histories are about something."""
        world = self.world
        world.until_whole()
        self.enqueue(4, "normal", 0, "")
        self.enqueue(1, "high", 3_000, "u1")
        self.enqueue(1, "low", 0, "u2")
        world.fire("s", "queue_one", 2)
        world.put("s")
        if copies:
            world.until_whole()
            world.copy()
        world.work("a", 3, [])
        world.work("a", 1, ["succeeded", "dead"])
        world.until_whole()
        world.checker.check_archive(world.checker.held())

    @rule(move=steps)
    def step(self, move: tuple[str, dict[str, Any]]) -> None:
        name, arguments = move
        self.failed = True
        (getattr(self, name, None) or getattr(self.world, name))(**arguments)
        assert not self.world.checker.problem, self.world.checker.problem
        self.failed = False

    def enqueue(self, how_many: int, lane: str, delay_ms: int, unique: str) -> None:
        names = [f"t{self.world.number()}" for _ in range(1 if unique else how_many)]
        self.world.enqueue(names, lane, delay_ms, unique)

    def send_again(self, pick: int) -> None:
        """A producer that got no answer."""
        names = [name for name in self.world.checker.tasks if ":" not in name]
        if names:
            self.send(names[-1 - pick % len(names)])

    def send(self, name: str) -> None:
        self.world.enqueue([name], "normal", 0, "")

    def fire(self, name: str, overlap: str, how_many: int) -> None:
        self.world.fire(name, overlap, how_many + 1)

    def check_not_open(self, name: str) -> None:
        assert name not in self.world.checker.held().open

    def check_no_letter(self, name: str) -> None:
        assert name not in self.world.checker.held().dead

    def check_waiting(self, schedule: str) -> None:
        assert schedule in self.world.checker.held().queued

    def teardown(self) -> None:
        try:
            if not self.failed:
                self.run_out()
        finally:
            self.world.close()

    def run_out(self) -> None:
        """Nothing is lost any more: all is mended, a second rebuild finds nothing, and workers do what there is."""
        world, checker = self.world, self.world.checker
        world.until_whole()
        assert not checker.problem, checker.problem
        held = checker.held()
        checker.check_shape(held)
        checker.check_archive(held)
        checker.check_schedules(world.defined())
        report = world.rebuild_again()
        assert (report.restored, report.dropped) == ({}, {}), report
        check_same(held, checker.held())
        world.until_whole()
        world.pause(paused=False)
        world.blackout()
        for _ in range(60):
            world.promote(1_000)
            world.work("last", 10, [])
            world.work("last", 0, ["succeeded"] * 10)
            if not checker.held().open:
                break
        checker.check_end(checker.held())


@pytest.fixture
def losses(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Losses]]:
    """The machine bound to a server."""
    adapt(monkeypatch)
    loop = asyncio.new_event_loop()
    template, folder = tmp_path / "template.db", tmp_path / "archive"
    folder.mkdir()

    async def make() -> None:
        async with open_store(f"sqlite:///{template}"):
            pass

    loop.run_until_complete(make())
    yield type("Losses", (Losses,), {"server": server, "template": template, "folder": folder, "loop": loop})
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.mark.flavours("valkey")
def test_what_the_archive_saw_survives_any_loss(losses: type[Losses]) -> None:
    explore(losses, examples=10, steps=40)


@pytest.mark.flavours("valkey")
@pytest.mark.parametrize("about", HISTORIES)
def test_what_once_went_wrong(losses: type[Losses], about: str) -> None:
    copies, moves = HISTORIES[about]
    state = losses()
    try:
        state.begin(copies=copies)
        for move in moves:
            state.step(move)
    finally:
        state.teardown()


@pytest.mark.flavours("valkey")
def test_data_that_came_back_before_the_rebuild_reached_redis_are_archived_on(losses: type[Losses]) -> None:
    state = losses()
    state.begin(copies=False)
    state.world.copy()
    state.world.lose("all", 0)
    while state.world.daemons[0].gate.where != "before freeze":
        state.world.go_on(0, "tasks", 1)
    state.world.kill(0, 0)
    state.world.lose("copy", 0)
    state.enqueue(1, "normal", 0, "")
    state.teardown()


@pytest.mark.soak
def test_soak(losses: type[Losses], soak_rounds: Iterator[int]) -> None:
    for _ in soak_rounds:
        explore(losses, examples=20, steps=100)

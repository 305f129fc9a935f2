"""The archive equals Redis whenever it has read everything, however small and late its tails were."""

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize

from property.archive_model import Archive, check
from property.machine import MOVES, TASK_LISTS, Move, Partition
from property.occurrences_world import NAMES
from property.snapshot import raw_client
from property.test_occurrences import MOVES as OCCURRENCE_MOVES
from property.test_occurrences import Move as OccurrenceMove
from property.test_occurrences import Occurrences, _drawn
from property.test_scripts_stateful import explore
from property.world import Fate
from reclaimd.streams.scripts import NewTask
from support.servers import Server

SIZES = st.sampled_from([1, 1, 2, 5, 100])


class Archivers:
    """One that reads a little now and then, one that reads everything at the end, one that begins late."""

    def __init__(self, server: Server, tag: str) -> None:
        self.raw = raw_client(server.port)
        self.often = Archive(tag)
        self.once = Archive(tag)
        self.late = Archive(tag)

    def close(self) -> None:
        self.raw.close()

    def judge(self, seen: Any) -> None:
        """All hold the same in the end: what there is."""
        for archive in (self.often, self.once, self.late):
            archive.catch_up(self.raw)
            check(archive.tables, seen)


class Archived(Partition):
    """Every move of the protocol, and an archiver beside it."""

    moves: ClassVar[dict[str, Move]] = MOVES | {
        "archive": Move(8, "", {"events": SIZES, "entries": SIZES}),
        "read_tail": Move(5, "", {"events": SIZES, "entries": SIZES}),
        "commit_tail": Move(5, "", {}),
        "compare": Move(2, "", {}),
        "begin_late": Move(1, "", {}),
    }

    @initialize(tasks=TASK_LISTS)
    def begin(self, tasks: list[NewTask]) -> None:
        self.archivers = Archivers(self.server, self.world.partition.tag)
        self.enqueue(tasks, Fate.ANSWERED)
        for worker in ("a", "b"):
            self.start(worker, 900, 0, False, 100, Fate.ANSWERED)
        for number in (0, 1, 1, 0):
            self.plain_turn(number, 1, [])

    def archive(self, events: int, entries: int) -> None:
        self.read_tail(events, entries)
        self.commit_tail()

    def read_tail(self, events: int, entries: int) -> None:
        self.archivers.often.read(self.archivers.raw, events, entries)

    def commit_tail(self) -> None:
        """Much may have happened since it was read."""
        self.archivers.often.commit(self.archivers.raw)

    def compare(self) -> None:
        self.archivers.often.catch_up(self.archivers.raw, 3, 3)
        check(self.archivers.often.tables, self.world.look())

    def begin_late(self) -> None:
        self.archivers.late.scan(self.archivers.raw)

    def run_out(self) -> None:
        self.archivers.judge(self.world.look())
        super().run_out()
        self.archivers.judge(self.world.look())

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.archivers.close()


class ArchivedOccurrences(Occurrences):
    """Schedules, and an archiver beside them."""

    steps = _drawn(
        OCCURRENCE_MOVES
        | {
            "read_tail": OccurrenceMove(8, {"events": SIZES, "entries": SIZES}),
            "commit_tail": OccurrenceMove(8, {}),
            "compare": OccurrenceMove(2, {}),
            "begin_late": OccurrenceMove(1, {}),
        }
    )

    @initialize()
    def begin(self) -> None:
        self.archivers = Archivers(self.server, self.world.lab.tag)
        for name in NAMES:
            self.world.upsert(name, 1_000, 0, 0, 0)
        for daemon in self.world.daemons:
            self.world.look(daemon, rows=True)

    def read_tail(self, events: int, entries: int) -> None:
        self.archivers.often.read(self.archivers.raw, events, entries)

    def commit_tail(self) -> None:
        self.archivers.often.commit(self.archivers.raw)

    def compare(self) -> None:
        self.archivers.often.catch_up(self.archivers.raw, 3, 3)
        check(self.archivers.often.tables, self.world.lab.look())

    def begin_late(self) -> None:
        self.archivers.late.scan(self.archivers.raw)

    def teardown(self) -> None:
        try:
            self.archivers.judge(self.world.lab.look())
            self.world.run_out()
            self.archivers.judge(self.world.lab.look())
        finally:
            self.archivers.close()
            self.world.close()


@pytest.mark.flavours("valkey")
def test_an_archive_fed_by_small_tails_equals_redis(server: Server) -> None:
    explore(type("Archived", (Archived,), {"server": server}), examples=30, steps=60)


@pytest.mark.flavours("valkey")
def test_an_archive_of_schedules_fed_by_small_tails_equals_redis(server: Server) -> None:
    explore(type("ArchivedOccurrences", (ArchivedOccurrences,), {"server": server}), examples=30, steps=60)


@pytest.mark.soak
@pytest.mark.parametrize("base", [Archived, ArchivedOccurrences])
def test_soak(server: Server, soak_rounds: Iterator[int], base: type[Archived] | type[ArchivedOccurrences]) -> None:
    for _ in soak_rounds:
        explore(type(base.__name__, (base,), {"server": server}), examples=25, steps=100)

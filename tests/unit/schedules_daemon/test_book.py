"""When the book takes a change for lost that was fired already, and when it only waits for its event."""

import pytest

from reclaimd.daemon.schedules.book import PATIENCE_MS, Book, Due
from reclaimd.daemon.schedules.planning import Fire
from reclaimd.streams.schedules.events import Event, ScheduleRemoved, upserted
from reclaimd.streams.schedules.fold import Schedules, apply
from reclaimd.streams.schedules.log import Loaded
from reclaimd.streams.schedules.model import Every, Schedule

FIRST, SECOND, THIRD = "1000000-0", "1005000-0", "1020000-0"
LATE = 1_010_000


def put(every_ms: int = 1_000) -> Event:
    return upserted(Schedule(name="a", task="t", queue="mail", trigger=Every(every_ms), overlap="allow"))


class Scene:
    """A book that knows the schedule as of FIRST, and `told`, what it said was lost."""

    def __init__(self, row: str = "", at_ms: int = LATE) -> None:
        self.told: list[tuple[str, str]] = []
        self.book = Book(60_000, on_lifted=lambda name, generation: self.told.append((name, generation)))
        state = Schedules()
        apply(state, FIRST, put())
        for _ in self.book.start_over(Loaded(state)):
            pass
        if row:
            self.book.take_rows("mail", {b"a": row.encode()}, at_ms)
        for _ in self.book.plan_all(at_ms):
            pass

    def event(self, event_id: str, event: bytes | Event, now_ms: int) -> None:
        self.book.changed([apply(self.book.state, event_id, event)], now_ms)

    def follow(self, now_ms: int) -> None:
        """The log was read to its end, and there was nothing."""
        self.book.lift(self.book.ahead(now_ms), now_ms)

    def due(self, now_ms: int) -> list[Due]:
        return self.book.take(self.book.roster("mail"), now_ms, 100)


def test_a_newer_row_fires_nothing_until_its_event_had_time_to_come() -> None:
    scene = Scene(f"{SECOND}|1009000|4|")
    scene.follow(LATE + PATIENCE_MS - 1)
    assert scene.due(LATE + PATIENCE_MS - 1) == []
    assert (scene.told, scene.book.states.problems) == ([], 0)


def test_a_change_that_is_lost_goes_on_behind_what_was_fired_of_it() -> None:
    now = LATE + PATIENCE_MS
    scene = Scene(f"{SECOND}|1009000|4|")
    scene.follow(now)
    [due] = scene.due(now)
    assert due.generation == SECOND
    assert [step.nominal for step in due.steps if isinstance(step, Fire)] == list(range(1_010_000, now + 1, 1_000))
    assert due.steps[0].after == 1_009_000
    assert (scene.told, scene.book.states.problems) == ([("a", SECOND)], 1)


def test_a_change_that_comes_in_time_is_no_loss() -> None:
    scene = Scene(f"{SECOND}|1009000|4|")
    ahead = scene.book.ahead(LATE + PATIENCE_MS)
    scene.event(SECOND, put(2_000), LATE + PATIENCE_MS)
    scene.book.lift(ahead, LATE + PATIENCE_MS)
    assert (scene.told, scene.book.states.problems) == ([], 0)
    assert scene.due(LATE + PATIENCE_MS)[0].schedule.trigger == Every(2_000)
    assert scene.book.ahead(LATE + 10 * PATIENCE_MS) == {}


def test_a_removal_that_comes_in_time_is_no_loss() -> None:
    scene = Scene(f"{SECOND}|1004000|4|")
    ahead = scene.book.ahead(LATE + PATIENCE_MS)
    scene.event(SECOND, ScheduleRemoved(name="a"), LATE + PATIENCE_MS)
    scene.book.lift(ahead, LATE + PATIENCE_MS)
    assert scene.due(LATE + PATIENCE_MS) == []
    assert scene.told == []


@pytest.mark.parametrize(
    "event",
    [
        b'{"type":"ScheduleRecoloured","v":1,"name":"a"}',
        b"\xff not an event",
        put(0),
    ],
    ids=["of a newer version", "unreadable", "unusable"],
)
def test_a_change_that_only_another_daemon_can_use_is_no_loss(event: bytes | Event) -> None:
    """Both would fire, each by its own definition."""
    scene = Scene(f"{SECOND}|1009000|4|")
    scene.event(SECOND, event, LATE)
    problems = scene.book.states.problems
    scene.follow(LATE + 2 * PATIENCE_MS)
    assert scene.due(LATE + 2 * PATIENCE_MS) == []
    assert (scene.told, scene.book.states.problems) == ([], problems)


def test_a_change_after_the_lost_one_ends_it() -> None:
    scene = Scene(f"{SECOND}|1009000|4|")
    scene.follow(LATE + PATIENCE_MS)
    scene.event(THIRD, put(2_000), 1_021_000)
    assert scene.book.states.problems == 0
    assert [due.generation for due in scene.due(1_022_000)] == [THIRD]


def test_a_change_whose_id_is_older_than_what_was_fired_fires_in_its_place() -> None:
    """The clock went back when the log lost its end."""
    scene = Scene(f"{THIRD}|1009000|4|")
    scene.event(SECOND, put(2_000), LATE)
    scene.follow(LATE + PATIENCE_MS)
    assert [due.generation for due in scene.due(1_030_000)] == [THIRD]
    assert scene.told == [("a", THIRD)]

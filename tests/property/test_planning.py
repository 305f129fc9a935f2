"""Planning, held against schedules that are played second by second."""

from collections.abc import Iterator

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from reclaimd.daemon.schedules.planning import ASK, Fire, Moment, Plan, Skip, Standing, Step, plan, wake_of
from reclaimd.streams.occurrence_scripts import Fired
from reclaimd.streams.schedules.calculus import jitter_of
from reclaimd.streams.schedules.model import Every, Outline, Schedule
from support.second_by_second import Rule, Told, World, play

GENERATION = "1-0"
UNTIL = 90


class Planned:
    """The same world, in which nothing is looked at but when a plan or an event asks for it."""

    def __init__(self, schedule: Schedule, world: World, grace: int) -> None:
        self.told: list[Told] = []
        self._schedule = schedule
        self._outline = msgspec.json.decode(msgspec.json.encode(schedule), type=Outline)
        self._world = world
        self._grace = grace
        self._fired = Fired(GENERATION)
        self._ends: int | None = None
        self._queued = False
        self._drip_from = 0

    def play(self) -> None:
        """From second 1 to the end."""
        wake: int | None = 0
        since, up, paused, waiting = 1, False, False, False
        for now in range(1, self._world.until + 1):
            if self._ends is not None and now >= self._ends:
                self._ends = now + self._world.run if self._queued else None
                self._queued = False
                if waiting:
                    wake = 0
            if now in self._world.paused:
                since, paused = now * 1000, True
                continue
            was_up, was_paused = up, paused
            up, paused = now in self._world.up, False
            if not up:
                self._drip_from = 0
                continue
            if not was_up or was_paused:
                wake = 0
            while wake is not None and wake <= now * 1000:
                standing = Standing(GENERATION, since)
                moment = Moment(now * 1000, (now - self._grace) * 1000, self._drip_from)
                ahead = wake_of(self._outline, GENERATION, standing.since_ms, self._fired, moment.now)
                todo = plan(self._schedule, standing, self._fired, moment)
                assert ahead == ASK or Plan(wake_ms=ahead) == todo
                wake, waiting = todo.wake_ms, False
                for step in todo.steps:
                    waiting = not self._take(step, now)
                    wake = now * 1000 + 1000 if waiting else 0

    def _take(self, step: Step, now: int) -> bool:
        """What the script does. Returns False when it has to wait."""
        assert step.after == self._fired.last
        if isinstance(step, Skip):
            instants = list(self._instants(step.after, step.upto))
            assert step.many == len(instants)
            self.told += [Told(instant, step.reason, now) for instant in instants]
            self._advance(step.upto, 0)
            return True
        assert list(self._instants(step.after, step.nominal)) == [step.nominal // 1000]
        if self._ends is None or step.overlap == "allow":
            what, self._ends = "fired", now + self._world.run
            if step.overlap == "wait":
                self._drip_from = now * 1000 + self._schedule.drip_ms
        elif step.overlap == "wait":
            return False
        elif step.overlap == "queue_one" and not self._queued:
            what, self._queued = "queued", True
        else:
            what = "overlap"
        self.told.append(Told(step.nominal // 1000, what, now))
        self._advance(step.nominal, int(what in {"fired", "queued"}))
        return True

    def _advance(self, last: int, fired: int) -> None:
        self._fired = Fired(GENERATION, last, self._fired.count + fired)

    def _instants(self, after: int, upto: int) -> Iterator[int]:
        assert isinstance(self._schedule.trigger, Every)
        every = self._schedule.trigger.every_ms // 1000
        return (n for n in range(every, upto // 1000 + 1, every) if n * 1000 > after)


spans = st.lists(st.tuples(st.integers(1, UNTIL), st.integers(1, 40)), max_size=3).map(
    lambda pairs: frozenset(second for start, length in pairs for second in range(start, start + length))
)
rules = st.fixed_dictionaries(
    {
        "every": st.integers(1, 12),
        "misfire": st.sampled_from(["skip", "run_once", "run_all"]),
        "overlap": st.sampled_from(["allow", "skip", "queue_one"]),
        "cap": st.integers(1, 6),
        "drip": st.integers(1, 8),
        "limit": st.none() | st.integers(1, 12),
        "jitters": st.booleans(),
    }
)


@settings(max_examples=600)
@given(rules, spans, spans, st.integers(1, 15), st.integers(1, 10))
def test_plans_do_what_a_walk_over_every_second_does(
    drawn: dict[str, object], down: frozenset[int], paused: frozenset[int], run: int, grace: int
) -> None:
    jitters = drawn.pop("jitters")
    rule = Rule(**drawn, jitter_ms=lambda _: 0)  # type: ignore[arg-type]
    schedule = Schedule(
        name="s",
        task="t",
        queue="q",
        trigger=Every(rule.every * 1000, anchor_ms=0),
        misfire=rule.misfire,  # type: ignore[arg-type]
        overlap=rule.overlap,  # type: ignore[arg-type]
        misfire_cap=rule.cap,
        drip_ms=rule.drip * 1000,
        limit=rule.limit,
        jitter_ms=rule.every * 500 if jitters else 0,
    )
    rule = rule._replace(jitter_ms=lambda second: jitter_of(schedule, second * 1000))
    world = World(frozenset(range(1, UNTIL + 1)) - down, paused, run, UNTIL)
    planned = Planned(schedule, world, grace)
    planned.play()
    expected = play(rule, world, grace)
    runs = [told for told in expected if told.what in {"fired", "queued"}]
    assert [told for told in planned.told if told.what in {"fired", "queued"}] == runs
    # What exceeds the cap is skipped with the next run, which may be after the end of this world, or after a pause.
    alike = {"cap", "paused"} if rule.misfire == "run_all" else set()
    done = {told.nominal: "skipped" if told.what in alike else told.what for told in planned.told}
    for told in expected:
        if told.nominal in done:
            assert done[told.nominal] == ("skipped" if told.what in alike else told.what), told
    assert list(done) == sorted(done)
    assert len(done) == len(planned.told)


def test_fires_of_one_plan_are_in_order_and_few() -> None:
    schedule = Schedule(name="s", task="t", queue="q", trigger=Every(1000, anchor_ms=0), overlap="allow")
    found = plan(schedule, Standing("1-0", 1), None, Moment(50_000, 0))
    assert [step.nominal for step in found.steps if isinstance(step, Fire)] == [n * 1000 for n in range(1, 21)]


def test_what_a_pause_took_is_skipped_once_it_is_due_though_the_clock_was_set_back_behind_the_resume() -> None:
    schedule = Schedule(name="s", task="t", queue="q", trigger=Every(1000, anchor_ms=0), overlap="allow")
    resumed = Standing("1-0", 9_500)
    assert plan(schedule, resumed, None, Moment(500, 0)) == Plan(wake_ms=1_000)
    assert plan(schedule, resumed, None, Moment(2_500, 0)) == Plan((Skip(0, 2_000, 2, "paused"),))
    assert plan(schedule, resumed, Fired("1-0", 9_000), Moment(9_400, 0)) == Plan(wake_ms=10_000)

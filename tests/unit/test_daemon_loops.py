"""The shell around a step, the alarm, and events told as log lines."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
import structlog
from prometheus_client import CollectorRegistry

from reclaimd.daemon.connectivity import Connectivity
from reclaimd.daemon.health import Health
from reclaimd.daemon.links import Links
from reclaimd.daemon.loops.alarm import Alarm
from reclaimd.daemon.loops.narration import narrate
from reclaimd.daemon.loops.shell import FIRST_BACKOFF, LONGEST_BACKOFF, Context, Loop
from reclaimd.metrics.instruments import Instruments
from reclaimd.streams.errors import RedisUnreachable, RedisUnusable, Unusable
from reclaimd.streams.events import (
    Batch,
    Died,
    DiedRow,
    Enqueued,
    Event,
    Ghost,
    Moved,
    MovedRow,
    QueuePaused,
    QueueResumed,
    Settled,
    SettlementsRefused,
    StreamEntry,
    TaskRef,
    Unreadable,
    WorkerFenced,
    WorkerGone,
    WorkerJoined,
)
from reclaimd.streams.settings import Settings


def new_context() -> Context:
    settings, connectivity = Settings(), Connectivity()
    health = Health(monotonic=time.monotonic, wall=time.time)
    return Context(
        settings, Links(settings.redis_url, connectivity), connectivity, health, Instruments(CollectorRegistry())
    )


def failing(*errors: Exception | None) -> Callable[[], Awaitable[float]]:
    """A step that fails with each error in turn; None is a success."""
    left = list(errors)

    async def step() -> float:
        error = left.pop(0)
        if error is not None:
            raise error
        return 3.0

    return step


def test_a_failure_is_counted_logged_once_and_makes_the_daemon_not_ready() -> None:
    async def main() -> None:
        context = new_context()
        loop = Loop("partition", "q", failing(ValueError("a"), ValueError("a"), ValueError("b"), None), context)
        with structlog.testing.capture_logs() as lines:
            pauses = [await loop.once() for _ in range(3)]
            assert [problem.queue for problem in context.health.problems()] == ["q"]
            assert await loop.once() == 3.0
        assert pauses == [FIRST_BACKOFF, FIRST_BACKOFF * 2, FIRST_BACKOFF * 4]
        assert [(line["event"], line.get("error")) for line in lines] == [
            ("loop failed", "ValueError: a"),
            ("loop failed", "ValueError: b"),
            ("loop works again", None),
        ]
        assert context.health.problems() == []
        counted = context.instruments.loop_errors.labels("partition")._value.get()
        assert counted == 3

    asyncio.run(main())


def test_backing_off_has_an_end() -> None:
    async def main() -> None:
        loop = Loop("partition", "q", failing(*[ValueError("a")] * 20), new_context())
        pauses = [await loop.once() for _ in range(20)]
        assert pauses[-1] == LONGEST_BACKOFF

    asyncio.run(main())


def test_a_lost_server_is_nobody_s_own_problem() -> None:
    async def main() -> None:
        context = new_context()
        loop = Loop("partition", "q", failing(None, RedisUnreachable("redis://h", "gone"), None), context)
        await loop.once()
        with structlog.testing.capture_logs() as lines:
            await loop.once()
            waiting = [loop.waiting]
            await loop.once()
        assert [*waiting, loop.waiting] == [True, False]
        assert lines == []
        assert context.health.problems() == []

    asyncio.run(main())


def test_connectivity_logs_changes_and_not_tries() -> None:
    async def main() -> None:
        connectivity = Connectivity()
        away = RedisUnreachable("redis://h", "gone")
        with structlog.testing.capture_logs() as lines:
            for error in (away, away, RedisUnusable(Unusable.LOADING), away):
                connectivity.lost(error)
            await connectivity.until_down()
            assert connectivity.error is away
            connectivity.found()
            connectivity.found()
            await connectivity.until_up()
        assert [line["event"] for line in lines] == [
            "redis unavailable",
            "redis unavailable",
            "redis unavailable",
            "redis available",
        ]

    asyncio.run(main())


def test_an_alarm_rings_at_the_earliest_instant() -> None:
    async def main() -> None:
        alarm = Alarm()
        began = time.monotonic()
        sleeper = asyncio.create_task(alarm.sleep(60))
        await asyncio.sleep(0)
        alarm.ring_within(30)
        alarm.ring_within(0.02)
        alarm.ring_within(40)
        await asyncio.wait_for(sleeper, 5)
        assert time.monotonic() - began >= 0.02

    asyncio.run(main())


def test_an_alarm_remembers_what_was_asked_for_while_nobody_slept() -> None:
    async def main() -> None:
        alarm = Alarm()
        alarm.ring_within(0)
        await asyncio.wait_for(alarm.sleep(60), 5)
        alarm.forget()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(alarm.sleep(60), 0.02)

    asyncio.run(main())


def told(*events: Event | Unreadable) -> list[tuple[str, str]]:
    return [(line.level, line.text) for line in narrate(Batch(entry_id="1-0", at=1, events=events))]


def test_a_recovered_task_is_told_with_all_that_an_operator_asks_for() -> None:
    moved = Moved(
        cause="lease_expired", worker="w", late_ms=7, tasks=(MovedRow("t", "recovered:low", "2-0", 1, 0, "1-0"),)
    )
    (line,) = narrate(Batch(entry_id="1-0", at=1, events=(moved,)))
    assert (line.level, line.text) == ("info", "task recovered")
    assert line.fields == {
        "task": "t",
        "worker": "w",
        "attempt": 1,
        "cause": "lease_expired",
        "stream": "recovered:low",
        "entry": "2-0",
        "entry_before": "1-0",
        "late_ms": 7,
    }


def test_the_rest_is_told_and_daily_traffic_is_not() -> None:
    row = MovedRow("t", "lane:low", "2-0", 0, 1, "1-0")
    assert told(
        Moved(cause="left", worker="w", late_ms=0, tasks=(row,)),
        Died(worker="w", tasks=(DiedRow("t", "1-0", "timeout", "slow", 5, "n"),)),
        WorkerJoined(worker="w", token="1-n", lease_ms=1),
        WorkerFenced(worker="w", token="1-n", cause="left", late_ms=0),
        WorkerFenced(worker="w", token="1-n", cause="takeover", late_ms=0),
        WorkerGone(worker="w", token="1-n", cause="left"),
        Ghost(worker="w", entries=(StreamEntry("lane:low", "1-0"),)),
        SettlementsRefused(worker="w", token="1-n", entries=(TaskRef("t"),)),
        QueuePaused(),
        QueueResumed(),
        Unreadable(b"\xff", "broken"),
        Enqueued(),
        Settled(worker="w", token="1-n"),
    ) == [
        ("info", "task handed back"),
        ("warning", "task dead"),
        ("info", "worker joined"),
        ("info", "worker fenced"),
        ("warning", "worker fenced"),
        ("info", "worker gone"),
        ("warning", "pending entry was deleted by somebody"),
        ("warning", "settlements refused"),
        ("info", "queue paused"),
        ("info", "queue resumed"),
        ("warning", "event unreadable"),
    ]

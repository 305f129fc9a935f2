"""Firing: many schedules due at one second, a steady beat, and what a daemon takes to start with many schedules."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
from measure import WORST, Aim, Figure, percentile
from processes import Process, ending, start_daemon
from stage import Stage

from cases.h_schedules import child
from reclaimd.streams.keys import Partition, schedule_events_key
from reclaimd.streams.schedules.events import encode, upserted
from reclaimd.streams.schedules.model import Cron, Every, Once, Schedule, Trigger
from support.waiting import wait_until

BURST = 10_000
STEADY = 1_000
"""Occurrences a second."""
WINDOW = 10.0
AT_ONCE = 1_000
MANY = 1_000_000
MANY_RUNS = 2
"""Each takes longer than all the others together."""
PATIENCE = 300.0
"""Seconds that a daemon may take to start. A loaded machine makes the figure bad; it must not end the whole bench."""


def measure(stage: Stage) -> list[Figure]:
    """Each run has a daemon and a namespace of its own."""
    many = () if stage.quick else _start_with_many(stage)
    return [*_burst(stage), *_steady(stage), *_start(stage), *many]


def _burst(stage: Stage) -> Iterator[Figure]:
    count = stage.size(BURST, 500)
    took: list[float] = []
    for _ in stage.rounds(f"{count:,} due at one second"):
        partition = stage.partition()
        with _daemon(stage, partition):
            due = _now(stage) + stage.size(6_000, 1_500)
            _put(stage, partition, [(f"s{n}", Once(due)) for n in range(count)])
            assert _now(stage) < due, "the schedules came too late"
            wait_until(lambda p=partition: _fired(stage, p) >= count, f"{count} to fire", 30)  # type: ignore[misc]
        last: Any = stage.client.xrevrange(partition.key("lane:normal"), count=1)
        took.append((int(last[0][0].split(b"-")[0]) - due) / 1000)
        stage.clear()
    aim = Aim(1.0, at_most=True)
    yield Figure("i", f"until all of {count:,} schedules due at one second are enqueued", "s", took, aim=aim)


def _steady(stage: Stage) -> Iterator[Figure]:
    """Schedules of a second each, spread evenly over it. Lateness is what the script says: enqueued after due."""
    count = stage.size(STEADY, 50)
    medians: list[float] = []
    tails: list[float] = []
    rates: list[float] = []
    window = 2.0 if stage.quick else WINDOW
    for _ in stage.rounds(f"{count:,} occurrences a second"):
        partition = stage.partition()
        spread = [(f"s{n}", Every(1_000, anchor_ms=n * 1_000 // count)) for n in range(count)]
        _put(stage, partition, spread, overlap="allow", misfire="skip")
        with _daemon(stage, partition):
            wait_until(lambda p=partition: _fired(stage, p) >= count, "a second of it", 30)  # type: ignore[misc]
            begin, from_id = _fired(stage, partition), _last_event(stage, partition)
            begun = time.monotonic()
            time.sleep(window)
            rates.append((_fired(stage, partition) - begin) / (time.monotonic() - begun))
        late = _lateness(stage, partition, from_id)
        medians.append(percentile(late, 0.5))
        tails.append(percentile(late, 0.99))
        stage.clear()
    yield Figure("i", f"occurrences fired at {count:,} due a second", "/s", rates)
    yield Figure("i", "lateness at that beat, p50 of each run", "ms", medians)
    yield Figure("i", "lateness at that beat, p99 of each run", "ms", tails, aim=Aim(100, at_most=True, share=WORST))


def _start(stage: Stage) -> Iterator[Figure]:
    """A whole daemon, until it is ready: Python, imports, recovery, load, rows, timers; and what it weighs then."""
    for count, aim in ((1_000, None), (stage.size(100_000, 1_000), Aim(2.0, at_most=True))):
        took: list[float] = []
        weight: list[float] = []
        partition = stage.partition()
        mixed: list[tuple[str, Trigger]] = [
            (f"s{n}", Cron(f"{n % 60} {n // 60 % 24} * * *", ("UTC", "Europe/Paris", "America/New_York")[n % 3]))
            for n in range(count)
        ]
        _put(stage, partition, mixed)
        with _daemon(stage, partition):
            key = f"{{{partition.namespace}:schedules}}:snapshots"
            wait_until(lambda k=key: stage.client.exists(k), "a snapshot", 60)  # type: ignore[misc]
        for _ in stage.rounds(f"start with {count:,} schedules"):
            begun = time.monotonic()
            with _daemon(stage, partition) as daemon:
                took.append(time.monotonic() - begun)
                weight.append(daemon.rss / 1e6)
        stage.clear()
        yield Figure("i", f"a daemon with {count:,} schedules is ready", "s", took, aim=aim)
        yield Figure("i", f"RSS of that daemon with {count:,} schedules", "MB", weight)


def _start_with_many(stage: Stage) -> Iterator[Figure]:
    """The same with what a start can meet at most: a million, each of which has fired, so that its row is read too."""
    took: list[float] = []
    weight: list[float] = []
    partition = stage.partition("reports")
    for what in ("write", "fired"):
        child(stage, what, partition.namespace, str(MANY))
    for _ in stage.rounds(f"start with {MANY:,} schedules", MANY_RUNS):
        begun = time.monotonic()
        with _daemon(stage, partition) as daemon:
            took.append(time.monotonic() - begun)
            weight.append(daemon.peak / 1e6)
    stage.clear()
    note = "all of them have fired"
    seconds, megabytes = Aim(20, at_most=True), Aim(1073, at_most=True)
    yield Figure("i", f"a daemon with {MANY:,} schedules is ready", "s", took, aim=seconds, note=note)
    yield Figure("i", f"RSS of that daemon with {MANY:,} schedules, at its highest", "MB", weight, aim=megabytes)


class _Running:
    def __init__(self, stage: Stage, partition: Partition) -> None:
        self._stage = stage
        self._namespace = partition.namespace
        self._processes: list[Process] = []
        self._ending = ending(self._processes)

    def __enter__(self) -> Self:
        self._ending.__enter__()
        self._processes.append(start_daemon(self._stage, self._namespace, PATIENCE))
        return self

    def __exit__(self, *error: object) -> None:
        self._ending.__exit__(*error)

    @property
    def rss(self) -> int:
        """Bytes."""
        return self._status("VmRSS")

    @property
    def peak(self) -> int:
        """Bytes, the most that it has ever had."""
        return self._status("VmHWM")

    def _status(self, what: str) -> int:
        lines = Path(f"/proc/{self._processes[0].pid}/status").read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:"))


def _daemon(stage: Stage, partition: Partition) -> _Running:
    return _Running(stage, partition)


def _put(stage: Stage, partition: Partition, all_of_them: Sequence[tuple[str, Trigger]], **fields: Any) -> None:
    key = schedule_events_key(partition.namespace)
    for start in range(0, len(all_of_them), AT_ONCE):
        pipeline: Any = stage.client.pipeline(transaction=False)
        for name, trigger in all_of_them[start : start + AT_ONCE]:
            schedule = Schedule(name=name, task="noop", queue=partition.queue, trigger=trigger, **fields)
            pipeline.xadd(key, {"e": encode(upserted(schedule))})
        pipeline.execute()


def _now(stage: Stage) -> int:
    seconds, micros = stage.client.time()
    return int(seconds) * 1000 + int(micros) // 1000


def _fired(stage: Stage, partition: Partition) -> int:
    return int(stage.client.hget(partition.key("counters"), "occurrences:fired") or 0)


def _last_event(stage: Stage, partition: Partition) -> str:
    last: Any = stage.client.xrevrange(partition.key("events"), count=1)
    return last[0][0].decode() if last else "-"


def _lateness(stage: Stage, partition: Partition, after: str) -> list[float]:
    late: list[float] = []
    entries: Any = stage.client.xrange(partition.key("events"), f"({after}")
    for _, fields in entries:
        for event in msgspec.json.decode(fields[b"e"]):
            if event["type"] == "OccurrenceFired":
                late += [row[5] for row in event["tasks"]]
    return late

"""From kill -9 to the task running again: a worker child, a whole process group, and a restart under the same ID."""

from __future__ import annotations

import os
import signal
import time
from typing import Any, NamedTuple

from measure import WORST, Aim, Figure
from processes import Process, ending, start_daemon, start_worker, wait_live
from stage import Stage

from reclaimd.streams import redis_log, scripts
from reclaimd.streams.codec import Body, encode_body
from reclaimd.streams.enqueueing import new_task_id
from reclaimd.streams.keys import Partition
from reclaimd.streams.scripts import NewTask
from support.waiting import wait_until

CHILDREN = 4
KILLS_OF_ONE_SUPERVISOR = 6
DEFAULT_LEASE = 15_000
SHORT_LEASE = 1_000


class Beginning(NamedTuple):
    """A handler said that it starts. `at`: seconds of this machine's clock."""

    at: float
    pid: int
    worker: str


def measure(stage: Stage) -> list[Figure]:
    """Seconds, or milliseconds where the parent sees it."""
    figures = [
        Figure(
            "g", "kill -9 of a worker child → another runs its task", "ms", _children(stage), aim=Aim(250, at_most=True)
        )
    ]
    leases = [(SHORT_LEASE, stage.times(10), 1.5)]
    if not stage.quick:
        leases.append((DEFAULT_LEASE, stage.runs or 3, DEFAULT_LEASE / 1000 + 1))
    for lease_ms, times, most in leases:
        values = []
        for number in range(times):
            stage.say(f"kill -9 of a whole worker, lease {lease_ms / 1000:g} s: run {number + 1} of {times}")
            values.append(_group(stage, lease_ms))
        name = f"kill -9 of supervisor and child → another runs its task, lease {lease_ms / 1000:g} s"
        figures.append(Figure("g", name, "s", values, aim=Aim(most, at_most=True, share=WORST)))
    values = [_restart(stage) for _ in stage.rounds("restart under the same ID", 10)]
    name = "restart under the same ID: process start → its pending task runs"
    figures.append(Figure("g", name, "s", values, aim=Aim(1.0, at_most=True)))
    return figures


def _hold(stage: Stage, partition: Partition) -> str:
    """Enqueue a task that stays; returns the key of its diary."""
    task_id = new_task_id()
    diary = f"{partition.namespace}-diary-{task_id}"
    body = encode_body(Body(name="hold", args={"diary": diary}))
    task = NewTask(task_id, "normal", 5, body)
    redis_log.send_sync(stage.client, scripts.enqueue(partition, [task], epoch_id="e"))
    return diary


def _beginning(stage: Stage, diary: str, number: int, timeout: float = 60) -> Beginning:
    """The `number`-th start that the diary tells of, from 0."""
    client: Any = stage.client
    line: bytes = wait_until(lambda: client.lindex(diary, number), f"start {number} of a task", timeout)
    at, pid, worker = line.decode().split()
    return Beginning(float(at), int(pid), worker)


def _children(stage: Stage) -> list[float]:
    values: list[float] = []
    total = 2 if stage.quick else max(50, stage.runs or 0)
    while len(values) < total:
        partition = stage.partition()
        with ending([start_worker(stage, partition, f"k{len(values)}", processes=CHILDREN)]) as processes:
            # A child that keeps dying young is restarted later and later; a new supervisor begins afresh.
            for _ in range(min(KILLS_OF_ONE_SUPERVISOR, total - len(values))):
                stage.say(f"kill -9 of a child: {len(values) + 1} of {total}")
                wait_live(stage, partition, CHILDREN, processes[0])
                diary = _hold(stage, partition)
                victim = _beginning(stage, diary, 0).pid
                killed = time.time()
                os.kill(victim, signal.SIGKILL)
                values.append((_beginning(stage, diary, 1).at - killed) * 1000)
    return values


def _group(stage: Stage, lease_ms: int) -> float:
    """The daemon alone finds out."""
    partition = stage.partition()
    with ending([start_daemon(stage, partition.namespace)]) as processes:
        workers: dict[str, Process] = {}
        for name in ("one", "two"):
            workers[name] = start_worker(stage, partition, f"{name}-{partition.namespace}", lease_ms=lease_ms)
            processes.append(workers[name])
        wait_live(stage, partition, 2)
        diary = _hold(stage, partition)
        victim = workers[_beginning(stage, diary, 0).worker.partition("-")[0]]
        killed = time.time()
        victim.kill_all()
        return _beginning(stage, diary, 1).at - killed


def _restart(stage: Stage) -> float:
    """Nobody else is there: no daemon, no other worker."""
    partition = stage.partition()
    worker = f"same-{partition.namespace}"
    with ending([start_worker(stage, partition, worker)]) as processes:
        diary = _hold(stage, partition)
        _beginning(stage, diary, 0)
        processes[0].kill_all()
        started = time.time()
        processes.append(start_worker(stage, partition, worker))
        return _beginning(stage, diary, 1).at - started

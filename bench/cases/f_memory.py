"""Resident memory of the daemon, of a worker's supervisor, and of a worker child, after a thousand tasks."""

from __future__ import annotations

import re
from pathlib import Path

from measure import Figure
from processes import ending, start_daemon, start_worker
from stage import Stage, counters, enqueue

from support.waiting import wait_until

TASKS = 1_000


def measure(stage: Stage) -> list[Figure]:
    """Megabytes, of new processes in each run."""
    sizes: dict[str, list[float]] = {"daemon": [], "worker's supervisor": [], "worker child": []}
    for _ in stage.rounds("memory"):
        stage.clear()
        partition = stage.partition()
        with ending([]) as processes:
            processes.append(start_daemon(stage, partition.namespace))
            processes.append(start_worker(stage, partition))
            daemon, worker = processes
            enqueue(stage, partition, TASKS)
            wait_until(
                lambda worker=worker, partition=partition: (
                    worker.alive()  # type: ignore[misc]
                    and counters(stage, partition, "succeeded")[0] >= TASKS
                ),
                "the tasks to be settled",
                60,
            )
            pids = [daemon.pid, worker.pid, worker.children()[0]]
            for values, pid in zip(sizes.values(), pids, strict=True):
                values.append(resident(pid))
    return [Figure("f", f"RSS of the {name} after {TASKS:,} tasks", "MB", values) for name, values in sizes.items()]


def resident(pid: int | str) -> float:
    """RSS in megabytes. `pid`: or `self`."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise AssertionError(f"process {pid} has ended")
    return int(found[1]) * 1024 / 1e6

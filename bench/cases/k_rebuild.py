"""A flushed server is rebuilt from its archive: how long it takes, and what the process weighs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from measure import Aim, Figure
from stage import BODY, Stage, stopwatch

CHILD = Path(__file__).resolve().parent.parent / "rebuild_child.py"
NAMESPACE = "bench"
LIMIT = 900
AT_ONCE = 1_000


def measure(stage: Stage) -> list[Figure]:
    """Open tasks in three lanes, and schedules that have fired once, from a SQLite archive, by one process.

    The floor is the client's pipelined XADD of the same tasks, without the schedules.
    """
    count, schedules = stage.size(1_000_000, 5_000), stage.size(100_000, 1_000)
    archive = f"sqlite:///{stage.folder}/archive.db"
    stage.clear()
    stage.say(f"archiving {count:,} tasks and {schedules:,} schedules")
    child(stage, "fill", archive, count, schedules)
    runs: list[dict[str, float]] = []
    floors: list[float] = []
    for _ in stage.rounds(f"rebuild of {count:,} tasks and {schedules:,} schedules", 3):
        stage.clear()
        floors.append(count / _xadd(stage, count))
        stage.clear()
        runs.append(child(stage, "rebuild", archive))
    whole = {"tasks": count, "schedules": schedules, "fired": schedules}
    assert all(whole.items() <= run.items() for run in runs), runs
    what = f"rebuild of {count:,} open tasks and {schedules:,} schedules into an empty Redis"
    seconds = None if stage.quick else Aim(60, at_most=True)
    floor = {"pipelined XADD of the tasks alone, redis-py": floors}
    return [
        Figure("k", what, "s", _of(runs, "seconds"), aim=seconds),
        Figure("k", f"{what}: of that for the schedules, without what they fired", "s", _of(runs, "schedules_seconds")),
        Figure("k", f"{what}: tasks, over all of that time", "/s", [count / s for s in _of(runs, "seconds")], floor),
        Figure("k", f"{what}: RSS of that process", "MB", _of(runs, "rss_mb"), aim=Aim(500, at_most=True)),
    ]


def _of(runs: list[dict[str, float]], key: str) -> list[float]:
    return [run[key] for run in runs]


def _xadd(stage: Stage, count: int) -> float:
    fields = {"task": "0192c8f0-0000-7000-8000-000000000000", "at": "1700000000000", "lane": "normal", "max": "5"}
    with stopwatch() as spent:
        for start in range(0, count, AT_ONCE):
            pipeline = stage.client.pipeline(transaction=False)
            for _ in range(min(AT_ONCE, count - start)):
                pipeline.xadd("floor", {**fields, "body": BODY})
            pipeline.execute()
    return spent[0]


def child(stage: Stage, what: str, archive: str, *counts: int) -> dict[str, float]:
    """What a process of rebuild_child.py says."""
    command = [sys.executable, "-P", str(CHILD), what, archive, NAMESPACE, stage.server.url, *map(str, counts)]
    paths = [str(CHILD.parent), str(CHILD.parent.parent / "tests")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)
    if ended.returncode:
        raise AssertionError(ended.stderr)
    found: dict[str, float] = json.loads(ended.stdout)
    return found

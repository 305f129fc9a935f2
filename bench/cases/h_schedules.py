"""Schedules from a snapshot: how long a new process takes to have them, and what it weighs then."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from measure import Aim, Figure
from stage import Stage

CHILD = Path(__file__).resolve().parent.parent / "schedules_child.py"
AIMS = {
    100_000: (Aim(2, at_most=True), None),
    1_000_000: (Aim(20, at_most=True), Aim(1073, at_most=True)),
}
"""Seconds and megabytes (1 GiB), by number of schedules."""
LIMIT = 300


def measure(stage: Stage) -> list[Figure]:
    """Each size is written once and loaded by a new process in each run; the daemon does the same at start."""
    figures: list[Figure] = []
    for count in (1_000,) if stage.quick else (1_000, 100_000, 1_000_000):
        stage.clear()
        write = child(stage, "write", "bench", str(count))
        loads = [child(stage, "load", "bench") for _ in stage.rounds(f"load {count:,}")]
        assert all(load["rows"] == count for load in loads), loads
        seconds, weight = AIMS.get(count, (None, None))
        note = f"definitions of {loads[0]['definition_bytes']:.0f} bytes"
        figures += [
            Figure(
                "h", f"load {count:,} schedules from a snapshot", "s", _of(loads, "seconds"), aim=seconds, note=note
            ),
            Figure("h", f"RSS of that process with {count:,} schedules", "MB", _of(loads, "rss_mb"), aim=weight),
            Figure("h", f"write a snapshot of {count:,} schedules", "s", [write["seconds"]]),
        ]
    return figures


def _of(loads: list[dict[str, float]], key: str) -> list[float]:
    return [load[key] for load in loads]


def child(stage: Stage, what: str, *arguments: str) -> dict[str, float]:
    """What a process of schedules_child.py says."""
    command = [sys.executable, "-P", str(CHILD), what, stage.server.url, *arguments]
    paths = [str(CHILD.parent), str(CHILD.parent.parent / "tests")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)
    if ended.returncode:
        raise AssertionError(ended.stderr)
    found: dict[str, float] = json.loads(ended.stdout)
    return found

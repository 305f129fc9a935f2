"""An independent checker: what the tasks wrote down, and what Redis says, against the promises; no code under test."""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

Line = dict[str, Any]


class Run(NamedTuple):
    """One run of a task: from its start line to its last line, or to the death of its process."""

    task: str
    token: int
    pid: int
    start: float
    end: float


def runs_of(lines: Iterable[Line], deaths: Mapping[int, float]) -> list[Run]:
    """`deaths`: process → when it was killed, in the journal's clock."""
    started: dict[tuple[str, int, int], Line] = {}
    last: dict[tuple[str, int, int], float] = {}
    for line in lines:
        key = (line["task"], line["token"], line["pid"])
        if line["what"] == "start":
            assert key not in started, f"two starts of one delivery: {line}"
            started[key] = line
        else:
            assert key in started, f"{line} without a start"
        last[key] = line["at"]
        if line["what"] == "start" and line["pid"] in deaths:
            last[key] = max(line["at"], deaths[line["pid"]])
    return [Run(*key, line["at"], last[key]) for key, line in started.items()]


def check_one_owner(runs: Iterable[Run], frozen: Collection[int]) -> None:
    """No two runs of a task overlap, except those of processes that were frozen; no delivery is started twice."""
    by_task: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_task[run.task].append(run)
    for task, of_task in by_task.items():
        tokens = Counter(run.token for run in of_task)
        assert max(tokens.values()) == 1, f"{task}: one delivery ran twice: {of_task}"
        ordered = sorted(of_task, key=lambda run: run.token)
        for earlier, later in itertools.pairwise(ordered):
            if earlier.pid not in frozen:
                assert earlier.end <= later.start, f"{task}: two owners at once: {earlier} {later}"


def verdicts(events: Iterable[tuple[bytes, Mapping[bytes, bytes]]]) -> Counter[str]:
    """How often each task was settled for good: succeeded, or buried."""
    counted: Counter[str] = Counter()
    for _, fields in events:
        for event in json.loads(fields[b"e"]):
            if event["type"] in {"Settled", "Died"}:
                counted.update(row[0] for row in event["tasks"])
    return counted


def check_settled_once(accepted: Collection[str], counted: Counter[str]) -> None:
    """Every accepted task has exactly one verdict, and nothing else has any."""
    lost = [task for task in accepted if counted[task] == 0]
    twice = [task for task, count in counted.items() if count > 1]
    strangers = [task for task in counted if task not in set(accepted)]
    assert (lost, twice, strangers) == ([], [], [])

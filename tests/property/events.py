"""What the event stream says, against counters and history."""

import json
from collections import Counter

from property.checker import Judge
from property.snapshot import Raw

_ROWS = {
    "Enqueued": "enqueued",
    "Started": "started",
    "Settled": "succeeded",
    "Promoted": "promoted",
    "Redriven": "redriven",
    "Purged": "purged",
    "Died": "dead",
}


def check_events(raw: Raw, tag: str, counters: dict[str, int], judge: Judge) -> None:
    """Every total can be told again from the events, and every accepted task has its `Enqueued`."""
    told: Counter[str] = Counter()
    accepted: list[str] = []
    for _, flat in raw.execute_command("XRANGE", f"{tag}:events", "-", "+"):
        for event in json.loads(flat[3]):
            kind, tasks = event["type"], event.get("tasks", [])
            told[_ROWS.get(kind, kind)] += len(tasks) or 1
            if kind == "Enqueued":
                accepted += [row[0] for row in tasks]
            elif kind == "Retried":
                told["parked"] += sum(row[6] for row in tasks)
                told["retried"] += sum(not row[6] for row in tasks)
            elif kind == "SettlementsRefused":
                told["fenced"] += len(event["entries"])
            elif kind == "WorkerFenced":
                told[f"fenced_workers:{event['cause']}"] += 1
            elif kind == "WorkerJoined":
                told["joined"] += 1
            elif kind == "Died":
                for row in tasks:
                    told[f"dead:{row[2]}"] += 1
    assert sorted(accepted) == sorted(judge.tasks), "accepted tasks and Enqueued events differ"
    same = [*_ROWS.values(), "retried", "parked", "fenced", "joined"]
    same += [name for name in counters if name.startswith(("fenced_workers:", "dead:"))]
    for name in same:
        assert told[name] == counters.get(name, 0), f"{name}: events say {told[name]}, counters {counters.get(name, 0)}"

"""What must hold between the keys of a partition at any time, given what was accepted."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from property.snapshot import Snapshot


class Sent(NamedTuple):
    """A task as it was sent."""

    task: str
    lane: str
    max_deliveries: int
    unique: str
    due: int


@dataclass
class Known:
    """What the history knows of an accepted task."""

    sent: Sent
    state: str = "open"
    token: int = 0
    first: str = ""
    deliveries: int = 0
    attempts: int = 0
    handbacks: int = 0


def check_shape(tasks: Mapping[str, Known], s: Snapshot) -> None:
    """What must hold between the keys at any time."""
    assert s.delayed.keys() == s.bodies.keys(), "a delayed task without a body, or the other way round"
    open_tasks = {t for t, places in s.places.items() if places[0].where != "dead"}
    for task, known in tasks.items():
        assert (known.state == "open") == (task in open_tasks), f"{task} is {known}, found {s.places.get(task)}"
        assert (known.state == "dead") == (task in s.places and task not in open_tasks)
    held = {tasks[t].sent.unique: t for t in open_tasks if t in tasks and tasks[t].sent.unique}
    assert s.unique == held, f"unique keys {s.unique}, open tasks hold {held}"
    terms: Counter[int] = Counter()
    for worker in s.workers.keys() | s.leases.keys():
        row = s.workers.get(worker)
        assert row is not None, f"{worker} has a lease and no row"
        score = s.leases.get(worker)
        fits = {"live": score is not None and score > 0, "fenced": score in {0, -1}, "gone": score is None}
        assert fits[row.state], f"{worker}: {row} with score {score}"
        if row.state == "live":
            terms[row.term] += 1
    assert {n: v for n, v in s.clock.items() if n.startswith("term:")} == {f"term:{t}": n for t, n in terms.items()}
    assert s.clock.get("cap") == (min(terms) // 3 if terms else None), "the cap is not a third of the shortest lease"
    assert all(s.workers[w].state != "gone" for w in s.turns), f"turns of the dead are kept: {s.turns}"
    assert s.bell <= 1, "the doorbell holds more than one element"

"""Names of the keys of docs/protocol.md. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

LANES = ("high", "normal", "low")

# In reading order. The index of a stream in this tuple, from 1, is what scripts and workers call it.
STREAMS = (
    "suspect",
    "recovered:high",
    "lane:high",
    "recovered:normal",
    "lane:normal",
    "recovered:low",
    "lane:low",
)
SUSPECT = 1
GROUP = "workers"

SENTINEL = "{archive}"
"""Field or member by which the archive knows a hash or sorted set again; the name of nothing else."""
SENTINEL_GROUP = "archive"
"""The consumer group that does the same in streams."""

_SUFFIXES = {
    "bodies": "delayed:body",
    "queued": "fired:queued",
    "seen_even": "seen:0",
    "seen_odd": "seen:1",
    "accepted": "rebuild:accepted",
}


def queues_key(namespace: str) -> str:
    """The set of queue names, `{ns}:queues`."""
    return f"{{{namespace}}}:queues"


def schedule_events_key(namespace: str) -> str:
    """The stream of schedule events, `{ns:schedules}:events`."""
    return f"{{{namespace}:schedules}}:events"


def schedule_snapshots_key(namespace: str) -> str:
    """The stream of their snapshots, `{ns:schedules}:snapshots`."""
    return f"{{{namespace}:schedules}}:snapshots"


def schedule_epoch_key(namespace: str) -> str:
    """The hash that says which archive knows the schedules, and their mark, `{ns:schedules}:epoch`."""
    return f"{{{namespace}:schedules}}:epoch"


def schedule_problems_key(namespace: str) -> str:
    """The hash of what became of each source of schedules, `{ns:schedules}:problems`."""
    return f"{{{namespace}:schedules}}:problems"


@dataclass(frozen=True)
class Partition:
    """One hash slot of one queue, and the names of its keys."""

    namespace: str
    queue: str
    number: int = 0

    @cached_property
    def tag(self) -> str:
        """The hash tag that all keys begin with."""
        return f"{{{self.namespace}:{self.queue}:{self.number}}}"

    def key(self, name: str) -> str:
        """The key that a script header calls `name`, e.g. `clock`, `bodies`, `lane:high`."""
        return f"{self.tag}:{_SUFFIXES.get(name, name)}"

    def keys(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Keys in the order of a script's header; `streams` stands for all seven."""
        expanded: list[str] = []
        for name in names:
            expanded.extend(STREAMS if name == "streams" else (name,))
        return tuple(self.key(name) for name in expanded)

    def __str__(self) -> str:
        return f"{self.queue}:{self.number}"

"""Schedules for tests: put into the log as clients do, and what the daemon made of them."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import redis

from reclaimd.streams.ids import EntryID
from reclaimd.streams.keys import Partition, schedule_events_key, schedule_snapshots_key
from reclaimd.streams.occurrence_scripts import Fired, fired_rows
from reclaimd.streams.schedules.events import (
    Event,
    SchedulePaused,
    ScheduleRejected,
    ScheduleRemoved,
    ScheduleResumed,
    decode,
    encode,
    upserted,
)
from reclaimd.streams.schedules.model import Every, Schedule, Trigger
from support.daemons import NAMESPACE
from support.servers import Server
from support.waiting import await_until

_OCCURRENCE = re.compile(r"(?P<name>[\w.-]+):(?P<generation>\d+-\d+):(?P<nominal>\d+)\Z")


class Task(msgspec.Struct, frozen=True):
    """A task that an occurrence made. `at`: wall ms at which it entered its lane."""

    name: str
    generation: str
    nominal: int
    at: int


class Schedules:
    """The schedules of one namespace on one server, and their tasks in one queue after another."""

    def __init__(self, server: Server, namespace: str = NAMESPACE) -> None:
        self.namespace = namespace
        self.client: redis.Redis = server.client()
        self.events_key = schedule_events_key(namespace)
        self.snapshots_key = schedule_snapshots_key(namespace)

    def append(self, *events: Event) -> list[str]:
        """Events in one round trip; returns their IDs."""
        pipeline: Any = self.client.pipeline(transaction=False)
        for event in events:
            pipeline.xadd(self.events_key, {"e": encode(event)})
        return [reply.decode() for reply in pipeline.execute()]

    def put(self, name: str, trigger: Trigger | None = None, queue: str = "mail", **fields: Any) -> str:
        """Create or change one, every second unless told otherwise. Returns the event's ID."""
        schedule = Schedule(name=name, task="send", queue=queue, trigger=trigger or Every(1_000), **fields)
        return self.append(upserted(schedule))[0]

    def remove(self, name: str) -> str:
        """Remove it."""
        return self.append(ScheduleRemoved(name=name))[0]

    def pause(self, name: str) -> str:
        """Pause it."""
        return self.append(SchedulePaused(name=name))[0]

    def resume(self, name: str) -> str:
        """Resume it."""
        return self.append(ScheduleResumed(name=name))[0]

    def rejected(self) -> list[ScheduleRejected]:
        """Rejections in the log."""
        read = [decode(fields[b"e"]) for _, fields in self.entries()]
        return [event for event in read if isinstance(event, ScheduleRejected)]

    def entries(self) -> list[Any]:
        """The whole log."""
        return list(self.client.xrange(self.events_key) or [])

    def tasks(self, queue: str = "mail", lane: str = "normal") -> list[Task]:
        """Those that occurrences made and that no worker has settled, in the order of their lane."""
        found = []
        reply: Any = self.client.xrange(Partition(self.namespace, queue).key(f"lane:{lane}"))
        for _, fields in reply or []:
            match = _OCCURRENCE.match(fields[b"task"].decode())
            if match:
                found.append(Task(match["name"], match["generation"], int(match["nominal"]), int(fields[b"at"])))
        return found

    async def wait_tasks(self, count: int = 1, queue: str = "mail", timeout: float = 10.0) -> list[Task]:
        """Until there are so many at least."""

        def enough() -> list[Task]:
            found = self.tasks(queue)
            return found if len(found) >= count else []

        return await await_until(enough, f"{count} occurrences in {queue}", timeout)

    def fired(self, queue: str = "mail") -> dict[str, Fired]:
        """Rows of `:fired`."""
        rows: Any = self.client.hgetall(Partition(self.namespace, queue).key("fired"))
        return fired_rows(rows.items())

    def happened(self, kind: str, queue: str = "mail") -> list[list[Any]]:
        """Rows of all events of this type in the queue's event stream, such as OccurrenceSkipped."""
        rows: list[list[Any]] = []
        reply: Any = self.client.xrange(Partition(self.namespace, queue).key("events"))
        for _, fields in reply or []:
            for event in msgspec.json.decode(fields[b"e"]):
                if event["type"] == kind:
                    rows += event.get("occurrences") or event.get("tasks") or []
        return rows

    def now_ms(self) -> int:
        """The server's wall clock."""
        seconds, micros = self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000


@contextlib.contextmanager
def schedules_on(server: Server, namespace: str = NAMESPACE) -> Iterator[Schedules]:
    """Their connection ends with the block."""
    schedules = Schedules(server, namespace)
    try:
        yield schedules
    finally:
        schedules.client.close()


def born(event_id: str) -> int:
    """Wall ms of an event."""
    return EntryID.parse(event_id).ms


def instants(tasks: list[Task], name: str) -> list[int]:
    """The nominal instants of one schedule's tasks, in the order in which they came."""
    return [task.nominal for task in tasks if task.name == name]


def check_exactly_once(schedules: Schedules, name: str, generation: str, every_ms: int, queue: str = "mail") -> int:
    """Judge one schedule by the events alone: each instant from its creation on was fired or skipped, once, in order.

    Returns the last instant that was dealt with. Its tasks must not have been taken by workers.
    """
    # Before the events: a daemon may go on firing while this is read.
    tasks = [task.nominal for task in schedules.tasks(queue) if (task.name, task.generation) == (name, generation)]
    told: list[tuple[int, int]] = []
    fired = []
    for row in schedules.happened("OccurrenceFired", queue):
        if row[:2] == [name, generation]:
            told.append((row[2] - every_ms, row[2]))
            fired.append(row[2])
    for row in schedules.happened("OccurrenceSkipped", queue):
        if row[:2] == [name, generation]:
            first = row[2] or born(generation)
            assert row[4] == (row[3] - first) // every_ms, f"{row} counts wrongly"
            told.append((first, row[3]))
    told.sort()
    at = born(generation)
    for begin, end in told:
        assert begin == at, (
            f"{name}: {'twice' if begin < at else 'never'} between {min(begin, at)} and {max(begin, at)}"
        )
        at = end
    assert tasks == fired[: len(tasks)], f"{name}: tasks and events differ"
    assert len(fired) - len(tasks) < 3, f"{name}: events without tasks"
    return at

"""The model and a real server in lockstep: each request goes to both, and both must answer and end up the same."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis

from model import normal
from model.partition import WITHOUT_VERDICT, Event, State, Step
from property.snapshot import STREAMS, Snapshot, raw_client, take
from reclaimd.streams.keys import Partition
from reclaimd.streams.redis_log import connect_sync, send_sync
from reclaimd.streams.scripts import Call
from support.servers import Server

NOON = 1_763_757_000_000
PARTITION = Partition("t", "q")


@dataclass(frozen=True)
class Request:
    """One call of a script, for both sides. `answer` turns the script's parsed reply into the form of the model's.

    `counts`: what it counts that cannot be told from its events.
    """

    label: str
    model: Callable[[State, int], Step]
    call: Callable[[int], Call[Any]]
    answer: Callable[[Any], tuple[object, ...]]
    counts: Callable[[Step], dict[str, int]] = lambda step: {}


class ConformanceError(AssertionError):
    """Model and server differ. The message is the whole history and then what differs."""


class Lockstep:
    """Both sides, and what happened so far. `now`: the server's wall clock, in milliseconds."""

    def __init__(self, server: Server) -> None:
        self.client = connect_sync(server.url, reply_timeout=20)
        self.raw = raw_client(server.port, timeout=20)
        self.raw.execute_command("FLUSHALL")
        self.now = NOON
        self.state = State()
        self.names = normal.Names()
        self.counters: Counter[str] = Counter()
        self.last_event = "0-0"
        self.log: list[str] = []

    def close(self) -> None:
        self.client.close()
        self.raw.close()

    def send(self, request: Request) -> Step:
        """Both execute it now. Raises ConformanceError unless replies, events and states are the same."""
        step = request.model(self.state, self.now)
        self.log.append(f"{self.now - NOON:+} {request.label} -> {step.reply}")
        self.state = step.state
        self.counters.update(count(request, step))
        reply = self._ask(request)
        # The model's IDs of entries that are new now are learnt by the comparison; the reply may name them.
        differ = self._differences(step)
        told = (str(reply),) if isinstance(reply, redis.ResponseError) else request.answer(reply)
        if told != step.reply:
            differ.insert(0, f"reply:\n  model  {step.reply}\n  server {told}")
        self._judge(differ)
        return step

    def _ask(self, request: Request) -> Any:
        """The reply; of errors only the one that the model knows."""
        try:
            return send_sync(self.client, request.call(self.now))
        except redis.ResponseError as error:
            if not str(error).startswith("RECLAIMD_STATE"):
                raise
            return error

    def stray_read(self, consumer: str, index: int, n: int, step: Step) -> None:
        """Somebody reads outside the scripts; `step` is what that does to the model."""
        self.log.append(f"{consumer} reads {n} of {STREAMS[index]} by itself")
        stream = PARTITION.key(STREAMS[index])
        self.raw.execute_command("XREADGROUP", "GROUP", "workers", consumer, "COUNT", n, "STREAMS", stream, ">")
        self.state = step.state
        self._judge(self._differences(step))

    def _judge(self, differ: list[str]) -> None:
        if differ:
            raise ConformanceError("\n".join(["model and server differ after", *self.log, *differ]))

    def _differences(self, step: Step) -> list[str]:
        snapshot = take(self.raw, PARTITION.tag)
        rest = normal.read_rest(self.raw, PARTITION.tag, self.last_event)
        self.last_event = rest.last_event
        self._learn(snapshot)
        expected = normal.of_model(self.state, self.counters)
        actual = normal.of_server(snapshot, rest, self.names)
        expected["events"] = normal.events_of_model(step.events)
        actual["events"] = normal.events_of_server(rest.events)
        expected["bell"], actual["bell"] = int(step.rang), snapshot.bell
        return [
            f"{area}:\n  model  {expected[area]}\n  server {actual[area]}"
            for area in expected
            if expected[area] != actual[area]
        ]

    def _learn(self, snapshot: Snapshot) -> None:
        for name, stream in zip(STREAMS, self.state.streams, strict=True):
            self.names.learn(name, snapshot.streams[name], (e.id for e in stream))
        self.names.learn("dead", snapshot.dead, (row[0] for row in self.state.dead))


_PER_EVENT = {
    "Enqueued": "enqueued",
    "Started": "started",
    "Settled": "succeeded",
    "Promoted": "promoted",
    "Redriven": "redriven",
    "Purged": "purged",
    "WorkerJoined": "joined",
    "Died": "dead",
}


def count(request: Request, step: Step) -> Counter[str]:
    """What docs/protocol.md "Counters" counts for this step."""
    counted = Counter(request.counts(step))
    for event in step.events:
        counted += Counter(_counted(event))
    return counted


def _counted(event: Event) -> list[str]:
    rows: Any = event
    names = [_PER_EVENT[rows[0]]] if rows[0] in _PER_EVENT else []
    match rows:
        case ("Retried", _, _, outcome):
            names.append("retried" if outcome == "retry" else outcome)
        case ("Died", _, _, cause, _):
            names += [f"dead:{cause}", *(["failed"] if cause == "failed" else [])]
        case ("Moved", cause, *_):
            names.append(f"reclaimed:{cause}" if cause in WITHOUT_VERDICT else "handed_back")
        case ("WorkerFenced", _, _, cause):
            names.append(f"fenced_workers:{cause}")
        case ("SettlementsRefused", _, _, tasks):
            names += ["fenced"] * len(tasks)
    return names

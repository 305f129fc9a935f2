"""One partition as raw Redis commands show it. Nothing of the code under test is used here but the names of keys."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import redis

Raw = Any
"""A client whose replies are as the server sent them; the library's types do not fit those."""

STREAMS = ("suspect", "recovered:high", "lane:high", "recovered:normal", "lane:normal", "recovered:low", "lane:low")

Fields = dict[str, str]


def token_of(fields: Fields) -> int:
    """The fencing token, as docs/protocol.md tells to reckon it."""
    return int(fields.get("token", 1)) + sum(
        int(fields.get(name, 0)) for name in ("deliveries", "attempts", "handbacks")
    )


def first_of(history: str) -> str:
    """The first entry that carried the task; empty for one that never came back."""
    return str(json.loads(history.partition("\n")[0])[4]) if history else ""


class Row(NamedTuple):
    """A worker row: `state` is live, fenced or gone."""

    state: str
    cause: str
    token: str
    term: int

    @property
    def nonce(self) -> str:
        return self.token.partition("-")[2]


class Place(NamedTuple):
    """Where a task is. `owner`: the consumer to whom the entry is pending, or empty when it waits."""

    where: str
    entry: str
    owner: str
    fields: tuple[tuple[str, str], ...]

    def number(self, name: str, default: int = 0) -> int:
        return int(dict(self.fields).get(name, default))

    def text(self, name: str) -> str:
        return dict(self.fields).get(name, "")

    @property
    def token(self) -> int:
        """The fencing token."""
        return token_of(dict(self.fields))

    @property
    def first(self) -> str:
        """The first entry that carried the task, from its history; empty while that is this one."""
        return first_of(self.text("history"))


def entry_order(entry: str) -> tuple[int, int]:
    """Entry IDs in the order of Redis."""
    ms, _, seq = entry.partition("-")
    return int(ms), int(seq)


@dataclass(frozen=True)
class Snapshot:
    """All keys of a partition but its events."""

    streams: dict[str, list[tuple[str, Fields]]]
    pending: dict[str, dict[str, str]]
    consumers: dict[str, dict[str, int]]
    dead: list[tuple[str, Fields]]
    delayed: dict[str, int]
    bodies: dict[str, Fields]
    workers: dict[str, Row]
    leases: dict[str, int]
    clock: dict[str, int]
    unique: dict[str, str]
    counters: dict[str, int]
    epoch: dict[str, str]
    turns: dict[str, str]
    paused: bool
    bell: int
    fired: dict[str, str]
    queued: dict[str, Fields]
    places: dict[str, list[Place]] = field(compare=False, default_factory=dict)

    def owned_by(self, worker: str) -> list[tuple[str, str]]:
        """(stream, entry ID) pending to a consumer, in reading order."""
        return [(s, e) for s in STREAMS for e, owner in sorted_entries(self.pending[s]) if owner == worker]

    def is_current(self, worker: str, token: str) -> bool:
        row = self.workers.get(worker)
        return row is not None and row.state == "live" and row.token == token

    def without_consumers(self) -> "Snapshot":
        """For comparison across a restart, which forgets consumers that never had an entry."""
        return Snapshot(**{**vars(self), "consumers": {}})


def sorted_entries(pending: dict[str, str]) -> list[tuple[str, str]]:
    return sorted(pending.items(), key=lambda item: entry_order(item[0]))


def raw_client(port: int, timeout: float = 10) -> Raw:
    """A client that returns replies as the server sent them (RESP2)."""
    client = redis.Redis(port=port, protocol=2, socket_timeout=timeout, legacy_responses=False)
    client.response_callbacks.clear()
    return client


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _pairs(flat: Any) -> Iterator[tuple[str, str]]:
    items = [_text(v) for v in flat]
    # What an archive plants in a key is nobody's value.
    yield from (pair for pair in zip(items[::2], items[1::2], strict=True) if pair[0] != "{archive}")


def parse_row(text: str) -> Row:
    """The three shapes of a worker row in docs/protocol.md."""
    if text[0] in "!~":
        cause, _, token, term, _ = text[1:].split("|", 4)
        return Row("fenced" if text[0] == "!" else "gone", cause, token, int(term))
    token, term, _ = text.split("|", 2)
    return Row("live", "", token, int(term))


# One request for all: a pipeline of them costs the client ten times as much. What is not there reads as nothing.
_READ_ALL = """
local replies = {}
for i, command in ipairs(cjson.decode(ARGV[1])) do
  local reply = redis.pcall(unpack(command))
  replies[i] = type(reply) == 'table' and reply.err and {} or reply
end
return replies
"""


def take(client: Raw, tag: str) -> Snapshot:
    """Read the whole partition whose keys begin with `tag`, e.g. `{reclaimd:q:0}`. Nobody may write meanwhile."""
    commands: list[list[str]] = []
    for name in STREAMS:
        key = f"{tag}:{name}"
        commands += [
            ["XRANGE", key, "-", "+"],
            ["XPENDING", key, "workers", "-", "+", "100000"],
            ["XINFO", "CONSUMERS", key, "workers"],
        ]
    commands += [["XRANGE", f"{tag}:dead", "-", "+"], ["ZRANGE", f"{tag}:delayed", "0", "-1", "WITHSCORES"]]
    tasks = ("delayed:body", "workers", "clock", "unique", "counters", "epoch", "control", "turns")
    names = (*tasks, "fired", "fired:queued")
    commands += [["HGETALL", f"{tag}:{name}"] for name in names]
    commands += [["ZRANGE", f"{tag}:leases", "0", "-1", "WITHSCORES"], ["LLEN", f"{tag}:bell"]]
    replies = client.execute_command("EVAL", _READ_ALL, 0, json.dumps(commands))
    entries, pending, consumers = _task_streams(replies)
    dead, delayed, *hashes, leases, bell = replies[3 * len(STREAMS) :]
    bodies, workers, clock, unique, counters, epoch, control, turns, fired, queued = hashes
    snapshot = Snapshot(
        streams=entries,
        pending=pending,
        consumers=consumers,
        dead=_entries(dead),
        delayed={task: int(float(due)) for task, due in _pairs(delayed)},
        bodies={task: _envelope(text) for task, text in _pairs(bodies)},
        workers={worker: parse_row(text) for worker, text in _pairs(workers)},
        leases={worker: int(float(score)) for worker, score in _pairs(leases)},
        clock={name: int(value) for name, value in _pairs(clock)},
        unique=dict(_pairs(unique)),
        counters={name: int(value) for name, value in _pairs(counters)},
        epoch=dict(_pairs(epoch)),
        turns=dict(_pairs(turns)),
        paused=dict(_pairs(control)).get("paused") == "1",
        bell=int(bell),
        fired=dict(_pairs(fired)),
        queued={schedule: _envelope(text) for schedule, text in _pairs(queued)},
    )
    _find_places(snapshot)
    return snapshot


def _task_streams(
    replies: Sequence[Any],
) -> tuple[dict[str, list[tuple[str, Fields]]], dict[str, dict[str, str]], dict[str, dict[str, int]]]:
    entries: dict[str, list[tuple[str, Fields]]] = {}
    pending: dict[str, dict[str, str]] = {}
    consumers: dict[str, dict[str, int]] = {}
    for i, s in enumerate(STREAMS):
        found, rows, names = replies[3 * i : 3 * i + 3]
        entries[s] = _entries(found)
        pending[s] = {_text(r[0]): _text(r[1]) for r in rows}
        consumers[s] = {_text(c[1]): int(c[3]) for c in names}
    return entries, pending, consumers


def _entries(reply: Any) -> list[tuple[str, Fields]]:
    return [(_text(entry), dict(_pairs(flat))) for entry, flat in reply]


def _envelope(text: str) -> Fields:
    return dict(_pairs(json.loads(text)))


def _find_places(s: Snapshot) -> None:
    def add(task: str, place: Place) -> None:
        s.places.setdefault(task, []).append(place)

    for name in STREAMS:
        for entry, fields in s.streams[name]:
            owner = s.pending[name].get(entry, "")
            add(fields.get("task", f"?{name}:{entry}"), Place(name, entry, owner, tuple(fields.items())))
    for task, due in s.delayed.items():
        add(task, Place("delayed", str(due), "", tuple(s.bodies.get(task, {}).items())))
    for entry, fields in s.dead:
        add(fields["task"], Place("dead", entry, "", tuple(fields.items())))

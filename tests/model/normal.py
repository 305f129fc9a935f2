"""One form for what the model holds and what the server holds: equal when the scripts did what the model says."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from model.partition import SEEN_BUCKET, STREAMS, Entry, Event, State, shortest_term
from property.snapshot import Fields, Raw, Snapshot, first_of, token_of

Form: TypeAlias = dict[str, object]
Told: TypeAlias = tuple[object, ...]

# What a snapshot leaves out: worker rows as they stand, the IDs seen lately, the events since the last look. Answers
# the doorbell too, so that the next step has to ring it again.
_READ_REST = """
redis.call('DEL', KEYS[5])
return { redis.call('HGETALL', KEYS[1]), redis.call('SMEMBERS', KEYS[2]), redis.call('SMEMBERS', KEYS[3]),
  redis.call('XRANGE', KEYS[4], ARGV[1], '+'), redis.call('SMEMBERS', KEYS[6]) }
"""


def token_text(token: tuple[int, int]) -> str:
    """An incarnation as the scripts write it; the model's 0 stands for a consumer that never joined."""
    return f"{token[0]}-{nonce_text(token[1])}"


def nonce_text(nonce: int) -> str:
    """A nonce as the scripts write it."""
    return f"{nonce:016x}" if nonce else "unknown"


class Names:
    """Which of the server's entry IDs is which of the model's; learnt from the order in each stream."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, str], int] = {}
        self._reals: dict[int, str] = {}
        self._firsts: dict[tuple[str, str], int] = {}

    def learn(self, stream: str, entries: Iterable[tuple[str, Fields]], models: Iterable[int]) -> None:
        """New entries are paired by their place; those known stay what they are."""
        for (real, fields), model in zip(entries, models, strict=False):
            if (stream, real) not in self._models:
                self._models[stream, real] = model
                self._reals[model] = real
                self._firsts.setdefault((fields["task"], real), model)

    def model(self, stream: str, real: str) -> int:
        """-1 for what the model cannot know."""
        return self._models.get((stream, real), -1)

    def real(self, model: int) -> str:
        """An ID that never was for one that the server has never had."""
        return self._reals.get(model, "1-1")

    def first(self, task: str, real: str) -> int:
        """The model's ID of the first entry that carried this task."""
        return self._firsts.get((task, real), -1) if real else 0


class Rest(NamedTuple):
    """What `property.snapshot` leaves out. `ended`: of worker rows that do not live; `seen`: even and odd buckets."""

    ended: dict[str, int]
    seen: tuple[set[str], set[str]]
    accepted: set[str]
    events: list[dict[str, Any]]
    last_event: str


def read_rest(raw: Raw, tag: str, after: str) -> Rest:
    """Reads that, with the events after entry ID `after`."""
    keys = [f"{tag}:{name}" for name in ("workers", "seen:0", "seen:1", "events", "bell", "rebuild:accepted")]
    rows, even, odd, batches, accepted = raw.execute_command("EVAL", _READ_REST, 6, *keys, f"({after}")
    texts = dict(zip(rows[::2], rows[1::2], strict=True))
    ended = {name.decode(): int(row.split(b"|", 2)[1]) for name, row in texts.items() if row[:1] in (b"!", b"~")}
    seen = {task.decode() for task in even}, {task.decode() for task in odd}
    events = [event for _, fields in batches for event in json.loads(fields[3])]
    last = batches[-1][0].decode() if batches else after
    return Rest(ended, seen, {task.decode() for task in accepted}, events, last)


def of_model(s: State, counters: Mapping[str, int]) -> Form:
    """The model's state."""
    bucket = s.lease // SEEN_BUCKET
    term = shortest_term(row for _, row in s.workers)
    return {
        **{name: [_of_entry(e) for e in stream] for name, stream in zip(STREAMS, s.streams, strict=True)},
        "delayed": sorted((due, _of_entry(e._replace(id=0))) for due, _, e in s.delayed),
        "dead": [(cause, _of_entry(e._replace(id=i))) for i, cause, e in s.dead],
        "workers": {name: (r.state, r.cause, token_text(r.token), r.term, r.ended) for name, r in s.workers},
        "leases": dict(s.leases),
        "turns": dict(s.turns),
        "clock": (s.wall, s.lease, term // 3 if term else None),
        "terms": dict(Counter(f"term:{row.term}" for _, row in s.workers if row.state == "live")),
        "unique": dict(s.unique),
        "seen": sorted({task for at, task in s.seen if at in (bucket, bucket - 1)}),
        "paused": s.paused,
        "epoch": dict(s.epoch),
        "accepted": set(s.accepted),
        "counters": {name: n for name, n in counters.items() if n},
    }


def _of_entry(e: Entry) -> Told:
    return e.id, e.task, e.lane, e.max, e.deliveries, e.attempts, e.handbacks, e.token, e.first, e.unique, e.owner


def of_server(s: Snapshot, rest: Rest, names: Names) -> Form:
    """The server's."""
    owners = {(stream, real): owner for stream, rows in s.pending.items() for real, owner in rows.items()}

    def entry(stream: str, real: str, f: Fields) -> Told:
        n = [*(int(f.get(name, 0)) for name in ("deliveries", "attempts", "handbacks")), token_of(f)]
        owner, first = owners.get((stream, real), ""), names.first(f["task"], first_of(f.get("history", "")))
        model = names.model(stream, real) if real else 0
        return model, f["task"], f["lane"], int(f["max"]), *n, first, f.get("unique", ""), owner

    return {
        **{name: [entry(name, real, f) for real, f in s.streams[name]] for name in STREAMS},
        "delayed": sorted((due, entry("delayed", "", s.bodies[task])) for task, due in s.delayed.items()),
        "dead": [(f["cause"], entry("dead", real, f)) for real, f in s.dead],
        "workers": {
            name: (row.state, row.cause, row.token, row.term, rest.ended.get(name, 0))
            for name, row in s.workers.items()
        },
        "leases": s.leases,
        "turns": {name: int(number) for name, number in s.turns.items()},
        "clock": (s.clock.get("wall"), s.clock.get("lease"), s.clock.get("cap")),
        "terms": {name: n for name, n in s.clock.items() if name.startswith("term:")},
        "unique": s.unique,
        "seen": sorted(_seen(s.clock.get("lease", 0) // SEEN_BUCKET, s.clock.get("seen", 0), rest.seen)),
        "paused": s.paused,
        "epoch": {name: value for name, value in s.epoch.items() if name not in {"layout", "nonce"}},
        "accepted": rest.accepted,
        "counters": s.counters,
    }


def _seen(bucket: int, known: int, seen: tuple[set[str], set[str]]) -> set[str]:
    """What the next enqueue would still know. The sets are emptied when they are used, not when time passes."""
    if bucket == known:
        return seen[0] | seen[1]
    return seen[known % 2] if bucket == known + 1 else set()


def events_of_model(events: Iterable[Event]) -> list[Told]:
    """By kind and worker, in their order within; who moves how far in a pass is in the order of `Moved`."""
    return _sorted(row for event in events for row in _row_of_model(event))


def _row_of_model(event: Event) -> Iterator[Told]:
    rows: Any = event
    match rows:
        case ("PassBegan", _) | ("Moved", _, _, _, _, _, -1):
            return
        case ("Moved", cause, worker, _, _, task, target):
            yield "Moved", worker, cause, task, STREAMS[target]
        case ("Started", worker, task, _, _):
            yield "Started", worker, task
        case ("Died", worker, task, cause, _):
            yield "Died", worker, task, cause
        case ("WorkerFenced" | "WorkerGone" as kind, worker, token, cause):
            yield kind, worker, token_text(token), cause
        case ("WorkerJoined", worker, token):
            yield "WorkerJoined", worker, token_text(token)
        case ("SettlementsRefused", worker, token, tasks):
            yield "SettlementsRefused", worker, token_text(token), tasks
        case ("Enqueued" | "Promoted" | "Redriven" | "Purged" as kind, task):
            yield kind, "", task
        case _:
            yield rows


def events_of_server(events: Sequence[dict[str, Any]]) -> list[Told]:
    """The same for the server's."""
    return _sorted(row for event in events for row in _rows_of_server(event))


def _rows_of_server(event: dict[str, Any]) -> Iterator[Told]:
    kind, worker, tasks = event["type"], event.get("worker", ""), event.get("tasks", [])
    match kind:
        case "Moved":
            yield from ((kind, worker, event["cause"], row[0], row[1]) for row in tasks)
        case "Settled" | "Started":
            yield from ((kind, worker, row[0]) for row in tasks)
        case "Retried":
            yield from ((kind, worker, row[0], "parked" if row[6] else "retry") for row in tasks)
        case "Died":
            yield from ((kind, worker, row[0], row[2]) for row in tasks)
        case "WorkerFenced" | "WorkerGone":
            yield kind, worker, event["token"], event["cause"]
        case "WorkerJoined":
            yield kind, worker, event["token"]
        case "SettlementsRefused":
            yield kind, worker, event["token"], tuple(row[0] for row in event["entries"])
        case "Enqueued" | "Promoted" | "Redriven" | "Purged":
            yield from ((kind, "", row[0]) for row in tasks)
        case "QueuePaused" | "QueueResumed":
            yield (kind,)
        case "Restored":
            yield from ((kind, event["rebuild"], row[0], row[1], row[3], row[4], row[6]) for row in tasks)
        case "Dropped":
            yield from ((kind, event["rebuild"], row[0], row[1], row[3]) for row in tasks)
        case _:
            yield kind, worker, str(event)


def _sorted(rows: Iterable[Told]) -> list[Told]:
    return sorted(rows, key=lambda row: row[:2] if len(row) > 1 else (*row, ""))

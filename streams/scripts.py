"""One typed caller for each Lua script: what to send, and what the reply means. No IO here.

A `Call` is sent by `reclaimd.streams.redis_log`. `now` is None for the server's own clock; tests pass wall
milliseconds. Every call may be sent again after a lost reply (docs/protocol.md says what each then does).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from reclaimd.streams.codec import Delivery, Settlement, parse_delivery
from reclaimd.streams.keys import Partition
from reclaimd.streams.lua_source import Script, load_script

T = TypeVar("T")
Arg = str | bytes | int

_json = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One invocation of a script. `parse` turns the raw reply (bytes, ints, lists) into `T`."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[Arg, ...]
    parse: Callable[[Any], T]


def _call(name: str, partition: Partition, now: int | None, args: Iterable[Arg], parse: Callable[[Any], T]) -> Call[T]:
    script = load_script(name)
    return Call(script, partition.keys(script.key_names), ("" if now is None else now, *args), parse)


class NewTask(NamedTuple):
    """A task to enqueue. `delay_ms`: 0 for at once."""

    task_id: str
    lane: str
    max_deliveries: int
    body: bytes
    unique: str = ""
    schedule: str = ""
    delay_ms: int = 0


class Enqueued(NamedTuple):
    """What became of one task. `status`: ok, duplicate (its ID was seen before) or exists (`task_id` holds the unique
    key).
    """

    status: str
    task_id: str
    entry_id: str


def enqueue(
    partition: Partition, tasks: Sequence[NewTask], *, epoch_id: str, now: int | None = None
) -> Call[list[Enqueued]]:
    """Add tasks; `epoch_id` names the epoch if this is the first write into nothing."""
    args: list[Arg] = [epoch_id]
    for t in tasks:
        args += (t.task_id, t.lane, t.max_deliveries, t.unique, t.schedule, t.delay_ms, t.body)
    return _call("enqueue", partition, now, args, _parse_enqueued)


def _parse_enqueued(reply: list[list[bytes]]) -> list[Enqueued]:
    return [Enqueued(status.decode(), task.decode(), entry.decode()) for status, task, entry in reply]


class Joined(NamedTuple):
    """status: ok (`token` is ours), live (`holder` has `left_ms` left), more (call again), fenced (take another
    nonce), state (the partition's `state` lets nobody begin: wait).
    """

    status: str
    token: str = ""
    holder: str = ""
    left_ms: int = 0
    state: str = "ok"


class Identity(NamedTuple):
    """Who joins. `evidence`: JSON object; `proof`: nonces of earlier incarnations of this ID that are proven
    dead, between spaces, or empty.
    """

    worker: str
    nonce: str
    lease_ms: int
    evidence: str
    proof: str = ""
    after_fence: bool = False


def join(
    partition: Partition, who: Identity, *, epoch_id: str, limit: int = 500, now: int | None = None
) -> Call[Joined]:
    """Begin an incarnation; moves at most `limit` entries of the one before."""
    args = (epoch_id, who.worker, who.nonce, who.lease_ms, who.evidence, who.proof, limit, int(who.after_fence))
    return _call("join", partition, now, args, _parse_joined)


def _parse_joined(reply: list[Any]) -> Joined:
    status = reply[0].decode()
    if status == "ok":
        return Joined(status, token=reply[1].decode())
    if status == "live":
        return Joined(status, holder=reply[1].decode(), left_ms=int(reply[2]))
    if status == "state":
        return Joined(status, state=reply[1].decode())
    return Joined(status)


class Turn(NamedTuple):
    """What one turn asks for. `running`: (stream index, entry ID) of what runs here, for an audit; None for none.

    `number` grows with every turn of an incarnation, so that one which arrives late, after its sender gave it up, does
    nothing. None: not numbered, for callers that never send a second one before the first was answered.
    """

    want: int
    suspect_ok: bool
    settlements: Sequence[Settlement] = ()
    running: Sequence[tuple[int, str]] | None = None
    number: int | None = None


class Turned(NamedTuple):
    """status: ok, fenced, late, or state (the partition's `state` forbids running). `lost`: running entries not
    pending any more.
    """

    status: str
    deliveries: Sequence[Delivery] = ()
    handed_back: int = 0
    lost: Sequence[tuple[int, str]] = ()
    stale: int = 0
    paused: bool = False
    state: str = "ok"


def turn(partition: Partition, worker: str, token: str, ask: Turn, *, now: int | None = None) -> Call[Turned]:
    """Renew, settle, audit, read, in one round trip. At most 500 settlements and 1,000 wanted."""
    settlements = _json.encode(ask.settlements) if ask.settlements else b""
    running = b"" if ask.running is None else _json.encode(ask.running)
    number = "" if ask.number is None else ask.number
    args = (worker, token, ask.want, int(ask.suspect_ok), settlements, running, number)
    return _call("turn", partition, now, args, _parse_turned)


def _parse_turned(reply: list[Any]) -> Turned:
    status = reply[0].decode()
    if status == "state":
        return Turned(status, state=reply[1].decode())
    if status != "ok":
        return Turned(status)
    _, _, entries, handed_back, lost, stale, paused = reply
    return Turned(
        status,
        [parse_delivery(stream, entry_id, fields) for stream, entry_id, fields in entries],
        handed_back,
        [(stream, entry_id.decode()) for stream, entry_id in lost],
        stale,
        bool(paused),
    )


def beat(partition: Partition, worker: str, token: str, *, now: int | None = None) -> Call[bool]:
    """Renew the lease; False when fenced."""
    return _call("beat", partition, now, (worker, token), lambda reply: reply[0] == b"ok")


class Drained(NamedTuple):
    """status: ok, more (call again), fenced / gone: that incarnation is not there any more, or state: it is fenced, and
    its entries are moved when the partition is open again.
    """

    status: str
    moved: int = 0


def _parse_drained(reply: list[Any]) -> Drained:
    return Drained(reply[0].decode(), reply[1] if len(reply) > 1 else 0)


def leave(partition: Partition, worker: str, token: str, *, limit: int = 500, now: int | None = None) -> Call[Drained]:
    """End this incarnation gracefully and hand everything back."""
    return _call("leave", partition, now, (worker, token, limit), _parse_drained)


def release(
    partition: Partition,
    worker: str,
    nonce: str,
    *,
    asked: bool = False,
    limit: int = 500,
    now: int | None = None,
) -> Call[Drained]:
    """Fence an incarnation whose process is proven dead, and move its entries.

    `asked`: it died because it was told to stop, so its tasks are handed back rather than counted as delivered.
    """
    return _call("release", partition, now, (worker, nonce, limit, "left" if asked else "released"), _parse_drained)


class Reclaimed(NamedTuple):
    """One call of a reclaim pass. `more`: call again; `workers`: dead workers in the pass. Nothing was done when the
    partition's `state` is neither ok nor absent.
    """

    moved: int
    more: bool
    workers: int
    state: str = "ok"


def reclaim(
    partition: Partition, *, limit: int = 500, unknown: bool = False, now: int | None = None
) -> Call[Reclaimed]:
    """Fence the dead and move up to `limit` of their entries; `unknown` also looks for consumers without a row."""
    return _call("reclaim", partition, now, (limit, int(unknown)), _parse_reclaimed)


def _parse_reclaimed(reply: list[Any]) -> Reclaimed:
    moved, more, workers, state = reply
    return Reclaimed(moved, bool(more), workers, state.decode())


class Promoted(NamedTuple):
    """`next_due`: wall milliseconds of the next delayed task, or None. `more`: call again. Nothing was done when the
    partition's `state` is neither ok nor absent.
    """

    promoted: int
    next_due: int | None
    more: bool = False
    state: str = "ok"


def promote(partition: Partition, *, limit: int = 500, now: int | None = None) -> Call[Promoted]:
    """Bring delayed tasks that are due to their lanes."""
    return _call("promote", partition, now, (limit,), _parse_promoted)


def _parse_promoted(reply: list[Any]) -> Promoted:
    promoted, next_due, more, state = reply
    return Promoted(promoted, int(float(next_due)) or None, bool(more), state.decode())


def view(partition: Partition, *, now: int | None = None) -> Call[bytes]:
    """Advance lease time and read the partition's numbers, as JSON of `daemon.view.PartitionView`."""
    return _call("view", partition, now, (), bytes)


def ring(partition: Partition, *, now: int | None = None) -> Call[int]:
    """Ring the doorbell."""
    return _call("ring", partition, now, (), int)


def pause(partition: Partition, paused: bool, *, now: int | None = None) -> Call[bool]:
    """Pause or resume; False when it already was so."""
    return _call("pause", partition, now, (int(paused),), bool)


class Redriven(NamedTuple):
    """status: ok (`detail`: new entry ID), missing, foreign, or exists (`detail`: who holds the unique key)."""

    status: str
    task_id: str
    detail: str


def redrive(partition: Partition, entry_ids: Sequence[str], *, now: int | None = None) -> Call[list[Redriven]]:
    """Dead letters back to their lanes; entry IDs of `:dead`, at most 500."""
    return _call("redrive", partition, now, entry_ids, _parse_redriven)


def _parse_redriven(reply: list[list[bytes]]) -> list[Redriven]:
    return [Redriven(*(part.decode() for part in row)) for row in reply]


def purge(partition: Partition, entry_ids: Sequence[str], *, now: int | None = None) -> Call[int]:
    """Delete dead letters; entry IDs of `:dead`, at most 500. Returns how many were there."""
    return _call("purge", partition, now, entry_ids, int)


class Cleaned(NamedTuple):
    """`workers`: IDs whose rows are forgotten; `consumers`: (stream, consumer) deleted."""

    workers: list[str]
    consumers: list[tuple[str, str]]


def cleanup(
    partition: Partition, *, older_than_ms: int = 0, dry_run: bool = False, now: int | None = None
) -> Call[Cleaned]:
    """Forget workers gone for that long, and empty consumers without a worker."""
    return _call("cleanup", partition, now, (older_than_ms, int(dry_run)), _parse_cleaned)


def _parse_cleaned(reply: list[Any]) -> Cleaned:
    workers, consumers = reply
    return Cleaned([w.decode() for w in workers], [(stream.decode(), name.decode()) for stream, name in consumers])


class Limits(NamedTuple):
    """What `retain` keeps: ages in milliseconds, and numbers of entries.

    `archived`: entry ID up to which events are archived, which alone may go; empty when there is no archive.
    """

    dead_age_ms: int
    dead_max: int
    events_age_ms: int
    events_max: int
    archived: str = ""


def retain(partition: Partition, limits: Limits, *, now: int | None = None) -> Call[tuple[int, int]]:
    """Trim dead letters and events; returns how many of each went."""
    return _call("retain", partition, now, limits, lambda r: (r[0], r[1]))


ALL_SCRIPTS = (
    "enqueue",
    "join",
    "turn",
    "beat",
    "leave",
    "release",
    "reclaim",
    "promote",
    "view",
    "ring",
    "pause",
    "redrive",
    "purge",
    "cleanup",
    "retain",
    "fire",
    "retire",
    "adopt",
    "tail",
    "freeze",
    "restore",
    "drop",
    "finish",
)

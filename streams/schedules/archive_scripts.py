"""Typed callers of the scripts between the log of schedules and its archive (docs/protocol.md). No IO here.

The archive proves by a *mark* that the log in Redis is the one that it has read: a text that each reading replaces, and
which nothing else writes. Marks are texts `<number>:<nonce>`; the numbers only grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from reclaimd.streams.keys import schedule_epoch_key, schedule_events_key, schedule_snapshots_key
from reclaimd.streams.lua_source import load_script
from reclaimd.streams.scripts import Arg, Call

TAIL_EVENTS: Final = 1_000
TAIL_BYTES: Final = 1_000_000
_KEYS: Final = {
    "epoch": schedule_epoch_key,
    "events": schedule_events_key,
    "snapshots": schedule_snapshots_key,
}


class Facts(NamedTuple):
    """What `{ns:schedules}:epoch` says, `state` being `absent` when there is none, and what is there.

    `missing`: of events and snapshots those that are not the keys that the archive knew. `gap`: events were trimmed
    that it may not have read.
    """

    state: str
    archive_id: str = ""
    mark: str = ""
    mark_before: str = ""
    rebuild: str = ""
    missing: tuple[str, ...] = ()
    gap: bool = False


class LogEntry(NamedTuple):
    """An entry of the log. `e`: its event's bytes; of an entry that is none of ours, all of it."""

    entry_id: str
    e: bytes


class ScheduleTail(NamedTuple):
    """`events` only when `agreed`: the log is the one that the archive has read.

    `now`: the server's wall ms; `more`: not all were read.
    """

    agreed: bool
    facts: Facts
    now: int = 0
    events: tuple[LogEntry, ...] = ()
    more: bool = False


class Frozen(NamedTuple):
    """status: ok, foreign (another archive's), or changed (not as it was seen: look again).

    `remembered`: up to where these data knew themselves archived, or empty; `done`: this rebuild has been finished.
    """

    status: str
    remembered: str = ""
    done: bool = False


class SnapshotEnd(NamedTuple):
    """What a commit says of a snapshot; `of`: its header."""

    of: str
    chunks: int
    rows: int
    checksum: str


def _call(name: str, namespace: str, args: tuple[Arg, ...], parse: Any, now: int | None = None) -> Call[Any]:
    script = load_script(name)
    keys = tuple(_KEYS[key](namespace) for key in script.key_names)
    return Call(script, keys, ("" if now is None else now, *args), parse)


def schedules_adopt(namespace: str, archive_id: str, seen_mark: str, mark: str, *, accept: bool = False) -> Call[str]:
    """Follow this log from now on. `accept`: also when it is frozen.

    Returns ok, foreign (another archive's), changed (the mark is not as seen), or the state that forbids it.
    """
    return _call("schedules_adopt", namespace, (archive_id, seen_mark, mark, int(accept)), _status_or_state)


def schedules_tail(
    namespace: str,
    archive_id: str,
    mark: str,
    next_mark: str,
    position: str,
    *,
    most: int = TAIL_EVENTS,
    most_bytes: int = TAIL_BYTES,
    fence: int = 0,
) -> Call[ScheduleTail]:
    """Read what is behind `position`. `mark`: the one that is committed with it; `next_mark` replaces it in Redis.

    `fence`: the owner's beat, as in `Expected`.
    """
    args = (archive_id, mark, next_mark, position, most, most_bytes, fence)
    return _call("schedules_tail", namespace, args, _parse_tail)


def schedules_freeze(
    namespace: str, archive_id: str, seen_mark: str, rebuild_id: str, state: str, position: str
) -> Call[Frozen]:
    """Let nothing fire until it is rebuilt. `state`: lost, or rebuilding; `position`: the archive's."""
    args = (archive_id, seen_mark, rebuild_id, state, position)
    return _call("schedules_freeze", namespace, args, _parse_frozen)


def schedules_finish(
    namespace: str, archive_id: str, rebuild_id: str, mark: str, position: str, keep_from: str, end: SnapshotEnd
) -> Call[str]:
    """Put the snapshot that ends with `end` in the place of all events before `keep_from`.

    Returns ok, again (it is done already), moved (another rebuild, or another loss), overtaken (write it again).
    """
    args = (archive_id, rebuild_id, mark, position, keep_from, *end)
    return _call("schedules_finish", namespace, args, _status)


def schedules_commit(namespace: str, restored: str, end: SnapshotEnd, covers: str) -> Call[str]:
    """End a snapshot of a fold that was begun when `restored` was the last restoration. Returns ok or overtaken."""
    return _call("schedules_commit", namespace, (restored, *end, covers), _status)


def _status(reply: list[bytes]) -> str:
    return reply[0].decode()


def _status_or_state(reply: list[bytes]) -> str:
    return reply[-1].decode()


def _parse_frozen(reply: list[bytes]) -> Frozen:
    words = [word.decode() for word in reply]
    return Frozen("ok", words[1], words[2] == "done") if words[0] == "ok" else Frozen(words[0])


def _parse_tail(reply: list[Any]) -> ScheduleTail:
    status, facts = reply[0].decode(), _facts(reply[1])
    if status != "ok":
        return ScheduleTail(False, facts)
    _, _, now, entries, more = reply
    events = tuple(LogEntry(entry_id.decode(), _event(fields)) for entry_id, fields in entries)
    return ScheduleTail(True, facts, now, events, bool(more))


def _facts(reply: list[Any]) -> Facts:
    state, archive_id, mark, mark_before, rebuild = (word.decode() for word in reply[:5])
    missing = tuple(sorted(name.decode() for name in reply[5]))
    return Facts(state, archive_id, mark, mark_before, rebuild, missing, reply[6] != b"")


def _event(flat: list[bytes]) -> bytes:
    fields: Mapping[bytes, bytes] = dict(zip(flat[::2], flat[1::2], strict=True))
    return event_of(fields)


def event_of(fields: Mapping[bytes, bytes]) -> bytes:
    """The event in an entry; of an entry that is none of ours, all of it, as the fold takes it."""
    event = fields.get(b"e")
    return b"\n".join(b"%s\n%s" % pair for pair in fields.items()) if event is None else event

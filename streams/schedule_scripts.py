"""Typed callers of the scripts that archive the schedules of a namespace. No IO here.

They are to `{ns:schedules}` what those of `reclaimd.streams.archive_scripts` are to a partition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from reclaimd.streams.archive_scripts import TAIL_BYTES, TAIL_ENTRIES
from reclaimd.streams.keys import schedule_epoch_key, schedule_events_key, schedule_snapshots_key
from reclaimd.streams.lua_source import load_script
from reclaimd.streams.scripts import Arg, Call

T = TypeVar("T")


class ScheduleFacts(NamedTuple):
    """`epoch`: there is one. `keys`: there are events or snapshots. `state`: ok, absent, lost, rebuilding. `missing`:
    `events`, `snapshots`, when they have no sentinel.
    """

    epoch: bool
    keys: bool
    state: str
    archive_id: str
    mark: str
    mark_before: str
    rebuild: str
    missing: tuple[str, ...]


class ScheduleTail(NamedTuple):
    """`events`: (entry ID, field `e`) behind the position, nothing unless `ok`. `first`: ID of the oldest event that is
    there, `snapshot`: of the newest entry among the snapshots; both empty for none. `marked`: the next mark is written.
    """

    ok: bool
    facts: ScheduleFacts
    events: Sequence[tuple[str, bytes]] = ()
    more: bool = False
    first: str = ""
    snapshot: str = ""
    marked: bool = False


class ScheduleStatus(NamedTuple):
    """status: ok, changed (not as it was seen), foreign (another archive has it), or state."""

    status: str
    state: str = "ok"


def _call(name: str, namespace: str, now: int | None, args: Iterable[Arg], parse: Callable[[Any], T]) -> Call[T]:
    keys = (schedule_epoch_key(namespace), schedule_events_key(namespace), schedule_snapshots_key(namespace))
    return Call(load_script(name), keys, ("" if now is None else now, *args), parse)


def schedules_tail(
    namespace: str,
    *,
    archive_id: str,
    mark: str,
    next_mark: str,
    position: str,
    entries: int = TAIL_ENTRIES,
    now: int | None = None,
) -> Call[ScheduleTail]:
    """Read events behind `position`, if `mark` is the one that the archive has committed; `next_mark` as in `tail`."""
    return _call(
        "schedules_tail", namespace, now, (archive_id, mark, next_mark, entries, TAIL_BYTES, position), _parse_tail
    )


def _parse_tail(reply: list[Any]) -> ScheduleTail:
    epoch, keys, *texts, missing = reply[1]
    facts = ScheduleFacts(bool(epoch), bool(keys), *(t.decode() for t in texts), tuple(m.decode() for m in missing))
    if reply[0] != b"ok":
        return ScheduleTail(False, facts)
    _, _, events, more, first, snapshot, marked = reply
    return ScheduleTail(
        True,
        facts,
        [(entry_id.decode(), _event(fields)) for entry_id, fields in events],
        bool(more),
        first.decode(),
        snapshot.decode(),
        bool(marked),
    )


def _event(fields: list[bytes]) -> bytes:
    return dict(zip(fields[::2], fields[1::2], strict=True)).get(b"e", b"")


def schedules_adopt(
    namespace: str, *, archive_id: str, seen_mark: str, mark: str, now: int | None = None
) -> Call[ScheduleStatus]:
    """Begin to archive. `seen_mark`: as it was read, empty for none."""
    return _call("schedules_adopt", namespace, now, (archive_id, seen_mark, mark), _parse_status)


def schedules_freeze(
    namespace: str,
    *,
    archive_id: str,
    seen_mark: str,
    rebuild_id: str,
    state: Literal["lost", "rebuilding"],
    now: int | None = None,
) -> Call[ScheduleStatus]:
    """Say that they are not whole: daemons that heed `state` fire nothing until `schedules_finish`.

    Again with the same `rebuild_id` it goes on; `lost` becomes `rebuilding`, never the other way.
    """
    return _call("schedules_freeze", namespace, now, (archive_id, seen_mark, rebuild_id, state), _parse_status)


def schedules_finish(
    namespace: str, *, archive_id: str, rebuild_id: str, mark: str, now: int | None = None
) -> Call[ScheduleStatus]:
    """They are whole again; also ok when it was finished before. changed: that rebuild is not the one that runs."""
    return _call("schedules_finish", namespace, now, (archive_id, rebuild_id, mark), _parse_status)


def _parse_status(reply: list[bytes]) -> ScheduleStatus:
    status, state = (part.decode() for part in reply)
    return ScheduleStatus(status, state)

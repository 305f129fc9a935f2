"""Typed callers of the scripts that make tasks of a schedule's instants. No IO here.

`:fired` records for each schedule what was dealt with. The scripts hold every row of a plan against that, so that a
plan made on a stale view, sent twice or sent by two daemons has no second effect (docs/protocol.md "Schedules").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

import msgspec

from reclaimd.streams.keys import Partition
from reclaimd.streams.lua_source import load_script
from reclaimd.streams.scripts import Call

FIRE_ROWS: Final = 200
"""What one call of `fire` or `retire` may hold, so that it does not block the server for more than about 5 ms."""
FIRE_BYTES: Final = 262_144
"""What the bodies of one call may come to, about."""
VIEW_MS: Final = 5_000
"""How far the view of a plan may be from the server's present."""

FireOverlap = Literal["allow", "skip", "queue_one", "wait"]
FireStatus = Literal[
    "fired", "queued", "skipped", "open", "finished", "early", "stale", "duplicate", "behind", "unreadable"
]


class Fired(msgspec.Struct, frozen=True, gc=False):
    """What was dealt with of a schedule. `last`: nominal wall ms of the last instant that was fired, queued or skipped
    in this generation, 0 for none; `count`: fired or queued in it; `open`: task_id of the open task, or empty.
    """

    generation: str = "0-0"
    last: int = 0
    count: int = 0
    open: str = ""


class FireRow(NamedTuple):
    """Make a task of one instant. `after`: the `last` that this plan stands on, 0 for a generation that has none;
    `due`: nominal plus jitter; `limit`: how many in a generation, 0 for any number. Instants are wall ms.
    """

    schedule: str
    generation: str
    after: int
    nominal: int
    due: int
    overlap: FireOverlap
    lane: str
    max_deliveries: int
    body: bytes
    limit: int = 0


class SkipRow(NamedTuple):
    """Pass over the instants behind `after`, up to and with `upto`. `number`: how many, -1 when nobody counted."""

    schedule: str
    generation: str
    after: int
    upto: int
    number: int
    reason: str


class RunRow(NamedTuple):
    """Make a task now, whatever the schedule says. The same `request_id` (1-40 of A-Z a-z 0-9 . _ -) makes one task."""

    schedule: str
    request_id: str
    lane: str
    max_deliveries: int
    body: bytes


Row: TypeAlias = FireRow | SkipRow | RunRow


class FireResult(NamedTuple):
    """What became of one row, and the schedule's row after it.

    fired (`entry_id`), queued behind the open task, skipped. Nothing changed when: open (overlap `wait`), finished (the
    limit is reached), early (not due by the server's clock), stale (a newer generation fires), duplicate (dealt with
    before), behind (`after` is not the last: plan again from `fired`), unreadable (somebody wrote another row). For a
    run `fired` is empty and the status is fired or duplicate.
    """

    status: FireStatus
    fired: Fired
    entry_id: str = ""


class FireReply(NamedTuple):
    """status: ok (`rows`: one result each, `now`: the server's wall ms), old (the view is: read again, plan again), or
    state (the partition's `state` forbids firing).
    """

    status: str
    rows: Sequence[FireResult] = ()
    now: int = 0
    state: str = "ok"


def fire(
    partition: Partition,
    rows: Sequence[Row],
    *,
    seen_at: int | None,
    epoch_id: str = "",
    now: int | None = None,
) -> Call[FireReply]:
    """At most FIRE_ROWS rows and about FIRE_BYTES of bodies, those of one schedule in the order of their instants.

    `seen_at`: server wall ms at which the schedules were known to be as the plan takes them; None only for runs.
    `epoch_id` names the epoch if this is the first write into nothing; without it nothing fires there.
    """
    lines = "".join([_line(row) for row in rows])
    bodies = [row.body for row in rows if not isinstance(row, SkipRow)]
    script = load_script("fire")
    instants = ("" if now is None else now, epoch_id, "" if seen_at is None else seen_at)
    return Call(script, partition.keys(script.key_names), (*instants, lines, *bodies), _parse_fired)


def _line(row: Row) -> str:
    if isinstance(row, FireRow):
        schedule, generation, after, nominal, due, overlap, lane, most, _, limit = row
        line = f"fire|{schedule}|{generation}|{after}|{nominal}|{due}|{overlap}|{limit}|{lane}|{most}"
    elif isinstance(row, SkipRow):
        line = "|".join(["skip", *map(str, row)])
    else:
        line = f"run|{row.schedule}|{row.request_id}|{row.lane}|{row.max_deliveries}"
    # A newline would begin another row; as a bar it is one column too many, which the script refuses.
    return line.replace("\n", "|") + "\n"


def _parse_fired(reply: list[Any]) -> FireReply:
    status = reply[0].decode()
    if status == "state":
        return FireReply(status, state=reply[1].decode())
    if status != "ok":
        return FireReply(status)
    _, now, rows = reply
    return FireReply(status, [_result(row.decode().split("|")) for row in rows], now)


def _result(columns: list[str]) -> FireResult:
    status, generation, last, count, task, entry_id = columns
    return FireResult(cast("FireStatus", status), Fired(generation, int(last), int(count), task), entry_id)


class RetireReply(NamedTuple):
    """status: ok (`before`: the rows as they were), or state (the partition's `state` forbids it)."""

    status: str
    before: Sequence[Fired] = ()
    state: str = "ok"


def retire(
    partition: Partition, generations: Sequence[tuple[str, str]], *, now: int | None = None
) -> Call[RetireReply]:
    """Let nothing older than that generation fire here any more, and drop what is queued; (name, generation) pairs.

    For schedules that were removed (with the ID of that event) or have moved to another queue (with their new
    generation). At most FIRE_ROWS; one that stands there already is left alone.
    """
    args = ["" if now is None else now, *(part for pair in generations for part in pair)]
    script = load_script("retire")
    return Call(script, partition.keys(script.key_names), tuple(args), _parse_retired)


def _parse_retired(reply: list[Any]) -> RetireReply:
    status = reply[0].decode()
    if status == "state":
        return RetireReply(status, state=reply[1].decode())
    return RetireReply(status, [_fired(row.decode()) for row in reply[1]])


_ROW = re.compile(rb"(\d+-\d+)\|(\d+)\|(\d+)\|([^|]*)")


def _fired(row: str) -> Fired:
    generation, last, count, task = row.split("|")
    return Fired(generation, int(last), int(count), task)


def fired_rows(pairs: Iterable[tuple[bytes, bytes | None]]) -> dict[str, Fired]:
    """Rows of `:fired` (key `fired`) as HSCAN, HGETALL or HMGET beside its names give them, by schedule.

    Absent ones are left out, and so are unreadable ones: `fire` answers `unreadable` for those.
    """
    found: dict[str, Fired] = {}
    for name, value in pairs:
        columns = fired_columns(value or b"")
        if columns is not None:
            generation, last, count, task = columns.groups()
            found[name.decode(errors="replace")] = Fired(
                generation.decode(), int(last), int(count), task.decode(errors="replace")
            )
    return found


fired_columns: Final = _ROW.fullmatch
"""The columns of one row as groups of bytes, None when it cannot be read; for whoever reads a million of them."""

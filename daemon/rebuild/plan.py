"""What a rebuild does with each task: what Redis shows is held against what the archive knows. Pure.

The fencing token tells which of two states of one incarnation is the newer one. Births tell incarnations apart: an ID
that has ended may be a new task some minutes later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from reclaimd.daemon.rebuild import envelopes
from reclaimd.daemon.rebuild.occurrences import occurrence
from reclaimd.daemon.rebuild.rows import FOREIGN, birth_ms
from reclaimd.daemon.rebuild.values import (
    DEAD,
    DELAYED,
    QUEUED,
    Decision,
    Ended,
    FiredRow,
    Present,
    Restorable,
    TaskRow,
    Unrestorable,
    entry_ms,
)
from reclaimd.streams.ids import EntryID

RESENT_MS: Final = 300_000
"""For at least so long a producer may send an ID again without making a new task of it."""
SUSPECT_FROM: Final = 2
"""Deliveries from which on a task comes back as a suspect."""

_KEEP = Decision()


def decide(present: Present, archived: Sequence[TaskRow], ended: Ended | None) -> Decision:
    """About one task in Redis. `archived`: all rows that the archive has of its ID; `ended`: the last time it did."""
    if present.place == DEAD:
        return _decide_letter(present, archived, ended)
    rows = {row.letter: row for row in archived}
    own = rows.pop("", None)
    if ended is not None and _has_ended(present, own, ended):
        return Decision(drop=ended.why, restore=own is not None)
    if own is not None:
        # What waited for its schedule's open task has the same token in its lane, and never waits again.
        if own.token > present.token or (present.place == QUEUED and own.place != QUEUED):
            return Decision(drop="superseded", restore=True)
        return Decision(covers=("",))
    return _decide_buried(present, list(rows.values()))


def _has_ended(present: Present, own: TaskRow | None, ended: Ended) -> bool:
    """Unless it was born later than an ID may be sent again, or the archive knows this very incarnation as open."""
    if present.birth_ms > ended.at_ms + RESENT_MS:
        return False
    # Purged of older data, it came back as another letter, since the archive had not read of that, and was redriven.
    if ended.why == "purged" and present.redriven_ms > ended.at_ms:
        return False
    return own is None or birth_ms(own) != present.birth_ms


def _decide_buried(present: Present, letters: Sequence[TaskRow]) -> Decision:
    """It is open in Redis, and the archive has at most dead letters of it."""
    mine = [row for row in letters if present.birth_ms <= birth_ms(row) + RESENT_MS]
    # Redriven since, its tokens begin above that of its letter; older data may have it come back ever so often.
    if any(row.token >= present.base for row in mine):
        return Decision(drop="buried", restore=True)
    return Decision(covers=tuple(row.letter for row in mine))


def _decide_letter(present: Present, archived: Sequence[TaskRow], ended: Ended | None) -> Decision:
    """The same letter has another entry ID once a rebuild has restored it, in each past another; `dead_at` stays."""
    same = tuple(row.letter for row in archived if row.letter and _is_same_letter(row, present))
    if same:
        return Decision(covers=same)
    if ended is not None and _had_ended(present, ended):
        return Decision(drop=ended.why)
    own = next((row for row in archived if not row.letter), None)
    if own is None:
        return _KEEP
    is_same_task = birth_ms(own) == present.began_ms
    # Of one that was redriven the archive may have the letter's envelope, and with it the letter's token.
    is_redriven = is_same_task and entry_ms(own.entry_id) > present.birth_ms
    if own.token > present.token or is_redriven:
        return Decision(drop="superseded", restore=True)
    # It died of what the archive has open, and the archive has not read that yet.
    return Decision(covers=("",)) if is_same_task else _KEEP


def _had_ended(letter: Present, ended: Ended) -> bool:
    """It died before that; or after it, run again from older data that showed as open what had settled."""
    if entry_ms(letter.entry_id) <= ended.at_ms:
        return True
    return ended.why == "settled" and 0 < letter.began_ms <= ended.at_ms


def _is_same_letter(row: TaskRow, present: Present) -> bool:
    if row.letter == present.entry_id:
        return True
    return row.token == present.token and 0 < birth_ms(row) == present.birth_ms


def restorable(
    row: TaskRow, *, verdict: str, now_ms: int, seen_since_ms: int, queued: bool = True
) -> Restorable | Unrestorable:
    """How an archived task goes back to Redis, or why it can't.

    It counts one handback more, so that its fencing token is above any that was ever given out. `verdict`: of the
    loss, for its history. `seen_since_ms`: tasks enqueued from then on count as seen. `queued`: what waited in its
    schedule's queue goes on waiting there, instead of to its lane.
    """
    try:
        fields = envelopes.unpack(row.envelope)
    except ValueError as error:
        return Unrestorable(row.task_id, f"its envelope cannot be read: {error}")
    if row.place == DEAD:
        return _unchanged(
            msgspec.structs.replace(row, envelope=_letter(row, fields)), unique="", seen=row.at >= seen_since_ms
        )
    # That it was redriven was archived, and not yet what it was then.
    fields = envelopes.redriven(fields, entry_ms(row.entry_id))
    if not envelopes.is_well_formed(fields) or fields[1] != row.task_id.encode():
        return Unrestorable(row.task_id, "it is not a task of the protocol")
    e = envelopes.mapping(fields)
    unique = e.get(b"unique", b"").decode(errors="replace")
    seen = row.at >= seen_since_ms
    if row.place == QUEUED and queued:
        return _unchanged(row, unique=unique, seen=seen)
    e[b"handbacks"] = b"%d" % (envelopes.count(e.get(b"handbacks")) + 1)
    told = envelopes.history_row(now_ms, "restored", verdict, row.entry_id)
    e[b"history"] = envelopes.remember(e.get(b"history", b""), told)
    return Restorable(
        task_id=row.task_id,
        place=_place(row, envelopes.count(e.get(b"deliveries"))),
        due=row.due,
        schedule=row.schedule,
        unique=unique,
        seen=seen,
        envelope=envelopes.pack(envelopes.flat(e)),
        old_entry_id=row.entry_id,
    )


def _unchanged(row: TaskRow, *, unique: str, seen: bool) -> Restorable:
    return Restorable(row.task_id, row.place, 0, row.schedule, unique, seen, row.envelope, row.entry_id)


def _letter(row: TaskRow, fields: list[bytes]) -> bytes:
    """Of a task that died an instant before its loss only that may be archived, and not the letter."""
    if row.task_id.startswith(FOREIGN) or envelopes.is_letter(fields):
        return row.envelope
    return envelopes.pack(envelopes.letter(fields, "unknown", "only that it died was archived", entry_ms(row.entry_id)))


def _place(row: TaskRow, deliveries: int) -> str:
    if row.place == DELAYED:
        return DELAYED
    return "suspect" if deliveries >= SUSPECT_FROM else f"recovered:{row.lane}"


class FiredPlan(msgspec.Struct, frozen=True):
    """The row of a schedule after a rebuild. `release`: what is queued and must go to its lane, or empty: it is the
    open one then, because what it waited for is nowhere any more.
    """

    row: FiredRow
    release: str = ""


def fired(
    archived: FiredRow | None,
    present: FiredRow | None,
    is_open: Callable[[str], bool],
    is_queued: Callable[[str], bool],
) -> FiredPlan | None:
    """The newer of two rows, with an open task that there is. None when there is neither.

    `is_open`, `is_queued`: whether that task will be in a stream or delayed, or in `:fired:queued`, once the rebuild
    has ended. A schedule that waited for a task that is nowhere would never fire again.
    """
    rows = sorted((row for row in (archived, present) if row is not None), key=_age, reverse=True)
    if not rows:
        return None
    # Both may name one that is open: a settlement that was lost with what it released. The later, however often asked.
    task = max((row.open for row in rows if row.open and is_open(row.open)), key=occurrence, default="")
    queued = next((row.queued for row in rows if row.queued and is_queued(row.queued)), "")
    if queued and not task:
        return FiredPlan(msgspec.structs.replace(rows[0], open=queued, queued=""), release=queued)
    return FiredPlan(msgspec.structs.replace(rows[0], open=task, queued=queued))


def _age(row: FiredRow) -> tuple[EntryID, int, int]:
    return EntryID.parse(row.generation), row.last, row.count

"""What became of the log of schedules, by what Redis says of it and what the archive knows. Pure.

The words are those for partitions; what is restored is one fold, so that there is nothing to plan.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from reclaimd.daemon.rebuild.detect import foreign
from reclaimd.daemon.rebuild.marks import mark_number
from reclaimd.daemon.rebuild.values import PartitionRow, Unrestorable, Verdict
from reclaimd.streams.ids import EntryID
from reclaimd.streams.schedules.archive_scripts import Facts

FROM_START: Final = "0-0"


class Judged(NamedTuple):
    """What is to be said of restored schedules. `overdue`: occurrences that came due and were not dealt with."""

    overdue: int = 0
    problems: tuple[Unrestorable, ...] = ()


def schedules_verdict(row: PartitionRow | None, facts: Facts, archive_id: str) -> Verdict:
    """`row`: the archive's, of which the mark is empty until it has read everything once."""
    if facts.archive_id not in {"", archive_id}:
        return Verdict(kind="foreign", reason=foreign(facts.archive_id))
    if row is not None and row.state != "archiving":
        return Verdict(kind="lost" if row.state == "lost" else "rebuilding", reason=row.verdict)
    if row is None or not row.mark:
        behind = facts.archive_id == archive_id
        return Verdict(kind="archive_behind" if behind else "new", reason="nothing is archived yet")
    if not facts.archive_id:
        return _without_epoch(facts)
    return _by_mark(row, facts)


def _without_epoch(facts: Facts) -> Verdict:
    if len(facts.missing) == 2:
        return Verdict(kind="empty", reason="Redis knows of no archive any more")
    return Verdict(kind="partial", reason="epoch is gone", missing=("epoch", *facts.missing))


def _by_mark(row: PartitionRow, facts: Facts) -> Verdict:
    if row.mark in {facts.mark, facts.mark_before} and facts.state == "ok":
        if facts.missing:
            return Verdict(kind="partial", reason=f"{' and '.join(facts.missing)} is gone", missing=facts.missing)
        if facts.gap:
            return Verdict(kind="archive_behind", reason="events were trimmed that it had not read")
        return Verdict(kind="healthy")
    if mark_number(facts.mark) > mark_number(row.mark) + 1:
        return Verdict(kind="archive_behind", reason=f"it knows mark {row.mark}, Redis has {facts.mark}")
    return Verdict(kind="rolled_back", reason=f"Redis has mark {facts.mark}, the archive {row.mark}")


def last_known(
    page: Iterable[tuple[str, bytes]], archived: Mapping[str, bytes], remembered: EntryID, floor: EntryID
) -> str:
    """The last event of a page of the log that is in the archive too, or empty.

    All before it are then: data that were rolled back are a beginning of the history that is archived, and what clients
    appended since comes after it. `archived`: the events of these IDs as the archive has them. `remembered`: up to
    where these data knew themselves archived. `floor`: events up to this ID are not kept one by one any more.

    IDs alone do not tell: after a loss the server's clock may have gone back.
    """
    known = ""
    for entry_id, e in page:
        if EntryID.parse(entry_id) <= max(remembered, floor) or archived.get(entry_id) == e:
            known = entry_id
    return known


def after(entry_id: str) -> str:
    """The smallest ID above this one; `0-0` for none."""
    if not entry_id:
        return FROM_START
    ms, seq = EntryID.parse(entry_id)
    return f"{ms}-{seq + 1}"

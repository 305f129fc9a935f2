"""Whether Redis still has what the archive saw: a pure function of the archive's row and of the epoch's facts."""

from __future__ import annotations

from reclaimd.daemon.rebuild.marks import mark_number
from reclaimd.daemon.rebuild.values import Facts, PartitionRow, Verdict

EPOCH = "epoch"


def verdict(row: PartitionRow | None, facts: Facts, archive_id: str) -> Verdict:
    """What became of a partition.

    `row`: what the archive knows of it, None when nothing. `healthy`: read on. `new`: adopt it. `archive_behind`: Redis
    is the truth; adopt again and read everything again. `foreign`: another archive's, touch nothing. `empty`,
    `rolled_back`, `partial`: data were lost. `lost`: frozen for such a loss. `rebuilding`: a rebuild of ours runs.
    """
    if facts.exists and facts.archive_id not in {"", archive_id}:
        return Verdict(kind="foreign", reason=foreign(facts.archive_id))
    if row is None or not row.epoch_id:
        return _unread(facts)
    if not facts.exists:
        return _without_epoch(facts)
    if not facts.archive_id:
        return Verdict(kind="empty", reason="somebody began anew: its epoch is not archived")
    if row.new_epoch_id and facts.epoch_id == row.new_epoch_id:
        if facts.state == "lost":
            return Verdict(kind="lost", reason=f"frozen: {row.verdict}")
        return Verdict(kind="rebuilding", reason=f"rebuild {row.rebuild_id} has begun")
    return _of_epoch(row, facts)


def foreign(archive_id: str) -> str:
    """What is known of data that another archive has, and what to do about it."""
    return (
        f"the archive {archive_id} has it: correct redis_url or archive.url, or put that archive back from a backup; "
        f"if it is gone for good, reclaimd rebuild --accept --from {archive_id}"
    )


def _unread(facts: Facts) -> Verdict:
    """The archive has read nothing of it yet."""
    if facts.exists and facts.archive_id:
        return Verdict(kind="archive_behind", reason="it is archived here, but this archive knows nothing of it")
    return Verdict(kind="new", reason="it was never archived")


def _without_epoch(facts: Facts) -> Verdict:
    if facts.any_key:
        return Verdict(kind="partial", reason="its epoch is gone", missing=(EPOCH, *facts.missing))
    return Verdict(kind="empty", reason="nothing of it is there")


def _of_epoch(row: PartitionRow, facts: Facts) -> Verdict:
    if facts.epoch_id == row.epoch_id and row.mark and row.mark in {facts.mark, facts.mark_before}:
        if facts.missing:
            return Verdict(kind="partial", reason=f"gone: {', '.join(facts.missing)}", missing=facts.missing)
        if facts.state == "ok":
            return Verdict(kind="healthy")
    # Only an archive with this very ID can have written that: this one is an older copy of it.
    committed, found = mark_number(row.mark), mark_number(facts.mark)
    if facts.state == "ok" and found > committed + 1:
        return Verdict(
            kind="archive_behind", reason=f"mark {found} in Redis, {committed} in the archive: an older copy of it"
        )
    if facts.epoch_id != row.epoch_id:
        return Verdict(kind="rolled_back", reason=f"the archive knows the epoch {row.epoch_id}, not {facts.epoch_id}")
    return Verdict(kind="rolled_back", reason=f"mark {facts.mark or 'none'} in Redis, {row.mark} in the archive")

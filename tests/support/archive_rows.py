"""Archives for tests: rows as the archiver would write them."""

from typing import Any

from reclaimd.daemon.rebuild.values import (
    DEAD,
    RANKS,
    Changes,
    EventEntry,
    TaskRow,
    sort_of_entry,
)
from reclaimd.streams.keys import Partition

MAIL = Partition("t", "mail")
ME = "daemon-1"


def task(number: int, place: str = "lane:normal", **more: Any) -> TaskRow:
    """The task `t<number>` with entry ID `<number>-0`; as a dead letter when `place` says so."""
    entry_id = f"{number}-0"
    letter = entry_id if place == DEAD else ""
    fields: dict[str, Any] = {"envelope": b'["task","t%d"]' % number, "letter": letter, "entry_id": entry_id}
    fields |= {"task_id": f"t{number}", "sort": sort_of_entry(entry_id)}
    return TaskRow(place=place, rank=RANKS[place], **(fields | more))


def event(number: int, e: bytes = b"[]") -> EventEntry:
    """The batch `<number>-0`, written at `number`."""
    return EventEntry(f"{number}-0", number, e)


def upserts(*rows: TaskRow) -> Changes:
    """What brings these tasks into the archive."""
    return Changes(upserts=rows)

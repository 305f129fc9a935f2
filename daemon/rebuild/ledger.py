"""What becomes of each row of a partition's tasks while events are folded: one outcome a row, however many events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

import msgspec

from reclaimd.daemon.rebuild.values import DEAD, RANKS, Carried, TaskRow, sort_of_entry

Key: TypeAlias = tuple[str, str]
"""(task_id, letter)"""

_DELETED: Final = "deleted"
_VACATED: Final = "vacated"


class _Moving(NamedTuple):
    """The row comes from one of `sources`; if it is one of these itself, it stays where the archive has it."""

    place: str
    entry_id: str
    sources: tuple[Key, ...]


class Ledger:
    """Outcomes by row. What is not named here stays as the archive has it."""

    def __init__(self) -> None:
        self._outcomes: dict[Key, TaskRow | _Moving | str] = {}

    def put(self, row: TaskRow) -> None:
        """The row is this one."""
        key = (row.task_id, row.letter)
        self._leave_source(key)
        self._outcomes[key] = row

    def delete(self, key: Key) -> None:
        """The row is gone."""
        self._leave_source(key)
        self._outcomes[key] = _DELETED

    def carry(self, key: Key, place: str, entry_id: str) -> None:
        """The row is elsewhere now, and its envelope is not known yet."""
        outcome = self._outcomes.get(key)
        if outcome in {_DELETED, _VACATED}:
            return
        if isinstance(outcome, TaskRow):
            self._outcomes[key] = _DELETED
            self.put(_moved(outcome, place, entry_id))
            return
        # Where it was for a moment the archive may have it already: a rebuild names letters before this is read.
        sources = {**dict.fromkeys(outcome.sources if isinstance(outcome, _Moving) else ()), key: None}
        self._outcomes[key] = _VACATED
        target = (key[0], entry_id if place == DEAD else "")
        there = self._outcomes.get(target, _VACATED)
        if isinstance(there, _Moving):
            self._outcomes[target] = there._replace(sources=tuple({**dict.fromkeys(there.sources), **sources}))
        elif there == _VACATED:
            self._outcomes[target] = _Moving(place, entry_id, tuple(sources))
        else:
            self._leave(sources)

    def _leave_source(self, key: Key) -> None:
        """Nothing is carried to `key` any more; what was to be is gone from where it came."""
        outcome = self._outcomes.get(key)
        if isinstance(outcome, _Moving):
            self._leave(outcome.sources)

    def _leave(self, sources: Iterable[Key]) -> None:
        for source in sources:
            if self._outcomes.get(source) == _VACATED:
                self._outcomes[source] = _DELETED

    def carried(self) -> tuple[Carried, ...]:
        """Rows that move with their envelopes. Of those with one target the first that is there does."""
        return tuple(
            Carried(*source, outcome.place, outcome.entry_id)
            for target, outcome in self._outcomes.items()
            if isinstance(outcome, _Moving)
            for source in outcome.sources
            if source != target
        )

    def deleted(self) -> tuple[Key, ...]:
        """Rows that are gone."""
        return tuple(key for key, outcome in self._outcomes.items() if outcome == _DELETED)

    def rows(self) -> tuple[TaskRow, ...]:
        """Rows to write."""
        return tuple(outcome for outcome in self._outcomes.values() if isinstance(outcome, TaskRow))


def _moved(row: TaskRow, place: str, entry_id: str) -> TaskRow:
    letter = entry_id if place == DEAD else ""
    sort = sort_of_entry(entry_id)
    changes = {"place": place, "rank": RANKS[place], "sort": sort, "entry_id": entry_id, "letter": letter, "due": 0}
    return msgspec.structs.replace(row, **changes)

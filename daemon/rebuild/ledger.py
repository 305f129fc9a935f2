"""What becomes of each row of a partition's tasks while events are folded: one outcome a row, however many events."""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from reclaimd.daemon.rebuild.values import DEAD, RANKS, Carried, TaskRow, sort_of_entry

Key: TypeAlias = tuple[str, str]
"""(task_id, letter)"""

_DELETED: Final = "deleted"
_VACATED: Final = "vacated"


class Ledger:
    """Outcomes by row. What is not named here stays as the archive has it."""

    def __init__(self) -> None:
        self._outcomes: dict[Key, TaskRow | Carried | str] = {}

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
        carried = Carried(key[0], key[1], place, entry_id)
        self._outcomes[key] = _VACATED
        if isinstance(outcome, Carried):
            # Where it was for a moment the archive may have an older row, that of a letter read again after a rebuild.
            self._outcomes[key] = _DELETED
            carried = Carried(outcome.task_id, outcome.letter, place, entry_id)
        source, target = (carried.task_id, carried.letter), (carried.task_id, carried.to)
        if target == source:
            # Back where it came from: as it was, as far as anybody can tell without its entry.
            self._outcomes.pop(target, None)
        elif target in self._outcomes and self._outcomes[target] != _VACATED:
            self._outcomes[source] = _DELETED
        else:
            self._outcomes[target] = carried

    def _leave_source(self, key: Key) -> None:
        """Nothing is carried to `key` any more; what was to be is gone from where it came."""
        outcome = self._outcomes.get(key)
        if isinstance(outcome, Carried):
            source = (outcome.task_id, outcome.letter)
            if self._outcomes.get(source) == _VACATED:
                self._outcomes[source] = _DELETED

    def carried(self) -> tuple[Carried, ...]:
        """Rows that move with their envelopes."""
        return tuple(outcome for outcome in self._outcomes.values() if isinstance(outcome, Carried))

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

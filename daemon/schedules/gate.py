"""What forbids firing beside the scripts: nothing fires on what may be the remains of a loss. No IO."""

from collections.abc import Callable
from typing import Final

SCHEDULES: Final = "schedules"


class Gate:
    """Open, unless somebody closed it for all queues or for one. `archive_id`: of this daemon's archive, empty while it
    was not reached yet, None without one.

    With an archive the gate is closed until that has been held against Redis; the scripts refuse what has another or
    none, whatever stands here. `on_frozen` is told the state of a partition that refuses, and an empty one when that is
    over; then `on_thaw`: what was fired there may be other than known. `on_doubt` is told when somebody has reason to
    believe that Redis has forgotten something.
    """

    def __init__(
        self,
        on_frozen: Callable[[str, str], None] = lambda _, __: None,
        on_thaw: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.archive_id: str | None = None
        self.on_frozen = on_frozen
        self.on_thaw = on_thaw
        self.on_doubt: Callable[[str], None] = lambda _: None
        self._closed: dict[tuple[str, str], str] = {}

    def close(self, who: str, why: str, queue: str = "") -> None:
        """Let nothing fire, in all queues or in one, until the same `who` opens it."""
        self._closed[who, queue] = why

    def open(self, who: str, queue: str = "") -> bool:
        """Take that back; whether it was closed by it."""
        return self._closed.pop((who, queue), None) is not None

    def epoch(self, new_id: str) -> str:
        """What to tell `fire` of the partition's epoch: only without an archive may it begin one, called `new_id`."""
        if self.archive_id is None:
            return new_id
        return f"={self.archive_id}" if self.archive_id else ""

    def closed(self, queue: str) -> str:
        """Why nothing fires there, or empty."""
        return next((why for (_, name), why in self._closed.items() if name in {"", queue}), "")

"""How far an archive is behind its partition: what the reader of events has seen, and what is committed."""

from collections import deque
from collections.abc import Callable
from typing import Final

from reclaimd.streams.ids import EntryID

MOST_GROUPS: Final = 10_000
NOWHERE: Final = EntryID(0, 0)


class Backlog:
    """Entries of one event stream that are seen and not committed, in groups as they were read.

    `server_now`: wall milliseconds of the server, None while unknown. Nothing here needs an answer from the archive, so
    that the lag grows while there is none.
    """

    def __init__(self, server_now: Callable[[], float | None]) -> None:
        self._server_now = server_now
        self._groups: deque[tuple[EntryID, EntryID, int]] = deque()
        self._committed = NOWHERE
        self._unread_since: int | None = None

    def heard(self, first: str, last: str, number: int) -> None:
        """These were read from the stream: so many, from `first` to `last`."""
        low, high = EntryID.parse(first), EntryID.parse(last)
        if self._groups and low <= self._groups[-1][1]:
            # Read again from the begin: the data were replaced.
            self._groups.clear()
        if high <= self._committed:
            return
        if len(self._groups) >= MOST_GROUPS:
            before, _, more = self._groups.pop()
            low, number = before, number + more
        self._groups.append((low, high, number))

    def committed(self, position: str, *, drained: bool) -> None:
        """Everything up to `position` is archived; `drained`: and there was nothing behind it."""
        self._committed = EntryID.parse(position)
        while self._groups and self._groups[0][1] <= self._committed:
            self._groups.popleft()
        self._unread_since = None if drained else self._committed.ms or None

    def clear(self) -> None:
        """Nothing is known any more."""
        self._groups.clear()
        self._committed, self._unread_since = NOWHERE, None

    @property
    def entries(self) -> int:
        """How many entries are seen and not committed."""
        return sum(number for _, _, number in self._groups)

    @property
    def lag_seconds(self) -> float:
        """Age of the oldest of them."""
        now = self._server_now()
        since = [first.ms for first, _, _ in list(self._groups)[:1]]
        if self._unread_since is not None:
            since.append(self._unread_since)
        return 0.0 if now is None or not since else max(0.0, now - min(since)) / 1000

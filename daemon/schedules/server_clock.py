"""The server's wall clock, reckoned here between its answers. Pure: this machine's monotonic clock is an argument."""

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

SAMPLES: Final = 8
STEP_MS: Final = 500.0
"""Two samples in a row that are this far ahead of the rest are a clock that was set forward, not slow answers."""


class Seen(NamedTuple):
    """When something was last known to be complete: `at`, the server's wall ms, 0 for never; `on`, this machine's
    monotonic seconds.
    """

    at: int = 0
    on: float = 0.0

    def is_fresh(self, now_ms: float, monotonic: float, within_ms: int) -> bool:
        """By both clocks: the server's may be set back, and this machine may stand still."""
        return self.at > 0 and max(abs(now_ms - self.at), (monotonic - self.on) * 1000) < within_ms


class ServerClock:
    """`monotonic`: this machine's, in seconds. Knows nothing before the first sample.

    A sample pairs the instant at which a question left here with the time that the server answered: the answer is never
    earlier than the server's time at that instant. So the smallest difference of a few samples is the best, and a clock
    that was set back is followed at once.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._offsets: deque[float] = deque(maxlen=SAMPLES)
        self._offset: float | None = None

    def saw(self, server_ms: float, sent: float) -> None:
        """Learn from an answer to a question that was sent at `sent`, in seconds of the monotonic clock."""
        offset = server_ms - sent * 1000
        before = self._offsets[-1] if self._offsets else offset
        self._offsets.append(offset)
        if self._offset is not None and min(before, offset) > self._offset + STEP_MS:
            self._offsets = deque((before, offset), maxlen=SAMPLES)
        self._offset = min(self._offsets)

    @property
    def known(self) -> bool:
        """Whether the server has told its time."""
        return self._offset is not None

    def now(self) -> float:
        """The server's wall clock in milliseconds; raises ValueError before the first sample."""
        if self._offset is None:
            raise ValueError("the server has not told its time yet")
        return self._monotonic() * 1000 + self._offset

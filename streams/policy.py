"""When a failed attempt is tried again, and how long a task that cannot run here is parked. Pure."""

from __future__ import annotations

import json

import msgspec

from reclaimd.streams.codec import Delivery
from reclaimd.streams.errors import InvalidTask


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """Retry policy of a task.

    `attempts`: how often the handler may fail in all (1: no retry). Delays are seconds: `delay` after the first
    failure, times
    `factor` after each further one, at most `max_delay`, plus up to `jitter` of itself. Exceptions of the types in
    `on` are retried, except those in `never`.
    """

    attempts: int = 3
    delay: float = 1.0
    factor: float = 2.0
    max_delay: float = 3600.0
    jitter: float = 0.1
    on: tuple[type[BaseException], ...] = (Exception,)
    never: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise InvalidTask(f"retry attempts {self.attempts}: say 1 for no retry, or more")
        if self.delay < 0 or self.factor < 1 or self.max_delay < 0 or not 0 <= self.jitter <= 1:
            raise InvalidTask("retry: delay and max_delay are at least 0, factor at least 1, jitter 0 to 1")

    def next_delay(self, failures: int, error: BaseException, chance: float) -> int | None:
        """Milliseconds until the next attempt after `failures` failed ones (this one counted); None to give up.

        `chance`: a random number from 0 to 1. A timeout counts as TimeoutError.
        """
        if failures >= self.attempts or not isinstance(error, self.on) or isinstance(error, self.never):
            return None
        # A large exponent overflows a float long before anybody waits for it.
        delay = min(self.delay * self.factor ** min(failures - 1, 64), self.max_delay)
        return round(delay * (1 + self.jitter * chance) * 1000)


NO_RETRY = Retry(attempts=1)

_FIRST_PARK_MS = 1_000
_PARK_STEPS = 10


def parking_delay(delivery: Delivery, park_for_ms: int) -> int | None:
    """Milliseconds to park a task that this worker does not know how to run; None when that has gone on for
    `park_for_ms`.

    Counted from the task's own history, not from a clock: a worker whose clock is wrong would bury what it only has to
    pass on.
    """
    longest = max(park_for_ms // _PARK_STEPS, _FIRST_PARK_MS)
    parked = 0
    for row in reversed(delivery.history.splitlines()):
        if _what(row) != "parked":
            break
        parked += 1
    spent = sum(min(_FIRST_PARK_MS << i, longest) for i in range(parked))
    if spent >= park_for_ms:
        return None
    return min(_FIRST_PARK_MS << parked, longest)


def _what(row: str) -> object:
    """What a row of the history tells; None for a row that nobody of ours wrote."""
    try:
        return json.loads(row)[1]
    except (ValueError, LookupError, TypeError):
        return None

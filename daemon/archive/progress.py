"""How far a rebuild has come, for whoever waits for it."""

import time
from collections.abc import Callable
from typing import Final, NamedTuple

RESTORING_TASKS: Final = "restoring tasks"
"""The `what` of the step that is most of a rebuild."""


class Step(NamedTuple):
    """`what` is going on, `done` of `total` tasks since it began (None: not counted), and tasks a second."""

    what: str
    done: int
    total: int | None
    rate: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """An estimate; None while there is none."""
        if self.total is None or self.rate <= 0:
            return None
        return max(0, self.total - self.done) / self.rate


Progress = Callable[[Step], object]


def silent(_step: Step) -> None:
    """Nobody waits."""


class Meter:
    """Tells `progress` of each batch, with the rate since the stage began. `clock`: seconds."""

    def __init__(self, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress = progress
        self._clock = clock
        self._what = ""
        self._total: int | None = None
        self._done = 0
        self._before = 0
        self._begun = clock()

    def begin(self, what: str, total: int | None = None, done: int = 0) -> None:
        """A new stage; `done` of it were done before and do not count for the rate."""
        self._what, self._total, self._done, self._before = what, total, done, done
        self._begun = self._clock()
        self.add(0)

    def add(self, number: int) -> None:
        """So many more are done."""
        self._done += number
        spent = self._clock() - self._begun
        rate = (self._done - self._before) / spent if spent > 0 else 0.0
        self._progress(Step(self._what, self._done, self._total, rate))

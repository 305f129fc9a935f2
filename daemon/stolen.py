"""How much of the event loop's time went to bulk work: it makes replies look late that were not."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stolen:
    """Sums up, in seconds, the slices in which the event loop could not take up a reply."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def slice(self) -> Iterator[None]:
        """Counts the block, which must not await anything."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began

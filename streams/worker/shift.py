"""What a worker process holds of one partition: its token, what runs, what is finished and not yet told."""

from __future__ import annotations

from collections import deque

from reclaimd.streams.codec import Settlement
from reclaimd.streams.keys import Partition
from reclaimd.streams.worker.handlers import Run

SETTLE_AT_ONCE = 500


class Shift:
    """`ready`: work may wait there. `audit_due`: the next turn is an audit, because an answer was lost or it is time.
    `failures`: turns in a row that failed; `not_before`: monotonic seconds of the next try.
    """

    def __init__(self, partition: Partition, token: str) -> None:
        self.partition = partition
        self.token = token
        self.running: dict[tuple[int, str], Run] = {}
        self.finished: deque[Settlement] = deque()
        self.ready = True
        self.audit_due = True
        self.failures = 0
        self.not_before = 0.0
        self.bell = partition.key("bell").encode()

    def start(self, run: Run) -> None:
        """A handler is about to run."""
        self.running[run.delivery.stream, run.delivery.entry_id] = run

    def finish(self, run: Run, settlement: Settlement) -> None:
        """A handler gave its verdict; the next turn tells it."""
        # Already forgotten: the entry was taken from us, and nobody is interested in the verdict.
        if self.running.pop((run.delivery.stream, run.delivery.entry_id), None) is not None:
            self.finished.append(settlement)

    def take_finished(self) -> list[Settlement]:
        """The settlements of the next turn, at most SETTLE_AT_ONCE."""
        return [self.finished.popleft() for _ in range(min(len(self.finished), SETTLE_AT_ONCE))]

    def give_back(self, settlements: list[Settlement]) -> None:
        """The turn's answer was lost: tell them again. What was settled then has no effect the second time."""
        self.finished.extendleft(reversed(settlements))

    def lose(self, stream: int, entry_id: str) -> Run | None:
        """The entry is not ours any more; returns its run, if one is on."""
        return self.running.pop((stream, entry_id), None)

    def running_ids(self) -> list[tuple[int, str]]:
        """For an audit, once its settlements are taken: what runs here, or has ended and is told in a later turn."""
        return [*self.running, *((s.stream, s.entry_id) for s in self.finished)]

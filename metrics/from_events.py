"""Events become observations of histograms. Totals are counted in Redis: no two daemons count one thing twice."""

from collections.abc import Iterable

from reclaimd.metrics.catalogue import RECLAIM_CAUSES
from reclaimd.metrics.instruments import Instruments
from reclaimd.streams.events import (
    Batch,
    Died,
    Event,
    Moved,
    OccurrenceFired,
    OccurrenceQueued,
    OccurrenceQueuedRow,
    Promoted,
    Retried,
    Settled,
    Started,
    Unreadable,
)


class EventObserver:
    """Feeds the event histograms of one daemon."""

    def __init__(self, instruments: Instruments) -> None:
        self._to = instruments

    def observe(self, batch: Batch, queue: str) -> None:
        """Observe each event of a batch once; the caller keeps the position and reads no batch twice."""
        for event in batch.events:
            self._observe(event, queue)

    def _observe(self, event: Event | Unreadable, queue: str) -> None:
        match event:
            case Started():
                wait = self._to.task_wait.labels(queue)
                for started in event.tasks:
                    wait.observe(_seconds(started.wait_ms))
            case Settled():
                self._ran(queue, "succeeded", (row.run_ms for row in event.tasks))
            case Retried():
                self._ran(queue, "retried", (row.run_ms for row in event.tasks if not row.parked))
            case Died():
                self._ran(queue, "failed", (row.run_ms for row in event.tasks if row.run_ms >= 0 and row.name))
            case Moved() if event.cause in RECLAIM_CAUSES:
                latency = self._to.reclaim_latency.labels(queue, event.cause)
                for _ in event.tasks:
                    latency.observe(_seconds(event.late_ms))
            case Promoted():
                lateness = self._to.promotion_lateness.labels(queue)
                for promoted in event.tasks:
                    lateness.observe(_seconds(promoted.late_ms))
            case OccurrenceFired() | OccurrenceQueued():
                self._fired(event, queue)
            case Unreadable():
                self._to.events_unreadable.labels(queue).inc()
            case _:
                pass

    def _fired(self, event: OccurrenceFired | OccurrenceQueued, queue: str) -> None:
        lateness = self._to.schedule_lateness.labels(queue)
        for row in event.tasks:
            # One that had been queued was late by its predecessor; one that somebody asked for was never due.
            if isinstance(row, OccurrenceQueuedRow) or not (row.queued or row.generation == "run"):
                lateness.observe(_seconds(row.late_ms))

    def _ran(self, queue: str, outcome: str, spans_ms: Iterable[int]) -> None:
        run = self._to.task_run.labels(queue, outcome)
        for span_ms in spans_ms:
            run.observe(_seconds(span_ms))


def _seconds(ms: int) -> float:
    # A wall clock that was set back between two stamps makes a negative span, which would spoil the histogram's sum.
    return max(ms, 0) / 1000

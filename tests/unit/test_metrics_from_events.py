"""Events become observations: what counts, what does not, and in which unit."""

import pytest
from prometheus_client import CollectorRegistry

from reclaimd.metrics.from_events import EventObserver
from reclaimd.metrics.instruments import Instruments
from reclaimd.streams import events as ev
from reclaimd.streams.events import Batch, Event, Unreadable


class Metrics:
    """An observer, and what it has observed so far."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.observer = EventObserver(Instruments(self.registry))

    def observe(self, *events: Event | Unreadable) -> None:
        self.observer.observe(Batch(entry_id="1-0", at=1, events=events), "mail")

    def __getitem__(self, name: str) -> dict[tuple[str, ...], float]:
        """Values of the samples of that name by their labels after `queue`, empty series left out."""
        return {
            tuple(value for key, value in sample.labels.items() if key != "queue"): sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == f"reclaimd_{name}" and sample.value
        }


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def test_wait_is_observed_for_each_task_in_seconds(metrics: Metrics) -> None:
    rows = (ev.StartedRow("a", 500, "1-0"), ev.StartedRow("b", 1500, "2-0"))
    metrics.observe(ev.Started(worker="w", token="1-a", tasks=rows))
    assert metrics["task_wait_seconds_count"] == {(): 2}
    assert metrics["task_wait_seconds_sum"] == {(): 2}


def test_a_clock_set_back_makes_no_negative_span(metrics: Metrics) -> None:
    metrics.observe(ev.Started(worker="w", token="1-a", tasks=(ev.StartedRow("a", -500, "1-0"),)))
    assert metrics["task_wait_seconds_count"] == {(): 1}
    assert metrics["task_wait_seconds_sum"] == {}


def test_run_time_is_observed_by_outcome_where_a_handler_gave_a_verdict(metrics: Metrics) -> None:
    metrics.observe(
        ev.Settled(worker="w", token="1-a", tasks=(ev.SettledRow("a", 1000, "n"), ev.SettledRow("b", 1000, "n"))),
        ev.Retried(
            worker="w",
            token="1-a",
            tasks=(ev.RetriedRow("c", 3000, "n", 9, "c", "", False), ev.RetriedRow("d", 0, "n", 9, "c", "", True)),
        ),
        ev.Died(
            worker="w",
            tasks=(ev.DiedRow("e", "1-0", "timeout", "", 4000, "n"), ev.DiedRow("f", "2-0", "foreign", "", -1, "")),
        ),
    )
    assert metrics["task_run_seconds_count"] == {("succeeded",): 2, ("retried",): 1, ("failed",): 1}
    assert metrics["task_run_seconds_sum"] == {("succeeded",): 2, ("retried",): 3, ("failed",): 4}


def test_reclaim_latency_is_observed_for_each_entry_that_came_back_without_a_verdict(metrics: Metrics) -> None:
    rows = tuple(ev.MovedRow(task, "recovered:low", "9-0", 1, 0, "1-0") for task in "abc")
    for cause in ("lease_expired", "left", "audit", "handback", "sunspots"):
        metrics.observe(ev.Moved(cause=cause, worker="w", late_ms=250, tasks=rows))
    metrics.observe(ev.Moved(cause="released", worker="w", late_ms=0, tasks=rows[:1]))
    assert metrics["reclaim_latency_seconds_count"] == {("lease_expired",): 3, ("released",): 1}
    assert metrics["reclaim_latency_seconds_sum"] == {("lease_expired",): 0.75}


def test_promotion_lateness_and_unreadable_events_are_observed(metrics: Metrics) -> None:
    metrics.observe(ev.Promoted(tasks=(ev.PromotedRow("a", "low", "1-0", 2000),)), Unreadable(b"?", "x"))
    assert metrics["promotion_lateness_seconds_sum"] == {(): 2}
    assert metrics["events_unreadable_total"] == {(): 1}


def test_lateness_of_schedules_is_observed_where_they_were_due(metrics: Metrics) -> None:
    fired = [
        ev.OccurrenceFiredRow("s", "1-0", 7, "s:1-0:7", "1-0", 500, False),
        ev.OccurrenceFiredRow("s", "1-0", 8, "s:1-0:8", "2-0", 90_000, True),
        ev.OccurrenceFiredRow("s", "run", 9, "s:run:x", "3-0", 0, False),
    ]
    queued = ev.OccurrenceQueuedRow("s", "1-0", 8, "s:1-0:8", 1500)
    metrics.observe(ev.OccurrenceFired(tasks=tuple(fired)), ev.OccurrenceQueued(tasks=(queued,)))
    assert metrics["schedule_lateness_seconds_count"] == {(): 2}
    assert metrics["schedule_lateness_seconds_sum"] == {(): 2}


def test_other_events_are_no_business_of_the_histograms(metrics: Metrics) -> None:
    metrics.observe(
        ev.Enqueued(tasks=(ev.EnqueuedRow("a", "low", "1-0", 0),)),
        ev.WorkerGone(worker="w", token="1-a", cause="left"),
        ev.QueuePaused(),
    )
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    assert not any(sample.value for sample in samples if not sample.name.endswith(("_info", "_created")))

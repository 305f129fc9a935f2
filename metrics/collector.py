"""Totals and states of all queues, built at each scrape from views that the daemon has at hand: no IO."""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from reclaimd.metrics.catalogue import STATES, TOTALS
from reclaimd.metrics.metric import Metric


class View(Protocol):
    """What is read of a partition's view; the catalogue names further fields, each an int, a bool or None."""

    @property
    def waiting(self) -> Mapping[str, int]: ...
    @property
    def pending(self) -> Mapping[str, int]: ...
    @property
    def counters(self) -> Mapping[str, int]: ...


class ViewCollector(Collector):
    """Exports the latest view of each queue.

    `snapshot` returns queue → view; it is called once a scrape, perhaps from another thread. A new epoch counts from 0
    again, which Prometheus takes for what it is, a counter reset.
    """

    def __init__(self, snapshot: Callable[[], Mapping[str, View]]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Build one family per metric of the catalogue that is read from Redis."""
        views = sorted(dict(self._snapshot()).items())
        for metric in (*TOTALS, *STATES):
            family = _family(metric)
            for queue, view in views:
                for labels, value in series(metric, view):
                    family.add_metric([queue, *labels], value)
            yield family

    def describe(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Name the families without reading a view, so that a registry can refuse duplicates."""
        for metric in (*TOTALS, *STATES):
            yield _family(metric)


def series(metric: Metric, view: View) -> Iterator[tuple[tuple[str, ...], float]]:
    """The metric's samples in one view: labels after `queue`, and the value."""
    named = {field.name for field in metric.fields}
    for field in metric.fields:
        if field.name.endswith("*"):
            prefix = field.name[:-1]
            rest = (n for name, n in view.counters.items() if name.startswith(prefix) and name not in named)
            yield field.labels, sum(rest) * metric.scale
        elif metric.where == "view":
            yield field.labels, (getattr(view, field.name) or 0) * metric.scale
        else:
            part: Mapping[str, int] = getattr(view, metric.where)
            yield field.labels, part.get(field.name, 0) * metric.scale


def _family(metric: Metric) -> CounterMetricFamily | GaugeMetricFamily:
    family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return family(metric.family, metric.help, labels=metric.labels, unit=metric.unit)

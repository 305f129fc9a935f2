"""What the daemon counts and measures itself, made from the catalogue on a registry of its own."""

import platform

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from reclaimd.metrics import archive_catalogue as archive
from reclaimd.metrics import catalogue
from reclaimd.metrics.metric import Metric


class _Maker:
    """Makes what the catalogue describes, on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def histogram(self, metric: Metric) -> Histogram:
        return Histogram(
            metric.name, metric.help, metric.labels, unit=metric.unit, buckets=metric.buckets, registry=self._registry
        )

    def counter(self, metric: Metric) -> Counter:
        return Counter(metric.family, metric.help, metric.labels, unit=metric.unit, registry=self._registry)

    def gauge(self, metric: Metric) -> Gauge:
        return Gauge(metric.name, metric.help, metric.labels, unit=metric.unit, registry=self._registry)


class ArchiveInstruments:
    """What is counted and measured of the archive, of losses and rebuilds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        make = _Maker(registry)
        self.lag = make.gauge(archive.LAG)
        self.behind = make.gauge(archive.BEHIND)
        self.events_limit = make.gauge(archive.EVENTS_LIMIT)
        self.events_held = make.gauge(archive.EVENTS_HELD)
        self.gaps = make.counter(archive.GAPS)
        self.owned = make.gauge(archive.OWNED)
        self.commits = make.counter(archive.COMMITS)
        self.commit_seconds = make.histogram(archive.COMMIT_SECONDS)
        self.events = make.counter(archive.EVENTS)
        self.errors = make.counter(archive.ERRORS)
        self.up = make.gauge(archive.UP)
        self.events_bytes = make.gauge(archive.BYTES)
        self.detections = make.counter(archive.DETECTIONS)
        self.unresolved = make.gauge(archive.UNRESOLVED)
        self.rebuilds = make.counter(archive.REBUILDS)
        self.rebuild_seconds = make.histogram(archive.REBUILD_SECONDS)
        self.rebuild_progress = make.gauge(archive.REBUILD_PROGRESS)
        self.rebuild_tasks = make.counter(archive.REBUILD_TASKS)

    def forget(self, queue: str) -> None:
        """Export no gauge of this queue any more: another daemon does, or it is gone."""
        for gauge in (self.lag, self.behind, self.events_held, self.unresolved, self.rebuild_progress):
            gauge.remove(queue)


class Instruments:
    """The histograms, counters and gauges of one daemon. Label values come in the catalogue's order."""

    def __init__(self, registry: CollectorRegistry) -> None:
        make = _Maker(registry)
        self.reclaim_latency = make.histogram(catalogue.RECLAIM_LATENCY)
        self.task_wait = make.histogram(catalogue.TASK_WAIT)
        self.task_run = make.histogram(catalogue.TASK_RUN)
        self.promotion_lateness = make.histogram(catalogue.PROMOTION_LATENESS)
        self.schedule_lateness = make.histogram(catalogue.SCHEDULE_LATENESS)
        self.events_unreadable = make.counter(catalogue.EVENTS_UNREADABLE)
        self.events_read_lag = make.gauge(catalogue.EVENTS_READ_LAG)
        self.events_gaps = make.counter(catalogue.EVENTS_GAPS)
        self.recovered_at_start = make.gauge(catalogue.RECOVERED_AT_START)
        self.redis_round_trip = make.histogram(catalogue.REDIS_ROUND_TRIP)
        self.loop_lag = make.histogram(catalogue.LOOP_LAG)
        self.loop_steps = make.counter(catalogue.LOOP_STEPS)
        self.loop_errors = make.counter(catalogue.LOOP_ERRORS)
        self.schedules = make.gauge(catalogue.SCHEDULES)
        self.schedule_problems = make.gauge(catalogue.SCHEDULE_PROBLEMS)
        self.schedules_lost = make.gauge(catalogue.SCHEDULES_LOST)
        self.schedules_rejected = make.counter(catalogue.SCHEDULES_REJECTED)
        self.schedules_read_lag = make.gauge(catalogue.SCHEDULES_READ_LAG)
        self.snapshot_age = make.gauge(catalogue.SNAPSHOT_AGE)
        self.snapshots = make.counter(catalogue.SNAPSHOTS)
        self.source_polls = make.counter(catalogue.SOURCE_POLLS)
        self.source_schedules = make.gauge(catalogue.SOURCE_SCHEDULES)
        self.source_problems = make.gauge(catalogue.SOURCE_PROBLEMS)
        self.source_drift = make.gauge(catalogue.SOURCE_DRIFT)
        self.source_unmet = make.gauge(catalogue.SOURCE_UNMET)
        self.archive = ArchiveInstruments(registry)
        self.build = Info(catalogue.BUILD_INFO.family, catalogue.BUILD_INFO.help, registry=registry)


def new_registry(version: str, layout: int) -> tuple[CollectorRegistry, Instruments]:
    """A registry (never prometheus-client's global one) with the instruments and the process's own metrics."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    instruments = Instruments(registry)
    instruments.build.info({"version": version, "python": platform.python_version(), "layout": str(layout)})
    return registry, instruments

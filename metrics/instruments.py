"""What the daemon counts and measures itself, made from the catalogue on a registry of its own."""

import platform

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from reclaimd.metrics import catalogue
from reclaimd.metrics.catalogue import Metric


class Instruments:
    """The histograms, counters and gauges of one daemon. Label values come in the catalogue's order."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(metric: Metric) -> Histogram:
            return Histogram(
                metric.name, metric.help, metric.labels, unit=metric.unit, buckets=metric.buckets, registry=registry
            )

        def counter(metric: Metric) -> Counter:
            return Counter(metric.family, metric.help, metric.labels, unit=metric.unit, registry=registry)

        def gauge(metric: Metric) -> Gauge:
            return Gauge(metric.name, metric.help, metric.labels, unit=metric.unit, registry=registry)

        self.reclaim_latency = histogram(catalogue.RECLAIM_LATENCY)
        self.task_wait = histogram(catalogue.TASK_WAIT)
        self.task_run = histogram(catalogue.TASK_RUN)
        self.promotion_lateness = histogram(catalogue.PROMOTION_LATENESS)
        self.schedule_lateness = histogram(catalogue.SCHEDULE_LATENESS)
        self.events_unreadable = counter(catalogue.EVENTS_UNREADABLE)
        self.events_read_lag = gauge(catalogue.EVENTS_READ_LAG)
        self.events_gaps = counter(catalogue.EVENTS_GAPS)
        self.recovered_at_start = gauge(catalogue.RECOVERED_AT_START)
        self.redis_round_trip = histogram(catalogue.REDIS_ROUND_TRIP)
        self.loop_lag = histogram(catalogue.LOOP_LAG)
        self.loop_steps = counter(catalogue.LOOP_STEPS)
        self.loop_errors = counter(catalogue.LOOP_ERRORS)
        self.schedules = gauge(catalogue.SCHEDULES)
        self.schedule_problems = gauge(catalogue.SCHEDULE_PROBLEMS)
        self.schedules_lost = gauge(catalogue.SCHEDULES_LOST)
        self.schedules_rejected = counter(catalogue.SCHEDULES_REJECTED)
        self.schedules_read_lag = gauge(catalogue.SCHEDULES_READ_LAG)
        self.snapshot_age = gauge(catalogue.SNAPSHOT_AGE)
        self.snapshots = counter(catalogue.SNAPSHOTS)
        self.source_polls = counter(catalogue.SOURCE_POLLS)
        self.source_schedules = gauge(catalogue.SOURCE_SCHEDULES)
        self.source_problems = gauge(catalogue.SOURCE_PROBLEMS)
        self.source_drift = gauge(catalogue.SOURCE_DRIFT)
        self.source_unmet = gauge(catalogue.SOURCE_UNMET)
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

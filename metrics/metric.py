"""What a metric of the catalogue is."""

from typing import Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal["counter", "gauge", "histogram", "info"]
Source: TypeAlias = Literal["redis", "events", "daemon"]
Where: TypeAlias = Literal["counters", "view", "waiting", "pending"]

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
RECOVERY = (0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
LATENESS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
TASK = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)


class Field(msgspec.Struct, frozen=True):
    """A series of a metric that is read from a view: its labels after `queue`, and the field that holds it.

    A field that ends in `*` means the sum of all counters with that prefix which no other series of the metric reads.
    """

    labels: tuple[str, ...]
    name: str


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One metric. `name` is the full name with unit and `_total`; `unit` its base unit, empty for plain numbers.

    `source`: `redis` is read from the partition's view at each scrape (`where` says in which part of it, `fields` which
    of it, `scale` multiplies), `events` is fed from the event stream, `daemon` is measured by the daemon about itself.
    """

    name: str
    kind: Kind
    help: str
    source: Source
    labels: tuple[str, ...] = ()
    unit: str = ""
    buckets: tuple[float, ...] = ()
    where: Where = "view"
    fields: tuple[Field, ...] = ()
    scale: float = 1.0

    @property
    def family(self) -> str:
        """The name of the metric family: without `_total` or `_info`, as OpenMetrics wants it."""
        return self.name.removesuffix("_total").removesuffix("_info")


def spans(name: str, text: str, source: Source, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Metric:
    """A histogram of seconds; `name` without prefix and unit."""
    return Metric(
        name=f"reclaimd_{name}_seconds",
        kind="histogram",
        help=text,
        source=source,
        labels=labels,
        unit="seconds",
        buckets=buckets,
    )


def own(name: str, kind: Kind, text: str, labels: tuple[str, ...] = (), unit: str = "") -> Metric:
    """What the daemon measures about itself; `name` without prefix."""
    return Metric(name=f"reclaimd_{name}", kind=kind, help=text, source="daemon", labels=labels, unit=unit)

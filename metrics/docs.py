"""docs/metrics.md, written from the catalogue: `python -m reclaimd.metrics.docs > docs/metrics.md`."""

import sys
from collections.abc import Iterable

from reclaimd.metrics.archive_catalogue import ARCHIVE
from reclaimd.metrics.catalogue import FROM_EVENTS, LABELS, OWN, STATES, TOTALS
from reclaimd.metrics.metric import Metric

COMMAND = "python -m reclaimd.metrics.docs > docs/metrics.md"

_HEAD = f"""\
# Metrics

Written by `{COMMAND}` from `metrics/catalogue.py`; edit that, not this page.

The daemon exports these on `/metrics` (default `127.0.0.1:9417`), as Prometheus text or OpenMetrics, whichever the
client asks for. Scraping the daemon is enough: workers and producers export nothing, what they do is counted in Redis
and told in the event stream. Beside them stand `process_*`, `python_info` and `python_gc_*` of the daemon's process.

*Totals* and *states* are facts about Redis: every daemon that watches a queue shows the same numbers. With several
daemons take `max by (queue)` of them, never `sum`. *From events* each daemon observes for itself what happened while it
ran, and with an archive only one of them does; a ratio or a quantile of one daemon is right as it is. A total starts at
0 again when Redis lost its data (a new epoch): a counter reset like any other.
"""


def render_docs() -> str:
    """The whole page, as Markdown."""
    parts = [
        _HEAD,
        _section(
            "Totals",
            "From the `:counters` of each queue, as the daemon last read them; a scrape itself asks Redis nothing.",
            TOTALS,
        ),
        _section(
            "States",
            "From the latest view of each queue, at most as old as `reclaimd_view_timestamp_seconds` says.",
            STATES,
        ),
        _section(
            "From events",
            "Fed from the `:events` of each queue. With an archive only by the daemon that archives the queue, so that "
            "several may be summed up.",
            FROM_EVENTS,
        ),
        _section("The daemon itself", "Measured by the daemon that is scraped.", OWN),
        _section(
            "The archive",
            "Of a queue only by the daemon that archives it. The recovery point is `reclaimd_archive_lag_seconds`; "
            "alert on it, on `reclaimd_loss_unresolved`, and on `reclaimd_events_kept` when it comes near "
            "`reclaimd_archive_events_limit`.",
            ARCHIVE,
        ),
        _labels(),
    ]
    return "\n".join(parts)


def _section(title: str, text: str, metrics: Iterable[Metric]) -> str:
    lines = [f"## {title}", "", text, "", "| metric | type | labels | what | from |", "|---|---|---|---|---|"]
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} | {_origin(metric)} |")
    buckets = {metric.name: metric.buckets for metric in metrics if metric.buckets}
    if buckets:
        lines += ["", "Buckets, in seconds:", ""]
        lines += [f"- `{name}`: {', '.join(f'{bound:g}' for bound in bounds)}" for name, bounds in buckets.items()]
    return "\n".join(lines) + "\n"


def _origin(metric: Metric) -> str:
    match metric.source:
        case "events":
            return "events"
        case "daemon":
            return "the daemon"
    if metric.where in {"waiting", "pending"}:
        return f"{metric.where} entries by stream"
    fields = ", ".join(f"`{field.name}`" for field in metric.fields)
    return f"counters {fields}" if metric.where == "counters" else f"view {fields}"


def _labels() -> str:
    lines = [
        "## Labels",
        "",
        "No label is unbounded: task names, task IDs, worker IDs and error texts are in the events.",
        "",
    ]
    lines += ["| label | values |", "|---|---|", *(f"| `{name}` | {bound} |" for name, bound in LABELS.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render_docs())

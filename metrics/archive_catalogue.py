"""The metrics of the archive, of detected losses and of rebuilds. Only the owner of a partition exports those of it."""

from reclaimd.metrics.metric import own, spans

_QUEUE = ("queue",)
REBUILD = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
COMMIT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

LAG = own(
    "archive_lag_seconds",
    "gauge",
    "Age of the oldest event that the archive does not hold yet, 0 when it holds all: what a loss of Redis would cost.",
    _QUEUE,
    "seconds",
)
BEHIND = own(
    "archive_behind_events",
    "gauge",
    "Entries of the event stream that this daemon has seen and the archive does not hold yet.",
    _QUEUE,
)
EVENTS_LIMIT = own(
    "archive_events_limit",
    "gauge",
    "Entries that an event stream may hold while the archive cannot be written: the setting archive.events_limit.",
)
EVENTS_HELD = own(
    "archive_events_held",
    "gauge",
    "1 while the event stream is longer than its retention allows, because the archive does not hold it yet.",
    _QUEUE,
)
GAPS = own(
    "archive_gaps_total",
    "counter",
    "Times that events were trimmed before they were archived. The tasks are read again; their history has a hole.",
    _QUEUE,
)
OWNED = own("archive_owned", "gauge", "1 when this daemon archives the queue, 0 when another one does.", _QUEUE)
COMMITS = own("archive_commits_total", "counter", "Transactions in which the archive advanced.", _QUEUE)
COMMIT_SECONDS = spans("archive_commit", "Time that one such transaction took.", "daemon", (), COMMIT)
EVENTS = own("archive_events_total", "counter", "Entries of event streams that were archived.", _QUEUE)
ERRORS = own("archive_errors_total", "counter", "Times that the archive could not be read or written.")
UP = own(
    "archive_up", "gauge", "1 while the archive does all that it is asked for, 0 while it is behind because it fails."
)
BYTES = own(
    "archive_events_bytes",
    "gauge",
    "What the archived events of this namespace come to; archive.max_size bounds those of all namespaces.",
    unit="bytes",
)

DETECTIONS = own(
    "loss_detections_total",
    "counter",
    "Losses of data that this daemon detected.",
    ("queue", "kind"),
)
UNRESOLVED = own(
    "loss_unresolved",
    "gauge",
    "1 while a queue is frozen because its data were lost and are not rebuilt yet.",
    _QUEUE,
)
REBUILDS = own("rebuilds_total", "counter", "Rebuilds that ended, by result.", ("queue", "result"))
REBUILD_SECONDS = spans("rebuild_duration", "Duration of rebuilds that were done.", "daemon", (), REBUILD)
REBUILD_PROGRESS = own(
    "rebuild_progress_ratio", "gauge", "How much of the running rebuild is done, 0 to 1; 1 when none runs.", _QUEUE
)
REBUILD_TASKS = own("rebuild_tasks_total", "counter", "Tasks that rebuilds dealt with.", ("queue", "what"))

ARCHIVE = (
    LAG,
    BEHIND,
    EVENTS_LIMIT,
    EVENTS_HELD,
    GAPS,
    OWNED,
    COMMITS,
    COMMIT_SECONDS,
    EVENTS,
    ERRORS,
    UP,
    BYTES,
    DETECTIONS,
    UNRESOLVED,
    REBUILDS,
    REBUILD_SECONDS,
    REBUILD_PROGRESS,
    REBUILD_TASKS,
)

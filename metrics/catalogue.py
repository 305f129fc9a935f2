"""Every metric that reclaimd exports, as data: collector, instruments, docs/metrics.md and lint all read this table."""

from collections.abc import Iterable

from reclaimd.metrics import archive_catalogue as archive
from reclaimd.metrics.metric import FAST, LATENESS, RECOVERY, TASK, Field, Metric, Where, own, spans
from reclaimd.streams.keys import STREAMS

FENCING_CAUSES = ("lease_expired", "takeover", "released", "left", "unknown")
RECLAIM_CAUSES = ("lease_expired", "takeover", "released", "unknown")
DEAD_CAUSES = (
    "max_deliveries",
    "raised",
    "not_retryable",
    "timeout",
    "unencodable_result",
    "bad_arguments",
    "bad_body",
    "unknown_task",
    "newer_body",
    "foreign",
)
SKIP_REASONS = ("overlap", "misfire", "cap", "paused", "ended", "removed")
OTHER = "other"

# What bounds each label. A label that is not here (task name, task ID, worker ID, host, error text) must not exist.
LABELS = {
    "queue": "the queues in the registry `{ns}:queues`",
    "lane": "`high`, `normal`, `low`; `suspect` for the stream of suspects, which no lane owns",
    "recovered": "`true` for the streams read first (`recovered:<lane>`, `suspect`), `false` for new work",
    "cause": "the causes of docs/protocol.md; any other one counts as `other`",
    "outcome": "the outcomes of docs/protocol.md",
    "reason": "of an enqueue `task_id` (seen lately), `unique` (its key is held by an open task); of an occurrence the "
    "reasons of docs/protocol.md, any other one counts as `other`",
    "result": "of occurrences `fired`, `queued`; of snapshots `written`, `failed`, `overtaken`; of rebuilds `done`, "
    "`failed`",
    "kind": "of a loss of data `empty`, `rolled_back`, `partial`, `foreign`, `archive_behind`",
    "what": "of a rebuild `restored`, `kept`, `dropped`, `unrestorable`",
    "state": "`live`, `fenced`, `expired`, `gone`",
    "loop": "the daemon's loops",
    "script": "the scripts of docs/protocol.md",
    "source": "the sources of schedules in the daemon's configuration",
    "version": "one value per daemon",
    "python": "one value per daemon",
    "layout": "one value per daemon",
}


def _total(name: str, text: str, field: str) -> Metric:
    return Metric(
        name=f"reclaimd_{name}_total",
        kind="counter",
        help=text,
        source="redis",
        labels=("queue",),
        where="counters",
        fields=(Field((), field),),
    )


def _total_by(name: str, text: str, label: str, fields: Iterable[tuple[str, str]]) -> Metric:
    return Metric(
        name=f"reclaimd_{name}_total",
        kind="counter",
        help=text,
        source="redis",
        labels=("queue", label),
        where="counters",
        fields=tuple(Field((value,), field) for value, field in fields),
    )


def _by_cause(prefix: str, causes: Iterable[str]) -> list[tuple[str, str]]:
    return [*((cause, f"{prefix}:{cause}") for cause in causes), (OTHER, f"{prefix}:*")]


def _state(name: str, text: str, field: str, *, unit: str = "", scale: float = 1.0) -> Metric:
    return Metric(
        name=f"reclaimd_{name}",
        kind="gauge",
        help=text,
        source="redis",
        labels=("queue",),
        unit=unit,
        fields=(Field((), field),),
        scale=scale,
    )


def _by_stream(name: str, text: str, where: Where) -> Metric:
    fields = []
    for stream in STREAMS:
        kind, _, lane = stream.partition(":")
        fields.append(Field((lane or kind, "false" if kind == "lane" else "true"), stream))
    return Metric(
        name=f"reclaimd_{name}",
        kind="gauge",
        help=text,
        source="redis",
        labels=("queue", "lane", "recovered"),
        where=where,
        fields=tuple(fields),
    )


TOTALS = (
    _total("tasks_enqueued", "Tasks accepted.", "enqueued"),
    _total_by(
        "enqueues_deduplicated",
        "Enqueues that added nothing, because the task was there already.",
        "reason",
        [("task_id", "duplicates"), ("unique", "exists")],
    ),
    _total("tasks_started", "Deliveries of tasks to workers.", "started"),
    _total_by(
        "tasks_settled",
        "Verdicts by outcome: succeeded, retried (failed, runs again), parked (not run here), failed (for good).",
        "outcome",
        [(outcome, outcome) for outcome in ("succeeded", "retried", "parked", "failed")],
    ),
    _total_by(
        "tasks_dead_lettered",
        "Tasks that became dead letters.",
        "cause",
        _by_cause("dead", DEAD_CAUSES),
    ),
    _total_by(
        "entries_reclaimed",
        "Entries that came back without a verdict, because their worker died or lost its lease.",
        "cause",
        _by_cause("reclaimed", RECLAIM_CAUSES),
    ),
    _total("entries_handed_back", "Entries that a worker returned without running them to an end.", "handed_back"),
    _total("false_reclaims", "Reclaims from a worker that was alive after all.", "false_reclaims"),
    _total("ghost_entries", "Pending entries that had been deleted, and were acknowledged.", "ghosts"),
    _total("settlements_fenced", "Settlements refused because the worker had been fenced.", "fenced"),
    _total("settlements_stale", "Settlements without effect, because the entry was not pending any more.", "stale"),
    _total("tasks_promoted", "Delayed tasks and retries that entered their lane.", "promoted"),
    _total("dead_letters_redriven", "Dead letters sent back to their lane.", "redriven"),
    _total("dead_letters_purged", "Dead letters deleted by hand.", "purged"),
    _total("dead_letters_dropped", "Dead letters that retention trimmed.", "dead_dropped"),
    _total_by(
        "occurrences",
        "Instants of schedules that made tasks: fired (the task entered its lane), queued (it waits for its "
        "predecessor, and fires when that ends).",
        "result",
        [("fired", "occurrences:fired"), ("queued", "occurrences:queued")],
    ),
    _total_by(
        "occurrences_skipped",
        "Instants of schedules that made no task.",
        "reason",
        _by_cause("occurrences:skipped", SKIP_REASONS),
    ),
    _total("workers_joined", "Incarnations of workers that began.", "joined"),
    _total("workers_left", "Workers that left gracefully.", "left"),
    _total_by(
        "workers_fenced",
        "Incarnations of workers that lost their rights.",
        "cause",
        _by_cause("fenced_workers", FENCING_CAUSES),
    ),
)

STATES = (
    _by_stream("tasks_waiting", "Tasks that no worker has taken yet.", "waiting"),
    _by_stream("tasks_pending", "Tasks that a worker has taken and not settled.", "pending"),
    _state("tasks_delayed", "Tasks that wait for their due time, retries among them.", "delayed"),
    _state("tasks_overdue", "Delayed tasks whose due time has passed.", "overdue"),
    _state("tasks_dead", "Dead letters kept.", "dead"),
    _state(
        "oldest_pending_age_seconds",
        "Age of the oldest pending entry, 0 when there is none.",
        "oldest_pending_ms",
        unit="seconds",
        scale=0.001,
    ),
    _state(
        "oldest_waiting_age_seconds",
        "Age of the oldest waiting entry, 0 when there is none.",
        "oldest_waiting_ms",
        unit="seconds",
        scale=0.001,
    ),
    Metric(
        name="reclaimd_workers",
        kind="gauge",
        help="Workers by state: live, expired (lease over, not fenced yet), fenced (entries not moved yet), gone.",
        source="redis",
        labels=("queue", "state"),
        fields=tuple(Field((state,), state) for state in ("live", "expired", "fenced", "gone")),
    ),
    _state("queue_paused", "1 while workers take nothing from the queue.", "paused"),
    _state("events_kept", "Length of the event stream, in batches.", "events"),
    _state(
        "view_timestamp_seconds",
        "When the numbers of this queue were read, by the Redis server's wall clock.",
        "now_ms",
        unit="seconds",
        scale=0.001,
    ),
)

RECLAIM_LATENCY = spans(
    "reclaim_latency",
    "From the end of a worker's lease until its entry was back in a lane; 0 when the death was proven before.",
    "events",
    ("queue", "cause"),
    RECOVERY,
)
TASK_WAIT = spans("task_wait", "From the moment a task could run until it started.", "events", ("queue",), TASK)
TASK_RUN = spans(
    "task_run", "Run time of handlers that gave a verdict, by outcome.", "events", ("queue", "outcome"), TASK
)
PROMOTION_LATENESS = spans(
    "promotion_lateness", "From a delayed task's due time until it entered its lane.", "events", ("queue",), RECOVERY
)
SCHEDULE_LATENESS = spans(
    "schedule_lateness",
    "From the moment an occurrence was due until its task entered its lane or was queued behind its predecessor.",
    "events",
    ("queue",),
    LATENESS,
)
EVENTS_UNREADABLE = Metric(
    name="reclaimd_events_unreadable_total",
    kind="counter",
    help="Events that this program could not read (broken, or from a newer one).",
    source="events",
    labels=("queue",),
)
FROM_EVENTS = (RECLAIM_LATENCY, TASK_WAIT, TASK_RUN, PROMOTION_LATENESS, SCHEDULE_LATENESS, EVENTS_UNREADABLE)

EVENTS_READ_LAG = own(
    "events_read_lag_seconds",
    "gauge",
    "Age of the oldest event that this daemon has not read yet, 0 when it has read all.",
    ("queue",),
    "seconds",
)
EVENTS_GAPS = own(
    "events_gaps_total",
    "counter",
    "Times that events were trimmed away before this daemon had read them or told them in its log.",
    ("queue",),
)
RECOVERED_AT_START = own(
    "recovered_at_start_entries", "gauge", "Entries that this daemon moved back when it started.", ("queue",)
)
REDIS_ROUND_TRIP = spans(
    "redis_round_trip", "Time from sending a script to its answer, as the daemon sees it.", "daemon", ("script",), FAST
)
LOOP_LAG = spans("event_loop_lag", "How late the daemon's event loop ran a timer.", "daemon", (), FAST)
LOOP_STEPS = own("loop_steps_total", "counter", "Steps of the daemon's loops that succeeded.", ("loop",))
LOOP_ERRORS = own("loop_errors_total", "counter", "Steps of the daemon's loops that failed.", ("loop",))
SCHEDULES = own(
    "schedules",
    "gauge",
    "Schedules by state: enabled, paused, suspended (an event that this version cannot read).",
    ("state",),
)
SCHEDULE_PROBLEMS = own(
    "schedule_problems",
    "gauge",
    "Definitions of schedules that cannot be used, events of them nobody can read, changes of them that are lost.",
)
SCHEDULES_LOST = own(
    "schedules_lost", "gauge", "Schedules that this daemon knew when Redis held none any more; 0 while it holds some."
)
SCHEDULES_REJECTED = own("schedules_rejected_total", "counter", "Definitions that this daemon read and could not use.")
SCHEDULES_READ_LAG = own(
    "schedules_read_lag_seconds",
    "gauge",
    "Age of the last change of schedules read, while there are more to read; 0 when all are.",
    unit="seconds",
)
SNAPSHOT_AGE = own(
    "snapshot_age_seconds", "gauge", "Age of the newest snapshot of schedules, 0 when there is none.", unit="seconds"
)
SNAPSHOTS = own(
    "snapshots_total",
    "counter",
    "Snapshots of schedules that this daemon tried to write: written, failed, overtaken (trimmed by newer ones).",
    ("result",),
)
_SOURCE = ("source",)
SOURCE_POLLS = own("source_polls_total", "counter", "Times that a source was read.", ("source", "result"))
SOURCE_SCHEDULES = own("source_schedules", "gauge", "Schedules that a source holds and that can be used.", _SOURCE)
SOURCE_PROBLEMS = own("source_problems", "gauge", "What is wrong with a source and its rows at present.", _SOURCE)
SOURCE_DRIFT = own("source_drift", "gauge", "Schedules that differed from their source when it was last read.", _SOURCE)
SOURCE_UNMET = own("source_unmet", "gauge", "1 when a source had enabled schedules and Redis none at all.", _SOURCE)
BUILD_INFO = own("build_info", "info", "1, labelled with what runs.", ("version", "python", "layout"))
OWN = (
    EVENTS_READ_LAG,
    EVENTS_GAPS,
    RECOVERED_AT_START,
    REDIS_ROUND_TRIP,
    LOOP_LAG,
    LOOP_STEPS,
    LOOP_ERRORS,
    SCHEDULES,
    SCHEDULE_PROBLEMS,
    SCHEDULES_LOST,
    SCHEDULES_REJECTED,
    SCHEDULES_READ_LAG,
    SNAPSHOT_AGE,
    SNAPSHOTS,
    SOURCE_POLLS,
    SOURCE_SCHEDULES,
    SOURCE_PROBLEMS,
    SOURCE_DRIFT,
    SOURCE_UNMET,
    BUILD_INFO,
)

CATALOGUE: tuple[Metric, ...] = (*TOTALS, *STATES, *FROM_EVENTS, *OWN, *archive.ARCHIVE)

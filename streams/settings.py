"""The settings of daemon, worker and producer, as values. `streams.configure` fills them, nothing here reads anything.

Fields are in milliseconds, bytes or counts. Every Struct checks itself when it is made, whoever makes it, and raises
InvalidSetting.
"""

import re
from functools import cache
from typing import Annotated, Literal

import msgspec

from reclaimd.streams.addresses import database_url_problem, parse_listen, path_problem, redacted, url_problem
from reclaimd.streams.durations import format_duration
from reclaimd.streams.errors import InvalidSetting
from reclaimd.streams.options import Option, choice, duration, integer, options_of, size, text
from reclaimd.streams.source_settings import SourceSettings

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

SHORTEST_LEASE = 500
SHORTEST_HEARTBEAT = 50


def _namespace_problem(namespace: str) -> str | None:
    """Braces and colons would break the hash tag `{ns:queue:p}`, so that a partition's keys fell into other slots."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", namespace):
        return None
    return "expected 1 to 64 of the characters A-Z a-z 0-9 _ . - beginning with a letter or digit"


def _listen_problem(listen: str) -> str | None:
    try:
        parse_listen(listen)
    except ValueError as error:
        return str(error)
    return None


class _Checked(msgspec.Struct, frozen=True, kw_only=True):
    """Checks each described field when an instance is made: msgspec by itself does so only when it decodes."""

    def __post_init__(self) -> None:
        for option in options_of_settings(type(self)):
            value = getattr(self, option.field)
            if value is not None or option.default is not None:
                option.checked(value)


class WorkerSettings(_Checked, frozen=True, kw_only=True):
    """How a worker takes, runs and gives back tasks."""

    lease_ms: Annotated[
        int,
        duration(
            "How long a worker that falls silent keeps its tasks. Shorter: faster recovery after the loss of a whole "
            "machine. Longer: freezes and network cuts of that length go unpunished.",
            least=SHORTEST_LEASE,
            most=DAY,
        ),
    ] = 15 * SECOND
    heartbeat_ms: (
        Annotated[
            int,
            duration(
                "How often a worker renews its lease; at most a quarter of the lease.",
                least=SHORTEST_HEARTBEAT,
                most=DAY // 4,
                example="3s",
                when_unset="a fifth of the lease",
            ),
        ]
        | None
    ) = None
    grace_ms: Annotated[
        int,
        duration(
            "How long a worker that is told to stop lets its tasks run before it hands them back. Keep it below the "
            "stop timeout of systemd or Kubernetes.",
            least=0,
            most=DAY,
        ),
    ] = 25 * SECOND
    concurrency: Annotated[int, integer("Tasks that one worker process runs at a time.", least=1, most=10_000)] = 10
    max_deliveries: Annotated[
        int,
        integer(
            "How often a task may come back without a verdict (crash, lost lease) before it becomes a dead letter. "
            "A task's own value wins.",
            least=1,
            most=1_000,
        ),
    ] = 5
    park_for_ms: Annotated[
        int,
        duration(
            "How long tasks with an unknown name or a newer body are retried without running, so that a rolling "
            "deployment loses none.",
            least=0,
            most=30 * DAY,
        ),
    ] = HOUR
    payload_limit: Annotated[
        int, integer("Bytes that the encoded body of a task may have.", least=1, most=100_000_000)
    ] = 1_000_000
    audit_every: Annotated[
        int,
        integer(
            "Heartbeats between two audits, in which a worker hands back entries it does not know of.",
            least=1,
            most=1_000,
        ),
    ] = 3
    state_dir: (
        Annotated[
            str,
            text(
                "Where lock files live that prove a worker ID free after a crash. On a local file system, the same "
                "after a restart.",
                example="/var/lib/reclaimd",
                when_unset="chosen by the worker: a state or runtime folder of the user",
                check=path_problem,
            ),
        ]
        | None
    ) = None

    def __post_init__(self) -> None:
        super().__post_init__()
        longest = self.lease_ms // 4
        if self.heartbeat > longest:
            why = f"expected at most a quarter of worker.lease ({format_duration(self.lease_ms)}): say "
            raise InvalidSetting("worker.heartbeat", f"{why}{format_duration(longest)} or less, or leave it out")

    @property
    def heartbeat(self) -> int:
        """Milliseconds between two renewals: `heartbeat_ms`, or a fifth of the lease."""
        return self.lease_ms // 5 if self.heartbeat_ms is None else self.heartbeat_ms


class DaemonSettings(_Checked, frozen=True, kw_only=True):
    """What the daemon keeps, how much it does at once, and how it logs."""

    dead_retention_ms: Annotated[int, duration("How long dead letters are kept.", least=SECOND, most=3_650 * DAY)] = (
        30 * DAY
    )
    dead_max: Annotated[
        int, integer("Dead letters kept per partition; the oldest go first.", least=1, most=10_000_000)
    ] = 100_000
    events_retention_ms: Annotated[
        int, duration("How long events are kept, for explain and the metrics.", least=SECOND, most=365 * DAY)
    ] = DAY
    events_max: Annotated[
        int, integer("Entries kept in the event stream of a partition.", least=100, most=10_000_000)
    ] = 100_000
    gone_retention_ms: Annotated[
        int, duration("How long the row of a worker that is gone stays visible.", least=0, most=30 * DAY)
    ] = HOUR
    batch_max: Annotated[
        int,
        integer(
            "Entries that one script call moves at most; batches shrink by themselves when the server is slow.",
            least=1,
            most=1_000,
        ),
    ] = 500
    discover_every_ms: Annotated[int, duration("How often the daemon looks for new queues.", least=100, most=HOUR)] = (
        2 * SECOND
    )
    unknown_scan_every_ms: Annotated[
        int,
        duration("How often it looks for entries whose owner nobody knows.", least=SECOND, most=DAY),
    ] = 30 * SECOND
    log_format: Annotated[
        Literal["auto", "json", "console"],
        choice("How log lines look; auto is console on a terminal and JSON elsewhere."),
    ] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], choice("The least severe lines that are logged.")
    ] = "info"


class SchedulerSettings(_Checked, frozen=True, kw_only=True):
    """When schedules fire, and how often their state is written down."""

    enabled: Annotated[
        Literal["yes", "no"], choice("Whether this daemon fires schedules; several that do share the work safely.")
    ] = "yes"
    misfire_after_ms: Annotated[
        int,
        duration(
            "An occurrence that is later than this was missed: the misfire policy of its schedule says what becomes "
            "of it.",
            least=SECOND,
            most=DAY,
        ),
    ] = MINUTE
    interval_ms: Annotated[
        int,
        duration(
            "The longest time between two looks at what is due in a queue; due instants wake the daemon by themselves.",
            least=100,
            most=HOUR,
        ),
    ] = 5 * SECOND
    snapshot_events: Annotated[
        int, integer("Changes of schedules after which a snapshot is written.", least=10, most=1_000_000)
    ] = 1_000
    snapshot_interval_ms: Annotated[
        int,
        duration("Time after which a snapshot is written, if anything changed.", least=SECOND, most=DAY),
    ] = 5 * MINUTE


class ArchiveSettings(_Checked, frozen=True, kw_only=True):
    """The durable copy outside Redis: where it is, what it keeps, and what follows from a loss."""

    url: (
        Annotated[
            str,
            text(
                "The archive: sqlite:///FILE, or postgresql://USER@HOST/NAME for several daemons. Keep its password "
                "elsewhere.",
                example="postgresql://reclaimd@localhost/reclaimd",
                when_unset="archive.db in the state directory under systemd, else there is no archive",
                check=database_url_problem,
                secret=True,
                flag="archive-url",
            ),
        ]
        | None
    ) = None
    password_file: (
        Annotated[
            str,
            text(
                "A file that holds the password of that PostgreSQL user.",
                example="/etc/reclaimd/archive_password",
                when_unset="the systemd credential archive_password, if there is one and url has no password",
                check=path_problem,
            ),
        ]
        | None
    ) = None
    rebuild: Annotated[
        Literal["auto", "manual"],
        choice(
            "What follows when Redis lost data: auto rebuilds it from the archive at once, manual freezes the queue "
            "until somebody runs reclaimd rebuild."
        ),
    ] = "auto"
    poll_ms: Annotated[
        int, duration("The shortest time between two looks at a busy queue.", least=10, most=10 * SECOND)
    ] = 100
    events_age_ms: Annotated[
        int, duration("How long the archive keeps events, for explain.", least=MINUTE, most=3_650 * DAY)
    ] = 7 * DAY
    max_size_bytes: Annotated[
        int, size("What the archived events may come to; the oldest go first.", least=2**20, most=2**50)
    ] = 2 * 2**30
    events_limit: Annotated[
        int,
        integer(
            "Entries that the event stream of a partition may hold in Redis while the archive cannot be written. "
            "Beyond it the oldest are lost to the archive, which then reads the whole partition again.",
            least=1_000,
            most=10_000_000,
        ),
    ] = 500_000

    def __repr__(self) -> str:
        fields = ((name, getattr(self, name)) for name in self.__struct_fields__)
        shown = (f"{name}={redacted(value) if name == 'url' and value else value!r}" for name, value in fields)
        return f"{type(self).__name__}({', '.join(shown)})"


class Settings(_Checked, frozen=True, kw_only=True):
    """All settings: the top-level ones, and one attribute per section."""

    redis_url: Annotated[
        str,
        text(
            "Where Redis is: redis://, rediss:// (TLS) or unix://. Keep its password elsewhere.",
            check=url_problem,
            secret=True,
        ),
    ] = "redis://localhost:6379/0"
    redis_password_file: (
        Annotated[
            str,
            text(
                "A file that holds the Redis password.",
                example="/etc/reclaimd/redis_password",
                when_unset="the systemd credential redis_password, if there is one and redis_url has no password",
                check=path_problem,
            ),
        ]
        | None
    ) = None
    namespace: Annotated[
        str,
        text(
            "Prefix of all keys in Redis. Producers, workers and daemon of one system share it.",
            check=_namespace_problem,
        ),
    ] = "reclaimd"
    durability: Annotated[
        Literal["async", "replicated", "fsync"],
        choice(
            "What an enqueue waits for: async for the server's answer, replicated until a replica has the task (WAIT), "
            "fsync until it is on the server's disk (WAITAOF)."
        ),
    ] = "async"
    # A server that syncs its file once a second can be late by another two when its disk is busy.
    durability_timeout_ms: Annotated[
        int, duration("How long an enqueue waits for the replica or the disk.", least=10, most=MINUTE)
    ] = 5 * SECOND
    listen: Annotated[str, text("Where the daemon serves /metrics, /healthz and /readyz.", check=_listen_problem)] = (
        "127.0.0.1:9417"
    )
    worker: WorkerSettings = msgspec.field(default_factory=WorkerSettings)
    daemon: DaemonSettings = msgspec.field(default_factory=DaemonSettings)
    scheduler: SchedulerSettings = msgspec.field(default_factory=SchedulerSettings)
    archive: ArchiveSettings = msgspec.field(default_factory=ArchiveSettings)
    sources: tuple[SourceSettings, ...] = ()

    def __repr__(self) -> str:
        fields = ((name, getattr(self, name)) for name in self.__struct_fields__)
        shown = (f"{name}={redacted(value) if name == 'redis_url' else value!r}" for name, value in fields)
        return f"{type(self).__name__}({', '.join(shown)})"


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "": Settings,
    "worker": WorkerSettings,
    "daemon": DaemonSettings,
    "scheduler": SchedulerSettings,
    "archive": ArchiveSettings,
}
"""Section name → its Struct; the top level has no name."""


@cache
def options_of_settings(struct: type[msgspec.Struct]) -> tuple[Option, ...]:
    """The options that a settings Struct declares; a subclass of Settings has those of Settings."""
    section = next((name for name, known in SECTIONS.items() if issubclass(struct, known)), "")
    return options_of(SECTIONS[section], section)


@cache
def all_options() -> dict[str, Option]:
    """Every option by its full key, in the order in which people read them."""
    return {option.key: option for struct in SECTIONS.values() for option in options_of_settings(struct)}

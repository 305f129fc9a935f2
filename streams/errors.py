"""Everything that reclaimd raises on purpose: one line each, which says what to do."""

from enum import Enum
from typing import ClassVar

from reclaimd.streams.addresses import redacted


class ReclaimdError(Exception):
    """Base of all errors of the project.

    `exit_code` is what a command line that dies of it returns: 1 found a problem, 2 usage, 3 Redis is no use.
    Subclasses keep their constructor's arguments in `args`, so that errors cross process boundaries unharmed.
    """

    exit_code: ClassVar[int] = 1


class ConfigError(ReclaimdError):
    """A setting, flag or address that cannot be used; nothing was started."""

    exit_code = 2


class InvalidDuration(ConfigError):
    """A duration that cannot be read. `text`: what was given; `cure`: what to write instead."""

    def __init__(self, text: str, cure: str) -> None:
        super().__init__(text, cure)
        self.text = text
        self.cure = cure

    def __str__(self) -> str:
        return f"{_shortened(self.text)} is not a duration: {self.cure}"


class InvalidSize(ConfigError):
    """A size that cannot be read. `text`: what was given; `cure`: what to write instead."""

    def __init__(self, text: str, cure: str) -> None:
        super().__init__(text, cure)
        self.text = text
        self.cure = cure

    def __str__(self) -> str:
        return f"{_shortened(self.text)} is not a size: {self.cure}"


class InvalidSetting(ConfigError):
    """A value that its setting does not allow. `name`: the setting's user-facing name; `why`: what is expected."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name = name
        self.why = why

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"


class InvalidSchedule(ConfigError):
    """A schedule that cannot be used. `field`: its user-facing field; `why`: what is wrong and what to write."""

    def __init__(self, name: str, field: str, why: str) -> None:
        super().__init__(name, field, why)
        self.name = name
        self.field = field
        self.why = why

    def __str__(self) -> str:
        return f"schedule {_shortened(self.name)}: {self.field}: {self.why}"


class UnknownSchedule(ReclaimdError):
    """There is no schedule of that name. `name`: what was asked for."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"there is no schedule {_shortened(self.name)}: look into the list of schedules"


class RedisUnreachable(ReclaimdError):
    """No answer from Redis. `where`: its URL (a password in it is never shown); `why`: the client's own words.

    Waiting can help: the daemon and the workers retry, commands give up.
    """

    exit_code = 3

    def __init__(self, where: str, why: str) -> None:
        super().__init__(redacted(where), why)
        self.where = redacted(where)
        self.why = why

    def __str__(self) -> str:
        return (
            f"cannot reach Redis at {self.where} ({_one_line(self.why)}): start it, or set redis_url (--redis-url, "
            "RECLAIMD_REDIS_URL)"
        )


class Obstacle(Enum):
    """Why something cannot be used: `what` is wrong with it, the `cure`, and whether it can pass by itself."""

    def __init__(self, what: str, cure: str, waiting_helps: bool) -> None:
        self.what = what
        self.cure = cure
        self.waiting_helps = waiting_helps


class Unusable(Obstacle):
    """Why a Redis that answers cannot be used."""

    PASSWORD = (
        "refuses the user name or password",
        "check redis_url, redis_password_file or the systemd credential redis_password",
        False,
    )
    PERMISSION = ("forbids a command or key", "give this user the rights in systemd/reclaimd.acl", False)
    TOO_OLD = ("is too old", "use Redis 6.2 or later, or Valkey", False)
    READ_ONLY = ("is a read-only replica", "point redis_url at the primary, or wait for the failover to end", True)
    LOADING = ("is still loading its data", "wait until it has loaded", True)
    CLUSTER_DOWN = ("is a cluster that is down", "wait until its slots are served again", True)
    CANNOT_SAVE = ("cannot save its data to disk", "make room on its disk and look into its log", True)
    NO_REPLICAS = ("has too few replicas for its min-replicas-to-write", "bring its replicas back", True)
    BUSY = ("is busy with a script", "wait, or find out whose script it runs", True)
    REFUSED = (
        "refuses a command of ours",
        "look at the key that it is about: somebody else may have written it",
        False,
    )
    NOT_REDIS = ("does not speak the Redis protocol", "check the host, the port and TLS (redis:// or rediss://)", False)
    LAYOUT = ("holds another layout of keys", "run one version of reclaimd against this namespace", False)


class RedisUnusable(ReclaimdError):
    """Redis answers, but not so that reclaimd can work with it. `detail`: the server's own words, if any.

    `cure` says what to do; `waiting_helps` tells a daemon that retries from a command that gives up.
    """

    exit_code = 3

    def __init__(self, reason: Unusable, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    @property
    def cure(self) -> str:
        """What to do about it, in one phrase."""
        return self.reason.cure

    @property
    def waiting_helps(self) -> bool:
        """Whether the state can pass without anybody's help."""
        return self.reason.waiting_helps

    def __str__(self) -> str:
        detail = f" ({_one_line(self.detail)})" if self.detail else ""
        return f"Redis {self.reason.what}{detail}: {self.cure}"


class LayoutMismatch(RedisUnusable):
    """The partition was written by another version of reclaimd. `found`, `expected`: layout numbers."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(Unusable.LAYOUT, f"found {found or 'none'}, expected {expected}")
        self.args = (found, expected)
        self.found = found
        self.expected = expected


class RedisFull(ReclaimdError):
    """Redis is at maxmemory and refused a write; the refused call changed nothing."""

    def __str__(self) -> str:
        return (
            "Redis is full (maxmemory reached) and nothing was written: raise maxmemory or let the workers drain the "
            "queues, then send again"
        )


class PartitionFrozen(ReclaimdError):
    """Data of a queue were lost, and are not mended yet: nothing was done. `state`: lost or rebuilding."""

    def __init__(self, queue: str, state: str) -> None:
        super().__init__(queue, state)
        self.queue = queue
        self.state = state

    def __str__(self) -> str:
        if self.state == "rebuilding":
            return f"queue {self.queue} is rebuilding after a loss of data: wait, or see to it with `reclaimd rebuild`"
        return f"queue {self.queue} is {self.state}, Redis lost data of it: bring them back with `reclaimd rebuild`"


class EnqueueUncertain(ReclaimdError):
    """The answer to an enqueue was lost. `task_id`: the ID to send again with, which enqueues at most once."""

    def __init__(self, task_id: str) -> None:
        super().__init__(task_id)
        self.task_id = task_id

    def __str__(self) -> str:
        return (
            f"no answer for task {self.task_id}, it may or may not be enqueued: send it again with "
            f"task_id={self.task_id!r}, which enqueues it at most once"
        )


class DurabilityUnavailable(ReclaimdError):
    """The server cannot give the durability that was asked for; nothing was enqueued.

    `durability`: the level; `why` and `cure`: in words.
    """

    exit_code = 3

    def __init__(self, durability: str, why: str, cure: str) -> None:
        super().__init__(durability, why, cure)
        self.durability = durability
        self.why = why
        self.cure = cure

    def __str__(self) -> str:
        return (
            f"nothing was enqueued, Redis cannot give durability={self.durability} ({_one_line(self.why)}): {self.cure}"
        )


class DurabilityUnconfirmed(ReclaimdError):
    """The task `task_id` was accepted, and will run; whether it is as durable as asked for is not known.

    `why`: what was missing. Sending that ID again waits once more and enqueues at most once.
    """

    def __init__(self, task_id: str, durability: str, why: str) -> None:
        super().__init__(task_id, durability, why)
        self.task_id = task_id
        self.durability = durability
        self.why = why

    def __str__(self) -> str:
        return (
            f"task {self.task_id} was accepted, but durability={self.durability} is not confirmed "
            f"({_one_line(self.why)}): send it again with task_id={self.task_id!r} to wait once more, which "
            "enqueues it at most once"
        )


class InvalidTask(ReclaimdError):
    """A task that cannot be enqueued or registered as it stands: name, queue, lane, ID or policy."""

    exit_code = 2


class InvalidArguments(InvalidTask):
    """Arguments that do not fit the task's signature. `task`: its name; `why`: the argument and what is expected."""

    def __init__(self, task: str, why: str) -> None:
        super().__init__(task, why)
        self.task = task
        self.why = why

    def __str__(self) -> str:
        return f"arguments do not fit task {self.task}: {_one_line(self.why)}"


class PayloadTooLarge(InvalidTask):
    """A task's encoded body exceeds the limit. `size`, `limit`: bytes."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"the task's body is {self.size} bytes and the limit is {self.limit}: store the data elsewhere and pass a "
            "reference, or raise worker.payload_limit (RECLAIMD_WORKER_PAYLOAD_LIMIT)"
        )


class WorkerIdInUse(ReclaimdError):
    """A live process already works under this worker ID. `holder`: what is known of it (host, pid, token)."""

    def __init__(self, worker: str, holder: str) -> None:
        super().__init__(worker, holder)
        self.worker = worker
        self.holder = holder

    def __str__(self) -> str:
        return (
            f"worker ID {self.worker} is held by a live process ({_one_line(self.holder)}): give this one another "
            "--id, or stop the other and wait for its lease to end"
        )


class Fenced(ReclaimdError):
    """A newer incarnation or the daemon took over this worker ID; its open tasks are no longer its own."""

    def __init__(self, worker: str) -> None:
        super().__init__(worker)
        self.worker = worker

    def __str__(self) -> str:
        return (
            f"worker {self.worker} was fenced, its tasks run elsewhere: restart it, and look for long pauses if it "
            "happens again"
        )


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _shortened(text: str) -> str:
    line = _one_line(text)
    return repr(line if len(line) <= 40 else line[:37] + "...")

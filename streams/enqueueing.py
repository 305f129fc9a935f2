"""The rules of enqueueing, without IO: batches, addresses, what answers and failures mean."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from reclaimd.streams import durability, scripts
from reclaimd.streams.errors import (
    DurabilityUnconfirmed,
    EnqueueUncertain,
    ReclaimdError,
    RedisUnreachable,
    RedisUnusable,
)
from reclaimd.streams.ids import check_queue, check_task_id, task_id_from
from reclaimd.streams.keys import Partition
from reclaimd.streams.scripts import Call, Enqueued, NewTask
from reclaimd.streams.tasks import TaskCall, check_deliveries, check_lane, check_size, check_unique

BATCH_TASKS = 500
BATCH_BYTES = 1_000_000
FIRST_WAIT = 0.05
LONGEST_WAIT = 1.0
REGISTER_EVERY = 30.0


class EnqueueResult(NamedTuple):
    """What became of one task of a bulk.

    `status`: ok, duplicate (this ID was enqueued before), exists (`task_id` holds the unique key), unconfirmed (it was
    accepted, its durability is not known), uncertain (send it again with this ID) or refused. `error` is set for the
    last three.
    """

    task_id: str
    status: str
    error: ReclaimdError | None = None


class Addressed(NamedTuple):
    """A task, the partition it goes to, and what its producer waits for: see `reclaimd.streams.durability`."""

    partition: Partition
    task: NewTask
    durability: str = "async"


class Limits(NamedTuple):
    """What a producer adds to a call. `payload`: bytes; the others: for tasks without one of their own."""

    payload: int
    max_deliveries: int
    durability: str = "async"


def new_task_id() -> str:
    """A fresh task ID; its time part is this process's clock and only for sorting."""
    return task_id_from(time.time_ns() // 1_000_000, secrets.token_bytes(10))


def address(call: TaskCall, namespace: str, limits: Limits) -> Addressed:
    """Where a call goes and as what; raises InvalidTask or PayloadTooLarge."""
    check_size(call.body, limits.payload)
    options = call.task.opts
    task = NewTask(
        task_id=check_task_id(call.task_id) if call.task_id else new_task_id(),
        lane=check_lane(call.lane or options.lane),
        max_deliveries=check_deliveries(call.max_deliveries or options.max_deliveries or limits.max_deliveries),
        body=call.body,
        unique=check_unique(call.unique),
        delay_ms=call.delay_ms,
    )
    level = durability.check_durability(call.durability or limits.durability)
    return Addressed(Partition(namespace, check_queue(call.queue or options.queue)), task, level)


def batches(tasks: Iterable[Addressed]) -> Iterable[tuple[Partition, list[NewTask]]]:
    """Runs of tasks for one partition, in order, none with more than BATCH_TASKS tasks or about BATCH_BYTES."""
    partition: Partition | None = None
    batch: list[NewTask] = []
    size = 0
    for target, task, _ in tasks:
        full = len(batch) >= BATCH_TASKS or size + len(task.body) > BATCH_BYTES
        if batch and (target != partition or full) and partition is not None:
            yield partition, batch
            batch, size = [], 0
        partition = target
        batch.append(task)
        size += len(task.body)
    if batch and partition is not None:
        yield partition, batch


@dataclass(slots=True)
class Attempt:
    """The retry rule of one batch, without IO: what a failure means, and how long to wait before the next try."""

    deadline: float
    wait: float = FIRST_WAIT
    maybe_sent: bool = False

    def after(self, error: ReclaimdError, now: float, *, sent: bool) -> float | None:
        """Seconds to wait before trying again, None to give up. `sent`: bytes may have left before it failed."""
        passing = isinstance(error, RedisUnreachable) or (isinstance(error, RedisUnusable) and error.waiting_helps)
        self.maybe_sent = self.maybe_sent or (sent and isinstance(error, RedisUnreachable))
        if not passing or now + self.wait > self.deadline:
            return None
        wait, self.wait = self.wait, min(self.wait * 2, LONGEST_WAIT)
        return wait

    def verdict(self, task_id: str, error: ReclaimdError) -> EnqueueResult:
        """For a task of a batch that was given up on."""
        if self.maybe_sent:
            return EnqueueResult(task_id, "uncertain", EnqueueUncertain(task_id))
        return EnqueueResult(task_id, "refused", error)


def is_due(registered: dict[str, float], queue: str) -> bool:
    """Whether to add the queue to the registry (again): Redis may have been emptied on a connection that lives on."""
    return time.monotonic() - registered.get(queue, float("-inf")) > REGISTER_EVERY


Group = tuple[Partition, list[NewTask]]
"""What one script call carries."""


class Round:
    """Groups of tasks on their way on one connection, without IO: what was answered, and what that means in the end."""

    def __init__(self, groups: list[Group], level: str, epoch_id: str, timeout: float) -> None:
        self.groups = groups
        self.level = level
        self.attempt = Attempt(time.monotonic() + timeout)
        self._epoch_id = epoch_id
        self._told: list[EnqueueResult | None] = [None] * sum(len(tasks) for _, tasks in groups)

    def calls(self) -> Iterable[tuple[str, int, Call[list[Enqueued]]]]:
        """For each group its queue, the place of its first task, and what to send."""
        place = 0
        for partition, tasks in self.groups:
            yield partition.queue, place, scripts.enqueue(partition, tasks, epoch_id=self._epoch_id)
            place += len(tasks)

    def take(self, place: int, replies: list[Enqueued]) -> None:
        """The answer to one of the calls. Sent again, a task is a duplicate of itself: its first answer holds."""
        for index, reply in enumerate(replies, place):
            self._told[index] = self._told[index] or EnqueueResult(reply.task_id, reply.status)

    def confirmed(self) -> list[EnqueueResult]:
        """All was answered, and is as durable as was asked for."""
        return [result for result in self._told if result is not None]

    def short(self, why: str) -> list[EnqueueResult]:
        """All was answered, but is not known to be durable."""
        return [self._unconfirmed(result, why) for result in self.confirmed()]

    def given_up(self, error: ReclaimdError) -> list[EnqueueResult]:
        """For the tasks without an answer the verdict of the attempt; the others are there, on some server."""
        tasks = (task for _, batch in self.groups for task in batch)
        return [
            self.attempt.verdict(task.task_id, error) if result is None else self._unconfirmed(result, str(error))
            for task, result in zip(tasks, self._told, strict=True)
        ]

    def _unconfirmed(self, result: EnqueueResult, why: str) -> EnqueueResult:
        error = DurabilityUnconfirmed(result.task_id, self.level, why)
        return EnqueueResult(result.task_id, "unconfirmed", error)


def take_turns(tasks: Sequence[Addressed]) -> Iterable[tuple[str, list[int]]]:
    """Each durability level among the tasks, and the places of those that have it."""
    places: dict[str, list[int]] = {}
    for place, task in enumerate(tasks):
        places.setdefault(task.durability, []).append(place)
    return places.items()


def accepted_id(result: EnqueueResult) -> str:
    """The task ID of a result, or its error raised."""
    if result.error is not None:
        raise result.error
    return result.task_id

"""Enqueueing: on one connection, several callers' tasks in one script call, and a clear answer when the answer is lost.

A send that fails before anything left this process is certain not to have enqueued. After that only the server knows:
the same task IDs are sent again, which enqueues at most once, until an answer arrives or the deadline passes.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import anyio
import redis

from reclaimd.streams import redis_log, scripts
from reclaimd.streams.errors import EnqueueUncertain, ReclaimdError, RedisUnreachable, RedisUnusable
from reclaimd.streams.ids import check_queue, check_task_id, task_id_from
from reclaimd.streams.keys import Partition, queues_key
from reclaimd.streams.scripts import Call, Enqueued, NewTask
from reclaimd.streams.tasks import TaskCall, check_deliveries, check_lane, check_size, check_unique

BATCH_TASKS = 500
BATCH_BYTES = 1_000_000
FIRST_WAIT = 0.05
LONGEST_WAIT = 1.0
DEADLINE = 10.0
REGISTER_EVERY = 30.0


class EnqueueResult(NamedTuple):
    """What became of one task of a bulk.

    `status`: ok, duplicate (this ID was enqueued before), exists (`task_id` holds the unique key), uncertain (send it
    again with this ID) or refused. `error` is set for the last two.
    """

    task_id: str
    status: str
    error: ReclaimdError | None = None


class Addressed(NamedTuple):
    """A task and the partition it goes to."""

    partition: Partition
    task: NewTask


class Limits(NamedTuple):
    """What a producer adds to a call. `payload`: bytes; `max_deliveries`: for tasks without one of their own."""

    payload: int
    max_deliveries: int


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
    return Addressed(Partition(namespace, check_queue(call.queue or options.queue)), task)


def batches(tasks: Iterable[Addressed]) -> Iterable[tuple[Partition, list[NewTask]]]:
    """Runs of tasks for one partition, in order, none with more than BATCH_TASKS tasks or about BATCH_BYTES."""
    partition: Partition | None = None
    batch: list[NewTask] = []
    size = 0
    for target, task in tasks:
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


def _results(replies: list[Enqueued]) -> list[EnqueueResult]:
    return [EnqueueResult(reply.task_id, reply.status) for reply in replies]


def accepted_id(result: EnqueueResult) -> str:
    """The task ID of a result, or its error raised."""
    if result.error is not None:
        raise result.error
    return result.task_id


class _Waiting:
    """A caller's tasks on the way. `wake` is set when all have results, or when this caller is to lead the next
    batch.
    """

    __slots__ = ("error", "left", "results", "wake")

    def __init__(self, size: int) -> None:
        self.left = size
        self.error: Exception | None = None
        self.results: list[EnqueueResult | None] = [None] * size
        self.wake = anyio.Event()

    def fail(self, error: Exception) -> None:
        """Its caller is to raise this, whatever became of the rest."""
        self.error = error
        self.wake.set()


class _Item(NamedTuple):
    """One queued task: whose, and the how-manieth of theirs."""

    owner: _Waiting
    place: int
    task: Addressed


class Producer:
    """Enqueues from asyncio on one connection. Concurrent callers share batches: one leads and sends for all.

    `url` may hold a password, which no error shows. `timeout`: seconds to keep trying.
    """

    def __init__(self, url: str, namespace: str, *, timeout: float = DEADLINE) -> None:
        self.url = url
        self.namespace = namespace
        self.timeout = timeout
        self._epoch_id = secrets.token_hex(8)
        self._client: redis_log.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._registered: dict[str, float] = {}
        self._leading = False
        self._queue: deque[_Item] = deque()

    async def enqueue(self, tasks: Sequence[Addressed]) -> list[EnqueueResult]:
        """One result per task, in order. Raises nothing about Redis's state: a failure is a result."""
        mine = _Waiting(len(tasks))
        self._queue.extend(_Item(mine, index, task) for index, task in enumerate(tasks))
        try:
            while mine.left and mine.error is None:
                if self._leading:
                    await mine.wake.wait()
                    mine.wake = anyio.Event()
                else:
                    await self._lead()
        finally:
            if mine.left:
                self._queue = deque(item for item in self._queue if item.owner is not mine)
                self._wake_next()
        if mine.error is not None:
            raise mine.error
        return [result for result in mine.results if result is not None]

    async def _lead(self) -> None:
        self._leading = True
        try:
            # A batch on its way is not abandoned: other callers wait for it too.
            with anyio.CancelScope(shield=True):
                await self._send_one_batch()
        finally:
            self._leading = False
            self._wake_next()

    def _wake_next(self) -> None:
        if self._queue and not self._leading:
            self._queue[0].owner.wake.set()

    async def _send_one_batch(self) -> None:
        partition, tasks = next(iter(batches(item.task for item in self._queue)))
        items = [self._queue.popleft() for _ in tasks]
        try:
            results = await self._deliver(scripts.enqueue(partition, tasks, epoch_id=self._epoch_id), partition, tasks)
        except Exception as error:  # noqa: BLE001 - an answer that nobody foresaw
            # Every caller of the batch gets it, or they would wait for ever.
            for item in items:
                item.owner.fail(error)
            return
        except BaseException:
            # Cancelled by asyncio itself (wait_for), which no shield stops. The leader's own tasks go with it; the
            # others' go with the next batch, where those that were enqueued already are known by their IDs.
            self._queue.extendleft(reversed(items))
            await self._drop_client()
            raise
        for item, result in zip(items, results, strict=True):
            item.owner.results[item.place] = result
            item.owner.left -= 1
            if not item.owner.left:
                item.owner.wake.set()

    async def _deliver(
        self, call: Call[list[Enqueued]], partition: Partition, tasks: list[NewTask]
    ) -> list[EnqueueResult]:
        attempt = Attempt(time.monotonic() + self.timeout)
        while True:
            sent = False
            try:
                with redis_log.translated(self.url):
                    client = await self._ready_client(partition.queue)
                    sent = True
                    return _results(await redis_log.send(client, call))
            except ReclaimdError as error:
                await self._drop_client()
                wait = attempt.after(error, time.monotonic(), sent=sent)
                if wait is None:
                    return [attempt.verdict(task.task_id, error) for task in tasks]
            await anyio.sleep(wait)

    async def _ready_client(self, queue: str) -> redis_log.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            await self._drop_client()
        if self._client is None:
            self._client, self._loop = redis_log.connect(self.url), loop
            self._registered.clear()
        if is_due(self._registered, queue):
            await self._client.sadd(queues_key(self.namespace), queue)
            self._registered[queue] = time.monotonic()
        return self._client

    async def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await close_quietly(client)
        elif client is not None:
            # Of an event loop that has ended since: it can be neither used nor closed, only collected. The library
            # would try to close it then, and complain on standard error.
            client.connection = None

    async def aclose(self) -> None:
        """Close the connection; the producer opens a new one when it is used again."""
        with anyio.CancelScope(shield=True):
            await self._drop_client()


async def close_quietly(client: redis_log.AsyncClient) -> None:
    """Close a connection that may be broken already; what closing a broken one says is of no use."""
    try:
        await client.aclose()
    except (redis.RedisError, OSError):
        return


class SyncProducer:
    """The same without asyncio; may be shared by threads."""

    def __init__(
        self, url: str, namespace: str, *, timeout: float = DEADLINE, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.url = url
        self.namespace = namespace
        self.timeout = timeout
        self._sleep = sleep
        self._epoch_id = secrets.token_hex(8)
        self._client = redis_log.connect_sync(url)
        self._registered: dict[str, float] = {}

    def enqueue(self, tasks: Sequence[Addressed]) -> list[EnqueueResult]:
        """One result per task, in order. Raises nothing about Redis: a failure is a result."""
        results: list[EnqueueResult] = []
        for partition, batch in batches(tasks):
            results += self._deliver(scripts.enqueue(partition, batch, epoch_id=self._epoch_id), partition, batch)
        return results

    def _deliver(self, call: Call[list[Enqueued]], partition: Partition, tasks: list[NewTask]) -> list[EnqueueResult]:
        attempt = Attempt(time.monotonic() + self.timeout)
        while True:
            sent = False
            try:
                with redis_log.translated(self.url):
                    self._make_ready(partition.queue, after_failure=attempt.wait > FIRST_WAIT)
                    sent = True
                    return _results(redis_log.send_sync(self._client, call))
            except ReclaimdError as error:
                self._registered.pop(partition.queue, None)
                wait = attempt.after(error, time.monotonic(), sent=sent)
                if wait is None:
                    return [attempt.verdict(task.task_id, error) for task in tasks]
            self._sleep(wait)

    def _make_ready(self, queue: str, *, after_failure: bool) -> None:
        if is_due(self._registered, queue) or after_failure:
            self._client.sadd(queues_key(self.namespace), queue)
            self._registered[queue] = time.monotonic()

    def close(self) -> None:
        """Close all connections; the producer opens new ones when it is used again."""
        self._client.close()

"""`Reclaimd`: the object that a program registers its tasks on and enqueues with."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from reclaimd.streams import credentials
from reclaimd.streams.configure import Config
from reclaimd.streams.durability import Durability
from reclaimd.streams.enqueueing import EnqueueResult, Limits, accepted_id, address
from reclaimd.streams.errors import InvalidTask
from reclaimd.streams.ids import check_queue
from reclaimd.streams.policy import Retry
from reclaimd.streams.producer import Producer, SyncProducer
from reclaimd.streams.tasks import Duration, P, R, Task, TaskCall, TaskOptions, to_ms

if TYPE_CHECKING:
    from reclaimd.streams.schedules.client import ScheduleClient

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_QUEUE = "default"
DEFAULT_TIMEOUT = 600


class Reclaimd:
    """Tasks and their producer. `schedules`: what makes tasks by the clock.

    `url`, `namespace` and `durability` (of all its tasks) fall back to RECLAIMD_REDIS_URL, RECLAIMD_NAMESPACE and
    RECLAIMD_DURABILITY. Nothing connects before the first
    `enqueue`. Use it as an async context manager, or call `aclose` (`close` after sync use). Raises ConfigError.
    """

    def __init__(
        self, url: str | None = None, namespace: str | None = None, *, durability: Durability | None = None
    ) -> None:
        self.tasks: dict[str, Task[..., Any]] = {}
        self.config: Config = credentials.library_config(
            os.environ, redis_url=url, namespace=namespace, durability=durability
        )
        self._producer: Producer | None = None
        self._sync_producer: SyncProducer | None = None

    @cached_property
    def schedules(self) -> ScheduleClient:
        """What makes tasks by the clock: put, get, list, remove, pause, resume, run_now."""
        # A worker needs none of it, and its start counts: what a restart finds pending waits for the imports.
        from reclaimd.streams.schedules.client import ScheduleClient

        return ScheduleClient(lambda: self.config, self.tasks)

    def configure(self, config: Config) -> None:
        """Use these settings from now on: a worker process hands its own to the app that it runs."""
        self.config = config
        self._producer = self._sync_producer = None

    def task(
        self,
        *,
        name: str | None = None,
        queue: str = DEFAULT_QUEUE,
        lane: str = "normal",
        timeout: Duration | None = DEFAULT_TIMEOUT,
        max_deliveries: int | None = None,
        retry: Retry | int | None = None,
    ) -> Callable[[Callable[P, R]], Task[P, R]]:
        """Register a function, sync or async, under its own name unless `name` is given.

        `timeout`: seconds, a duration such as "10m", or None for no limit. `retry`: a policy, or just the number of
        attempts. Raises InvalidTask when the function cannot be a task.
        """
        policy = Retry(attempts=retry) if isinstance(retry, int) else retry or Retry()
        timeout_ms = None if timeout is None else to_ms(timeout, "timeout")
        if timeout_ms == 0:
            raise InvalidTask("timeout 0 lets no task run: say None for no limit")
        options = TaskOptions(queue, lane, timeout_ms, max_deliveries, policy)

        def register(function: Callable[P, R]) -> Task[P, R]:
            task = Task(function, name or function.__name__, options)
            if task.name in self.tasks:
                raise InvalidTask(f"task {task.name} is registered twice: give one of them another name=")
            self.tasks[task.name] = task
            return task

        return register

    @property
    def queues(self) -> list[str]:
        """The queues that the registered tasks go to, sorted."""
        return sorted({task.opts.queue for task in self.tasks.values()})

    def _limits(self) -> Limits:
        config = self.config
        return Limits(config.worker.payload_limit, config.worker.max_deliveries, config.durability)

    async def enqueue(
        self,
        task: Task[..., Any],
        *args: Any,
        delay: Duration = 0,
        unique: str = "",
        lane: str | None = None,
        queue: str | None = None,
        task_id: str | None = None,
        max_deliveries: int | None = None,
        durability: Durability | None = None,
        **kwargs: Any,
    ) -> str:
        """Enqueue one task; returns its ID, or with `unique` the ID of the open task that has that key.

        Raises InvalidArguments, PayloadTooLarge; RedisUnreachable, RedisFull, RedisUnusable when it is certain that
        nothing was enqueued; EnqueueUncertain(task_id) when the answer was lost. Enqueueing that ID again enqueues at
        most once.

        `durability`: "replicated" waits until a replica has the task, "fsync" until it is on the server's disk; None is
        the setting. Raises DurabilityUnavailable when the server can do neither and nothing was enqueued,
        DurabilityUnconfirmed(task_id) when the task was accepted but the wait was in vain.
        """
        call = task.call(*args, **kwargs).options(
            delay=delay,
            unique=unique,
            lane=lane,
            queue=queue,
            task_id=task_id,
            max_deliveries=max_deliveries,
            durability=durability,
        )
        (result,) = await self.enqueue_many([call])
        return accepted_id(result)

    async def enqueue_many(self, calls: Sequence[TaskCall]) -> list[EnqueueResult]:
        """Enqueue many (`task.call(…)`), in as few round trips as fit; one result per task, in order."""
        limits = self._limits()
        addressed = [address(call, self.config.namespace, limits) for call in calls]
        if self._producer is None:
            self._producer = Producer(
                self.config.redis_url,
                self.config.namespace,
                durability_timeout_ms=self.config.durability_timeout_ms,
            )
        return await self._producer.enqueue(addressed)

    def enqueue_sync(
        self,
        task: Task[..., Any],
        *args: Any,
        delay: Duration = 0,
        unique: str = "",
        lane: str | None = None,
        queue: str | None = None,
        task_id: str | None = None,
        max_deliveries: int | None = None,
        durability: Durability | None = None,
        **kwargs: Any,
    ) -> str:
        """`enqueue` for programs and threads without asyncio."""
        call = task.call(*args, **kwargs).options(
            delay=delay,
            unique=unique,
            lane=lane,
            queue=queue,
            task_id=task_id,
            max_deliveries=max_deliveries,
            durability=durability,
        )
        (result,) = self.enqueue_many_sync([call])
        return accepted_id(result)

    def enqueue_many_sync(self, calls: Sequence[TaskCall]) -> list[EnqueueResult]:
        """`enqueue_many` without asyncio."""
        limits = self._limits()
        addressed = [address(call, self.config.namespace, limits) for call in calls]
        if self._sync_producer is None:
            self._sync_producer = SyncProducer(
                self.config.redis_url,
                self.config.namespace,
                durability_timeout_ms=self.config.durability_timeout_ms,
            )
        return self._sync_producer.enqueue(addressed)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        if self._producer is not None:
            await self._producer.aclose()
        self.close()

    def close(self) -> None:
        """Close what sync use opened."""
        if self._sync_producer is not None:
            self._sync_producer.close()


def queues_of(app: Reclaimd, wanted: Sequence[str]) -> list[str]:
    """The queues a worker serves: those asked for, else those of the app's tasks."""
    return [check_queue(queue) for queue in wanted] or app.queues

"""Enqueueing: on one connection, several callers' tasks in one script call, and a clear answer when the answer is lost.

A send that fails before anything left this process is certain not to have enqueued. After that only the server knows:
the same task IDs are sent again, which enqueues at most once, until an answer arrives or the deadline passes.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any, NamedTuple

import anyio
import redis

from reclaimd.streams import durability, redis_log
from reclaimd.streams.enqueueing import FIRST_WAIT, Addressed, EnqueueResult, Round, batches, is_due, take_turns
from reclaimd.streams.errors import ReclaimdError
from reclaimd.streams.keys import queues_key

DEADLINE = 10.0
DURABILITY_TIMEOUT_MS = 5_000
# One wait for the disk, which may take a second, serves so many batches.
ROUND_BATCHES = 20


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
    """Enqueues from asyncio, on one connection for each durability level. Concurrent callers share batches: one leads
    and sends for all.

    `url` may hold a password, which no error shows. `timeout`: seconds to keep trying; `durability_timeout_ms`: to wait
    for a replica or the disk.
    """

    def __init__(
        self,
        url: str,
        namespace: str,
        *,
        timeout: float = DEADLINE,
        durability_timeout_ms: int = DURABILITY_TIMEOUT_MS,
    ) -> None:
        self.url = url
        self.namespace = namespace
        self.timeout = timeout
        self._durability_timeout_ms = durability_timeout_ms
        self._lines: dict[str, _Line] = {}

    async def enqueue(self, tasks: Sequence[Addressed]) -> list[EnqueueResult]:
        """One result per task, in order. Raises nothing about Redis's state: a failure is a result.

        Tasks of one durability level are enqueued in order; levels one after the other.
        """
        results: dict[int, EnqueueResult] = {}
        for level, places in take_turns(tasks):
            line = self._lines.get(level)
            if line is None:
                line = self._lines[level] = _Line(
                    self.url, self.namespace, level, self.timeout, self._durability_timeout_ms
                )
            mine = [tasks[place] for place in places]
            results.update(zip(places, await line.enqueue(mine), strict=True))
        return [results[place] for place in range(len(tasks))]

    async def aclose(self) -> None:
        """Close the connections; the producer opens new ones when it is used again."""
        with anyio.CancelScope(shield=True):
            for line in self._lines.values():
                await line.drop_client()


class _Line:
    """The tasks of one durability level, and the connection that carries them: nobody waits for another's disk."""

    def __init__(self, url: str, namespace: str, level: str, timeout: float, durability_timeout_ms: int) -> None:
        self._url = url
        self._namespace = namespace
        self._level = level
        self._timeout = timeout
        self._wait_ms = 0 if level == "async" else durability_timeout_ms
        self._epoch_id = secrets.token_hex(8)
        self._client: redis_log.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._registered: dict[str, float] = {}
        self._fit = False
        self._leading = False
        self._queue: deque[_Item] = deque()

    async def enqueue(self, tasks: Sequence[Addressed]) -> list[EnqueueResult]:
        """As the producer's."""
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
            # What is on its way is not abandoned: other callers wait for it too.
            with anyio.CancelScope(shield=True):
                await self._send_one_round()
        finally:
            self._leading = False
            self._wake_next()

    def _wake_next(self) -> None:
        if self._queue and not self._leading:
            self._queue[0].owner.wake.set()

    async def _send_one_round(self) -> None:
        limit = ROUND_BATCHES if self._wait_ms else 1
        groups = list(islice(batches(item.task for item in self._queue), limit))
        items = [self._queue.popleft() for _, tasks in groups for _ in tasks]
        try:
            results = await self._deliver(Round(groups, self._level, self._epoch_id, self._timeout))
        except Exception as error:  # noqa: BLE001 - an answer that nobody foresaw
            # Every caller of the batch gets it, or they would wait for ever.
            for item in items:
                item.owner.fail(error)
            return
        except BaseException:
            # Cancelled by asyncio itself (wait_for), which no shield stops. The leader's own tasks go with it; the
            # others' go with the next batch, where those that were enqueued already are known by their IDs.
            self._queue.extendleft(reversed(items))
            await self.drop_client()
            raise
        for item, result in zip(items, results, strict=True):
            item.owner.results[item.place] = result
            item.owner.left -= 1
            if not item.owner.left:
                item.owner.wake.set()

    async def _deliver(self, on_way: Round) -> list[EnqueueResult]:
        while True:
            sent = False
            try:
                with redis_log.translated(self._url):
                    client = await self._ready_client()
                    for queue, place, call in on_way.calls():
                        await self._register(client, queue)
                        sent = True
                        on_way.take(place, await redis_log.send(client, call))
                    return await self._confirm(client, on_way)
            except ReclaimdError as error:
                await self.drop_client()
                wait = on_way.attempt.after(error, time.monotonic(), sent=sent)
                if wait is None:
                    return on_way.given_up(error)
            await anyio.sleep(wait)

    async def _confirm(self, client: redis_log.AsyncClient, on_way: Round) -> list[EnqueueResult]:
        if not self._wait_ms:
            return on_way.confirmed()
        command = durability.waiting(self._level, self._wait_ms)
        try:
            reply = await _execute(client, command)
            why = durability.shortfall(self._level, reply, self._wait_ms)
        except redis.ResponseError as error:
            why = durability.told_in_waiting(error, self._level)
        self._fit = not why
        return on_way.short(why) if why else on_way.confirmed()

    async def _ready_client(self) -> redis_log.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            await self.drop_client()
        if self._client is None:
            patience = redis_log.REPLY_TIMEOUT + self._wait_ms / 1000
            self._client, self._loop = redis_log.connect(self._url, reply_timeout=patience), loop
            self._registered.clear()
        if not self._fit and self._wait_ms:
            pipeline = self._client.pipeline(transaction=False)
            for command in durability.probes(self._level):
                pipeline.execute_command(*command)
            durability.check_probes(self._level, await pipeline.execute(raise_on_error=False))
            self._fit = True
        return self._client

    async def _register(self, client: redis_log.AsyncClient, queue: str) -> None:
        if is_due(self._registered, queue):
            await client.sadd(queues_key(self._namespace), queue)
            self._registered[queue] = time.monotonic()

    async def drop_client(self) -> None:
        """Close the connection; the next task opens a new one."""
        client, self._client, self._fit = self._client, None, False
        if client is not None and self._loop is asyncio.get_running_loop():
            await close_quietly(client)
        elif client is not None:
            # Of an event loop that has ended since: it can be neither used nor closed, only collected. The library
            # would try to close it then, and complain on standard error.
            client.connection = None


def _execute(client: redis_log.AsyncClient | redis_log.SyncClient, command: durability.Command) -> Any:
    """The reply, or for an asyncio client an awaitable of it; redis-py has no types for this method."""
    return client.execute_command(*command)


async def close_quietly(client: redis_log.AsyncClient) -> None:
    """Close a connection that may be broken already; what closing a broken one says is of no use."""
    try:
        await client.aclose()
    except (redis.RedisError, OSError):
        return


class SyncProducer:
    """The same without asyncio; may be shared by threads."""

    def __init__(
        self,
        url: str,
        namespace: str,
        *,
        timeout: float = DEADLINE,
        durability_timeout_ms: int = DURABILITY_TIMEOUT_MS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url
        self.namespace = namespace
        self.timeout = timeout
        self._wait_ms = durability_timeout_ms
        self._sleep = sleep
        self._epoch_id = secrets.token_hex(8)
        self._client = redis_log.connect_sync(url)
        # Idle until somebody asks for more than an answer.
        self._patient = redis_log.connect_sync(
            url, reply_timeout=redis_log.REPLY_TIMEOUT + durability_timeout_ms / 1000
        )
        self._registered: dict[str, float] = {}
        self._fit: set[str] = set()

    def enqueue(self, tasks: Sequence[Addressed]) -> list[EnqueueResult]:
        """One result per task, in order. Raises nothing about Redis: a failure is a result.

        Tasks of one durability level are enqueued in order; levels one after the other.
        """
        results: dict[int, EnqueueResult] = {}
        for level, places in take_turns(tasks):
            groups = iter(batches(tasks[place] for place in places))
            told: list[EnqueueResult] = []
            while some := list(islice(groups, 1 if level == "async" else ROUND_BATCHES)):
                told += self._deliver(Round(some, level, self._epoch_id, self.timeout))
            results.update(zip(places, told, strict=True))
        return [results[place] for place in range(len(tasks))]

    def _deliver(self, on_way: Round) -> list[EnqueueResult]:
        while True:
            sent = False
            try:
                with redis_log.translated(self.url), self._connection(on_way.level) as client:
                    self._check(client, on_way.level)
                    for queue, place, call in on_way.calls():
                        self._register(client, queue, after_failure=on_way.attempt.wait > FIRST_WAIT)
                        sent = True
                        on_way.take(place, redis_log.send_sync(client, call))
                    return self._confirm(client, on_way)
            except ReclaimdError as error:
                for partition, _ in on_way.groups:
                    self._registered.pop(partition.queue, None)
                self._fit.discard(on_way.level)
                wait = on_way.attempt.after(error, time.monotonic(), sent=sent)
                if wait is None:
                    return on_way.given_up(error)
            self._sleep(wait)

    def _connection(self, level: str) -> AbstractContextManager[redis_log.SyncClient]:
        """WAIT knows only what was written on its own connection: then one to the end."""
        if level == "async":
            return nullcontext(self._client)
        patient: redis_log.SyncClient = self._patient.client()  # type: ignore[no-untyped-call]
        return patient

    def _check(self, client: redis_log.SyncClient, level: str) -> None:
        if level == "async" or level in self._fit:
            return
        pipeline = client.pipeline(transaction=False)
        for command in durability.probes(level):
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
        durability.check_probes(level, pipeline.execute(raise_on_error=False))
        self._fit.add(level)

    def _confirm(self, client: redis_log.SyncClient, on_way: Round) -> list[EnqueueResult]:
        if on_way.level == "async":
            return on_way.confirmed()
        command = durability.waiting(on_way.level, self._wait_ms)
        try:
            reply = _execute(client, command)
            why = durability.shortfall(on_way.level, reply, self._wait_ms)
        except redis.ResponseError as error:
            why = durability.told_in_waiting(error, on_way.level)
        if not why:
            return on_way.confirmed()
        self._fit.discard(on_way.level)
        return on_way.short(why)

    def _register(self, client: redis_log.SyncClient, queue: str, *, after_failure: bool) -> None:
        if is_due(self._registered, queue) or after_failure:
            client.sadd(queues_key(self.namespace), queue)
            self._registered[queue] = time.monotonic()

    def close(self) -> None:
        """Close all connections; the producer opens new ones when it is used again."""
        self._client.close()
        self._patient.close()

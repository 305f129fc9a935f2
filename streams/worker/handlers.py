"""One delivery through its handler to a settlement.

| the handler | settlement |
|---|---|
| returns | succeeded |
| returns what JSON cannot carry | failed, `unencodable_result` |
| raises | retry by the task's policy, then failed, `raised` (`not_retryable` when the policy excludes the type) |
| outlives its timeout | cancelled; retry, then failed, `timeout` |
| is sync, sees `Context.cancelled` and returns | as if it had been cancelled: it left early |
| is sync and does not end when told to | none: the process is recycled, the parent releases the entry |
| calls `sys.exit` | none: the process ends, the parent releases the entry |
| swallows its cancellation | none: the process is recycled, the parent releases the entry |
| is cancelled because the worker stops or its lease is in danger, and raises or ends | handback |
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import structlog

from reclaimd.streams.codec import BODY_VERSION, Delivery, Settlement, decode_body, settle
from reclaimd.streams.context import Context
from reclaimd.streams.errors import InvalidArguments
from reclaimd.streams.policy import parking_delay
from reclaimd.streams.tasks import Task

log = structlog.get_logger("reclaimd.worker")

# How long a sync handler may take to notice `Context.cancelled` before its process is recycled.
OVERRUN = 5.0


class NoVerdict(Exception):
    """The run ended without one: its entry stays pending until this process is gone."""


class Stopped(Exception):
    """The run was cancelled from outside and ended."""


class Run:
    """A delivery on its way through a handler. `name`: the task's, or empty while unknown."""

    __slots__ = (
        "abandoned",
        "context",
        "delivery",
        "expired",
        "interrupt",
        "name",
        "started",
        "stopped",
        "task",
        "timeout",
    )

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.name = ""
        self.task: Task[..., Any] | None = None
        self.context: Context | None = None
        self.interrupt: Callable[[], object] | None = None
        self.started = time.monotonic()
        self.timeout: float | None = None
        self.stopped = False
        self.expired = False
        # It goes on without end: only the end of its process settles what becomes of its entry.
        self.abandoned = False

    @property
    def deadline(self) -> float | None:
        """Monotonic seconds, None without a timeout."""
        return None if self.timeout is None else self.started + self.timeout

    @property
    def run_ms(self) -> int:
        """Milliseconds since it began."""
        return round((time.monotonic() - self.started) * 1000)

    def stop(self) -> None:
        """Cancel the handler; a sync one is told and not interrupted."""
        if self.stopped:
            return
        self.stopped = True
        if self.context is not None:
            self.context.stop.set()
        if self.interrupt is not None:
            self.interrupt()

    def expire(self) -> None:
        """Its timeout is over: cancel the handler."""
        self.expired = True
        if self.interrupt is not None:
            self.interrupt()

    def verdict(self, outcome: Any, **details: Any) -> Settlement:
        """The settlement of this run."""
        return settle(self.delivery, outcome, run_ms=self.run_ms, name=self.name, **details)


class Handlers:
    """Runs deliveries through the tasks of one app."""

    def __init__(self, tasks: dict[str, Task[..., Any]], worker: str, concurrency: int, park_for_ms: int) -> None:
        self._tasks = tasks
        self._worker = worker
        self._park_for_ms = park_for_ms
        self._threads = anyio.CapacityLimiter(concurrency)

    async def run(self, run: Run, queue: str) -> Settlement:
        """To the end of one run. Raises NoVerdict; SystemExit and KeyboardInterrupt of the handler count as that."""
        try:
            prepared = self._prepare(run, queue)
        except (ValueError, RecursionError) as error:
            # Not UTF-8, or nested without end: neither is an error of the decoder's own kind.
            return run.verdict("dead", cause="bad_body", error=_words(error))
        if isinstance(prepared, Settlement):
            return prepared
        task, kwargs = prepared
        if run.stopped:
            return run.verdict("handback", cause="stopped")
        try:
            return _succeeded(run, await self._call(run, task, kwargs))
        except Stopped:
            return run.verdict("handback", cause="stopped")
        except NoVerdict:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is its verdict
            return _failed(run, task, error)
        except BaseException as error:
            if _is_cancellation(error):
                # Not ours: `_call` turns our own into Stopped or TimeoutError. The handler raised it itself.
                return _failed(run, task, RuntimeError(f"the handler raised {type(error).__name__}"))
            log.critical("a handler ends the process", task_id=run.delivery.task_id, task=run.name, error=repr(error))
            raise NoVerdict(repr(error)) from error

    def _prepare(self, run: Run, queue: str) -> Settlement | tuple[Task[..., Any], dict[str, Any]]:
        delivery = run.delivery
        if delivery.problem:
            return run.verdict("dead", cause="foreign", error=delivery.problem)
        try:
            body = decode_body(delivery.body)
        except msgspec.MsgspecError as error:
            return run.verdict("dead", cause="bad_body", error=str(error))
        run.name = body.name
        if body.v > BODY_VERSION:
            return self._park(run, "newer_body", f"body version {body.v}, this worker knows {BODY_VERSION}")
        task = self._tasks.get(body.name)
        if task is None:
            return self._park(run, "unknown_task", f"no task {body.name!r} is registered in this worker's app")
        try:
            kwargs = task.decode(body.args)
        except InvalidArguments as error:
            return run.verdict("dead", cause="bad_arguments", error=str(error))
        run.task = task
        if task.opts.timeout_ms is not None:
            run.timeout = task.opts.timeout_ms / 1000
        if task.context_parameter is not None or not task.is_async:
            run.context = Context(
                task_id=delivery.task_id,
                name=task.name,
                queue=queue,
                worker=self._worker,
                attempt=delivery.attempts + 1,
                deliveries=delivery.deliveries,
                token=delivery.token,
                deadline=run.deadline,
            )
            if task.context_parameter is not None:
                kwargs[task.context_parameter] = run.context
        return task, kwargs

    def _park(self, run: Run, cause: str, why: str) -> Settlement:
        delay = parking_delay(run.delivery, self._park_for_ms)
        if delay is None:
            return run.verdict("dead", cause=cause, error=why)
        log.warning("task parked", task_id=run.delivery.task_id, cause=cause, why=why, again_in_s=delay / 1000)
        return run.verdict("parked", cause=cause, error=why, delay_ms=delay)

    async def _call(self, run: Run, task: Task[..., Any], kwargs: dict[str, Any]) -> Any:
        if not task.is_async:
            return await self._call_in_thread(run, task, kwargs)
        # asyncio's own cancellation and timer: an anyio scope for each run costs more than everything else about it.
        current = asyncio.current_task()
        assert current is not None
        run.interrupt = current.cancel
        timer = None if run.timeout is None else asyncio.get_running_loop().call_later(run.timeout, run.expire)
        try:
            return await task.function(**kwargs)
        except (Exception, asyncio.CancelledError) as error:
            if run.stopped:
                raise Stopped from error
            if run.expired:
                raise _timed_out(run) from error
            raise
        finally:
            run.interrupt = None
            if timer is not None:
                timer.cancel()

    async def _call_in_thread(self, run: Run, task: Task[..., Any], kwargs: dict[str, Any]) -> Any:
        outcome: list[Any] = []
        ended = anyio.Event()
        context = run.context

        async def in_thread() -> None:
            def body() -> None:
                try:
                    outcome.extend((True, task.function(**kwargs)))
                except BaseException as error:  # noqa: BLE001 - carried to the event loop, judged there
                    outcome.extend((False, error))

            await anyio.to_thread.run_sync(body, abandon_on_cancel=True, limiter=self._threads)
            ended.set()

        async with anyio.create_task_group() as group:
            group.start_soon(in_thread)
            with anyio.move_on_after(run.timeout) as scope:
                run.interrupt = scope.cancel
                await ended.wait()
            run.interrupt = None
            run.expired = scope.cancelled_caught and not run.stopped
            if not outcome and context is not None:
                context.stop.set()
                with anyio.move_on_after(OVERRUN):
                    await ended.wait()
            if not outcome:
                group.cancel_scope.cancel()
        if not outcome:
            log.error("a sync handler does not end", task_id=run.delivery.task_id, task=run.name, ran_ms=run.run_ms)
            raise NoVerdict("a sync handler outlived its timeout")
        return _verdict_of_thread(run, *outcome)


def _verdict_of_thread(run: Run, returned: bool, value: Any) -> Any:
    left_early = run.context is not None and run.context.noticed.is_set()
    if returned and not left_early:
        return value
    if isinstance(value, SystemExit):
        raise value
    if run.stopped:
        raise Stopped
    if run.expired:
        raise _timed_out(run) from (None if returned else value)
    raise value


def _timed_out(run: Run) -> TimeoutError:
    return TimeoutError(f"still running after its timeout of {run.timeout:g} s")


def _words(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception of somebody else's that cannot even be printed
        text = "it cannot be printed"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_cancellation(error: BaseException) -> bool:
    return isinstance(error, anyio.get_cancelled_exc_class())


def _succeeded(run: Run, result: Any) -> Settlement:
    if result is not None:
        try:
            msgspec.json.encode(result)
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            return run.verdict("failed", cause="unencodable_result", error=str(error))
    return run.verdict("succeeded")


def _failed(run: Run, task: Task[..., Any], error: Exception) -> Settlement:
    timeout = isinstance(error, TimeoutError) and run.timeout is not None and run.run_ms >= run.timeout * 1000
    cause = "timeout" if timeout else "raised"
    text = _words(error)
    failures = run.delivery.attempts + 1
    delay = task.opts.retry.next_delay(failures, error, random.random())
    said = {"task_id": run.delivery.task_id, "task": run.name, "failures": failures, "cause": cause}
    if delay is not None:
        log.warning("task failed, will be retried", again_in_s=delay / 1000, error=text, **said)
        return run.verdict("retry", cause=cause, error=text, delay_ms=delay)
    if failures < task.opts.retry.attempts:
        cause = "not_retryable"
    log.error("task failed", exc_info=error, **said)
    return run.verdict("failed", cause=cause, error=text)

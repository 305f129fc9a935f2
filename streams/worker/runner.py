"""The turn loop: one turn at a time on one connection; what a turn delivers is started, what finished goes with the
next.

Order that safety rests on: a handler starts only from the reply that delivered it; after any error the connection is
closed and the next turn is an audit; a settlement leaves the list only when its turn was answered; nothing is handed
back while its handler still runs.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import anyio
import redis
import structlog

from reclaimd.streams import redis_log, scripts
from reclaimd.streams.codec import Delivery
from reclaimd.streams.errors import ReclaimdError
from reclaimd.streams.keys import Partition
from reclaimd.streams.producer import close_quietly
from reclaimd.streams.scripts import Turn, Turned
from reclaimd.streams.settings import WorkerSettings
from reclaimd.streams.worker.beat import Renewals
from reclaimd.streams.worker.bell import Doorbell
from reclaimd.streams.worker.handlers import OVERRUN, Handlers, NoVerdict, Run
from reclaimd.streams.worker.options import EXIT_FENCED, EXIT_RECYCLE, EXIT_STOPPED
from reclaimd.streams.worker.shift import Shift

log = structlog.get_logger("reclaimd.worker")

LARGEST_TURN = 500
OVERLAP_FROM = 20
FIRST_RETRY = 0.05
LONGEST_RETRY = 1.0
STATE_WAIT = 1.0
# How long a stopping worker tries to tell its last settlements to a Redis that does not answer.
LAST_WORDS = 5.0
# A sync handler is given up on after OVERRUN, by the one who runs it; one that swallows cancellations a little later.
DEAF_AFTER = OVERRUN + 1.0


def end_process(code: int) -> NoReturn:
    """At once: a handler's thread that does not end must not keep the process alive."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Ending(NamedTuple):
    """Why a worker stops taking tasks, until when its handlers may go on, and its exit code."""

    why: str
    deadline: float
    code: int


class Runner:
    """Takes, runs and settles for one worker process, over all its partitions."""

    def __init__(
        self,
        url: str,
        worker: str,
        shifts: Sequence[Shift],
        handlers: Handlers,
        settings: WorkerSettings,
        renewals: Renewals,
    ) -> None:
        self._url = url
        self._worker = worker
        self._shifts = list(shifts)
        self._handlers = handlers
        self._settings = settings
        self._renewals = renewals
        self._client: redis_log.AsyncClient | None = None
        self._wake = anyio.Event()
        self._bell = Doorbell(url, shifts, self.wake, lambda: self._capacity() > 0)
        self._ending: Ending | None = None
        self._cancelled = False
        self._leaving = False
        self._fenced: set[Partition] = set()
        self._turns = 0
        # Plain tasks rather than a task group's: `_execute` lets nothing out, and this is the hot path.
        self._tasks: set[asyncio.Task[None]] = set()
        self._next_audit = 0.0

    def wake(self) -> None:
        """Look again: something finished, rang or ended."""
        if not self._wake.is_set():
            self._wake.set()

    def busy(self) -> bool:
        """Whether any handler runs. May be called from another thread."""
        return any(shift.running for shift in self._shifts)

    def overdue_since(self) -> float | None:
        """The earliest deadline of a run that has passed. May be called from another thread."""
        now = time.monotonic()
        deadlines = [run.deadline for shift in self._shifts for run in list(shift.running.values())]
        return min((d for d in deadlines if d is not None and d < now), default=None)

    def end(self, why: str, grace: float, code: int = EXIT_STOPPED) -> None:
        """Take no more; let handlers go on for `grace` seconds, then cancel them. The most urgent end wins."""
        deadline = time.monotonic() + grace
        if self._ending is None or deadline < self._ending.deadline or code == EXIT_FENCED:
            log.info("worker ends", worker=self._worker, why=why, running=self._running(), grace_s=grace)
            self._ending = Ending(why, deadline, code)
        self.wake()

    def fenced(self, partition: Partition) -> None:
        """A newer incarnation or the daemon took over this worker ID: nothing here counts any more.

        Verdicts are still sent, to be refused and counted: an operator should see what work was thrown away.
        """
        if partition in self._fenced or self._leaving:
            return
        self._fenced.add(partition)
        log.error("fenced: the tasks of this worker run elsewhere", worker=self._worker, queue=partition.queue)
        self.end("fenced", 0, EXIT_FENCED)

    def cancel_all(self, why: str) -> None:
        """Cancel every handler; each is handed back, or refused if somebody else has it by then."""
        log.warning("handlers cancelled", worker=self._worker, why=why, running=self._running())
        for shift in self._shifts:
            for run in list(shift.running.values()):
                run.stop()

    async def run(self) -> int:
        """Until ended; returns the exit code. All that could be handed back was.

        When a handler goes on for all that, the process ends here: its parent releases what it held.
        """
        async with anyio.create_task_group() as group:
            group.start_soon(self._bell.run)
            while not self._is_over():
                self._abandon_the_deaf()
                shift = self._next_shift()
                if shift is None:
                    await self._rest()
                else:
                    await self._turn(shift)
            if self._running():
                end_process(self._exit_code())
            # From here on a beat that is refused says what we did ourselves.
            self._leaving = True
            await self._leave()
            group.cancel_scope.cancel()
        if self._client is not None:
            await close_quietly(self._client)
        return self._exit_code()

    def _is_over(self) -> bool:
        if self._ending is None:
            return False
        now = time.monotonic()
        if now >= self._ending.deadline and not self._cancelled:
            self._cancelled = True
            self.cancel_all(self._ending.why)
        if self._running() > self._abandoned() and now < self._ending.deadline + LAST_WORDS:
            return False
        told = not any(shift.finished for shift in self._shifts)
        return told or now >= self._ending.deadline + LAST_WORDS

    def _running(self) -> int:
        return sum(len(shift.running) for shift in self._shifts)

    def _exit_code(self) -> int:
        assert self._ending is not None
        return self._ending.code

    def _abandoned(self) -> int:
        return sum(run.abandoned for shift in self._shifts for run in shift.running.values())

    def _abandon_the_deaf(self) -> None:
        """A handler that swallows its cancellation would hold its entry, and a place, for ever."""
        now = time.monotonic()
        for shift in self._shifts:
            for run in shift.running.values():
                if not run.abandoned and run.deadline is not None and now > run.deadline + DEAF_AFTER:
                    log.error("a handler swallows its cancellation", task_id=run.delivery.task_id, task=run.name)
                    self._abandon(run, self._settings.grace_ms / 1000)

    def _abandon(self, run: Run, grace: float) -> None:
        """Its entry stays pending and counted among the running ones until this process is gone."""
        run.abandoned = True
        self.end("a handler does not end", grace, EXIT_RECYCLE)

    def _capacity(self) -> int:
        if self._ending is not None:
            return 0
        return max(0, min(self._settings.concurrency - self._running(), LARGEST_TURN))

    def _next_shift(self) -> Shift | None:
        """The partition whose turn it is: settlements to tell, work to take, or an audit; in rotation."""
        now = time.monotonic()
        if now >= self._next_audit:
            self._next_audit = now + self._settings.heartbeat / 1000 * self._settings.audit_every
            for shift in self._shifts:
                shift.audit_due = True
        capacity = self._capacity()
        for _ in range(len(self._shifts)):
            shift = self._shifts.pop(0)
            self._shifts.append(shift)
            if now < shift.not_before:
                continue
            if shift.finished or (shift.ready and capacity) or (shift.audit_due and self._ending is None):
                return shift
        return None

    async def _rest(self) -> None:
        now = time.monotonic()
        until = min([self._next_audit, *(shift.not_before for shift in self._shifts if shift.not_before > now)])
        if self._ending is not None:
            until = min(until, self._ending.deadline if now < self._ending.deadline else now + 0.05)
        if self._capacity():
            self._bell.listen()
        with anyio.move_on_after(max(0.0, until - now)):
            await self._wake.wait()
        self._wake = anyio.Event()

    async def _turn(self, shift: Shift) -> None:
        settlements = shift.take_finished()
        running = shift.running_ids() if shift.audit_due else None
        self._turns += 1
        ask = Turn(self._capacity(), not self._runs_suspect(), settlements, running, self._turns)
        sent = time.monotonic()
        try:
            reply = await self._send(scripts.turn(shift.partition, self._worker, shift.token, ask))
        except (ReclaimdError, redis.RedisError) as error:
            shift.give_back(settlements)
            await self._lost_turn(shift, error)
            return
        if shift.failures:
            log.info("turns work again", queue=shift.partition.queue, after_failures=shift.failures)
            shift.failures = 0
        if reply.status in ("fenced", "late"):
            # Late, on a connection of our own where nothing overtakes: somebody else turns with our token, a clone.
            self.fenced(shift.partition)
        elif reply.status == "state":
            shift.give_back(settlements)
            shift.not_before = time.monotonic() + STATE_WAIT
            log.warning("partition is not open", queue=shift.partition.queue, state=reply.state)
        else:
            self._renewals.renewed(shift.partition, sent)
            self._heed(shift, ask, reply)
            await self._start(shift, reply.deliveries)

    def _heed(self, shift: Shift, ask: Turn, reply: Turned) -> None:
        if ask.running is not None:
            shift.audit_due = False
            if reply.handed_back:
                log.warning("audit handed back entries whose delivery never arrived", count=reply.handed_back)
        for stream, entry_id in reply.lost:
            run = shift.lose(stream, entry_id)
            if run is not None:
                log.error("an entry that runs here is not pending any more", task_id=run.delivery.task_id)
                run.stop()
        if ask.want:
            shift.ready = len(reply.deliveries) >= ask.want

    async def _start(self, shift: Shift, deliveries: Sequence[Delivery]) -> None:
        """Start the handlers. They run while the next turn is on its way, if there is something to tell in it.

        If there is nothing, the first half of many gets to run before the rest is started: of short tasks there is then
        always one half running here while the server settles the other.
        """
        create_task = asyncio.get_running_loop().create_task
        half = len(deliveries) // 2 if len(deliveries) >= OVERLAP_FROM and not shift.finished else 0
        runs = [Run(delivery) for delivery in deliveries]
        for run in runs:
            shift.start(run)
        for place, run in enumerate(runs):
            if half and place == half:
                await asyncio.sleep(0)
            task = create_task(self._execute(shift, run))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _execute(self, shift: Shift, run: Run) -> None:
        try:
            if self._renewals.is_fresh(shift.partition):
                settlement = await self._handlers.run(run, shift.partition.queue)
            else:
                settlement = run.verdict("handback", cause="lease_in_danger")
        except NoVerdict as error:
            is_exit = isinstance(error.__cause__, SystemExit | KeyboardInterrupt)
            self._abandon(run, 0 if is_exit else self._settings.grace_ms / 1000)
        except Exception:
            log.exception("a run ended in a way that nobody foresaw", task_id=run.delivery.task_id)
            self._abandon(run, self._settings.grace_ms / 1000)
        else:
            shift.finish(run, settlement)
            self.wake()

    def _runs_suspect(self) -> bool:
        return any(run.delivery.is_suspect for shift in self._shifts for run in shift.running.values())

    async def _send(self, call: scripts.Call[Turned]) -> Turned:
        # A timeout of the client library's would write from a task of its own, behind all handlers that are to start
        # meanwhile; with this one the turn is on its way before the first of them runs.
        with redis_log.translated(self._url):
            async with asyncio.timeout(redis_log.REPLY_TIMEOUT):
                if self._client is None:
                    self._client = redis_log.connect(self._url, reply_timeout=None)
                return await redis_log.send(self._client, call)

    async def _lost_turn(self, shift: Shift, error: Exception) -> None:
        """No answer: the turn may or may not have happened, and may still happen. Only an audit tells."""
        shift.audit_due = True
        client, self._client = self._client, None
        if client is not None:
            await close_quietly(client)
        if not shift.failures:
            log.error("turn failed", worker=self._worker, queue=shift.partition.queue, error=str(error))
        shift.not_before = time.monotonic() + min(FIRST_RETRY * 2 ** min(shift.failures, 10), LONGEST_RETRY)
        shift.failures += 1

    async def _leave(self) -> None:
        for shift in self._shifts:
            if shift.partition in self._fenced:
                continue
            try:
                with redis_log.translated(self._url), anyio.fail_after(LAST_WORDS):
                    client = self._client = self._client or redis_log.connect(self._url)
                    while (
                        await redis_log.send(client, scripts.leave(shift.partition, self._worker, shift.token))
                    ).status == "more":
                        pass
            except (ReclaimdError, TimeoutError, redis.RedisError) as error:
                log.warning("could not leave, the lease ends by itself", queue=shift.partition.queue, error=str(error))

"""The parent of worker processes: it sees them die, which is the fastest proof there is.

A child that ends is reaped; what is left of its process group is killed; its incarnation is released within
milliseconds; it is started again, later each time while it keeps dying young. A parent that dies takes its children
along (PDEATHSIG).
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
import anyio.abc
import anyio.to_thread
import msgspec
import redis
import structlog

from reclaimd.streams.errors import ConfigError, ReclaimdError
from reclaimd.streams.settings import Settings
from reclaimd.streams.worker.identity import Base, base_id, process_ids
from reclaimd.streams.worker.locks import lock_path, read_holder, state_folder
from reclaimd.streams.worker.options import (
    EXIT_FAILED,
    EXIT_FENCED,
    EXIT_IN_USE,
    EXIT_RECYCLE,
    EXIT_STOPPED,
    EXIT_UNUSABLE,
    EXIT_USAGE,
    ChildOptions,
)
from reclaimd.streams.worker.pulse import Pulse, is_stopped
from reclaimd.streams.worker.releasing import Releaser, release_dead, swallow_release

log = structlog.get_logger("reclaimd.supervisor")

# What is wrong with the command line, the app or Redis does not mend by starting again; the exit code that says so.
_HOPELESS = {EXIT_USAGE: 2, EXIT_UNUSABLE: 3}

# A child that lived this long is taken to have started well.
YOUNG = 10.0
FIRST_BACKOFF = 0.5
LONGEST_BACKOFF = 30.0
# A death that a task caused: max_deliveries bounds how often, and the tasks that wait are not to blame.
LONGEST_BACKOFF_AT_WORK = 2.0
RELEASE_FOR = 2.0
# After the grace period a child still cancels its handlers, tells its last settlements and leaves.
AFTER_GRACE = 8.0


@dataclass(slots=True)
class Slot:
    """One worker ID and the process that holds it."""

    worker: str
    nonce: str = ""
    process: anyio.abc.Process | None = None
    proof: str = ""
    after_fence: bool = False
    young_deaths: int = 0
    had_work: bool = False
    starts: int = 0
    started: float = field(default=0.0)


class Supervisor:
    """Keeps one child per worker ID alive until told to stop."""

    def __init__(self, target: str, workers: Sequence[str], queues: Sequence[str], settings: Settings) -> None:
        self._target = target
        self._queues = list(queues)
        self._settings = settings
        self._slots = [Slot(worker) for worker in workers]
        self._releaser = Releaser(settings.redis_url, settings.namespace)
        self._folder = state_folder(settings.worker.state_dir, dict(os.environ))
        self._stop_asked = anyio.Event()
        self._exit_code = EXIT_STOPPED
        self._releasing = anyio.Lock()

    def _stopping(self) -> bool:
        return self._stop_asked.is_set()

    async def run(self) -> int:
        """Until every child has ended after a signal, or one cannot work at all; returns the exit code."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._handle_signals)
            group.start_soon(self._kill_the_late)
            async with anyio.create_task_group() as children:
                for slot in self._slots:
                    children.start_soon(self._keep_alive, slot)
                children.start_soon(self._release_predecessors)
            group.cancel_scope.cancel()
        self._releaser.close()
        return self._exit_code

    async def _release_predecessors(self) -> None:
        """What an earlier life of these IDs left pending, while the children are still starting."""
        paths = [lock_path(self._folder, self._settings.namespace, slot.worker) for slot in self._slots]
        known = [path for path in paths if path.exists()]
        try:
            async with self._releasing:
                released = await anyio.to_thread.run_sync(release_dead, self._releaser, known, self._settings.namespace)
        except (ReclaimdError, redis.RedisError, RuntimeError) as error:
            log.warning("could not look after earlier lives yet", error=str(error))
            return
        for worker, moved in released.items():
            if moved:
                log.warning("tasks of an earlier life released", worker=worker, tasks=moved)

    async def _keep_alive(self, slot: Slot) -> None:
        while not self._stopping():
            code = await self._live_once(slot)
            if self._stopping():
                return
            hopeless = _HOPELESS.get(code)
            if code == EXIT_IN_USE and slot.starts == 1:
                # Later on it may be a leftover of the last life that still holds the lock, and that passes.
                hopeless = EXIT_FAILED
            if hopeless is not None:
                self._exit_code = hopeless
                self._stop(signal.SIGTERM)
                return
            await self._back_off(slot, code)

    async def _live_once(self, slot: Slot) -> int:
        """Start a child, wait for its end, make sure that nothing of it is left, release it. Returns its exit code."""
        slot.nonce = secrets.token_hex(8)
        slot.started = time.monotonic()
        slot.starts += 1
        pulse: Pulse | None = None
        try:
            pulse = Pulse(self._settings.worker.lease_ms / 1000)
            process = slot.process = await self._spawn(slot, pulse)
        except (OSError, RuntimeError) as error:
            # Out of descriptors, memory, processes or threads (RuntimeError): that may pass, and the others work on.
            log.warning("cannot start a process", worker=slot.worker, error=str(error))
            if pulse is not None:
                pulse.close()
            return EXIT_FAILED
        if self._stopping():
            # The signal came while there was no process yet to pass it on to.
            process.send_signal(signal.SIGTERM)
        try:
            code = await self._wait(process, slot, pulse)
        finally:
            _kill_group(process.pid)
            pulse.close()
        slot.process = None
        slot.after_fence = code == EXIT_FENCED
        # The lock file knows those before it that never joined.
        slot.proof = slot.nonce
        with anyio.CancelScope(shield=True):
            await self._release(slot, code)
        await process.aclose()
        return code

    async def _spawn(self, slot: Slot, pulse: Pulse) -> anyio.abc.Process:
        options = ChildOptions(
            target=self._target,
            worker=slot.worker,
            nonce=slot.nonce,
            parent_pid=os.getpid(),
            settings=self._settings,
            queues=self._queues,
            proof=slot.proof,
            after_fence=slot.after_fence,
            pulse_fd=pulse.child_fd,
        )
        try:
            process = await anyio.open_process(
                [sys.executable, "-m", "reclaimd.streams.worker.child"],
                stdin=subprocess.PIPE,
                stdout=None,
                stderr=None,
                start_new_session=True,
                pass_fds=[pulse.child_fd],
            )
        finally:
            os.close(pulse.child_fd)
        assert process.stdin is not None
        try:
            await process.stdin.send(msgspec.json.encode(options))
            await process.stdin.aclose()
        except (anyio.BrokenResourceError, OSError) as error:
            log.warning("a child died before it was told what to do", worker=slot.worker, error=str(error))
        return process

    async def _wait(self, process: anyio.abc.Process, slot: Slot, pulse: Pulse) -> int:
        def kill() -> None:
            if not is_stopped(process.pid):
                log.error("a handler holds up its whole process: killing it", worker=slot.worker, pid=process.pid)
                _kill_group(process.pid)

        async with anyio.create_task_group() as group:
            group.start_soon(pulse.watch, kill)
            code = await process.wait()
            group.cancel_scope.cancel()
        return code

    async def _release(self, slot: Slot, code: int) -> None:
        holder = read_holder(lock_path(self._folder, self._settings.namespace, slot.worker))
        queues = holder.queues if holder is not None and holder.nonce == slot.nonce else self._queues
        asked = self._stopping()
        moved = 0
        async with self._releasing:
            try:
                moved = await anyio.to_thread.run_sync(
                    lambda: swallow_release(
                        self._releaser, slot.worker, slot.nonce, queues, asked=asked, wait=RELEASE_FOR
                    )
                )
            except RuntimeError as error:
                # No thread to be had. The next life of this ID proves the death of this one, else its lease ends.
                log.warning("could not release", worker=slot.worker, error=str(error))
        slot.had_work = moved > 0
        if code != EXIT_STOPPED or moved > 0:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            log.warning("worker process ended", worker=slot.worker, how=how, released=moved)

    async def _back_off(self, slot: Slot, code: int) -> None:
        lived = time.monotonic() - slot.started
        slot.young_deaths = 0 if lived >= YOUNG else slot.young_deaths + 1
        # The first restarts are immediate: most deaths are one of a kind, and being fenced or recycled is no fault.
        free = 3 if code in (EXIT_STOPPED, EXIT_FENCED, EXIT_RECYCLE) else 1
        if slot.young_deaths <= free:
            return
        longest = LONGEST_BACKOFF_AT_WORK if slot.had_work else LONGEST_BACKOFF
        delay = min(FIRST_BACKOFF * 2 ** min(slot.young_deaths - free - 1, 10), longest)
        log.info("worker starts again", worker=slot.worker, after_s=delay, young_deaths=slot.young_deaths)
        with anyio.move_on_after(delay):
            await self._stop_asked.wait()

    async def _handle_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for received in signals:
                name = signal.Signals(received).name
                if self._stopping():
                    log.warning("second signal: killing the workers", signal=name)
                    self._signal_children(signal.SIGKILL)
                else:
                    log.info("stopping", signal=name, grace_s=self._settings.worker.grace_ms / 1000)
                    self._stop(signal.SIGTERM)

    async def _kill_the_late(self) -> None:
        """Children have their grace period and a little more; then they are killed and released like dead ones."""
        await self._stop_asked.wait()
        await anyio.sleep(self._settings.worker.grace_ms / 1000 + AFTER_GRACE)
        log.error("workers outlived the grace period: killing them")
        self._signal_children(signal.SIGKILL)

    def _stop(self, sign: signal.Signals) -> None:
        self._stop_asked.set()
        self._signal_children(sign)

    def _signal_children(self, sign: signal.Signals) -> None:
        for slot in self._slots:
            if slot.process is not None and slot.process.returncode is None:
                if sign is signal.SIGKILL:
                    _kill_group(slot.process.pid)
                else:
                    slot.process.send_signal(sign)


def _kill_group(pid: int) -> None:
    """Kill what a child may have left running: it was the leader of its own group."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def run(target: str, *, queues: Sequence[str], worker_id: str | None, processes: int, settings: Settings) -> int:
    """`reclaimd worker`: supervise until a signal; returns the exit code. Raises ConfigError before anything starts."""
    if processes < 1:
        raise ConfigError(f"--processes {processes}: say 1 or more")
    if not target.partition(":")[2]:
        raise ConfigError(f"{target!r} names no app: say MODULE:APP, such as myproject.tasks:app")
    folder = state_folder(settings.worker.state_dir, dict(os.environ))
    base = base_id(worker_id, os.environ, folder, settings.namespace)
    log.info("worker ID", id=base.name, source=base.source, processes=processes)
    return anyio.run(_supervise, target, base, process_ids(base.name, processes), list(queues), settings)


async def _supervise(target: str, base: Base, workers: list[str], queues: list[str], settings: Settings) -> int:
    code = await Supervisor(target, workers, queues, settings).run()
    if base.slot is not None:
        base.slot.close()
    return code

"""One worker process: `python -m reclaimd.streams.worker.child`, started by the supervisor, options on standard
input.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import anyio
import msgspec
import structlog

from reclaimd.streams import logs
from reclaimd.streams.app import Reclaimd, queues_of
from reclaimd.streams.configure import Config
from reclaimd.streams.errors import ConfigError, Fenced, ReclaimdError, WorkerIdInUse
from reclaimd.streams.keys import Partition
from reclaimd.streams.scripts import Identity
from reclaimd.streams.settings import Settings
from reclaimd.streams.worker.beat import BeatThread, Held, Renewals, WatchThread
from reclaimd.streams.worker.handlers import Handlers
from reclaimd.streams.worker.joining import join_all
from reclaimd.streams.worker.locks import LockFile, LockHeld, boot_id, lock_path, state_folder
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
from reclaimd.streams.worker.runner import Runner, end_process
from reclaimd.streams.worker.shift import Shift

log = structlog.get_logger("reclaimd.worker")

_PR_SET_PDEATHSIG = 1
LOCK_WAIT = 2.0


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when its parent dies; checks afterwards whether that was too late to ask."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


def load_app(target: str) -> Reclaimd:
    """The app that `MODULE:APP` names; raises ConfigError. The working directory is importable, as with `python -m`."""
    module_name, separator, attribute = target.partition(":")
    if not separator or not module_name or not attribute:
        raise ConfigError(f"{target!r} names no app: say MODULE:APP, such as myproject.tasks:app")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise ConfigError(f"no module {module_name!r} here or on PYTHONPATH: start the worker where it lies") from error
    app = getattr(module, attribute, None)
    if not isinstance(app, Reclaimd):
        raise ConfigError(f"{target} is {type(app).__name__}, not a Reclaimd: name the variable that holds the app")
    return app


class _Hooks:
    """What the threads call (streams.worker.beat.Watched)."""

    def __init__(self, runner: Runner, post: Callable[[Callable[[], None]], None]) -> None:
        self._runner = runner
        self.post = post
        self.busy = runner.busy
        self.overdue_since = runner.overdue_since
        self.on_fenced = runner.fenced

    def on_silence(self) -> None:
        self._runner.cancel_all("no lease was renewed for half its length")

    def on_kill(self, why: str) -> None:
        sys.stderr.write(f"reclaimd: worker process {os.getpid()} kills its group: {why}\n")
        sys.stderr.flush()
        os.killpg(os.getpgid(0), signal.SIGKILL)


def _take_lock(options: ChildOptions, namespace: str, queues: list[str]) -> tuple[LockFile, str]:
    """Our lock file, written with our nonce, and the nonce that it proves dead (or the supervisor saw die)."""
    folder = state_folder(options.settings.worker.state_dir, dict(os.environ))
    path = lock_path(folder, namespace, options.worker)
    try:
        lock = _acquire_patiently(path)
    except LockHeld as held:
        raise WorkerIdInUse(options.worker, str(held)) from held
    proven = lock.proven_dead(options.worker)
    lock.write(worker=options.worker, nonce=options.nonce, namespace=namespace, queues=queues, before=proven)
    return lock, " ".join(dict.fromkeys([*proven, *options.proof.split()]))


def _acquire_patiently(path: Path) -> LockFile:
    """A predecessor that was just killed may hold it for another moment, through a child of its own."""
    deadline = time.monotonic() + LOCK_WAIT
    while True:
        try:
            return LockFile.acquire(path)
        except LockHeld:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _evidence(lock: LockFile) -> str:
    said = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "boot_id": boot_id(),
        "lock": lock.file,
        "version": metadata.version("reclaimd"),
        "started_at": int(time.time() * 1000),
    }
    return msgspec.json.encode(said).decode()


async def work(options: ChildOptions, app: Reclaimd) -> int:
    """Join, run until told to end, leave; returns the exit code."""
    settings = options.settings
    queues = queues_of(app, options.queues)
    if not queues:
        raise ConfigError(f"{options.target} has no task and no --queue was given: nothing to work for")
    lock, proof = _take_lock(options, settings.namespace, queues)
    partitions = [Partition(settings.namespace, queue) for queue in queues]
    who = Identity(options.worker, options.nonce, settings.worker.lease_ms, _evidence(lock), proof, options.after_fence)
    joined = await join_all(settings.redis_url, partitions, who)
    lock.joined(options.nonce)
    log.info("worker started", worker=options.worker, queues=queues, tasks=len(app.tasks), pid=os.getpid())
    return await _serve(options, app, joined.held, Renewals(*joined, settings.worker.lease_ms / 1000))


async def _serve(options: ChildOptions, app: Reclaimd, held: Sequence[Held], renewals: Renewals) -> int:
    settings = options.settings
    worker = settings.worker
    handlers = Handlers(app.tasks, options.worker, worker.concurrency, worker.park_for_ms)
    shifts = [Shift(h.partition, h.token) for h in held]
    runner = Runner(settings.redis_url, options.worker, shifts, handlers, worker, renewals)
    hooks = _Hooks(runner, _poster())
    beat = BeatThread(settings.redis_url, held, worker.heartbeat / 1000, renewals, hooks)
    watch = WatchThread(worker.lease_ms / 1000, renewals, hooks, options.pulse_fd)
    beat.start()
    watch.start()
    async with anyio.create_task_group() as group:
        group.start_soon(_end_on_signal, runner, worker.grace_ms / 1000)
        code = await runner.run()
        group.cancel_scope.cancel()
    beat.end()
    watch.end()
    await app.aclose()
    return code


def _poster() -> Callable[[Callable[[], None]], None]:
    """Calls something in this event loop from another thread, without waiting for it."""
    token = anyio.lowlevel.current_token()
    loop = token.native_token
    call_soon: Callable[[Callable[[], None]], object] = loop.call_soon_threadsafe  # type: ignore[attr-defined]

    def post(what: Callable[[], None]) -> None:
        try:
            call_soon(what)
        except RuntimeError:
            return  # the loop has ended, and with it everything that could be told

    return post


async def _end_on_signal(runner: Runner, grace: float) -> None:
    # Under systemd's KillMode=control-group this process gets the signal too, beside its supervisor: a second one means
    # nothing here. The supervisor kills when there is hurry.
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for received in signals:
            runner.end(signal.Signals(received).name, grace)


def main() -> None:
    """The process. Ends with os._exit: a thread that does not end must not keep a fenced process alive."""
    options = msgspec.json.decode(sys.stdin.buffer.read(), type=ChildOptions)
    die_with_parent(options.parent_pid)
    if options.pulse_fd is not None:
        os.set_blocking(options.pulse_fd, False)
        os.set_inheritable(options.pulse_fd, False)
    logs.set_up(options.settings.daemon.log_format, options.settings.daemon.log_level)
    end_process(_main(options))


def _main(options: ChildOptions) -> int:
    try:
        app = load_app(options.target)
        app.configure(_as_config(options.settings))
        return anyio.run(work, options, app)
    except BaseExceptionGroup as group:
        own = group.subgroup(ReclaimdError)
        if own is None:
            log.exception("worker failed")
            return EXIT_FAILED
        error: BaseException = own
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return _say(error)
    except ReclaimdError as error:
        return _say(error)
    except KeyboardInterrupt:
        return EXIT_STOPPED
    except SystemExit as error:
        # Of a task that a handler started beside itself; asyncio lets it end the loop.
        log.critical("a handler ended the process", error=repr(error))
        return EXIT_RECYCLE
    except Exception:
        log.exception("worker failed", target=options.target)
        return EXIT_FAILED


def _say(error: BaseException) -> int:
    sys.stderr.write(f"reclaimd: {error}\n")
    if isinstance(error, Fenced):
        return EXIT_FENCED
    if isinstance(error, WorkerIdInUse):
        return EXIT_IN_USE
    known = {2: EXIT_USAGE, 3: EXIT_UNUSABLE}
    return known.get(error.exit_code, EXIT_FAILED) if isinstance(error, ReclaimdError) else EXIT_FAILED


def _as_config(settings: Settings) -> Config:
    return Config(**{name: getattr(settings, name) for name in Settings.__struct_fields__})


if __name__ == "__main__":
    assert threading.current_thread() is threading.main_thread()
    main()

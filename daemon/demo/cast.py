"""The processes of demo and drill, and what can be seen of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import redis

from reclaimd.daemon.demo.tasks import DIARY, END_OF_NOTE
from reclaimd.daemon.view import PartitionView, decode_view
from reclaimd.streams import Reclaimd, redis_log, scripts
from reclaimd.streams.configure import Config
from reclaimd.streams.keys import Partition
from reclaimd.streams.worker.child import die_with_parent

T = TypeVar("T")

LEASE = 2.0
QUEUE = "demo"
NAMESPACE = "demo"


class BrokenPromise(Exception):
    """Something that had to happen did not."""


class Note(NamedTuple):
    """A line of the diary: a run began or ended, or a schedule beat. `at`: wall seconds."""

    what: str
    task_id: str
    worker: str
    pid: int
    at: float


class Stage:
    """The scratch folder, the server and the processes started on it.

    `app`: what the workers run, `module:app`. `settings`: further variables of the environment.
    """

    def __init__(self, folder: Path, url: str, namespace: str, app: str, settings: Mapping[str, str]) -> None:
        self.folder = folder
        self.url = url
        self.namespace = namespace
        self.partition = Partition(namespace, QUEUE)
        self._target = app
        self.client = redis_log.connect_sync(url)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        own = {name: value for name, value in os.environ.items() if not name.startswith("RECLAIMD_")}
        # Where systemd would have the archive and the passwords of somebody else's daemon.
        foreign = ("STATE_DIRECTORY", "CREDENTIALS_DIRECTORY")
        self._environment = {name: value for name, value in own.items() if name not in foreign} | {
            "RECLAIMD_REDIS_URL": url,
            "RECLAIMD_NAMESPACE": namespace,
            "RECLAIMD_WORKER_LEASE": f"{LEASE:g}s",
            "RECLAIMD_WORKER_STATE_DIR": str(folder / "state"),
            "RECLAIMD_WORKER_GRACE": "2s",
            **settings,
        }

    def app(self) -> Reclaimd:
        """What enqueues and schedules here, whatever the environment says of another Redis and its password."""
        app = Reclaimd()
        app.configure(Config(redis_url=self.url, namespace=self.namespace))
        return app

    @property
    def archive_url(self) -> str | None:
        """Where the daemon keeps its archive, if it has one."""
        return self._environment.get("RECLAIMD_ARCHIVE_URL")

    def start_daemon(self) -> None:
        """`reclaimd serve`, on a free port."""
        self._start("daemon", "serve", "--listen", "127.0.0.1:0")

    def kill_daemon(self) -> int:
        """By SIGKILL; returns its pid."""
        process = self._processes["daemon"]
        process.kill()
        process.wait()
        return process.pid

    def start_worker(self, worker: str) -> None:
        """`reclaimd worker` under this ID."""
        self._start(worker, "worker", self._target, "--queue", QUEUE, "--id", worker, "--concurrency", "20")

    def _start(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            # Whoever is killed with -9 clears nothing up: at least nothing of it must run on.
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "reclaimd", *arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509  (one thread, and nothing is allocated)
            )

    def view(self) -> PartitionView:
        """The partition as the daemon sees it."""
        return decode_view(QUEUE, 0, redis_log.send_sync(self.client, scripts.view(self.partition)))

    def pause(self, *, paused: bool) -> None:
        """Let workers take nothing from the queue, or again."""
        redis_log.send_sync(self.client, scripts.pause(self.partition, paused=paused))

    def worker_pid(self, worker: str) -> int | None:
        """The process that holds this worker ID now."""
        row = self.client.hget(self.partition.key("workers"), worker)
        if not isinstance(row, bytes) or row[:1] in (b"!", b"~"):
            return None
        pid: int = json.loads(row.split(b"|", 2)[2])["pid"]
        return pid

    def notes(self) -> list[Note]:
        """The diary so far: what the tasks themselves wrote down, in that order."""
        raise NotImplementedError

    def beats(self) -> list[int]:
        """The instants of the schedule that ran, wall milliseconds, in the order of their runs."""
        return [int(note.task_id.rpartition(":")[2]) for note in self.notes() if note.what == "beat"]

    def running(self, pid: int) -> set[str]:
        """Tasks that this process has begun and not ended."""
        notes = [note for note in self.notes() if note.pid == pid]
        return {n.task_id for n in notes if n.what == "began"} - {n.task_id for n in notes if n.what == "ended"}

    def kill_everything(self, worker: str) -> None:
        """The worker with its supervisor, by SIGKILL: nobody is left to report."""
        pid = self.worker_pid(worker)
        process = self._processes[worker]
        process.kill()
        if pid is not None:
            _signal(pid, signal.SIGKILL)
        process.wait()

    def kill_all(self) -> list[int]:
        """Every process there is, by SIGKILL, before any of them can look up. Returns the pids of the workers."""
        workers = [pid for name in self._processes if (pid := self.worker_pid(name)) is not None]
        for pid in (*(process.pid for process in self._processes.values()), *workers):
            _signal(pid, signal.SIGKILL)
        for process in self._processes.values():
            process.wait()
        return workers

    def signal_worker(self, worker: str, sign: signal.Signals) -> int:
        """Send a signal to the process that holds this ID; returns its pid."""
        pid = self.worker_pid(worker)
        if pid is None:
            raise BrokenPromise(f"{worker} holds no lease")
        _signal(pid, sign)
        return pid

    def end(self) -> None:
        """Everything that still runs."""
        for process in self._processes.values():
            if process.poll() is None:
                process.terminate()
        until = time.monotonic() + 6.0
        for process in self._processes.values():
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.client.close()


class DemoStage(Stage):
    """The demo's own: its tasks write into a file."""

    def __init__(self, folder: Path, url: str, settings: Mapping[str, str]) -> None:
        self.diary = folder / "diary"
        self.diary.touch()
        app = "reclaimd.daemon.demo.tasks:app"
        super().__init__(folder, url, NAMESPACE, app, {DIARY: str(self.diary), **settings})

    def notes(self) -> list[Note]:
        """The diary so far."""
        rows = (line.split() for line in self.diary.read_text("ascii").splitlines())
        return [Note(row[0], row[1], row[2], int(row[3]), float(row[4])) for row in rows if row[5:] == [END_OF_NOTE]]


def _signal(pid: int, sign: signal.Signals) -> None:
    try:
        os.kill(pid, sign)
    except ProcessLookupError:
        return


def wait_for(what: str, look: Callable[[], T | None], seconds: float = 45.0) -> T:
    """The first true value of `look`; raises BrokenPromise naming what did not come."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            seen = look()
        except (redis.ConnectionError, redis.TimeoutError):
            seen = None
        if seen:
            return seen
        time.sleep(0.01)
    raise BrokenPromise(f"waited {seconds:g} s in vain for: {what}")

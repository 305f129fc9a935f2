"""Real worker processes under real supervisors, and what a test has to see of them."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import redis

from reclaimd.streams import scripts
from reclaimd.streams.app import Reclaimd
from reclaimd.streams.errors import ReclaimdError
from reclaimd.streams.keys import Partition
from reclaimd.streams.redis_log import connect_sync, send_sync
from reclaimd.streams.tasks import Task
from support.cli import environment, started
from support.forked import Forked
from support.servers import Server
from support.task_app import JOURNAL
from support.waiting import wait_until

T = TypeVar("T")
NAMESPACE = "fleet"
MAIL = Partition(NAMESPACE, "mail")
TESTS = Path(__file__).resolve().parents[1]


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    return process_state(pid) not in {"", "Z", "X"}


def process_state(pid: int) -> str:
    """The kernel's letter: R, S, D, T, Z; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children_of(pid: int) -> list[int]:
    """Live processes whose parent is `pid`, the oldest first."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid and fields[0] not in {"Z", "X"}:
            found.append((int(fields[19]), int(stat.parent.name)))
    return [child for _, child in sorted(found)]


@dataclass
class WorkerProcess:
    """`reclaimd worker …`: the supervisor. Its children's IDs are `name`, or `name-0`, `name-1`, …"""

    name: str
    process: Forked
    log: Path
    started: float
    _seen: set[int] = field(default_factory=set)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def children(self) -> list[int]:
        """Its live worker processes."""
        now = children_of(self.pid)
        self._seen.update(now)
        return now

    def said(self) -> str:
        """Everything that it and its children logged."""
        return self.log.read_text(errors="replace")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill_child(self, pid: int, sign: signal.Signals = signal.SIGKILL) -> None:
        """A signal to one of its children, and for SIGKILL until that one is gone."""
        assert pid in self._seen, f"{pid} is no child of {self.name}"
        os.kill(pid, sign)
        if sign is signal.SIGKILL:
            wait_until(lambda: not is_alive(pid), f"{pid} to be gone")

    def wait(self, timeout: float = 15.0) -> int:
        """Until it has ended; returns the exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {timeout} s:\n{self.said()[-3000:]}") from None

    def kill_all(self) -> list[int]:
        """kill -9 of the supervisor and of every child, the supervisor first, so that nobody is left to report."""
        children = self.children
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGSTOP)
        for pid in [*children, self.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        return children

    def ended(self) -> bool:
        """Nothing of it runs any more."""
        return self.process.poll() is not None and not any(is_alive(pid) for pid in self._seen)


class Fleet:
    """The workers of one server, in one scratch folder: journal, gates, lock files. Ends with everything it started."""

    def __init__(self, server: Server, folder: Path, *, lease: str = "1s") -> None:
        self.server = server
        self.folder = folder
        self.lease = lease
        self.workers: list[WorkerProcess] = []
        self.app = Reclaimd(server.url, NAMESPACE)
        self._client = connect_sync(server.url)
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.kill_all()
        self.app.close()
        self._client.close()
        if error is not None:
            for worker in self.workers:
                error.add_note(f"--- {worker.name}\n{worker.said()[-3000:]}")

    def start(
        self,
        name: str = "w",
        *,
        processes: int = 1,
        concurrency: int = 10,
        target: str = "support.task_app:app",
        queues: tuple[str, ...] = ("mail",),
        url: str | None = None,
        lease: str | None = None,
        wait: bool = True,
        **env: str,
    ) -> WorkerProcess:
        """Start a supervisor; `wait` until its workers have joined. `env`: more environment, such as settings."""
        self._count += 1
        log = self.folder / f"{name}.{self._count}.log"
        settings = {
            "RECLAIMD_REDIS_URL": url or self.server.url,
            "RECLAIMD_NAMESPACE": NAMESPACE,
            "RECLAIMD_WORKER_LEASE": lease or self.lease,
            "RECLAIMD_WORKER_STATE_DIR": str(self.folder / "state"),
            "TASK_FOLDER": str(self.folder),
            "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        arguments = ["--id", name, "--processes", str(processes), "--concurrency", str(concurrency)]
        for queue in queues:
            arguments += ["--queue", queue]
        before = self.counters().get("joined", 0)
        with log.open("ab") as out:
            given = environment(**{**settings, **env})
            process = started("worker", target, *arguments, log=out, env=given, cwd=self.folder, new_session=True)
        worker = WorkerProcess(name, process, log, time.monotonic())
        self.workers.append(worker)
        if wait:
            joined = f"{name} to join with {processes} processes"
            wait_until(lambda: self.counters().get("joined", 0) >= before + processes, joined, 20)
        return worker

    def start_daemon(self, **env: str) -> WorkerProcess:
        """A real `reclaimd serve`. `env`: more environment, such as settings."""
        self._count += 1
        log = self.folder / f"daemon.{self._count}.log"
        settings = {"RECLAIMD_REDIS_URL": self.server.url, "RECLAIMD_NAMESPACE": NAMESPACE}
        with log.open("ab") as out:
            given = environment(**{**settings, **env})
            process = started("serve", "--listen", "127.0.0.1:0", log=out, env=given, new_session=True)
        daemon = WorkerProcess("daemon", process, log, time.monotonic())
        self.workers.append(daemon)
        return daemon

    def call(self, call: scripts.Call[T]) -> T:
        """Run a script."""
        return send_sync(self._client, call)

    def raw(self, *command: Any) -> Any:
        """Any command."""
        return self._client.execute_command(*command)  # type: ignore[no-untyped-call]

    def enqueue(self, task: Task[..., Any], *args: Any, **options: Any) -> str:
        """Through the library, as a program would."""
        return self.app.enqueue_sync(task, *args, **options)

    def view(self, partition: Partition = MAIL) -> dict[str, Any]:
        """The view script's numbers."""
        found: dict[str, Any] = json.loads(self.call(scripts.view(partition)))
        return found

    def counters(self, partition: Partition = MAIL) -> dict[str, int]:
        """Totals by name, without advancing the clock."""
        rows = self._client.hgetall(partition.key("counters"))
        return {name.decode(): int(number) for name, number in rows.items()}  # type: ignore[union-attr]

    def wait_counter(self, name: str, least: int = 1, timeout: float = 10.0, partition: Partition = MAIL) -> int:
        """Until a total has grown to `least`; returns it."""
        return wait_until(
            lambda: (got := self.counters(partition).get(name, 0)) >= least and got, f"{name} >= {least}", timeout
        )

    def dead(self) -> list[dict[str, str]]:
        """The dead letters, the oldest first."""
        entries: Any = self._client.xrange(MAIL.key("dead"))
        return [
            {key.decode(): value.decode(errors="replace") for key, value in fields.items()} for _, fields in entries
        ]

    def journal(self, *what: str, task: str | None = None) -> list[dict[str, Any]]:
        """Lines of the journal, those of some kinds or of one task."""
        path = self.folder / JOURNAL
        if not path.exists():
            return []
        # The last line of a process that is being killed may be in two halves.
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        return [line for line in lines if (not what or line["what"] in what) and (task is None or line["task"] == task)]

    def wait_journal(
        self,
        what: str,
        count: int = 1,
        *,
        task: str | None = None,
        worker: str | None = None,
        timeout: float = 10.0,
    ) -> list[dict[str, Any]]:
        """Until there are `count` such lines; returns them."""

        def lines() -> list[dict[str, Any]]:
            found = [line for line in self.journal(what, task=task) if worker in {None, line["worker"]}]
            return found if len(found) >= count else []

        return wait_until(lines, f"{count} lines {what!r} in the journal", timeout)

    def open_gate(self, gate: str) -> None:
        """Let the handlers that wait for it go on."""
        (self.folder / gate).touch()

    @contextlib.contextmanager
    def keeper(self) -> Iterator[None]:
        """A daemon's duties, done by script calls in a thread: reclaim, promote, ring."""
        end = threading.Event()

        def keep() -> None:
            client = connect_sync(self.server.url)
            while not end.wait(0.02):
                with contextlib.suppress(ReclaimdError, redis.RedisError, OSError):
                    _keep(client)
            client.close()

        thread = threading.Thread(target=keep, name="keeper", daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join(10)


def _keep(client: redis.Redis) -> None:
    view = json.loads(send_sync(client, scripts.view(MAIL)))
    if view["expired"] or view["fenced"]:
        while send_sync(client, scripts.reclaim(MAIL)).more:
            pass
    if view["overdue"]:
        send_sync(client, scripts.promote(MAIL))
    if sum(view["waiting"].values()) and not view["bell"]:
        send_sync(client, scripts.ring(MAIL))

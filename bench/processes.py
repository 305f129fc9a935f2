"""Workers and daemons as processes of their own, ended by process ID."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from stage import HERE, Stage
from start import Start

from reclaimd.daemon.view import PartitionView, decode_view
from reclaimd.streams import redis_log, scripts
from reclaimd.streams.keys import Partition
from reclaimd.streams.settings import ArchiveSettings, DaemonSettings, Settings, WorkerSettings
from support.servers import free_port
from support.waiting import wait_until

APP = "bench_tasks:app"
START_WITHIN = 60.0


class Process:
    """One process that was started here, its log in the stage's folder."""

    def __init__(self, stage: Stage, what: str, name: str, start: Start) -> None:
        self.log = stage.folder / f"{name}.log"
        path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", HERE / "start.py", what],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=stage.folder,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(start))
        self._process.stdin.close()
        self.pid = self._process.pid

    def children(self) -> list[int]:
        """Process IDs of its children."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def alive(self) -> bool:
        """Raises AssertionError with the log's end when it has ended by itself."""
        if self._process.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise AssertionError(f"a process of the benchmark ended with {self._process.returncode}:\n{tail}")
        return True

    def kill_all(self) -> None:
        """SIGKILL to it and its children, so that nobody is left to report."""
        victims = [self.pid, *self.children()] if self._process.poll() is None else []
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait(10)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to whatever has not ended in 15 s."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill_all()


def settings(stage: Stage, namespace: str, **worker: Any) -> Settings:
    """Settings on the stage's server. `worker`: fields of WorkerSettings."""
    worker.setdefault("state_dir", str(stage.folder / "state"))
    worker.setdefault("grace_ms", 1000)
    return Settings(
        redis_url=stage.server.url,
        namespace=namespace,
        listen=f"127.0.0.1:{free_port()}",
        worker=WorkerSettings(**worker),
        daemon=DaemonSettings(log_format="json", log_level="warning"),
    )


def start_worker(
    stage: Stage,
    partition: Partition,
    worker: str = "w",
    *,
    processes: int = 1,
    queues: Sequence[str] = (),
    **more: Any,
) -> Process:
    """A supervisor with its children; does not wait for them. `more`: fields of WorkerSettings."""
    start = Start(settings(stage, partition.namespace, **more), APP, queues or [partition.queue], worker, processes)
    return Process(stage, "worker", worker, start)


def start_daemon(stage: Stage, namespace: str, within: float = START_WITHIN, *, archive: str | None = None) -> Process:
    """A daemon; waits until it answers that it is ready, `within` seconds at most. `archive`: URL of one."""
    start = Start(msgspec.structs.replace(settings(stage, namespace), archive=ArchiveSettings(url=archive)))
    daemon = Process(stage, "daemon", f"daemon-{namespace}", start)
    port = int(start.settings.listen.rpartition(":")[2])
    try:
        wait_until(lambda: daemon.alive() and _answers(port), "the daemon to be ready", within)
    except BaseException:
        daemon.stop()
        raise
    return daemon


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def look(stage: Stage, partition: Partition) -> PartitionView:
    """The partition's numbers."""
    return decode_view(partition.queue, 0, redis_log.send_sync(stage.client, scripts.view(partition)))


def wait_live(stage: Stage, partition: Partition, count: int, process: Process | None = None) -> None:
    """Until so many workers hold a lease."""

    def enough() -> bool:
        return (process is None or process.alive()) and look(stage, partition).live >= count

    wait_until(enough, f"{count} live workers", START_WITHIN)


@contextmanager
def ending(processes: list[Process]) -> Iterator[list[Process]]:
    """Stops all processes that are in the list when the block ends."""
    try:
        yield processes
    finally:
        for process in processes:
            process.stop()

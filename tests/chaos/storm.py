"""Random harm to a whole system: workers, daemon, network and server, from one seed."""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from reclaimd.streams.errors import EnqueueUncertain, ReclaimdError
from reclaimd.streams.tasks import Task
from support import task_app
from support.aof import cut_unfinished
from support.fleet import Fleet, WorkerProcess, process_state
from support.proxy import Proxy
from support.waiting import wait_until

MANY = 1000
POISON_DELIVERIES = 3
# Each costs three processes, and a worker that keeps dying young starts ever later.
POISON_EVERY = 600
_QUIET = (0.1, 0.7)


class Producer(threading.Thread):
    """Enqueues until told to end. `accepted`: task IDs whose enqueueing was confirmed."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        super().__init__(name="producer")
        self._fleet = fleet
        self._chance = random.Random(seed)
        self._ended = threading.Event()
        self.accepted: list[str] = []
        self.poison: list[str] = []

    def run(self) -> None:
        while not self._ended.wait(0.005):
            name = f"t{len(self.accepted)}"
            if len(self.accepted) % POISON_EVERY == 149:
                self._enqueue(name, task_app.exits_hard, 9, max_deliveries=POISON_DELIVERIES)
                self.poison.append(name)
            elif self._chance.random() < 0.3:
                self._enqueue(name, task_app.work_sync, self._chance.randrange(80), max_deliveries=MANY)
            else:
                fails = self._chance.random() < 0.1
                self._enqueue(name, task_app.work, self._chance.randrange(80), fails, max_deliveries=MANY)

    def _enqueue(self, name: str, task: Task[..., Any], *args: Any, max_deliveries: int) -> None:
        """With the same ID until it is certain: an outage is no reason to give up or to enqueue twice."""
        lane = self._chance.choice(("high", "normal", "low"))
        while True:
            try:
                self._fleet.app.enqueue_sync(task, *args, task_id=name, lane=lane, max_deliveries=max_deliveries)
            except EnqueueUncertain:
                continue
            except ReclaimdError:
                continue
            self.accepted.append(name)
            return

    def end(self) -> None:
        """Stop, and wait until the last one is certain."""
        self._ended.set()
        self.join(30)
        assert not self.is_alive()


class Storm:
    """`strike` does one harm. `deaths` and `frozen` are what a checker must know of processes."""

    def __init__(self, fleet: Fleet, proxy: Proxy, seed: int) -> None:
        self._fleet = fleet
        self._proxy = proxy
        self._chance = random.Random(seed)
        self.deaths: dict[int, float] = {}
        self.frozen: set[int] = set()
        self.done: list[str] = []
        self._workers = {name: self._start(name) for name in ("a", "b", "c")}
        self._daemon = fleet.start_daemon()
        self._harms: list[tuple[int, Callable[[], None]]] = [
            (6, self._kill_child),
            (3, self._kill_group),
            (2, self._kill_supervisor),
            (2, self._stop_gently),
            (3, self._freeze_child),
            (2, self._cut),
            (2, self._black_hole),
            (2, self._kill_daemon),
            (1, self._kill_server),
        ]

    def rage(self, seconds: float) -> None:
        """Strike again and again for so long."""
        until = time.monotonic() + seconds
        weights = [weight for weight, _ in self._harms]
        while time.monotonic() < until:
            (_, harm) = self._chance.choices(self._harms, weights)[0]
            self.done.append(harm.__name__.strip("_"))
            harm()
            time.sleep(self._chance.uniform(*_QUIET))

    def _start(self, name: str) -> WorkerProcess:
        url = self._fleet.server.url_at(self._proxy.port) if name == "b" else None
        return self._fleet.start(name, processes=2, concurrency=4, url=url, wait=False, RECLAIMD_WORKER_GRACE="300ms")

    def _some_worker(self) -> WorkerProcess:
        return self._workers[self._chance.choice(sorted(self._workers))]

    def _some_child(self) -> int | None:
        children = self._some_worker().children
        return self._chance.choice(children) if children else None

    def _kill(self, *pids: int) -> None:
        for pid in pids:
            self.deaths.setdefault(pid, time.monotonic())
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _again(self, worker: WorkerProcess) -> None:
        worker.process.wait(20)
        self._workers[worker.name] = self._start(worker.name)

    def _kill_child(self) -> None:
        child = self._some_child()
        if child is not None:
            self._kill(child)

    def _kill_group(self) -> None:
        worker = self._some_worker()
        children = worker.children
        os.kill(worker.pid, signal.SIGSTOP)
        self._kill(*children, worker.pid)
        self._again(worker)

    def _kill_supervisor(self) -> None:
        worker = self._some_worker()
        self._kill(worker.pid)
        self._again(worker)

    def _stop_gently(self) -> None:
        worker = self._some_worker()
        worker.terminate()
        self._again(worker)

    def _freeze_child(self) -> None:
        child = self._some_child()
        if child is None:
            return
        self.frozen.add(child)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGSTOP)
            time.sleep(self._chance.uniform(0.2, 1.6))
            os.kill(child, signal.SIGCONT)

    def _cut(self) -> None:
        self._proxy.cut_all()

    def _black_hole(self) -> None:
        self._proxy.black_hole()
        time.sleep(self._chance.uniform(0.2, 1.2))
        if self._chance.random() < 0.5:
            self._proxy.cut_all()
        self._proxy.heal()

    def _kill_daemon(self) -> None:
        self._daemon.process.kill()
        self._daemon.process.wait(10)
        self._daemon = self._fleet.start_daemon()

    def _kill_server(self) -> None:
        self._fleet.server.kill9()
        # Else the half of a script that reached the disk would come true at the next kill: docs/protocol.md.
        cut_unfinished(self._fleet.server.folder)
        self._fleet.server.start()

    def calm(self) -> None:
        """Nothing is broken any more: all may settle."""
        self._proxy.heal()
        for worker in self._workers.values():
            for child in worker.children:
                if process_state(child) == "T":
                    os.kill(child, signal.SIGCONT)
            assert worker.process.poll() is None, worker.said()[-2000:]

    def wait_settled(self, count: int, timeout: float) -> None:
        """Until so many tasks have a verdict."""

        def settled() -> bool:
            counters = self._fleet.counters()
            return counters.get("succeeded", 0) + counters.get("dead", 0) >= count

        wait_until(settled, f"{count} tasks to be settled after {self.done}", timeout)

"""The supervisor itself: a machine that has no process left to give, and how long a child that died waits."""

import asyncio
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from reclaimd.streams import scripts
from reclaimd.streams.settings import Settings, WorkerSettings
from reclaimd.streams.worker.locks import LockFile, lock_path
from reclaimd.streams.worker.options import EXIT_FAILED, EXIT_FENCED, EXIT_RECYCLE, EXIT_STOPPED
from reclaimd.streams.worker.releasing import release_proven
from reclaimd.streams.worker.supervisor import (
    FIRST_BACKOFF,
    LONGEST_BACKOFF,
    LONGEST_BACKOFF_AT_WORK,
    YOUNG,
    Slot,
    Supervisor,
)
from support import task_app
from support.fleet import MAIL, NAMESPACE, Fleet, WorkerProcess
from support.servers import Server
from support.waiting import wait_until

pytestmark = pytest.mark.flavours("valkey")
KILLED = -signal.SIGKILL


@pytest.fixture
def fleet(server: Server, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(server, tmp_path) as fleet:
        yield fleet


def settings_of(fleet: Fleet) -> Settings:
    worker = WorkerSettings(state_dir=str(fleet.folder / "state"))
    return Settings(redis_url=fleet.server.url, namespace=NAMESPACE, worker=worker)


def supervisor_of(fleet: Fleet) -> Supervisor:
    """One of worker `w`, in this process."""
    return Supervisor("support.task_app:app", ["w"], ["mail"], settings_of(fleet))


def join_and_take(fleet: Fleet, nonce: str, tasks: int) -> None:
    """A life of worker `w` that holds so many tasks."""
    token = fleet.call(scripts.join(MAIL, scripts.Identity("w", nonce, 60_000, "{}"), epoch_id="e")).token
    for number in range(tasks):
        fleet.enqueue(task_app.noop, number, max_deliveries=1)
    assert len(fleet.call(scripts.turn(MAIL, "w", token, scripts.Turn(9, True))).deliveries) == tasks


def descriptors() -> list[str]:
    """What this process has open, by number."""
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


@contextmanager
def without_descriptors(worker: WorkerProcess) -> Iterator[None]:
    """What it has open stays open; nothing can be added, so neither a pipe nor a process can be made."""
    limits = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    yield
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, limits)


def test_a_supervisor_that_cannot_start_a_process_tries_again(fleet: Fleet) -> None:
    worker = fleet.start("w")
    # The first death opens the connection on which it releases.
    worker.kill_child(worker.children[0])
    fleet.wait_counter("joined", 2)
    (child,) = worker.children
    with without_descriptors(worker):
        worker.kill_child(child)
        wait_until(lambda: "cannot start a process" in worker.said(), "it to fail")
    task = fleet.enqueue(task_app.note, 1)
    fleet.wait_journal("note", task=task)
    assert worker.process.poll() is None
    assert "Traceback" not in worker.said()


def test_a_start_that_fails_is_logged_and_leaks_nothing(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(fleet.folder / "no-such-program"))

    async def main() -> None:
        supervisor, slot = supervisor_of(fleet), Slot("w")
        await supervisor._live_once(slot)
        before = descriptors()
        with structlog.testing.capture_logs() as lines:
            assert await supervisor._live_once(slot) == EXIT_FAILED
        assert [(line["event"], line["worker"]) for line in lines] == [("cannot start a process", "w")]
        assert "no-such-program" in lines[0]["error"]
        assert descriptors() == before
        assert slot.process is None

    asyncio.run(main())


def delays(fleet: Fleet, slot: Slot, code: int, deaths: int, lived: float = 0.0) -> list[float]:
    """Seconds to wait after each of so many deaths in a row, 0 for none. Waits for none of them."""

    async def die() -> list[Any]:
        supervisor = supervisor_of(fleet)
        supervisor._stop_asked.set()
        with structlog.testing.capture_logs() as lines:
            slot.started = time.monotonic() - lived
            await supervisor._back_off(slot, code)
        return lines

    said = [asyncio.run(die()) for _ in range(deaths)]
    return [lines[0]["after_s"] if lines else 0.0 for lines in said]


def test_a_child_that_dies_young_again_and_again_waits_longer_up_to_a_cap(fleet: Fleet) -> None:
    doubling = [FIRST_BACKOFF * 2**n for n in range(6)]
    assert doubling[-1] < LONGEST_BACKOFF <= doubling[-1] * 2
    assert delays(fleet, Slot("w"), KILLED, 9) == [0.0, *doubling, LONGEST_BACKOFF, LONGEST_BACKOFF]


@pytest.mark.parametrize(
    ("code", "free"), [(KILLED, 1), (EXIT_FAILED, 1), (EXIT_STOPPED, 3), (EXIT_FENCED, 3), (EXIT_RECYCLE, 3)]
)
def test_the_first_restarts_are_free(fleet: Fleet, code: int, free: int) -> None:
    assert delays(fleet, Slot("w"), code, free + 1) == [0.0] * free + [FIRST_BACKOFF]


def test_a_child_that_lived_long_starts_anew(fleet: Fleet) -> None:
    slot = Slot("w")
    assert delays(fleet, slot, KILLED, 4)[-1] == FIRST_BACKOFF * 4
    assert delays(fleet, slot, KILLED, 1, lived=YOUNG) == [0.0]
    assert delays(fleet, slot, KILLED, 2) == [0.0, FIRST_BACKOFF]


def test_a_death_that_tasks_cause_delays_the_next_start_by_little(fleet: Fleet) -> None:
    """What the release moved tells whether the process was at work."""
    slot = Slot("w", young_deaths=9)
    for tasks, longest in ((1, LONGEST_BACKOFF_AT_WORK), (0, LONGEST_BACKOFF), (2, LONGEST_BACKOFF_AT_WORK)):
        slot.nonce = f"nonce{slot.young_deaths}"
        join_and_take(fleet, slot.nonce, tasks)
        asyncio.run(supervisor_of(fleet)._release(slot, KILLED))
        assert delays(fleet, slot, KILLED, 1) == [longest]
    assert fleet.counters()["reclaimed:released"] == 3


def test_the_release_after_a_stop_names_those_before_a_life_that_never_joined(fleet: Fleet) -> None:
    """No new process comes to join with that proof: this is all that looks at the lock file."""
    join_and_take(fleet, "joined", 2)
    path = lock_path(fleet.folder / "state", NAMESPACE, "w")
    lock = LockFile.acquire(path)
    lock.write(worker="w", nonce="unjoined", namespace=NAMESPACE, queues=["mail"], before=["older", "joined"])
    assert release_proven("w", settings_of(fleet)) == {}, "the holder lives"
    lock.close()
    assert release_proven("w", settings_of(fleet)) == {"w": 2}
    assert fleet.view()["live"] == 0

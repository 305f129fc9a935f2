"""Real daemons fire schedules while they are killed, frozen and cut off: each instant once, none without a word."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reclaimd.streams.schedules.model import Every
from support.fleet import NAMESPACE, Fleet, WorkerProcess
from support.schedules import Schedules, born, check_exactly_once, instants, schedules_on
from support.servers import FreshServer, Server
from support.waiting import wait_until

EVERY = 1_000
QUICK = {"RECLAIMD_SCHEDULER_SNAPSHOT_EVENTS": "10", "RECLAIMD_SCHEDULER_SNAPSHOT_INTERVAL": "1s"}


@pytest.fixture
def schedules(server: Server) -> Iterator[Schedules]:
    with schedules_on(server, NAMESPACE) as found:
        yield found


def ready(daemon: WorkerProcess, timeout: float = 20.0) -> None:
    wait_until(lambda: '"message": "ready"' in daemon.said(), "the daemon to be ready", timeout)


def kill(daemon: WorkerProcess) -> None:
    daemon.process.kill()
    daemon.process.wait(10)


def wait_dealt_with(schedules: Schedules, names: list[str], instant: int, timeout: float = 20.0) -> None:
    """Until everything up to that instant was fired or skipped."""

    def done() -> bool:
        rows = schedules.fired()
        return all(name in rows and rows[name].last >= instant for name in names)

    wait_until(done, f"{names} to get to {instant}", timeout)


@pytest.mark.flavours("valkey", "redis62")
@pytest.mark.parametrize("daemons", [1, 2, 3])
def test_daemons_that_are_killed_at_any_instant(fleet: Fleet, schedules: Schedules, daemons: int) -> None:
    chance = random.Random(daemons)
    running = [fleet.start_daemon(**QUICK) for _ in range(daemons)]
    ready(running[0])
    generations = {f"s{n}": schedules.put(f"s{n}", Every(EVERY), overlap="allow") for n in range(20)}
    until = time.monotonic() + 6
    while time.monotonic() < until:
        time.sleep(chance.uniform(0.0, 1.2))
        victim = chance.randrange(daemons)
        kill(running[victim])
        running[victim] = fleet.start_daemon(**QUICK)
    now = schedules.now_ms()
    wait_dealt_with(schedules, list(generations), now)
    for name, generation in generations.items():
        assert check_exactly_once(schedules, name, generation, EVERY) >= now
    assert not schedules.happened("OccurrenceSkipped")


@pytest.mark.flavours("valkey")
def test_a_frozen_daemon_that_wakes_fires_nothing_that_was_removed(fleet: Fleet, schedules: Schedules) -> None:
    frozen = fleet.start_daemon(**QUICK)
    ready(frozen)
    old = schedules.put("s", Every(EVERY), overlap="allow")
    stays = schedules.put("stays", Every(EVERY), overlap="allow")
    wait_dealt_with(schedules, ["s", "stays"], born(old) + EVERY)
    os.kill(frozen.pid, signal.SIGSTOP)
    removed = born(schedules.remove("s"))
    before = schedules.tasks()
    awake = fleet.start_daemon(**QUICK)
    ready(awake)
    new = schedules.put("s", Every(EVERY), overlap="allow")
    wait_dealt_with(schedules, ["s"], born(new) + 6 * EVERY)
    os.kill(frozen.pid, signal.SIGCONT)
    wait_dealt_with(schedules, ["s", "stays"], schedules.now_ms() + 2 * EVERY)
    kill(awake)
    # The one that slept goes on alone, with what the other has written.
    wait_dealt_with(schedules, ["s", "stays"], schedules.now_ms() + 2 * EVERY)
    tasks = schedules.tasks()
    assert [task.nominal for task in tasks if task.generation == old] == [
        task.nominal for task in before if task.generation == old
    ]
    assert all(task.at <= removed for task in tasks if task.generation == old)
    check_exactly_once(schedules, "s", new, EVERY)
    check_exactly_once(schedules, "stays", stays, EVERY)


@pytest.mark.flavours("valkey")
def test_a_daemon_that_is_frozen_alone_catches_up(fleet: Fleet, schedules: Schedules) -> None:
    daemon = fleet.start_daemon(RECLAIMD_SCHEDULER_MISFIRE_AFTER="2s", **QUICK)
    ready(daemon)
    generations = {
        policy: schedules.put(policy, Every(EVERY), overlap="allow", misfire=policy, drip_ms=1)
        for policy in ("skip", "run_once", "run_all")
    }
    wait_dealt_with(schedules, list(generations), born(generations["run_all"]) + EVERY)
    os.kill(daemon.pid, signal.SIGSTOP)
    asleep = schedules.now_ms()
    wait_until(lambda: schedules.now_ms() > asleep + 6_500, "it to sleep for longer than a view counts", 10)
    os.kill(daemon.pid, signal.SIGCONT)
    wait_dealt_with(schedules, ["skip", "run_once"], asleep + 9_000)
    for policy in ("skip", "run_once"):
        check_exactly_once(schedules, policy, generations[policy], EVERY)
    skips = {row[0]: row for row in schedules.happened("OccurrenceSkipped")}
    assert skips["skip"][5] == skips["run_once"][5] == "misfire"
    # The last missed one of `run_once` was fired.
    assert (skips["skip"][3] - skips["run_once"][3]) // EVERY in {0, 1}
    # Its backlog waits for the task before, which nobody runs here, and nothing of it is left out.
    kept = instants(schedules.tasks(), "run_all")
    assert kept == [born(generations["run_all"]) + n * EVERY for n in range(1, len(kept) + 1)]


@pytest.mark.flavours("valkey", "redis62")
def test_the_server_is_killed_while_schedules_fire(fresh_server: FreshServer, flavour: str, tmp_path: Path) -> None:
    server = fresh_server(flavour, appendonly="yes", appendfsync="always")
    with Fleet(server, tmp_path) as fleet:
        daemons = [fleet.start_daemon(**QUICK) for _ in range(2)]
        for daemon in daemons:
            ready(daemon)
        with schedules_on(server, NAMESPACE) as schedules:
            generations = {f"s{n}": schedules.put(f"s{n}", Every(EVERY), overlap="allow") for n in range(10)}
        for _ in range(3):
            time.sleep(random.Random(7).uniform(0.5, 1.5))
            server.kill9()
            server.start()
        with schedules_on(server, NAMESPACE) as schedules:
            now = schedules.now_ms()
            wait_dealt_with(schedules, list(generations), now)
            for name, generation in generations.items():
                check_exactly_once(schedules, name, generation, EVERY)


def test_what_a_daemon_knows_is_built_again_from_snapshot_and_tail(fleet: Fleet, schedules: Schedules) -> None:
    daemon = fleet.start_daemon(**QUICK)
    ready(daemon)
    generations = {f"s{n}": schedules.put(f"s{n}", Every(EVERY), overlap="allow") for n in range(50)}
    for number in range(3):
        count = len(fleet_snapshots(daemon))
        schedules.put("s0", Every(EVERY), overlap="allow", lane=("high", "low", "normal")[number])
        wait_until(lambda n=count: len(fleet_snapshots(daemon)) > n, "a snapshot of the change")  # type: ignore[misc]
    wait_until(lambda: len(schedules.entries()) < 50, "the log to be trimmed")
    schedules.put("late", Every(EVERY), overlap="allow")
    kill(daemon)
    again = fleet.start_daemon(**QUICK)
    ready(again)
    names = [*generations, "late"]
    wait_dealt_with(schedules, names, schedules.now_ms() + EVERY)
    assert '"snapshot": null' not in again.said()
    for name, generation in generations.items():
        if name != "s0":  # its tasks are in several lanes
            check_exactly_once(schedules, name, generation, EVERY)
    assert len(set(instants(schedules.tasks(), "late"))) >= 1


def fleet_snapshots(daemon: WorkerProcess) -> list[str]:
    return [line for line in daemon.said().splitlines() if "snapshot of schedules written" in line]

"""The worker's template unit under a real systemd.

Leases are two minutes and no daemon runs: what comes back sooner had a proof of the death.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reclaimd.streams import scripts
from reclaimd.streams.codec import Body, encode_body
from reclaimd.streams.keys import Partition
from reclaimd.streams.redis_log import connect_sync, send_sync
from support.fleet import children_of, is_alive
from support.waiting import wait_until
from systemd.container import Container, libraries

MAIL = Partition("reclaimd", "mail")
# Long enough for the start of a Python on a machine with other things to do.
AT_ONCE = 25.0
GRACE = 20.0


class Workers:
    """The worker units of the container, and the queue that they work for."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self._client = connect_sync(f"unix://{container.out}/redis.sock")

    def start(self, worker: str) -> str:
        """Start `reclaimd-worker@WORKER` and wait until it has joined; returns the unit's name."""
        unit = f"reclaimd-worker@{worker}.service"
        self.container.systemctl("start", unit)
        wait_until(lambda: worker in self.live(), f"{worker} to join", AT_ONCE)
        return unit

    def live(self) -> dict[str, str]:
        """Live worker IDs and their tokens."""
        rows: dict[str, str] = self.container.redis.hgetall(MAIL.key("workers"))  # type: ignore[assignment]
        return {worker: row.partition("|")[0] for worker, row in rows.items() if row[0] not in "!~"}

    def hold(self, task: str) -> str:
        """Enqueue a task that runs until its gate, the file of this name, is there."""
        body = encode_body(Body(name="hold", args={"gate": f"gate-{task}"}))
        send_sync(self._client, scripts.enqueue(MAIL, [scripts.NewTask(task, "normal", 5, body)], epoch_id="e"))
        return task

    def open_gate(self, task: str) -> None:
        (self.container.out / f"gate-{task}").touch()

    def said(self, task: str, what: str) -> list[dict[str, Any]]:
        """Lines of the tasks' journal."""
        journal = self.container.out / "journal"
        lines = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
        return [line for line in lines if line["task"] == task and line["what"] == what]

    def wait_said(self, task: str, what: str, count: int = 1) -> list[dict[str, Any]]:
        wait_until(lambda: len(self.said(task, what)) >= count, f"{count} times {what!r} of {task}", AT_ONCE)
        return self.said(task, what)

    def count(self, name: str) -> int:
        """One of the partition's totals."""
        return int(self.container.redis.hget(MAIL.key("counters"), name) or 0)

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def workers(container: Container) -> Iterator[Workers]:
    """Workers on an empty server, without a daemon; all stopped afterwards."""
    container.systemctl("stop", "reclaimd.service")
    container.redis.flushall()
    (container.out / "journal").unlink(missing_ok=True)
    fleet = Workers(container)
    yield fleet
    fleet.close()
    for gate in container.out.glob("gate-*"):
        gate.unlink()
    container.systemctl("kill", "--signal=KILL", "reclaimd-worker@*.service")
    container.systemctl("stop", "reclaimd-worker@*.service")


def test_the_instance_name_is_the_worker_id_in_every_life(workers: Workers) -> None:
    unit = workers.start("mail-1")
    first = workers.live()["mail-1"]
    assert '"source": "--id"' in workers.container.log_of(unit)
    assert workers.container.show(unit, "User") == "reclaimd-worker"
    assert (workers.container.root / "var/lib/reclaimd-worker/reclaimd.mail-1.lock").exists()
    assert workers.container.run(*_release_by_hand("mail-1")).startswith("Nothing to release")
    assert workers.live() == {"mail-1": first}
    workers.container.systemctl("restart", unit)
    wait_until(lambda: workers.live().get("mail-1", first) != first, "a new incarnation", AT_ONCE)
    assert set(workers.live()) == {"mail-1"}
    assert int(workers.live()["mail-1"].partition("-")[0]) > int(first.partition("-")[0])


def _release_by_hand(worker: str) -> list[str]:
    """The command of docs/systemd.md."""
    properties = ["User=reclaimd-worker", "StateDirectory=reclaimd-worker", "EnvironmentFile=/etc/reclaimd/worker.env"]
    command = ["systemd-run", "--pipe", "--wait", "--quiet", *(f"-p{one}" for one in properties)]
    return [*command, *(f"-E{variable}" for variable in libraries()), "/opt/reclaimd/bin/reclaimd", "release", worker]


def test_without_an_id_the_worker_reads_it_off_its_unit(workers: Workers) -> None:
    unit = workers.start("nameless")
    assert set(workers.live()) == {"nameless"}
    assert '"source": "systemd instance"' in workers.container.log_of(unit)


def test_what_a_killed_supervisor_held_is_released_at_once(workers: Workers) -> None:
    unit = workers.start("mail1")
    task = workers.hold("orphan")
    workers.wait_said(task, "start")
    main = workers.container.main_pid(unit)
    children = children_of(main)
    os.kill(main, signal.SIGKILL)
    wait_until(lambda: workers.count("reclaimed:released"), "the release", AT_ONCE)
    first, second = workers.wait_said(task, "start", 2)
    assert (first["worker"], second["worker"]) == ("mail1", "mail1")
    assert second["token"] > first["token"]
    assert children
    assert not any(is_alive(child) for child in children)
    assert "Released mail1: 1 task brought back." in workers.container.log_of(unit)
    assert workers.count("fenced_workers:lease_expired") == 0
    workers.open_gate(task)
    wait_until(lambda: workers.count("succeeded") == 1, "the second run to be settled", AT_ONCE)


def test_another_worker_goes_on_while_the_dead_one_stays_down(workers: Workers) -> None:
    unit = workers.start("mail1")
    task = workers.hold("handed-over")
    workers.wait_said(task, "start")
    workers.start("mail2")
    # A stop that begins with a kill: systemd does not start it again.
    workers.container.systemctl("kill", "--signal=STOP", "--kill-whom=all", unit)
    workers.container.systemctl("stop", "--no-block", unit)
    workers.container.systemctl("kill", "--signal=KILL", "--kill-whom=all", unit)
    second = workers.wait_said(task, "start", 2)[1]
    assert second["worker"] == "mail2"
    workers.open_gate(task)
    wait_until(lambda: workers.count("succeeded") == 1, "the task to be settled", AT_ONCE)


def test_a_stop_lets_running_tasks_end(workers: Workers) -> None:
    unit = workers.start("mail1")
    task = workers.hold("nearly-done")
    workers.wait_said(task, "start")
    workers.container.systemctl("stop", "--no-block", unit)
    wait_until(lambda: "grace_s" in workers.container.log_of(unit), "the word to stop", AT_ONCE)
    assert workers.container.show(unit, "ActiveState") == "deactivating"
    workers.open_gate(task)
    wait_until(lambda: workers.container.show(unit, "ActiveState") == "inactive", "the unit to stop", AT_ONCE)
    assert workers.container.show(unit, "Result") == "success"
    assert (workers.count("succeeded"), workers.count("handed_back")) == (1, 0)
    assert workers.live() == {}


def test_a_stop_hands_back_what_does_not_end_within_the_grace(workers: Workers) -> None:
    own = Path(workers.container.root, "etc/reclaimd/worker-hasty.env")
    own.write_text("RECLAIMD_WORKER_GRACE=1s\n")
    unit = workers.start("hasty")
    task = workers.hold("endless")
    workers.wait_said(task, "start")
    began = time.monotonic()
    workers.container.systemctl("stop", unit)
    assert time.monotonic() - began < GRACE
    assert workers.container.show(unit, "Result") == "success"
    assert workers.count("handed_back") == 1
    assert workers.count("reclaimed:released") == 0
    assert workers.live() == {}

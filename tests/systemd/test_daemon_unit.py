"""The daemon's unit under a real systemd."""

import json
import os
import signal
from pathlib import Path

import pytest

from support.waiting import wait_until
from systemd.container import PASSWORDS, Container

UNIT = "reclaimd.service"


@pytest.fixture
def daemon(container: Container) -> Container:
    """The container with a daemon that is ready."""
    container.systemctl("reset-failed")
    container.systemctl("start", UNIT)
    return container


def test_a_start_returns_when_the_daemon_is_ready(daemon: Container) -> None:
    assert daemon.show(UNIT, "ActiveState") == "active"
    assert daemon.show(UNIT, "StatusText") == "recovering whatever dies"
    assert daemon.show(UNIT, "User") == "reclaimd"
    assert daemon.python(_GET) == "200"


def test_the_watchdog_is_fed(daemon: Container) -> None:
    first = int(daemon.show(UNIT, "WatchdogTimestampMonotonic"))
    wait_until(
        lambda: int(daemon.show(UNIT, "WatchdogTimestampMonotonic")) > first + 2_000_000, "the watchdog to be fed twice"
    )
    assert daemon.show(UNIT, "ActiveState") == "active"


def test_a_daemon_that_hangs_is_started_again_and_says_where_it_hung(daemon: Container) -> None:
    hanging = daemon.main_pid(UNIT)
    restarts = int(daemon.show(UNIT, "NRestarts"))
    os.kill(hanging, signal.SIGSTOP)
    _wait_restarted(daemon, restarts)
    assert "Fatal Python error: Aborted" in daemon.log_of(UNIT)


def test_a_killed_daemon_is_started_again(daemon: Container) -> None:
    restarts = int(daemon.show(UNIT, "NRestarts"))
    os.kill(daemon.main_pid(UNIT), signal.SIGKILL)
    _wait_restarted(daemon, restarts)


def test_a_stop_is_quick_and_clean(daemon: Container) -> None:
    daemon.systemctl("stop", UNIT)
    assert daemon.show(UNIT, "ActiveState") == "inactive"
    assert daemon.show(UNIT, "Result") == "success"
    took = [int(daemon.show(UNIT, f"{name}TimestampMonotonic")) for name in ("InactiveEnter", "ActiveExit")]
    assert took[0] - took[1] < 2_000_000


def test_a_wrong_setting_is_not_tried_again(container: Container) -> None:
    settings = container.root / "etc/reclaimd/daemon.env"
    right = settings.read_text()
    container.systemctl("stop", UNIT)
    settings.write_text(right + "RECLAIMD_WORKER_LEASE=1ms\n")
    try:
        container.systemctl("start", "--no-block", UNIT)
        wait_until(lambda: container.show(UNIT, "ActiveState") == "failed", "the unit to give up", 30)
        assert container.show(UNIT, "ExecMainStatus") == "2"
    finally:
        settings.write_text(right)
        container.systemctl("reset-failed", UNIT)


def test_the_password_is_in_no_listing(daemon: Container) -> None:
    for name in ("cmdline", "environ"):
        listing = Path(f"/proc/{daemon.main_pid(UNIT)}", name).read_bytes()
        assert b"reclaimd" in listing
        assert PASSWORDS["reclaimd-daemon"].encode() not in listing
    assert PASSWORDS["reclaimd-daemon"] not in daemon.log_of(UNIT)


@pytest.mark.parametrize("unit", [UNIT, "reclaimd-worker@mail1.service"])
def test_little_is_exposed(container: Container, unit: str) -> None:
    said = json.loads(container.run("systemd-analyze", "security", "--json=short", "--no-pager", unit))
    assert said, unit
    container.run("systemd-analyze", "security", "--threshold=20", "--no-pager", unit)


@pytest.mark.parametrize("unit", [UNIT, "reclaimd-worker@mail1.service"])
def test_systemd_finds_no_fault(container: Container, unit: str) -> None:
    said = container.run("systemd-analyze", "verify", "--man=no", unit)
    assert "reclaimd" not in said, said


_GET = "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:9417/readyz').status)"


def _wait_restarted(container: Container, restarts: int) -> None:
    wait_until(lambda: int(container.show(UNIT, "NRestarts")) == restarts + 1, "systemd to start the daemon again", 30)
    container.wait_active(UNIT)

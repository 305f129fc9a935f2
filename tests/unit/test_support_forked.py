"""A forked program is as one that was started by itself."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from support.cli import environment, reclaimd, started
from support.fleet import is_alive, process_state
from support.forked import Forked
from support.waiting import wait_until


def test_it_says_and_ends_as_one_that_was_started_anew() -> None:
    for args in (
        ["version"],
        ["--help"],
        ["status", "--no-such-flag"],
        ["status", "--redis-url", "redis://127.0.0.1:1"],
    ):
        assert reclaimd(*args) == reclaimd(*args, anew=True), args


def test_it_has_the_environment_that_it_is_given_and_leaves_none_behind() -> None:
    assert "RECLAIMD_NAMESPASE" in reclaimd("status", env={"RECLAIMD_NAMESPASE": "x"}).err
    assert "RECLAIMD_NAMESPASE" not in reclaimd("status", "--redis-url", "redis://127.0.0.1:1").err


def test_it_has_nothing_of_the_tests_own() -> None:
    with pytest.raises(AssertionError, match="anew"):
        reclaimd("version", env={"PYTHONHASHSEED": "1"})
    done = reclaimd("worker", "support.task_app:app")
    assert done.code == 2
    assert "support" in done.err


@pytest.fixture
def serving(tmp_path: Path) -> Forked:
    """A daemon that has begun to look for its server, in vain."""
    log = tmp_path / "log"
    url = "redis://127.0.0.1:1"
    with log.open("wb") as out:
        process = started("serve", "--redis-url", url, "--listen", "127.0.0.1:0", log=out, env=environment())
    wait_until(lambda: b"127.0.0.1" in log.read_bytes(), "it to say something", 30)
    return process


def test_a_killed_one_is_a_zombie_until_somebody_waits(serving: Forked) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        serving.wait(0)
    os.kill(serving.pid, signal.SIGKILL)
    wait_until(lambda: process_state(serving.pid) == "Z", "the kernel to end it")
    assert serving.wait(10) == serving.poll() == -signal.SIGKILL
    wait_until(lambda: process_state(serving.pid) == "", "it to be buried")


def test_signals_reach_it(serving: Forked) -> None:
    serving.send_signal(signal.SIGSTOP)
    wait_until(lambda: process_state(serving.pid) == "T", "it to stop")
    assert serving.poll() is None
    serving.terminate()
    serving.send_signal(signal.SIGCONT)
    assert serving.wait(20) == 0
    serving.kill()
    assert not is_alive(serving.pid)


def test_ctrl_c_reaches_it(serving: Forked) -> None:
    serving.send_signal(signal.SIGINT)
    assert serving.wait(20) in {0, 130}

"""Starts the program quickly: a process that has imported it (`support/zygote.py`) forks one for each command.

What it forks is a real process, with its own exit code, signals, files and environment, that runs the same entry point
as `python -m reclaimd`. It only saves the imports, which cost more than most commands.
"""

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_ZYGOTE = Path(__file__).with_name("zygote.py")
# What a Python reads before it runs anything. Its path is read again.
_READ_AT_START = ("PYTHON", "LANG", "LC_")


class Forked:
    """A process of the program, with those methods of `subprocess.Popen` that the tests use."""

    def __init__(
        self, *args: str, files: tuple[int, int, int], env: Mapping[str, str], cwd: Path | None, new_session: bool
    ) -> None:
        """`files`: standard input, output and errors."""
        assert _unchangeable(env) == _unchangeable(_own()), "this needs a Python that starts anew"
        self.args = args
        self.returncode: int | None = None
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        folder = str(Path.cwd() / (cwd or ""))
        request = {"args": args, "env": {**env}, "cwd": folder, "session": new_session}
        with theirs:
            socket.send_fds(_zygote(), [json.dumps(request).encode()], [*files, theirs.fileno()])
        self._ours.settimeout(300)
        try:
            self.pid = int(self._ours.recv(100))
        except (OSError, ValueError):
            self._ours.close()
            raise

    def poll(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Until it has ended; the zygote buries it only then. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            readable, _, _ = select.select([self._ours], [], [], timeout)
            if not readable:
                raise subprocess.TimeoutExpired([*self.args], timeout or 0)
            self.returncode = int(self._ours.recv(100))
            self._ours.close()
        return self.returncode

    def send_signal(self, sign: int) -> None:
        """Nothing when it has ended."""
        if self.poll() is None:
            os.kill(self.pid, sign)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def _zygote() -> socket.socket:
    """The way to this process's zygote, which ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", str(_ZYGOTE), str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=_own(),
            pass_fds=[theirs.fileno()],
        )

    def end() -> None:
        ours.close()
        process.wait(10)

    atexit.register(end)
    return ours


def _own() -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, "PYTHONUNBUFFERED": "1"}


def _unchangeable(env: Mapping[str, str]) -> dict[str, str]:
    return {name: env[name] for name in env if name.startswith(_READ_AT_START) and name != "PYTHONPATH"}

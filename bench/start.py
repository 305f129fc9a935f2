"""Starts one process of the project for a case: `start.py worker|daemon`, a JSON document on standard input."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import anyio
import msgspec

from reclaimd.streams import logs
from reclaimd.streams.settings import Settings


class Start(msgspec.Struct, frozen=True):
    """What to start. The last four are for workers."""

    settings: Settings
    target: str = ""
    queues: Sequence[str] = ()
    worker: str = ""
    processes: int = 1


def main(what: str) -> int:
    """The process's own exit code."""
    start = msgspec.json.decode(sys.stdin.buffer.read(), type=Start)
    logs.set_up("json", start.settings.daemon.log_level)
    if what == "daemon":
        from reclaimd.daemon.supervisor import serve

        return anyio.run(serve, start.settings)
    from reclaimd.streams.worker import supervisor

    return supervisor.run(
        start.target,
        queues=start.queues,
        worker_id=start.worker,
        processes=start.processes,
        settings=start.settings,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

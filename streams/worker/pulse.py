"""The supervisor's side of a child's pulse: what no thread of the child can do for itself.

A handler that holds the interpreter's lock (a catastrophic regular expression, C code) stops all threads of its
process: the lease ends, the task runs elsewhere, and the handler goes on beside it. The supervisor sees the pulse
stop and kills the process before the lease is over.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import anyio

from reclaimd.streams.worker.beat import PATIENCE


class Pulse:
    """A pipe from one child. `child_fd` goes to the child; close it here once the child has it."""

    def __init__(self, lease: float) -> None:
        self._patience = lease * PATIENCE
        self._fd, self.child_fd = os.pipe()
        os.set_blocking(self._fd, False)

    async def watch(self, on_silence: Callable[[], None]) -> None:
        """Call `on_silence` each time the pulse stops for two thirds of a lease, from its first beat to the child's
        end.
        """
        began = False
        while True:
            beat = None
            with anyio.move_on_after(self._patience if began else None):
                await anyio.wait_readable(self._fd)
                beat = os.read(self._fd, 4096)
            if beat is None:
                on_silence()
            elif not beat:
                return
            else:
                began = True

    def close(self) -> None:
        """Close our end."""
        os.close(self._fd)


def is_stopped(pid: int) -> bool:
    """Whether a signal stopped the process (SIGSTOP, a debugger): nothing runs there, and somebody wants it so."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state in ("T", "t")

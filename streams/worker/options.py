"""What a supervisor tells a child process, through its standard input: never in `ps`, never in the environment."""

from __future__ import annotations

import msgspec

from reclaimd.streams.settings import Settings

EXIT_STOPPED = 0
EXIT_FAILED = 1
# A child's own codes are far from those that a handler's `os._exit` is likely to use: these stop the supervisor.
EXIT_USAGE = 72
EXIT_UNUSABLE = 73
EXIT_IN_USE = 74
EXIT_FENCED = 75
EXIT_RECYCLE = 76


class ChildOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`proof`: nonce of this ID's incarnation that the supervisor saw die, or empty. `target`: `MODULE:APP`.
    `pulse_fd`: a pipe on which the child shows that its threads run."""

    target: str
    worker: str
    nonce: str
    parent_pid: int
    settings: Settings
    queues: list[str] = []
    proof: str = ""
    pulse_fd: int | None = None
    after_fence: bool = False

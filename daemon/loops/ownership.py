"""Which of several daemons archives a partition. It saves work and doubled numbers; nobody's safety rests on it.

An owner counts up its `beat` in the archive. The others take over when they have not seen it change for a while of
their own clocks, or at once when the process that the owner's name tells of is proven dead on this host.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from reclaimd.daemon.archive.errors import ArchiveFailed
from reclaimd.daemon.rebuild.values import Ownership
from reclaimd.streams.worker.locks import boot_id

if TYPE_CHECKING:
    from reclaimd.daemon.archive.store import Store

BEAT_SECONDS: Final = 2.0
TAKE_OVER_SECONDS: Final = 6.0


def my_name(nonce: str) -> str:
    """A name that no other daemon has, and from which those of this boot can tell whether this process still lives."""
    return "/".join((boot_id(), _pid_namespace(), str(os.getpid()), _started(os.getpid()), nonce))


def is_proven_dead(owner: str) -> bool:
    """Whether the process that gave itself this name is known to be gone. No is no proof that it lives."""
    parts = owner.split("/")
    if len(parts) != 5 or not parts[2].isdecimal() or (parts[0], parts[1]) != (boot_id(), _pid_namespace()):
        return False
    return _started(int(parts[2])) != parts[3]


class Claims:
    """Watches the owners of all partitions. `clock`: monotonic seconds; `dead` tells of an owner that is gone."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, dead: Callable[[str], bool] = is_proven_dead
    ) -> None:
        self._clock = clock
        self._dead = dead
        self._seen: dict[str, tuple[Ownership, float]] = {}

    def may_take(self, queue: str, seen: Ownership | None) -> bool:
        """Whether a queue may be claimed whose owner is `seen` now (None: it has no row)."""
        now = self._clock()
        if seen is None or not seen.owner or self._dead(seen.owner):
            return True
        before = self._seen.get(queue)
        if before is None or before[0] != seen:
            self._seen[queue] = (seen, now)
            return False
        return now - before[1] >= TAKE_OVER_SECONDS

    def forget(self, queue: str) -> None:
        """Begin to watch anew: the owner changed, or the archive could not be asked meanwhile."""
        self._seen.pop(queue, None)


class Shared(Protocol):
    """What all archivers of a daemon share. `me`: its name as an owner."""

    me: str
    claims: Claims

    async def store(self) -> "Store": ...
    def failed(self, queue: str, error: ArchiveFailed) -> float: ...
    def worked(self, queue: str) -> None: ...


def _pid_namespace() -> str:
    """Process IDs say nothing about another container's processes."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process began, in ticks since boot; empty when there is none, or it has ended and nobody waits for it."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in {"Z", "X"} else fields[19]

"""Is the daemon alive, and is it ready? Loops report each step; the HTTP endpoints read what came of it."""

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec


class Problem(msgspec.Struct, frozen=True):
    """Why the daemon is not ready: `what` loop, in which `queue` (empty: all), `since` when (RFC 3339), in detail."""

    what: str
    queue: str
    since: str
    detail: str


class Stall(msgspec.Struct, frozen=True):
    """A loop that has made no progress for `seconds`, more than its `limit`."""

    loop: str
    queue: str
    seconds: float
    limit: float


class _Loop(msgspec.Struct):
    progress_at: float
    limit: float
    problem: Problem | None


class Health:
    """Collects what loops report. `monotonic` in seconds measures progress, `wall` in epoch seconds dates problems.

    A failing step is progress too: restarting the daemon does not cure an absent Redis, so that only a loop that hangs
    makes it count as not alive. It is ready when every expected loop's last step succeeded.
    """

    def __init__(self, *, monotonic: Callable[[], float], wall: Callable[[], float], stall_after: float = 30.0) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._stall_after = stall_after
        self._loops: dict[tuple[str, str], _Loop] = {}

    def expect(self, loop: str, queue: str = "", *, stall_after: float | None = None) -> None:
        """Announce a loop: until its first `ok` the daemon is not ready. `stall_after`: seconds, else the default."""
        if (loop, queue) not in self._loops:
            problem = Problem(loop, queue, self._now(), "has not succeeded yet since the start")
            self._loops[loop, queue] = _Loop(
                self._monotonic(), self._stall_after if stall_after is None else stall_after, problem
            )

    def ok(self, loop: str, queue: str = "") -> None:
        """A step succeeded: its problem, if any, is over."""
        state = self._progressed(loop, queue)
        state.problem = None

    def failed(self, loop: str, queue: str, error: BaseException | str) -> None:
        """A step failed: a problem until the next `ok`, dated from the first failure, described by the last."""
        state = self._progressed(loop, queue)
        since = state.problem.since if state.problem else self._now()
        state.problem = Problem(loop, queue, since, _described(error))

    def progress(self, loop: str, queue: str = "") -> None:
        """The loop is alive in the middle of a long step, or idle by intent."""
        self._progressed(loop, queue)

    def forget(self, loop: str, queue: str = "") -> None:
        """The loop has ended on purpose, or its queue is gone."""
        self._loops.pop((loop, queue), None)

    def problems(self) -> list[Problem]:
        """What keeps the daemon from being ready, oldest first."""
        found = [state.problem for state in self._loops.values() if state.problem]
        return sorted(found, key=lambda problem: (problem.since, problem.what, problem.queue))

    def stalls(self) -> list[Stall]:
        """Loops that hang."""
        now = self._monotonic()
        return [
            Stall(loop, queue, round(now - state.progress_at, 3), state.limit)
            for (loop, queue), state in self._loops.items()
            if now - state.progress_at > state.limit
        ]

    def _progressed(self, loop: str, queue: str) -> _Loop:
        self.expect(loop, queue)
        state = self._loops[loop, queue]
        state.progress_at = self._monotonic()
        return state

    def _now(self) -> str:
        return datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _described(error: BaseException | str) -> str:
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:297] + "..."

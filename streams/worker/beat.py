"""Two threads beside the event loop: one renews the leases, one watches that they are renewed, and ends what must end.

They are apart because sending can hang (a name lookup, a full socket) while the lease runs out. Counted from when the
last renewal that succeeded was *sent*: at half a lease the handlers are cancelled; at two thirds, if any still runs,
the process group is killed. Two thirds and one clamped clock step make a lease (docs/protocol.md "Lease time").
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import redis

from reclaimd.streams import redis_log, scripts
from reclaimd.streams.keys import Partition

OVERRUN = 5.0
PING_EVERY = 1.0
# In leases. Together with a heartbeat (a fifth or a quarter) and the supervisor's patience it stays below a lease.
PULSE_EVERY = 0.05
PATIENCE = 2 / 3


@dataclass(frozen=True, slots=True)
class Held:
    """One incarnation to renew."""

    partition: Partition
    worker: str
    token: str


class Renewals:
    """When each lease was last renewed, in seconds of the monotonic clock, by the sending time of what succeeded."""

    def __init__(self, held: Sequence[Held], sent: float, lease: float) -> None:
        self._sent = {h.partition: sent for h in held}
        self._lease = lease
        self.unanswered = False

    def is_fresh(self, partition: Partition) -> bool:
        """Whether a handler may still begin: a process that wakes from a freeze must not start what it was given
        before.
        """
        return time.monotonic() - self._sent[partition] < self._lease / 2

    def renewed(self, partition: Partition, sent: float) -> None:
        """A renewal that was sent then has succeeded."""
        self._sent[partition] = max(sent, self._sent[partition])

    def oldest(self) -> float:
        """The time from which the most endangered lease counts."""
        return min(self._sent.values())


class Watched(Protocol):
    """What the threads need of the event loop's side. All may be called from another thread."""

    def busy(self) -> bool:
        """Whether any handler runs."""

    def overdue_since(self) -> float | None:
        """Monotonic deadline of the run that is longest past its own, None when none is."""

    def post(self, what: Callable[[], None]) -> None:
        """Call this in the event loop."""

    def on_silence(self) -> None:
        """(event loop) No renewal for half a lease: cancel all handlers."""

    def on_fenced(self, partition: Partition) -> None:
        """(event loop) The lease is lost."""

    def on_kill(self, why: str) -> None:
        """Kill the process group, from this thread, now."""


class BeatThread(threading.Thread):
    """Renews all leases in one round trip every heartbeat, sooner after a failure."""

    def __init__(self, url: str, held: Sequence[Held], heartbeat: float, renewals: Renewals, watched: Watched) -> None:
        super().__init__(name="reclaimd-beat", daemon=True)
        self._held = held
        self._heartbeat = heartbeat
        self._renewals = renewals
        self._watched = watched
        self._ended = threading.Event()
        timeout = max(heartbeat / 2, 0.05)
        self._client = redis_log.connect_sync(url, reply_timeout=timeout, connect_timeout=timeout)
        self._calls = [scripts.beat(h.partition, h.worker, h.token) for h in held]

    def run(self) -> None:
        """Until `end`."""
        while not self._ended.wait(self._heartbeat if self.step() else min(self._heartbeat / 4, 0.5)):
            pass
        self._client.close()

    def step(self) -> bool:
        """One round of renewals; False when Redis could not be asked."""
        sent = time.monotonic()
        try:
            results = redis_log.send_all_sync(self._client, self._calls)
        except (redis.RedisError, OSError):
            self._renewals.unanswered = True
            self._client.connection_pool.disconnect()
            return False
        self._renewals.unanswered = False
        for held, renewed in zip(self._held, results, strict=True):
            if renewed:
                self._renewals.renewed(held.partition, sent)
            else:
                self._watched.post(lambda lost=held.partition: self._watched.on_fenced(lost))  # type: ignore[misc]
        return True

    def end(self) -> None:
        """Stop renewing."""
        self._ended.set()


class WatchThread(threading.Thread):
    """Cancels at half a lease of silence, kills at two thirds; kills too when a run outlives its timeout and the event
    loop does not answer.
    """

    def __init__(self, lease: float, renewals: Renewals, watched: Watched, pulse_fd: int | None = None) -> None:
        super().__init__(name="reclaimd-watch", daemon=True)
        self._pulse_fd = pulse_fd
        self._interval = min(PING_EVERY, lease * PULSE_EVERY)
        self._lease = lease
        self._renewals = renewals
        self._watched = watched
        self._ended = threading.Event()
        self._cancelled_for = -1.0
        self._cancelled_at = 0.0
        self._pong = time.monotonic()
        self._pinged = self._pong
        self._cpu = time.process_time()

    def run(self) -> None:
        """Until `end`."""
        wait = 0.0
        while not self._ended.wait(wait):
            wait = self.step(time.monotonic())

    def step(self, now: float) -> float:
        """Judge once; returns seconds until the next look."""
        self._show_pulse()
        renewed = self._renewals.oldest()
        silence = now - renewed
        if silence < self._lease / 2:
            self._cpu = time.process_time()
        elif self._cancelled_for != renewed:
            self._cancelled_for, self._cancelled_at = renewed, now
            self._judge_starvation(silence)
            self._watched.post(self._watched.on_silence)
        # A process that was frozen wakes up past both points: its handlers too get the time to end by themselves.
        given_time = now - self._cancelled_at >= self._lease / 6
        if silence >= self._lease * 2 / 3 and given_time and self._watched.busy():
            self._watched.on_kill(f"no renewal for {silence:.1f} s and a handler still runs")
        self._judge_loop(now)
        points = [renewed + self._lease / 2, renewed + self._lease * 2 / 3]
        ahead = [point - now for point in points if point > now]
        return min([*ahead, self._interval])

    def _show_pulse(self) -> None:
        """A handler that holds the interpreter's lock stops this thread too; only another process can see that."""
        if self._pulse_fd is not None:
            # Full: nobody reads just now. Broken: the supervisor is gone, and this process is about to follow it.
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(self._pulse_fd, b".")

    def _judge_starvation(self, silence: float) -> None:
        """Nobody failed to renew, yet nobody did, and the process was at work: a handler kept the threads from running.

        Handing its task back would count nothing and let it do so for ever, so it ends without a verdict.
        """
        at_work = time.process_time() - self._cpu > self._lease / 4
        if at_work and not self._renewals.unanswered and self._watched.busy():
            self._watched.on_kill(f"a handler kept this process from renewing for {silence:.1f} s")

    def _judge_loop(self, now: float) -> None:
        if now - self._pinged >= PING_EVERY:
            self._pinged = now
            self._watched.post(self._answer)
        overdue = self._watched.overdue_since()
        if overdue is not None and now - overdue > OVERRUN and now - self._pong > OVERRUN:
            self._watched.on_kill(f"a handler is {now - overdue:.1f} s past its timeout and blocks the event loop")

    def _answer(self) -> None:
        self._pong = time.monotonic()

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()

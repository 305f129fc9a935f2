"""Telling Redis that a worker process is proven dead, so that nobody waits for its lease."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import redis
import structlog

from reclaimd.streams import redis_log, scripts
from reclaimd.streams.errors import ReclaimdError
from reclaimd.streams.keys import Partition
from reclaimd.streams.settings import Settings
from reclaimd.streams.worker.locks import Holder, LockFile, LockHeld, state_folder

log = structlog.get_logger("reclaimd.worker")


class Releaser:
    """Sends `release` on a connection that is kept open, since milliseconds count when it is needed."""

    def __init__(self, url: str, namespace: str) -> None:
        self._url = url
        self._namespace = namespace
        self._client = redis_log.connect_sync(url)

    def release(
        self, worker: str, nonce: str, queues: Sequence[str], *, asked: bool = False, deadline: float = 0
    ) -> int:
        """Fence that incarnation in each queue and move its entries; returns how many.

        `asked`: it ended because it was told to, so its tasks are not to blame. Retries until `deadline` (monotonic
        seconds), then raises: the lease ends by itself.
        """
        moved = 0
        for queue in queues:
            partition = Partition(self._namespace, queue)
            while True:
                drained = self._send(scripts.release(partition, worker, nonce, asked=asked), deadline)
                moved += drained.moved
                if drained.status != "more":
                    break
        return moved

    def _send(self, call: scripts.Call[scripts.Drained], deadline: float) -> scripts.Drained:
        while True:
            try:
                with redis_log.translated(self._url):
                    return redis_log.send_sync(self._client, call)
            except ReclaimdError:
                self._client.connection_pool.disconnect()
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.05)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def release_proven(worker: str, settings: Settings) -> dict[str, int]:
    """Release every process of `worker` (its ID, or `ID-0`, `ID-1`, …) whose lock file proves it dead.

    Returns worker ID → entries moved. Live ones are left alone. Raises RedisUnreachable, RedisUnusable.
    """
    folder = state_folder(settings.worker.state_dir, dict(os.environ))
    releaser = Releaser(settings.redis_url, settings.namespace)
    try:
        return release_dead(releaser, _lock_files(folder, settings.namespace, worker), settings.namespace)
    finally:
        releaser.close()


def release_dead(releaser: Releaser, paths: Sequence[Path], namespace: str) -> dict[str, int]:
    """The same for these lock files. A process that takes its lock meanwhile joins with the same proof: no harm."""
    released: dict[str, int] = {}
    for path in paths:
        holder = _proven_dead(path, namespace)
        if holder is not None:
            nonces = (holder.nonce, *holder.before)
            released[holder.worker] = sum(releaser.release(holder.worker, nonce, holder.queues) for nonce in nonces)
    return released


def _proven_dead(path: Path, namespace: str) -> Holder | None:
    """Who wrote the lock file, when the kernel says that this process is gone."""
    try:
        lock = LockFile.acquire(path)
    except LockHeld:
        return None
    lock.close()
    return lock.previous if lock.previous is not None and lock.previous.namespace == namespace else None


def _lock_files(folder: Path, namespace: str, worker: str) -> list[Path]:
    prefix = f"{namespace}.{worker}"
    names = [path for path in folder.glob("*.lock") if path.name.startswith(prefix)]
    middles = {path: path.name.removeprefix(prefix).removesuffix(".lock") for path in names}
    return sorted(path for path, middle in middles.items() if not middle or (middle[0] == "-" and middle[1:].isdigit()))


def swallow_release(
    releaser: Releaser, worker: str, nonce: str, queues: Sequence[str], *, asked: bool, wait: float
) -> int:
    """`release` for a supervisor: a failure is logged, since the lease ends by itself. Returns entries moved, −1 if
    it failed.
    """
    try:
        return releaser.release(worker, nonce, queues, asked=asked, deadline=time.monotonic() + wait)
    except (ReclaimdError, redis.RedisError) as error:
        log.warning("could not release a dead worker, its lease ends by itself", worker=worker, error=str(error))
        return -1

"""Beginning an incarnation in every partition: waits for Redis, for the old entries to be moved, for a silent twin's
lease.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import NamedTuple

import anyio
import redis
import structlog

from reclaimd.streams import redis_log, scripts
from reclaimd.streams.errors import Fenced, PartitionFrozen, RedisUnreachable, RedisUnusable, Unusable, WorkerIdInUse
from reclaimd.streams.keys import Partition, queues_key
from reclaimd.streams.producer import close_quietly
from reclaimd.streams.scripts import Identity
from reclaimd.streams.worker.beat import Held

log = structlog.get_logger("reclaimd.worker")

LONGEST_RETRY = 1.0
FIRST_RETRY = 0.05


class AllJoined(NamedTuple):
    """`asked`: monotonic seconds before the first of these leases was asked for."""

    held: list[Held]
    asked: float


async def join_all(url: str, partitions: Sequence[Partition], who: Identity) -> AllJoined:
    """Join each partition; raises WorkerIdInUse when the ID is renewed by somebody else, RedisUnusable, Fenced.

    Waits while a partition is frozen because data of it were lost.
    """
    wait, frozen_before = FIRST_RETRY, list[tuple[str, str]]()
    while True:
        asked = time.monotonic()
        answers = [(partition, await _join(url, partition, who)) for partition in partitions]
        frozen = [(partition.queue, joined.state) for partition, joined in answers if joined.status == "state"]
        if frozen != frozen_before:
            _tell_frozen(who, frozen)
            frozen_before = frozen
        if frozen:
            # Not so long that the leases in the others end: joining again renews them.
            await anyio.sleep(min(wait, who.lease_ms / 4000))
            wait = min(wait * 2, LONGEST_RETRY)
        # One of many may have had to wait, while the leases of those before it ran.
        elif time.monotonic() - asked < who.lease_ms / 4000:
            return AllJoined([Held(partition, who.worker, joined.token) for partition, joined in answers], asked)


def _tell_frozen(who: Identity, frozen: list[tuple[str, str]]) -> None:
    for queue, state in frozen:
        log.warning("cannot join yet", worker=who.worker, queue=queue, error=str(PartitionFrozen(queue, state)))
    if not frozen:
        log.info("queues are open again", worker=who.worker)


async def _join(url: str, partition: Partition, who: Identity) -> scripts.Joined:
    """The answer that is final: `ok` or `state`."""
    wait = FIRST_RETRY
    gives_up_at: float | None = None
    while True:
        client = redis_log.connect(url)
        try:
            with redis_log.translated(url):
                joined = await redis_log.send(client, scripts.join(partition, who, epoch_id=secrets.token_hex(8)))
                await _register(client, partition)
        except (RedisUnreachable, RedisUnusable) as error:
            if isinstance(error, RedisUnusable) and not error.waiting_helps:
                raise
            if wait < LONGEST_RETRY:
                log.warning("cannot join yet", worker=who.worker, queue=partition.queue, error=str(error))
            await anyio.sleep(wait)
            wait = min(wait * 2, LONGEST_RETRY)
            continue
        except redis.ResponseError as error:
            raise RedisUnusable(Unusable.REFUSED, f"queue {partition.queue}: {error}") from error
        finally:
            await close_quietly(client)
        if joined.status in ("ok", "state"):
            return joined
        if joined.status == "fenced":
            raise Fenced(who.worker)
        if joined.status == "live":
            gives_up_at = await _wait_for_lease(who, joined.holder, joined.left_ms, gives_up_at)


async def _register(client: redis_log.AsyncClient, partition: Partition) -> None:
    """Add the queue to the registry. A full Redis refuses that, and must still be drained by those who join."""
    try:
        await client.sadd(queues_key(partition.namespace), partition.queue)
    except redis.OutOfMemoryError:
        log.warning("Redis is full: the queue could not be registered", queue=partition.queue)


async def _wait_for_lease(who: Identity, holder: str, left_ms: int, gives_up_at: float | None) -> float:
    """A holder that died without a proof lives until its lease ends. One that outlives that renews: a twin."""
    now = time.monotonic()
    if gives_up_at is None:
        # Lease time may run slower than ours (docs/protocol.md "Lease time"), so it gets half as much again.
        gives_up_at = now + left_ms / 1000 * 1.5 + 1.0
        log.warning(
            "worker ID is held, waiting for its lease to end", worker=who.worker, holder=holder, left_ms=left_ms
        )
    elif now >= gives_up_at:
        raise WorkerIdInUse(who.worker, holder)
    await anyio.sleep(min(max(left_ms / 1000, 0.02), 0.25))
    return gives_up_at

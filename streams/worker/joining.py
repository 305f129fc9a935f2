"""Beginning an incarnation in every partition: waits for Redis, for the old entries to be moved, for a silent twin's
lease.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

import anyio
import structlog

from reclaimd.streams import redis_log, scripts
from reclaimd.streams.errors import Fenced, RedisUnreachable, RedisUnusable, WorkerIdInUse
from reclaimd.streams.keys import Partition, queues_key
from reclaimd.streams.producer import close_quietly
from reclaimd.streams.scripts import Identity
from reclaimd.streams.worker.beat import Held

log = structlog.get_logger("reclaimd.worker")

LONGEST_RETRY = 1.0


async def join_all(url: str, partitions: Sequence[Partition], who: Identity) -> list[Held]:
    """Join each partition; raises WorkerIdInUse when the ID is renewed by somebody else, RedisUnusable, Fenced."""
    return [Held(partition, who.worker, await _join(url, partition, who)) for partition in partitions]


async def _join(url: str, partition: Partition, who: Identity) -> str:
    wait = 0.05
    gives_up_at: float | None = None
    while True:
        client = redis_log.connect(url)
        try:
            with redis_log.translated(url):
                await client.sadd(queues_key(partition.namespace), partition.queue)
                joined = await redis_log.send(client, scripts.join(partition, who, epoch_id=secrets.token_hex(8)))
        except (RedisUnreachable, RedisUnusable) as error:
            if isinstance(error, RedisUnusable) and not error.waiting_helps:
                raise
            if wait < LONGEST_RETRY:
                log.warning("cannot join yet", worker=who.worker, queue=partition.queue, error=str(error))
            await anyio.sleep(wait)
            wait = min(wait * 2, LONGEST_RETRY)
            continue
        finally:
            await close_quietly(client)
        if joined.status == "ok":
            return joined.token
        if joined.status == "fenced":
            raise Fenced(who.worker)
        if joined.status == "live":
            gives_up_at = await _wait_for_lease(who, joined.holder, joined.left_ms, gives_up_at)


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

"""Takes over what belongs to an archive that is gone for good: Redis is right as it is, and everything is read anew.

First the archive forgets what it may know of it, then Redis forgets the other archive, then it is adopted. Cut off in
between it belongs to no archive and this one knows nothing of it: whoever looks next adopts it.
"""

import secrets
from typing import Any

import redis.asyncio

from reclaimd.daemon.archive.following import Following
from reclaimd.daemon.archive.job import Overtaken
from reclaimd.daemon.archive.records import schedules_of
from reclaimd.daemon.archive.restoring_schedules import SchedulesChanged, adopt_schedules, look_at_schedules
from reclaimd.daemon.archive.scanning import Redis
from reclaimd.daemon.archive.store import Store
from reclaimd.streams.archive_scripts import Facts
from reclaimd.streams.keys import Partition, schedule_epoch_key
from reclaimd.streams.redis_log import AsyncClient


async def take_over_partition(
    store: Store, redis_: Redis, partition: Partition, gone: str, seen: Facts, *, me: str, events_cap: int
) -> None:
    """Of the archive with the ID `gone`. `seen`: the epoch as it was looked at. Raises Overtaken, ArchiveFailed."""
    await _claim(store, partition, me)
    await store.reset(partition, me, "", "")
    if not await _disown(redis_, partition.key("epoch"), gone, partition.key("accepted")):
        raise Overtaken(partition.queue)
    adopted = await Following(store, redis_, partition, me).adopt(await store.partition(partition), seen, events_cap)
    if adopted.status != "ok":
        raise Overtaken(partition.queue)


async def take_over_schedules(store: Store, redis_: Redis, namespace: str, gone: str, *, me: str) -> None:
    """The same for the schedules of a namespace. Raises SchedulesChanged, ArchiveFailed."""
    await _claim(store, schedules_of(namespace), me)
    await store.schedules.reset(namespace, me, "", "")
    if not await _disown(redis_, schedule_epoch_key(namespace), gone):
        raise SchedulesChanged
    _, facts = await look_at_schedules(store, redis_, namespace)
    if not await adopt_schedules(store, redis_, namespace, me, facts, secrets.token_hex(4)):
        raise SchedulesChanged


async def _claim(store: Store, partition: Partition, me: str) -> None:
    row = await store.partition(partition)
    if not await store.claim(partition, me, None if row is None else row.ownership):
        raise Overtaken(partition.queue)


async def _disown(redis_: Redis, epoch: str, gone: str, *more: str) -> bool:
    """Whether it belonged to the archive `gone`, and belongs to none now; open, if a rebuild from that one froze it."""

    async def ask(client: AsyncClient) -> bool:
        async with client.pipeline(transaction=True) as pipeline:
            commands: Any = pipeline
            await commands.watch(epoch)
            if await commands.hget(epoch, "archive_id") != gone.encode():
                return False
            commands.multi()
            commands.hset(epoch, mapping={"archive_id": "", "state": "ok"})
            if more:
                commands.unlink(*more)
            try:
                await commands.execute()
            except redis.asyncio.WatchError:
                return False
            return True

    return await redis_.use(ask)

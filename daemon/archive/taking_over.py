"""Takes over what belongs to an archive that is gone for good: Redis is right as it is, and everything is read anew.

First the archive forgets what it may know of it, then Redis forgets the other archive, then it is adopted. Cut off in
between it belongs to no archive, or to this one, which knows nothing of it: whoever looks next adopts it, be that a
daemon or this once more.
"""

import secrets

from reclaimd.daemon.archive.following import Following
from reclaimd.daemon.archive.job import Overtaken
from reclaimd.daemon.archive.records import schedules_of
from reclaimd.daemon.archive.restoring_schedules import SchedulesChanged, adopt_schedules, look_at_schedules
from reclaimd.daemon.archive.scanning import Redis
from reclaimd.daemon.archive.store import Store
from reclaimd.streams.archive_scripts import Facts
from reclaimd.streams.disowning import disown
from reclaimd.streams.keys import Partition, schedule_epoch_key
from reclaimd.streams.schedules.archive_scripts import Facts as SchedulesFacts


async def take_over_partition(
    store: Store, redis: Redis, partition: Partition, gone: str, seen: Facts, *, me: str, events_cap: int
) -> None:
    """Of the archive with the ID `gone`. `seen`: the epoch as it was looked at. Raises Overtaken, ArchiveFailed."""
    await _claim(store, partition, me)
    await store.reset(partition, me, "", "")
    call = disown(gone, partition.key("epoch"), partition.key("accepted"))
    if seen.archive_id not in {"", store.archive_id} and not await redis.send(call):
        raise Overtaken(partition.queue)
    adopted = await Following(store, redis, partition, me).adopt(await store.partition(partition), seen, events_cap)
    if adopted.status != "ok":
        raise Overtaken(partition.queue)


async def take_over_schedules(
    store: Store, redis: Redis, namespace: str, gone: str, seen: SchedulesFacts, *, me: str
) -> None:
    """The same for the schedules of a namespace. Raises SchedulesChanged, ArchiveFailed."""
    await _claim(store, schedules_of(namespace), me)
    await store.schedules.reset(namespace, me, "", "")
    call = disown(gone, schedule_epoch_key(namespace))
    if seen.archive_id not in {"", store.archive_id} and not await redis.send(call):
        raise SchedulesChanged
    _, facts = await look_at_schedules(store, redis, namespace)
    if not await adopt_schedules(store, redis, namespace, me, facts, secrets.token_hex(4)):
        raise SchedulesChanged


async def _claim(store: Store, partition: Partition, me: str) -> None:
    row = await store.partition(partition)
    if not await store.claim(partition, me, None if row is None else row.ownership):
        raise Overtaken(partition.queue)
    if row is not None and row.state != "archiving":
        # It would be told as one that has not ended.
        await store.cancel_rebuild(partition, row.rebuild_id, me)

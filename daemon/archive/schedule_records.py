"""What the archive keeps of the schedules of a namespace: their events as they were, and whole snapshots.

Who archives them, their mark and their rebuild are a row like that of a partition, under `schedules_of(namespace)`:
`Store.claim`, `beat`, `partition`, `begin_rebuild` and `end_rebuild` take it.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaimd.daemon.archive import schema, writing
from reclaimd.daemon.archive.engine import Database, to_the_end
from reclaimd.daemon.archive.errors import OwnerLost
from reclaimd.daemon.archive.records import entry_id, id_of, schedules_of, text_of
from reclaimd.daemon.archive.statements import CHUNK, chunks, insert_new
from reclaimd.daemon.rebuild.values import sort_of_entry

PAGE: Final = 1_000
SNAPSHOTS_KEPT: Final = 2

_log = schema.schedule_log.c
_snapshots = schema.schedule_snapshots.c
_partitions = schema.partitions.c
_fields = msgspec.msgpack.Decoder(dict[str, bytes])


class ScheduleEntry(NamedTuple):
    """One event of schedules. `e`: its bytes as Redis has them."""

    entry_id: str
    e: bytes


class Snapshot(NamedTuple):
    """A whole snapshot. `covers`: the last event in it; `entries`: as in its stream, without their IDs."""

    covers: str
    entries: list[dict[str, bytes]]


class ScheduleRecords:
    """The log of schedules in an archive."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @to_the_end
    async def append(
        self, namespace: str, me: str, events: Iterable[ScheduleEntry], position: str, mark: str | None = None
    ) -> None:
        """Keep events, with the position behind them and the mark (None: as it was), at once. Raises OwnerLost.

        The position is `PartitionRow.positions["events"]` of `schedules_of(namespace)`. One that is there stays.
        """
        async with self._database.writing() as connection:
            row_id = await self._lock(connection, namespace, me)
            rows = ({"partition_id": row_id, "entry": sort_of_entry(one.entry_id), "e": one.e} for one in events)
            for chunk in chunks(rows, CHUNK):
                await connection.execute(insert_new(schema.schedule_log, self._database.dialect), chunk)
            values = {"positions": text_of({"events": position})}
            if mark is not None:
                values["mark"] = mark
            await connection.execute(update(schema.partitions).where(_partitions.id == row_id).values(values))

    @to_the_end
    async def keep_snapshot(
        self, namespace: str, me: str, covers: str, entries: Iterable[Mapping[str, str | bytes]]
    ) -> None:
        """Keep a snapshot: header, chunks and commit as `streams.schedules.snapshot` makes them. Raises OwnerLost.

        Snapshots before the newest two go, and the events that both of those cover.
        """
        async with self._database.writing() as connection:
            row_id = await self._lock(connection, namespace, me)
            sort = sort_of_entry(covers)
            await connection.execute(
                delete(schema.schedule_snapshots).where(_snapshots.partition_id == row_id, _snapshots.covers == sort)
            )
            for n, fields in enumerate(entries):
                # One at a time: a chunk may have a megabyte, and a snapshot hundreds of them.
                row = {"partition_id": row_id, "covers": sort, "n": n, "fields": msgspec.msgpack.encode(_bytes(fields))}
                await connection.execute(schema.schedule_snapshots.insert(), row)
            await self._trim(connection, row_id)

    async def newest_snapshot(self, namespace: str) -> Snapshot | None:
        """The one that covers most."""
        ours = _snapshots.partition_id == id_of(schedules_of(namespace))
        async with self._database.reading() as connection:
            newest = await connection.scalar(select(func.max(_snapshots.covers)).where(ours))
            if newest is None:
                return None
            entries = select(_snapshots.fields).where(ours, _snapshots.covers == newest).order_by(_snapshots.n)
            found = await connection.scalars(entries)
            return Snapshot(entry_id(newest), [_fields.decode(fields) for fields in found])

    async def events(self, namespace: str, after: str = "0-0") -> AsyncIterator[ScheduleEntry]:
        """The kept events behind entry `after`, oldest first."""
        wanted = select(_log.entry, _log.e).where(_log.partition_id == id_of(schedules_of(namespace)))
        wanted = wanted.order_by(_log.entry).limit(PAGE)
        position = sort_of_entry(after)
        while True:
            async with self._database.paging() as connection:
                page = (await connection.execute(wanted.where(_log.entry > position))).all()
            for entry, e in page:
                yield ScheduleEntry(entry_id(entry), e)
            if len(page) < PAGE:
                return
            position = page[-1].entry

    @to_the_end
    async def reset(self, namespace: str, me: str, epoch_id: str, mark: str) -> None:
        """Forget events and snapshots, and begin anew at `0-0`. Raises OwnerLost."""
        async with self._database.writing() as connection:
            row_id = await self._lock(connection, namespace, me)
            await connection.execute(delete(schema.schedule_log).where(_log.partition_id == row_id))
            await connection.execute(delete(schema.schedule_snapshots).where(_snapshots.partition_id == row_id))
            anew = {"epoch_id": epoch_id, "mark": mark, "positions": "{}", "state": "archiving", "new_epoch_id": ""}
            await connection.execute(update(schema.partitions).where(_partitions.id == row_id).values(anew))

    async def _lock(self, connection: AsyncConnection, namespace: str, me: str) -> int:
        row_id = await connection.run_sync(writing.lock, schedules_of(namespace), me)
        if row_id is None:
            raise OwnerLost(f"the schedules of {namespace}")
        return row_id

    async def _trim(self, connection: AsyncConnection, row_id: int) -> None:
        ours = _snapshots.partition_id == row_id
        kept = select(_snapshots.covers).where(ours).distinct().order_by(_snapshots.covers.desc()).limit(SNAPSHOTS_KEPT)
        newest: Sequence[str] = (await connection.scalars(kept)).all()
        if len(newest) < SNAPSHOTS_KEPT:
            return
        await connection.execute(delete(schema.schedule_snapshots).where(ours, _snapshots.covers < newest[-1]))
        covered = (_log.partition_id == row_id) & (_log.entry <= newest[-1])
        await connection.execute(delete(schema.schedule_log).where(covered))


def _bytes(fields: Mapping[str, str | bytes]) -> dict[str, bytes]:
    return {name: value.encode() if isinstance(value, str) else value for name, value in fields.items()}

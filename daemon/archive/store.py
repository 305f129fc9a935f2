"""The archive as the daemon and the commands see it. Everything raises ArchiveFailed when the database does not help.

One archive serves many daemons and namespaces. A partition is written by its owner only; who that is, is settled in the
same transaction as the write. After an ArchiveFailed of a write, read the row of the partition before the next one: the
write may have been committed, and doing it again is harmless.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, delete, func, select, tuple_, update
from sqlalchemy.engine import URL

from reclaimd.daemon.archive import backup, history, migrations, rebuilds, schema, writing
from reclaimd.daemon.archive.engine import Access, Database, by_index, to_the_end
from reclaimd.daemon.archive.errors import ArchiveFailed, OwnerLost, Trouble
from reclaimd.daemon.archive.records import FIRED, SCHEDULES_QUEUE, TASK, id_of, is_partition, partition_row
from reclaimd.daemon.archive.schedule_records import ScheduleRecords
from reclaimd.daemon.archive.statements import CHUNK, IDS, chunks, ids, insert_new, named
from reclaimd.daemon.databases import read_url
from reclaimd.daemon.rebuild.values import (
    PLACES,
    Carried,
    Changes,
    Cursor,
    FiredRow,
    Ownership,
    PartitionRow,
    PartitionState,
    Positions,
    Report,
    TaskRow,
)
from reclaimd.streams.keys import Partition

FORGET_STEP: Final = 10_000
"""Rows deleted in one transaction."""

_tasks = schema.tasks.c
_fired = schema.fired.c
_partitions = schema.partitions.c


@asynccontextmanager
async def open_store(url: str, access: Access = Access.WRITE) -> AsyncIterator["Store"]:
    """The archive at `sqlite:///FILE` or `postgresql://…`; to WRITE, made or brought up to date if need be.

    Raises ArchiveFailed; of it ArchiveUnreachable when there is no answer, ArchiveTooNew when a newer version wrote it;
    from who only reads, ArchiveMissing when there is none, and ArchiveTooOld.
    """
    try:
        parsed = read_url(url)
    except ValueError as error:
        raise ArchiveFailed(Trouble.URL, url, str(error)) from None
    store = Store(parsed, access)
    try:
        await store.open()
        yield store
    finally:
        await store.aclose()


class Store:
    """One archive. `archive_id` is known once it is open; `schedules`: what it keeps of schedules.

    When file or tables are deleted under it, the next call makes them anew, empty, with the same `archive_id`.
    """

    def __init__(self, url: URL, access: Access = Access.WRITE) -> None:
        self.archive_id = ""
        self._database = Database(url, self._prepare, access)
        self.schedules = ScheduleRecords(self._database)

    @property
    def where(self) -> str:
        """Its URL without the password."""
        return self._database.where

    async def open(self) -> None:
        """Connect, and see to the tables. `open_store` has done so."""
        await self._database.open()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._database.aclose()

    async def partition(self, partition: Partition) -> PartitionRow | None:
        """What is known of a partition as a whole; None when nobody has ever claimed it.

        `epoch_id` is empty from the first claim until the first `reset`.
        """
        async with self._database.reading() as connection:
            row = (
                (await connection.execute(select(schema.partitions).where(is_partition(partition)))).mappings().first()
            )
            return None if row is None else partition_row(row)

    async def partitions(self, namespace: str) -> list[PartitionRow]:
        """All of a namespace, sorted by queue and number."""
        wanted = select(schema.partitions).where(
            _partitions.namespace == namespace, _partitions.queue != SCHEDULES_QUEUE
        )
        async with self._database.reading() as connection:
            found = await connection.execute(wanted.order_by(_partitions.queue, _partitions.number))
            return [partition_row(row) for row in found.mappings()]

    @to_the_end
    async def claim(self, partition: Partition, me: str, seen: Ownership | None) -> bool:
        """Become the owner, if it is still as `seen` (None: the row does not exist). False: it has changed."""
        async with self._database.writing(partition.queue) as connection:
            if seen is None:
                row = {"namespace": partition.namespace, "queue": partition.queue, "number": partition.number}
                new = insert_new(schema.partitions, self._database.dialect).values(**row, owner=me, beat=1)
                return await connection.scalar(new.returning(_partitions.id)) is not None
            as_seen = (_partitions.owner == seen.owner) & (_partitions.beat == seen.beat)
            mine = update(schema.partitions).where(is_partition(partition), as_seen)
            done = await connection.execute(mine.values(owner=me, beat=seen.beat + 1))
            return done.rowcount == 1

    @to_the_end
    async def beat(self, partition: Partition, me: str) -> bool:
        """Say that the owner is alive. False: it is somebody else."""
        alive = update(schema.partitions).where(is_partition(partition), _partitions.owner == me)
        async with self._database.writing(partition.queue) as connection:
            done = await connection.execute(alive.values(beat=_partitions.beat + 1))
            return done.rowcount == 1

    @to_the_end
    async def commit(
        self, partition: Partition, me: str, changes: Changes, positions: Positions, mark: str | None = None
    ) -> None:
        """Write what a tail did, with all positions and the mark (None: as it was), at once. Raises OwnerLost."""

        def work(connection: Connection) -> None:
            row_id = writing.lock(connection, partition, me)
            if row_id is None:
                raise OwnerLost(str(partition))
            writing.write(connection, row_id, changes, positions, mark)

        await self._database.write(work, partition.queue)

    async def reset(self, partition: Partition, me: str, epoch_id: str, mark: str) -> None:
        """Forget tasks and fired rows, and begin anew at `0-0`: Redis tells everything again. Raises OwnerLost.

        Event batches stay. Cut off in the middle it has forgotten a part, and position and mark are the old ones.
        """
        while await self._forget(partition, me):
            pass
        await self._begin_anew(partition, me, epoch_id, mark)

    @to_the_end
    async def _begin_anew(self, partition: Partition, me: str, epoch_id: str, mark: str) -> None:
        async with self._database.writing(partition.queue) as connection:
            row_id = await connection.run_sync(writing.lock, partition, me)
            if row_id is None:
                raise OwnerLost(str(partition))
            await connection.execute(delete(schema.fired).where(_fired.partition_id == row_id))
            anew = {"epoch_id": epoch_id, "mark": mark, "positions": "{}", "counters": "{}", "paused": False}
            ended = {"state": "archiving", "new_epoch_id": ""}
            await connection.execute(update(schema.partitions).where(_partitions.id == row_id).values(**anew, **ended))

    @to_the_end
    async def _forget(self, partition: Partition, me: str) -> bool:
        """Delete some tasks; False when there were none."""
        async with self._database.writing(partition.queue) as connection:
            row_id = await connection.run_sync(writing.lock, partition, me)
            if row_id is None:
                raise OwnerLost(str(partition))
            ours = _tasks.partition_id == row_id
            in_order = select(_tasks.task_id).where(ours).order_by(_tasks.task_id)
            last = await connection.scalar(in_order.offset(FORGET_STEP).limit(1))
            part = ours if last is None else ours & (_tasks.task_id <= last)
            await connection.execute(delete(schema.tasks).where(part))
            return last is not None

    async def tasks_after(self, partition: Partition, cursor: Cursor | None, limit: int) -> list[TaskRow]:
        """The next tasks behind `cursor` (None: the first), in the order of (rank, sort, task_id)."""
        wanted = select(*TASK.columns).where(_tasks.partition_id == id_of(partition))
        order = (_tasks.rank, _tasks.sort, _tasks.task_id)
        if cursor is not None:
            wanted = wanted.where(tuple_(*order) > (cursor.rank, cursor.sort, cursor.task_id))

        def read(connection: Connection) -> list[TaskRow]:
            by_index(connection)
            return TASK.all(connection.execute(wanted.order_by(*order).limit(limit)))

        return await self._database.read(read)

    async def tasks_by_id(self, partition: Partition, task_ids: Collection[str]) -> list[TaskRow]:
        """The rows of these tasks, those that are there: of one ID an open one, and any number of letters."""
        found: list[TaskRow] = []
        dialect = self._database.dialect
        ours = select(*TASK.columns).where(_tasks.partition_id == id_of(partition))
        wanted = named(ours, _tasks.task_id, dialect)
        async with self._database.reading() as connection:
            for chunk in chunks(task_ids, CHUNK):
                found += TASK.all(await connection.execute(wanted, {IDS: ids(chunk)}))
        return found

    async def count_tasks(self, partition: Partition) -> dict[str, int]:
        """Tasks by place, without the places that have none."""
        counted = select(_tasks.rank, func.count()).where(_tasks.partition_id == id_of(partition))
        async with self._database.reading() as connection:
            rows = await connection.execute(counted.group_by(_tasks.rank).order_by(_tasks.rank))
            return {PLACES[rank]: number for rank, number in rows}

    async def fired(self, partition: Partition, names: Collection[str] | None = None) -> dict[str, FiredRow]:
        """The rows of `:fired` by schedule: of these schedules, or all."""
        dialect = self._database.dialect
        wanted = select(*FIRED.columns).where(_fired.partition_id == id_of(partition))
        async with self._database.reading() as connection:
            if names is None:
                return {row.schedule: row for row in FIRED.all(await connection.execute(wanted))}
            found: dict[str, FiredRow] = {}
            those = named(wanted, _fired.schedule, dialect)
            for chunk in chunks(names, CHUNK):
                rows = FIRED.all(await connection.execute(those, {IDS: ids(chunk)}))
                found.update((row.schedule, row) for row in rows)
            return found

    def events(
        self,
        partition: Partition,
        after: str = "0-0",
        *,
        contains: bytes | str | None = None,
        until: str | None = None,
    ) -> AsyncIterator[history.Kept]:
        """The kept batches behind entry `after`, up to and with `until`, oldest first; those that hold `contains`."""
        return history.events(self._database, partition, after, contains, until)

    async def folded(self, partition: Partition, names: Sequence[str], up_to: str) -> set[str]:
        """Which of these batches (entry IDs) are kept, or were and are forgotten: none of those is behind `up_to`."""
        return await history.folded(self._database, partition, names, up_to)

    async def retain(self, age_ms: int, most_bytes: int, now_ms: int) -> history.Retained:
        """Forget event batches older than `age_ms`, and the oldest while all together exceed `most_bytes`.

        `now_ms`: wall time of Redis. Tasks are never touched, nor is the history of what is being rebuilt. A file
        gives back part of what it no longer needs.
        """
        return await history.retain(self._database, now_ms - age_ms, most_bytes)

    async def begin_rebuild(
        self, partition: Partition, rebuild_id: str, new_epoch_id: str, verdict: str, state: PartitionState
    ) -> None:
        """Write down that a rebuild begins, before Redis learns of it. Again with the same ID: its state changes."""
        await rebuilds.begin(self._database, partition, rebuild_id, new_epoch_id, verdict, state)

    async def name_letters(self, partition: Partition, rebuild_id: str, named: Sequence[Carried]) -> None:
        """Name dead letters as Redis does, while this rebuild runs: in older data the same one has another entry ID,
        and what becomes of it is told by that.
        """
        await rebuilds.name_letters(self._database, partition, rebuild_id, named)

    async def end_rebuild(
        self, partition: Partition, rebuild_id: str, epoch_id: str, mark: str, report: Report
    ) -> bool:
        """Keep the report, and archive again from `0-0` on. False: it has been ended, or another one has begun."""
        return await rebuilds.end(self._database, partition, rebuild_id, epoch_id, mark, report)

    async def cancel_rebuild(self, partition: Partition, rebuild_id: str, me: str) -> bool:
        """It was begun for nothing: archive on from where this stood. False: `me` is not the owner, or it has ended."""
        return await rebuilds.cancel(self._database, partition, rebuild_id, me)

    async def rebuilds(self, namespace: str, queue: str | None = None, limit: int = 100) -> list[Report]:
        """Newest first; of one that has not ended, `ended_ms` is 0 and the numbers are missing."""
        return await rebuilds.newest(self._database, namespace, queue, limit)

    async def last_rebuild(self, partition: Partition) -> Report | None:
        """The newest one."""
        found = await rebuilds.newest(self._database, partition.namespace, partition.queue, 1)
        return found[0] if found else None

    async def backup(self, path: Path, progress: backup.Progress = backup.silent) -> int:
        """Copy a SQLite archive to a new file while it is used; returns its bytes. Raises BackupRefused.

        `progress(done, total)`: bytes, called in the event loop.
        """
        return await backup.back_up(self._database, path, progress)

    def _prepare(self, connection: Connection, where: str) -> None:
        if self._database.access is Access.WRITE:
            found = migrations.migrate(connection, where, self.archive_id or None)
        else:
            found = migrations.check(connection, where, any_version=self._database.access is Access.COPY)
        if self.archive_id and found != self.archive_id:
            raise ArchiveFailed(Trouble.REPLACED, where)
        self.archive_id = found

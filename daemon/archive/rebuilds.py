"""Rebuilds as the archive remembers them."""

import time
from collections.abc import Sequence
from typing import Final

import msgspec
from sqlalchemy import Connection, delete, select, update

from reclaimd.daemon.archive import schema, writing
from reclaimd.daemon.archive.engine import Database, to_the_end
from reclaimd.daemon.archive.records import is_partition, text_of
from reclaimd.daemon.archive.statements import insert_new
from reclaimd.daemon.rebuild.values import Carried, PartitionState, Report, rebuilt
from reclaimd.streams.keys import Partition

_rebuilds = schema.rebuilds.c
_partitions = schema.partitions.c
_BEGUN: Final = ("lost", "rebuilding")
_positions = msgspec.json.Decoder(dict[str, str])
_report = msgspec.json.Decoder(Report)


@to_the_end
async def begin(
    database: Database, partition: Partition, rebuild_id: str, new_epoch_id: str, verdict: str, state: PartitionState
) -> None:
    """See `Store.begin_rebuild`."""
    begun_ms = int(time.time() * 1000)
    report = Report(
        rebuild_id=rebuild_id,
        verdict=verdict,
        namespace=partition.namespace,
        queue=partition.queue,
        begun_ms=begun_ms,
    )
    row = {
        "id": rebuild_id,
        "namespace": partition.namespace,
        "queue": partition.queue,
        "number": partition.number,
        "verdict": verdict,
        "begun_ms": begun_ms,
        "report": msgspec.json.encode(report),
    }
    begun = {"rebuild_id": rebuild_id, "new_epoch_id": new_epoch_id, "verdict": verdict, "state": state}
    key = {"namespace": partition.namespace, "queue": partition.queue, "number": partition.number}
    async with database.writing(partition.queue) as connection:
        await connection.execute(insert_new(schema.partitions, database.dialect), key)
        # Of two who begin at once the first one's is done, by both.
        free = _partitions.state.not_in(_BEGUN) | (_partitions.rebuild_id == rebuild_id)
        done = await connection.execute(update(schema.partitions).where(is_partition(partition), free).values(begun))
        if done.rowcount == 1:
            await connection.execute(insert_new(schema.rebuilds, database.dialect), row)


async def name_letters(database: Database, partition: Partition, rebuild_id: str, named: Sequence[Carried]) -> None:
    """See `Store.name_letters`."""
    running = is_partition(partition) & (_partitions.rebuild_id == rebuild_id) & _partitions.state.in_(_BEGUN)

    def work(connection: Connection) -> None:
        row_id: int | None = connection.scalar(select(_partitions.id).where(running).with_for_update())
        if row_id is not None:
            writing.carry(connection, row_id, named)

    await database.write(work, partition.queue)


@to_the_end
async def end(
    database: Database, partition: Partition, rebuild_id: str, epoch_id: str, mark: str, report: Report
) -> bool:
    """See `Store.end_rebuild`."""
    ended_ms = report.ended_ms or int(time.time() * 1000)
    anew = {"epoch_id": epoch_id, "mark": mark, "state": "archiving", "new_epoch_id": ""}
    kept = {"ended_ms": ended_ms, "report": msgspec.json.encode(msgspec.structs.replace(report, ended_ms=ended_ms))}
    async with database.writing(partition.queue) as connection:
        # Who is late must not take back what was archived since another one ended it.
        running = is_partition(partition) & (_partitions.rebuild_id == rebuild_id) & _partitions.state.in_(_BEGUN)
        was = await connection.scalar(select(_partitions.positions).where(running))
        anew["positions"] = text_of(rebuilt(_positions.decode(was or "{}")))
        done = await connection.execute(update(schema.partitions).where(running).values(anew))
        if done.rowcount == 1:
            await connection.execute(update(schema.rebuilds).where(_rebuilds.id == rebuild_id).values(kept))
        return done.rowcount == 1


@to_the_end
async def cancel(database: Database, partition: Partition, rebuild_id: str, me: str) -> bool:
    """See `Store.cancel_rebuild`."""
    async with database.writing(partition.queue) as connection:
        ours = (_partitions.owner == me) & (_partitions.rebuild_id == rebuild_id) & _partitions.state.in_(_BEGUN)
        following = update(schema.partitions).where(is_partition(partition), ours)
        done = await connection.execute(following.values(state="archiving", new_epoch_id=""))
        if done.rowcount == 1:
            # There is nothing to tell of it.
            await connection.execute(delete(schema.rebuilds).where(_rebuilds.id == rebuild_id))
        return done.rowcount == 1


async def newest(database: Database, namespace: str, queue: str | None, limit: int) -> list[Report]:
    """See `Store.rebuilds`."""
    wanted = select(_rebuilds.report).where(_rebuilds.namespace == namespace)
    if queue is not None:
        wanted = wanted.where(_rebuilds.queue == queue)
    async with database.reading() as connection:
        found = await connection.scalars(wanted.order_by(_rebuilds.begun_ms.desc(), _rebuilds.id).limit(limit))
        return [_report.decode(report) for report in found]

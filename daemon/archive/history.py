"""The kept event batches: read by pages, and forgotten by age and size."""

from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple

import anyio
from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaimd.daemon.archive import schema
from reclaimd.daemon.archive.engine import Database, to_the_end
from reclaimd.daemon.archive.records import entry_id, id_of
from reclaimd.daemon.archive.statements import contains
from reclaimd.daemon.rebuild.values import sort_of_entry
from reclaimd.streams.keys import Partition

PAGE: Final = 64
"""Batches read at once; one may have a few hundred kilobytes."""
STEP: Final = 200
"""Batches deleted in one transaction."""
FREE_PAGES: Final = 4_096
"""Pages that a file keeps for what comes next."""
VACUUM_PAGES: Final = 512
"""Pages given back in one step, during which nobody else can write."""
MOST_PAGES: Final = 20_000
"""Pages given back in one call; the next goes on."""

_events = schema.events.c
_partitions = schema.partitions.c
_may_forget = _partitions.state != "rebuilding"
"""Of two who rebuild both must read the same, or one gives to a task what the other has removed with it."""


class Kept(NamedTuple):
    """One batch. `at`: wall ms, 0 when it was unreadable; `e`: its bytes, as `decode_batch` takes them."""

    entry_id: str
    at: int
    e: bytes


class Retained(NamedTuple):
    """What was forgotten: batches, their bytes, and the pages that the file gave back."""

    batches: int
    freed: int
    pages: int


async def events(
    database: Database, partition: Partition, after: str, needle: bytes | str | None, until: str | None
) -> AsyncIterator[Kept]:
    """See `Store.events`. A transaction a page, so that a slow reader holds up nothing."""
    wanted = select(_events.entry, _events.at, _events.e).where(_events.partition_id == id_of(partition))
    if until is not None:
        wanted = wanted.where(_events.entry <= sort_of_entry(until))
    if needle is not None:
        raw = needle.encode() if isinstance(needle, str) else needle
        wanted = wanted.where(contains(_events.e, raw, database.dialect))
    wanted = wanted.order_by(_events.entry).limit(PAGE)
    position = sort_of_entry(after)
    while True:
        async with database.paging() as connection:
            page = (await connection.execute(wanted.where(_events.entry > position))).all()
        for entry, at, e in page:
            yield Kept(entry_id(entry), at, e)
        if len(page) < PAGE:
            return
        position = page[-1].entry


async def folded(database: Database, partition: Partition, names: Sequence[str], up_to: str) -> set[str]:
    """See `Store.folded`."""
    sorts = {sort_of_entry(name): name for name in names}
    ours = _events.partition_id == id_of(partition)
    kept = select(_events.entry).where(ours, _events.entry >= min(sorts), _events.entry <= max(sorts))
    async with database.reading() as connection:
        found = set(await connection.scalars(kept))
        oldest = await connection.scalar(select(func.min(_events.entry)).where(ours))
    last = sort_of_entry(up_to)
    return {name for sort, name in sorts.items() if sort in found or (sort <= last and (oldest or last) >= sort)}


async def retain(database: Database, before_ms: int, most_bytes: int) -> Retained:
    """See `Store.retain`. In small steps, between which the archiver gets its turn."""
    batches = freed = 0
    too_old = _events.entry < sort_of_entry(f"{max(0, before_ms)}-0")
    for row_id, _ in await _kept(database):
        while (done := await _forget(database, row_id, too_old))[0]:
            batches, freed = batches + done[0], freed + done[1]
            await anyio.lowlevel.checkpoint()
    while (excess := sum(kept for _, kept in await _kept(database)) - most_bytes) > 0:
        oldest = await _with_the_oldest(database)
        done = (0, 0) if oldest is None else await _forget(database, oldest, None, excess)
        if not done[0]:
            break
        batches, freed = batches + done[0], freed + done[1]
    return Retained(batches, freed, await _vacuum(database))


async def _kept(database: Database) -> list[tuple[int, int]]:
    async with database.reading() as connection:
        rows = await connection.execute(select(_partitions.id, _partitions.events_bytes))
        return [(row_id, kept) for row_id, kept in rows]


async def _with_the_oldest(database: Database) -> int | None:
    """The partition whose oldest batch is the oldest of all, of those that may forget."""
    oldest = select(_events.entry).where(_events.partition_id == _partitions.id)
    first = oldest.order_by(_events.entry).limit(1).scalar_subquery()
    async with database.reading() as connection:
        rows = (await connection.execute(select(_partitions.id, first).where(_may_forget))).all()
    found = [(entry, row_id) for row_id, entry in rows if entry is not None]
    return min(found)[1] if found else None


@to_the_end
async def _forget(
    database: Database, row_id: int, which: ColumnElement[bool] | None, enough: int | None = None
) -> tuple[int, int]:
    """Delete the oldest batches of a partition, a step of them or `enough` bytes. Returns how many, and their bytes."""
    ours = _events.partition_id == row_id
    oldest = select(_events.entry, func.length(_events.e)).where(ours)
    if which is not None:
        oldest = oldest.where(which)
    async with database.writing() as connection:
        if not await _lock(connection, row_id):
            return 0, 0
        rows = (await connection.execute(oldest.order_by(_events.entry).limit(STEP))).all()
        if not rows:
            return 0, 0
        freed = list(accumulate(length for _, length in rows))
        number = len(rows) if enough is None else min(len(rows), bisect_left(freed, enough) + 1)
        await connection.execute(delete(schema.events).where(ours, _events.entry <= rows[number - 1][0]))
        less = _partitions.events_bytes - freed[number - 1]
        await connection.execute(update(schema.partitions).where(_partitions.id == row_id).values(events_bytes=less))
        return number, freed[number - 1]


async def _lock(connection: AsyncConnection, row_id: int) -> bool:
    """As a commit does, so that what is counted is what is deleted. False: it may not forget now."""
    same: dict[str, Any] = {"events_bytes": _partitions.events_bytes}
    ours = _partitions.id == row_id
    return (await connection.execute(update(schema.partitions).where(ours, _may_forget).values(same))).rowcount == 1


async def _vacuum(database: Database) -> int:
    """Give free pages back to the file system, all but a reserve. PostgreSQL sees to itself."""
    if database.path is None:
        return 0
    before = free = await _free_pages(database)
    while free > FREE_PAGES and before - free < MOST_PAGES:
        await _give_back(database, min(VACUUM_PAGES, free - FREE_PAGES))
        left = await _free_pages(database)
        if left >= free:
            break
        free = left
        await anyio.lowlevel.checkpoint()
    return before - free


async def _free_pages(database: Database) -> int:
    async with database.reading() as connection:
        return int((await connection.exec_driver_sql("PRAGMA freelist_count")).scalar_one())


@to_the_end
async def _give_back(database: Database, pages: int) -> None:
    async with database.writing() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        # As a script, which ends the transaction and begins one of its own: executed, it gives back a single page.
        await driver.executescript(f"PRAGMA incremental_vacuum({pages})")

"""What a commit does to the tables, inside one transaction."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from reclaimd.daemon.archive import schema
from reclaimd.daemon.archive.records import is_partition, text_of
from reclaimd.daemon.archive.statements import IDS, ids, insert_new, one_of, upsert
from reclaimd.daemon.rebuild.values import DEAD, RANKS, Carried, Changes, EventEntry, Positions, TaskRow, sort_of_entry
from reclaimd.streams.keys import Partition

T = TypeVar("T")

CHUNK: Final = 1_000
"""Rows of one statement."""

_tasks = schema.tasks.c
_partitions = schema.partitions.c
_ours = _tasks.partition_id == bindparam("of")
_this = _ours & (_tasks.task_id == bindparam("task")) & (_tasks.letter == bindparam("which"))
_delete_entry = delete(schema.tasks).where(
    _ours, _tasks.rank == bindparam("rank_is"), _tasks.sort == bindparam("sort_is")
)
_delete_this = delete(schema.tasks).where(_this)
_carry_this = (
    update(schema.tasks)
    .where(_this)
    .values(
        letter=bindparam("to"),
        place=bindparam("to_place"),
        rank=bindparam("to_rank"),
        sort=bindparam("to_sort"),
        entry_id=bindparam("to_entry"),
        due=0,
    )
)
# Rebuilt, a letter has another entry ID, and an older copy of Redis has the old one again.
_delete_same_letters = delete(schema.tasks).where(
    _ours,
    _tasks.task_id == bindparam("task"),
    _tasks.rank == RANKS[DEAD],
    _tasks.letter != bindparam("which"),
    _tasks.envelope == bindparam("same"),
)
_delete_older_letters = delete(schema.tasks).where(
    _ours, _tasks.rank == RANKS[DEAD], _tasks.sort < bindparam("sort_is")
)


async def lock(connection: AsyncConnection, partition: Partition, me: str) -> int | None:
    """The row's id, locked against others until the transaction ends; None when somebody else owns it."""
    touched = update(schema.partitions).where(is_partition(partition), _partitions.owner == me)
    row_id: int | None = await connection.scalar(touched.values(owner=me).returning(_partitions.id))
    return row_id


async def write(
    connection: AsyncConnection, row_id: int, changes: Changes, positions: Positions, mark: str | None
) -> None:
    """Apply `changes` in the order that they define. `mark`: None leaves the committed one."""
    added = await _write_events(connection, row_id, changes.events)
    await _write_tasks(connection, row_id, changes)
    fired = [{"partition_id": row_id, **msgspec.structs.asdict(row)} for row in changes.fired]
    await _each(connection, upsert(schema.fired, connection.dialect.name), fired)
    values: dict[str, Any] = {"positions": text_of(positions)}
    if added:
        values["events_bytes"] = _partitions.events_bytes + added
    if mark is not None:
        values["mark"] = mark
    if changes.counters is not None:
        values["counters"] = text_of(changes.counters)
    if changes.paused is not None:
        values["paused"] = changes.paused
    await connection.execute(update(schema.partitions).where(_partitions.id == row_id).values(values))


async def _write_tasks(connection: AsyncConnection, row_id: int, changes: Changes) -> None:
    await _carry(connection, row_id, changes.carried)
    entries = [{"of": row_id, "rank_is": rank, "sort_is": sort} for rank, sort in changes.gone]
    await _each(connection, _delete_entry, entries)
    await delete_open(connection, row_id, [task_id for task_id, letter in changes.deletes if not letter])
    letters = [{"of": row_id, "task": task_id, "which": letter} for task_id, letter in changes.deletes if letter]
    await _each(connection, _delete_this, letters)
    tasks = (_columns(row_id, row) for row in changes.upserts)
    await _each(connection, upsert(schema.tasks, connection.dialect.name), tasks)
    buried = [row for row in changes.upserts if row.letter]
    copies = [{"of": row_id, "task": row.task_id, "which": row.letter, "same": row.envelope} for row in buried]
    await _each(connection, _delete_same_letters, copies)
    if changes.dead_from:
        await connection.execute(_delete_older_letters, {"of": row_id, "sort_is": changes.dead_from})


async def delete_open(connection: AsyncConnection, row_id: int, task_ids: Sequence[str]) -> None:
    """Delete tasks that are no dead letters, those of them that are there."""
    dialect = connection.dialect.name
    statement = delete(schema.tasks).where(_ours, _tasks.letter == "", one_of(_tasks.task_id, dialect))
    for chunk in chunks(task_ids, CHUNK * 5):
        await connection.execute(statement, {"of": row_id, IDS: ids(chunk, dialect)})


async def _write_events(connection: AsyncConnection, row_id: int, events: Sequence[EventEntry]) -> int:
    """Keep the batches that are not kept yet: they are read again after a reset. Returns the bytes added."""
    if not events:
        return 0
    rows = {sort_of_entry(event.entry_id): event for event in events}
    entry = schema.events.c.entry
    known = await connection.scalars(
        select(entry).where(schema.events.c.partition_id == row_id, entry >= min(rows), entry <= max(rows))
    )
    for name in known:
        rows.pop(name, None)
    new = ({"partition_id": row_id, "entry": name, "at": event.at, "e": event.e} for name, event in rows.items())
    await _each(connection, insert_new(schema.events, connection.dialect.name), new)
    return sum(len(event.e) for event in rows.values())


async def _carry(connection: AsyncConnection, row_id: int, carried: Sequence[Carried]) -> None:
    """Tasks become letters, or letters tasks, with the envelopes that they have; what is there already stays."""
    if not carried:
        return
    dialect = connection.dialect.name
    named = select(_tasks.task_id, _tasks.letter).where(_ours, one_of(_tasks.task_id, dialect))
    there: set[tuple[str, str]] = set()
    for chunk in chunks({one.task_id for one in carried}, CHUNK):
        found = await connection.execute(named, {"of": row_id, IDS: ids(chunk, dialect)})
        there.update((task_id, letter) for task_id, letter in found)
    moved, superfluous = [], []
    for one in carried:
        if (one.task_id, one.letter) not in there:
            continue
        key = {"of": row_id, "task": one.task_id, "which": one.letter}
        if one.to != one.letter and (one.task_id, one.to) in there:
            superfluous.append(key)
        else:
            moved.append({**key, **_moved(one)})
    await _each(connection, _delete_this, superfluous)
    await _each(connection, _carry_this, moved)


def _moved(one: Carried) -> dict[str, Any]:
    return {
        "to": one.to,
        "to_place": one.place,
        "to_rank": RANKS[one.place],
        "to_sort": sort_of_entry(one.entry_id),
        "to_entry": one.entry_id,
    }


def _columns(row_id: int, row: TaskRow) -> dict[str, Any]:
    return {"partition_id": row_id, **msgspec.structs.asdict(row)}


async def _each(connection: AsyncConnection, statement: Any, rows: Iterable[dict[str, Any]]) -> None:
    for chunk in chunks(rows, CHUNK):
        await connection.execute(statement, chunk)


def chunks(items: Iterable[T], number: int) -> Iterable[list[T]]:
    """The items in lists of at most `number`."""
    iterator = iter(items)
    while chunk := list(islice(iterator, number)):
        yield chunk

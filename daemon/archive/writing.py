"""What a commit does to the tables, inside one transaction."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from operator import attrgetter
from typing import Any

from sqlalchemy import Boolean, Connection, Delete, Select, Table, Text, bindparam, delete, func, select, update

from reclaimd.daemon.archive import schema
from reclaimd.daemon.archive.records import text_of
from reclaimd.daemon.archive.statements import (
    CHUNK,
    IDS,
    chunks,
    delete_named,
    ids,
    insert_new,
    insert_rows,
    named,
    upsert,
)
from reclaimd.daemon.rebuild.values import DEAD, RANKS, Carried, Changes, EventEntry, Positions, sort_of_entry
from reclaimd.streams.keys import Partition

_tasks = schema.tasks.c
_events = schema.events.c
_partitions = schema.partitions.c


def _values_of(table: Table) -> Callable[[object], tuple[Any, ...]]:
    """What reads the columns of a table, in their order and without the first, from a value with the same names."""
    return attrgetter(*(column.name for column in list(table.columns)[1:]))


_task = _values_of(schema.tasks)
_fired = _values_of(schema.fired)

# Built once: building a statement takes SQLAlchemy longer than running it.
_lock = (
    update(schema.partitions)
    .where(
        _partitions.namespace == bindparam("of_namespace"),
        _partitions.queue == bindparam("of_queue"),
        _partitions.number == bindparam("of_number"),
        _partitions.owner == bindparam("me"),
    )
    .values(beat=_partitions.beat + 1)
    .returning(_partitions.id)
)
_known_events = select(_events.entry).where(
    _events.partition_id == bindparam("of"), _events.entry >= bindparam("low"), _events.entry <= bindparam("high")
)
_note = (
    update(schema.partitions)
    .where(_partitions.id == bindparam("of"))
    .values(
        positions=bindparam("read_to"),
        events_bytes=_partitions.events_bytes + bindparam("added"),
        mark=func.coalesce(bindparam("new_mark", type_=Text), _partitions.mark),
        counters=func.coalesce(bindparam("totals", type_=Text), _partitions.counters),
        paused=func.coalesce(bindparam("is_paused", type_=Boolean), _partitions.paused),
    )
)
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
# Rebuilt, a letter has another entry ID, and an older copy of Redis has the old one again. Not told of their rank,
# PostgreSQL does not look through all letters for the one.
_delete_same_letters = delete(schema.tasks).where(
    _ours,
    _tasks.task_id == bindparam("task"),
    _tasks.letter != "",
    _tasks.letter != bindparam("which"),
    _tasks.envelope == bindparam("same"),
)
_delete_older_letters = delete(schema.tasks).where(
    _ours, _tasks.rank == RANKS[DEAD], _tasks.sort < bindparam("sort_is")
)


def lock(connection: Connection, partition: Partition, me: str) -> int | None:
    """The row's id, locked against others until the transaction ends; None when somebody else owns it.

    Once that is committed, they see that the owner lives.
    """
    named = {"of_namespace": partition.namespace, "of_queue": partition.queue, "of_number": partition.number, "me": me}
    row_id: int | None = connection.scalar(_lock, named)
    return row_id


def write(connection: Connection, row_id: int, changes: Changes, positions: Positions, mark: str | None) -> None:
    """Apply `changes` in the order that they define. `mark`: None leaves the committed one."""
    added = _write_events(connection, row_id, changes.events)
    _write_tasks(connection, row_id, changes)
    insert_rows(
        connection, upsert(schema.fired, connection.dialect.name), ((row_id, *_fired(row)) for row in changes.fired)
    )
    values = {
        "of": row_id,
        "read_to": text_of(positions),
        "added": added,
        "new_mark": mark,
        "totals": None if changes.counters is None else text_of(changes.counters),
        "is_paused": changes.paused,
    }
    connection.execute(_note, values)


def _write_tasks(connection: Connection, row_id: int, changes: Changes) -> None:
    carry(connection, row_id, changes.carried)
    entries = [{"of": row_id, "rank_is": rank, "sort_is": sort} for rank, sort in changes.gone]
    _each(connection, _delete_entry, entries)
    delete_open(connection, row_id, [task_id for task_id, letter in changes.deletes if not letter])
    letters = [{"of": row_id, "task": task_id, "which": letter} for task_id, letter in changes.deletes if letter]
    _each(connection, _delete_this, letters)
    tasks = ((row_id, *_task(row)) for row in changes.upserts)
    insert_rows(connection, upsert(schema.tasks, connection.dialect.name), tasks)
    buried = [row for row in changes.upserts if row.letter]
    copies = [{"of": row_id, "task": row.task_id, "which": row.letter, "same": row.envelope} for row in buried]
    _each(connection, _delete_same_letters, copies)
    if changes.dead_from:
        connection.execute(_delete_older_letters, {"of": row_id, "sort_is": changes.dead_from})


def delete_open(connection: Connection, row_id: int, task_ids: Sequence[str]) -> None:
    """Delete tasks that are no dead letters, those of them that are there."""
    dialect = connection.dialect.name
    for chunk in chunks(task_ids, CHUNK * 5):
        connection.execute(_delete_open(dialect), {"of": row_id, IDS: ids(chunk)})


@cache
def _delete_open(dialect: str) -> Delete:
    return delete_named(schema.tasks, _ours & (_tasks.letter == ""), _tasks.task_id, dialect)


def _write_events(connection: Connection, row_id: int, events: Sequence[EventEntry]) -> int:
    """Keep the batches that are not kept yet: they are read again after a reset. Returns the bytes added."""
    if not events:
        return 0
    rows = {sort_of_entry(event.entry_id): event for event in events}
    for name in connection.scalars(_known_events, {"of": row_id, "low": min(rows), "high": max(rows)}):
        rows.pop(name, None)
    new = ((row_id, name, event.at, event.e) for name, event in rows.items())
    insert_rows(connection, insert_new(schema.events, connection.dialect.name), new)
    return sum(len(event.e) for event in rows.values())


def carry(connection: Connection, row_id: int, carried: Sequence[Carried]) -> None:
    """Tasks become letters, or letters tasks, with the envelopes that they have; what is there already stays."""
    if not carried:
        return
    dialect = connection.dialect.name
    there: set[tuple[str, str]] = set()
    for chunk in chunks({one.task_id for one in carried}, CHUNK):
        found = connection.execute(_letters(dialect), {"of": row_id, IDS: ids(chunk)})
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
            there.add((one.task_id, one.to))
    _each(connection, _delete_this, superfluous)
    _each(connection, _carry_this, moved)


@cache
def _letters(dialect: str) -> Select[Any]:
    return named(select(_tasks.task_id, _tasks.letter).where(_ours), _tasks.task_id, dialect)


def _moved(one: Carried) -> dict[str, Any]:
    return {
        "to": one.to,
        "to_place": one.place,
        "to_rank": RANKS[one.place],
        "to_sort": sort_of_entry(one.entry_id),
        "to_entry": one.entry_id,
    }


def _each(connection: Connection, statement: Any, rows: Iterable[dict[str, Any]]) -> None:
    for chunk in chunks(rows, CHUNK):
        connection.execute(statement, chunk)

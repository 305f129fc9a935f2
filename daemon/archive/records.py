"""Rows of the tables as values, and back."""

from collections.abc import Mapping
from typing import Any, Final, Generic, TypeVar

import msgspec
from sqlalchemy import ColumnElement, CursorResult, RowMapping, ScalarSelect, Table, and_, select

from reclaimd.daemon.archive import schema
from reclaimd.daemon.rebuild.values import FiredRow, Ownership, PartitionRow, TaskRow
from reclaimd.streams.ids import EntryID
from reclaimd.streams.keys import Partition

SCHEDULES_QUEUE: Final = ""
"""The queue of the row that stands for the schedules of a namespace. No queue has this name."""

_mapping = msgspec.json.Decoder(dict[str, Any])
S = TypeVar("S", bound=msgspec.Struct)


def schedules_of(namespace: str) -> Partition:
    """Under this name the schedules of a namespace are claimed, marked and rebuilt like any partition."""
    return Partition(namespace, SCHEDULES_QUEUE)


def is_partition(partition: Partition) -> ColumnElement[bool]:
    """The row of `partitions` that is meant."""
    columns = schema.partitions.c
    return and_(
        columns.namespace == partition.namespace,
        columns.queue == partition.queue,
        columns.number == partition.number,
    )


def id_of(partition: Partition) -> ScalarSelect[Any]:
    """Its key, for a condition."""
    return select(schema.partitions.c.id).where(is_partition(partition)).scalar_subquery()


def partition_row(row: RowMapping) -> PartitionRow:
    """A row of `partitions`."""
    kept = {name: value for name, value in row.items() if name in PartitionRow.__struct_fields__}
    kept["positions"] = _mapping.decode(row["positions"])
    kept["counters"] = _mapping.decode(row["counters"])
    return PartitionRow(**kept, ownership=Ownership(row["owner"], row["beat"]))


def text_of(values: Mapping[str, Any]) -> str:
    """JSON for a column that `partition_row` reads."""
    return msgspec.json.encode(values).decode()


def entry_id(sort: str) -> str:
    """The entry ID that `sort_of_entry` was given."""
    return str(EntryID.parse(sort))


class Reading(Generic[S]):
    """A struct whose fields are columns of a table."""

    def __init__(self, struct: type[S], table: Table) -> None:
        self._struct = struct
        self.columns = tuple(table.c[name] for name in struct.__struct_fields__)

    def all(self, result: CursorResult[Any]) -> list[S]:
        """All rows of a result of `columns`."""
        # The columns are in the order of the fields.
        return [self._struct(*row) for row in result.all()]


TASK: Final = Reading(TaskRow, schema.tasks)
FIRED: Final = Reading(FiredRow, schema.fired)

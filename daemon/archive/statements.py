"""Statements that SQLite and PostgreSQL write differently. Built once: SQLAlchemy finds its compiled form by them."""

from collections.abc import Iterable
from functools import cache
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import ARRAY, ColumnElement, Connection, Dialect, Insert, Table, Text, bindparam, cast, func, select
from sqlalchemy.dialects import postgresql, sqlite

IDS: Final = "ids"
CHUNK: Final = 1_000
"""Rows of one statement."""

T = TypeVar("T")


@cache
def upsert(table: Table, dialect: str) -> Insert:
    """Insert rows, or overwrite those of the same primary key."""
    insert: Any = (sqlite if dialect == "sqlite" else postgresql).insert(table)
    key = list(table.primary_key.columns)
    changed = {column.name: insert.excluded[column.name] for column in table.columns if column not in key}
    statement: Insert = insert.on_conflict_do_update(index_elements=key, set_=changed)
    return statement


@cache
def insert_new(table: Table, dialect: str) -> Insert:
    """Insert rows; those whose primary key is there already stay as they are."""
    insert: Any = (sqlite if dialect == "sqlite" else postgresql).insert(table)
    statement: Insert = insert.on_conflict_do_nothing()
    return statement


def insert_rows(connection: Connection, insert: Insert, rows: Iterable[tuple[Any, ...]]) -> None:
    """Run an `upsert` or `insert_new` with whole rows, as the driver takes them: values in the order of the columns.

    SQLAlchemy looks at each value of each row by itself, which costs more than the driver and the database together.
    """
    text = _written(insert, connection.dialect)
    for chunk in chunks(rows, CHUNK):
        connection.exec_driver_sql(text, chunk)


@cache
def _written(insert: Insert, dialect: Dialect) -> str:
    columns = [column.name for column in insert.table.columns]
    compiled: Any = insert.compile(dialect=dialect, column_keys=columns)
    assert compiled.positiontup == columns, compiled.positiontup
    return str(compiled)


def chunks(items: Iterable[T], number: int) -> Iterable[list[T]]:
    """The items in lists of at most `number`."""
    iterator = iter(items)
    while chunk := list(islice(iterator, number)):
        yield chunk


def one_of(column: ColumnElement[str], dialect: str) -> ColumnElement[bool]:
    """`column` is one of those in the parameter `ids`: a single one, so that the statement is always the same."""
    if dialect == "sqlite":
        listed = func.json_each(bindparam(IDS, type_=Text)).table_valued("value")
        return column.in_(select(listed.c.value))
    return column == func.any(cast(bindparam(IDS), ARRAY(Text)))


def ids(values: Iterable[str], dialect: str) -> Any:
    """What the parameter of `one_of` takes."""
    return msgspec.json.encode(list(values)).decode() if dialect == "sqlite" else list(values)


def contains(column: ColumnElement[bytes], needle: bytes, dialect: str) -> ColumnElement[bool]:
    """The bytes of `column` hold `needle` somewhere."""
    # Written plainly, PostgreSQL's wants another grammar.
    find = func.instr if dialect == "sqlite" else func.pg_catalog.position
    return find(column, needle) > 0

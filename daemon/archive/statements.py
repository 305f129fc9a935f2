"""Statements that SQLite and PostgreSQL write differently. Built once: SQLAlchemy finds its compiled form by them."""

from collections.abc import Iterable
from functools import cache
from itertools import islice
from operator import itemgetter
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import (
    ARRAY,
    JSON,
    ColumnElement,
    Connection,
    Delete,
    Dialect,
    FromClause,
    Insert,
    Select,
    Table,
    Text,
    bindparam,
    cast,
    delete,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import Grouping
from sqlalchemy.types import TypeEngine

IDS: Final = "ids"
CHUNK: Final = 1_000
"""Rows of one statement."""
_ids: Final = bindparam(IDS, type_=Text)

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
    PostgreSQL gets one statement with an array for each column: one for each row costs it nearly twice as much.
    """
    dialect = connection.dialect
    if dialect.name == "sqlite":
        text = _written(insert, dialect)
        for chunk in chunks(rows, CHUNK):
            connection.exec_driver_sql(text, chunk)
        return
    text = _written_in_arrays(insert, dialect)
    key_of = itemgetter(*_key_positions(insert.table))
    for chunk in chunks(rows, CHUNK):
        # It refuses to overwrite a row twice in one statement; SQLite's statements overwrite it in their order.
        last = {key_of(row): row for row in chunk}
        connection.exec_driver_sql(text, tuple(map(_array, zip(*last.values(), strict=True))))


def _array(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """What is the same in all rows is sent once: the driver needs a microsecond for each value."""
    return values[:1] if values.count(values[0]) == len(values) else values


@cache
def _written(insert: Insert, dialect: Dialect) -> str:
    columns = [column.name for column in insert.table.columns]
    compiled: Any = insert.compile(dialect=dialect, column_keys=columns)
    assert compiled.positiontup == columns, compiled.positiontup
    return str(compiled)


@cache
def _written_in_arrays(insert: Insert, dialect: Dialect) -> str:
    columns = list(insert.table.columns)
    names = [column.name for column in columns]
    arrays = [cast(bindparam(column.name), ARRAY(_plain(column))) for column in columns]
    rows = func.unnest(*arrays).table_valued(*names).render_derived("rows")
    # Of arrays of different lengths, the shorter ones end in NULL.
    first = [Grouping(array)[literal_column("1")] for array in arrays]
    values = list(map(func.coalesce, rows.c, first))
    compiled: Any = insert.from_select(columns, select(*values)).compile(dialect=dialect)
    assert compiled.positiontup == names, compiled.positiontup
    return str(compiled)


def _plain(column: ColumnElement[Any]) -> TypeEngine[Any]:
    """Its type: an array has no collation of its own."""
    return Text() if isinstance(column.type, Text) else column.type


@cache
def _key_positions(table: FromClause) -> tuple[int, ...]:
    return tuple(number for number, column in enumerate(table.columns) if column.primary_key)


def chunks(items: Iterable[T], number: int) -> Iterable[list[T]]:
    """The items in lists of at most `number`."""
    iterator = iter(items)
    while chunk := list(islice(iterator, number)):
        yield chunk


def named(wanted: Select[Any], column: ColumnElement[str], dialect: str) -> Select[Any]:
    """The rows of `wanted` whose `column` is one of those in the parameter `ids`, a single one: the statement is always
    the same. An index must begin with the columns that `wanted` tells of, and this one.

    PostgreSQL plans it once, for whatever comes, when it may know nothing of the table yet. Asked for any of a list, it
    may then compare all rows with all of the list; so it is told to look up each.
    """
    if dialect == "sqlite":
        return wanted.where(_one_of(column))
    listed = func.json_array_elements_text(cast(_ids, JSON)).table_valued("value").render_derived("listed")
    found = wanted.where(column == listed.c.value).offset(literal_column("0")).lateral("found")
    return select(found).select_from(listed.join(found, true()))


def delete_named(table: Table, condition: ColumnElement[bool], column: ColumnElement[str], dialect: str) -> Delete:
    """Delete what `named` finds. Nobody else may write to these rows meanwhile."""
    if dialect == "sqlite":
        return delete(table).where(condition, _one_of(column))
    place: ColumnElement[Any] = literal_column(f"{table.name}.ctid")
    found = named(select(place.label("place")).select_from(table).where(condition), column, dialect)
    return delete(table).where(place == func.any(func.array(found.scalar_subquery())))


def _one_of(column: ColumnElement[str]) -> ColumnElement[bool]:
    listed = func.json_each(_ids).table_valued("value")
    return column.in_(select(listed.c.value))


def ids(values: Iterable[str]) -> str:
    """What the parameter of `named` takes."""
    return msgspec.json.encode(list(values)).decode()


def contains(column: ColumnElement[bytes], needle: bytes, dialect: str) -> ColumnElement[bool]:
    """The bytes of `column` hold `needle` somewhere."""
    # Written plainly, PostgreSQL's wants another grammar.
    find = func.instr if dialect == "sqlite" else func.pg_catalog.position
    return find(column, needle) > 0

"""Statements that SQLite and PostgreSQL write differently. Built once: SQLAlchemy finds its compiled form by them."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import ARRAY, ColumnElement, Insert, Table, Text, bindparam, cast, func, select
from sqlalchemy.dialects import postgresql, sqlite

IDS = "ids"


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

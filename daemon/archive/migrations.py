"""Brings the schema of an archive up to the newest version, one step after another, in one transaction."""

import secrets
from collections.abc import Callable
from typing import Final, TypeAlias

from sqlalchemy import Connection, func, inspect, select, text

from reclaimd.daemon.archive.errors import ArchiveFailed, ArchiveMissing, ArchiveTooNew, ArchiveTooOld, Trouble
from reclaimd.daemon.archive.schema import events, meta, metadata

Step: TypeAlias = Callable[[Connection], None]

_LOCK: Final = 0x7265636C61696D64
"""For PostgreSQL's advisory lock: "reclaimd"."""


# PostgreSQL's own compression costs it as much as all the rest of keeping a batch. Not every server was built with lz4.
_HAS_LZ4: Final = text(
    "SELECT count(*) FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY(enumvals)"
)
_LZ4: Final = text(f"ALTER TABLE {events.name} ALTER COLUMN {events.c.e.name} SET COMPRESSION lz4")


def _first(connection: Connection) -> None:
    metadata.create_all(connection)
    if connection.dialect.name == "postgresql" and connection.scalar(_HAS_LZ4):
        connection.execute(_LZ4)


# Version n is what the first n steps make. A step never changes once it was released; when the tables change, the
# step that made their old form must say so itself instead of taking it from `schema`.
STEPS: tuple[Step, ...] = (_first,)


def migrate(connection: Connection, where: str, archive_id: str | None = None) -> str:
    """Make or change the tables so that this program can use them. Returns the archive's ID.

    Many may do so at once: the transaction that `connection` is in must hold SQLite's write lock. `archive_id`: of an
    archive that is made now. Raises ArchiveTooNew, before anything was written.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    version, known_id = _found(connection, where)
    _refuse_newer(version, where)
    if version == len(STEPS) and known_id:
        return known_id
    for step in STEPS[version:]:
        step(connection)
    known_id = known_id or archive_id or secrets.token_hex(16)
    _write(connection, "schema_version", str(len(STEPS)))
    _write(connection, "archive_id", known_id)
    return known_id


def check(connection: Connection, where: str, *, any_version: bool = False) -> str:
    """See that this program can read the tables; changes nothing. Returns the archive's ID.

    Raises ArchiveMissing, ArchiveTooNew, ArchiveTooOld; the last two not with `any_version`.
    """
    version, known_id = _found(connection, where)
    if not known_id:
        if connection.dialect.name == "postgresql" and connection.scalar(select(func.current_schema())) is None:
            # PostgreSQL hides what is in a schema from whoever may not use it.
            raise ArchiveFailed(Trouble.UNGRANTED, where, "no schema of its search_path can be used")
        if inspect(connection).get_table_names():
            raise ArchiveFailed(Trouble.NOT_ONE, where, "none of its tables is an archive's")
        raise ArchiveMissing(Trouble.BLANK, where)
    if any_version:
        return known_id
    _refuse_newer(version, where)
    if version < len(STEPS):
        raise ArchiveTooOld(Trouble.TOO_OLD, where, f"schema {version}, this program reads {len(STEPS)}")
    return known_id


def _refuse_newer(version: int, where: str) -> None:
    if version > len(STEPS):
        raise ArchiveTooNew(Trouble.TOO_NEW, where, f"schema {version}, this program knows {len(STEPS)}")


def _found(connection: Connection, where: str) -> tuple[int, str]:
    if not inspect(connection).has_table(meta.name):
        return 0, ""
    rows: dict[str, str] = dict(connection.execute(select(meta.c.key, meta.c.value)).all())
    version = rows.get("schema_version", "0")
    if not version.isdecimal():
        raise ArchiveFailed(Trouble.DAMAGED, where, f"its schema version is {version!r}")
    return int(version), rows.get("archive_id", "")


def _write(connection: Connection, key: str, value: str) -> None:
    if connection.execute(meta.update().where(meta.c.key == key).values(value=value)).rowcount == 0:
        connection.execute(meta.insert().values(key=key, value=value))

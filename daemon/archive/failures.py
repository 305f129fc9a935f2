"""What database drivers raise, as ArchiveFailed."""

import asyncio
import errno
import sqlite3
from typing import Final

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from reclaimd.daemon.archive.errors import ArchiveFailed, ArchiveUnreachable, Trouble
from reclaimd.daemon.databases import told


def failure(error: BaseException, url: URL, where: str, *, reading: bool = False) -> ArchiveFailed:
    """What a driver raised, as one line with a cure. `reading`: whoever only reads needs fewer rights."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    if isinstance(original, ArchiveFailed):
        return original
    cause = original.__cause__ or original.__context__ or original
    causes = (
        _of_sqlite(original),
        _of_postgresql(original),
        _of_postgresql(cause),
        _of_system(original),
        _of_system(cause),
    )
    otherwise = Trouble.UNREACHABLE if _is_broken(error) else Trouble.OTHER
    trouble = next((found for found in causes if found is not None), otherwise)
    if reading and trouble is Trouble.PERMISSION:
        trouble = Trouble.UNREADABLE if url.drivername.startswith("sqlite") else Trouble.UNGRANTED
    kind = ArchiveUnreachable if trouble in {Trouble.UNREACHABLE, Trouble.SLOW, Trouble.MISSING} else ArchiveFailed
    return kind(trouble, where, told(original, url))


_SQLITE: Final = {
    sqlite3.SQLITE_BUSY: Trouble.LOCKED,
    sqlite3.SQLITE_LOCKED: Trouble.LOCKED,
    sqlite3.SQLITE_FULL: Trouble.FULL,
    sqlite3.SQLITE_READONLY: Trouble.READ_ONLY,
    sqlite3.SQLITE_PERM: Trouble.PERMISSION,
    sqlite3.SQLITE_AUTH: Trouble.PERMISSION,
    sqlite3.SQLITE_CANTOPEN: Trouble.MISSING,
    sqlite3.SQLITE_CORRUPT: Trouble.DAMAGED,
    sqlite3.SQLITE_NOTADB: Trouble.NOT_ONE,
}


def _of_sqlite(error: BaseException) -> Trouble | None:
    if not isinstance(error, sqlite3.Error):
        return None
    code = getattr(error, "sqlite_errorcode", 0)
    if code == sqlite3.SQLITE_READONLY_DBMOVED or "no such table" in str(error):
        return Trouble.VANISHED
    return _SQLITE.get(code & 0xFF)


_STATES: Final = {
    "28P01": Trouble.PASSWORD,
    "28000": Trouble.PASSWORD,
    "3D000": Trouble.MISSING,
    "3F000": Trouble.PERMISSION,
    "42501": Trouble.PERMISSION,
    "42P01": Trouble.VANISHED,
    "53100": Trouble.FULL,
    "25006": Trouble.READ_ONLY,
    "55P03": Trouble.LOCKED,
    "57014": Trouble.SLOW,
    "25P03": Trouble.SLOW,
    "53300": Trouble.UNREACHABLE,
}
_CLASSES: Final = {"08": Trouble.UNREACHABLE, "57": Trouble.UNREACHABLE, "40": Trouble.LOCKED, "XX": Trouble.DAMAGED}


def _of_postgresql(error: BaseException) -> Trouble | None:
    state = getattr(error, "sqlstate", None)
    if not isinstance(state, str):
        # What asyncpg says of the URL before it asks the server.
        return Trouble.URL if type(error).__name__ == "ClientConfigurationError" else None
    return _STATES.get(state) or _CLASSES.get(state[:2])


def _of_system(error: BaseException) -> Trouble | None:
    match error:
        case asyncio.TimeoutError():
            return Trouble.SLOW
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return Trouble.FULL
        case PermissionError():
            return Trouble.PERMISSION
        case FileNotFoundError():
            return Trouble.MISSING
        case IsADirectoryError():
            return Trouble.NOT_ONE
        case OSError():
            return Trouble.UNREACHABLE
    return None


def _is_broken(error: BaseException) -> bool:
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return "connection is closed" in str(error) or "connection was closed" in str(error)

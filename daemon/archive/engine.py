"""Connections to the database of an archive, and what its errors mean.

SQLite: WAL with synchronous=NORMAL. A commit that has returned survives the death of the process (it is in the
operating system's hands); a loss of power may cost the last ones, never the database. The archive is then some marks
behind Redis, which is seen, and reads everything again.
"""

import asyncio
import errno
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import event, func, select
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from reclaimd.daemon.archive.errors import ArchiveFailed, ArchiveUnreachable, Trouble
from reclaimd.daemon.databases import told

CONNECT_SECONDS: Final = 5.0
STATEMENT_SECONDS: Final = 60.0
BUSY_MS: Final = 1_500
"""How long SQLite waits for another writer: below the time that a daemon has to stop."""
AGAIN_SECONDS: Final = 0.05
LINGER_SECONDS: Final = 1.5
_WAL_PAGES: Final = 8_000
_WAL_KEPT_BYTES: Final = 64 << 20
_CACHE_KIB: Final = 16_384
_STATEMENTS: Final = 200

_WRITES: Final = "reclaimd_writes"
_INDEX_ONLY: Final = select(
    *(func.set_config(f"enable_{way}", "off", True) for way in ("bitmapscan", "seqscan", "sort"))
)

P = ParamSpec("P")
T = TypeVar("T")


def to_the_end(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """What writes goes on to its end, for a while, when its caller is cancelled; then the caller is.

    SQLite's driver would go on anyway, in a thread that nobody waits for, with the lock that the next one needs.
    """

    @wraps(method)
    async def whole(*args: P.args, **kwargs: P.kwargs) -> T:
        writing = asyncio.ensure_future(method(*args, **kwargs))
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await asyncio.wait({writing}, timeout=LINGER_SECONDS)
            writing.cancel()
            raise

    return whole


class Database:
    """An engine and its transactions. Every method raises ArchiveFailed.

    `prepare` makes or checks the tables; it runs at `open`, and again when file or tables were found to be gone.
    """

    def __init__(self, url: URL, prepare: Callable[[Connection, str], None]) -> None:
        self.url = url
        self._prepare = prepare
        self._ready = False
        self._opening = anyio.Lock()
        self.where = url.render_as_string(hide_password=True).replace("+aiosqlite", "").replace("+asyncpg", "")
        self.path = Path(url.database or "") if url.drivername.startswith("sqlite") else None
        self._engine = self._sqlite() if self.path else self._postgresql()
        self._inode: tuple[int, int] | None = None
        # SQLite has one writer: waiting here is fair and costs nothing, its own waiting is sleeping and trying again.
        self._turn = anyio.Lock() if self.path else None

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return "sqlite" if self.path else "postgresql"

    async def open(self) -> None:
        """Connect, and see to the tables."""
        if not self._ready:
            async with self._opening:
                await self._open()

    async def _open(self) -> None:
        if self._ready:
            return
        self._inode = None
        await self.aclose()
        if self.path is not None:
            with self.translated():
                await anyio.to_thread.run_sync(_touch, self.path)
        await self._see_to_tables(time.monotonic() + CONNECT_SECONDS)
        if self.path is not None:
            self._inode = _inode(self.path)
        self._ready = True

    async def _see_to_tables(self, deadline: float) -> None:
        while True:
            try:
                async with self._write() as connection:
                    await connection.run_sync(self._prepare, self.where)
                return
            except ArchiveFailed as error:
                # Who turns a new file to WAL locks the others out at once, however long they would have waited.
                if error.trouble is not Trouble.LOCKED or time.monotonic() > deadline:
                    raise
            except (TypeError, ValueError) as error:
                # Drivers do not know a parameter of the URL, or its value.
                raise ArchiveFailed(Trouble.URL, self.where, told(error, self.url)) from None
            await anyio.sleep(AGAIN_SECONDS)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees one state of the database."""
        await self.open()
        # SQLite's reads are short. A connection that is cancelled in one is closed by a task that nobody waits for, and
        # which never ends once the event loop closes.
        with anyio.CancelScope(shield=self.path is not None), self.translated():
            self._still_there()
            async with self._engine.connect() as connection, connection.begin():
                yield connection

    @asynccontextmanager
    async def paging(self) -> AsyncIterator[AsyncConnection]:
        """As `reading`, for a page in the order of an index.

        PostgreSQL, while it knows little of a table that was just filled, would sort the whole of it for each page.
        """
        async with self.reading() as connection:
            if self.path is None:
                await connection.execute(_INDEX_ONLY)
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that may write; it is committed when the block ends without an error. See `to_the_end`."""
        await self.open()
        async with self._write() as connection:
            yield connection

    @asynccontextmanager
    async def _write(self) -> AsyncIterator[AsyncConnection]:
        with self.translated():
            if self._turn is None:
                async with self._engine.begin() as connection:
                    yield connection
                return
            async with self._turn:
                self._still_there()
                async with self._engine.connect() as plain:
                    connection = await plain.execution_options(**{_WRITES: True})
                    async with connection.begin():
                        yield connection

    async def aclose(self) -> None:
        """Close what is open. A connection that is broken is dropped."""
        with anyio.CancelScope(shield=True):
            await self._engine.dispose()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """What drivers raise, as ArchiveFailed."""
        try:
            yield
        except ArchiveFailed as error:
            self._note(error)
            raise
        except Exception as error:
            # Before a connection exists, SQLAlchemy lets through what asyncpg raises, which is a kind of its own.
            ours = isinstance(error, SQLAlchemyError | sqlite3.Error | OSError)
            if not ours and not type(error).__module__.startswith("asyncpg."):
                raise
            failed = failure(error, self.url, self.where)
            self._note(failed)
            raise failed from None

    def _note(self, failed: ArchiveFailed) -> None:
        if failed.trouble is Trouble.VANISHED:
            self._ready = False

    def _still_there(self) -> None:
        """SQLite writes on into a file that was deleted, and everything would be gone when it is closed."""
        if self.path is not None and self._inode is not None and _inode(self.path) != self._inode:
            raise ArchiveFailed(Trouble.VANISHED, self.where)

    def _sqlite(self) -> AsyncEngine:
        engine = create_async_engine(
            self.url,
            # The driver's own BEGIN comes too late and takes no lock; `_begin` below says it.
            connect_args={"isolation_level": None, "timeout": BUSY_MS / 1000, "cached_statements": _STATEMENTS},
            pool_size=3,
            max_overflow=5,
        )
        event.listen(engine.sync_engine, "connect", _set_up)
        event.listen(engine.sync_engine, "begin", _begin)
        return engine

    def _postgresql(self) -> AsyncEngine:
        try:
            return create_async_engine(
                self.url,
                connect_args={
                    "timeout": CONNECT_SECONDS,
                    "command_timeout": STATEMENT_SECONDS,
                    "server_settings": {"application_name": "reclaimd"},
                },
                pool_size=3,
                max_overflow=5,
                pool_timeout=CONNECT_SECONDS,
            )
        except ModuleNotFoundError:
            raise ArchiveFailed(Trouble.DRIVER, self.where) from None
        except (SQLAlchemyError, TypeError, ValueError) as error:
            raise ArchiveFailed(Trouble.URL, self.where, told(error, self.url)) from None


_PRAGMAS: Final = (
    # Before anything is written, or it is too late for this one.
    "auto_vacuum=INCREMENTAL",
    "journal_mode=WAL",
    "synchronous=NORMAL",
    "foreign_keys=ON",
    f"cache_size=-{_CACHE_KIB}",
    f"wal_autocheckpoint={_WAL_PAGES}",
    f"journal_size_limit={_WAL_KEPT_BYTES}",
)


def _set_up(connection: Any, _record: object) -> None:
    try:
        cursor = connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
    except BaseException:
        # Nobody else does, and its thread would outlive the event loop.
        connection.close()
        raise


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _touch(path: Path) -> None:
    """Tasks may hold what is not for everybody: a new file is its owner's alone.

    What cannot be opened is found out here: the driver would leave a thread that answers to a loop which is closed
    by then.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        return
    os.close(os.open(path, os.O_RDWR))


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def failure(error: BaseException, url: URL, where: str) -> ArchiveFailed:
    """What a driver raised, as one line with a cure."""
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

"""Connections to the database of an archive, and what its errors mean.

SQLite: WAL with synchronous=NORMAL. A commit that has returned survives the death of the process (it is in the
operating system's hands); a loss of power may cost the last ones, never the database. The archive is then some marks
behind Redis, which is seen, and reads everything again.
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar
from urllib.parse import parse_qsl

import anyio
import anyio.to_thread
from sqlalchemy import create_engine, event, func, select
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from reclaimd.daemon.archive import files
from reclaimd.daemon.archive.errors import ArchiveFailed, ArchiveMissing, Trouble
from reclaimd.daemon.archive.failures import failure
from reclaimd.daemon.archive.sessions import BACKEND, arguments, set_up_sessions
from reclaimd.daemon.archive.unblocking import unblocked
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


class Access(Enum):
    """What an archive is opened for. Only WRITE makes or changes anything, the file itself and its tables included.

    COPY: as READ, whatever version wrote it.
    """

    WRITE = "write"
    READ = "read"
    COPY = "copy"


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

    def __init__(self, url: URL, prepare: Callable[[Connection, str], None], access: Access = Access.WRITE) -> None:
        self.url = url
        self.access = access
        self._prepare = prepare
        self._ready = False
        self._opening = anyio.Lock()
        self.path = Path(url.database or "") if url.drivername.startswith("sqlite") else None
        plain = url.set(drivername="postgresql").render_as_string(hide_password=True)
        self.where = f"sqlite:///{self.path}" if self.path else plain
        self._rest: files.Rest | None = None
        self._engine = self._new_engine()
        self._direct = self._new_direct()
        self._identity: tuple[int, int] | None = None
        # SQLite has one writer: waiting here is fair and costs nothing, its own waiting is sleeping and trying again.
        self._turn = anyio.Lock() if self.path else None

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return "sqlite" if self.path else "postgresql"

    @property
    def name_to_read(self) -> str:
        """How SQLite opens the file to read it, once this is open."""
        return "" if self.path is None else files.read_only(self.path, self._rest)

    async def open(self) -> None:
        """Connect, and see to the tables."""
        if not self._ready:
            async with self._opening:
                await self._open()

    async def _open(self) -> None:
        if self._ready:
            return
        self._identity = None
        await self.aclose()
        if self.path is not None:
            with self.translated():
                await anyio.to_thread.run_sync(self._see_to_file, self.path)
        await self._see_to_tables(time.monotonic() + CONNECT_SECONDS)
        if self.path is not None:
            self._identity = files.identity(self.path)
        self._ready = True

    def _see_to_file(self, path: Path) -> None:
        if self.access is Access.WRITE:
            files.touch(path)
            return
        try:
            files.look(path)
        except FileNotFoundError:
            raise ArchiveMissing(Trouble.ABSENT, self.where) from None
        except PermissionError as error:
            raise ArchiveFailed(Trouble.UNREADABLE, self.where, error.strerror or str(error)) from None
        self._rest = files.at_rest(path)
        self._engine, self._direct = self._new_engine(), self._new_direct()

    async def _see_to_tables(self, deadline: float) -> None:
        while True:
            try:
                # As in `_read`.
                with anyio.CancelScope(shield=self.path is not None):
                    async with self._write() if self.access is Access.WRITE else self._read() as connection:
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
        await self._open_to_read()
        async with self._read() as connection:
            yield connection

    async def _open_to_read(self) -> None:
        if self.path is not None and self._rest is not None and files.at_rest(self.path) != self._rest:
            # Somebody has it open now, or had meanwhile.
            self._ready = False
        await self.open()

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Do `work` in a transaction that sees one state of the database: `reading`, for what is done often."""
        if self._direct is None:
            async with self.reading() as connection:
                return await connection.run_sync(work)
        await self._open_to_read()
        with anyio.CancelScope(shield=True), self.translated():
            self._still_there()
            found = await anyio.to_thread.run_sync(self._do, self._direct, work)
            self.must_rest()
        return found

    @asynccontextmanager
    async def paging(self) -> AsyncIterator[AsyncConnection]:
        """As `reading`, for a page in the order of an index."""
        async with self.reading() as connection:
            await connection.run_sync(by_index)
            yield connection

    @asynccontextmanager
    async def writing(self, queue: str = "") -> AsyncIterator[AsyncConnection]:
        """A transaction that may write; it is committed when the block ends without an error. See `to_the_end`.

        `queue`: whose rows, for the log.
        """
        assert self.access is Access.WRITE, "opened for reading"
        await self.open()
        async with self._write(queue) as connection:
            yield connection

    async def write(self, work: Callable[[Connection], T], queue: str = "") -> T:
        """Do `work` in a transaction that may write; it is committed when that returns. See `to_the_end`.

        For what is done often. SQLite gets it whole, in one thread: with `writing` each statement goes to the driver's
        thread and back, which costs more than the statement.
        """
        assert self.access is Access.WRITE, "opened for reading"
        await self.open()
        if self._turn is None or self._direct is None:
            async with self._write(queue) as connection:
                return await connection.run_sync(work)
        with self.translated():
            async with self._turn:
                self._still_there()
                return await anyio.to_thread.run_sync(self._do, self._direct.execution_options(**{_WRITES: True}), work)

    def _do(self, engine: Engine, work: Callable[[Connection], T]) -> T:
        with engine.begin() as connection:
            return work(connection)

    @asynccontextmanager
    async def _read(self) -> AsyncIterator[AsyncConnection]:
        # SQLite's reads are short. A connection that is cancelled in one is closed by a task that nobody waits for, and
        # which never ends once the event loop closes.
        with anyio.CancelScope(shield=self.path is not None), self.translated():
            self._still_there()
            async with self._engine.connect() as connection, connection.begin():
                yield connection
            self.must_rest()

    def must_rest(self) -> None:
        """What was read as a file that nobody writes to is worth nothing when somebody has. Raises ArchiveFailed."""
        if self.path is not None and self._rest is not None and files.state(self.path) != self._rest:
            raise ArchiveFailed(Trouble.LOCKED, self.where, "it was written to while it was read")

    @asynccontextmanager
    async def _write(self, queue: str = "") -> AsyncIterator[AsyncConnection]:
        with self.translated():
            if self._turn is None:
                async with self._engine.begin() as connection, unblocked(self, connection.info[BACKEND], queue):
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
            if self._direct is not None:
                # The last one to close it writes the log back into the file.
                await anyio.to_thread.run_sync(self._direct.dispose)

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
            failed = failure(error, self.url, self.where, reading=self.access is not Access.WRITE)
            self._note(failed)
            raise failed from None

    def _note(self, failed: ArchiveFailed) -> None:
        if failed.trouble is Trouble.VANISHED:
            self._ready = False

    def _still_there(self) -> None:
        """SQLite writes on into a file that was deleted, and everything would be gone when it is closed."""
        if self.path is not None and self._identity is not None and files.identity(self.path) != self._identity:
            raise ArchiveFailed(Trouble.VANISHED, self.where)

    def _new_engine(self) -> AsyncEngine:
        return self._postgresql() if self.path is None else self._sqlite(self.path)

    def _sqlite(self, path: Path) -> AsyncEngine:
        engine = create_async_engine(self._file(path), connect_args=_SQLITE, pool_size=3, max_overflow=5)
        self._listen(engine.sync_engine)
        return engine

    def _new_direct(self) -> Engine | None:
        """Connections for what is done whole in one thread; only SQLite needs them."""
        if self.path is None:
            return None
        engine = create_engine(
            self._file(self.path).set(drivername="sqlite"), connect_args=_SQLITE, pool_size=2, max_overflow=5
        )
        self._listen(engine)
        return engine

    def _file(self, path: Path) -> URL:
        if self.access is Access.WRITE:
            return self.url
        name, _, query = files.read_only(path, self._rest).partition("?")
        return self.url.set(database=name, query={**dict(parse_qsl(query)), "uri": "true"})

    def _listen(self, engine: Engine) -> None:
        event.listen(engine, "connect", _set_up if self.access is Access.WRITE else _set_up_for_reading)
        event.listen(engine, "begin", _begin)

    def _postgresql(self) -> AsyncEngine:
        try:
            engine = create_async_engine(
                self.url,
                connect_args=arguments(CONNECT_SECONDS, STATEMENT_SECONDS),
                pool_size=3,
                max_overflow=5,
                pool_timeout=CONNECT_SECONDS,
                execution_options={} if self.access is Access.WRITE else {"postgresql_readonly": True},
            )
        except ModuleNotFoundError:
            raise ArchiveFailed(Trouble.DRIVER, self.where) from None
        except (SQLAlchemyError, TypeError, ValueError) as error:
            raise ArchiveFailed(Trouble.URL, self.where, told(error, self.url)) from None
        set_up_sessions(engine.sync_engine, writes=self.access is Access.WRITE)
        return engine


# The driver's own BEGIN comes too late and takes no lock; `_begin` below says it.
_SQLITE: Final = {"isolation_level": None, "timeout": BUSY_MS / 1000, "cached_statements": _STATEMENTS}
_PRAGMAS: Final = (
    # Before anything is written, or it is too late for this one.
    "auto_vacuum=INCREMENTAL",
    "journal_mode=WAL",
    "synchronous=NORMAL",
    # Some builds overwrite what is deleted, and write out pages for nothing else.
    "secure_delete=OFF",
    f"cache_size=-{_CACHE_KIB}",
    f"wal_autocheckpoint={_WAL_PAGES}",
    f"journal_size_limit={_WAL_KEPT_BYTES}",
)


_PRAGMAS_FOR_READING: Final = ("query_only=ON", f"cache_size=-{_CACHE_KIB}")


def by_index(connection: Connection) -> None:
    """For pages in the order of an index, until the transaction ends.

    PostgreSQL, while it knows little of a table that was just filled, would sort the whole of it for each page.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_INDEX_ONLY)


def _set_up(connection: Any, _record: object) -> None:
    _say(connection, _PRAGMAS)


def _set_up_for_reading(connection: Any, _record: object) -> None:
    _say(connection, _PRAGMAS_FOR_READING)


def _say(connection: Any, pragmas: tuple[str, ...]) -> None:
    try:
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
    except BaseException:
        # Nobody else does, and its thread would outlive the event loop.
        connection.close()
        raise


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

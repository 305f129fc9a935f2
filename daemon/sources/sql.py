"""A source of kind sql: the rows that a query gives now, read-only, on a connection of its own."""

import asyncio
import threading
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiosqlite
import anyio
import anyio.to_thread
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from reclaimd.daemon.databases import read_url, told
from reclaimd.daemon.sources.errors import SourceFailed
from reclaimd.streams.addresses import database_url_problem
from reclaimd.streams.durations import format_duration

MOST_ROWS = 1_000_000
CLOSING_GRACE = 1.0
SQLITE_STEPS = 10_000
"""Instructions of SQLite's machine between two looks whether anybody still waits."""


class SqlReader:
    """Runs one query. `url`: the database, or else `url_file` holds it; `timeout`: seconds for all of it."""

    def __init__(self, query: str, *, url: str | None, url_file: str | None, timeout: float) -> None:
        self._query = query
        self._url = url
        self._url_file = url_file
        self._timeout = timeout

    async def rows(self) -> list[dict[str, Any]]:
        """One mapping a row, NULL left out, names of columns in lower case. Raises SourceFailed."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._ask(await self._where())
        except TimeoutError:
            seconds = format_duration(int(self._timeout * 1000))
            raise SourceFailed(f"no answer from the database within {seconds}: raise timeout, or look at it") from None

    async def _where(self) -> URL:
        text = self._url
        if self._url_file is not None:
            text = (await anyio.to_thread.run_sync(_url_in, Path(self._url_file), abandon_on_cancel=True)).strip()
        problem = database_url_problem(text or "")
        if problem is not None:
            raise SourceFailed(f"{self._url_file or 'url'}: {problem}")
        return _with_driver(text or "")

    async def _ask(self, url: URL) -> list[dict[str, Any]]:
        """Give up in time, whatever the driver does: the one of SQLite lets a query run to its end before it closes."""
        given_up = threading.Event()
        asking = asyncio.ensure_future(_run(url, self._query, given_up))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            given_up.set()
            asking.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait({asking}, timeout=CLOSING_GRACE)
            raise


async def _run(url: URL, query: str, given_up: threading.Event) -> list[dict[str, Any]]:
    engine = _engine(url)
    try:
        async with engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            if isinstance(driver, aiosqlite.Connection):
                await driver.set_progress_handler(given_up.is_set, SQLITE_STEPS)
            # Never parsed for parameters, so that a colon in it is a colon.
            result = await connection.exec_driver_sql(query)
            if not result.returns_rows:
                raise SourceFailed("the query gives no rows: write a SELECT")
            names = [str(name).lower() for name in result.keys()]  # noqa: SIM118  (a result is no dict)
            _no_name_twice(names)
            rows = result.fetchmany(MOST_ROWS + 1)
            if len(rows) > MOST_ROWS:
                raise SourceFailed(f"the query gives more than {MOST_ROWS} rows: split it into several sources")
            return [_row(names, row) for row in rows]
    except DBAPIError as error:
        raise SourceFailed(told(error.orig, url)) from None
    except OSError as error:
        raise SourceFailed(f"the database cannot be reached: {told(error, url)}") from None
    except (SQLAlchemyError, TypeError, ValueError) as error:
        # The last two come from drivers that do not know a parameter of the URL, or its value.
        raise SourceFailed(told(error, url)) from None
    finally:
        await engine.dispose()


def _url_in(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SourceFailed(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SourceFailed(f"{path} is not UTF-8 text: it must hold the URL, one line") from None


def _with_driver(text: str) -> URL:
    try:
        url = read_url(text)
    except ValueError as error:
        raise SourceFailed(str(error)) from None
    if not url.drivername.startswith("sqlite"):
        return url
    path = Path(url.database or "")
    try:
        path.open("rb").close()
    except OSError as error:
        raise SourceFailed(f"cannot read {path}: {error.strerror}") from None
    return URL.create("sqlite+aiosqlite", database=f"file:{quote(str(path))}", query={"mode": "ro", "uri": "true"})


def _engine(url: URL) -> AsyncEngine:
    """No pool: a poll is rare, and a connection that has been idle for minutes may be dead."""
    if url.drivername.startswith("sqlite"):
        return create_async_engine(url, poolclass=NullPool)
    try:
        engine = create_async_engine(
            url, poolclass=NullPool, connect_args={"server_settings": {"application_name": "reclaimd"}}
        )
    except ModuleNotFoundError:
        raise SourceFailed("PostgreSQL needs the package asyncpg: install reclaimd[postgresql]") from None
    return engine.execution_options(postgresql_readonly=True)


def _no_name_twice(names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SourceFailed(f"the query gives the column {twice[0]} twice: name each once")


def _row(names: list[str], values: Any) -> dict[str, Any]:
    return {name: _plain(value) for name, value in zip(names, values, strict=True) if value is not None}


def _plain(value: Any) -> Any:
    """What a column holds, as the plain form writes it: databases have types of their own for instants and spans."""
    match value:
        case bool() | int() | float() | str():
            return value
        case timedelta():
            return format_duration(max(0, round(value / timedelta(milliseconds=1))))
        case datetime() | date() | time():
            return value.isoformat()
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case bytes() | memoryview():
            return bytes(value).decode(errors="replace")
        case Mapping():
            return dict(value)
        case list():
            return value
    return str(value)

"""A copy of a SQLite archive that is whole, made while the daemon goes on."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from reclaimd.daemon.archive.engine import Database
from reclaimd.daemon.archive.errors import BackupRefused
from reclaimd.daemon.archive.failures import failure

PAGES: Final = 2_000
"""Copied in one step."""

Progress = Callable[[int, int], object]


def silent(_done: int, _total: int) -> None:
    """Nobody waits."""


class _Cancelled(Exception):
    pass


async def back_up(database: Database, path: Path, progress: Progress) -> int:
    """See `Store.backup`. The file appears under its name when it is whole."""
    await database.open()
    if database.path is None:
        raise BackupRefused(
            f"{database.where} is PostgreSQL: back it up with pg_dump --table='reclaimd_*', or your own way"
        )
    loop = asyncio.get_running_loop()
    given_up = threading.Event()

    def tell(_status: int, left: int, total: int) -> None:
        if given_up.is_set():
            raise _Cancelled
        loop.call_soon_threadsafe(progress, total - left, total)

    copying = asyncio.ensure_future(asyncio.to_thread(_copy, database.name_to_read, path, tell, database.must_rest))
    try:
        return await asyncio.shield(copying)
    except asyncio.CancelledError:
        given_up.set()
        with anyio.CancelScope(shield=True):
            await asyncio.wait({copying})
        raise
    except sqlite3.Error as error:
        raise failure(error, database.url, f"backup {path}") from None
    except OSError as error:
        raise BackupRefused(
            f"{path} cannot be written ({error.strerror}): name a file where this user may write and there is room"
        ) from None


def _copy(source: str, path: Path, tell: Callable[[int, int, int], None], check: Callable[[], None]) -> int:
    unfinished = path.with_name(path.name + ".unfinished")
    exists = f"{path} exists: a backup overwrites nothing, name another file"
    if path.exists():
        raise BackupRefused(exists)
    try:
        os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise BackupRefused(
            f"{unfinished} is in the way: wait for the backup that writes it, or delete it if that was killed"
        ) from None
    try:
        _fill(source, unfinished, tell)
        check()
        # Unlike a rename, a link refuses a name that was taken meanwhile.
        path.hardlink_to(unfinished)
    except FileExistsError:
        raise BackupRefused(exists) from None
    finally:
        unfinished.unlink()
    return path.stat().st_size


def _fill(source: str, target: Path, tell: Callable[[int, int, int], None]) -> None:
    reading = sqlite3.connect(source, isolation_level=None, uri=True)
    with closing(reading) as read, closing(sqlite3.connect(target)) as written:
        # One state of the archive, whatever is committed meanwhile: or each commit would let the copy begin anew.
        read.execute("BEGIN")
        read.execute("SELECT count(*) FROM sqlite_master").fetchone()
        written.execute("PRAGMA synchronous=OFF")
        read.backup(written, pages=PAGES, progress=tell, sleep=0)
    with target.open("rb+") as file:
        os.fsync(file.fileno())

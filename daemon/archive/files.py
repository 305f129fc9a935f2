"""The file of a SQLite archive: made for its owner alone, known again, and looked at without a trace.

A database in WAL mode has two files beside it while somebody has it open. Whoever opens it read-only when nobody does
would make those two, could not remove them, and a daemon of another user could not write to them. So a file that nobody
has open is read as one that cannot change, which makes nothing and needs no right to write; see
https://sqlite.org/wal.html#readonly. It is looked at again before and after each read.

No file that SQLite may have open is opened here: to close it would take away all locks that this process holds on it,
and whoever else closes it then would throw its log away; see https://sqlite.org/howtocorrupt.html on advisory locks.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote


class Rest(NamedTuple):
    """How a file is that nobody has open. It has changed when this has."""

    modified_ns: int
    size: int


def touch(path: Path) -> None:
    """Tasks may hold what is not for everybody: a new file is its owner's alone.

    What cannot be opened is found out here: the driver would leave a thread that answers to a loop which is closed
    by then.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        return
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    _may(path, os.R_OK | os.W_OK)


def look(path: Path) -> None:
    """Find out what cannot be read. Raises OSError."""
    path.stat()
    _may(path, os.R_OK)
    log = _beside(path, "-wal")
    if _size(log) and not _beside(path, "-shm").exists() and not os.access(path.parent, os.W_OK, effective_ids=True):
        raise PermissionError(f"{log} was left behind: only who may write to its folder can read it")


def _may(path: Path, mode: int) -> None:
    if not os.access(path, mode, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))


def identity(path: Path) -> tuple[int, int] | None:
    """Tells a file from another one that has taken its name; None when it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def at_rest(path: Path) -> Rest | None:
    """How the file is, or None when somebody may have it open or has left what is not in it yet."""
    log = _beside(path, "-wal")
    if _size(log) or (log.exists() and _beside(path, "-shm").exists()) or _beside(path, "-journal").exists():
        return None
    return state(path)


def state(path: Path) -> Rest | None:
    """How the file is, whoever has it open; None when it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Rest(found.st_mtime_ns, found.st_size)


def read_only(path: Path, rest: Rest | None) -> str:
    """The name by which SQLite opens a file for reading only."""
    return f"file:{quote(os.fspath(path))}?mode=ro{'&immutable=1' if rest is not None else ''}"


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

"""Ends sessions of daemons that stand still in PostgreSQL, where one of this daemon waits for what they have locked.

The server ends a transaction that waits for its client's next command (see `sessions`). It does not while it waits for
the rest of an exchange: whose process froze between the messages that prepare a statement and those that run it, or in
the middle of a row of them, keeps what it has locked for as long as the connection lives.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from reclaimd.daemon.archive.errors import ArchiveFailed
from reclaimd.daemon.archive.sessions import IDLE_MS, PROGRAM, arguments

if TYPE_CHECKING:
    from reclaimd.daemon.archive.engine import Database

LOOK_SECONDS: Final = 0.5
"""Between two looks. With the six seconds before a daemon claims what another holds, two must fit into ten."""
_ANSWER_SECONDS: Final = 2.0

# Who holds it may be hidden behind others who wait for it too. What another user's session does is hidden (NULL).
_HOLDERS: Final = text(
    """
    WITH RECURSIVE holding (pid) AS (
        SELECT unnest(pg_blocking_pids(:waiting)) UNION SELECT unnest(pg_blocking_pids(pid)) FROM holding
    )
    SELECT
        pid, state_change, usename, application_name,
        usename = current_user AND application_name = :program,
        wait_event_type = 'Client' AND state_change < clock_timestamp() - make_interval(secs => :silent)
    FROM holding JOIN pg_stat_activity USING (pid)
    """
)
_END: Final = text(
    """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid = :pid AND state_change = :since AND wait_event_type = 'Client'
    """
)

# Not structlog's: commands set up no logs, and it would print among their results.
log = logging.getLogger(__name__)


class _Holder(NamedTuple):
    """A session that holds a lock. `since`: when it last began to do something that its client asked for; `silent`:
    that is long ago, and it waits for its client.
    """

    pid: int
    since: datetime | None
    user: str
    program: str
    ours: bool
    silent: bool | None


@asynccontextmanager
async def unblocked(database: "Database", backend: int, queue: str) -> AsyncIterator[None]:
    """While the session with this process ID works for `queue`, nobody who stands still keeps it waiting."""
    done = asyncio.Event()
    watching = asyncio.create_task(_watch(database, backend, queue, done))
    try:
        yield
    finally:
        # Not cancelled: what it has ended just now is still to be told.
        done.set()
        await asyncio.wait({watching})


async def _watch(database: "Database", backend: int, queue: str, done: asyncio.Event) -> None:
    if await _within(LOOK_SECONDS, done):
        return
    # Not from the pool, all of whose connections may wait; in no transaction, where a second look would see the first.
    engine = create_async_engine(
        database.url,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args=arguments(_ANSWER_SECONDS, _ANSWER_SECONDS),
    )
    try:
        with database.translated():
            async with engine.connect() as connection:
                await _look_on(connection, backend, queue, done)
    except ArchiveFailed as error:
        log.warning("nobody can say who holds up the archive", extra={"queue": queue, "error": str(error)})


async def _within(seconds: float, done: asyncio.Event) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await done.wait()
    return done.is_set()


async def _look_on(connection: AsyncConnection, backend: int, queue: str, done: asyncio.Event) -> None:
    wanted = {"waiting": backend, "program": PROGRAM, "silent": IDLE_MS / 1000}
    before, told = set[_Holder](), set[int]()
    for looks in count(1):
        holders = {_Holder(*row) for row in await connection.execute(_HOLDERS, wanted)}
        for one in holders:
            # Once may be the moment between a long statement and the next of a daemon that is well.
            if one.ours and one.silent and one in before:
                await _end(connection, one, queue)
            elif not one.ours and one.pid not in told and looks * LOOK_SECONDS * 1000 >= IDLE_MS:
                told.add(one.pid)
                _tell(one, queue)
        before = holders
        if await _within(LOOK_SECONDS, done):
            return


def _tell(one: _Holder, queue: str) -> None:
    log.warning(
        "the archive waits for a lock of a session that is not ended from here: look who that is, and if nobody needs "
        "it, SELECT pg_terminate_backend(%d)",
        one.pid,
        extra={"queue": queue, "pid": one.pid, "user": one.user, "program": one.program},
    )


async def _end(connection: AsyncConnection, one: _Holder, queue: str) -> None:
    if await connection.scalar(_END, {"pid": one.pid, "since": one.since}):
        log.warning(
            "a daemon that stands still held up the archive: its session with PostgreSQL was ended",
            extra={"queue": queue, "pid": one.pid, "silent_since": str(one.since)},
        )

"""Sessions with PostgreSQL that lock what an archive writes to, and may fall silent in the middle of an exchange."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]

from reclaimd.daemon.archive.sessions import IDLE_MS, PROGRAM
from support.postgres import Postgres
from support.waiting import await_until

ROW: Final = "UPDATE reclaimd_partitions SET paused = paused WHERE queue = 'mail'"
_ACTIVE_AND_WAITS: Final = """
SELECT state = 'active' AND wait_event = 'ClientRead' AND extract(epoch FROM clock_timestamp() - state_change) > $2
FROM pg_stat_activity WHERE pid = $1
"""


class Holder:
    """One, with a transaction in which `held` was run. `pid`: of its session; `connection`: asyncpg's."""

    def __init__(self, connection: Any, watcher: Any) -> None:
        self.connection = connection
        self.pid: int = connection.get_server_pid()
        self._watcher = watcher

    async def begin_half(self, seconds: float = 0.0) -> None:
        """Send a statement and half of its values, and wait until the server has waited so long for the rest."""
        prepared = _message(b"P", b"half\0SELECT 1\0" + struct.pack("!h", 0))
        values = _message(b"B", b"\0half\0" + bytes(100))
        self.connection._transport.write(prepared + values[:50])
        what = "the server to wait for the rest of what was begun"
        await await_until(lambda: self._watcher.fetchval(_ACTIVE_AND_WAITS, self.pid, seconds), what)

    async def fall_silent(self) -> None:
        """The same for longer than a transaction may wait for its client: PostgreSQL does not end it."""
        await self.begin_half(IDLE_MS / 1000 + 0.5)

    async def wait_waiting(self) -> None:
        """Until it waits for a lock."""
        waits = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1"
        await await_until(lambda: self._watcher.fetchval(waits, self.pid), "it to wait for a lock")

    async def is_there(self) -> bool:
        """Whether its session lives."""
        return bool(await self._watcher.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", self.pid))


@asynccontextmanager
async def holder(
    postgres: Postgres, held: str = ROW, *, program: str = PROGRAM, **account: str
) -> AsyncIterator[Holder]:
    """A session with the same timeouts as those of a daemon. `held`: nothing when empty; `account`: as of `url`."""
    settings = {"application_name": program, "idle_in_transaction_session_timeout": str(IDLE_MS)}
    watcher = await asyncpg.connect(postgres.url())
    connection = await asyncpg.connect(postgres.url(**account), server_settings=settings)
    try:
        await connection.execute(f"BEGIN; {held}")
        yield Holder(connection, watcher)
    finally:
        connection.terminate()
        await asyncio.wait_for(watcher.close(), 5)


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body

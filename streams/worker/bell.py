"""The doorbell: an idle worker waits in BLPOP, on a connection of its own, for any of its queues to ring.

A blocking XREADGROUP would feed frozen readers (docs/protocol.md "The doorbell"); an element popped by one that dies
is a lost ring, which costs a second and never a task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio
import redis

from reclaimd.streams import redis_log, scripts
from reclaimd.streams.producer import close_quietly
from reclaimd.streams.worker.shift import Shift

WAIT_S = 4
RETRY_S = 0.5


class Doorbell:
    """Sets `ready` on the shift that rang and calls `wake`. Listens only while the worker has room for a task."""

    def __init__(
        self, url: str, shifts: Sequence[Shift], wake: Callable[[], None], has_room: Callable[[], bool]
    ) -> None:
        self._url = url
        self._shifts = {shift.bell: shift for shift in shifts}
        self._wake = wake
        self._has_room = has_room
        self._wanted = anyio.Event()
        self._client: redis_log.AsyncClient | None = None

    def listen(self) -> None:
        """There is room: wait for one ring, if not waiting already."""
        self._wanted.set()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await self._wanted.wait()
                await self._wait_for_ring()
                self._wanted = anyio.Event()
                self._wake()
        finally:
            await self._drop()

    async def _wait_for_ring(self) -> None:
        if self._client is None:
            self._client = redis_log.connect(self._url, reply_timeout=WAIT_S + redis_log.REPLY_TIMEOUT)
        try:
            reply: list[bytes] | None = await self._client.blpop(  # type: ignore[assignment]
                list(self._shifts), timeout=WAIT_S
            )
            rung = [self._shifts[reply[0]]] if reply else []
            if rung and not self._has_room():
                # Rung while this worker filled up or was told to stop: somebody else is to hear it.
                await redis_log.send(self._client, scripts.ring(rung[0].partition))
        except (redis.RedisError, OSError):
            # The turn loop reports that Redis is away; here only the waiting goes on elsewhere.
            await self._drop()
            await anyio.sleep(RETRY_S)
            rung = []
        for shift in rung or self._shifts.values():
            shift.ready = True

    async def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with anyio.CancelScope(shield=True):
                await close_quietly(client)

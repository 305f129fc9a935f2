"""The daemon's connections to Redis: few, each used by one caller at a time, and never used again after an error.

A cancelled call leaves a reply on its way; the next reader of that connection would take it for its own. redis-py's own
pools can also lose a connection for ever when a scope is cancelled. So a connection that saw an error or a cancellation
is closed, here, under a shield, and a new one is opened when the next call needs it.
"""

import time
from collections.abc import Awaitable, Callable
from copy import copy
from typing import Protocol, TypeVar

import anyio
import redis

from reclaimd.daemon.connectivity import Connectivity, is_server_wide
from reclaimd.streams import redis_log
from reclaimd.streams.errors import RedisUnreachable, RedisUnusable
from reclaimd.streams.logs import get_logger
from reclaimd.streams.redis_log import AsyncClient
from reclaimd.streams.scripts import Call

T = TypeVar("T")
Ask = Callable[[AsyncClient], Awaitable[T]]

AT_ONCE = 8
CLOSING_GRACE = 0.5

log = get_logger(__name__)


class Send(Protocol):
    """Sends one script call. Raises the errors of `streams.errors`, or redis.ResponseError for a server's refusal."""

    async def __call__(self, call: Call[T], /) -> T: ...


class Link:
    """One connection, for one caller at a time. `reply_timeout`: seconds, more than any blocking read that it serves.

    While Redis is down `use` raises what took it down, at once; `probes` says that this link is the one to find out.
    """

    def __init__(
        self,
        url: str,
        connectivity: Connectivity,
        *,
        reply_timeout: float = redis_log.REPLY_TIMEOUT,
        probes: bool = False,
    ) -> None:
        self._url = url
        self._connectivity = connectivity
        self._reply_timeout = reply_timeout
        self._probes = probes
        self._client: AsyncClient | None = None

    async def use(self, ask: Ask[T]) -> T:
        """Ask something that may be asked twice, as it is when the server had closed the idle connection."""
        down = self._connectivity.error
        if down is not None and not self._probes:
            raise copy(down)
        used_before = self._client is not None
        try:
            try:
                return await self._once(ask)
            except RedisUnreachable as error:
                if not used_before or isinstance(error.__cause__, redis.TimeoutError):
                    raise
                return await self._once(ask)
        except (RedisUnreachable, RedisUnusable) as error:
            if is_server_wide(error):
                self._connectivity.lost(error)
            raise

    async def aclose(self) -> None:
        """Close the connection, cancelled or not, within half a second."""
        client, self._client = self._client, None
        if client is not None:
            await _close(client)

    async def _once(self, ask: Ask[T]) -> T:
        client, self._client = self._client, None
        if client is None:
            client = redis_log.connect(self._url, reply_timeout=self._reply_timeout)
        in_step = False
        try:
            with redis_log.translated(self._url):
                reply = await ask(client)
            in_step = True
            return reply
        except redis.ResponseError:
            # The server refused; question and answer still belong together.
            in_step = True
            raise
        finally:
            if in_step:
                self._client = client
            else:
                await _close(client)


class Links:
    """Links that are borrowed for one call each, at most `AT_ONCE` at a time; an idle daemon needs one.

    `on_round_trip(script name, seconds)` is told of every script call that was answered.
    """

    def __init__(
        self, url: str, connectivity: Connectivity, *, on_round_trip: Callable[[str, float], None] | None = None
    ) -> None:
        self._url = url
        self._connectivity = connectivity
        self._on_round_trip = on_round_trip
        self._idle: list[Link] = []
        self._places = anyio.Semaphore(AT_ONCE, fast_acquire=True)

    async def send(self, call: Call[T]) -> T:
        """Run a script."""

        async def ask(client: AsyncClient) -> T:
            sent = time.perf_counter()
            reply = await redis_log.send(client, call)
            if self._on_round_trip is not None:
                self._on_round_trip(call.script.name, time.perf_counter() - sent)
            return reply

        return await self.use(ask)

    async def use(self, ask: Ask[T]) -> T:
        """Ask on whatever connection is free."""
        async with self._places:
            link = self._idle.pop() if self._idle else Link(self._url, self._connectivity)
            try:
                return await link.use(ask)
            finally:
                self._idle.append(link)

    async def aclose(self) -> None:
        """Close what is idle."""
        while self._idle:
            await self._idle.pop().aclose()


async def _close(client: AsyncClient) -> None:
    with anyio.move_on_after(CLOSING_GRACE, shield=True):
        try:
            await client.aclose()
        except (redis.RedisError, OSError) as error:
            log.debug("a broken connection was closed", error=str(error))

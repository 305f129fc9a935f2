"""The connection that inspections read through: one command at a time, the client library's errors made ours."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import redis

from reclaimd.daemon.view import PartitionView, decode_view
from reclaimd.streams import scripts
from reclaimd.streams.errors import ReclaimdError, RedisUnreachable, RedisUnusable, Unusable
from reclaimd.streams.keys import Partition, queues_key
from reclaimd.streams.redis_log import REPLY_TIMEOUT, AsyncClient, connect, send, translated
from reclaimd.streams.scripts import Call
from reclaimd.streams.settings import Settings

T = TypeVar("T")

LONG_REPLY_TIMEOUT = 120.0
"""Seconds."""

_ABSENT = ("NOGROUP", "no such key")


class UnknownQueue(ReclaimdError):
    """A queue that nobody has used yet. `queue`: what was asked for; `known`: the queues that there are."""

    def __init__(self, queue: str, known: list[str]) -> None:
        super().__init__(queue, known)
        self.queue = queue
        self.known = known

    def __str__(self) -> str:
        names = ", ".join(self.known[:10]) + (", …" if len(self.known) > 10 else "")
        cure = f"choose one of {names}" if self.known else "enqueue a task first, or check --namespace"
        return f"there is no queue {self.queue!r}: {cure}"


class CommandRefused(ReclaimdError):
    """Redis refused a command for a reason of its own, mostly a key of another type. `detail`: its words."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def __str__(self) -> str:
        return f"Redis refused a command ({self.detail}): see whether another program writes keys of this namespace"


class Source:
    """One connection and one namespace. Methods raise RedisUnreachable, RedisUnusable, RedisFull, CommandRefused."""

    def __init__(self, client: AsyncClient, url: str, namespace: str) -> None:
        self._client = client
        self._url = url
        self._namespace = namespace

    @property
    def namespace(self) -> str:
        """The namespace."""
        return self._namespace

    async def use(self, work: Callable[[AsyncClient], Awaitable[T]]) -> T:
        """Do several commands, of which one may take as long as reading a million schedules does."""
        async with _told(self._url, LONG_REPLY_TIMEOUT):
            return await work(self._client)

    def partition(self, queue: str) -> Partition:
        """The partition of a queue."""
        return Partition(self._namespace, queue)

    async def queues(self, chosen: str | None = None) -> list[str]:
        """All queues, sorted; or only the chosen one. Raises UnknownQueue."""
        [members] = await self.read(lambda pipe: pipe.smembers(queues_key(self._namespace)))
        known = sorted(member.decode(errors="replace") for member in members)
        if chosen is None:
            return known
        if chosen not in known:
            raise UnknownQueue(chosen, known)
        return [chosen]

    async def send(self, call: Call[T]) -> T:
        """Run a script."""
        async with _told(self._url):
            return await send(self._client, call)

    async def view(self, queue: str) -> PartitionView:
        """The queue's numbers; advances its lease time."""
        return decode_view(queue, 0, await self.send(scripts.view(self.partition(queue))))

    async def read(self, build: Callable[[Any], object], *, atomic: bool = False) -> list[Any]:
        """Run the commands that `build` puts on a pipeline, in one round trip.

        The reply of a command whose key or group is absent is None. `atomic`: nothing happens in between.
        """
        pipeline = self._client.pipeline(transaction=atomic)
        build(pipeline)
        async with _told(self._url):
            replies = await pipeline.execute(raise_on_error=False)
            return [_present(reply) for reply in replies]

    async def absence(self) -> RedisUnreachable | RedisUnusable | None:
        """Why the server is no use now, if waiting can help. Raises RedisUnusable where it cannot."""
        try:
            await self.check()
        except RedisUnreachable as error:
            return error
        except RedisUnusable as error:
            if not error.reason.waiting_helps:
                raise
            return error
        return None

    async def check(self) -> None:
        """Raise RedisUnusable when the server lacks what every command needs."""
        async with _told(self._url):
            try:
                await self._client.execute_command("XAUTOCLAIM")  # type: ignore[no-untyped-call]
            except redis.ResponseError as error:
                if "unknown command" in str(error).lower():
                    raise RedisUnusable(Unusable.TOO_OLD, "it does not know XAUTOCLAIM") from None
                if not str(error).lower().startswith("wrong number of arguments"):
                    raise


@asynccontextmanager
async def _told(url: str, patience: float = REPLY_TIMEOUT) -> AsyncIterator[None]:
    # The client library's own timeout is asyncio.wait_for, which can swallow the cancellation that Ctrl-C is, before
    # Python 3.12 (cpython#86296).
    try:
        with translated(url):
            async with asyncio.timeout(patience):
                yield
    except redis.ResponseError as error:
        raise CommandRefused(" ".join(str(error).split())[:200]) from error


def _present(reply: Any) -> Any:
    if isinstance(reply, redis.ResponseError) and any(mark in str(reply) for mark in _ABSENT):
        return None
    if isinstance(reply, Exception):
        raise reply
    return reply


@asynccontextmanager
async def open_source(settings: Settings, *, check: bool = True) -> AsyncIterator[Source]:
    """Connect, see that the server is fit if `check`, and close in the end."""
    client = connect(settings.redis_url, reply_timeout=None)
    try:
        source = Source(client, settings.redis_url, settings.namespace)
        if check:
            await source.check()
        yield source
    finally:
        await client.aclose()

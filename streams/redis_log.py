"""Connections to Redis and the sending of script calls: the only place where the client library's defaults are
overruled.

redis-py retries writes ten times and times out blocking reads by default; neither is safe for streams. Here nothing is
retried below us, each reader has a connection of its own, and the library's errors become ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from reclaimd.streams.addresses import redacted
from reclaimd.streams.errors import (
    LayoutMismatch,
    PartitionFrozen,
    ReclaimdError,
    RedisFull,
    RedisUnreachable,
    RedisUnusable,
    Unusable,
)
from reclaimd.streams.lua_source import load_script
from reclaimd.streams.scripts import ALL_SCRIPTS, Call

T = TypeVar("T")

CONNECT_TIMEOUT = 3.0
REPLY_TIMEOUT = 5.0

AsyncClient = redis.asyncio.Redis
SyncClient = redis.Redis


def connect(url: str, *, reply_timeout: float | None = REPLY_TIMEOUT, single: bool = True) -> AsyncClient:
    """An asyncio client. `single`: one connection, for a caller that sends one command at a time. Does no IO yet.

    `reply_timeout`: seconds; None for a caller that has a timeout of its own around each call.
    """
    return redis.asyncio.Redis.from_url(
        url,
        single_connection_client=single,
        socket_connect_timeout=CONNECT_TIMEOUT,
        socket_timeout=reply_timeout,
        retry=AsyncRetry(NoBackoff(), 0),
        legacy_responses=False,
        health_check_interval=0,
    )


def connect_sync(
    url: str,
    *,
    reply_timeout: float = REPLY_TIMEOUT,
    connect_timeout: float = CONNECT_TIMEOUT,
) -> SyncClient:
    """The same for threads and programs without asyncio."""
    return redis.Redis.from_url(
        url,
        single_connection_client=False,
        socket_connect_timeout=connect_timeout,
        socket_timeout=reply_timeout,
        retry=Retry(NoBackoff(), 0),
        legacy_responses=False,
        health_check_interval=0,
    )


_UNUSABLE = (
    ("READONLY", Unusable.READ_ONLY),
    ("LOADING", Unusable.LOADING),
    ("CLUSTERDOWN", Unusable.CLUSTER_DOWN),
    ("MISCONF", Unusable.CANNOT_SAVE),
    ("NOREPLICAS", Unusable.NO_REPLICAS),
    ("Not enough good replicas", Unusable.NO_REPLICAS),
    ("Redis is busy running a script", Unusable.BUSY),
    ("WRONGPASS", Unusable.PASSWORD),
    ("NOAUTH", Unusable.PASSWORD),
    ("NOPERM", Unusable.PERMISSION),
    ("invalid username-password", Unusable.PASSWORD),
    ("invalid password", Unusable.PASSWORD),
    ("has no permissions to", Unusable.PERMISSION),
    ("can't run this command or subcommand", Unusable.PERMISSION),
    ("can't access at least one of the keys", Unusable.PERMISSION),
    ("unknown command", Unusable.TOO_OLD),
)

# The client turns some errors into classes of its own and takes the server's word off their text.
_UNUSABLE_CLASSES: tuple[tuple[type[redis.RedisError], Unusable], ...] = (
    (redis.AuthenticationError, Unusable.PASSWORD),
    (redis.exceptions.NoPermissionError, Unusable.PERMISSION),
    (redis.ReadOnlyError, Unusable.READ_ONLY),
    (redis.BusyLoadingError, Unusable.LOADING),
    (redis.exceptions.ClusterDownError, Unusable.CLUSTER_DOWN),
)


def translate(error: redis.RedisError | OSError, url: str) -> ReclaimdError | None:
    """Our error for one of the client library's; None when it is not about the server's state but a bug to be seen."""
    text = str(error)
    for kind, reason in _UNUSABLE_CLASSES:
        if isinstance(error, kind):
            return RedisUnusable(reason, text)
    if "RECLAIMD_LAYOUT" in text:
        words = text.replace(",", "").split()
        return LayoutMismatch(words[words.index("layout") + 1], words[-1])
    if "RECLAIMD_STATE" in text:
        words = text.split()
        return PartitionFrozen(words[words.index("queue") + 1], words[-1])
    if isinstance(error, redis.OutOfMemoryError) or text.startswith("OOM ") or "-OOM" in text or " OOM " in text:
        return RedisFull()
    for mark, reason in _UNUSABLE:
        if mark in text:
            return RedisUnusable(reason, text)
    if isinstance(error, redis.InvalidResponse):
        return RedisUnusable(Unusable.NOT_REDIS, text)
    if isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError):
        return RedisUnreachable(redacted(url), text or type(error).__name__)
    return None


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Raises our errors for the client library's inside the block."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        ours = translate(error, url)
        if ours is None:
            raise
        raise ours from error


def _execute(client: AsyncClient | SyncClient, command: str, script: str, call: Call[T]) -> Any:
    """The reply, or for an asyncio client an awaitable of it; redis-py has no types for this method."""
    return client.execute_command(command, script, len(call.keys), *call.keys, *call.args)


async def send(client: AsyncClient, call: Call[T]) -> T:
    """Run a script. On a server that does not know it yet, sends its text: NOSCRIPT means that nothing ran."""
    script = call.script
    try:
        reply = await _execute(client, "EVALSHA", script.sha, call)
    except redis.exceptions.NoScriptError:
        reply = await _execute(client, "EVAL", script.source, call)
    return call.parse(reply)


def send_sync(client: SyncClient, call: Call[T]) -> T:
    """The same for a sync client."""
    script = call.script
    try:
        reply = _execute(client, "EVALSHA", script.sha, call)
    except redis.exceptions.NoScriptError:
        reply = _execute(client, "EVAL", script.source, call)
    return call.parse(reply)


def send_all_sync(client: SyncClient, calls: list[Call[T]]) -> list[T]:
    """Several calls in one round trip, not atomically; the scripts are loaded first if the server lost them."""
    pipeline = client.pipeline(transaction=False)
    for call in calls:
        _execute(pipeline, "EVALSHA", call.script.sha, call)
    replies = pipeline.execute(raise_on_error=False)
    results: list[T] = []
    for call, reply in zip(calls, replies, strict=True):
        if isinstance(reply, redis.exceptions.NoScriptError):
            results.append(send_sync(client, call))
        elif isinstance(reply, Exception):
            raise reply
        else:
            results.append(call.parse(reply))
    return results


async def load_scripts(client: AsyncClient) -> None:
    """Make the server know all scripts, in one round trip."""
    pipeline = client.pipeline(transaction=False)
    for name in ALL_SCRIPTS:
        pipeline.script_load(load_script(name).source)
    await pipeline.execute()

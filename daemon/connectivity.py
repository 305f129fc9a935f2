"""Whether Redis can be used, shared by all loops: one log line when it changes, one prober instead of many."""

import time

import anyio

from reclaimd.streams.errors import RedisUnreachable, RedisUnusable, Unusable
from reclaimd.streams.logs import get_logger

# What is true of the whole server, not of one queue: asking again for each queue would only add to its trouble.
_SERVER_WIDE = frozenset({Unusable.READ_ONLY, Unusable.LOADING, Unusable.CLUSTER_DOWN, Unusable.PASSWORD})

log = get_logger(__name__)


def is_server_wide(error: BaseException) -> bool:
    """Whether the error says that Redis itself is away or unusable, so that every loop has to wait for it."""
    if isinstance(error, RedisUnusable):
        return error.reason in _SERVER_WIDE
    return isinstance(error, RedisUnreachable)


class Connectivity:
    """Whether Redis can be used, as far as the last call knew."""

    def __init__(self) -> None:
        self._error: Exception | None = None
        self._lost_at = 0.0
        self._up = anyio.Event()
        self._up.set()
        self._down = anyio.Event()

    @property
    def error(self) -> Exception | None:
        """Why Redis cannot be used; None while it can."""
        return self._error

    def lost(self, error: Exception) -> None:
        """A call found Redis away or unusable."""
        if self._error is None:
            self._lost_at = time.monotonic()
            self._up = anyio.Event()
            self._down.set()
        if self._error is None or _kind(error) != _kind(self._error):
            log.warning("redis unavailable", error=str(error))
        self._error = error

    def found(self) -> None:
        """Redis answers and can be used."""
        if self._error is not None:
            self._error = None
            self._down = anyio.Event()
            self._up.set()
            log.info("redis available", after_seconds=round(time.monotonic() - self._lost_at, 3))

    async def until_up(self) -> None:
        """Wait until Redis can be used; returns at once when it can."""
        await self._up.wait()

    async def until_down(self) -> None:
        """Wait until a call finds that Redis cannot be used."""
        await self._down.wait()


def _kind(error: Exception) -> tuple[type[Exception], object]:
    return type(error), error.reason if isinstance(error, RedisUnusable) else None

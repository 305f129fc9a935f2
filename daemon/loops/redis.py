"""The loop that finds out whether Redis can be used, so that the others need not all try."""

import anyio
import redis

from reclaimd.daemon.links import Link
from reclaimd.daemon.loops.shell import LONGEST_WAIT, Context
from reclaimd.daemon.server_check import check_server
from reclaimd.streams.errors import ReclaimdError

NAME = "redis"
FIRST_RETRY = 0.05
LONGEST_RETRY = 1.0
PROBE_TIMEOUT = 1.5


class RedisLoop:
    """Probes while Redis is down, and waits for the next trouble while it is up, without a command."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._link = Link(context.settings.redis_url, context.connectivity, reply_timeout=PROBE_TIMEOUT, probes=True)
        self._retry = FIRST_RETRY
        context.health.expect(NAME)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            pause = await self.step()
            await anyio.sleep(pause)

    async def step(self) -> float:
        """Wait a while for trouble, or probe. Returns the seconds until the next step."""
        connectivity = self._context.connectivity
        if connectivity.error is None:
            with anyio.move_on_after(LONGEST_WAIT):
                await connectivity.until_down()
        if connectivity.error is None:
            self._context.health.progress(NAME)
            return 0.0
        return 0.0 if await self.probe() else self.next_retry()

    async def probe(self) -> bool:
        """Whether Redis can be used now; if not, `connectivity.error` says why."""
        connectivity = self._context.connectivity
        try:
            await self._link.use(lambda client: check_server(client, self._context.settings.namespace))
        except (ReclaimdError, redis.RedisError) as error:
            connectivity.lost(error)
            self._context.health.failed(NAME, "", error)
            return False
        finally:
            # The next trouble may be months away.
            await self._link.aclose()
        self._retry = FIRST_RETRY
        connectivity.found()
        self._context.health.ok(NAME)
        return True

    def next_retry(self) -> float:
        """Seconds to wait before the next probe: more each time, up to a second."""
        pause, self._retry = self._retry, min(self._retry * 2, LONGEST_RETRY)
        return pause

"""A producer and a worker that never rest, whatever becomes of the data under them."""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator

import redis

from reclaimd.streams import codec, scripts
from reclaimd.streams.errors import ReclaimdError
from reclaimd.streams.keys import Partition
from reclaimd.streams.redis_log import connect_sync, send_sync

_LEASE_MS = 60_000
_PACE = 0.002


class Traffic:
    """`settled`: IDs of tasks that the server said are. `starts`: (monotonic seconds, task ID) of each delivery."""

    def __init__(self, url: str, partition: Partition) -> None:
        self.settled: set[str] = set()
        self.starts: list[tuple[float, str]] = []
        self._url = url
        self._partition = partition
        self._ended = threading.Event()
        self._client = connect_sync(url)
        self._worker = self._token = ""
        self._threads = [
            threading.Thread(target=self._go_on, args=(step,), daemon=True) for step in (self._produce, self._work)
        ]

    def begin(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """End both, and wait for them."""
        self._ended.set()
        for thread in self._threads:
            thread.join(10)
        self._client.close()

    def _go_on(self, step: Callable[[], None]) -> None:
        while not self._ended.is_set():
            # A server that is away, a frozen queue: what every producer and worker meets in a loss, and outlives.
            with contextlib.suppress(ReclaimdError, redis.RedisError):
                step()
            time.sleep(_PACE)

    def _produce(self) -> None:
        task = scripts.NewTask(f"traffic-{secrets.token_hex(6)}", "normal", 5, b"{}")
        send_sync(self._client, scripts.enqueue(self._partition, [task], epoch_id=secrets.token_hex(8)))

    def _work(self) -> None:
        if not self._token:
            # Older data may have another life of it, which nobody can prove dead.
            self._worker = f"worker-{secrets.token_hex(4)}"
            who = scripts.Identity(self._worker, secrets.token_hex(8), _LEASE_MS, "{}")
            self._token = send_sync(self._client, scripts.join(self._partition, who, epoch_id="epoch")).token
        asked = time.monotonic()
        turned = self._turn(scripts.Turn(10, True))
        if turned.status != "ok":
            self._token = ""
            return
        self.starts += [(asked, one.task_id) for one in turned.deliveries]
        done = [codec.settle(one, "succeeded", run_ms=1, name="n") for one in turned.deliveries]
        if done and (told := self._turn(scripts.Turn(0, False, done))).status == "ok" and not told.stale:
            self.settled |= {one.task_id for one in turned.deliveries}

    def _turn(self, turn: scripts.Turn) -> scripts.Turned:
        return send_sync(self._client, scripts.turn(self._partition, self._worker, self._token, turn))


@contextlib.contextmanager
def traffic(url: str, partition: Partition) -> Iterator[Traffic]:
    """Traffic while the block runs."""
    going = Traffic(url, partition)
    going.begin()
    try:
        yield going
    finally:
        going.end()

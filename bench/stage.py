"""What every case works with: a server, sizes, and data made in bulk by the server itself."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import redis

from reclaimd.streams import redis_log, scripts
from reclaimd.streams.enqueueing import new_task_id
from reclaimd.streams.keys import Partition, queues_key
from reclaimd.streams.scripts import Identity, NewTask
from support.servers import Server

HERE = Path(__file__).resolve().parent
BODY = b'{"v":1,"name":"noop","args":{}}'
LANE = "lane:normal"
LONG_LEASE_MS = 24 * 3600 * 1000
FILL_AT_ONCE = 10_000


@dataclass(slots=True)
class Stage:
    """A server of its own for one case. `runs`: None for the case's default; `say`: progress for people."""

    server: Server
    client: redis.Redis
    folder: Path
    runs: int | None
    quick: bool
    say: Callable[[str], None]

    def times(self, default: int) -> int:
        """How often to measure."""
        if self.quick:
            return 1
        return self.runs or default

    def rounds(self, what: str, default: int = 5) -> Iterator[int]:
        """Numbers of the runs, each announced."""
        total = self.times(default)
        for number in range(total):
            self.say(f"{what}: run {number + 1} of {total}")
            yield number

    def size(self, full: int, small: int) -> int:
        """`small` with --quick."""
        return small if self.quick else full

    def partition(self, queue: str = "bench") -> Partition:
        """A new one, in a namespace that nothing else uses, with its epoch begun."""
        partition = Partition(f"b{secrets.token_hex(4)}", queue)
        self.client.sadd(queues_key(partition.namespace), queue)
        return partition

    def clear(self) -> None:
        """Empty the server."""
        self.client.flushall()

    def run_script(self, name: str, keys: Sequence[str], *args: Any) -> Any:
        """Run bench/lua/<name>.lua."""
        return self.client.eval(lua(name), len(keys), *keys, *args)


@cache
def lua(name: str) -> str:
    """The text of a script of the bench's own."""
    return (HERE / "lua" / f"{name}.lua").read_text("utf-8")


@contextmanager
def stopwatch() -> Iterator[list[float]]:
    """Seconds, in the list when the block ends."""
    spent: list[float] = []
    begun = time.perf_counter()
    yield spent
    spent.append(time.perf_counter() - begun)


def new_tasks(count: int) -> list[NewTask]:
    """No-op tasks."""
    return [NewTask(new_task_id(), "normal", 5, BODY) for _ in range(count)]


def enqueue(stage: Stage, partition: Partition, count: int) -> None:
    """Through the real script, 500 at a time."""
    for start in range(0, count, 500):
        batch = new_tasks(min(500, count - start))
        redis_log.send_sync(stage.client, scripts.enqueue(partition, batch, epoch_id="e"))


def fill(stage: Stage, stream: str, count: int) -> None:
    """Add entries of the protocol to a stream, made by the server."""
    for start in range(0, count, FILL_AT_ONCE):
        stage.run_script("fill", [stream], min(FILL_AT_ONCE, count - start), secrets.token_hex(4), BODY)


def join(stage: Stage, partition: Partition, worker: str, lease_ms: int = LONG_LEASE_MS) -> str:
    """A worker that only exists in Redis; returns its token."""
    who = Identity(worker, secrets.token_hex(8), lease_ms, "{}")
    return redis_log.send_sync(stage.client, scripts.join(partition, who, epoch_id="e")).token


def give(stage: Stage, partition: Partition, workers: Sequence[str], count: int, at_once: int = 100) -> None:
    """Deliver `count` waiting entries to the workers in rotation."""
    stream = partition.key(LANE)
    left = count
    while left > 0:
        part = min(left, FILL_AT_ONCE)
        stage.run_script("give", [stream], part, at_once, *workers)
        left -= part


def orphans(stage: Stage, partition: Partition, workers: Sequence[str], count: int) -> None:
    """`count` entries pending to workers whose lease has ended."""
    for worker in workers:
        join(stage, partition, worker)
    fill(stage, partition.key(LANE), count)
    give(stage, partition, workers, count)
    stage.client.zadd(partition.key("leases"), dict.fromkeys(workers, 1))


def counters(stage: Stage, partition: Partition, *names: str) -> list[int]:
    """The partition's totals."""
    return [int(value or 0) for value in stage.client.hmget(partition.key("counters"), list(names))]

"""A daemon inside the test's own event loop, and worker incarnations played by raw script calls."""

import asyncio
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import pytest
import structlog

from reclaimd.daemon.supervisor import run
from reclaimd.streams import scripts
from reclaimd.streams.codec import Delivery
from reclaimd.streams.keys import Partition, queues_key
from reclaimd.streams.redis_log import connect_sync, send_sync
from reclaimd.streams.scripts import Call
from reclaimd.streams.settings import Settings
from support.servers import Server
from support.waiting import await_until

T = TypeVar("T")
NAMESPACE = "t"
STOP_WITHIN = 2.0
STUCK_AFTER = 60.0


def settings_for(server: Server, **daemon: int) -> Settings:
    """Settings of a daemon on this server, its HTTP on a free port; `daemon`: fields of the section of that name."""
    settings = Settings(redis_url=server.url, namespace=NAMESPACE, listen="127.0.0.1:0")
    return msgspec.structs.replace(settings, daemon=msgspec.structs.replace(settings.daemon, **daemon))


@dataclass
class Daemon:
    """A running daemon. `port`: of its HTTP, known once it is ready."""

    task: asyncio.Task[None]
    ready: asyncio.Event
    port: int = 0

    async def get(self, path: str) -> tuple[int, Any]:
        """Status and body (decoded if it is JSON) of one of its pages."""
        return await asyncio.to_thread(_get, f"http://127.0.0.1:{self.port}{path}")

    async def wait_ready(self, timeout: float = 10.0) -> None:
        """Until its start-up recovery is done, or it failed; then its error is raised."""
        waiting = asyncio.create_task(self.ready.wait())
        done, _ = await asyncio.wait({waiting, self.task}, timeout=timeout, return_when="FIRST_COMPLETED")
        if waiting not in done:
            waiting.cancel()
        if self.task in done:
            self.task.result()
        assert self.ready.is_set(), "the daemon did not become ready"

    async def wait_page(self, path: str, status: int, timeout: float = 10.0) -> Any:
        """Until the page answers with this status; returns its body."""

        async def answered() -> list[Any]:
            got, body = await self.get(path)
            return [body] if got == status else []

        return (await await_until(answered, f"{path} to answer {status}", timeout))[0]

    async def stop(self) -> float:
        """Cancel it; returns the seconds that it took to end. Fails, showing all tasks, when it goes on."""
        began = time.monotonic()
        self.task.cancel()
        await asyncio.wait({self.task}, timeout=STUCK_AFTER)
        if not self.task.done():
            print_tasks()
            pytest.fail(f"the daemon goes on {STUCK_AFTER:g} s after it was cancelled")
        with suppress(asyncio.CancelledError):
            self.task.result()
        return time.monotonic() - began


def print_tasks() -> None:
    """Every task of the event loop, and where it stands, on standard error."""
    for task in asyncio.all_tasks():
        print(f"{task!r}\n{''.join(_places(task.get_coro()))}", file=sys.stderr)


def _places(awaited: Any) -> Iterator[str]:
    """The line of each coroutine that waits for the next; what asyncio shows ends with the outermost."""
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        yield f"  {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}\n"
        awaited = awaited.cr_await


@asynccontextmanager
async def running(settings: Settings, *, wait: bool = True) -> AsyncIterator[Daemon]:
    """A daemon that ends with the block, and does so in time."""
    ready = asyncio.Event()

    def on_ready(port: int) -> None:
        daemon.port = port
        ready.set()

    daemon = Daemon(asyncio.create_task(run(settings, on_ready=on_ready)), ready)
    try:
        if wait:
            await daemon.wait_ready()
        yield daemon
    finally:
        took = await daemon.stop()
        assert took < STOP_WITHIN, f"the daemon took {took:.1f} s to stop"


class Queue:
    """One queue, with producers and workers played by script calls."""

    def __init__(self, server: Server, name: str = "mail") -> None:
        self.name = name
        self.partition = Partition(NAMESPACE, name)
        self._client = connect_sync(server.url)
        self.counted = 0

    def register(self) -> None:
        """Enter the queue into the registry, as producers and workers do."""
        self._client.sadd(queues_key(NAMESPACE), self.name)

    def call(self, call: Call[T]) -> T:
        """Run a script."""
        return send_sync(self._client, call)

    def enqueue(self, count: int = 1, **fields: Any) -> list[str]:
        """Add tasks; returns their IDs."""
        self.register()
        names = [f"{self.name}-{self.counted + i}" for i in range(count)]
        self.counted += count
        tasks = [scripts.NewTask(name, fields.pop("lane", "normal"), 5, b"{}", **fields) for name in names]
        self.call(scripts.enqueue(self.partition, tasks, epoch_id="epoch"))
        return names

    def join(self, worker: str, lease_ms: int) -> str:
        """A new incarnation; returns its token."""
        self.register()
        who = scripts.Identity(worker, f"nonce-{worker}", lease_ms, '{"pid":1}')
        joined = self.call(scripts.join(self.partition, who, epoch_id="epoch"))
        assert joined.status == "ok", joined
        return joined.token

    def take(self, worker: str, token: str, count: int) -> list[Delivery]:
        """A turn that asks for tasks."""
        return list(self.call(scripts.turn(self.partition, worker, token, scripts.Turn(count, True))).deliveries)

    def view(self) -> Any:
        """The view script's reply."""
        return msgspec.json.decode(self.call(scripts.view(self.partition)))

    def length(self, name: str) -> int:
        """Of one stream, by its name after the tag."""
        length: int = self._client.xlen(self.partition.key(name))
        return length

    def raw(self, *command: Any) -> Any:
        """Any command; keys by `partition.key`."""
        return self._client.execute_command(*command)  # type: ignore[no-untyped-call]

    def together(self, *commands: tuple[Any, ...]) -> list[Any]:
        """These commands at one instant, their replies in the client library's forms."""
        pipeline: Any = self._client.pipeline(transaction=True)
        for command in commands:
            pipeline.execute_command(*command)
        return list(pipeline.execute())

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


@asynccontextmanager
async def queue_on(server: Server, name: str = "mail") -> AsyncIterator[Queue]:
    """A queue whose connection ends with the block."""
    queue = Queue(server, name)
    try:
        yield queue
    finally:
        queue.close()


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine function as a test."""
    import functools
    import inspect

    @functools.wraps(test)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    wrapper.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return wrapper


def lines_of(lines: list[Any], event: str) -> list[dict[str, Any]]:
    """Those captured log lines that say this."""
    return [line for line in lines if line["event"] == event]


def captured() -> Any:
    """Capture log lines, for `with captured() as lines`."""
    return structlog.testing.capture_logs()


def _get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310  (the daemon's own address)
            return response.status, _decoded(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _decoded(error)


def _decoded(response: Any) -> Any:
    body = response.read()
    return msgspec.json.decode(body) if "json" in response.headers.get("content-type", "") else body.decode()

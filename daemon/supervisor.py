"""Starts the daemon's parts in order, keeps them together, and ends them in time."""

import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version

import anyio
from anyio.abc import TaskStatus

from reclaimd.daemon.connectivity import Connectivity
from reclaimd.daemon.health import Health
from reclaimd.daemon.http import make_app, serve_http
from reclaimd.daemon.links import Link, Links
from reclaimd.daemon.loops.events import EventsLoop, reading_timeout
from reclaimd.daemon.loops.fleet import Fleet
from reclaimd.daemon.loops.narrator import Narrator
from reclaimd.daemon.loops.pulse import feed_watchdog, measure_lag
from reclaimd.daemon.loops.redis import RedisLoop
from reclaimd.daemon.loops.schedule_archiver import ScheduleArchiver
from reclaimd.daemon.loops.scheduler import Scheduler
from reclaimd.daemon.loops.shell import Context
from reclaimd.daemon.loops.sources import source_loops
from reclaimd.daemon.loops.start import detect_at_start, recover_at_start
from reclaimd.daemon.sd_notify import notify
from reclaimd.metrics.collector import ViewCollector
from reclaimd.metrics.instruments import new_registry
from reclaimd.streams.addresses import parse_listen, redacted
from reclaimd.streams.errors import RedisUnusable
from reclaimd.streams.logs import get_logger
from reclaimd.streams.settings import Settings

LAYOUT = 1
START_PATIENCE_SECONDS = 30

log = get_logger(__name__)
OnReady = Callable[[int], None]


async def serve(settings: Settings, *, on_ready: OnReady | None = None) -> int:
    """Run the daemon until SIGTERM or SIGINT; a second signal ends the process at once. Returns the exit code, 0.

    `on_ready` is called with the HTTP port once the recovery at start-up is done. Raises ReclaimdError when starting is
    of no use: the address is taken, or Redis cannot be used and waiting would not help. Needs the main thread.
    """
    with _plain_errors():
        async with anyio.create_task_group() as tasks:
            stop = anyio.CancelScope()
            await tasks.start(_obey_signals, stop)
            with stop:
                await run(settings, on_ready=on_ready)
            tasks.cancel_scope.cancel()
    log.info("stopped")
    return 0


async def run(settings: Settings, *, on_ready: OnReady | None = None) -> None:
    """The daemon without signals: runs until cancelled, and ends within two seconds then. Raises as `serve` does.

    It is cancelled as a task of a group, again and again until it ends. asyncio cancels once, and before Python 3.12
    that one is lost when it comes just as an `asyncio.wait_for` is done (gh-86296), as the client library has around
    each command: a daemon that was cancelled while it started went on for ever.
    """
    with _plain_errors():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_run, settings, on_ready)


async def _run(settings: Settings, on_ready: OnReady | None) -> None:
    registry, instruments = new_registry(version("reclaimd"), LAYOUT)
    connectivity = Connectivity()
    links = Links(
        settings.redis_url,
        connectivity,
        on_round_trip=lambda script, seconds: instruments.redis_round_trip.labels(script).observe(seconds),
    )
    health = Health(monotonic=time.monotonic, wall=time.time)
    context = Context(settings, links, connectivity, health, instruments)
    fleet = Fleet(context)
    scheduler = fleet.scheduler = Scheduler(context)
    registry.register(ViewCollector(fleet.views))
    host, port = parse_listen(settings.listen)
    health.expect("start", stall_after=float("inf"))
    async with _closing(context, scheduler, fleet) as events_link, anyio.create_task_group() as tasks:
        port = await tasks.start(serve_http, host, port, make_app(registry, health))
        log.info("listening", address=f"{host}:{port}", redis=redacted(settings.redis_url))
        tasks.start_soon(measure_lag, context)
        tasks.start_soon(feed_watchdog, context)
        narrator = Narrator(links, context.stolen, instruments.events_gaps)
        tasks.start_soon(narrator.run)
        events = fleet.events = EventsLoop(context, events_link, fleet, narrator)
        redis_loop = RedisLoop(context)
        await _connect(redis_loop, connectivity)
        tasks.start_soon(redis_loop.run)
        await detect_at_start(context, fleet)
        await recover_at_start(context, fleet, events, narrator)
        if fleet.archiving.enabled:
            await ScheduleArchiver(context, fleet.archiving, scheduler).start(tasks)
        await scheduler.start(tasks)
        for loop in source_loops(context, scheduler):
            tasks.start_soon(loop.run)
        fleet.run_in(tasks)
        fleet.archiving.run_in(tasks)
        tasks.start_soon(fleet.discovery.run)
        tasks.start_soon(events.loop.run)
        health.ok("start")
        notify("READY=1\nSTATUS=recovering whatever dies")
        log.info("ready", address=f"{host}:{port}")
        if on_ready is not None:
            on_ready(port)


async def _connect(redis_loop: RedisLoop, connectivity: Connectivity) -> None:
    """Wait until Redis can be used; raises what waiting cannot cure."""
    while not await redis_loop.probe():
        error = connectivity.error
        if isinstance(error, RedisUnusable) and not error.waiting_helps:
            raise error
        # systemd must not take patience for a failed start.
        notify(f"STATUS=waiting for Redis: {error}\nEXTEND_TIMEOUT_USEC={START_PATIENCE_SECONDS * 1_000_000}")
        await anyio.sleep(redis_loop.next_retry())


@asynccontextmanager
async def _closing(context: Context, scheduler: Scheduler, fleet: Fleet) -> AsyncIterator[Link]:
    events_link = Link(context.settings.redis_url, context.connectivity, reply_timeout=reading_timeout())
    try:
        yield events_link
    finally:
        notify("STOPPING=1")
        with anyio.CancelScope(shield=True):
            await events_link.aclose()
            await scheduler.aclose()
            await fleet.archiving.aclose()
            await context.links.aclose()


async def _obey_signals(stop: anyio.CancelScope, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for received in signals:
            if stop.cancel_called:
                os._exit(128 + received)
            log.info("stopping", signal=received.name)
            stop.cancel()


@contextmanager
def _plain_errors() -> Iterator[None]:
    """A task group wraps what goes wrong in it; callers want the error itself."""
    try:
        yield
    except BaseExceptionGroup as group:
        errors = _leaves(group)
        if len(errors) == 1:
            raise errors[0] from errors[0].__cause__
        raise


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves

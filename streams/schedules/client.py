"""`app.schedules`: creating, changing and reading schedules. No daemon need be alive for it.

Changes are events appended to the log; what there is, is that log folded here. Each call opens a connection of its own
and sends again what got no answer: nothing here does more when it arrives twice.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, TypedDict, TypeVar, Unpack

import anyio
import msgspec

from reclaimd.streams import redis_log
from reclaimd.streams.codec import Body, encode_body
from reclaimd.streams.configure import Config
from reclaimd.streams.enqueueing import Attempt
from reclaimd.streams.errors import (
    EnqueueUncertain,
    InvalidArguments,
    InvalidSchedule,
    PartitionFrozen,
    ReclaimdError,
    UnknownSchedule,
)
from reclaimd.streams.keys import Partition, queues_key
from reclaimd.streams.occurrence_scripts import RunRow, fire
from reclaimd.streams.producer import DEADLINE, close_quietly
from reclaimd.streams.redis_log import AsyncClient
from reclaimd.streams.schedules.checks import parse_schedule
from reclaimd.streams.schedules.events import (
    Event,
    SchedulePaused,
    ScheduleRemoved,
    ScheduleResumed,
    upserted,
)
from reclaimd.streams.schedules.fold import Problem, Row, Schedules
from reclaimd.streams.schedules.log import ScheduleLog
from reclaimd.streams.schedules.model import Cron, Misfire, Overlap, Schedule, Trigger
from reclaimd.streams.schedules.shorthand import Instant, instant_ms, length_ms
from reclaimd.streams.tasks import Duration, Task

T = TypeVar("T")

REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,40}\Z")
_AS_GIVEN: Final = ("misfire", "misfire_cap", "overlap", "limit", "source")


class Rules(TypedDict, total=False):
    """What `put` takes beside name, task and trigger; see `Schedule`.

    `queue`, `lane`, `max_deliveries`: else those of the task. `start` and `end` without an offset are read in the zone
    of a cron trigger, else in UTC.
    """

    args: Mapping[str, Any]
    queue: str | None
    lane: str | None
    max_deliveries: int | None
    misfire: Misfire
    misfire_cap: int
    drip: Duration
    overlap: Overlap
    jitter: Duration
    start: Instant | None
    end: Instant | None
    limit: int | None
    source: str


class Listed(NamedTuple):
    """A schedule as the log has it. `generation`: the event that created or retimed it; `since_ms`: wall ms, nothing
    before it is fired.

    `schedule` is None when no readable definition is known. `suspended`: why it or events of it cannot be
    read by this program, or empty; it does not fire meanwhile. `problem`: why its newest definition is not the one that
    is used.
    """

    name: str
    schedule: Schedule | None
    generation: str
    since_ms: int
    paused: bool = False
    suspended: str = ""
    problem: Problem | None = None


# A class with a method `list` cannot say the type `list`.
Listing: TypeAlias = list[Listed]
EventIDs: TypeAlias = list[str]


@dataclass(slots=True)
class _Progress:
    """`sent`: what must not be done twice may have left this process."""

    sent: bool = False


class ScheduleClient:
    """The schedules of an app's namespace.

    Everything raises RedisUnreachable, RedisUnusable or RedisFull when Redis is no use; a change may then have been
    made or not, and may be asked for again.
    """

    def __init__(
        self, config: Callable[[], Config], tasks: Mapping[str, Task[..., Any]], *, timeout: float = DEADLINE
    ) -> None:
        self._config = config
        self._tasks = tasks
        self._timeout = timeout

    def build(self, name: str, task: Task[..., Any] | str, trigger: Trigger, **rules: Unpack[Rules]) -> Schedule:
        """The schedule that `put` would send, checked; raises InvalidSchedule."""
        config = self._config()
        known = self._tasks.get(task) if isinstance(task, str) else task
        options = known.opts if known is not None else None
        queue = rules.get("queue") or (options.queue if options else "")
        if not queue:
            raise InvalidSchedule(name, "queue", f"task {task} is not registered here: say which queue it goes to")
        deliveries = rules.get("max_deliveries")
        if deliveries is None:
            deliveries = (options.max_deliveries if options else None) or config.worker.max_deliveries
        schedule = Schedule(
            name=name,
            task=known.name if known is not None else str(task),
            queue=queue,
            trigger=trigger,
            args=_plain_args(name, known, dict(rules.get("args") or {})),
            lane=rules.get("lane") or (options.lane if options else "normal"),
            max_deliveries=deliveries,
            **_given(name, trigger, rules),
        )
        _check(schedule, config.worker.payload_limit)
        return schedule

    async def put(self, name: str, task: Task[..., Any] | str, trigger: Trigger, **rules: Unpack[Rules]) -> str:
        """Create or change a schedule; returns the ID of the event that does.

        Another trigger, start, end, jitter, limit or queue begins a new generation; else what has fired stays fired.
        `task`: one of the app's, whose signature the arguments must fit, or a name. Raises InvalidSchedule, before
        anything is sent.
        """
        [event_id] = await self.put_all([self.build(name, task, trigger, **rules)])
        return event_id

    async def put_all(self, schedules: Sequence[Schedule]) -> EventIDs:
        """Create or change many; returns event IDs in their order. Raises InvalidSchedule, before anything is sent."""
        limit = self._config().worker.payload_limit
        for schedule in schedules:
            _check(schedule, limit)
        return await self._append([upserted(schedule) for schedule in schedules])

    async def get(self, name: str) -> Listed:
        """One schedule; raises UnknownSchedule."""
        state = await self._state()
        listed = _listed(state, name)
        if listed is None:
            raise UnknownSchedule(name)
        return listed

    async def list(self) -> Listing:
        """All schedules, and the names that only have a problem, by name."""
        state = await self._state()
        found = (_listed(state, name) for name in sorted(state.rows.keys() | state.problems.keys()))
        return [listed for listed in found if listed is not None]

    async def remove(self, name: str) -> str:
        """Remove a schedule, whoever owns it; what has been enqueued runs. Returns the event ID; UnknownSchedule."""
        return await self._change(ScheduleRemoved(name=name))

    async def pause(self, name: str) -> str:
        """Let it fire nothing until `resume`. Returns the event ID; raises UnknownSchedule."""
        return await self._change(SchedulePaused(name=name))

    async def resume(self, name: str) -> str:
        """Let it fire again; what came due while it was paused is skipped. Returns the event ID; UnknownSchedule."""
        return await self._change(ScheduleResumed(name=name))

    async def run_now(self, name: str, request_id: str | None = None) -> str:
        """Enqueue its task once, now, beside its instants, also when it is paused; returns the task ID.

        The same `request_id` (1-40 of A-Z a-z 0-9 . _ -) makes one task. Raises UnknownSchedule, InvalidSchedule when
        no definition of it can be read, EnqueueUncertain when the answer was lost: ask again with that request ID.
        """
        request = secrets.token_hex(8) if request_id is None else request_id
        if not REQUEST_ID.match(request):
            raise InvalidSchedule(name, "request_id", "use 1 to 40 of A-Z a-z 0-9 . _ -")
        listed = await self.get(name)
        if listed.schedule is None or listed.suspended:
            raise InvalidSchedule(name, "schedule", listed.suspended or "no definition of it can be used")
        attempt, progress = Attempt(time.monotonic() + self._timeout), _Progress()
        task_id = f"{name}:run:{request}"
        try:
            await self._tried(partial(self._run, listed.schedule, request, progress), attempt, progress)
        except ReclaimdError as error:
            if attempt.maybe_sent:
                raise EnqueueUncertain(task_id) from error
            raise
        return task_id

    def put_sync(self, name: str, task: Task[..., Any] | str, trigger: Trigger, **rules: Unpack[Rules]) -> str:
        """`put` for programs and threads without asyncio; so are the others."""
        return anyio.run(partial(self.put, name, task, trigger, **rules))

    def get_sync(self, name: str) -> Listed:
        """`get` without asyncio."""
        return anyio.run(self.get, name)

    def list_sync(self) -> Listing:
        """`list` without asyncio."""
        return anyio.run(self.list)

    def remove_sync(self, name: str) -> str:
        """`remove` without asyncio."""
        return anyio.run(self.remove, name)

    def pause_sync(self, name: str) -> str:
        """`pause` without asyncio."""
        return anyio.run(self.pause, name)

    def resume_sync(self, name: str) -> str:
        """`resume` without asyncio."""
        return anyio.run(self.resume, name)

    def run_now_sync(self, name: str, request_id: str | None = None) -> str:
        """`run_now` without asyncio."""
        return anyio.run(self.run_now, name, request_id)

    async def _run(self, schedule: Schedule, request_id: str, progress: _Progress, client: AsyncClient) -> None:
        namespace = self._config().namespace
        body = encode_body(Body(name=schedule.task, args=schedule.args))
        row = RunRow(schedule.name, request_id, schedule.lane, schedule.max_deliveries, body)
        await client.sadd(queues_key(namespace), schedule.queue)
        partition = Partition(namespace, schedule.queue)
        progress.sent = True
        reply = await redis_log.send(client, fire(partition, [row], seen_at=None, epoch_id=secrets.token_hex(8)))
        progress.sent = False
        if reply.status != "ok":
            raise PartitionFrozen(schedule.queue, reply.state)

    async def _change(self, event: SchedulePaused | ScheduleResumed | ScheduleRemoved) -> str:
        state = await self._state()
        unknown = event.name not in state.rows and event.name not in state.problems
        # One that was lost may come back from the archive, and this event is then applied to it.
        if unknown and not await self._tried(self._is_frozen):
            raise UnknownSchedule(event.name)
        [event_id] = await self._append([event])
        return event_id

    async def _state(self) -> Schedules:
        async def load(client: AsyncClient) -> Schedules:
            return (await ScheduleLog(client, self._config().namespace).load()).state

        return await self._tried(load)

    async def _is_frozen(self, client: AsyncClient) -> bool:
        return await ScheduleLog(client, self._config().namespace).is_frozen()

    async def _append(self, events: Sequence[Event]) -> EventIDs:
        async def append(client: AsyncClient) -> EventIDs:
            return await ScheduleLog(client, self._config().namespace).append(events)

        return await self._tried(append)

    async def _tried(
        self,
        work: Callable[[AsyncClient], Awaitable[T]],
        attempt: Attempt | None = None,
        progress: _Progress | None = None,
    ) -> T:
        """Its result, trying again for as long as waiting can help and time is left."""
        attempt = attempt or Attempt(time.monotonic() + self._timeout)
        progress = progress or _Progress()
        while True:
            try:
                async with self._connected() as client:
                    return await work(client)
            except ReclaimdError as error:
                wait = attempt.after(error, time.monotonic(), sent=progress.sent)
                if wait is None:
                    raise
            progress.sent = False
            await anyio.sleep(wait)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncClient]:
        url = self._config().redis_url
        client = redis_log.connect(url)
        try:
            with redis_log.translated(url):
                yield client
        finally:
            with anyio.CancelScope(shield=True):
                await close_quietly(client)


def _listed(state: Schedules, name: str) -> Listed | None:
    row: Row | None = state.rows.get(name)
    problem = state.problems.get(name)
    if row is None:
        return None if problem is None else Listed(name, None, "", 0, problem=problem)
    schedule, suspended = None, row.unread[0].why if row.unread else ""
    try:
        schedule = row.schedule() if row.definition else None
    except msgspec.MsgspecError as error:
        suspended = suspended or f"its definition is of a newer program: {error}"
    return Listed(name, schedule, row.generation, row.since_ms, row.paused, suspended, problem)


def _check(schedule: Schedule, payload_limit: int) -> None:
    """As the fold will check it: also types, which the constructor of a Struct does not."""
    try:
        raw = msgspec.json.encode(schedule)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidSchedule(schedule.name, "args", f"JSON cannot carry them ({error})") from None
    parse_schedule(raw, payload_limit=payload_limit)


def _plain_args(name: str, task: Task[..., Any] | None, args: dict[str, Any]) -> dict[str, Any]:
    """Arguments as JSON has them; raises InvalidSchedule when they do not fit the task."""
    try:
        if task is not None:
            task.encode((), args)
        plain: dict[str, Any] = msgspec.to_builtins(args)
    except InvalidArguments as error:
        raise InvalidSchedule(name, "args", error.why) from None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidSchedule(name, "args", f"JSON cannot carry them ({error})") from None
    return plain


def _given(name: str, trigger: Trigger, rules: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a Schedule from what was given; what was not keeps its default."""
    zone = trigger.tz if isinstance(trigger, Cron) else "UTC"
    given = {key: rules[key] for key in _AS_GIVEN if key in rules}
    given |= {f"{key}_ms": length_ms(name, key, rules[key]) for key in ("drip", "jitter") if key in rules}
    given |= {f"{key}_ms": instant_ms(name, key, rules[key], zone) for key in ("start", "end") if key in rules}
    return given

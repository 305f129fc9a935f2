"""`events tail`: what happened and what happens, one line an event."""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any

import msgspec

from reclaimd.daemon.cli.complaints import UsageProblem
from reclaimd.daemon.cli.flags import Flags
from reclaimd.daemon.cli.output import Output
from reclaimd.daemon.cli.running import DONE, run_alone
from reclaimd.daemon.cli.tell_events import tell
from reclaimd.daemon.cli.words import instant
from reclaimd.daemon.inspect.history import Follower, Told, now_ms, past
from reclaimd.daemon.inspect.kept import Archive, known_queues, open_archive
from reclaimd.daemon.inspect.source import Source, open_source
from reclaimd.streams import events as ev
from reclaimd.streams.durations import parse_duration
from reclaimd.streams.errors import InvalidDuration

_TYPES = {kind.__name__: kind for kind in (*ev.Event.__args__, ev.Unreadable)}
Wanted = Callable[[ev.Event | ev.Unreadable], bool]


def tail(flags: Flags, since: str | None, queue: str | None, types: list[str], *, follow: bool) -> int:
    """Print the events since then, and those to come if told to."""
    wanted = _filter(types)
    # Said wrongly, it is said before anything connects.
    start = (lambda now: now) if since is None and follow else _start("10m" if since is None else since)

    settings = flags.settings()

    async def work(out: Output) -> int:
        async with open_archive(settings, out.note) as archive, open_source(settings, check=False) as source:
            return await _tail(source, archive, out, _Request(start, queue, wanted, follow))

    return run_alone(flags, work)


class _Request(msgspec.Struct, frozen=True):
    """`start`: from Redis's clock to where to begin, both wall milliseconds."""

    start: Callable[[int], int]
    queue: str | None
    wanted: Wanted
    follow: bool


async def _tail(source: Source, archive: Archive, out: Output, asked: _Request) -> int:
    away = await source.absence()
    if away is not None:
        if asked.queue not in {None, *await archive.queues()} or not archive.present:
            raise away
        out.note(f"what follows is from the archive alone: {away}")
    there = source if away is None else None
    queues = await known_queues(there, archive, asked.queue)
    now = int(time.time() * 1000) if there is None else await now_ms(there)
    begin = f"{max(0, asked.start(now) - 1)}-{2**64 - 1}"
    positions = dict.fromkeys(queues, begin)
    async for told in past(there, archive, positions):
        positions[told.queue] = told.batch.entry_id
        _print(out, told, asked.wanted, redis=away is None)
    if not asked.follow:
        return DONE
    follower = Follower(source, positions, more=asked.queue is None, begin=begin, lost=away is not None)
    while True:
        before = follower.lost
        for told in await follower.step():
            _print(out, told, asked.wanted)
        if follower.lost != before:
            out.note("Redis is away: waiting until it is back" if follower.lost else "Redis is back")


def _filter(types: list[str]) -> Wanted:
    names = {name.lower(): name for name in _TYPES}
    for name in types:
        if name.lower() not in names:
            near = get_close_matches(name.lower(), names, n=1, cutoff=0.4)
            cure = f"did you mean {names[near[0]]}?" if near else f"say one of {', '.join(_TYPES)}"
            raise UsageProblem(f"there is no event type {name!r}: {cure}")
    kinds = tuple(_TYPES[names[name.lower()]] for name in types)
    return (lambda event: isinstance(event, kinds)) if kinds else (lambda _: True)


def _start(since: str) -> Callable[[int], int]:
    """A duration before now, or an instant; without a zone it is UTC, as the output is."""
    try:
        ago = parse_duration(since)
    except InvalidDuration as error:
        if re.match(r"\d{4}-", since):
            at = _instant(since)
            return lambda _: at
        raise UsageProblem(f"--since {since}: {error.cure}, or an instant such as 2026-01-31T12:00") from None
    return lambda now: now - ago


def _instant(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageProblem(f"--since {text} is no instant: say 2026-01-31, 2026-01-31T12:00 or with a zone") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _print(out: Output, told: Told, wanted: Wanted, *, redis: bool = True) -> None:
    for event in told.batch.events:
        if not wanted(event):
            continue
        if out.json:
            out.record(_record(told, event) | ({} if redis else {"redis": "unreachable"}))
        else:
            out.line(f"{instant(told.batch.at)}  {told.queue}  {type(event).__name__}: {tell(event)}")


def _record(told: Told, event: ev.Event | ev.Unreadable) -> dict[str, Any]:
    """An event with its rows as objects."""
    fields: dict[str, Any] = {"at_ms": told.batch.at, "event_id": told.batch.entry_id, "queue": told.queue}
    fields["type"] = type(event).__name__
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if isinstance(value, tuple):
            value = [msgspec.structs.asdict(row) for row in value]
        fields[name] = value.decode(errors="replace") if isinstance(value, bytes) else value
    return fields

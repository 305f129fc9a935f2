"""What the archiver reads of a partition, as the values that the rest of it works with."""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final

from reclaimd.daemon.archive.scanning import Redis
from reclaimd.daemon.rebuild.apply import scanned
from reclaimd.daemon.rebuild.values import (
    DEAD,
    EVENTS,
    Bodies,
    Changes,
    EventEntry,
    Facts,
    FiredRow,
    Positions,
    StreamEntry,
    Tail,
    Wanted,
)
from reclaimd.streams import archive_scripts
from reclaimd.streams.keys import SENTINEL, STREAMS, Partition
from reclaimd.streams.redis_log import AsyncClient

PAGE: Final = 500
_SENTINEL: Final = SENTINEL.encode()


def facts_of(facts: archive_scripts.Facts) -> Facts:
    """What the script found, as detection takes it."""
    return Facts(
        exists=facts.epoch,
        any_key=facts.keys,
        state=facts.state if facts.epoch else "",
        epoch_id=facts.epoch_id,
        archive_id=facts.archive_id,
        mark=facts.mark,
        mark_before=facts.mark_before,
        rebuild=facts.rebuild,
        missing=facts.missing,
    )


def tail_of(tail: archive_scripts.Tail) -> Tail:
    """What the script read, as the fold takes it."""
    entries: dict[str, tuple[StreamEntry, ...]] = {}
    for name, rows in (*zip(STREAMS, tail.streams, strict=False), (DEAD, tail.dead)):
        if rows:
            entries[name] = tuple(StreamEntry(row.entry_id, row.fields) for row in rows)
    return Tail(
        events=tuple(EventEntry(raw.entry_id, _instant(raw.at), raw.e) for raw in tail.events),
        drained=tail.drained,
        entries=entries,
        more=tail.more,
        dead_first=tail.first_letter if tail.drained else None,
        counters=dict(tail.counters) if tail.drained else None,
        paused=tail.paused if tail.drained else None,
    )


def script_positions(positions: Positions) -> archive_scripts.Positions:
    """Where the archive stands, as the script takes it."""
    nowhere = archive_scripts.NOWHERE
    return archive_scripts.Positions(
        positions.get(EVENTS, nowhere),
        positions.get(DEAD, nowhere),
        tuple(positions.get(name, nowhere) for name in STREAMS),
    )


async def read_bodies(redis: Redis, partition: Partition, wanted: Wanted) -> Bodies:
    """The envelopes that a tail only names, and that are still there."""
    delayed = await _values(redis, partition.key("bodies"), wanted.delayed)
    queued = await _values(redis, partition.key("queued"), wanted.queued)
    return Bodies(delayed, queued)


async def last_event(redis: Redis, partition: Partition) -> str:
    """Entry ID of the newest batch; `0-0` when there is none."""

    async def ask(client: AsyncClient) -> Any:
        return await client.xrevrange(partition.key("events"), count=1)

    found = await redis.use(ask)
    return found[0][0].decode() if found else archive_scripts.NOWHERE


async def unstreamed(redis: Redis, partition: Partition) -> AsyncIterator[Changes]:
    """What no stream tells any more, page by page: delayed and queued tasks, and what was fired of schedules.

    Their events may be long trimmed. Whatever changes meanwhile has events that are read after this.
    """
    async for page in _scan(redis, partition.key("bodies")):
        dues = await _dues(redis, partition, list(page))
        yield scanned(((name, dues[name], body) for name, body in page.items() if name in dues), (), ())
    async for page in _scan(redis, partition.key("fired")):
        queued = await _values(redis, partition.key("queued"), list(page))
        rows = [row for name, text in page.items() if (row := _fired(name, text)) is not None]
        yield scanned((), queued.items(), rows)


async def _dues(redis: Redis, partition: Partition, names: list[str]) -> dict[str, int]:
    async def ask(client: AsyncClient) -> list[Any]:
        return await client.zmscore(partition.key("delayed"), names)

    scores = await redis.use(ask)
    return {name: int(float(score)) for name, score in zip(names, scores, strict=True) if score is not None}


def _fired(schedule: str, row: bytes) -> FiredRow | None:
    try:
        generation, last, count, task = row.decode().split("|")
        return FiredRow(schedule=schedule, generation=generation, last=int(last), count=int(count), open=task)
    except ValueError:
        # Somebody else wrote it; the scripts answer `unreadable` to whoever fires it.
        return None


async def _values(redis: Redis, key: str, names: Sequence[str]) -> dict[str, bytes]:
    """The fields of a hash that are there."""
    found: dict[str, bytes] = {}
    for chunk in _chunks(names):

        async def ask(client: AsyncClient, chunk: Sequence[str] = chunk) -> list[bytes | None]:
            reply: Any = await client.hmget(key, list(chunk))
            return list(reply)

        values = zip(chunk, await redis.use(ask), strict=True)
        found.update((name, value) for name, value in values if value is not None)
    return found


async def _scan(redis: Redis, key: str) -> AsyncIterator[dict[str, bytes]]:
    cursor = 0
    while True:

        async def ask(client: AsyncClient, cursor: int = cursor) -> tuple[int, Any]:
            found: tuple[int, Any] = await client.hscan(key, cursor, count=PAGE)
            return found

        cursor, found = await redis.use(ask)
        page = {name.decode(errors="replace"): value for name, value in dict(found).items() if name != _SENTINEL}
        if page:
            yield page
        if cursor == 0:
            return


def _chunks(names: Sequence[str]) -> Iterable[Sequence[str]]:
    return (names[start : start + PAGE] for start in range(0, len(names), PAGE))


def _instant(at: bytes) -> int:
    return int(at) if at.isdigit() else 0

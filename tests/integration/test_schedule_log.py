"""The log of schedules on real servers: loading, snapshots, damage, and trimming while others read."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis

from reclaimd.streams.ids import EntryID
from reclaimd.streams.keys import schedule_events_key, schedule_snapshots_key
from reclaimd.streams.redis_log import AsyncClient, connect
from reclaimd.streams.schedules.events import (
    Event,
    SchedulePaused,
    ScheduleRemoved,
    ScheduleResumed,
    ScheduleUpserted,
    upserted,
)
from reclaimd.streams.schedules.fold import Schedules, apply
from reclaimd.streams.schedules.log import PAGE, Loaded, ScheduleLog
from reclaimd.streams.schedules.model import Every, Schedule
from support.daemons import NAMESPACE, in_loop
from support.servers import Server

EVENTS = schedule_events_key(NAMESPACE)
SNAPSHOTS = schedule_snapshots_key(NAMESPACE)


def upsert(name: str, every_ms: int = 1000) -> ScheduleUpserted:
    return upserted(Schedule(name=name, task="t", queue="q", trigger=Every(every_ms)))


@asynccontextmanager
async def opened(server: Server) -> AsyncIterator[tuple[ScheduleLog, AsyncClient]]:
    client = connect(server.url)
    try:
        yield ScheduleLog(client, NAMESPACE), client
    finally:
        await client.aclose()


async def raised(log: ScheduleLog, count: int, first: int = 0) -> list[str]:
    """Append `count` new schedules."""
    return await log.append(upsert(f"s{number}") for number in range(first, first + count))


async def snapshots(log: ScheduleLog, count: int) -> list[str]:
    """Write snapshots, with one new schedule before each; returns their headers' IDs."""
    written = []
    for number in range(count):
        await log.append([upsert(f"n{number}")])
        done = await log.write_snapshot((await log.load()).state)
        assert done is not None
        written.append(done.snapshot_id)
    return written


async def entry_ids(client: AsyncClient, key: str) -> list[str]:
    entries: Any = await client.xrange(key)
    return [entry_id.decode() for entry_id, _ in entries]


async def damage(client: AsyncClient, header: str) -> None:
    """Delete the first chunk of a snapshot."""
    entries: Any = await client.xrange(SNAPSHOTS, header, "+")
    chunk = next(entry_id for entry_id, fields in entries if fields.get(b"of") == header.encode())
    await client.xdel(SNAPSHOTS, chunk)


@in_loop
async def test_nothing_is_an_empty_state(server: Server) -> None:
    async with opened(server) as (log, _):
        assert await log.load() == Loaded(Schedules())
        assert await log.append([]) == []


@in_loop
async def test_what_is_appended_is_loaded_without_any_snapshot(server: Server) -> None:
    async with opened(server) as (log, _):
        first, second, third = await log.append([upsert("a"), upsert("b"), SchedulePaused(name="a")])
        loaded = await log.load()
        assert (loaded.state.rows["a"].generation, loaded.state.rows["b"].generation) == (first, second)
        assert (loaded.state.rows["a"].paused, str(loaded.position), loaded.folded) == (True, third, 3)
        assert (loaded.snapshot_id, loaded.snapshot_age_ms, loaded.problems) == (None, None, [])


@in_loop
async def test_a_snapshot_and_its_tail_are_what_all_events_are(server: Server) -> None:
    async with opened(server) as (log, _):
        await raised(log, 2 * PAGE + 7)
        await log.append([SchedulePaused(name="s3")])
        written = await log.write_snapshot((await log.load()).state)
        assert written is not None
        assert (written.rows, written.chunks) == (2 * PAGE + 7, 2)
        await log.append([ScheduleResumed(name="s3"), ScheduleRemoved(name="s4"), upsert("s5", 5000)])
        loaded = await log.load()
        assert (loaded.snapshot_id, loaded.folded, loaded.problems) == (written.snapshot_id, 3, [])
        assert loaded.snapshot_age_ms is not None
        assert 0 <= loaded.snapshot_age_ms < 60_000
        assert loaded.state == await of_all_events(server)


async def of_all_events(server: Server) -> Schedules:
    """Folded from the first event on, in one go."""
    state = Schedules()
    async with opened(server) as (_, client):
        entries: Any = await client.xrange(EVENTS)
        for entry_id, fields in entries:
            apply(state, entry_id.decode(), fields[b"e"])
    return state


@in_loop
async def test_following_goes_page_by_page(server: Server) -> None:
    async with opened(server) as (log, _):
        loaded = await log.load()
        await raised(log, 2 * PAGE)
        sizes = []
        for _ in range(3):
            applied = await log.follow(loaded)
            assert applied is not None
            sizes.append(len(applied))
        assert sizes == [PAGE, PAGE, 0]
        assert loaded.state == await of_all_events(server)
        [event_id] = await log.append([SchedulePaused(name="s1")])
        [paused] = await log.follow(loaded) or []
        assert (paused.what, paused.name, paused.event_id) == ("paused", "s1", event_id)
        assert paused.before is not None
        assert not paused.before.paused


@in_loop
async def test_appending_again_is_harmless(server: Server) -> None:
    events: list[Event] = [
        upsert("a"), SchedulePaused(name="a"), ScheduleResumed(name="a"), upsert("b"), ScheduleRemoved(name="b"),
    ]  # fmt: skip
    async with opened(server) as (log, _):
        for event in events:
            await log.append([event])
            once = (await log.load()).state
            await log.append([event])
            twice = (await log.load()).state
            assert twice.rows.keys() == once.rows.keys()
            for name, row in twice.rows.items():
                before = once.rows[name]
                assert (row.generation, row.since_ms, row.paused) == (before.generation, before.since_ms, before.paused)


@in_loop
async def test_entries_of_others_are_carried(server: Server) -> None:
    async with opened(server) as (log, client):
        await client.xadd(EVENTS, {"hello": "world", "x": b"\xff"})
        await log.append([upsert("a")])
        await client.xadd(EVENTS, {"e": "{}"})
        state = (await log.load()).state
        assert [unread.raw for unread in state.unreadable] == [b"hello\nworld\nx\n\xff", b"{}"]
        assert set(state.rows) == {"a"}
        assert await log.write_snapshot(state) is not None
        loaded = await log.load()
        assert (loaded.state, loaded.folded) == (state, 0)


@in_loop
async def test_a_damaged_snapshot_is_reported_and_the_one_before_it_used(server: Server) -> None:
    async with opened(server) as (log, client):
        oldest, middle, newest = await snapshots(log, 3)
        await log.append([upsert("tail")])
        whole = await of_all_events(server)
        await damage(client, newest)
        loaded = await log.load()
        assert (loaded.snapshot_id, loaded.state) == (middle, whole)
        assert loaded.problems == [f"snapshot {newest} is damaged and was not used: 0 of 1 chunks are there"]
        await damage(client, middle)
        loaded = await log.load()
        assert (loaded.snapshot_id, loaded.state, len(loaded.problems)) == (oldest, whole, 2)
        await damage(client, oldest)
        loaded = await log.load()
        assert (loaded.snapshot_id, loaded.state.rows) == (None, whole.rows)
        assert len(loaded.problems) == 4
        assert "no snapshot can be used" in loaded.problems[-1]


@in_loop
async def test_after_a_trim_the_one_before_a_damaged_one_is_still_enough(server: Server) -> None:
    async with opened(server) as (log, client):
        *_, oldest, middle, newest = await snapshots(log, 6)
        await log.append([upsert("tail")])
        whole = await of_all_events(server)
        trimmed = await log.trim()
        assert trimmed == (9, 3), "three snapshots of three entries, and the events before the one that the 4th covers"
        for header, expected in ((newest, middle), (middle, oldest)):
            await damage(client, header)
            loaded = await log.load()
            assert (loaded.snapshot_id, loaded.state) == (expected, whole)


@in_loop
async def test_what_broke_off_is_not_used(server: Server) -> None:
    async with opened(server) as (log, client):
        [good] = await snapshots(log, 1)
        await client.xadd(SNAPSHOTS, {"kind": "header", "v": "1", "covers": "9-9"})
        await client.xadd(SNAPSHOTS, {"kind": "chunk", "of": "8-8", "n": "0", "what": "rows", "rows": "[]"})
        for number in range(20):
            await client.xadd(SNAPSHOTS, {"kind": "noise", "n": str(number)})
        await client.xadd(SNAPSHOTS, {"kind": "commit"})
        loaded = await log.load()
        assert loaded.snapshot_id == good
        assert len(loaded.problems) == 1
        assert "its commit cannot be read" in loaded.problems[0]


@in_loop
async def test_two_who_write_at_once_both_succeed(server: Server) -> None:
    async with opened(server) as (log, _), opened(server) as (other, _):
        await raised(log, 30)
        state = (await log.load()).state
        second: list[Any] = []

        async def write() -> None:
            second.append(await other.write_snapshot(state))

        first = await _Interrupted(server, after_header=write).write(state)
        assert first is not None
        assert EntryID.parse(second[0].snapshot_id) > EntryID.parse(first.snapshot_id)
        loaded = await log.load()
        assert (loaded.state, loaded.problems) == (state, [])


@in_loop
async def test_trimming_waits_for_the_third_snapshot_and_leaves_the_event_that_the_oldest_covers(
    server: Server,
) -> None:
    async with opened(server) as (log, client):
        await snapshots(log, 2)
        assert await log.trim() == (0, 0)
        await snapshots(log, 1)
        assert await log.trim() == (0, 0)
        before = await entry_ids(client, EVENTS)
        await snapshots(log, 2)
        await log.trim()
        assert (await entry_ids(client, EVENTS))[0] == before[2]
        assert len(await entry_ids(client, SNAPSHOTS)) == 9


@in_loop
async def test_no_event_from_the_limit_on_is_trimmed(server: Server) -> None:
    async with opened(server) as (log, client):
        ids = await raised(log, 10)
        await snapshots(log, 3)
        await log.trim(limit=EntryID.parse(ids[4]))
        assert (await entry_ids(client, EVENTS))[0] == ids[4]
        await log.trim(limit=EntryID(2**53, 0))
        assert (await entry_ids(client, EVENTS))[0] not in ids


@in_loop
async def test_a_rebuilt_snapshot_of_no_events_holds_back_nothing_that_came_since(server: Server) -> None:
    """A rebuild writes what it restored as covering 0-0: events that clients append meanwhile fold on top."""
    async with opened(server) as (log, _):
        restored = Schedules()
        apply(restored, "5-0", upsert("old"))
        restored.position = EntryID(0, 0)
        await log.append([upsert("new")])
        assert await log.write_snapshot(restored) is not None
        loaded = await log.load()
        assert (set(loaded.state.rows), loaded.problems) == ({"old", "new"}, [])
        for _ in range(2):
            await log.write_snapshot((await log.load()).state)
        assert (await log.trim()).events == 0


class _Interrupted(ScheduleLog):
    """Lets others act at one point of a load or a write."""

    def __init__(
        self,
        server: Server,
        *,
        after_base: Callable[[], Awaitable[None]] | None = None,
        after_header: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._own = connect(server.url)
        super().__init__(self._own, NAMESPACE)
        self._after_base = after_base
        self._after_header = after_header
        self.bases = 0

    async def _base(self) -> Loaded:
        loaded = await super()._base()
        self.bases += 1
        hook, self._after_base = self._after_base, None
        if hook is not None:
            await hook()
        return loaded

    async def _add(self, key: str, entries: Any) -> list[str]:
        added = await super()._add(key, entries)
        hook, self._after_header = self._after_header, None
        if hook is not None:
            await hook()
        return added

    async def read(self) -> Loaded:
        try:
            return await self.load()
        finally:
            await self._own.aclose()

    async def write(self, state: Schedules) -> Any:
        try:
            return await self.write_snapshot(state)
        finally:
            await self._own.aclose()


async def _load_while_trimmed(server: Server, log: ScheduleLog) -> Loaded:
    async def overtake() -> None:
        await raised(log, 5, first=100)
        await snapshots(log, 4)
        trimmed = await log.trim()
        assert trimmed.events > 5

    reader = _Interrupted(server, after_base=overtake)
    loaded = await reader.read()
    assert reader.bases == 2
    return loaded


@in_loop
async def test_a_reader_whose_tail_was_trimmed_begins_again(server: Server) -> None:
    async with opened(server) as (log, _):
        await raised(log, 10)
        await snapshots(log, 1)
        loaded = await _load_while_trimmed(server, log)
        assert loaded.problems == []
        assert set(loaded.state.rows) >= {*(f"s{number}" for number in (*range(10), *range(100, 105))), "n3"}


@in_loop
async def test_a_reader_that_began_before_the_first_snapshot_begins_again(server: Server) -> None:
    async with opened(server) as (log, _):
        await raised(log, 10)
        loaded = await _load_while_trimmed(server, log)
        assert loaded.problems == []
        assert set(loaded.state.rows) >= {*(f"s{number}" for number in (*range(10), *range(100, 105))), "n3"}


@in_loop
async def test_a_follower_that_was_overtaken_is_told(server: Server) -> None:
    async with opened(server) as (log, _):
        await raised(log, 3)
        loaded = await log.load()
        early = Loaded(Schedules())
        await snapshots(log, 5)
        await log.trim()
        assert await log.follow(loaded) is None
        assert await log.follow(early) is None
        assert early.state == Schedules()


@in_loop
async def test_a_follower_is_told_that_redis_came_back_empty_or_with_less(server: Server) -> None:
    async with opened(server) as (log, client):
        ids = await raised(log, 3)
        loaded = await log.load()
        await client.xdel(EVENTS, ids[-1])
        assert await log.follow(loaded) is None, "rolled back"
        await client.flushall()
        assert await log.follow(loaded) is None, "empty"
        assert await log.load() == Loaded(Schedules())


@in_loop
async def test_events_that_somebody_deleted_are_reported_and_life_goes_on(server: Server) -> None:
    async with opened(server) as (log, client):
        await raised(log, 3)
        await snapshots(log, 1)
        await client.delete(EVENTS)
        loaded = await log.load()
        assert set(loaded.state.rows) == {"s0", "s1", "s2", "n0"}
        assert len(loaded.problems) == 1
        assert "is gone" in loaded.problems[0]
        assert await log.follow(loaded) == []
        await log.append([upsert("later")])
        assert [applied.name for applied in await log.follow(loaded) or []] == ["later"]
        assert loaded.anchored
        assert await log.follow(loaded) == []


@in_loop
async def test_a_snapshot_is_of_the_state_as_it_was(server: Server) -> None:
    async with opened(server) as (log, _):
        await raised(log, 30)
        state = (await log.load()).state

        async def change() -> None:
            for number in range(20):
                apply(state, f"{state.position.ms + 1}-0", ScheduleRemoved(name=f"s{number}"))

        before = state.copy()
        written = await _Interrupted(server, after_header=change).write(state)
        assert written.rows == 30
        assert (await log.load()).state == before


@in_loop
async def test_one_that_is_overtaken_while_it_writes_commits_nothing(server: Server) -> None:
    async with opened(server) as (log, client):
        await snapshots(log, 1)
        state = (await log.load()).state

        async def overtake() -> None:
            await snapshots(log, 3)
            await log.trim()

        assert await _Interrupted(server, after_header=overtake).write(state) is None
        entries: Any = await client.xrange(SNAPSHOTS)
        assert sum(fields[b"kind"] == b"commit" for _, fields in entries) == 3
        assert (await log.load()).problems == []


@in_loop
async def test_a_key_of_another_type_is_an_error_and_not_an_empty_state(server: Server) -> None:
    async with opened(server) as (log, client):
        await client.set(EVENTS, "x")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            await log.load()

"""The log of schedules while several write, read and trim it."""

from typing import Any

import anyio

from reclaimd.streams.ids import EntryID
from reclaimd.streams.schedules.events import (
    Event,
    SchedulePaused,
    ScheduleRemoved,
)
from reclaimd.streams.schedules.fold import Schedules, apply
from reclaimd.streams.schedules.log import PAGE, Loaded, ScheduleLog
from support.daemons import in_loop
from support.schedule_logs import EVENTS, SNAPSHOTS, Interrupted, entry_ids, opened, raised, snapshots, upsert
from support.servers import Server


@in_loop
async def test_two_who_write_at_once_both_succeed(server: Server) -> None:
    async with opened(server) as (log, _), opened(server) as (other, _):
        await raised(log, 30)
        state = (await log.load()).state
        second: list[Any] = []

        async def write() -> None:
            second.append(await other.write_snapshot(state))

        first = await Interrupted(server, after_header=write).write(state)
        assert first is not None
        assert EntryID.parse(second[0].snapshot_id) > EntryID.parse(first.snapshot_id)
        loaded = await log.load()
        assert (loaded.state, loaded.problems) == (state, [])


@in_loop
async def test_trimming_waits_for_the_third_snapshot_and_leaves_the_event_that_the_oldest_covers(
    server: Server,
) -> None:
    async with opened(server) as (log, client):
        await raised(log, 3)
        await snapshots(log, 2)
        assert await log.trim() == (0, 0)
        await snapshots(log, 1)
        assert await log.trim() == (0, 3)
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


async def _load_while_trimmed(server: Server, log: ScheduleLog) -> Loaded:
    async def overtake() -> None:
        await raised(log, 5, first=100)
        await snapshots(log, 4)
        trimmed = await log.trim()
        assert trimmed.events > 5

    reader = Interrupted(server, after_base=overtake)
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
async def test_a_snapshot_is_of_the_state_as_it_was(server: Server) -> None:
    async with opened(server) as (log, _):
        await raised(log, 30)
        state = (await log.load()).state

        async def change() -> None:
            for number in range(20):
                apply(state, f"{state.position.ms + 1}-0", ScheduleRemoved(name=f"s{number}"))

        before = state.copy()
        written = await Interrupted(server, after_header=change).write(state)
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

        assert await Interrupted(server, after_header=overtake).write(state) is None
        entries: Any = await client.xrange(SNAPSHOTS)
        assert sum(fields[b"kind"] == b"commit" for _, fields in entries) == 3
        assert (await log.load()).problems == []


@in_loop
async def test_a_follower_misses_nothing_while_others_append_snapshot_and_trim(server: Server) -> None:
    appended: list[tuple[str, Event]] = []
    done = anyio.Event()
    reloads = 0

    async def append() -> None:
        async with opened(server) as (log, _):
            for number in range(150):
                name = f"s{number % 7}"
                events: list[Event] = [upsert(name, 1000 + number), SchedulePaused(name=name)]
                if number % 5 == 0:
                    events.append(ScheduleRemoved(name=f"s{number % 3}"))
                appended.extend(zip(await log.append(events), events, strict=True))
        done.set()

    async def keep_short() -> None:
        async with opened(server) as (log, _):
            while not done.is_set():
                await log.write_snapshot((await log.load()).state)
                await log.trim(keep=1)

    async def follow() -> Schedules:
        nonlocal reloads
        async with opened(server) as (log, _):
            loaded = await log.load()
            while True:
                last = done.is_set()
                applied = await log.follow(loaded)
                assert loaded.problems == []
                if applied is None:
                    reloads += 1
                    loaded = await log.load()
                elif last and len(applied) < PAGE:
                    return loaded.state

    async with anyio.create_task_group() as group:
        group.start_soon(append)
        group.start_soon(keep_short)
        group.start_soon(keep_short)
        followed = await follow()
    expected = Schedules()
    for entry_id, event in sorted(appended, key=lambda item: EntryID.parse(item[0])):
        apply(expected, entry_id, event)
    assert followed == expected
    async with opened(server) as (log, client):
        assert (await log.load()).state == expected
        assert len(await entry_ids(client, EVENTS)) < len(appended), "something was trimmed"


@in_loop
async def test_a_trim_reads_one_entry_of_each_snapshot(server: Server) -> None:
    """Each may have a thousand, of hundreds of kilobytes."""
    state = Schedules()
    for number in range(4_500):
        apply(state, f"{number + 1}-0", upsert(f"s{number}"))
    async with opened(server) as (log, client):
        for _ in range(4):
            written = await log.write_snapshot(state)
            assert written is not None
            assert written.chunks == 5
        await client.config_resetstat()
        assert (await log.trim()).snapshots == 7
        stats: Any = await client.info("commandstats")
        assert stats["cmdstat_xrevrange"]["calls"] == 3
        assert "cmdstat_xrange" not in stats

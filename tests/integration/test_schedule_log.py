"""The log of schedules on real servers: appending, loading, following, snapshots and their damage."""

from functools import partial
from typing import Any

import pytest
import redis

from reclaimd.streams.schedules import events, fold
from reclaimd.streams.schedules.events import (
    Event,
    SchedulePaused,
    ScheduleRemoved,
    ScheduleResumed,
)
from reclaimd.streams.schedules.fold import Schedules, apply
from reclaimd.streams.schedules.log import PAGE, Loaded
from support.daemons import in_loop
from support.schedule_logs import EVENTS, SNAPSHOTS, damage, opened, raised, snapshots, upsert
from support.servers import Server


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
async def test_what_an_older_program_could_not_read_is_read_from_its_snapshot(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = {kind: version for kind, version in events.VERSIONS.items() if kind != "SchedulePaused"}
    async with opened(server) as (log, _):
        with monkeypatch.context() as patch:
            patch.setattr(fold, "decode", partial(events.decode, versions=older))
            await log.append([upsert("a"), SchedulePaused(name="a"), upsert("a", 5000)])
            state = (await log.load()).state
            assert len(state.rows["a"].unread) == 2
            assert await log.write_snapshot(state) is not None
        loaded = await log.load()
        assert (loaded.folded, loaded.state) == (0, await of_all_events(server))
        assert loaded.state.rows["a"].paused


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
async def test_a_key_of_another_type_is_an_error_and_not_an_empty_state(server: Server) -> None:
    async with opened(server) as (log, client):
        await client.set(EVENTS, "x")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            await log.load()

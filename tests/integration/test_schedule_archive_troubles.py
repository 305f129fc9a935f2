"""Restoring schedules when it is killed, done twice, overtaken, and when the server's clock has gone back."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from reclaimd.daemon.archive.errors import ArchiveFailed, Trouble
from reclaimd.daemon.archive.restoring_schedules import (
    adopt_schedules,
    look_at_schedules,
    plan_schedules,
    rebuild_schedules,
)
from reclaimd.daemon.archive.scanning import server_ms
from reclaimd.daemon.loops.schedule_archiver import ForeignSchedules
from reclaimd.daemon.rebuild.schedules import Judged
from reclaimd.daemon.schedules.overdue import judge
from reclaimd.streams import Reclaimd
from reclaimd.streams.errors import RedisUnreachable, UnknownSchedule
from reclaimd.streams.ids import EntryID
from reclaimd.streams.keys import schedule_epoch_key
from reclaimd.streams.schedules.events import Event, ScheduleRemoved, encode
from reclaimd.streams.schedules.fold import Schedules
from reclaimd.streams.schedules.model import Every
from support.daemons import NAMESPACE, in_loop
from support.schedule_archives import Archived, archived, loaded, same
from support.schedule_logs import EVENTS, SNAPSHOTS, opened, raised, upsert
from support.servers import Server

EPOCH = schedule_epoch_key(NAMESPACE)


async def lost(server: Server, to: Archived, many: int = 5) -> Schedules:
    """Archive some schedules and lose them; clients change some afterwards. Returns what there must be in the end."""
    async with opened(server) as (log, client):
        await raised(log, many)
        await to.caught_up()
        before = (await log.load()).state
        await client.flushall()
        [changed, *_] = await log.append([upsert("s1", 9000), upsert("new"), ScheduleRemoved(name="s2")])
        wanted = before.copy()
        del wanted.rows["s2"]
        state = (await log.load()).state
        wanted.rows |= {name: state.rows[name] for name in ("s1", "new")}
        assert wanted.rows["s1"].generation == changed
        return wanted


async def healed(to: Archived, wanted: Schedules) -> None:
    await to.caught_up()
    state = (await loaded(to.server)).state
    same(state, wanted)
    same(await to.fold(), wanted)


@pytest.mark.flavours("valkey")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@in_loop
async def test_killed_at_each_step_and_gone_on_with_by_another(server: Server, tmp_path: Path, after: bool) -> None:
    at = done = 0
    while not done:
        server.flush()
        folder = tmp_path / f"{at}-{after}"
        folder.mkdir()
        async with archived(server, folder, "one") as to:
            wanted = await lost(server, to)
            to.links.calls, to.links.at, to.links.after = 0, at, after
            try:
                await to.steps()
                done = to.links.calls <= at
            except RedisUnreachable:
                pass
            async with archived(server, folder, "two") as other:
                await healed(other, wanted)
                report = await other.store.last_rebuild(other.archiver._partition)
                assert report is not None
                assert (report.verdict, report.ended_ms > 0) == ("empty", True)
        at += 1
    assert at > 6


@pytest.mark.flavours("valkey")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", ["begin_rebuild", "end_rebuild", "append", "fold"])
@in_loop
async def test_an_archive_that_fails_on_the_way(
    server: Server, tmp_path: Path, step: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with archived(server, tmp_path) as to:
        wanted = await lost(server, to)
        on: Any = to.store.schedules if step in {"append", "fold"} else to.store
        break_once(monkeypatch, on, "newest_snapshot" if step == "fold" else step, after)
        await to.steps(until=lambda: not to.scheduler.gate.closed("any"))
        await healed(to, wanted)


def break_once(monkeypatch: pytest.MonkeyPatch, on: Any, name: str, after: bool) -> None:
    whole = getattr(on, name)

    async def breaks(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(on, name, whole)
        if after:
            await whole(*args, **kwargs)
        raise ArchiveFailed(Trouble.LOCKED, "sqlite:///archive.db")

    monkeypatch.setattr(on, name, breaks)


@pytest.mark.flavours("valkey")
@in_loop
async def test_two_daemons_at_once(server: Server, tmp_path: Path) -> None:
    for number in range(6):
        server.flush()
        folder = tmp_path / str(number)
        folder.mkdir()
        async with archived(server, folder, "one") as to, archived(server, folder, "two") as other:
            wanted = await lost(server, to, many=40)

            async def both(one: Archived, pauses: int) -> None:
                for _ in range(40):
                    for _ in range(pauses):
                        await anyio.lowlevel.checkpoint()
                    await one.archiver.step()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(both, to, number)
                tasks.start_soon(both, other, 0)
            same((await loaded(server)).state, wanted)
            same(await other.fold(), wanted)
            assert not to.scheduler.gate.closed("any") or not other.scheduler.gate.closed("any")


@pytest.mark.flavours("valkey")
@in_loop
async def test_clients_that_go_on_during_the_restore_win(server: Server, tmp_path: Path) -> None:
    async with archived(server, tmp_path) as to, opened(server) as (log, _):
        wanted = await lost(server, to)
        put: dict[str, str] = {}

        async def client() -> None:
            name = f"during{len(put)}"
            [put[name], *_] = await log.append([upsert(name), upsert("s3", 1000 + len(put) * 1000)])

        to.links.between = client
        await to.steps()
        to.links.between = None
        await to.caught_up()
        state = (await loaded(server)).state
        same(await to.fold(), state)
        assert {name: state.rows[name].generation for name in put} == put
        assert state.rows["s3"].schedule().trigger == Every(len(put) * 1000)
        assert state.rows.keys() == wanted.rows.keys() | put.keys()
        assert len(put) > 4


@pytest.mark.flavours("valkey")
@in_loop
async def test_a_clock_that_went_back_meanwhile(server: Server, tmp_path: Path) -> None:
    """New events then have IDs below those that are archived, and generations below those that have fired."""
    async with archived(server, tmp_path) as to, opened(server) as (log, client):
        now = (await client.time())[0] * 1000
        await client.xadd(EVENTS, {"e": encode(upsert("oldest"))}, id=f"{now - 86_400_000}-0")
        await raised(log, 5)
        await to.caught_up()
        position = (await to.fold()).position
        before = (await log.load()).state
        await client.flushall()
        early = EntryID(position.ms - 3_600_000, 0)
        events: list[Event] = [upsert("s1", 9000), ScheduleRemoved(name="s2"), upsert("new"), upsert("new", 4000)]
        for number, event in enumerate(events):
            await client.xadd(EVENTS, {"e": encode(event)}, id=f"{early.ms + number}-0")
        await to.caught_up()
        state = (await loaded(server)).state
        assert state.rows.keys() == before.rows.keys() - {"s2"} | {"new"}
        assert state.rows["s1"].schedule().trigger == Every(9000)
        assert state.rows["new"].schedule().trigger == Every(4000)
        assert EntryID.parse(state.rows["s1"].generation) > position
        same(await to.fold(), state)
        # And those that come from now on.
        [later] = await log.append([upsert("s4", 8000)])
        assert EntryID.parse(later) > position


@pytest.mark.flavours("valkey")
@in_loop
async def test_a_snapshot_of_what_was_left_is_never_taken_for_the_restored(server: Server, tmp_path: Path) -> None:
    async with archived(server, tmp_path) as to, opened(server) as (log, client):
        wanted = await lost(server, to)
        rest = await log.load()
        assert len(rest.state.rows) == 2
        # Another daemon has loaded this and writes it down: before, or in the middle, or afterwards.
        assert await log.write_snapshot(rest.state) is not None
        unfinished = await log.begin_snapshot(rest.state)
        await healed(to, wanted)
        assert await log.write_snapshot(rest.state) is None
        assert not await client.xrange(SNAPSHOTS, unfinished.end.of, unfinished.end.of)
        await healed(to, wanted)
        now = await log.load()
        assert await log.write_snapshot(now.state, restored=now.restored) is not None
        same((await log.load()).state, wanted)


@pytest.mark.flavours("valkey")
@in_loop
async def test_lost_again_while_it_is_restored(server: Server, tmp_path: Path) -> None:
    at = 0
    while await lost_again(server, tmp_path / str(at), at):
        at += 1
    assert at > 5


async def lost_again(server: Server, folder: Path, at: int) -> bool:
    """Lose everything before the call with this number; False when there was none."""
    server.flush()
    folder.mkdir()
    calls = 0
    async with archived(server, folder) as to, opened(server) as (log, client):
        await lost(server, to)

        async def flush() -> None:
            nonlocal calls
            if calls == at:
                await client.flushall()
                await log.append([upsert("last")])
            calls += 1

        to.links.between = flush
        await to.steps()
        to.links.between = None
        await to.caught_up()
        state = (await loaded(server)).state
        assert state.rows.keys() >= {"s0", "s1", "s3", "s4"} | ({"last"} if calls > at else set())
        same(await to.fold(), state)
    return calls > at


@pytest.mark.flavours("valkey")
@in_loop
async def test_nothing_is_trimmed_that_is_not_archived(server: Server, tmp_path: Path) -> None:
    async with archived(server, tmp_path) as to, opened(server) as (log, client):
        await raised(log, 5)
        await to.caught_up()
        position = (await to.fold()).position

        async def snapshots_and_trim() -> int:
            for number in range(3):
                await log.append([upsert(f"more{number}")])
                assert await log.write_snapshot((await log.load()).state) is not None
            return (await log.trim(limit=await log.archived())).events

        assert await snapshots_and_trim() <= 4
        assert await client.xrange(EVENTS, str(position), str(position))
        await to.caught_up()
        await to.caught_up()
        assert await snapshots_and_trim() > 0
        await to.caught_up()
        same(await to.fold(), (await log.load()).state)


@pytest.mark.flavours("valkey")
@in_loop
async def test_what_was_trimmed_unarchived_is_read_from_the_snapshot(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reclaimd.streams.schedules.log.WAITING", 10)
    async with archived(server, tmp_path) as to, opened(server) as (log, _):
        await raised(log, 5)
        await to.caught_up()
        for number in range(4):
            await raised(log, 5, first=100 * number)
            assert await log.write_snapshot((await log.load()).state) is not None
        assert (await log.trim(limit=await log.archived())).events > 5
        await log.append([ScheduleRemoved(name="s1")])
        await to.caught_up()
        same(await to.fold(), (await log.load()).state)
        assert to.archiver.last_report is None


@pytest.mark.flavours("valkey")
@in_loop
async def test_the_archive_folds_what_it_has(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reclaimd.daemon.loops.schedule_archiver.COMPACT", 10)
    async with archived(server, tmp_path) as to, opened(server) as (log, client):
        for number in range(5):
            await raised(log, 12, first=100 * number)
            await to.caught_up()
        kept = [event async for event in to.store.schedules.events(NAMESPACE)]
        assert len(kept) <= 36
        before = (await log.load()).state
        same(await to.fold(), before)
        await client.delete(EPOCH, SNAPSHOTS)
        await to.caught_up()
        same((await loaded(server)).state, before)
        same(await to.fold(), before)


@pytest.mark.flavours("valkey")
@in_loop
async def test_another_archives_schedules_are_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with (
        archived(server, tmp_path / "a") as to,
        archived(server, tmp_path / "b") as other,
        opened(server) as (log, client),
    ):
        await raised(log, 3)
        await to.caught_up()
        epoch = await client.hgetall(EPOCH)
        with pytest.raises(ForeignSchedules, match="belong to archive"):
            await other.steps()
        assert other.scheduler.gate.closed("any")
        assert await client.hgetall(EPOCH) == epoch


@pytest.mark.flavours("valkey")
@in_loop
async def test_by_hand_they_stay_frozen_until_somebody_asks(server: Server, tmp_path: Path) -> None:
    async with archived(server, tmp_path, rebuild="manual") as to, opened(server) as (_, client):
        wanted = await lost(server, to)
        for _ in range(3):
            await to.steps()
            assert await client.hget(EPOCH, "state") == b"lost"
            assert to.scheduler.gate.closed("any")
        verdict, facts = await look_at_schedules(to.store, to.links, NAMESPACE)
        assert verdict.kind == "lost"
        plan = await plan_schedules(to.store, to.links, NAMESPACE, verdict, judge=judge)
        assert (plan.dry_run, plan.schedules, plan.verdict) == (True, 5, "empty")
        report = await rebuild_schedules(
            to.store, to.links, NAMESPACE, verdict, facts, new_id=lambda: "0" * 16, judge=judge
        )
        assert (report.schedules, report.verdict) == (5, "empty")
        await healed(to, wanted)


@pytest.mark.flavours("valkey")
@in_loop
async def test_the_report_says_when_it_began_and_ended(server: Server, tmp_path: Path) -> None:
    """By the server's clock."""
    seen = list[int]()

    async def slow(*judged: Any) -> Judged:
        seen.append(await server_ms(to.links))
        while await server_ms(to.links) < seen[0] + 20:
            await anyio.lowlevel.checkpoint()
        seen.append(await server_ms(to.links))
        return await judge(*judged)

    async with archived(server, tmp_path, rebuild="manual") as to:
        await lost(server, to)
        await to.steps()
        verdict, facts = await look_at_schedules(to.store, to.links, NAMESPACE)
        before = await server_ms(to.links)
        report = await rebuild_schedules(
            to.store, to.links, NAMESPACE, verdict, facts, new_id=lambda: "0" * 16, judge=slow
        )
        assert before <= report.begun_ms <= seen[0] < seen[1] <= report.ended_ms <= await server_ms(to.links)
        kept = await to.store.last_rebuild(to.archiver._partition)
        assert kept == report


@pytest.mark.flavours("valkey")
@in_loop
async def test_what_is_being_restored_can_be_removed(server: Server, tmp_path: Path) -> None:
    app = Reclaimd(server.url, NAMESPACE)
    async with archived(server, tmp_path, rebuild="manual") as to, opened(server) as (log, client):
        await raised(log, 3)
        await to.caught_up()
        await client.flushall()
        with pytest.raises(UnknownSchedule):
            await app.schedules.remove("s1")
        await to.steps()
        await app.schedules.remove("s1")
        await app.schedules.pause("s2")
        verdict, facts = await look_at_schedules(to.store, to.links, NAMESPACE)
        await rebuild_schedules(to.store, to.links, NAMESPACE, verdict, facts, new_id=lambda: "0" * 16, judge=judge)
        await to.caught_up()
        listed = {one.name: one.paused for one in await app.schedules.list()}
        assert listed == {"s0": False, "s2": True}


@pytest.mark.flavours("valkey")
@in_loop
async def test_redis_is_taken_as_it_is(server: Server, tmp_path: Path) -> None:
    async with archived(server, tmp_path, rebuild="manual") as to, opened(server) as (log, client):
        await raised(log, 3)
        await to.caught_up()
        await client.flushall()
        await log.append([upsert("new")])
        await to.steps()
        verdict, facts = await look_at_schedules(to.store, to.links, NAMESPACE)
        assert verdict.kind == "lost"
        assert await adopt_schedules(to.store, to.links, NAMESPACE, "one", facts, "abcd")
        assert not await adopt_schedules(to.store, to.links, NAMESPACE, "one", facts, "dcba")
        await to.caught_up()
        state = (await loaded(server)).state
        assert set(state.rows) == {"new"}
        same(await to.fold(), state)

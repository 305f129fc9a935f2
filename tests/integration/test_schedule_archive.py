"""Definitions of schedules: archived, lost in every way, restored, while clients go on."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from reclaimd.streams.keys import schedule_epoch_key
from reclaimd.streams.schedules.events import SchedulePaused, ScheduleRemoved
from reclaimd.streams.schedules.fold import Schedules
from support.daemons import NAMESPACE, in_loop
from support.schedule_archives import Archived, archived, loaded, same
from support.schedule_logs import EVENTS, SNAPSHOTS, opened, raised, upsert
from support.servers import FreshServer, Server

EPOCH = schedule_epoch_key(NAMESPACE)


async def filled(server: Server, many: int = 12) -> Schedules:
    """Some schedules, one changed, one paused, one removed."""
    async with opened(server) as (log, _):
        await raised(log, many)
        await log.append([upsert("s1", 5000), SchedulePaused(name="s2"), ScheduleRemoved(name="s3")])
        return (await log.load()).state


async def restored(to: Archived) -> Schedules:
    await to.caught_up()
    state = (await loaded(to.server)).state
    same(await to.fold(), state)
    return state


@in_loop
async def test_what_there_is_and_what_comes_is_archived(server: Server, tmp_path: Path) -> None:
    await filled(server)
    async with archived(server, tmp_path) as to, opened(server) as (log, _):
        await to.caught_up()
        same(await to.fold(), (await log.load()).state)
        await raised(log, 2500, first=100)
        await to.caught_up()
        same(await to.fold(), (await log.load()).state)
        assert (await to.fold()).position == (await log.load()).state.position


@in_loop
async def test_a_log_that_was_trimmed_is_archived_from_its_snapshot(server: Server, tmp_path: Path) -> None:
    async with opened(server) as (log, _):
        for _ in range(3):
            await filled(server)
            assert await log.write_snapshot((await log.load()).state)
        await log.trim()
        await log.append([upsert("last")])
        async with archived(server, tmp_path) as to:
            await to.caught_up()
            same(await to.fold(), (await log.load()).state)


@pytest.mark.parametrize("lost", ["all", "events", "snapshots", "epoch", "events and snapshots", "events and epoch"])
@in_loop
async def test_what_is_lost_comes_back(server: Server, tmp_path: Path, lost: str) -> None:
    async with archived(server, tmp_path) as to, opened(server) as (log, client):
        for number in range(3):
            await raised(log, 3, first=100 * number)
            assert await log.write_snapshot((await log.load()).state)
        await log.trim()
        before = await filled(server)
        await to.caught_up()
        if lost == "all":
            await client.flushall()
        else:
            keys = {"events": EVENTS, "snapshots": SNAPSHOTS, "epoch": EPOCH}
            await client.delete(*(keys[name] for name in lost.split(" and ")))
        new = await log.append([upsert("s4", 7000), upsert("new"), ScheduleRemoved(name="s5")])
        after = await restored(to)
        assert to.archiver.last_report is not None
        assert to.archiver.last_report.verdict == ("empty" if lost == "all" else "partial")
        assert to.archiver.last_report.schedules == len(before.rows)
        assert after.rows.keys() == before.rows.keys() - {"s5"} | {"new"}
        for name in before.rows.keys() - {"s4", "s5"}:
            assert after.rows[name] == before.rows[name]
        assert after.rows["s4"].generation == new[0]
        assert (await loaded(server)).problems == []
        # Again nothing happens.
        report = to.archiver.last_report
        await to.caught_up()
        assert to.archiver.last_report is report


@in_loop
async def test_an_old_copy_is_brought_up_to_date(fresh_server: FreshServer, tmp_path: Path) -> None:
    server = fresh_server(save="")
    async with archived(server, tmp_path) as to:
        await filled(server)
        await to.caught_up()
        rolled_back_to_now = await copied(server)
        async with opened(server) as (log, _):
            await log.append([upsert("s6", 9000), ScheduleRemoved(name="s7"), upsert("later"), upsert("s8", 2000)])
            before = (await log.load()).state
        await to.caught_up()
        rolled_back_to_now()
        async with opened(server) as (log, _):
            assert "s7" in (await log.load()).state.rows
            await log.append([upsert("s8", 3000), upsert("new")])
        after = await restored(to)
        assert to.archiver.last_report is not None
        assert to.archiver.last_report.verdict == "rolled_back"
        assert after.rows.keys() == before.rows.keys() | {"new"}
        assert after.rows["s6"] == before.rows["s6"]
        assert after.rows["s8"].schedule().trigger == upsert_trigger(3000)


def upsert_trigger(every_ms: int) -> Any:
    import msgspec

    from reclaimd.streams.schedules.model import Schedule

    return msgspec.json.decode(bytes(upsert("x", every_ms).schedule), type=Schedule).trigger


async def copied(server: Server) -> Any:
    """Save the data; returns what restarts the server with them."""
    async with opened(server) as (_, client):
        await client.save()
    dump = server.folder / "dump.rdb"
    kept = server.folder / "kept.rdb"
    shutil.copy(dump, kept)

    def roll_back() -> None:
        server.kill9()
        shutil.copy(kept, dump)
        server.start()

    return roll_back

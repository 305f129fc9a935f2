"""A schedule whose newest change is lost, but not what was fired of it since: it goes on by itself."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from integration.test_schedule_archive_firing import MAIL, all_archived, archived, fired, fires_on
from reclaimd.streams.schedules.model import Every
from support.archives import in_file, with_archive
from support.daemons import captured, in_loop, lines_of, running, settings_for
from support.schedules import Schedules, schedules_on
from support.servers import Server
from support.waiting import await_until

LOST = "a change of this schedule is lost, though it was fired already"
LONG = 30.0
"""Seconds: that a change is lost, and not on its way, is believed only after ten."""


async def fires_again(schedules: Schedules, generation: str, last: int, lines: list[Any]) -> None:
    """In the lost generation, nothing twice, and told once."""
    after = max(last, schedules.now_ms())
    await await_until(lambda: fires_on(schedules, after, "a"), "it to fire on", LONG)
    since = [task for task in schedules.tasks() if task.nominal > last or task.generation == generation]
    assert {task.generation for task in since} == {generation}
    assert min(task.nominal for task in since if task.at >= after) > last
    found = fired(schedules, "a")
    assert len(found) == len(set(found)), "an instant came twice"
    told = [line for line in lines if line["event"].startswith(LOST)]
    assert [(line["schedule"], line["lost"]) for line in told] == [("a", generation)]


@pytest.mark.parametrize("loss", ["everything", "the queue"])
@in_loop
async def test_a_change_that_was_fired_but_not_archived_keeps_nothing_from_firing(
    server: Server, tmp_path: Path, loss: str
) -> None:
    """The archive reads a queue and the schedules one after the other: all may be lost in between."""
    with schedules_on(server) as schedules, captured() as lines:
        async with running(with_archive(server, in_file(tmp_path))):
            first = schedules.put("a", overlap="allow")
            await schedules.wait_tasks(2)
            await await_until(lambda: archived(schedules, first), "it to be archived")
            await await_until(lambda: all_archived(schedules, tmp_path), "the archive to catch up")
        last = fired(schedules, "a")[-1]
        lost = f"{last - 500}-0"
        with closing(sqlite3.connect(tmp_path / "archive.db")) as database, database:
            changed = database.execute("UPDATE reclaimd_fired SET generation = ?, open = ''", (lost,))
            assert changed.rowcount == 1
        if loss == "everything":
            schedules.client.flushall()
        else:
            queue: Any = schedules.client.keys(f"{MAIL.tag}:*")
            schedules.client.delete(*queue)
        async with running(with_archive(server, in_file(tmp_path))) as daemon:
            await await_until(lambda: lines_of(lines, "rebuilt"), "the queue to be rebuilt")
            await fires_again(schedules, lost, last, lines)
            await daemon.wait_page("/readyz", 200)
    restored = lines_of(lines, "schedules restored")
    assert [report["problems"] for report in restored] == ([1] if loss == "everything" else [])


@in_loop
async def test_a_change_that_only_the_log_has_lost_keeps_nothing_from_firing(server: Server) -> None:
    """The log and the queue may be in other slots, and each lose its own last second. No archive."""
    with schedules_on(server) as schedules, captured() as lines:
        async with running(settings_for(server)):
            schedules.put("a", overlap="allow")
            await schedules.wait_tasks(1)
            lost = schedules.put("a", Every(1_001), overlap="allow")
            await await_until(lambda: schedules.fired()["a"].generation == lost, "it to fire as changed")
        last = schedules.fired()["a"].last
        schedules.client.delete(schedules.snapshots_key)
        assert schedules.client.xdel(schedules.events_key, lost) == 1
        async with running(settings_for(server)):
            await fires_again(schedules, lost, last, lines)


@in_loop
async def test_a_schedule_whose_removal_is_lost_fires_again_until_it_is_removed(server: Server) -> None:
    with schedules_on(server) as schedules, captured() as lines:
        async with running(settings_for(server)):
            schedules.put("a", overlap="allow")
            await schedules.wait_tasks(1)
            lost = schedules.remove("a")
            await await_until(lambda: schedules.fired()["a"].generation == lost, "it to be retired")
        last = schedules.fired()["a"].last
        schedules.client.delete(schedules.snapshots_key)
        assert schedules.client.xdel(schedules.events_key, lost) == 1
        async with running(settings_for(server)):
            await fires_again(schedules, lost, last, lines)
            removed = schedules.remove("a")
            await await_until(lambda: schedules.fired()["a"].generation == removed, "it to be retired")
            new = schedules.put("a", overlap="allow")
            await await_until(lambda: schedules.fired()["a"].generation == new, "it to fire anew")

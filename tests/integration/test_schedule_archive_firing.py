"""Schedules in a running daemon that has an archive: what fires, and what does not, when Redis loses its data."""

import asyncio
import shutil
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from reclaimd.streams import scripts
from reclaimd.streams.ids import EntryID
from reclaimd.streams.keys import STREAMS, Partition
from reclaimd.streams.schedules.model import Every
from reclaimd.streams.settings import Settings
from support.archives import in_file, verdict_on, with_archive
from support.daemons import NAMESPACE, Queue, captured, in_loop, lines_of, queue_on, running
from support.schedules import Schedules, born, instants, schedules_on
from support.servers import FreshServer, Server
from support.waiting import await_until

MAIL = Partition(NAMESPACE, "mail")
TOLERANCE = 2_000
LATE = 5
"""Where a row of OccurrenceFired says by how many milliseconds it was late."""


def fired(schedules: Schedules, name: str) -> list[int]:
    """Nominal instants, as the lane has them."""
    return instants(schedules.tasks(), name)


@in_loop
async def test_an_emptied_redis_gets_its_schedules_back_and_they_fire_on(server: Server, tmp_path: Path) -> None:
    with schedules_on(server) as schedules, captured() as lines:
        async with running(with_archive(server, in_file(tmp_path))) as daemon:
            generation = schedules.put("a", overlap="allow")
            schedules.put("idle", Every(3_600_000))
            await schedules.wait_tasks(2)
            await await_until(lambda: schedules.client.xinfo_groups(schedules.events_key), "the archive to follow")
            await await_until(lambda: archived(schedules, generation), "it to be archived")
            await await_until(lambda: all_archived(schedules, tmp_path), "the archive to catch up")
            before = fired(schedules, "a")
            schedules.client.flushall()
            await await_until(lambda: lines_of(lines, "schedules restored"), "the schedules to be restored")
            await daemon.wait_page("/readyz", 200)
            tasks = await schedules.wait_tasks(len(before) + 2)
            found = fired(schedules, "a")
            assert len(found) == len(set(found)), "an instant came twice"
            assert {task.generation for task in tasks} == {generation}
            assert all((nominal - born(generation)) % 1_000 == 0 for nominal in found)
            last = schedules.fired()["a"]
            assert last.generation == generation
    [report] = lines_of(lines, "schedules restored")
    assert (report["verdict"], report["schedules"]) == ("empty", 2)


def rows_of(folder: Path) -> dict[str, int]:
    """Schedule → the last instant that the archive knows to be dealt with."""
    with closing(sqlite3.connect(f"file:{folder}/archive.db?mode=ro", uri=True)) as database:
        return dict(database.execute("SELECT schedule, last FROM reclaimd_fired").fetchall())


def all_archived(schedules: Schedules, folder: Path) -> bool:
    """Whether the archive knows all that was fired."""
    now = {name: row.last for name, row in schedules.fired().items()}
    return bool(now) and now == rows_of(folder)


def archived(schedules: Schedules, position: str) -> bool:
    """Whether the archive has read this event."""
    found: Any = schedules.client.hget(f"{{{NAMESPACE}:schedules}}:epoch", "position")
    return found is not None and found != b"0-0"


@in_loop
async def test_lost_rows_of_what_was_fired_fire_nothing_again(server: Server, tmp_path: Path) -> None:
    with schedules_on(server) as schedules, captured() as lines:
        async with running(with_archive(server, in_file(tmp_path))) as daemon:
            generation = schedules.put("a", overlap="allow")
            await schedules.wait_tasks(3)
            await await_until(lambda: all_archived(schedules, tmp_path), "the archive to catch up")
            schedules.client.delete(MAIL.key("fired"))
            await await_until(lambda: lines_of(lines, "rebuilt"), "the queue to be rebuilt")
            await daemon.wait_page("/readyz", 200)
            await schedules.wait_tasks(6)
            found = fired(schedules, "a")
            assert len(found) == len(set(found)), "an instant came twice"
            assert found == list(range(born(generation) + 1_000, found[-1] + 1, 1_000))
    assert not lines_of(lines, "loop failed")


async def lose(server: Server, folder: Path, missed_ms: int, **rules: dict[str, Any]) -> dict[str, int]:
    """Schedules of every second fire and are archived; then no daemon runs, Redis is emptied, and instants pass.

    `rules`: of each schedule. Returns the last instant that the archive knows of each.
    """
    with schedules_on(server) as schedules:
        async with running(with_archive(server, in_file(folder))):
            last = [schedules.put(name, **fields) for name, fields in rules.items()][-1]
            await await_until(lambda: all(len(fired(schedules, name)) > 1 for name in rules), "each to fire")
            await await_until(lambda: archived(schedules, last), "them to be archived")
            await await_until(lambda: all_archived(schedules, folder), "the archive to catch up")
        known = rows_of(folder)
        schedules.client.flushall()
        gone = schedules.now_ms()
        await await_until(lambda: schedules.now_ms() > gone + missed_ms, "instants to be missed", missed_ms)
    return known


def tolerant(server: Server, folder: Path) -> Settings:
    """Settings of a daemon to which what is late by more than TOLERANCE was missed."""
    settings = with_archive(server, in_file(folder))
    scheduler = msgspec.structs.replace(settings.scheduler, misfire_after_ms=TOLERANCE)
    return msgspec.structs.replace(settings, scheduler=scheduler)


@in_loop
async def test_what_came_due_while_redis_was_empty_is_overdue(fresh_server: FreshServer, tmp_path: Path) -> None:
    server = fresh_server()
    once, skip = {"misfire": "run_once", "overlap": "allow"}, {"misfire": "skip", "overlap": "allow"}
    known = await lose(server, tmp_path, 6_000, once=once, skip=skip)
    with schedules_on(server) as schedules, captured() as lines:
        async with running(tolerant(server, tmp_path)):
            await await_until(lambda: all(len(fired(schedules, name)) > 2 for name in known), "them to fire on")
        tasks = schedules.tasks()
        skipped = schedules.happened("OccurrenceSkipped")
    [report] = lines_of(lines, "schedules restored")
    assert report["overdue"] >= 10
    assert sorted(row[0] for row in skipped) == ["once", "skip"]
    for name, _, after, upto, many, reason in skipped:
        assert (after, many, reason) == (known[name], (upto - known[name]) // 1_000, "misfire")
        # What was not skipped was fired, each instant once.
        found = instants(tasks, name)
        assert found == list(range(upto + 1_000, found[-1] + 1, 1_000))
    missed = next(task for task in tasks if task.name == "once")
    assert missed.at - missed.nominal > TOLERANCE, "none of those that were missed was run"
    # Both were planned at one instant: to either the same was late.
    on_time = instants(tasks, "skip")[0]
    assert missed.nominal < on_time < missed.nominal + 2_000, "it was not the last one, or not alone"


async def work(queue: Queue) -> None:
    """A worker for whom every task succeeds at once, until it is cancelled."""
    token = queue.join("w", 60_000)
    while True:
        taken = await await_until(lambda: queue.take("w", token, 10), "a task", 60)
        done = [verdict_on(delivery, "succeeded") for delivery in taken]
        queue.call(scripts.turn(queue.partition, "w", token, scripts.Turn(0, True, done)))


@in_loop
async def test_a_backlog_drips_after_a_rebuild_and_what_is_beyond_the_cap_is_told(
    fresh_server: FreshServer, tmp_path: Path
) -> None:
    server, cap, drip = fresh_server(), 5, 400
    rule = {"misfire": "run_all", "misfire_cap": cap, "drip_ms": drip, "overlap": "allow"}
    known = await lose(server, tmp_path, 9_000, all=rule)
    async with queue_on(server) as queue:
        with schedules_on(server) as schedules, captured() as lines:

            def rows() -> list[list[Any]]:
                return schedules.happened("OccurrenceFired")

            async with running(tolerant(server, tmp_path)):
                await await_until(lambda: lines_of(lines, "rebuilt"), "the queue to be rebuilt")
                worker = asyncio.create_task(work(queue))
                await await_until(lambda: [row for row in rows() if row[LATE] < 1_000], "it to fire on time again", 30)
                worker.cancel()
            skipped = schedules.happened("OccurrenceSkipped")
            dealt_with = sorted([(row[2] - 1_000, row[2]) for row in rows()] + [(row[2], row[3]) for row in skipped])
            backlog = [row for row in rows() if row[LATE] > TOLERANCE]
    # From what the archive knew on, every instant was either fired or told as skipped, once.
    assert dealt_with[0][0] == known["all"]
    assert all(end == begin for (_, end), (begin, _) in pairwise(dealt_with)), dealt_with
    # Two at least were beyond the cap; whoever was slow to finish the task before may have added some.
    assert {row[5] for row in skipped} == {"cap"}
    assert dealt_with[0][1] == skipped[0][3] >= known["all"] + 2_000
    assert [row[2] for row in backlog] == sorted(row[2] for row in backlog)
    assert len(backlog) >= cap
    # One that was not yet late when the daemon looked may be by the time it fires: that one need not drip.
    at = [EntryID.parse(row[4]).ms for row in backlog if row[LATE] > TOLERANCE + 1_000]
    assert len(at) >= 3
    # The daemon reckons the server's time, which is a little off on a machine that is slow.
    assert min(after - before for before, after in pairwise(at)) >= drip - 100, at


def fires_on(schedules: Schedules, after: int, *names: str) -> bool:
    """Whether each has fired an instant after this one."""
    return all(fired(schedules, name)[-1:] > [after] for name in names)


def everywhere(schedules: Schedules) -> list[str]:
    """Task IDs in all streams of the queue."""
    found = []
    for name in STREAMS:
        reply: Any = schedules.client.xrange(MAIL.key(name))
        found += [fields[b"task"].decode() for _, fields in reply]
    return found


@in_loop
async def test_an_old_copy_fires_nothing_again(fresh_server: FreshServer, tmp_path: Path) -> None:
    server = fresh_server(save="")
    with schedules_on(server) as schedules, captured() as lines:
        async with running(with_archive(server, in_file(tmp_path))) as daemon:
            generation = schedules.put("a", overlap="allow")
            schedules.put("b", Every(1_000), overlap="allow", jitter_ms=300)
            await schedules.wait_tasks(4)
            await await_until(lambda: all_archived(schedules, tmp_path), "the archive to catch up")
            schedules.client.save()
            shutil.copy(server.folder / "dump.rdb", server.folder / "kept.rdb")
            schedules.put("c", overlap="allow")
            await await_until(lambda: len(fired(schedules, "c")) > 1, "it to fire on")
            await await_until(lambda: all_archived(schedules, tmp_path), "the archive to catch up")
            server.kill9()
            shutil.copy(server.folder / "kept.rdb", server.folder / "dump.rdb")
            server.start()
            await await_until(lambda: lines_of(lines, "schedules restored"), "the schedules to be restored", 20)
            await await_until(lambda: lines_of(lines, "rebuilt"), "the queue to be rebuilt", 20)
            after = schedules.now_ms()
            await await_until(lambda: fires_on(schedules, after, "a", "b", "c"), "all to fire on")
            await daemon.wait_page("/readyz", 200)
        found = everywhere(schedules)
        assert len(found) == len(set(found)), "an occurrence was made twice"
        assert all(of.split(":")[1] == generation for of in found if of.startswith("a:"))
    assert lines_of(lines, "schedules restored")[0]["verdict"] == "rolled_back"


@in_loop
async def test_two_daemons_with_one_archive(server: Server, tmp_path: Path) -> None:
    settings = with_archive(server, in_file(tmp_path))
    with schedules_on(server) as schedules, captured() as lines:
        async with running(settings) as one, running(settings) as two:
            generation = schedules.put("a", overlap="allow")
            await schedules.wait_tasks(2)
            await await_until(lambda: archived(schedules, generation), "it to be archived")
            await await_until(lambda: all_archived(schedules, tmp_path), "the archive to catch up")
            schedules.client.flushall()
            new = schedules.put("b", overlap="allow")
            await await_until(lambda: lines_of(lines, "rebuilt"), "the queue to be rebuilt")
            after = schedules.now_ms()
            await await_until(lambda: fires_on(schedules, after, "a", "b"), "all to fire on")
            for daemon in (one, two):
                await daemon.wait_page("/readyz", 200)
        found = everywhere(schedules)
        assert len(found) == len(set(found)), "an occurrence was made twice"
        assert {of.rpartition(":")[0] for of in found} == {f"a:{generation}", f"b:{new}"}
    assert len(lines_of(lines, "schedules restored")) == 1

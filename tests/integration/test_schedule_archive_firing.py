"""Schedules in a running daemon that has an archive: what fires, and what does not, when Redis loses its data."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from reclaimd.streams.keys import STREAMS, Partition
from reclaimd.streams.schedules.model import Every
from support.archives import in_file, with_archive
from support.daemons import NAMESPACE, captured, in_loop, lines_of, running
from support.schedules import Schedules, born, instants, schedules_on
from support.servers import FreshServer, Server
from support.waiting import await_until

MAIL = Partition(NAMESPACE, "mail")


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


@in_loop
async def test_what_came_due_while_redis_was_empty_is_overdue(fresh_server: FreshServer, tmp_path: Path) -> None:
    server = fresh_server()
    with schedules_on(server) as schedules:
        async with running(with_archive(server, in_file(tmp_path))):
            generation = schedules.put("once", misfire="run_once", overlap="allow")
            schedules.put("skip", misfire="skip", overlap="allow")
            await schedules.wait_tasks(4)
            await await_until(lambda: archived(schedules, generation), "it to be archived")
            await await_until(lambda: all_archived(schedules, tmp_path), "the archive to catch up")
        known = rows_of(tmp_path)
        schedules.client.flushall()
        gone = schedules.now_ms()
        await await_until(lambda: schedules.now_ms() > gone + 4_000, "instants to be missed")
        settings = with_archive(server, in_file(tmp_path))
        late = msgspec.structs.replace(settings.scheduler, misfire_after_ms=1_000)
        with captured() as lines:
            async with running(msgspec.structs.replace(settings, scheduler=late)):
                await await_until(lambda: fired(schedules, "skip"), "it to fire on")
                await await_until(lambda: len(fired(schedules, "once")) > 2, "it to fire on")
        [report] = lines_of(lines, "schedules restored")
        assert report["overdue"] >= 6
        for name in ("once", "skip"):
            found = fired(schedules, name)
            assert found == sorted(set(found))
            assert found[0] > known[name]
        # One of those that were missed, and no other.
        missed = [[at for at in fired(schedules, name) if at < gone + 3_000] for name in ("once", "skip")]
        assert [len(of_one) for of_one in missed] in ([1, 0], [0, 0])


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

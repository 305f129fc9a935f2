"""`rebuild --accept --from ID` that is killed on the way, with an archive of either kind. Nothing of Redis is lost.

The program runs against a proxy that holds one of its scripts back, or its reply; there it is killed. What it wrote
into the archive by then is whole, since each of its writes is one transaction.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from reclaimd.daemon.archive.restoring_schedules import fold_of, look_at_schedules
from reclaimd.daemon.archive.taking_over import take_over_partition
from reclaimd.daemon.loops.catching_up import look
from reclaimd.streams.keys import Partition, schedule_epoch_key, schedule_events_key
from reclaimd.streams.lua_source import load_script
from reclaimd.streams.schedules.events import ScheduleUpserted
from reclaimd.streams.schedules.log import ScheduleLog
from support.archives import wait_same, with_archive
from support.cli import Done, environment, reclaimd, started
from support.daemons import NAMESPACE, in_loop, queue_on, running
from support.partitions import Held
from support.proxy import Proxy, Request, Rule
from support.rebuilds import Ward, ward
from support.schedule_archives import archived as archived_schedules
from support.schedule_logs import upsert
from support.servers import Server
from support.waiting import wait_until

pytestmark = pytest.mark.flavours("valkey")

SCHEDULES = schedule_epoch_key(NAMESPACE)
MAIL, NEWS = (Partition(NAMESPACE, queue).key("epoch") for queue in ("mail", "news"))


class Point(NamedTuple):
    """Where it is killed. `script`: with the epoch of this key; `done`: Redis has executed it, the reply is lost."""

    key: str
    script: str
    done: bool

    def is_in(self, request: Request) -> bool:
        """Whether this is its request."""
        return load_script(self.script).sha.encode() in request and self.key.encode() in request

    def arm(self, proxy: Proxy) -> Rule:
        """From now on the next such request, or its reply, does not get through."""
        return proxy.drop_reply(self.is_in) if self.done else proxy.hold(self.is_in)


def _points(key: str, adopt: str) -> list[Point]:
    """Each differs from the one before by something that is written."""
    return [Point(key, "disown", False), Point(key, "disown", True), Point(key, adopt, True)]


# In the order in which the command comes to them.
POINTS = [*_points(SCHEDULES, "schedules_adopt"), *_points(MAIL, "adopt"), *_points(NEWS, "adopt")]


class Succession(NamedTuple):
    """Two queues and schedules that belong to the archive `gone`, and the new archive at `url`, which knows nothing.

    Of these `mail` is whole; `news` and the schedules were being rebuilt when their archive was lost.
    """

    server: Server
    url: str
    gone: str
    mail: Ward
    news: Ward
    before: tuple[Held, Held]

    def flags(self, port: int) -> list[str]:
        """Where the program finds all that, Redis at this port."""
        return ["--redis-url", f"redis://127.0.0.1:{port}/0", "--namespace", NAMESPACE, "--archive-url", self.url]

    def again(self) -> Done:
        """The command, undisturbed."""
        flags = self.flags(self.server.port)
        return reclaimd("rebuild", "--accept", "--yes", "--json", "--from", self.gone, *flags)

    def kill_at(self, point: Point, folder: Path) -> None:
        """The command, dead at that point."""
        log = folder / "killed.log"
        with Proxy(self.server.port) as proxy, log.open("wb") as said:
            rule = point.arm(proxy)
            args = ["rebuild", "--accept", "--yes", "--from", self.gone, *self.flags(proxy.port)]
            process = started(*args, log=said, env=environment())
            try:
                wait_until(lambda: rule.done if point.done else rule.requests, f"the command to come to {point}", 20)
                assert process.poll() is None
            except AssertionError as error:
                raise AssertionError(f"{error}: {log.read_text()}") from None
            finally:
                process.kill()
                process.wait(10)

    def assert_nothing_is_lost(self) -> None:
        """What is in Redis is what was there, but for whose it is."""
        for one, was in zip((self.mail, self.news), self.before, strict=True):
            assert replace(one.held(), state="") == replace(was, state="")
        entries: Any = self.mail.client.xrange(schedule_events_key(NAMESPACE))
        assert [b'"daily"' in fields[b"e"] for _, fields in entries] == [True, False]

    def assert_tasks_are_there(self) -> None:
        """The same beside a daemon, which drops what is queued of schedules that nobody knows."""
        for one, was in zip((self.mail, self.news), self.before, strict=True):
            kept = {name: task for name, task in was.tasks.items() if task.place != "queued"}
            assert kept.items() <= one.held().tasks.items()

    async def assert_succeeded(self) -> None:
        """Everything is the new archive's."""
        for one in (self.mail, self.news):
            assert (await one.kind(), one.held().state) == ("healthy", "ok")
        judged, _ = await look_at_schedules(self.mail.store, self.mail.links, NAMESPACE)
        assert judged.kind == "healthy"
        assert set((await fold_of(self.mail.store, NAMESPACE)).rows) == {"daily", "weekly"}

    async def assert_archived_on(self) -> None:
        """A daemon is ready, and archives what is there and what comes."""
        async with running(with_archive(self.server, self.url)) as daemon:
            await daemon.wait_page("/readyz", 200, timeout=20)
            for one in (self.mail, self.news):
                assert one.enqueue("later") == ["ok"]
                async with queue_on(self.server, one.partition.queue) as queue:
                    await wait_same(self.url, queue)
            self.assert_tasks_are_there()
            await daemon.wait_page("/readyz", 200)


@asynccontextmanager
async def succession(server: Server, url: str, folder: Path) -> AsyncIterator[Succession]:
    """The archive that is gone was a file."""
    lost = f"sqlite:///{folder}/gone.db"
    async with ward(server, lost) as mail, ward(server, lost, "news") as news:
        mail.fill(paused=False)
        news.enqueue(*(f"news-{i}" for i in range(5)), unique="")
        news.enqueue("unique", unique="u:news", delay_ms=3_600_000)
        for one in (mail, news):
            await one.archive()
        async with archived_schedules(server, lost) as schedules:
            await mail.links.use(lambda client: ScheduleLog(client, NAMESPACE).append(map(daily, ("daily", "weekly"))))
            await schedules.caught_up()
        gone = mail.store.archive_id
        assert {mail.client.hget(key, "archive_id") for key in (SCHEDULES, MAIL, NEWS)} == {gone.encode()}
        mail.client.hset(NEWS, mapping={"state": "rebuilding", "rebuild": "r", "cursor": "tasks|"})
        assert news.enqueue("meanwhile") == ["ok"]
        mail.client.hset(SCHEDULES, mapping={"state": "lost", "rebuild": "s"})
    Path(f"{folder}/gone.db").unlink()
    async with ward(server, url) as mail, ward(server, url, "news") as news:
        for name in {point.script for point in POINTS}:
            # Asked for by its hash, so that the first answer is not that nobody knows it.
            mail.client.script_load(load_script(name).source)
        yield Succession(server, url, gone, mail, news, (mail.held(), news.held()))


def daily(name: str) -> ScheduleUpserted:
    """One that does not fire while a test runs."""
    return upsert(name, 86_400_000)


@in_loop
async def test_killed_at_each_step_it_goes_on(server: Server, url: str, tmp_path: Path) -> None:
    async with succession(server, url, tmp_path) as one:
        for point in POINTS:
            # To come there it has to go on with what the one before it left.
            one.kill_at(point, tmp_path)
            one.assert_nothing_is_lost()
        done = one.again()
        assert done.code == 0, done
        assert {r["queue"]: r["action"] for r in done.json["results"]} == {
            "": "none",
            "mail": "none",
            "news": "accepted",
        }
        one.assert_nothing_is_lost()
        await one.assert_succeeded()
        done = one.again()
        assert (done.code, {r["action"] for r in done.json["results"]}) == (0, {"none"}), done
        await one.assert_archived_on()


@in_loop
@pytest.mark.parametrize("point", [POINTS[1], POINTS[4], POINTS[5], POINTS[8]], ids=str)
async def test_killed_beside_a_daemon_one_of_the_two_goes_on(
    server: Server, url: str, tmp_path: Path, point: Point
) -> None:
    async with succession(server, url, tmp_path) as one:
        async with running(with_archive(server, url)) as daemon:
            await daemon.wait_page("/readyz", 503)
            await asyncio.to_thread(one.kill_at, point, tmp_path)
            one.assert_tasks_are_there()
            done = await asyncio.to_thread(one.again)
            assert done.code == 0, done
            await daemon.wait_page("/readyz", 200, timeout=20)
        one.assert_tasks_are_there()
        await one.assert_succeeded()


@in_loop
async def test_a_rebuild_of_what_is_taken_over_has_not_been(server: Server, tmp_path: Path) -> None:
    async with ward(server, f"sqlite:///{tmp_path}/a.db") as one:
        one.enqueue("task")
        await one.archive()
        await one.store.begin_rebuild(one.partition, "r", "e", "partial", "rebuilding")
        one.client.hset(MAIL, "archive_id", "another")
        judged, seen, _ = await look(one.store, one.links, one.partition)
        assert judged.kind == "foreign"
        await take_over_partition(one.store, one.links, one.partition, "another", seen, me="me", events_cap=1_000)
        assert (await one.kind(), await one.store.rebuilds(NAMESPACE)) == ("healthy", [])


@in_loop
async def test_a_full_redis_does_not_stop_it(server: Server, url: str, tmp_path: Path) -> None:
    async with succession(server, url, tmp_path) as one:
        one.mail.client.config_set("maxmemory", 1)
        try:
            done = one.again()
            assert (done.code, {r["action"] for r in done.json["results"]}) == (0, {"accepted"}), done
            await one.assert_succeeded()
        finally:
            one.mail.client.config_set("maxmemory", 0)
        one.assert_nothing_is_lost()


@in_loop
async def test_killed_at_its_last_step_a_daemon_alone_goes_on(server: Server, url: str, tmp_path: Path) -> None:
    async with succession(server, url, tmp_path) as one:
        one.kill_at(POINTS[-1], tmp_path)
        await one.assert_archived_on()
        await one.assert_succeeded()

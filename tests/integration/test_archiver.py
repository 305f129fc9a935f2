"""The archive follows its partitions: whole, once, by one daemon, through kills and troubles of its database."""

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from reclaimd.daemon.archive.store import open_store
from reclaimd.daemon.rebuild.values import Changes
from reclaimd.streams import scripts
from support.archive_rows import MAIL, ME, event, task
from support.archives import (
    Life,
    difference,
    in_file,
    sample,
    served,
    verdict_on,
    wait_same,
    wait_same_events,
    with_archive,
)
from support.cli import Done, reclaimd
from support.daemons import Daemon, Queue, in_loop, queue_on, running
from support.postgres import Postgres
from support.servers import Server
from support.waiting import await_until, wait_until


async def wait_sample(daemon: Daemon, value: float, name: str, timeout: float = 15.0, **labels: str) -> None:
    """Until a metric has this value."""

    async def has_it() -> bool:
        return await sample(daemon, name, **labels) == value

    await await_until(has_it, f"{name} {labels} to be {value}", timeout)


async def problem(daemon: Daemon, words: str, timeout: float = 10.0) -> str:
    """Until /readyz says this."""
    found = ""

    async def told() -> bool:
        nonlocal found
        _, body = await daemon.get("/readyz")
        found = str(body)
        return words in found

    await await_until(told, f"/readyz to say: {words}", timeout)
    return found


@in_loop
async def test_it_follows_a_life_of_tasks(server: Server, tmp_path: Path) -> None:
    url = in_file(tmp_path)
    async with queue_on(server) as queue, running(with_archive(server, url)) as daemon:
        life = Life(queue)
        for _ in range(5):
            await asyncio.to_thread(life.live, 60)
            await wait_same(url, queue)
        queue.call(scripts.pause(queue.partition, True))
        await wait_same(url, queue)
        assert await sample(daemon, "reclaimd_archive_owned", queue="mail") == 1
        await wait_sample(daemon, 0, "reclaimd_archive_lag_seconds", queue="mail")
        await wait_sample(daemon, 0, "reclaimd_archive_behind_events", queue="mail")
        assert (await daemon.get("/readyz"))[0] == 200


@pytest.mark.flavours("valkey")
@in_loop
async def test_status_tells_how_the_archive_is(server: Server, tmp_path: Path) -> None:
    url = in_file(tmp_path)
    env = {"RECLAIMD_REDIS_URL": server.url, "RECLAIMD_NAMESPACE": "t", "RECLAIMD_ARCHIVE_URL": url}

    async def status(*flags: str) -> Done:
        return await asyncio.to_thread(reclaimd, "status", *flags, env=env)

    async with queue_on(server) as queue:
        queue.enqueue(3)
        assert (await status("--json")).json["archive"]["state"] == "unreachable"
        assert not (tmp_path / "archive.db").exists()
        async with running(with_archive(server, url)):
            await wait_same(url, queue)
            found = await status("--json")
            assert found.json["archive"] == {
                "state": "healthy", "lag_seconds": 0.0, "url": url, "queues": {}, "problem": "", "schedules": ""
            }  # fmt: skip
        queue.raw("HDEL", queue.partition.key("epoch"), "mark", "mark_before")
        found = await status("--json")
        assert found.json["archive"]["state"] == "rolled_back"
        [warning] = found.json["warnings"]
        assert "queue mail: not what the archive knows (rolled_back: mark none in Redis" in warning
        assert warning.endswith("or reclaimd rebuild; with --dry-run it tells what would come back")
        assert f"Archive: rolled_back, 0 s behind ({url})." in (await status()).out
        assert (await asyncio.to_thread(reclaimd, "rebuild", env=env)).code == 0
        queue.raw("DEL", "{t:schedules}:epoch")
        found = await status("--json")
        assert found.json["archive"]["queues"] == {}
        assert found.json["archive"]["schedules"].startswith("partial: ")
        assert "schedules: not what the archive knows (partial: " in found.json["warnings"][0]


@pytest.mark.flavours("valkey")
@in_loop
async def test_what_was_there_before_its_archive_is_archived(server: Server, tmp_path: Path) -> None:
    """Delayed tasks and rows of schedules too, whose events were trimmed long ago."""
    url = in_file(tmp_path)
    async with queue_on(server) as queue:
        Life(queue, seed=7).live(150)
        queue.raw("XTRIM", queue.partition.key("events"), "MAXLEN", 2)
        async with running(with_archive(server, url)):
            await wait_same(url, queue)
        async with open_store(url) as store:
            assert (await store.count_tasks(queue.partition))["delayed"] > 0
            assert set(await store.fired(queue.partition)) == {"daily", "hourly"}


@pytest.mark.flavours("valkey")
@in_loop
async def test_it_follows_in_postgresql(server: Server, postgres: Postgres) -> None:
    url = postgres.url()
    async with queue_on(server) as queue, running(with_archive(server, url)):
        life = Life(queue, seed=3)
        for _ in range(3):
            await asyncio.to_thread(life.live, 60)
            await wait_same(url, queue)


@pytest.mark.flavours("valkey")
@in_loop
async def test_killed_at_any_instant_it_misses_nothing_and_doubles_nothing(server: Server, tmp_path: Path) -> None:
    url = in_file(tmp_path)
    async with queue_on(server) as queue:
        life = Life(queue, seed=11)
        stop = asyncio.Event()

        async def traffic() -> None:
            while not stop.is_set():
                await asyncio.to_thread(life.live, 5)
                # At some pace, or comparing them takes all the time.
                await asyncio.sleep(0.02)

        going = asyncio.create_task(traffic())
        for number in range(4):
            with served(server, url, tmp_path, f"d{number}") as daemon:
                await asyncio.to_thread(daemon.wait_said, '"archiving"')
                commits = number * 3
                await await_until(lambda n=commits: committed(url) > n, "a few commits", 10)  # type: ignore[misc]
                daemon.kill9()
        stop.set()
        await going
        with served(server, url, tmp_path, "last"):
            await wait_same(url, queue, timeout=40)
            # This one promotes and reclaims, and so it may always have written something that it has not archived yet.
            await wait_same_events(url, queue)
        assert "data are not what the archive knows" not in "".join(p.read_text() for p in tmp_path.glob("*.log"))


def committed(url: str) -> int:
    """The number of the last committed mark."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=10)) as database:
        marks = database.execute("SELECT mark FROM reclaimd_partitions WHERE queue = 'mail'").fetchall()
    return int(marks[0][0].partition(":")[0] or 0) if marks else 0


@pytest.mark.flavours("valkey")
@in_loop
async def test_of_two_daemons_one_archives_and_the_other_takes_over(server: Server, tmp_path: Path) -> None:
    url = in_file(tmp_path)
    async with queue_on(server) as queue:
        life = Life(queue)
        life.live(30)
        with served(server, url, tmp_path, "first") as first:
            await asyncio.to_thread(first.wait_said, '"archiving"')
            async with running(with_archive(server, url)) as second:
                await wait_same(url, queue)
                assert await sample(second, "reclaimd_archive_owned", queue="mail") == 0
                assert await sample(second, "reclaimd_archive_lag_seconds", queue="mail") is None
                token = queue.join("h", 60_000)
                await settle_one(queue, token)
                await wait_same(url, queue)
                assert not await sample(second, "reclaimd_task_run_seconds_count", queue="mail", outcome="succeeded")
                first.kill9()
                began = time.monotonic()
                await wait_sample(second, 1, "reclaimd_archive_owned", queue="mail", timeout=10)
                assert time.monotonic() - began < 10
                life.live(30)
                await settle_one(queue, token)
                await wait_same(url, queue)
                runs = await sample(second, "reclaimd_task_run_seconds_count", queue="mail", outcome="succeeded")
                assert runs is not None
                assert runs >= 1


async def settle_one(queue: Queue, token: str) -> None:
    """A task comes and succeeds."""
    queue.enqueue(1, lane="high")
    (delivery,) = queue.take("h", token, 1)
    queue.call(scripts.turn(queue.partition, "h", token, scripts.Turn(0, True, [verdict_on(delivery, "succeeded")])))


@pytest.mark.flavours("valkey")
@in_loop
async def test_a_silent_owner_is_replaced_within_ten_seconds(server: Server, tmp_path: Path) -> None:
    """One on another host cannot be seen to be dead."""
    url = in_file(tmp_path)
    async with queue_on(server) as queue:
        queue.enqueue(3)
        async with running(with_archive(server, url)):
            await wait_same(url, queue)
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=10)) as database, database:
            database.execute("UPDATE reclaimd_partitions SET owner = 'elsewhere', beat = 7")
        async with running(with_archive(server, url)) as daemon:
            assert await sample(daemon, "reclaimd_archive_owned", queue="mail") == 0
            began = time.monotonic()
            await wait_sample(daemon, 1, "reclaimd_archive_owned", queue="mail", timeout=10)
            assert time.monotonic() - began > 4
            queue.enqueue(3)
            await wait_same(url, queue)


@pytest.mark.flavours("valkey")
@in_loop
async def test_who_stops_hands_over_at_once(server: Server, tmp_path: Path) -> None:
    url = in_file(tmp_path)
    async with queue_on(server) as queue:
        queue.enqueue(3)
        async with running(with_archive(server, url)) as second, running(with_archive(server, url)):
            await wait_same(url, queue)
            assert await sample(second, "reclaimd_archive_owned", queue="mail") == 1
        async with running(with_archive(server, url)) as third:
            assert await sample(third, "reclaimd_archive_owned", queue="mail") == 1


@pytest.mark.flavours("valkey")
@in_loop
async def test_a_locked_database_delays_the_archive_and_no_recovery(server: Server, tmp_path: Path) -> None:
    url = in_file(tmp_path)
    async with queue_on(server) as queue, running(with_archive(server, url)) as daemon:
        queue.enqueue(3)
        await wait_same(url, queue)
        with closing(sqlite3.connect(tmp_path / "archive.db", timeout=10, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await lose_a_worker(queue)
            assert "archive behind" in await problem(daemon, "is locked by somebody else")
            await until_recovered(queue)
            queue.enqueue(5)

            async def lags() -> bool:
                return (await sample(daemon, "reclaimd_archive_lag_seconds", queue="mail") or 0) > 0

            await await_until(lags, "a lag to show")
            assert (await sample(daemon, "reclaimd_archive_behind_events", queue="mail") or 0) > 0
            assert await sample(daemon, "reclaimd_archive_up") == 0
            assert (await daemon.get("/healthz"))[0] == 200
            other.execute("ROLLBACK")
        await wait_same(url, queue)
        await daemon.wait_page("/readyz", 200)


async def lose_a_worker(queue: Queue) -> None:
    """It takes two tasks and falls silent."""
    token = queue.join("lost", 500)
    assert len(queue.take("lost", token, 2)) == 2


async def until_recovered(queue: Queue) -> None:
    """Its tasks are back."""
    await await_until(lambda: queue.length("recovered:normal") == 2, "the tasks to be recovered", 10)


@pytest.mark.flavours("valkey")
@in_loop
async def test_a_database_that_was_deleted_is_made_anew(server: Server, tmp_path: Path) -> None:
    url = in_file(tmp_path)
    async with queue_on(server) as queue, running(with_archive(server, url)) as daemon:
        Life(queue, seed=5).live(80)
        await wait_same(url, queue)
        archive_id = queue.raw("HGET", queue.partition.key("epoch"), "archive_id")
        for path in tmp_path.glob("archive.db*"):
            path.unlink()
        queue.enqueue(5)
        # Not before: who opens an archive that is not there makes a new one.
        await wait_sample(daemon, 1, "reclaimd_loss_detections_total", queue="mail", kind="archive_behind")
        await wait_same(url, queue, timeout=20)
        await daemon.wait_page("/readyz", 200)
        await lose_a_worker(queue)
        await wait_same(url, queue)
        async with open_store(url) as store:
            assert store.archive_id.encode() == archive_id


@pytest.mark.flavours("valkey")
@in_loop
async def test_postgresql_that_is_stopped(server: Server, postgres: Postgres) -> None:
    url = postgres.url()
    async with queue_on(server) as queue, running(with_archive(server, url)) as daemon:
        queue.enqueue(3)
        await wait_same(url, queue)
        postgres.stop()
        try:
            await lose_a_worker(queue)
            assert "p@ss" not in await problem(daemon, "archive behind")
            await until_recovered(queue)
        finally:
            postgres.start()
        await wait_same(url, queue, timeout=20)
        await daemon.wait_page("/readyz", 200)


@pytest.mark.flavours("valkey")
@in_loop
async def test_a_full_disk(server: Server, tmp_path: Path) -> None:
    """The file may not grow: what SQLite sees of a quota, or of a disk with no room left."""
    url = in_file(tmp_path)
    async with queue_on(server) as queue:
        queue.enqueue(3)
        with served(server, url, tmp_path) as daemon:
            await wait_same(url, queue)
            # No file may grow beyond the largest one: not the log, which is short.
            limit_file_size(daemon.process.pid, max(path.stat().st_size for path in tmp_path.glob("archive.db*")))
            await lose_a_worker(queue)
            await asyncio.to_thread(daemon.wait_said, "archive behind")
            await until_recovered(queue)
            assert "archive behind" in daemon.page("/readyz")
            assert daemon.sample("reclaimd_archive_up") == 0
            assert daemon.sample("reclaimd_archive_behind_events", queue="mail") > 0  # type: ignore[operator]
            limit_file_size(daemon.process.pid, None)
            await wait_same(url, queue)
            await asyncio.to_thread(daemon.wait_said, "archive has caught up")


def limit_file_size(pid: int, most: int | None) -> None:
    """Let a process write no file beyond so many bytes. Python ignores the signal, and gets an error."""
    import resource

    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if most is None else most, hard))


@pytest.mark.flavours("valkey")
@in_loop
async def test_without_its_database_a_daemon_starts_and_recovers(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "later"
    url = in_file(folder)
    async with queue_on(server) as queue:
        queue.enqueue(3)
        await lose_a_worker(queue)
        began = time.monotonic()
        async with running(with_archive(server, url)) as daemon:
            assert time.monotonic() - began < 6
            await problem(daemon, "archive behind")
            await until_recovered(queue)
            folder.mkdir()
            await wait_same(url, queue)
            await daemon.wait_page("/readyz", 200)


@pytest.mark.flavours("valkey")
@in_loop
async def test_events_are_not_trimmed_before_they_are_archived(server: Server, tmp_path: Path) -> None:
    import msgspec

    url = in_file(tmp_path)
    settings = with_archive(server, url)
    daemon_settings = msgspec.structs.replace(settings.daemon, events_retention_ms=1_000, events_max=100)
    settings = msgspec.structs.replace(settings, daemon=daemon_settings)
    async with queue_on(server) as queue, running(settings) as daemon:
        queue.enqueue(1)
        await wait_same(url, queue)
        events = queue.partition.key("events")
        with closing(sqlite3.connect(tmp_path / "archive.db", timeout=10, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(600):
                queue.enqueue(1)
            first = queue.raw("XRANGE", events, "-", "+", "COUNT", 1)[0][0]
            await problem(daemon, "archive behind")

            async def held() -> bool:
                return await sample(daemon, "reclaimd_archive_events_held", queue="mail") == 1

            await await_until(held, "the alert", 10)
            # Retention runs each second here.
            await asyncio.sleep(2.5)
            assert queue.length("events") > 600
            assert queue.raw("XRANGE", events, "-", "+", "COUNT", 1)[0][0] == first
            other.execute("ROLLBACK")
        await wait_same(url, queue)
        await await_until(lambda: queue.length("events") < 400, "retention to go on", 10)
        await wait_sample(daemon, 0, "reclaimd_archive_events_held", queue="mail")


@pytest.mark.flavours("valkey")
@in_loop
async def test_a_daemon_forgets_events_of_long_ago(server: Server, tmp_path: Path) -> None:
    """By the settings, of every namespace; an entry ID of the 1970s is older than any."""
    url = in_file(tmp_path)
    async with open_store(url) as store:
        assert await store.claim(MAIL, ME, None)
        await store.commit(MAIL, ME, Changes(events=(event(1), event(2)), upserts=(task(1),)), {})
        async with running(with_archive(server, url)):

            async def forgotten() -> bool:
                return [one async for one in store.events(MAIL)] == []

            await await_until(forgotten, "the events to be forgotten")
        assert await store.count_tasks(MAIL) == {"lane:normal": 1}


@pytest.mark.flavours("valkey")
@in_loop
async def test_beyond_the_limit_events_go_and_all_is_read_again(server: Server, tmp_path: Path) -> None:
    url = in_file(tmp_path)
    async with queue_on(server) as queue, running(with_archive(server, url, events_limit=1_000)) as daemon:
        life = Life(queue, seed=9)
        life.live(20)
        await wait_same(url, queue)
        with closing(sqlite3.connect(tmp_path / "archive.db", timeout=10, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await asyncio.to_thread(life.live, 1_500)
            for _ in range(700):
                queue.enqueue(1)
            assert queue.length("events") < 1_500
            other.execute("ROLLBACK")
        await wait_same(url, queue, timeout=30)
        assert (await sample(daemon, "reclaimd_archive_gaps_total", queue="mail") or 0) >= 1


@pytest.mark.flavours("valkey")
@in_loop
async def test_what_was_found_shows_in_the_metric(server: Server, tmp_path: Path) -> None:
    url = in_file(tmp_path)
    settings = with_archive(server, url, rebuild="manual")
    async with queue_on(server) as queue:
        queue.enqueue(3)
        async with running(settings) as daemon:
            await wait_same(url, queue)
            server.flush()
            await wait_sample(daemon, 1, "reclaimd_loss_detections_total", queue="mail", kind="empty")
            assert "reclaimd rebuild --queue mail" in await problem(daemon, "nothing runs")
            assert await sample(daemon, "reclaimd_loss_unresolved", queue="mail") == 1
            assert queue.view()["state"] == "lost"
            await asyncio.sleep(0)
        assert await difference(url, queue) != ""


@pytest.mark.flavours("valkey")
@in_loop
async def test_an_older_copy_of_the_archive_believes_redis(server: Server, tmp_path: Path) -> None:
    url, copy = in_file(tmp_path), tmp_path / "copy.db"
    async with queue_on(server) as queue:
        life = Life(queue, seed=13)
        life.live(40)
        async with running(with_archive(server, url)):
            await wait_same(url, queue)
            async with open_store(url) as store:
                await store.backup(copy)
            for _ in range(4):
                life.live(20)
                await wait_same(url, queue)
        copy.replace(tmp_path / "archive.db")
        for leftover in ("archive.db-wal", "archive.db-shm"):
            (tmp_path / leftover).unlink(missing_ok=True)
        async with running(with_archive(server, url)) as daemon:
            await wait_sample(daemon, 1, "reclaimd_loss_detections_total", queue="mail", kind="archive_behind")
            await wait_same(url, queue)
            await daemon.wait_page("/readyz", 200)


@pytest.mark.flavours("valkey")
@in_loop
async def test_another_archives_data_are_not_touched(server: Server, tmp_path: Path) -> None:
    url = in_file(tmp_path)
    async with queue_on(server) as queue:
        queue.enqueue(3)
        epoch = queue.partition.key("epoch")
        queue.raw("HSET", epoch, "archive_id", "theirs", "mark", "5:abc")
        async with running(with_archive(server, url)) as daemon:
            await problem(daemon, "theirs")
            await wait_sample(daemon, 1, "reclaimd_loss_detections_total", queue="mail", kind="foreign")
            assert queue.raw("HGET", epoch, "archive_id") == b"theirs"
            assert queue.raw("HGET", epoch, "mark") == b"5:abc"
            token = queue.join("w", 60_000)
            assert len(queue.take("w", token, 3)) == 3


@pytest.mark.flavours("valkey")
def test_a_queue_missing_from_the_registry_is_entered_again(server: Server, tmp_path: Path) -> None:
    async def main() -> None:
        url = in_file(tmp_path)
        async with queue_on(server) as queue:
            queue.enqueue(3)
            async with running(with_archive(server, url)):
                await wait_same(url, queue)
            server.flush()
            async with running(with_archive(server, url)):
                await await_until(lambda: queue.length("recovered:normal") == 3, "the tasks to be back", 10)
                wait_until(lambda: queue.raw("SMEMBERS", "{t}:queues") == {b"mail"}, "the registry to have it", 5)

    asyncio.run(main())

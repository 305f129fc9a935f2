"""An archive that does not help: each cause is one line with a cure, and what was committed is there afterwards."""

import asyncio
import gc
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from reclaimd.daemon.archive.errors import ArchiveFailed, ArchiveUnreachable, BackupRefused, Trouble
from reclaimd.daemon.archive.store import open_store
from reclaimd.daemon.rebuild.values import Changes
from support import archive_rows
from support.archive_rows import MAIL, ME, task, upserts
from support.daemons import in_loop
from support.postgres import Postgres
from support.servers import free_port
from support.waiting import await_until, wait_until


async def refused(url: str) -> ArchiveFailed:
    """Why it cannot be opened."""
    with pytest.raises(ArchiveFailed) as caught:
        async with open_store(url):
            pass
    said = str(caught.value)
    assert "\n" not in said
    assert "hunter" not in said
    assert "p@ss" not in said
    assert "p%40ss" not in said
    return caught.value


@in_loop
async def test_a_server_that_is_not_there() -> None:
    url = f"postgresql://user:hunter2@127.0.0.1:{free_port()}/db"
    error = await refused(url)
    assert isinstance(error, ArchiveUnreachable)
    assert error.waiting_helps
    assert str(error).startswith("the archive postgresql://user:***@127.0.0.1:")
    assert str(error).endswith("start its server, or correct archive.url")
    assert (await refused("postgresql://user:hunter2@nowhere.invalid/db")).trouble is Trouble.UNREACHABLE


@in_loop
async def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reclaimd.daemon.archive.engine.CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = await refused(f"postgresql://user:hunter2@127.0.0.1:{silent.getsockname()[1]}/db")
    assert error.trouble is Trouble.SLOW
    assert error.waiting_helps


@in_loop
async def test_a_server_that_lets_nobody_in(postgres: Postgres) -> None:
    error = await refused(postgres.url(password="hunter3"))
    assert error.trouble is Trouble.PASSWORD
    assert not error.waiting_helps
    assert (await refused(postgres.url().replace("/postgres", "/nope"))).trouble is Trouble.MISSING
    postgres.sql("CREATE ROLE reader LOGIN PASSWORD 'hunter3'")
    assert (await refused(postgres.url("reader", "hunter3"))).trouble is Trouble.PERMISSION


@in_loop
async def test_a_driver_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    error = await refused("postgresql://user:hunter2@127.0.0.1/db")
    assert str(error).endswith("needs a driver that is not installed: install reclaimd[postgresql]")


@in_loop
@pytest.mark.parametrize(
    ("url", "trouble"),
    [
        ("mysql://user:hunter2@host/db", Trouble.URL),
        ("sqlite://", Trouble.URL),
        ("postgresql://user:hunter2@host/db?ssl=nonsense", Trouble.URL),
        ("postgresql://user:hunter2@host/db?nonsense=1", Trouble.URL),
    ],
)
async def test_urls_that_cannot_be_used(url: str, trouble: Trouble) -> None:
    assert (await refused(url)).trouble is trouble


@in_loop
async def test_files_that_are_no_archive(tmp_path: Path) -> None:
    assert (await refused(f"sqlite:///{tmp_path}/folder/archive.db")).trouble is Trouble.MISSING
    (tmp_path / "text").write_text("Once upon a time there was a file that was no database at all, only words." * 20)
    assert (await refused(f"sqlite:///{tmp_path}/text")).trouble is Trouble.NOT_ONE
    assert "Once upon" in (tmp_path / "text").read_text()
    assert (await refused(f"sqlite:///{tmp_path}")).trouble in {Trouble.MISSING, Trouble.NOT_ONE}


@in_loop
async def test_a_file_is_its_owners_alone(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/archive.db") as store:
        assert await store.claim(MAIL, ME, None)
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


@contextmanager
def full_disk() -> Iterator[None]:
    """Every file of SQLite that is opened meanwhile may not grow."""

    def limit(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA max_page_count=1")
        cursor.close()

    event.listen(Engine, "connect", limit)
    try:
        yield
    finally:
        event.remove(Engine, "connect", limit)


@in_loop
async def test_a_full_disk_costs_nothing_that_was_committed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/archive.db"
    async with open_store(url) as store:
        assert await store.claim(MAIL, ME, None)
        await store.commit(MAIL, ME, upserts(task(1)), {"events": "1-0"}, "1:a")
    rows = [task(number, envelope=b"x" * 10_000) for number in range(2, 100)]
    with full_disk():
        async with open_store(url) as store:
            with pytest.raises(ArchiveFailed, match=r"is on a full disk .*: make room there") as caught:
                await store.commit(MAIL, ME, upserts(*rows), {"events": "2-0"}, "2:b")
            assert caught.value.waiting_helps
            row = await store.partition(MAIL)
            assert row is not None
            assert row.mark == "1:a"
    async with open_store(url) as store:
        await store.commit(MAIL, ME, upserts(*rows), {"events": "2-0"}, "2:b")
        assert await store.count_tasks(MAIL) == {"lane:normal": 99}


@in_loop
async def test_who_holds_the_lock_delays_and_stops_only_writers(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/archive.db") as store:
        assert await store.claim(MAIL, ME, None)
        with closing(sqlite3.connect(tmp_path / "archive.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(ArchiveFailed) as caught:
                await store.commit(MAIL, ME, upserts(task(1)), {})
            assert caught.value.trouble is Trouble.LOCKED
            assert await store.count_tasks(MAIL) == {}
            commit = asyncio.create_task(store.commit(MAIL, ME, upserts(task(1)), {}))
            await asyncio.wait({commit}, timeout=0.1)
            other.execute("ROLLBACK")
            await commit
        assert await store.count_tasks(MAIL) == {"lane:normal": 1}


@in_loop
async def test_a_file_that_vanished_is_noticed_and_made_anew(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/archive.db") as store:
        archive_id = store.archive_id
        assert await store.claim(MAIL, ME, None)
        for path in tmp_path.iterdir():
            path.unlink()
        with pytest.raises(ArchiveFailed) as caught:
            await store.beat(MAIL, ME)
        assert caught.value.trouble is Trouble.VANISHED
        assert await store.partition(MAIL) is None
        assert await store.claim(MAIL, ME, None)
        await store.commit(MAIL, ME, upserts(task(1)), {})
    async with open_store(f"sqlite:///{tmp_path}/archive.db") as store:
        assert store.archive_id == archive_id
        assert await store.count_tasks(MAIL) == {"lane:normal": 1}


@in_loop
async def test_another_archive_in_its_place_is_not_used(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/other.db"):
        pass
    async with open_store(f"sqlite:///{tmp_path}/archive.db") as store:
        assert await store.claim(MAIL, ME, None)
        for path in tmp_path.glob("archive.db*"):
            path.unlink()
        (tmp_path / "other.db").rename(tmp_path / "archive.db")
        for trouble in (Trouble.VANISHED, Trouble.REPLACED, Trouble.REPLACED):
            with pytest.raises(ArchiveFailed) as caught:
                await store.beat(MAIL, ME)
            assert caught.value.trouble is trouble


@in_loop
async def test_a_server_restarts_and_loses_its_tables(postgres: Postgres) -> None:
    async with open_store(postgres.url()) as store:
        archive_id = store.archive_id
        assert await store.claim(MAIL, ME, None)
        postgres.stop()
        with pytest.raises(ArchiveUnreachable):
            await store.commit(MAIL, ME, upserts(task(1)), {})
        with pytest.raises(ArchiveUnreachable):
            await store.partition(MAIL)
        postgres.start()

        async def committed() -> bool:
            try:
                await store.commit(MAIL, ME, upserts(task(1)), {})
            except ArchiveUnreachable:
                return False
            return True

        await await_until(committed, "a commit after the restart")
        assert await store.count_tasks(MAIL) == {"lane:normal": 1}
        postgres.sql("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        with pytest.raises(ArchiveFailed) as caught:
            await store.commit(MAIL, ME, Changes(), {})
        assert caught.value.trouble is Trouble.VANISHED
        assert await store.partition(MAIL) is None
        assert store.archive_id == archive_id


COMMITTER = """
import asyncio, sys
from reclaimd.daemon.archive.store import open_store
from support.archive_rows import MAIL, ME, event, task
from reclaimd.daemon.rebuild.values import Changes

async def main():
    async with open_store(sys.argv[1]) as store:
        assert await store.claim(MAIL, ME, None)
        for number in range(1, 1_000_000):
            rows = tuple(task(number * 10 + n) for n in range(10))
            changes = Changes(events=(event(number, b"x" * 5_000),), upserts=rows)
            await store.commit(MAIL, ME, changes, {"events": f"{number}-0"}, f"{number}:a")
            print(number, flush=True)

asyncio.run(main())
"""


@in_loop
async def test_what_was_committed_outlives_a_kill_and_nothing_is_there_by_halves(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/archive.db"
    tests = Path(archive_rows.__file__).parents[1]
    said = tmp_path / "said"
    with said.open("wb") as output:
        program = [sys.executable, "-P", "-c", COMMITTER, url]
        process = subprocess.Popen(program, stdout=output, env={"PYTHONPATH": str(tests)})
    try:
        wait_until(lambda: said.read_bytes().count(b"\n") > 50, "fifty commits")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    last = int(said.read_text().split()[-1])
    async with open_store(url) as store:
        row = await store.partition(MAIL)
        assert row is not None
        found = int(row.mark.split(":")[0])
        assert found in {last, last + 1}
        assert row.positions == {"events": f"{found}-0"}
        assert row.events_bytes == found * 5_000
        assert await store.count_tasks(MAIL) == {"lane:normal": found * 10}
        assert len([one async for one in store.events(MAIL)]) == found


@in_loop
async def test_a_backup_is_whole_while_commits_go_on(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    steps: list[tuple[int, int]] = []
    async with open_store(f"sqlite:///{tmp_path}/archive.db") as store:
        assert await store.claim(MAIL, ME, None)
        rows = [task(number, envelope=b"x" * 3_000) for number in range(10_000)]
        await store.commit(MAIL, ME, upserts(*rows), {"events": "1-0"}, "1:a")
        backup = asyncio.create_task(store.backup(copy, lambda done, total: steps.append((done, total))))
        number = 1
        while not backup.done():
            number += 1
            await store.commit(MAIL, ME, upserts(task(number, token=number)), {"events": f"{number}-0"}, f"{number}:a")
        assert await backup == copy.stat().st_size
        assert len(steps) > 1
        assert steps[-1][0] == steps[-1][1]
        assert copy.stat().st_mode & 0o777 == 0o600
        with pytest.raises(BackupRefused, match="exists: a backup overwrites nothing"):
            await store.backup(copy)
        with pytest.raises(BackupRefused, match=r"cannot be written \(No such file or directory\): name a file where"):
            await store.backup(tmp_path / "nowhere" / "copy.db")
        (tmp_path / "other.db.unfinished").touch()
        with pytest.raises(BackupRefused, match=r"other\.db\.unfinished is in the way"):
            await store.backup(tmp_path / "other.db")
        (tmp_path / "other.db.unfinished").unlink()
        archive_id = store.archive_id
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive.db", "copy.db"]
    with closing(sqlite3.connect(copy)) as opened:
        assert opened.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    async with open_store(f"sqlite:///{copy}") as store:
        assert store.archive_id == archive_id
        row = await store.partition(MAIL)
        assert row is not None
        assert row.positions["events"].split("-")[0] == row.mark.split(":")[0]
        assert await store.count_tasks(MAIL) == {"lane:normal": 10_000}


@in_loop
async def test_a_backup_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/archive.db") as store:
        assert await store.claim(MAIL, ME, None)
        await store.commit(MAIL, ME, upserts(*(task(n, envelope=b"x" * 3_000) for n in range(10_000))), {})
        begun = asyncio.Event()
        backup = asyncio.create_task(store.backup(tmp_path / "copy.db", lambda _done, _total: begun.set()))
        await begun.wait()
        backup.cancel()
        await asyncio.wait({backup})
        assert list(tmp_path.glob("copy*")) == []


@in_loop
async def test_postgresql_has_its_own_backup(postgres: Postgres, tmp_path: Path) -> None:
    async with open_store(postgres.url()) as store:
        with pytest.raises(BackupRefused, match="pg_dump") as caught:
            await store.backup(tmp_path / "copy.db")
    assert "p%40ss" not in str(caught.value)


@in_loop
async def test_a_file_gives_back_what_its_history_no_longer_needs(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/archive.db") as store:
        assert await store.claim(MAIL, ME, None)
        for start in range(0, 6_000, 1_000):
            batches = tuple(archive_rows.event(n, b"x" * 10_000) for n in range(start, start + 1_000))
            await store.commit(MAIL, ME, Changes(events=batches), {})
        done = await store.retain(age_ms=1 << 40, most_bytes=1_000_000, now_ms=6_000)
        assert done.batches >= 5_900
        assert done.pages > 5_000
    assert (tmp_path / "archive.db").stat().st_size < 25_000_000


@in_loop
async def test_nothing_is_left_of_an_opening_that_is_cancelled_at_any_instant(tmp_path: Path) -> None:
    """As by a signal while the daemon starts: no task that nobody waits for, and that never ends."""
    told = list[str]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))

    async def opening(number: int) -> None:
        async with open_store(f"sqlite:///{tmp_path}/{number}.db"):
            await anyio.sleep_forever()

    for number in range(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(opening, number)
            for _ in range(number * 30):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        # What is lost tells so when it is collected.
        gc.collect()
    assert not told

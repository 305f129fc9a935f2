"""Who only reads an archive makes nothing, changes nothing, and sees what is committed, wherever the file lies."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from reclaimd.daemon.archive import migrations
from reclaimd.daemon.archive.engine import Access
from reclaimd.daemon.archive.errors import ArchiveFailed, ArchiveMissing, ArchiveTooNew, ArchiveTooOld, Trouble
from reclaimd.daemon.archive.store import Store, open_store
from support.archive_rows import MAIL, ME, task, upserts
from support.daemons import in_loop

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """Which everybody may enter, as pytest's own may not be."""
    path = Path(tempfile.mkdtemp(prefix="reclaimd-reading-"))
    path.chmod(0o755)
    yield path
    path.chmod(0o755)
    shutil.rmtree(path)


@contextmanager
def may_not_write(folder: Path, mode: int = 0o444) -> Iterator[None]:
    """The folder and its files are somebody else's, who lets us read them, or what `mode` says."""
    for path in folder.iterdir():
        path.chmod(mode)
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@asynccontextmanager
async def read(file: Path, access: Access = Access.READ) -> AsyncIterator[Store]:
    async with open_store(f"sqlite:///{file}", access) as store:
        yield store


@asynccontextmanager
async def written(file: Path, *tasks: int) -> AsyncIterator[Store]:
    """Open to write, with these tasks in it."""
    async with open_store(f"sqlite:///{file}") as store:
        if await store.partition(MAIL) is None:
            assert await store.claim(MAIL, ME, None)
        await store.commit(MAIL, ME, upserts(*map(task, tasks)), {}, "1:a")
        yield store


async def made(file: Path, *tasks: int) -> None:
    async with written(file, *tasks):
        pass


async def number(store: Store) -> int:
    return sum((await store.count_tasks(MAIL)).values())


def traces(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.iterdir()}


async def refused(file: Path, access: Access = Access.READ) -> ArchiveFailed:
    before = traces(file.parent) if file.parent.exists() else {}
    with pytest.raises(ArchiveFailed) as caught:
        async with read(file, access):
            pass
    assert before == (traces(file.parent) if file.parent.exists() else {})
    assert str(file) in str(caught.value)
    return caught.value


@in_loop
@pytest.mark.parametrize("access", [Access.READ, Access.COPY])
async def test_what_is_not_there_is_not_made(tmp_path: Path, access: Access) -> None:
    missing = await refused(tmp_path / "archive.db", access)
    assert isinstance(missing, ArchiveMissing)
    assert str(missing).endswith(
        "archive.db is not there: correct archive.url (--archive-url), or start the daemon, which makes it"
    )
    assert (await refused(tmp_path / "folder" / "archive.db", access)).trouble is Trouble.ABSENT
    (tmp_path / "empty").touch()
    assert (await refused(tmp_path / "empty", access)).trouble is Trouble.BLANK
    (tmp_path / "text").write_text("Once upon a time there was a file that was no database at all, only words." * 20)
    assert (await refused(tmp_path / "text", access)).trouble is Trouble.NOT_ONE
    with closing(sqlite3.connect(tmp_path / "other")) as other:
        other.execute("CREATE TABLE t (x)")
    assert (await refused(tmp_path / "other", access)).trouble is Trouble.NOT_ONE


@in_loop
async def test_a_file_that_nobody_has_open_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "an archive&b=ü.db"
    await made(tmp_path / "archive.db", 1, 2)
    (tmp_path / "archive.db").rename(file)
    before = traces(tmp_path)
    async with read(file) as store:
        assert await number(store) == 2
        assert traces(tmp_path) == before
    assert traces(tmp_path) == before


@in_loop
async def test_what_a_daemon_commits_meanwhile_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "archive.db"
    async with written(file, 1) as daemon, read(file) as store:
        assert await number(store) == 1
        await daemon.commit(MAIL, ME, upserts(task(2)), {})
        assert await number(store) == 2


@in_loop
async def test_a_daemon_may_begin_and_end_while_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "archive.db"
    await made(file, 1)
    async with read(file) as store:
        assert await number(store) == 1
        async with written(file, 2) as daemon:
            assert await number(store) == 2
            await daemon.commit(MAIL, ME, upserts(task(3)), {})
            assert await number(store) == 3
    async with read(file) as store:
        assert await number(store) == 3
        await made(file, 4, 5)
        assert await number(store) == 5


@in_loop
async def test_a_read_that_was_overtaken_is_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "archive.db"
    await made(file, 1)
    async with read(file) as store:
        with pytest.raises(ArchiveFailed, match="it was written to while it was read") as caught:
            async with store._database.reading():
                await made(file, 2)
        assert caught.value.waiting_helps
        assert await number(store) == 2


@in_loop
async def test_nothing_can_be_written_through_it(tmp_path: Path) -> None:
    await made(tmp_path / "archive.db", 1)
    async with read(tmp_path / "archive.db") as store:
        with pytest.raises(ArchiveFailed) as caught:
            async with store._database.reading() as connection:
                await connection.execute(text("DELETE FROM reclaimd_tasks"))
        assert caught.value.trouble is Trouble.READ_ONLY
        assert await number(store) == 1


@in_loop
async def test_a_folder_of_somebody_else(folder: Path) -> None:
    file = folder / "archive.db"
    await made(file, 1)
    with may_not_write(folder):
        async with read(file) as store:
            assert await number(store) == 1
    folder.chmod(0o755)
    file.chmod(0o600)
    async with written(file, 2):
        with may_not_write(folder):
            async with read(file) as store:
                assert await number(store) == 2
        folder.chmod(0o755)
        copy = folder / "copy"
        copy.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(f"{file}{suffix}", copy / f"archive.db{suffix}")
    with may_not_write(copy):
        error = await refused(copy / "archive.db")
    assert error.trouble is Trouble.UNREADABLE
    assert "archive.db-wal was left behind: only who may write to its folder can read it" in str(error)
    copy.chmod(0o755)
    with may_not_write(copy, mode=0):
        error = await refused(copy / "archive.db")
        assert error.trouble is Trouble.UNREADABLE
        assert "(Permission denied): run this as the user whom the file belongs to" in str(error)
    copy.chmod(0o755)
    for path in copy.iterdir():
        path.chmod(0o644)
    async with read(copy / "archive.db") as store:
        assert await number(store) == 2


def _add_column(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE reclaimd_meta ADD COLUMN note TEXT NOT NULL DEFAULT 'old'"))


@in_loop
async def test_an_older_archive_is_copied_but_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "archive.db"
    await made(file, 1)
    monkeypatch.setattr(migrations, "STEPS", (*migrations.STEPS, _add_column))
    older = await refused(file)
    assert isinstance(older, ArchiveTooOld)
    assert "(schema 1, this program reads 2): copy it (reclaimd archive backup FILE), then start the daemon" in str(
        older
    )
    async with read(file, Access.COPY) as store:
        assert await store.backup(tmp_path / "copy.db") == (tmp_path / "copy.db").stat().st_size
    await made(file)
    async with read(file) as store:
        assert await number(store) == 1
    monkeypatch.undo()
    assert isinstance(await refused(file), ArchiveTooNew)
    async with read(tmp_path / "copy.db") as store:
        assert await number(store) == 1
    assert sorted(traces(tmp_path)) == ["archive.db", "copy.db"]

"""What the archive of a demo or drill knows, read by its own means."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from reclaimd.daemon.archive.engine import Access
from reclaimd.daemon.archive.errors import ArchiveFailed
from reclaimd.daemon.archive.store import Store, open_store
from reclaimd.daemon.demo.cast import Stage, wait_for
from reclaimd.daemon.rebuild.values import DEAD, EVENTS, Cursor
from reclaimd.streams.ids import EntryID

if TYPE_CHECKING:
    from reclaimd.daemon.rebuild.values import Report

T = TypeVar("T")

_PAGE = 1_000


def _ask(stage: Stage, work: Callable[[Store], Awaitable[T]]) -> T:
    async def asked() -> T:
        async with open_store(stage.archive_url or "", Access.READ) as store:
            return await work(store)

    return anyio.run(asked)


def _is_there(stage: Stage) -> bool:
    async def look(store: Store) -> bool:
        return store.archive_id != ""

    try:
        return _ask(stage, look)
    except ArchiveFailed as error:
        if not error.waiting_helps:
            raise
        return False


def wait_events(stage: Stage) -> None:
    """Until the archive has every event that is there now. Raises BrokenPromise."""
    newest: Any = stage.client.xrevrange(stage.partition.key("events"), count=1)
    target = EntryID.parse(newest[0][0]) if newest else EntryID(0, 0)

    async def position(store: Store) -> EntryID:
        row = await store.partition(stage.partition)
        return EntryID.parse(row.positions.get(EVENTS, "0-0") if row is not None else "0-0")

    wait_for("the archive to have every event", lambda: _ask(stage, position) >= target)


def wait_archived(stage: Stage) -> None:
    """Until the archive is there and has every event that is there now, and some schedule. Raises BrokenPromise."""

    async def knows_schedules(store: Store) -> bool:
        if await store.schedules.newest_snapshot(stage.namespace) is not None:
            return True
        async for _ in store.schedules.events(stage.namespace):
            return True
        return False

    wait_for("the archive to be made", lambda: _is_there(stage))
    wait_events(stage)
    wait_for("the archive to have the schedule", lambda: _ask(stage, knows_schedules))


def open_in_archive(stage: Stage) -> set[str]:
    """The tasks that the archive holds as not settled."""

    async def collect(store: Store) -> set[str]:
        found: set[str] = set()
        cursor: Cursor | None = None
        while rows := await store.tasks_after(stage.partition, cursor, _PAGE):
            found.update(row.task_id for row in rows if row.place != DEAD)
            cursor = Cursor(rows[-1].rank, rows[-1].sort, rows[-1].task_id)
        return found

    return _ask(stage, collect)


def last_rebuild(stage: Stage, before: str = "") -> Report:
    """The report of the rebuild that ended last, once it is another than `before`. Raises BrokenPromise."""

    async def newest(store: Store) -> Report | None:
        report = await store.last_rebuild(stage.partition)
        return report if report is not None and report.ended_ms and report.rebuild_id != before else None

    return wait_for("the rebuild to be over", lambda: _ask(stage, newest))


def wait_schedules(stage: Stage, least: int) -> int:
    """Until Redis knows so many schedules; returns how many. Raises BrokenPromise."""
    app = stage.app()

    def known() -> int | None:
        number = len(list(app.schedules.list_sync()))
        return number if number >= least else None

    try:
        return wait_for("the schedules to be back", known)
    finally:
        app.close()

"""`status` and `workers`."""

from typing import Final

import msgspec

from reclaimd.daemon.cli.flags import Flags
from reclaimd.daemon.cli.output import Cell, Output
from reclaimd.daemon.cli.running import DONE, run
from reclaimd.daemon.cli.words import instant, plural, span
from reclaimd.daemon.inspect.schedules import read_known
from reclaimd.daemon.inspect.source import Source
from reclaimd.daemon.inspect.workers import WorkerInfo, read_fleet
from reclaimd.daemon.loops.archive_state import ArchiveState, archive_state
from reclaimd.daemon.sources.unmet import unmet_sources
from reclaimd.daemon.view import PartitionView

LATE_SECONDS: Final = 10.0
"""So far behind is no archive that somebody writes."""


class WorkerTotals(msgspec.Struct, frozen=True):
    """Worker IDs, each counted once over all queues; one that lives anywhere is live."""

    live: int
    dead: int


def status(flags: Flags) -> int:
    """Print the numbers of every queue."""

    async def work(source: Source, out: Output) -> int:
        settings = flags.settings()
        views = [await source.view(queue) for queue in await source.queues()]
        archive = await archive_state(settings, source, [view.queue for view in views])
        fleets = [await read_fleet(source, view.queue) for view in views]
        totals = count_workers([worker for fleet in fleets for worker in fleet.workers])
        known = await read_known(source)
        schedules = known.totals
        warnings = [*known.damage, *await unmet_sources(known, settings.sources), *_warnings(archive)]
        if out.json:
            out.document(
                {
                    "queues": {view.queue: _numbers(view) for view in views},
                    "workers": totals,
                    "schedules": schedules,
                    "repeatable": schedules.enabled,
                    "archive": archive,
                    "warnings": warnings,
                }
            )
            return DONE
        if not views:
            out.line("No queues yet.")
        else:
            _print(out, views)
        out.line(f"Workers: {totals.live} live, {totals.dead} dead.")
        counts = f"{schedules.enabled} enabled, {schedules.paused} paused, {plural(schedules.problems, 'problem')}"
        out.line(f"Schedules: {counts}{': see schedules list --problems' if schedules.problems else ''}.")
        if archive is not None:
            lag = "" if archive.lag_seconds is None else f", {archive.lag_seconds:g} s behind"
            out.line(f"Archive: {archive.state}{lag} ({archive.url}).")
        for warning in warnings:
            out.note(f"warning: {warning}")
        return DONE

    return run(flags, work)


def _warnings(archive: ArchiveState | None) -> list[str]:
    if archive is None:
        return []
    odd = {f"queue {queue}": why for queue, why in archive.queues.items()}
    if archive.schedules:
        odd["schedules"] = archive.schedules
    found = [f"{what}: not what the archive knows ({why}){_cure(why.partition(':')[0])}" for what, why in odd.items()]
    if (archive.lag_seconds or 0.0) > LATE_SECONDS:
        found.append(f"the archive is {archive.lag_seconds:g} s behind: see that a daemon runs, and its /readyz")
    return [*([archive.problem] if archive.problem else []), *found]


def _cure(kind: str) -> str:
    if kind == "foreign":
        # Its reason says what to do.
        return ""
    if kind in {"new", "archive_behind"}:
        return ": a daemon that has this archive reads it"
    return ": a daemon rebuilds it, or reclaimd rebuild; with --dry-run it tells what would come back"


def count_workers(workers: list[WorkerInfo]) -> WorkerTotals:
    """Live and dead worker IDs; dead ones are expired, fenced, or gone and not forgotten yet."""
    live = {worker.worker for worker in workers if worker.state == "live"}
    dead = {worker.worker for worker in workers if worker.is_dead}
    return WorkerTotals(len(live), len(dead - live))


def _numbers(view: PartitionView) -> dict[str, int | bool | str | None]:
    return {
        **view.as_status(),
        "paused": view.paused,
        "state": view.state,
        "oldest_waiting_ms": view.oldest_waiting_ms,
        "oldest_pending_ms": view.oldest_pending_ms,
    }


def _print(out: Output, views: list[PartitionView]) -> None:
    columns = ["queue", *views[0].as_status(), "oldest waiting", "oldest active", ""]
    rows: list[list[Cell]] = [
        [
            view.queue,
            *view.as_status().values(),
            span(view.oldest_waiting_ms),
            span(view.oldest_pending_ms),
            _remark(view),
        ]
        for view in views
    ]
    out.table(columns, rows)


def _remark(view: PartitionView) -> str:
    state = {"ok": "", "absent": "empty"}.get(view.state, view.state)
    return ", ".join(word for word in ("paused" if view.paused else "", state) if word)


def workers(flags: Flags, queue: str | None) -> int:
    """Print one row for each worker and queue."""

    async def work(source: Source, out: Output) -> int:
        fleets = [await read_fleet(source, name) for name in await source.queues(queue)]
        found = [worker for fleet in fleets for worker in fleet.workers]
        if out.json:
            out.document({"workers": found})
            return DONE
        columns = ("worker", "state", "queue", "holds", "lease left", "since", "cause", "host", "pid", "token")
        rows = [
            (
                w.worker,
                w.state,
                w.queue,
                w.pending,
                span(w.lease_left_ms),
                instant(w.since_ms),
                w.cause,
                w.host,
                w.pid,
                w.token,
            )
            for w in found
        ]
        if rows:
            out.table(columns, rows)
        totals = count_workers(found)
        out.line(f"{plural(len(found), 'row')}: {totals.live} live workers, {totals.dead} dead.")
        return DONE

    return run(flags, work)

"""`reclaimd drill`: on an operator's own Redis everything is killed at once, started again, and counted."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import redis
from rich.console import Console

from reclaimd.daemon.demo.cast import LEASE, BrokenPromise, Note, Stage, wait_for
from reclaimd.daemon.demo.drill_tasks import beat, effects_key, step
from reclaimd.daemon.demo.report import Report, show_logs, table
from reclaimd.daemon.demo.scratch import Scratch
from reclaimd.streams import every
from reclaimd.streams.errors import ReclaimdError
from reclaimd.streams.settings import Settings

BEAT = "beat"
_PAGE = 1_000
_COLUMNS = (b"what", b"task", b"worker", b"pid", b"at")
_SHORT, _LONG = 0.05, 0.6
"""Seconds that tasks take."""
_LONG_WITH_FLUSH = 2.0
"""Long enough for the archive to hear of their start before they end."""


@dataclass(frozen=True)
class Plan:
    """What the operator asked for."""

    tasks: int
    workers: int
    flush: bool
    keep: bool


class DrillStage(Stage):
    """Processes on the scratch namespace; their tasks write into a stream there."""

    def __init__(self, folder: Path, scratch: Scratch, settings: dict[str, str]) -> None:
        app = "reclaimd.daemon.demo.drill_tasks:app"
        super().__init__(folder, scratch.url, scratch.namespace, app, settings)
        self._key = effects_key(scratch.namespace)
        self._notes: list[Note] = []
        self._next = "-"

    def notes(self) -> list[Note]:
        """The diary so far; what was read before is not read again."""
        while True:
            rows: Any = self.client.xrange(self._key, self._next, "+", count=_PAGE)
            if not rows:
                return self._notes
            for entry_id, fields in rows:
                what, task, worker, pid, at = (fields[name].decode() for name in _COLUMNS)
                self._notes.append(Note(what, task, worker, int(pid), float(at)))
                self._next = f"({entry_id.decode()}"


class Drill:
    """One drill."""

    def __init__(self, stage: DrillStage, scratch: Scratch, plan: Plan, console: Console) -> None:
        self._stage = stage
        self._scratch = scratch
        self._plan = plan
        self._console = console
        self._began = time.monotonic()
        self._accepted: list[str] = []
        self._known_settled: set[str] = set()
        self._restarted = 0.0
        self._patience = 30.0 + plan.tasks / plan.workers / 20
        self.report = Report()

    def perform(self) -> Report:
        """All acts. A promise that breaks ends it early and is in the report."""
        try:
            self._open()
            orphans = self._kill_all()
            if self._plan.flush:
                self._flush()
            self._restart(orphans)
            if self._plan.flush:
                self._tell_restored()
            self._drain()
        except (BrokenPromise, ReclaimdError) as error:
            self.report.broken.append(str(error))
        self._count()
        return self.report

    def _say(self, text: str) -> None:
        passed = time.monotonic() - self._began
        self._console.print(f"[dim]{passed:6.2f}s[/dim]  {text}", highlight=False, soft_wrap=True)

    def _start_workers(self) -> None:
        for number in range(self._plan.workers):
            self._stage.start_worker(f"drill-{number}")

    def _open(self) -> None:
        stage, plan = self._stage, self._plan
        self._say(f"scratch namespace {stage.namespace}, folder {stage.folder}")
        stage.start_daemon()
        app = stage.app()
        if plan.flush:
            app.schedules.put_sync(BEAT, beat, every("1s"), overlap="allow")
        calls = [step.call(_SHORT) for _ in range(plan.tasks)]
        for number in range(0, plan.tasks, 20):
            # Some come later than the kill.
            calls[number] = calls[number].options(delay="6s")
        for number in range(10, plan.tasks, 20):
            calls[number] = step.call(_LONG_WITH_FLUSH if plan.flush else _LONG)
        results = app.enqueue_many_sync(calls)
        app.close()
        self._accepted = [result.task_id for result in results if result.status == "ok"]
        self._say(f"enqueue {len(self._accepted)} tasks accepted")
        if stage.archive_url:
            self._archive.wait_archived(stage)
            self._say("archive has every accepted task")
        # Or the first one would be done with everything before the last one is there.
        stage.pause(paused=True)
        self._start_workers()
        wait_for("live workers", lambda: stage.view().live == plan.workers, 60.0)
        stage.pause(paused=False)
        self._say(f"start   {plan.workers} workers beside the daemon, leases of {LEASE:g} s")

    @property
    def _archive(self) -> ModuleType:
        """What reads the archive; it imports SQLAlchemy, for which only a flush waits."""
        return import_module("reclaimd.daemon.demo.restored")

    def _kill_all(self) -> set[str]:
        """Everything at once, in the middle; returns what was under way."""
        stage = self._stage
        wait_for("work under way", lambda: self._in_the_middle() and self._ended() > len(self._accepted) // 20)
        workers = stage.kill_all()
        orphans = self._under_way()
        killed = f"the daemon, {self._plan.workers} workers and their processes ({len(workers)})"
        self._say(f"[red]kill -9[/red] {killed}, {len(orphans)} tasks in the middle: nobody is left to report")
        return orphans

    def _flush(self) -> None:
        self._known_settled = set(self._accepted) - self._archive.open_in_archive(self._stage)
        deleted = self._scratch.flush()
        self._say(f"[red]flush[/red]   {deleted} keys of the scratch namespace deleted: Redis knows nothing any more")

    def _restart(self, orphans: set[str]) -> None:
        self._restarted = time.time()
        self._stage.start_daemon()
        self._start_workers()
        again = wait_for("a killed task to run again", lambda: self._begun_again(orphans), self._patience)
        self.report.restart_to_rerun = again - self._restarted
        self._say(f"restart everything; the first of them runs again {self.report.restart_to_rerun:.2f} s later")

    def _tell_restored(self) -> None:
        rebuilt = self._archive.last_rebuild(self._stage)
        self.report.tasks_restored = rebuilt.tasks_restored
        self.report.schedules_restored = self._archive.wait_schedules(self._stage, 1)
        places = ", ".join(f"{number} to {place}" for place, number in sorted(rebuilt.restored.items()) if number)
        self._say(f"rebuild {rebuilt.verdict}: {places}, and {self.report.schedules_restored} schedule")

    def _drain(self) -> None:
        if self._plan.flush:
            ahead = len(self._stage.beats())
            wait_for("the schedule to fire again", lambda: len(self._stage.beats()) > ahead)
            app = self._stage.app()
            app.schedules.remove_sync(BEAT)
            app.close()
        # A task writes its end down before it is settled: what has none by then will never have one.
        wait_for("all tasks to be settled", lambda: self._stage.view().open_tasks == 0, self._patience)
        self._say("done    every task has run to its end")

    def _in_the_middle(self) -> set[str]:
        """What is under way, and was already when the archive read the events that it has now."""
        begun = self._under_way()
        if begun and self._stage.archive_url:
            self._archive.wait_events(self._stage)
        return begun & self._under_way()

    def _under_way(self) -> set[str]:
        notes = self._stage.notes()
        return {n.task_id for n in notes if n.what == "began"} - {n.task_id for n in notes if n.what == "ended"}

    def _ended(self) -> int:
        return len({note.task_id for note in self._stage.notes() if note.what == "ended"})

    def _begun_again(self, tasks: set[str]) -> float | None:
        again = [n for n in self._stage.notes() if n.what == "began" and n.task_id in tasks]
        first = min((n.at for n in again if n.at > self._restarted), default=None)
        if first is None and not self._plan.flush:
            view = self._stage.view()
            if view.live == self._plan.workers and not view.open_tasks:
                raise BrokenPromise("the killed tasks are in Redis no more")
        return first

    def _count(self) -> None:
        report, notes = self.report, self._stage.notes()
        began = Counter(note.task_id for note in notes if note.what == "began")
        ended = {note.task_id for note in notes if note.what == "ended"}
        report.accepted = len(self._accepted)
        report.settled = len(ended & set(self._accepted))
        report.run_twice = sum(1 for runs in began.values() if runs > 1)
        report.lost = len(set(self._accepted) - ended)
        report.fenced_settlements = self._stage.view().counter("fenced")
        report.seconds = round(time.monotonic() - self._began, 1)
        if report.accepted != self._plan.tasks:
            report.broken.append(f"{self._plan.tasks - report.accepted} tasks were not accepted")
        if report.lost:
            report.broken.append(f"{report.lost} accepted tasks never ran to an end")
        if set(began) - set(self._accepted):
            report.broken.append("tasks ran that nobody had enqueued")
        if self._stage.view().dead:
            report.broken.append(f"{self._stage.view().dead} tasks were given up")
        if self._plan.flush:
            again = {n.task_id for n in notes if n.what == "began" and n.at > self._restarted} & self._known_settled
            report.settled_run_again = len(again)
            if again:
                report.broken.append(f"{len(again)} tasks ran again that the archive knew as settled")


def run(settings: Settings, plan: Plan, *, as_json: bool = False) -> int:
    """Perform; prints what happens and the table, or one JSON document. Returns 1 when a promise was broken.

    Raises DrillForbidden and what connecting raises. However it ends, the scratch namespace is removed unless
    `plan.keep`.
    """
    console = Console(stderr=as_json)
    scratch = Scratch(settings.redis_url, settings.namespace)
    folder = Path(tempfile.mkdtemp(prefix="reclaimd-drill-"))
    stage: DrillStage | None = None
    with _terminable():
        try:
            scratch.check()
            archive = {"RECLAIMD_ARCHIVE_URL": f"sqlite:///{folder / 'archive.db'}"} if plan.flush else {}
            stage = DrillStage(folder, scratch, archive)
            report = Drill(stage, scratch, plan, console).perform()
            if report.broken:
                show_logs(folder, console)
        finally:
            with _undisturbed():
                _clear_up(stage, scratch, folder, console, keep=plan.keep)
    if as_json:
        sys.stdout.write(json.dumps(asdict(report) | {"namespace": scratch.namespace}) + "\n")
    else:
        console.print(table(report))
    for promise in report.broken:
        console.print(f"[red]broken:[/red] {promise}")
    if not report.broken:
        console.print(f"Every promise held, in {report.seconds:g} s.")
    return 1 if report.broken else 0


def _clear_up(stage: DrillStage | None, scratch: Scratch, folder: Path, console: Console, *, keep: bool) -> None:
    """End the processes first: they would write keys anew."""
    try:
        if stage is not None:
            stage.end()
        if keep:
            console.print(f"Kept: namespace {scratch.namespace}, folder {folder}.")
        elif stage is not None:
            scratch.remove()
    except (ReclaimdError, redis.RedisError) as error:
        console.print(f"[red]not removed:[/red] namespace {scratch.namespace} ({error})")
    finally:
        scratch.close()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that it clears up after itself."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C waits until the block has ended."""
    before = {sign: signal.signal(sign, signal.SIG_IGN) for sign in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)

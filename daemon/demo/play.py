"""What happens in the demo, in order, and the verdict."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from reclaimd.daemon.demo import restored
from reclaimd.daemon.demo.cast import LEASE, BrokenPromise, DemoStage, Stage, wait_for
from reclaimd.daemon.demo.report import Report, show_logs, table
from reclaimd.daemon.demo.tasks import beat, step
from reclaimd.daemon.embedded import EmbeddedServer
from reclaimd.streams import every
from reclaimd.streams.errors import ReclaimdError

TASKS = 1_000
BEAT = "beat"
BEAT_MS = 1_000
BEATS_AWAY = 2
MORE_TASKS = 200
RESTORED_WITHIN = 5.0
WORKERS = ("worker-a", "worker-b", "worker-c")


class Play:
    """One performance on a stage."""

    def __init__(self, stage: Stage, console: Console) -> None:
        self._stage = stage
        self._console = console
        self._began = time.monotonic()
        self._accepted: list[str] = []
        self.report = Report()

    def perform(self) -> Report:
        """All acts. A promise that breaks ends it early and is in the report."""
        try:
            self._open()
            self._kill_one()
            self._freeze_one()
            self._restart_one()
            self._restart_daemon()
            self._drain()
            self._count()
            self._lose_everything()
        except (BrokenPromise, ReclaimdError) as error:
            self.report.broken.append(str(error))
        self._judge()
        return self.report

    def _say(self, text: str) -> None:
        self._console.print(f"[dim]{time.monotonic() - self._began:6.2f}s[/dim]  {text}", highlight=False)

    def _open(self) -> None:
        stage = self._stage
        self._say(f"server  Valkey on {stage.url}, scratch folder {stage.folder}")
        stage.start_daemon()
        for worker in WORKERS:
            stage.start_worker(worker)
        wait_for("three live workers", lambda: stage.view().live == len(WORKERS))
        self._say(f"start   the daemon and {len(WORKERS)} workers, leases of {LEASE:g} s")
        app = stage.app()
        # Each instant counts here; by default one that comes while the task before still runs is skipped.
        app.schedules.put_sync(BEAT, beat, every(f"{BEAT_MS}ms"), overlap="allow")
        self._say(f"schedule a beat every {BEAT_MS / 1000:g} s")
        results = app.enqueue_many_sync([step.call(_length(number)) for number in range(TASKS)])
        app.close()
        self._accepted = [result.task_id for result in results if result.status == "ok"]
        if len(self._accepted) != TASKS:
            raise BrokenPromise(f"{TASKS - len(self._accepted)} tasks were not accepted")
        self._say(f"enqueue {len(self._accepted)} tasks accepted")

    def _kill_one(self) -> None:
        stage = self._stage
        wait_for("work under way", lambda: stage.view().counter("succeeded") > TASKS // 20)
        pid = wait_for("a process of worker-a", lambda: stage.worker_pid("worker-a"))
        wait_for("a task in the middle", lambda: stage.running(pid))
        stage.signal_worker("worker-a", signal.SIGKILL)
        killed = time.time()
        orphans = stage.running(pid)
        self._say(f"[red]kill -9[/red] worker-a (process {pid}) in the middle of {len(orphans)} tasks")
        again = wait_for("a killed task to run again", lambda: self._begun_elsewhere(orphans, pid, killed))
        self.report.kill_to_rerun = again - killed
        self._say(f"reclaim {self.report.kill_to_rerun * 1000:.0f} ms later one of them runs in another process")

    def _freeze_one(self) -> None:
        stage = self._stage
        refused = stage.view().counter("fenced")
        pid = wait_for("a process of worker-b", lambda: stage.worker_pid("worker-b"))
        wait_for("a task in the middle", lambda: stage.running(pid))
        stage.signal_worker("worker-b", signal.SIGSTOP)
        frozen = stage.running(pid)
        self._say(f"[red]freeze[/red]  worker-b (process {pid}, SIGSTOP) in the middle of {len(frozen)} tasks")
        wait_for("the frozen worker to be fenced", lambda: stage.worker_pid("worker-b") is None)
        self._say("reclaim its lease ended: the daemon has fenced it and moved its tasks")
        os.kill(pid, signal.SIGCONT)
        self._say(f"wake    worker-b (SIGCONT), which still believes in its {len(frozen)} tasks")
        refused = wait_for("its settlements to be refused", lambda: stage.view().counter("fenced") - refused)
        self._say(f"fenced  {refused} settlements of worker-b were refused; it starts anew under the same ID")

    def _restart_one(self) -> None:
        stage = self._stage
        pid = wait_for("a process of worker-c", lambda: stage.worker_pid("worker-c"))
        wait_for("a task in the middle", lambda: stage.running(pid))
        stage.kill_everything("worker-c")
        orphans = stage.running(pid)
        self._say(
            f"[red]kill -9[/red] worker-c with its supervisor, {len(orphans)} tasks open: nobody is left to report"
        )
        started = time.time()
        stage.start_worker("worker-c")
        again = wait_for("its tasks to run again", lambda: self._begun_elsewhere(orphans, pid, started))
        self.report.restart_to_rerun = again - started
        self._say(f"restart under the same ID took them back {self.report.restart_to_rerun:.2f} s after its start")

    def _restart_daemon(self) -> None:
        """Kill the daemon between two beats, and let it stay away for some of them."""
        stage = self._stage
        wait_for("two beats of the schedule", lambda: len(stage.beats()) > 1)
        pid = stage.kill_daemon()
        last = max(stage.beats())
        self._say(f"[red]kill -9[/red] the daemon (process {pid}): nobody fires, nobody reclaims")
        away = last + BEATS_AWAY * BEAT_MS + BEAT_MS // 2
        wait_for(f"{BEATS_AWAY} instants to pass", lambda: time.time() * 1000 > away)
        stage.start_daemon()
        began = time.time()
        missed = {last + number * BEAT_MS for number in range(1, BEATS_AWAY + 1)}
        wait_for("the beats that nobody fired", lambda: missed <= set(stage.beats()))
        self.report.beats_late = BEATS_AWAY
        self._say(f"fire    {time.time() - began:.2f} s after its start the daemon has fired the {BEATS_AWAY} missed")
        ahead = max(stage.beats())
        wait_for("the next beat", lambda: max(stage.beats()) > ahead)

    def _drain(self) -> None:
        stage = self._stage
        app = stage.app()
        app.schedules.remove_sync(BEAT)
        wait_for("all tasks to be settled", self._all_settled, 25.0)
        self._say("done    every task is settled")

    def _all_settled(self) -> bool:
        view = self._stage.view()
        return view.open_tasks == 0 and view.counter("succeeded") >= len(self._accepted) + len(set(self._stage.beats()))

    def _begun_elsewhere(self, tasks: set[str], pid: int, since: float) -> float | None:
        """When the first of these tasks began in another process after this instant."""
        notes = [note for note in self._stage.notes() if note.task_id in tasks and note.what == "began"]
        return min((note.at for note in notes if note.pid != pid and note.at > since), default=None)

    def _count(self) -> None:
        """What Redis says, against the diary: before Redis loses its own totals."""
        report, view = self.report, self._stage.view()
        # A beat may run twice like any task whose worker dies; it must be enqueued once.
        beats = set(self._stage.beats())
        expected = range(min(beats, default=0), max(beats, default=-1) + 1, BEAT_MS)
        report.beats, report.beats_missing = len(beats), len(set(expected) - beats)
        report.beats_twice = view.counter("occurrences:fired") - len(beats)
        report.settled = view.counter("succeeded") - len(beats)
        report.fenced_settlements = view.counter("fenced")
        if report.settled != len(self._accepted):
            report.broken.append(f"{len(self._accepted)} tasks accepted, {report.settled} settlements counted")
        if report.beats_missing or report.beats_twice:
            report.broken.append(f"{report.beats_missing} beats are missing, {report.beats_twice} were enqueued twice")

    def _lose_everything(self) -> None:
        """FLUSHALL, while everything runs: the daemon finds out and rebuilds Redis from its archive."""
        stage, report = self._stage, self.report
        more = self._accept_more()
        restored.wait_archived(stage)
        wait_for("work under way", lambda: more & self._ended())
        settled = set(self._accepted) - restored.open_in_archive(stage)
        under_way = more - self._ended()
        stage.client.flushall()
        flushed, began = time.time(), time.monotonic()
        self._say(f"[red]FLUSHALL[/red]: Redis is empty, {len(under_way)} tasks and a schedule are lost")
        rebuilt = restored.last_rebuild(stage)
        report.schedules_restored = restored.wait_schedules(stage, 1)
        report.flush_to_restored = time.monotonic() - began
        report.tasks_restored = rebuilt.tasks_restored
        took = report.flush_to_restored
        self._say(f"rebuild {report.tasks_restored} tasks and the schedule are back {took:.2f} s later")
        if took > RESTORED_WITHIN:
            report.broken.append(f"Redis was whole again only after {took:.1f} s")
        wait_for("the schedule to fire again", lambda: self._beat_since(flushed + took))
        self._stage.app().schedules.remove_sync(BEAT)
        wait_for("all tasks to have ended", lambda: more <= self._ended() and not stage.view().open_tasks, 25.0)
        notes = stage.notes()
        began_again = {note.task_id for note in notes if note.what == "began" and note.at > flushed}
        ended_before = {note.task_id for note in notes if note.what == "ended" and note.at <= flushed}
        report.settled += len(more & self._ended())
        report.settled_run_again = len(settled & began_again)
        report.unseen_run_again = len((ended_before - settled) & began_again)
        self._say("done    every task is settled")

    def _accept_more(self) -> set[str]:
        app = self._stage.app()
        app.schedules.put_sync(BEAT, beat, every(f"{BEAT_MS}ms"), overlap="allow")
        calls = [step.call(0.6) for _ in range(MORE_TASKS)]
        later = [step.call(0.05).options(delay="2s") for _ in range(MORE_TASKS // 10)]
        results = app.enqueue_many_sync([*calls, *later])
        more = [result.task_id for result in results if result.status == "ok"]
        self._accepted += more
        self._say(f"enqueue {len(more)} tasks more, {len(later)} of them for later, and the beat again")
        return set(more)

    def _ended(self) -> set[str]:
        return {note.task_id for note in self._stage.notes() if note.what == "ended"}

    def _beat_since(self, instant: float) -> bool:
        return any(note.what == "beat" and note.at > instant for note in self._stage.notes())

    def _judge(self) -> None:
        """By the diary alone."""
        report = self.report
        began = Counter(note.task_id for note in self._stage.notes() if note.what == "began")
        report.accepted = len(self._accepted)
        report.run_twice = sum(1 for runs in began.values() if runs > 1)
        report.lost = len(set(self._accepted) - self._ended())
        report.seconds = round(time.monotonic() - self._began, 1)
        if report.lost:
            report.broken.append(f"{report.lost} accepted tasks never ran to an end")
        if report.settled_run_again:
            report.broken.append(f"{report.settled_run_again} tasks ran again that the archive knew as settled")
        if self._stage.view().dead:
            report.broken.append(f"{self._stage.view().dead} tasks were given up")


def _length(number: int) -> float:
    """Seconds that a task takes: mostly short, some long enough to be caught in the middle."""
    return 0.6 if number % 10 == 0 else 0.05


def run(*, as_json: bool = False) -> int:
    """Perform; prints what happens and the table, or one JSON document. Returns 1 when a promise was broken."""
    console = Console(stderr=as_json)
    with tempfile.TemporaryDirectory(prefix="reclaimd-demo-") as name, EmbeddedServer(Path(name, "server")) as server:
        stage = DemoStage(Path(name), server.url, {"RECLAIMD_ARCHIVE_URL": f"sqlite:///{name}/archive.db"})
        try:
            report = Play(stage, console).perform()
        finally:
            stage.end()
        if report.broken:
            show_logs(Path(name), console)
    if as_json:
        sys.stdout.write(json.dumps(asdict(report)) + "\n")
    else:
        console.print(table(report))
    for promise in report.broken:
        console.print(f"[red]broken:[/red] {promise}")
    if not report.broken:
        console.print(f"Every promise held, in {report.seconds:g} s.")
    return 1 if report.broken else 0

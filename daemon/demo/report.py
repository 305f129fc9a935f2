"""What demo and drill counted, as a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass
class Report:
    """What was counted. `kill_to_rerun` and the like: seconds. `broken`: promises that did not hold, in words.

    Of what ran again after a flush, `settled_run_again` are tasks that the archive knew as settled, and
    `unseen_run_again` those that ended within its lag.

    None: not part of this performance.
    """

    accepted: int = 0
    settled: int = 0
    run_twice: int = 0
    lost: int = 0
    fenced_settlements: int = 0
    kill_to_rerun: float | None = None
    restart_to_rerun: float | None = None
    beats: int | None = None
    beats_late: int | None = None
    beats_missing: int = 0
    beats_twice: int = 0
    tasks_restored: int | None = None
    schedules_restored: int | None = None
    flush_to_restored: float | None = None
    unseen_run_again: int | None = None
    settled_run_again: int | None = None
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)


def table(report: Report) -> Table:
    """For a person."""
    made = Table(title="What came of it", title_justify="left", show_header=False)
    made.add_column("")
    made.add_column("", justify="right")
    rows = (
        ("tasks accepted", report.accepted),
        ("settled", report.settled),
        ("run twice (began again after a crash or a freeze)", report.run_twice),
        ("[bold]lost[/bold]", f"[bold]{report.lost}[/bold]"),
        ("fenced settlements", report.fenced_settlements),
        ("seconds from kill to re-run", _seconds(report.kill_to_rerun)),
        ("seconds from restart to re-run", _seconds(report.restart_to_rerun)),
        ("beats of the schedule, one a second", report.beats),
        ("of them fired late, the daemon being dead", report.beats_late),
        ("missing or enqueued twice", None if report.beats is None else report.beats_missing + report.beats_twice),
        ("tasks restored from the archive after a flush", report.tasks_restored),
        ("of them ended just before it, not archived yet", report.unseen_run_again),
        ("schedules restored", report.schedules_restored),
        ("seconds from flush to restored", _seconds(report.flush_to_restored)),
        ("settled tasks that ran again after it", report.settled_run_again),
    )
    for name, value in rows:
        if value is not None:
            made.add_row(name, str(value))
    return made


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def show_logs(folder: Path, console: Console) -> None:
    """The last lines of what the processes wrote, for when a promise was broken."""
    for log in sorted(folder.glob("*.log")):
        lines = log.read_text("utf-8", "replace").splitlines()[-15:]
        console.print(f"[dim]{log.name}, last lines:[/dim]")
        for line in lines:
            console.print(f"  {line}", highlight=False, markup=False)

"""Commands with a second word: the archive, dead letters, events, queues, schedules, tasks."""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from reclaimd.daemon.cli.flags import Flags, shared
from reclaimd.daemon.cli.schedule_commands import schedules

QUEUE = typer.Option("--queue", "-q", help="Only this queue.", metavar="Q")
LIMIT = typer.Option("--limit", "-n", min=1, help="Show at most so many.")
NEWEST = typer.Option("--newest", help="Newest first; otherwise oldest first.")
IDS = typer.Argument(metavar="[ID]...", help="Task IDs or entry IDs.")
CAUSE = typer.Option("--cause", help="Only those that died of this cause.", metavar="CAUSE")
OLDER = typer.Option("--older-than", help="Only those that died that long ago: 1h, 7d.", metavar="SPAN")
ALL = typer.Option("--all", help="All of them (that fit the other options).")

archive = typer.Typer(help="The archive: what outlives Redis.", no_args_is_help=True)
dead = typer.Typer(help="Dead letters: tasks that failed for good or came back too often.", no_args_is_help=True)
queues = typer.Typer(help="Queues: list, pause, resume.", no_args_is_help=True)
tasks = typer.Typer(help="Tasks by state.", no_args_is_help=True)
events = typer.Typer(help="What happened, from archive and Redis.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Put the groups below the program."""
    for name, group in (
        ("archive", archive),
        ("dead", dead),
        ("events", events),
        ("queues", queues),
        ("schedules", schedules),
        ("tasks", tasks),
    ):
        app.add_typer(group, name=name)


@archive.callback()
@shared
def archive_group() -> None:
    """The archive: what outlives Redis."""


@archive.command("backup")
@shared
def archive_backup(
    ctx: typer.Context, file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that does not exist yet.")]
) -> int:
    """Copy a SQLite archive to FILE while it is used."""
    return int(_work("archive").backup(Flags(ctx), file))


@archive.command("status")
@shared
def archive_status(ctx: typer.Context) -> int:
    """Show what the archive holds of each queue, and whether Redis agrees."""
    return int(_work("archive").status(Flags(ctx)))


@dead.callback()
@shared
def dead_group() -> None:
    """Dead letters: tasks that failed for good or came back too often."""


@dead.command("list")
@shared
def dead_list(
    ctx: typer.Context,
    queue: Annotated[str | None, QUEUE] = None,
    cause: Annotated[str, CAUSE] = "",
    older_than: Annotated[str | None, OLDER] = None,
    limit: Annotated[int, LIMIT] = 100,
    newest: Annotated[bool, NEWEST] = False,
) -> int:
    """List dead letters."""
    return int(_work("dead").show_list(Flags(ctx), queue, cause, older_than, limit=limit, newest=newest))


@dead.command("show")
@shared
def dead_show(
    ctx: typer.Context,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Task IDs or entry IDs.")],
    queue: Annotated[str | None, QUEUE] = None,
) -> int:
    """Show dead letters whole: arguments, error, history."""
    return int(_work("dead").show(Flags(ctx), ids, queue))


@dead.command("redrive")
@shared
def dead_redrive(
    ctx: typer.Context,
    ids: Annotated[list[str] | None, IDS] = None,
    queue: Annotated[str | None, QUEUE] = None,
    cause: Annotated[str, CAUSE] = "",
    older_than: Annotated[str | None, OLDER] = None,
    everything: Annotated[bool, ALL] = False,
) -> int:
    """Put dead letters back into their lanes, with deliveries and attempts from zero."""
    return int(_work("dead").redrive(Flags(ctx), ids or [], queue, cause, older_than, everything=everything))


@dead.command("purge")
@shared
def dead_purge(
    ctx: typer.Context,
    ids: Annotated[list[str] | None, IDS] = None,
    queue: Annotated[str | None, QUEUE] = None,
    cause: Annotated[str, CAUSE] = "",
    older_than: Annotated[str | None, OLDER] = None,
    everything: Annotated[bool, ALL] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Delete dead letters for good."""
    return int(_work("dead").purge(Flags(ctx), ids or [], queue, cause, older_than, everything=everything, yes=yes))


@queues.callback()
@shared
def queues_group() -> None:
    """Queues: list, pause, resume."""


@queues.command("list")
@shared
def queues_list(ctx: typer.Context) -> int:
    """List queues, whether they are paused, and what is in them."""
    return int(_work("queues").show_list(Flags(ctx)))


@queues.command("pause")
@shared
def queues_pause(ctx: typer.Context, names: Annotated[list[str], typer.Argument(metavar="QUEUE...")]) -> int:
    """Deliver nothing from these queues until they are resumed; what runs goes on."""
    return int(_work("queues").pause(Flags(ctx), names, paused=True))


@queues.command("resume")
@shared
def queues_resume(ctx: typer.Context, names: Annotated[list[str], typer.Argument(metavar="QUEUE...")]) -> int:
    """Deliver from these queues again."""
    return int(_work("queues").pause(Flags(ctx), names, paused=False))


@tasks.callback()
@shared
def tasks_group() -> None:
    """Tasks by state."""


@tasks.command("list")
@shared
def tasks_list(
    ctx: typer.Context,
    state: Annotated[str, typer.Option("--state", help="waiting, active, delayed or dead.", metavar="STATE")],
    queue: Annotated[str | None, QUEUE] = None,
    limit: Annotated[int, LIMIT] = 100,
    newest: Annotated[bool, NEWEST] = False,
) -> int:
    """List tasks of one state, in the order in which workers come to them."""
    return int(_work("tasks").show_list(Flags(ctx), state, queue, limit=limit, newest=newest))


@events.callback()
@shared
def events_group() -> None:
    """What happened, from archive and Redis."""


@events.command("tail")
@shared
def events_tail(
    ctx: typer.Context,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            help="Begin that long ago (10m, 2h) or at an instant (2026-01-31T12:00, UTC unless it says otherwise). "
            "10m if absent; with --follow, now.",
            metavar="SPAN|TIME",
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    queue: Annotated[str | None, QUEUE] = None,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", "-t", help="Only events of this type (repeatable): Died, Moved, …", metavar="TYPE"),
    ] = None,
) -> int:
    """Show events, oldest first; with --json one document a line."""
    return int(_work("events").tail(Flags(ctx), since, queue, types or [], follow=follow))


def _work(name: str) -> ModuleType:
    return import_module(f"reclaimd.daemon.cli.{name}")

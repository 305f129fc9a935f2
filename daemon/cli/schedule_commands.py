"""The commands of `schedules` and their options."""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from reclaimd.daemon.cli.flags import Flags, shared

NEXT = typer.Option("--next", min=0, max=100, help="Show so many coming occurrences.", metavar="N")
NAME = typer.Argument(metavar="NAME", help="Name of the schedule.")
NAMES = typer.Argument(metavar="NAME...", help="Names of schedules.")
DRY_RUN = typer.Option("--dry-run", help="Say what would be done, and do nothing.")
SOURCE = typer.Option("--source", help="Only those that this source owns.", metavar="S")

TASK = typer.Option("--task", help="Name of the task.", metavar="TASK")
QUEUE = typer.Option("--queue", "-q", help="The queue that its tasks go to.", metavar="Q")
CRON = typer.Option("--cron", help="Five fields, or six with seconds.", metavar="EXPR")
EVERY = typer.Option("--every", help="An interval: 5m, 1h30m.", metavar="SPAN")
AT = typer.Option("--at", help="Once, at this instant (ISO 8601).", metavar="TIME")
TZ = typer.Option("--tz", help="IANA zone of the fields and of times without offset.", metavar="ZONE")
ANCHOR = typer.Option("--anchor", help="What an interval is counted from.", metavar="TIME")
ARGS = typer.Option("--args", help="Arguments, a JSON object.", metavar="JSON")
LANE = typer.Option("--lane", help="high, normal or low.")
MAX_DELIVERIES = typer.Option("--max-deliveries", help="Crashes until a task of it is a dead letter.")
MISFIRE = typer.Option("--misfire", help="What was missed: skip, run_once or run_all.", metavar="WORD")
MISFIRE_CAP = typer.Option("--misfire-cap", help="With run_all, run at most the last so many.")
DRIP = typer.Option("--drip", help="With run_all, the time between two.", metavar="SPAN")
OVERLAP = typer.Option("--overlap", help="While the task before is open: allow, skip or queue_one.", metavar="WORD")
JITTER = typer.Option("--jitter", help="Up to that much later, always the same.", metavar="SPAN")
START = typer.Option("--start", help="The first instant allowed.", metavar="TIME")
END = typer.Option("--end", help="The last instant allowed.", metavar="TIME")
LIMIT = typer.Option("--limit", help="How many occurrences at most.")

schedules = typer.Typer(help="Schedules: rules that make tasks.", no_args_is_help=True)


@schedules.callback()
@shared
def schedules_group() -> None:
    """Schedules: rules that make tasks."""


@schedules.command("list")
@shared
def schedules_list(
    ctx: typer.Context,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="Only this queue.", metavar="Q")] = None,
    source: Annotated[str | None, SOURCE] = None,
    problems: Annotated[
        bool, typer.Option("--problems", help="Instead, what is wrong with schedules and their sources.")
    ] = False,
    count: Annotated[int, NEXT] = 1,
) -> int:
    """List schedules, their state and what comes next; or what is wrong with any (then the exit code is 1)."""
    work = _work("schedules")
    if problems:
        return int(work.show_problems(Flags(ctx)))
    return int(work.show_list(Flags(ctx), work.Which(source, queue), count=count))


@schedules.command("show")
@shared
def schedules_show(ctx: typer.Context, name: Annotated[str, NAME], count: Annotated[int, NEXT] = 5) -> int:
    """Show one schedule whole: its rule in words, what it fired last, what comes next."""
    return int(_work("schedules").show(Flags(ctx), name, count=count))


@schedules.command("add")
@shared
def schedules_add(  # noqa: PLR0913, PLR0917  (its parameters are the command's flags)
    ctx: typer.Context,
    name: Annotated[str, NAME],
    task: Annotated[str | None, TASK] = None,
    queue: Annotated[str | None, QUEUE] = None,
    cron: Annotated[str | None, CRON] = None,
    every: Annotated[str | None, EVERY] = None,
    at: Annotated[str | None, AT] = None,
    tz: Annotated[str | None, TZ] = None,
    anchor: Annotated[str | None, ANCHOR] = None,
    args: Annotated[str | None, ARGS] = None,
    lane: Annotated[str | None, LANE] = None,
    max_deliveries: Annotated[int | None, MAX_DELIVERIES] = None,
    misfire: Annotated[str | None, MISFIRE] = None,
    misfire_cap: Annotated[int | None, MISFIRE_CAP] = None,
    drip: Annotated[str | None, DRIP] = None,
    overlap: Annotated[str | None, OVERLAP] = None,
    jitter: Annotated[str | None, JITTER] = None,
    start: Annotated[str | None, START] = None,
    end: Annotated[str | None, END] = None,
    limit: Annotated[int | None, LIMIT] = None,
    dry_run: Annotated[bool, DRY_RUN] = False,
    count: Annotated[int, NEXT] = 5,
) -> int:
    """Create or change a schedule. What is not said gets its default, also when the schedule is there already."""
    given = {
        key: value
        for key, value in locals().items()
        if key not in {"ctx", "name", "dry_run", "count"} and value is not None
    }
    return int(_work("schedules").add(Flags(ctx), name, given, dry_run=dry_run, count=count))


@schedules.command("remove")
@shared
def schedules_remove(ctx: typer.Context, names: Annotated[list[str], NAMES]) -> int:
    """Remove schedules; the tasks that they have made stay."""
    return int(_work("schedules").remove(Flags(ctx), names))


@schedules.command("pause")
@shared
def schedules_pause(ctx: typer.Context, names: Annotated[list[str], NAMES]) -> int:
    """Let schedules fire nothing until they are resumed."""
    return int(_work("schedules").pause(Flags(ctx), names, paused=True))


@schedules.command("resume")
@shared
def schedules_resume(ctx: typer.Context, names: Annotated[list[str], NAMES]) -> int:
    """Let schedules fire again; what came due meanwhile is skipped."""
    return int(_work("schedules").pause(Flags(ctx), names, paused=False))


@schedules.command("run")
@shared
def schedules_run(
    ctx: typer.Context,
    name: Annotated[str, NAME],
    request_id: Annotated[
        str | None, typer.Option("--request-id", help="The same ID makes one task, however often.", metavar="ID")
    ] = None,
) -> int:
    """Enqueue the task of a schedule once, now, and print its ID; its rhythm goes on as before."""
    return int(_work("schedules").run_now(Flags(ctx), name, request_id))


@schedules.command("import")
@shared
def schedules_import(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .toml, .yaml or .yml file.")],
    dry_run: Annotated[bool, DRY_RUN] = False,
) -> int:
    """Create and change schedules from a file: all of them, or none if anything in it is wrong. Removes nothing."""
    return int(_work("schedule_files").import_file(Flags(ctx), file, dry_run=dry_run))


@schedules.command("export")
@shared
def schedules_export(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Where to write; standard output if absent.")
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="toml or yaml; else as the file's name says.", metavar="FORM")
    ] = None,
    source: Annotated[str | None, SOURCE] = None,
) -> int:
    """Write schedules in the form that import reads."""
    return int(_work("schedule_files").export_file(Flags(ctx), file, form, source))


@schedules.command("clear")
@shared
def schedules_clear(
    ctx: typer.Context,
    source: Annotated[str | None, SOURCE] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Remove all schedules, or all that one source owns."""
    return int(_work("schedules").clear(Flags(ctx), source, yes=yes))


def _work(name: str) -> ModuleType:
    return import_module(f"reclaimd.daemon.cli.{name}")

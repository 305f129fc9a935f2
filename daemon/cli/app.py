"""The commands and how they are grouped. Their modules import what they need when they run."""

from importlib import import_module
from types import ModuleType
from typing import Annotated

import typer

from reclaimd.daemon.cli.flags import Flags, shared, shared_and_listen

# The parser's exceptions have no public home; their subclasses do.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]
ABORTED: type[BaseException] = typer.Abort

app = typer.Typer(
    name="reclaimd",
    help="Recover tasks on Redis Streams: nothing that was accepted is lost when workers die.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Exit codes: 0 done, 1 found a problem, 2 usage, 3 Redis cannot be reached or used.",
)

QUEUE = typer.Option("--queue", "-q", help="Only this queue.", metavar="Q")
DRY_RUN = typer.Option("--dry-run", help="Say what would be done, and do nothing.")


def _print_version(wanted: bool) -> None:
    if wanted:
        from reclaimd import __version__

        typer.echo(f"reclaimd {__version__}")
        raise typer.Exit


@app.callback()
@shared_and_listen
def reclaimd(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Recover tasks on Redis Streams: nothing that was accepted is lost when workers die."""


@app.command()
@shared_and_listen
def serve(ctx: typer.Context) -> int:
    """Run the daemon: reclaim from dead workers, promote delayed tasks, serve metrics."""
    return int(_work("processes").serve(Flags(ctx)))


@app.command()
@shared
def worker(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="MODULE:APP", help="Where the application is.")],
    queue: Annotated[
        list[str] | None,
        typer.Option("--queue", "-q", help="Take tasks from this queue (repeatable); all of the app's if absent."),
    ] = None,
    worker_id: Annotated[
        str | None, typer.Option("--id", help="Stable name of this worker; found out if absent.", metavar="ID")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", "-c", min=1, help="Tasks that one process runs at a time.")
    ] = None,
    processes: Annotated[int, typer.Option("--processes", "-p", min=1, help="Worker processes.")] = 1,
) -> int:
    """Run worker processes under a supervisor."""
    return int(_work("processes").worker(Flags(ctx), target, queue or [], worker_id, concurrency, processes))


@app.command()
@shared
def release(
    ctx: typer.Context,
    worker_id: Annotated[str, typer.Argument(metavar="WORKER", help="The worker ID, as given to its --id.")],
    nonce: Annotated[
        str | None,
        typer.Option(
            "--nonce",
            help="Release exactly this incarnation, on your word that its process is dead.",
            metavar="NONCE",
        ),
    ] = None,
) -> int:
    """Hand back at once what a dead worker held, where its lock file proves it dead. For ExecStopPost=."""
    return int(_work("processes").release(Flags(ctx), worker_id, nonce))


@app.command()
@shared
def enqueue(  # noqa: PLR0913, PLR0917  (its parameters are the command's flags)
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(metavar="TASK", help="Name of the task.")],
    queue: Annotated[str, typer.Option("--queue", "-q", help="The queue to put it in.", metavar="Q")] = "default",
    args: Annotated[
        str, typer.Option("--args", help="Keyword arguments, a JSON object; - reads standard input.", metavar="JSON")
    ] = "{}",
    lane: Annotated[str, typer.Option("--lane", help="high, normal or low.")] = "normal",
    delay: Annotated[
        str | None, typer.Option("--delay", help="Run it that much later: 10s, 5m.", metavar="SPAN")
    ] = None,
    unique: Annotated[
        str, typer.Option("--unique", help="Add nothing while a task with this key is open.", metavar="KEY")
    ] = "",
    task_id: Annotated[
        str | None, typer.Option("--task-id", help="The same ID is enqueued at most once.", metavar="ID")
    ] = None,
    max_deliveries: Annotated[
        int | None, typer.Option("--max-deliveries", min=1, help="Crashes until it is a dead letter.")
    ] = None,
    durability: Annotated[
        str | None,
        typer.Option(
            "--durability", help="Wait until a replica has it (replicated) or the disk (fsync); or not (async)."
        ),
    ] = None,
) -> int:
    """Enqueue one task and print its ID."""
    request = (task, queue, args, lane, delay, unique, task_id, max_deliveries, durability)
    return int(_work("enqueue").enqueue(Flags(ctx), *request))


@app.command()
@shared
def status(ctx: typer.Context) -> int:
    """Show tasks by queue and state, and how many workers live."""
    return int(_work("status").status(Flags(ctx)))


@app.command()
@shared
def workers(ctx: typer.Context, queue: Annotated[str | None, QUEUE] = None) -> int:
    """Show every worker: alive or dead, since when and why, and what it holds."""
    return int(_work("status").workers(Flags(ctx), queue))


@app.command()
@shared
def recover(
    ctx: typer.Context,
    queue: Annotated[str | None, QUEUE] = None,
    dry_run: Annotated[bool, DRY_RUN] = False,
    wait: Annotated[
        bool,
        typer.Option(help="Wait for the leases of workers that have been silent while no daemon ran."),
    ] = True,
) -> int:
    """Bring back the tasks of dead workers now, and say which."""
    return int(_work("recover").recover(Flags(ctx), queue, dry_run=dry_run, wait=wait))


@app.command()
@shared
def cleanup(
    ctx: typer.Context,
    queue: Annotated[str | None, QUEUE] = None,
    dry_run: Annotated[bool, DRY_RUN] = False,
    older_than: Annotated[
        str, typer.Option("--older-than", help="Only workers gone for that long.", metavar="SPAN")
    ] = "0s",
) -> int:
    """Forget workers that are gone, and empty consumers that nobody owns."""
    return int(_work("recover").cleanup(Flags(ctx), queue, older_than, dry_run=dry_run))


@app.command()
@shared
def rebuild(
    ctx: typer.Context,
    queue: Annotated[str | None, QUEUE] = None,
    dry_run: Annotated[bool, DRY_RUN] = False,
    accept: Annotated[
        bool, typer.Option("--accept", help="Take Redis as it is: restore nothing, open the queues again.")
    ] = False,
    from_archive: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="With --accept: also what belongs to this other archive, which is gone for good.",
            metavar="ARCHIVE_ID",
        ),
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="Show the report of the last rebuild.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before --accept.")] = False,
) -> int:
    """Bring back from the archive what Redis has lost. Interrupted, it goes on where it was when it is run again."""
    how = {"dry_run": dry_run, "accept": accept, "from_archive": from_archive, "last": last, "yes": yes}
    return int(_work("rebuild").rebuild(Flags(ctx), queue, **how))


@app.command()
@shared
def snapshot(ctx: typer.Context) -> int:
    """Write a snapshot of the schedules, and bring the archive up to date where no daemon does."""
    return int(_work("archive").snapshot(Flags(ctx)))


@app.command()
@shared
def explain(
    ctx: typer.Context,
    task_id: Annotated[str, typer.Argument(metavar="TASK_ID")],
    queue: Annotated[str | None, QUEUE] = None,
) -> int:
    """Tell the life of a task: every event that is kept, and where it is now."""
    return int(_work("explain").explain(Flags(ctx), task_id, queue))


@app.command()
@shared
def demo(ctx: typer.Context) -> int:
    """See workers die and no task get lost: a server, a daemon and workers of its own, in a scratch folder."""
    return int(_work("processes").demo(Flags(ctx)))


@app.command()
@shared
def drill(
    ctx: typer.Context,
    flush: Annotated[
        bool, typer.Option("--flush", help="Lose the scratch namespace too, and rebuild it from a scratch archive.")
    ] = False,
    tasks: Annotated[int, typer.Option("--tasks", min=20, max=100_000, help="Tasks to enqueue.")] = 500,
    workers: Annotated[int, typer.Option("--workers", min=1, max=50, help="Workers to start.")] = 3,
    keep: Annotated[bool, typer.Option("--keep", help="Leave namespace, logs and archive for a look.")] = False,
) -> int:
    """Prove it on your own Redis: kill everything at once, start it again, count. Exit 0 when nothing is lost.

    Works in a namespace of its own, NAMESPACE-drill-RANDOM, which is removed in the end; no other key is touched. The
    user of the URL needs the keys ~{NAMESPACE-drill-* and what producer, worker and daemon may do, and SCAN.
    """
    return int(_work("processes").drill(Flags(ctx), tasks, workers, flush=flush, keep=keep))


@app.command()
@shared
def version(ctx: typer.Context) -> None:
    """Print the version."""
    from reclaimd import __version__

    typer.echo(f'{{"version": "{__version__}"}}' if Flags(ctx).json else f"reclaimd {__version__}")


def _work(name: str) -> ModuleType:
    """The module that does a command's work; importing it late keeps `version` and `--help` fast."""
    return import_module(f"reclaimd.daemon.cli.{name}")


from reclaimd.daemon.cli import groups  # noqa: E402

groups.add_to(app)

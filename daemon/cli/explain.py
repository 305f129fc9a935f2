"""`explain`: the life of a task, told line by line."""

from reclaimd.daemon.cli.flags import Flags
from reclaimd.daemon.cli.output import Output
from reclaimd.daemon.cli.running import DONE, PROBLEM, run_alone
from reclaimd.daemon.cli.words import instant, plural, span
from reclaimd.daemon.inspect.kept import Archive, known_queues, open_archive
from reclaimd.daemon.inspect.letters import TaskInfo
from reclaimd.daemon.inspect.life import Life, Now, read_archived_life, read_life
from reclaimd.daemon.inspect.source import Source, open_source
from reclaimd.daemon.inspect.steps import Step
from reclaimd.streams.ids import check_task_id


def explain(flags: Flags, task_id: str, queue: str | None) -> int:
    """Print the life of a task in each queue that knows it."""
    if not task_id.startswith("foreign:"):
        check_task_id(task_id)
    settings = flags.settings()

    async def work(out: Output) -> int:
        async with open_archive(settings, out.note) as archive, open_source(settings, check=False) as source:
            away = await source.absence()
            if away is None:
                searched, lives = await _with_redis(source, archive, out, task_id, queue)
            else:
                searched, lives = await _without_redis(archive, task_id, queue)
                if not lives:
                    # The archive does not tell what Redis would.
                    raise away
                out.note(f"what follows is from the archive alone: {away}")
            _tell(out, task_id, searched, lives, archived=archive.present, redis=away is None)
        if lives:
            return DONE
        where = f"queue {queue}" if queue else plural(len(searched), "queue")
        out.note(f"nothing is known of task {task_id} in {where}: check the ID, or its events are gone")
        return PROBLEM

    return run_alone(flags, work)


async def _with_redis(
    source: Source, archive: Archive, out: Output, task_id: str, queue: str | None
) -> tuple[list[str], list[Life]]:
    """The queues that were searched, and what was found."""
    queues = await known_queues(source, archive, queue)
    lives: list[Life] = []
    with out.progress() as report:
        for name in queues:
            life = await read_life(
                source,
                name,
                task_id,
                lambda done, of, name=name: report(f"reading {name}", done, of),  # type: ignore[misc]
                archive,
            )
            if life is not None:
                lives.append(life)
    return queues, lives


async def _without_redis(archive: Archive, task_id: str, queue: str | None) -> tuple[list[str], list[Life]]:
    """The same, of the archive alone."""
    queues = [name for name in await archive.queues() if queue in {None, name}]
    found = [await read_archived_life(archive, name, task_id) for name in queues]
    return queues, [life for life in found if life is not None]


def _tell(out: Output, task_id: str, searched: list[str], lives: list[Life], *, archived: bool, redis: bool) -> None:
    if out.json:
        out.document(
            {
                "task_id": task_id,
                "found": bool(lives),
                "searched": searched,
                "archive": archived,
                "redis": "reachable" if redis else "unreachable",
                "lives": lives,
            }
        )
        return
    for life in lives:
        out.line(f"Task {task_id} in queue {life.queue}: {sentence(life.now, redis=redis)}")
        if not life.complete:
            since = f" before {instant(life.events_from_ms)}" if life.events_from_ms else ""
            kept = " is kept." if archived else " is kept; an archive (archive.url) would keep them longer."
            out.line(f"Older events are gone: nothing{since}{kept}")
        for step in life.steps:
            out.line(f"{instant(step.at_ms)}  {tell(step)}")


def sentence(now: Now, *, redis: bool = True) -> str:
    """Where it is, in a sentence. `redis`: whether that could be asked."""
    task = now.task
    if task is None:
        ends = {"succeeded": "it succeeded.", "purged": "its dead letter was deleted."}
        unknown = (
            "it is not open any more, and how it ended is not known." if redis else "where it is only Redis knows."
        )
        return ends.get(now.state, unknown)
    if now.state == "archived" and not redis:
        return f"the archive saw it last among the {task.state} ones; where it is now only Redis knows."
    if now.state == "archived":
        return (
            f"not in Redis; the archive saw it last among the {task.state} ones. If Redis lost data and nothing brings "
            "it back by itself: reclaimd rebuild"
        )
    if task.state == "waiting":
        least = "at least " if now.ahead_is_least else "about "
        ahead = f"{least}{now.ahead} before it" if now.ahead else "it is next"
        return f"waiting in {task.stream}, {ahead}."
    if task.state == "active":
        return f"with worker {task.worker} since {instant(task.since_ms)}{_fate(now)}."
    if task.state == "delayed":
        return f"delayed until {instant(task.due_ms)}."
    if task.state == "queued":
        return f"queued until the open task of schedule {task.schedule} has ended."
    return (
        f"dead since {instant(task.since_ms)}, {_cause(task)}. To run it again: reclaimd dead redrive {task.entry_id}"
    )


def _fate(now: Now) -> str:
    return "" if now.worker_state == "live" else f", which is {now.worker_state}: it will be reclaimed"


def _cause(task: TaskInfo) -> str:
    return f"{task.cause}: {task.error}" if task.error else task.cause


def tell(step: Step) -> str:
    """One thing that happened, in a line."""
    by = f" by {step.worker}" if step.worker else ""
    incarnation = f" (incarnation {step.token})" if step.token else ""
    error = f": {step.error}" if step.error else ""
    match step.what:
        case "enqueued" | "delayed":
            due = f", due {instant(step.due_ms)}" if step.due_ms else f" as {step.entry_id}"
            return f"enqueued in lane {step.lane}{due}"
        case "started":
            return f"started{by}{incarnation}, {span(step.wait_ms)} after it was enqueued"
        case "succeeded":
            return f"succeeded after {span(step.run_ms)}{by}{incarnation}"
        case "retried":
            return f"failed{by} after {span(step.run_ms)} ({step.cause}{error}), next attempt {instant(step.due_ms)}"
        case "parked":
            return f"not run{by} ({step.cause}{error}), tried again {instant(step.due_ms)}"
        case "died":
            return f"became a dead letter, {step.entry_id} ({step.cause}{error}){by and f', last with {step.worker}'}"
        case "promoted":
            return f"due, {span(step.late_ms)} late: to lane {step.lane}"
        case _:
            return _tell_more(step, by, incarnation)


def _tell_more(step: Step, by: str, incarnation: str) -> str:
    match step.what:
        case "moved":
            late = f", {span(step.late_ms)} after its lease ended" if step.late_ms else ""
            counts = f"deliveries {step.deliveries}, handbacks {step.handbacks}"
            return f"taken back from {step.worker} ({step.cause}{late}) to {step.stream}, {counts}"
        case "fired" | "queued":
            return _tell_occurrence(step)
        case "restored" | "dropped":
            return _tell_rebuilt(step)
        case "redriven":
            return f"redriven to lane {step.lane}"
        case "purged" | "refused":
            refused = f"settlement refused{by}{incarnation}: another incarnation had taken over"
            return refused if step.what == "refused" else "its dead letter was deleted"
        case "ghost":
            return f"entry {step.entry_id} was deleted by somebody while pending to {step.worker}"
        case "remembered":
            cause = f" ({step.cause})" if step.cause else ""
            return f"{step.detail}{by}{cause}, from the history that it carries"
        case _:
            return f"an event that this version cannot read ({step.detail})"


_WHY_DROPPED = {
    "settled": "Redis showed it again, though it had ended",
    "purged": "Redis showed it again, though its dead letter had been deleted",
    "buried": "Redis showed it as open, though it was a dead letter",
    "superseded": "Redis showed an older state of it than the archive",
}


def _tell_rebuilt(step: Step) -> str:
    if step.what == "dropped":
        return f"removed from {step.stream} by a rebuild: {_WHY_DROPPED.get(step.cause, step.cause)}"
    due = f", due {instant(step.due_ms)}" if step.due_ms else ""
    place = f" as {step.entry_id}" if step.entry_id else ""
    before = f"; it had been {step.old_entry_id}" if step.old_entry_id else ""
    counts = f", deliveries {step.deliveries}, handbacks {step.handbacks}"
    return f"restored from the archive to {step.stream}{place}{due}{counts}, because Redis had lost it{before}"


def _tell_occurrence(step: Step) -> str:
    if step.detail == "asked for":
        return f"made by schedule {step.schedule}, which was asked to run now, as {step.entry_id}"
    made = f"made by schedule {step.schedule} for {instant(step.nominal_ms)}, {span(step.late_ms)} late"
    if step.what == "queued":
        return f"{made}, queued until its predecessor ends"
    waited = ", once its predecessor had ended" if step.detail else ""
    return f"{made}, as {step.entry_id}{waited}"

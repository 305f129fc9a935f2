"""`tasks list`."""

from typing import get_args

from reclaimd.daemon.cli.complaints import UsageProblem
from reclaimd.daemon.cli.flags import Flags
from reclaimd.daemon.cli.output import Cell, Output
from reclaimd.daemon.cli.running import DONE, run
from reclaimd.daemon.cli.words import instant, plural
from reclaimd.daemon.inspect.letters import TaskInfo, TaskState
from reclaimd.daemon.inspect.source import Source
from reclaimd.daemon.inspect.tasks import list_tasks

_STATES: tuple[TaskState, ...] = get_args(TaskState)


def show_list(flags: Flags, state: str, queue: str | None, *, limit: int, newest: bool) -> int:
    """Print one row for each task of a state."""
    chosen = next((known for known in _STATES if known == state), None)
    if chosen is None:
        raise UsageProblem(f"no state {state!r}: say --state {', '.join(_STATES)}")

    async def work(source: Source, out: Output) -> int:
        queues = await source.queues(queue)
        # One more than wanted, to know whether there are more.
        found = [task async for task in list_tasks(source, queues, chosen, limit=limit + 1, newest=newest)]
        more = len(found) > limit
        found = found[:limit]
        if out.json:
            out.document({"state": chosen, "tasks": found, "more": more})
            return DONE
        if found:
            columns, rows = _table(chosen, found)
            out.table(columns, rows)
        out.line(f"{plural(len(found), f'{chosen} task')}{', there are more: raise --limit' if more else ''}.")
        return DONE

    return run(flags, work)


def _table(state: TaskState, found: list[TaskInfo]) -> tuple[list[str], list[list[Cell]]]:
    columns = ["task", "queue", "name", "lane", "stream", "deliveries", "attempts"]
    rows: list[list[Cell]] = [[t.task_id, t.queue, t.name, t.lane, t.stream, t.deliveries, t.attempts] for t in found]
    special: dict[TaskState, list[tuple[str, list[Cell]]]] = {
        "waiting": [("enqueued", [instant(t.enqueued_at_ms) for t in found])],
        "active": [("worker", [t.worker for t in found]), ("since", [instant(t.since_ms) for t in found])],
        "delayed": [("due", [instant(t.due_ms) for t in found])],
        "dead": [("cause", [t.cause for t in found]), ("died", [instant(t.since_ms) for t in found])],
    }
    for title, cells in special[state]:
        columns.append(title)
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)
    return columns, rows

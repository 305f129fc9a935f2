"""`queues list`, `queues pause`, `queues resume`."""

from reclaimd.daemon.cli.flags import Flags
from reclaimd.daemon.cli.output import Cell, Output
from reclaimd.daemon.cli.running import DONE, run
from reclaimd.daemon.inspect.source import Source
from reclaimd.daemon.view import PartitionView
from reclaimd.streams import scripts


def show_list(flags: Flags) -> int:
    """Print one row for each queue."""

    async def work(source: Source, out: Output) -> int:
        views = [await source.view(queue) for queue in await source.queues()]
        if out.json:
            out.document({"queues": [_row(view) for view in views]})
        elif views:
            columns = [name.replace("_", " ") for name in _row(views[0])]
            out.table(columns, [[_cell(value) for value in _row(view).values()] for view in views])
        else:
            out.line("No queues yet.")
        return DONE

    return run(flags, work)


def _row(view: PartitionView) -> dict[str, str | int | bool]:
    return {
        "queue": view.queue,
        "paused": view.paused,
        "state": view.state,
        "waiting": view.total_waiting,
        "active": view.total_pending,
        "delayed": view.delayed,
        "dead": view.dead,
        "live_workers": view.live,
    }


def _cell(value: str | int | bool) -> Cell:
    return ("yes" if value else "no") if isinstance(value, bool) else value


def pause(flags: Flags, names: list[str], *, paused: bool) -> int:
    """Pause or resume; a queue that already was so is left alone. All names are checked first."""

    async def work(source: Source, out: Output) -> int:
        chosen = [queue for name in dict.fromkeys(names) for queue in await source.queues(name)]
        changed = [(queue, await source.send(scripts.pause(source.partition(queue), paused))) for queue in chosen]
        if out.json:
            rows = [{"queue": queue, "paused": paused, "changed": was_changed} for queue, was_changed in changed]
            out.document({"queues": rows})
            return DONE
        word = "paused" if paused else "running"
        for queue, was_changed in changed:
            out.line(f"{queue} is {'now ' if was_changed else 'already '}{word}")
        return DONE

    return run(flags, work)

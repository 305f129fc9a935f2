"""The loops of the sources of schedules, one each, so that a database that hangs holds up nobody else."""

from collections.abc import Iterator

from reclaimd.daemon.loops.scheduler import Scheduler
from reclaimd.daemon.loops.shell import Context, Loop
from reclaimd.daemon.sources.poller import Poller
from reclaimd.streams.schedules.fold import Schedules

NAME = "source"
STALL_GRACE = 60.0


def source_loops(context: Context, scheduler: Scheduler) -> Iterator[Loop]:
    """A loop for each source; none in a daemon that fires no schedules, as it does not know which there are."""
    if not scheduler.enabled:
        return

    def fold() -> Schedules | None:
        return scheduler.book.state if scheduler.book.ready else None

    settings = context.settings
    for source in settings.sources:
        poller = Poller(
            source,
            context.links,
            settings.namespace,
            context.instruments,
            fold=fold,
            server_now=scheduler.clock.now,
        )
        patience = (source.interval_ms + source.timeout_ms) / 1000 + STALL_GRACE
        yield Loop(f"{NAME}:{source.name}", "", poller.step, context, stall_after=patience)

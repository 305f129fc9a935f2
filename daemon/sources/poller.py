"""One look at a source: read it, compare it with the fold, append what is missing, and say how it went."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio.to_thread
import msgspec

from reclaimd.daemon.inspect.reports import MOST_PROBLEMS, SourceProblem, SourceReport
from reclaimd.daemon.links import Links
from reclaimd.daemon.sources.errors import SourceFailed
from reclaimd.daemon.sources.reading import read_source, reader_of
from reclaimd.daemon.sources.reconcile import Reconciled, reconcile
from reclaimd.daemon.sources.rows import Wanted
from reclaimd.metrics.instruments import Instruments
from reclaimd.streams.keys import schedule_problems_key
from reclaimd.streams.logs import get_logger
from reclaimd.streams.redis_log import AsyncClient
from reclaimd.streams.schedules.fold import Schedules
from reclaimd.streams.schedules.log import ScheduleLog
from reclaimd.streams.source_settings import SourceSettings

IMPATIENCE = 0.1
"""Seconds until the next look while the fold is not there yet."""
MOST_LOGGED = 20

log = get_logger(__name__)


class Poller:
    """Polls one source. `fold`: the schedules as they are, None while nobody knows."""

    def __init__(
        self,
        settings: SourceSettings,
        links: Links,
        namespace: str,
        instruments: Instruments,
        *,
        fold: Callable[[], Schedules | None],
        server_now: Callable[[], float],
    ) -> None:
        self.settings = settings
        self._reader = reader_of(settings)
        self._links = links
        self._namespace = namespace
        self._instruments = instruments
        self._fold = fold
        self._server_now = server_now
        self._report = SourceReport(source=settings.name, at_ms=0)
        self._unmet = False

    async def step(self) -> float:
        """Poll once; returns the seconds until the next one. Raises only what Redis is the cause of."""
        if self._fold() is None:
            return IMPATIENCE
        name = self.settings.name
        try:
            wanted, problems, rows = await read_source(self._reader, self.settings)
        except SourceFailed as error:
            self._instruments.source_polls.labels(name, "failed").inc()
            await self._publish(msgspec.structs.replace(self._report, failed=error.why, at_ms=int(self._server_now())))
            return self.settings.interval_ms / 1000
        state = self._fold()
        if state is None:
            return IMPATIENCE
        self._compare_numbers(state, wanted)
        done = await anyio.to_thread.run_sync(
            lambda: reconcile(name, wanted, problems, state.copy(), allow_empty=self.settings.allow_empty)
        )
        if done.events:
            await self._links.use(lambda client: ScheduleLog(client, self._namespace).append(done.events))
            self._tell(done)
        self._instruments.source_polls.labels(name, "ok").inc()
        self._instruments.source_drift.labels(name).set(done.drift)
        self._instruments.source_schedules.labels(name).set(len(wanted))
        await self._publish(
            SourceReport(
                source=name,
                at_ms=int(self._server_now()),
                rows=rows,
                enabled=done.enabled,
                held=done.held,
                problem_count=len(done.problems),
                problems=done.problems[:MOST_PROBLEMS],
            )
        )
        return self.settings.interval_ms / 1000

    def _compare_numbers(self, state: Schedules, wanted: list[Wanted]) -> None:
        """A source that has enabled schedules while Redis has none at all: data were lost, or it is new."""
        enabled = sum(one.enabled is not False for one in wanted)
        unmet = enabled > 0 and not any(not row.paused and not row.suspended for row in state.rows.values())
        self._instruments.source_unmet.labels(self.settings.name).set(unmet)
        if unmet and not self._unmet:
            log.warning("source has enabled schedules and Redis has none", source=self.settings.name, enabled=enabled)
        self._unmet = unmet

    def _tell(self, done: Reconciled) -> None:
        changes = {word: getattr(done, word) for word in ("created", "updated", "removed", "switched")}
        counts = {word: len(names) for word, names in changes.items() if names}
        log.info("schedules follow their source", source=self.settings.name, **counts)
        for word, names in changes.items():
            for name in names[:MOST_LOGGED]:
                log.debug("schedule follows its source", source=self.settings.name, schedule=name, change=word)

    async def _publish(self, report: SourceReport) -> None:
        """Into the log what has changed, and all of it into the metrics and into Redis for other processes to see."""
        before, self._report = self._report, report
        name = self.settings.name
        self._instruments.source_problems.labels(name).set(report.troubles)
        if report.failed and report.failed != before.failed:
            log.error("source cannot be read; its schedules stay as they are", source=name, reason=report.failed)
        if before.failed and not report.failed:
            log.info("source can be read again", source=name)
        if report.held and report.held != before.held:
            log.error("schedules gone from their source were not removed", source=name, reason=report.held)
        known = set(before.problems)
        news = [problem for problem in report.problems if problem not in known]
        for problem in news[:MOST_LOGGED]:
            log.warning("row of a source cannot be used", source=name, **_told(problem))
        if len(news) > MOST_LOGGED:
            log.warning("more rows of a source cannot be used", source=name, more=len(news) - MOST_LOGGED)

        async def write(client: AsyncClient) -> None:
            key = schedule_problems_key(self._namespace)
            await _done(client.hset(key, name, msgspec.json.encode(report)))

        await self._links.use(write)


async def _done(reply: Awaitable[int] | int) -> None:
    if not isinstance(reply, int):
        await reply


def _told(problem: SourceProblem) -> dict[str, Any]:
    return {"schedule": problem.name, "row": problem.row, "field": problem.field, "reason": problem.reason}

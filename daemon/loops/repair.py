"""What follows from a verdict on a partition's data: adopt, rebuild, freeze, or leave it alone and alert."""

import secrets
import time
from typing import TYPE_CHECKING, Final, Protocol

from reclaimd.daemon.archive.following import Following
from reclaimd.daemon.loops.shell import Context
from reclaimd.daemon.rebuild.values import PartitionRow, Report, Verdict
from reclaimd.daemon.sd_notify import notify
from reclaimd.streams.archive_scripts import Facts
from reclaimd.streams.errors import ReclaimdError
from reclaimd.streams.keys import Partition
from reclaimd.streams.logs import get_logger

if TYPE_CHECKING:
    from reclaimd.daemon.archive.progress import Step
    from reclaimd.daemon.archive.store import Store

LOSS: Final = "loss"
SOON: Final = 0.05
LOOK_AGAIN: Final = 2.0
PATIENCE_SECONDS: Final = 60
FAILED_PAUSE: Final = 1.0

log = get_logger(__name__)


class Follows(Protocol):
    """The archiver of the partition. `kind`: of the last verdict."""

    partition: Partition
    row: PartitionRow | None
    kind: str
    settled: bool

    def began_anew(self, row: PartitionRow | None) -> None: ...


class Tells(Protocol):
    """Who wants to know that a partition is open again."""

    def rebuilt(self, queue: str) -> None: ...


class Repair:
    """Acts on verdicts that are not `healthy`."""

    def __init__(self, archiver: Follows, archive: Tells, context: Context) -> None:
        self._of = archiver
        self._archive = archive
        self._context = context
        self._metrics = context.instruments.archive

    @property
    def _queue(self) -> str:
        return self._of.partition.queue

    @property
    def _auto(self) -> bool:
        return self._context.settings.archive.rebuild == "auto"

    def healthy(self) -> None:
        """The verdict is that nothing is wrong, or not any more."""
        if self._of.kind not in {"", "new", "healthy"}:
            log.info("data are whole again", queue=self._queue)
        self._of.kind = "healthy"
        self._context.health.forget(LOSS, self._queue)
        self._metrics.unresolved.labels(self._queue).set(0)

    async def act(self, following: Following, judged: Verdict, seen: Facts) -> float:
        """Any other verdict. Returns the seconds until the next look."""
        self._note(judged)
        if judged.kind in {"new", "archive_behind"}:
            return await self._adopt(following, judged, seen)
        if judged.kind == "foreign":
            return self._wait(f"this is not the data that the archive knows ({judged.reason}): nothing is touched")
        if self._auto:
            return await self._rebuild(following.store, judged, seen)
        return await self._freeze(following.store, judged, seen)

    def _note(self, judged: Verdict) -> None:
        if judged.kind == self._of.kind:
            return
        self._of.kind = judged.kind
        if judged.is_loss or judged.kind in {"foreign", "archive_behind"}:
            self._metrics.detections.labels(self._queue, judged.kind).inc()
            log.error("data are not what the archive knows", queue=self._queue, kind=judged.kind, reason=judged.reason)

    async def _adopt(self, following: Following, judged: Verdict, seen: Facts) -> float:
        adopted = await following.adopt(self._of.row, seen, self._context.settings.archive.events_limit)
        if adopted.status != "ok":
            return SOON if adopted.status == "changed" else self._wait(f"cannot be archived: {adopted.status}")
        self._of.began_anew(adopted.row)
        self._context.health.forget(LOSS, self._queue)
        log.info("archive begins", queue=self._queue, cause=judged.kind)
        return 0.0

    async def _freeze(self, store: "Store", judged: Verdict, seen: Facts) -> float:
        from reclaimd.daemon.archive.job import Overtaken
        from reclaimd.daemon.archive.rebuilding import freeze_partition

        if judged.is_loss:
            try:
                await freeze_partition(
                    store, self._context.links, self._of.partition, judged, seen, new_id=_new_id, state="lost"
                )
            except Overtaken:
                return SOON
            self._of.row = await store.partition(self._of.partition)
        what = "is being rebuilt" if judged.kind == "rebuilding" else f"lost data ({judged.reason or judged.kind})"
        return self._wait(f"this queue {what}, nothing runs: reclaimd rebuild --queue {self._queue}")

    async def _rebuild(self, store: "Store", judged: Verdict, seen: Facts) -> float:
        from reclaimd.daemon.archive.job import Overtaken
        from reclaimd.daemon.archive.rebuilding import rebuild_partition

        self._problem(f"this queue lost data ({judged.reason or judged.kind}) and is being rebuilt")
        began = time.monotonic()
        try:
            report = await rebuild_partition(
                store,
                self._context.links,
                self._of.partition,
                judged,
                seen,
                new_id=_new_id,
                events_cap=self._context.settings.archive.events_limit,
                progress=self._progress,
            )
        except Overtaken:
            self._of.row = await store.partition(self._of.partition)
            return SOON
        except ReclaimdError:
            self._metrics.rebuilds.labels(self._queue, "failed").inc()
            raise
        self._done(report, time.monotonic() - began)
        self._of.row = await store.partition(self._of.partition)
        self._archive.rebuilt(self._queue)
        return 0.0

    def _progress(self, step: "Step") -> None:
        # A start that has much to restore has not failed.
        notify(f"STATUS=rebuilding {self._queue}: {step.what}\nEXTEND_TIMEOUT_USEC={PATIENCE_SECONDS * 1_000_000}")
        if step.total:
            self._metrics.rebuild_progress.labels(self._queue).set(min(1.0, step.done / step.total))
            self._problem(f"this queue lost data and is being rebuilt: {step.what}, {step.done} of {step.total}")

    def _done(self, report: Report, seconds: float) -> None:
        queue, metrics = self._queue, self._metrics
        metrics.rebuilds.labels(queue, "done").inc()
        metrics.rebuild_seconds.observe(seconds)
        metrics.rebuild_progress.labels(queue).set(1)
        counts = {
            "restored": sum(report.restored.values()),
            "kept": report.kept,
            "dropped": sum(report.dropped.values()),
            "unrestorable": report.unrestorable_count,
        }
        for what, number in counts.items():
            metrics.rebuild_tasks.labels(queue, what).inc(number)
        log.warning("rebuilt", queue=queue, verdict=report.verdict, seconds=round(seconds, 3), **counts)

    def _wait(self, problem: str) -> float:
        self._problem(problem)
        self._of.settled = True
        return LOOK_AGAIN

    def _problem(self, text: str) -> None:
        self._metrics.unresolved.labels(self._queue).set(1)
        self._context.health.expect(LOSS, self._queue, stall_after=float("inf"))
        self._context.health.failed(LOSS, self._queue, text)


def _new_id() -> str:
    return secrets.token_hex(8)

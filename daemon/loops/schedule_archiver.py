"""Archives the schedules of a namespace, finds out when Redis has lost some, and brings them back."""

import secrets
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
import redis
from anyio.abc import TaskGroup

from reclaimd.daemon.archive.errors import ArchiveFailed, OwnerLost
from reclaimd.daemon.loops.ownership import BEAT_SECONDS, Shared
from reclaimd.daemon.loops.scheduler import Scheduler
from reclaimd.daemon.loops.shell import Context, Loop
from reclaimd.daemon.rebuild.marks import mark_number, new_mark
from reclaimd.daemon.rebuild.schedules import FROM_START, schedules_verdict
from reclaimd.daemon.rebuild.values import PartitionRow, Report, Verdict
from reclaimd.daemon.schedules.gate import SCHEDULES
from reclaimd.daemon.schedules.overdue import judge
from reclaimd.streams.errors import ReclaimdError
from reclaimd.streams.keys import Partition
from reclaimd.streams.logs import get_logger
from reclaimd.streams.redis_log import AsyncClient
from reclaimd.streams.schedules.archive_scripts import Facts, ScheduleTail, schedules_tail

if TYPE_CHECKING:
    from reclaimd.daemon.archive.store import Store

NAME: Final = "schedule_archive"
LABEL: Final = "(schedules)"
"""How metrics name the log of schedules among queues; no queue can be called so."""
POLL: Final = 0.25
WATCH: Final = 1.0
SOON: Final = 0.05
AT_START: Final = 100
"""Steps that go on at once, before the daemon's other parts begin."""
FROZEN: Final = 1.0
COMPACT: Final = 20_000
"""Events after which the archive folds them to a snapshot."""
PATIENCE: Final = 5.0
"""Seconds after which firing goes on without an archive that cannot be asked."""
STALL: Final = 120.0

log = get_logger(__name__)


class ScheduleArchiver:
    """One for each daemon that has an archive; of several, one archives. `scheduler.gate` is closed while Redis is not
    known to agree with the archive.
    """

    def __init__(self, context: Context, archive: Shared, scheduler: Scheduler) -> None:
        self.last_report: Report | None = None
        self.loop = Loop(NAME, "", self.step, context, stall_after=STALL)
        self._context = context
        self._archive = archive
        self._gate = scheduler.gate
        self._metrics = context.instruments.archive
        self._namespace = context.settings.namespace
        # The name under which the archive has them: no queue has none.
        self._partition = Partition(self._namespace, "")
        self._row: PartitionRow | None = None
        self._owner = False
        self._beaten = float("-inf")
        self._folded = 0
        self._trouble: float | None = None
        self._kind = ""
        self._doubtful = True
        self._gate.archive_id = ""
        self._gate.on_doubt = self._suspect
        self._gate.close(SCHEDULES, "the archive was not asked yet")

    async def start(self, tasks: TaskGroup) -> None:
        """Look, and restore what is to be restored, then go on in `tasks`. Waits for Redis, not for the archive."""
        for _ in range(AT_START):
            pause = await self.loop.once()
            if pause > 0:
                break
        tasks.start_soon(self._watch)
        tasks.start_soon(self.loop.run)

    async def _watch(self) -> None:
        """Whatever comes back after Redis was away may be an older copy."""
        connectivity = self._context.connectivity
        while True:
            await connectivity.until_down()
            self._doubt("Redis was away")
            await connectivity.until_up()
            self.loop.alarm.ring_within(0.0)

    def _suspect(self, why: str) -> None:
        self._doubt(why)
        self.loop.alarm.ring_within(0.0)

    def _doubt(self, why: str) -> None:
        self._row, self._doubtful = None, True
        self._gate.close(SCHEDULES, why)

    async def step(self) -> float:
        """Look, and do what is to be done next. Returns the seconds until the next step."""
        try:
            store = await self._archive.store()
            self._gate.archive_id = store.archive_id
            pause = await self._step(store)
        except OwnerLost:
            self._forget()
            return 0.0
        except ArchiveFailed as error:
            self._forget()
            await self._without_archive(error)
            return self._archive.failed(LABEL, error)
        except (ReclaimdError, redis.RedisError):
            self._doubt("Redis was away")
            raise
        self._trouble = None
        self._archive.worked(LABEL)
        return pause

    async def _step(self, store: "Store") -> float:
        row = await self._owned(store)
        tail, following = await self._tail(store, row)
        if row is not None and row.state == "archiving" and (tail.agreed or self._seems_whole(store, row, tail.facts)):
            return await self._keep(store, row, tail, following)
        verdict = schedules_verdict(row, tail.facts, store.archive_id)
        self._note(verdict)
        self._doubt(f"the schedules are {verdict.kind}: {verdict.reason}")
        return await self._mend(store, verdict, tail.facts) if self._owner else WATCH

    def _seems_whole(self, store: "Store", row: PartitionRow, facts: Facts) -> bool:
        """Whoever does not archive reads the archive and Redis at two instants, and marks move on in between."""
        ours = facts.state == "ok" and facts.archive_id == store.archive_id and not facts.missing
        return not self._owner and ours and mark_number(facts.mark) >= mark_number(row.mark) > 0

    async def _tail(self, store: "Store", row: PartitionRow | None) -> tuple[ScheduleTail, str]:
        mark = "" if row is None else row.mark
        position = FROM_START if row is None else await self._position(store, row)
        # Before a rebuild that was begun reached Redis, data may have come back: a mark of ours would hide that.
        if not self._owner or (row is not None and row.state != "archiving"):
            call = schedules_tail(self._namespace, store.archive_id, mark, "", position, most=0)
            return await self._context.links.send(call), ""
        following = new_mark(secrets.token_hex(4), mark)
        fence = 0 if row is None else row.ownership.beat
        call = schedules_tail(self._namespace, store.archive_id, mark, following, position, fence=fence)
        return await self._context.links.send(call), following

    async def _position(self, store: "Store", row: PartitionRow) -> str:
        from reclaimd.daemon.archive.restoring_schedules import position_of

        if "events" in row.positions or not row.mark:
            return row.positions.get("events", FROM_START)
        # A rebuild forgets it, and the archive must be folded to find it again.
        position = await position_of(store, self._namespace, row)
        if self._owner:
            await store.schedules.append(self._namespace, self._archive.me, [], position)
            self._row = msgspec.structs.replace(row, positions={"events": position})
        return position

    async def _keep(self, store: "Store", row: PartitionRow, tail: ScheduleTail, following: str) -> float:
        """Both agree: archive what is new."""
        if self._owner and tail.events:
            await self._append(store, row, tail, following)
        self._kind = "healthy"
        self._metrics.unresolved.labels(LABEL).set(0)
        if self._doubtful and not await self._partitions_are_safe(store):
            return 0.0 if tail.more else SOON
        self._doubtful = False
        self._gate.open(SCHEDULES)
        if not self._owner:
            self._row = None
            return WATCH
        if self._folded >= COMPACT and not tail.more:
            await self._compact(store)
        return 0.0 if tail.more else POLL

    async def _append(self, store: "Store", row: PartitionRow, tail: ScheduleTail, following: str) -> None:
        from reclaimd.daemon.archive.schedule_records import ScheduleEntry

        began = time.monotonic()
        events = [ScheduleEntry(entry_id, e) for entry_id, e in tail.events]
        position = events[-1].entry_id
        await store.schedules.append(self._namespace, self._archive.me, events, position, following)
        self._metrics.commit_seconds.observe(time.monotonic() - began)
        self._metrics.commits.labels(LABEL).inc()
        self._metrics.events.labels(LABEL).inc(len(events))
        self._folded += len(events)
        self._row = msgspec.structs.replace(row, positions={"events": position}, mark=following)

    async def _compact(self, store: "Store") -> None:
        from reclaimd.daemon.archive.restoring_schedules import as_entries, fold_of

        state = await fold_of(store, self._namespace)
        covers = str(state.position)
        await store.schedules.keep_snapshot(self._namespace, self._archive.me, covers, as_entries(state))
        self._folded = 0

    async def _mend(self, store: "Store", verdict: Verdict, facts: Facts) -> float:
        if verdict.kind in {"new", "archive_behind"}:
            return await self._adopt(store, facts)
        if verdict.kind == "foreign":
            raise ForeignSchedules(self._namespace, facts.archive_id)
        self._metrics.unresolved.labels(LABEL).set(1)
        auto = self._context.settings.archive.rebuild == "auto"
        try:
            if verdict.kind == "rebuilding" or (auto and await self._partitions_are_safe(store)):
                return await self._rebuild(store, verdict, facts)
            if facts.state != "lost":
                await self._freeze(store, verdict, facts)
        except ReclaimdError as error:
            if _is_overtaken(error):
                return SOON
            raise
        return POLL if auto else FROZEN

    async def _freeze(self, store: "Store", verdict: Verdict, facts: Facts) -> None:
        from reclaimd.daemon.archive.restoring_schedules import freeze_schedules

        links = self._context.links
        await freeze_schedules(store, links, self._namespace, verdict, facts, _new_id, manual=True)

    async def _rebuild(self, store: "Store", verdict: Verdict, facts: Facts) -> float:
        from reclaimd.daemon.archive.restoring_schedules import rebuild_schedules

        report = await rebuild_schedules(
            store, self._context.links, self._namespace, verdict, facts, new_id=_new_id, judge=judge
        )
        self.last_report = report
        self._metrics.rebuilds.labels(LABEL, "done").inc()
        self._metrics.rebuild_seconds.observe(report.seconds)
        log.warning(
            "schedules restored",
            verdict=report.verdict,
            schedules=report.schedules,
            overdue=report.overdue,
            problems=report.unrestorable_count,
            seconds=report.seconds,
        )
        return 0.0

    async def _partitions_are_safe(self, store: "Store") -> bool:
        """Whether none would fire again what it has forgotten: each is frozen, or has the mark that the archive knows.

        Schedules come back after that, for they would fire at once.
        """
        rows = [row for row in await store.partitions(self._namespace) if row.epoch_id]

        async def ask(client: AsyncClient) -> list[Any]:
            pipeline: Any = client.pipeline(transaction=False)
            for row in rows:
                key = Partition(row.namespace, row.queue, row.number).key("epoch")
                pipeline.hmget(key, ["archive_id", "state", "mark"])
            found: list[Any] = await pipeline.execute()
            return found

        for row, (archive_id, state, mark) in zip(
            rows, await self._context.links.use(ask) if rows else [], strict=True
        ):
            if archive_id == store.archive_id.encode() and state == b"ok":
                if mark_number((mark or b"").decode()) < mark_number(row.mark):
                    return False
            elif not archive_id:
                return False
        return True

    async def _adopt(self, store: "Store", facts: Facts) -> float:
        """Read everything that Redis has, and archive from there on."""
        from reclaimd.daemon.archive.restoring_schedules import adopt_schedules

        links, me = self._context.links, self._archive.me
        if not await adopt_schedules(store, links, self._namespace, me, facts, secrets.token_hex(4)):
            return SOON
        self._folded = 0
        log.info("schedules are archived from now on")
        return 0.0

    async def _owned(self, store: "Store") -> PartitionRow | None:
        """The archive's row, and in `_owner` whether we write it."""
        if self._owner and self._row is not None and time.monotonic() - self._beaten < BEAT_SECONDS:
            return self._row
        me = self._archive.me
        row = await store.partition(self._partition)
        if row is not None and row.ownership.owner == me:
            self._owner = await store.beat(self._partition, me)
        else:
            seen = None if row is None else row.ownership
            claims = self._archive.claims
            self._owner = claims.may_take("", seen) and await store.claim(self._partition, me, seen)
            if self._owner:
                row = await store.partition(self._partition)
        if self._owner:
            self._beaten = time.monotonic()
            self._archive.claims.forget("")
        self._row = row
        return row

    def _forget(self) -> None:
        self._row, self._owner, self._beaten = None, False, float("-inf")

    def _note(self, verdict: Verdict) -> None:
        if verdict.kind == self._kind:
            return
        self._kind = verdict.kind
        if self._owner and (verdict.is_loss or verdict.kind in {"foreign", "archive_behind"}):
            self._metrics.detections.labels(LABEL, verdict.kind).inc()
            log.error("schedules are not what the archive knows", kind=verdict.kind, reason=verdict.reason)

    async def _without_archive(self, error: ArchiveFailed) -> None:
        """Nobody can say whether Redis has lost something; after a while what it says itself must do."""
        now = time.monotonic()
        self._trouble = now if self._trouble is None else self._trouble
        if now - self._trouble < PATIENCE:
            return
        known = self._gate.archive_id or ""
        # Whoever names no mark is told how things are and marks nothing.
        tail = await self._context.links.send(schedules_tail(self._namespace, known, "", "", FROM_START, most=0))
        facts = tail.facts
        whole = facts.state == "ok" and facts.archive_id != "" and not facts.missing
        if whole and known in {"", facts.archive_id}:
            self._gate.open(SCHEDULES)
        else:
            self._gate.close(SCHEDULES, str(error))


def _is_overtaken(error: ReclaimdError) -> bool:
    from reclaimd.daemon.archive.restoring_schedules import SchedulesChanged

    return isinstance(error, SchedulesChanged)


class ForeignSchedules(ReclaimdError):
    """Another archive has the schedules of this Redis. Nothing is touched."""

    def __init__(self, namespace: str, archive_id: str) -> None:
        super().__init__(namespace, archive_id)
        self.namespace = namespace
        self.archive_id = archive_id

    def __str__(self) -> str:
        return (
            f"the schedules of namespace {self.namespace} belong to archive {self.archive_id}: "
            "correct archive.url or redis_url, or give this daemon a namespace of its own; if that archive is gone for "
            f"good, reclaimd rebuild --accept --from {self.archive_id}"
        )


def _new_id() -> str:
    return secrets.token_hex(8)

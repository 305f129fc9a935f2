"""Archives the schedules of a namespace, finds out when Redis has lost some, and brings them back."""

import secrets
import time
from collections.abc import Callable
from typing import Final

import msgspec
import redis

from reclaimd.daemon.archive.errors import ArchiveFailed, OwnerLost
from reclaimd.daemon.archive.records import schedules_of
from reclaimd.daemon.archive.restoring_schedules import (
    SchedulesChanged,
    as_entries,
    fold_of,
    freeze_schedules,
    new_mark,
    position_of,
    rebuild_schedules,
)
from reclaimd.daemon.archive.schedule_records import ScheduleEntry
from reclaimd.daemon.archive.store import Store
from reclaimd.daemon.loops.ownership import BEAT_SECONDS, Claims
from reclaimd.daemon.loops.scheduler import Scheduler
from reclaimd.daemon.loops.shell import Context, Loop
from reclaimd.daemon.rebuild.schedules import FROM_START, schedules_verdict
from reclaimd.daemon.rebuild.values import PartitionRow, Report, Verdict, mark_number
from reclaimd.daemon.schedules.gate import SCHEDULES
from reclaimd.daemon.schedules.overdue import judge
from reclaimd.metrics.instruments import ArchiveInstruments
from reclaimd.streams.errors import ReclaimdError
from reclaimd.streams.logs import get_logger
from reclaimd.streams.redis_log import AsyncClient
from reclaimd.streams.schedules.archive_scripts import (
    Facts,
    ScheduleTail,
    schedules_adopt,
    schedules_tail,
)
from reclaimd.streams.schedules.log import Loaded, ScheduleLog

NAME: Final = "schedule_archive"
LABEL: Final = "(schedules)"
"""How metrics name the log of schedules among queues; no queue can be called so."""
POLL: Final = 0.25
WATCH: Final = 1.0
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

    `settled`: whether every partition was looked at, and is frozen if it has lost data. Schedules are restored only
    then: they would fire into a queue that has forgotten what was fired. `me`: `ownership.my_name`. `auto`: restore
    without being asked.
    """

    def __init__(
        self,
        context: Context,
        store: Store,
        scheduler: Scheduler,
        *,
        me: str,
        auto: bool,
        instruments: ArchiveInstruments,
        settled: Callable[[], bool] = lambda: True,
    ) -> None:
        self.last_report: Report | None = None
        self.loop = Loop(NAME, "", self.step, context, stall_after=STALL)
        self._context = context
        self._store = store
        self._scheduler = scheduler
        self._namespace = context.settings.namespace
        self._partition = schedules_of(self._namespace)
        self._me = me
        self._auto = auto
        self._instruments = instruments
        self._settled = settled
        self._claims = Claims()
        self._row: PartitionRow | None = None
        self._owner = False
        self._beaten = float("-inf")
        self._folded = 0
        self._next_mark = ""
        self._trouble: float | None = None
        self._told = ""
        scheduler.gate.archive_id = store.archive_id
        scheduler.gate.close(SCHEDULES, "the archive was not asked yet")

    async def step(self) -> float:
        """Look, and do what is to be done next. Returns the seconds until the next step."""
        try:
            pause = await self._step()
        except OwnerLost:
            self._forget()
            return 0.0
        except SchedulesChanged:
            self._row = None
            return POLL
        except ArchiveFailed as error:
            self._forget()
            await self._without_archive(error)
            raise
        except (ReclaimdError, redis.RedisError):
            self._row = None
            self._scheduler.gate.close(SCHEDULES, "Redis was away")
            raise
        self._trouble = None
        return pause

    async def _step(self) -> float:
        row = await self._owned()
        position = FROM_START if row is None else row.positions.get("events", "")
        if not position and row is not None:
            position = await position_of(self._store, self._namespace, row)
        tail = await self._tail(row, position)
        if tail.agreed and row is not None and row.state == "archiving":
            return await self._keep(row, tail, position)
        verdict = schedules_verdict(row, tail.facts, self._store.archive_id)
        self._tell(verdict)
        self._scheduler.gate.close(SCHEDULES, f"the schedules are {verdict.kind}: {verdict.reason}")
        if not self._owner:
            self._row = None
            return WATCH
        return await self._mend(verdict, tail.facts)

    async def _tail(self, row: PartitionRow | None, position: str) -> ScheduleTail:
        mark = "" if row is None else row.mark
        following = new_mark(mark, secrets.token_hex(4)) if self._owner else ""
        most = {} if self._owner else {"most": 0}
        call = schedules_tail(self._namespace, self._store.archive_id, mark, following, position, **most)
        tail = await self._context.links.send(call)
        self._next_mark = following
        return tail

    async def _keep(self, row: PartitionRow, tail: ScheduleTail, position: str) -> float:
        """Both agree: archive what is new."""
        if not self._owner:
            self._agreed()
            self._row = None
            return WATCH
        if tail.events:
            began = time.monotonic()
            events = [ScheduleEntry(entry_id, e) for entry_id, e in tail.events]
            position = events[-1].entry_id
            await self._store.schedules.append(self._namespace, self._me, events, position, self._next_mark)
            self._instruments.commit_seconds.observe(time.monotonic() - began)
            self._instruments.commits.labels(LABEL).inc()
            self._instruments.events.labels(LABEL).inc(len(events))
            self._folded += len(events)
            self._row = msgspec.structs.replace(row, positions={"events": position}, mark=self._next_mark)
        self._agreed()
        if tail.more:
            return 0.0
        if self._folded >= COMPACT:
            await self._compact()
        return POLL

    async def _compact(self) -> None:
        state = await fold_of(self._store, self._namespace)
        covers = str(state.position)
        await self._store.schedules.keep_snapshot(self._namespace, self._me, covers, as_entries(state))
        self._folded = 0

    async def _mend(self, verdict: Verdict, facts: Facts) -> float:
        match verdict.kind:
            case "new" | "archive_behind":
                await self._adopt(facts)
                return 0.0
            case "foreign":
                raise ForeignSchedules(self._namespace, facts.archive_id)
            case "healthy":
                return 0.0
        if verdict.kind in {"empty", "rolled_back", "partial"}:
            self._instruments.detections.labels(LABEL, verdict.kind).inc()
        self._instruments.unresolved.labels(LABEL).set(1)
        if verdict.kind == "rebuilding" or (self._auto and self._settled()):
            return await self._rebuild(verdict, facts)
        if facts.state != "lost":
            redis = self._context.links
            await freeze_schedules(self._store, redis, self._namespace, verdict, facts, _new_id, manual=True)
        self._row = None
        return POLL if self._auto else FROZEN

    async def _rebuild(self, verdict: Verdict, facts: Facts) -> float:
        report = await rebuild_schedules(
            self._store, self._context.links, self._namespace, verdict, facts, new_id=_new_id, judge=judge
        )
        self.last_report = report
        self._row = None
        self._instruments.rebuilds.labels(LABEL, "done").inc()
        self._instruments.rebuild_seconds.observe(report.seconds)
        log.warning(
            "schedules restored",
            verdict=report.verdict,
            schedules=report.schedules,
            overdue=report.overdue,
            problems=report.unrestorable_count,
            seconds=report.seconds,
        )
        return 0.0

    async def _adopt(self, facts: Facts) -> None:
        """Read everything that Redis has, and archive from there on."""
        row = self._row
        numbers = [facts.mark, "" if row is None else row.mark]
        mark = new_mark(max(numbers, key=mark_number), secrets.token_hex(4))
        call = schedules_adopt(
            self._namespace, self._store.archive_id, facts.mark, mark, accept=facts.state not in {"ok", "absent"}
        )
        status = await self._context.links.send(call)
        if status != "ok":
            raise SchedulesChanged
        loaded, events = await self._context.links.use(self._read_all)
        records, position = self._store.schedules, str(loaded.position)
        # The mark comes last: without one the archive knows that it has not read everything.
        await records.reset(self._namespace, self._me, "adopted", "")
        await records.keep_snapshot(self._namespace, self._me, position, as_entries(loaded.state))
        await records.append(self._namespace, self._me, events, position, mark)
        self._row, self._folded = None, 0
        log.info("schedules are archived from now on", schedules=len(loaded.state.rows), position=position)

    async def _read_all(self, client: AsyncClient) -> tuple[Loaded, list[ScheduleEntry]]:
        schedules = ScheduleLog(client, self._namespace)
        loaded = await schedules.load()
        events = [ScheduleEntry(entry_id, e) for entry_id, e in await schedules.kept(loaded.position)]
        return loaded, events

    async def _owned(self) -> PartitionRow | None:
        """The archive's row, and in `_owner` whether we write it."""
        if self._owner and self._row is not None and time.monotonic() - self._beaten < BEAT_SECONDS:
            return self._row
        row = await self._store.partition(self._partition)
        if row is not None and row.ownership.owner == self._me:
            self._owner = await self._store.beat(self._partition, self._me)
        else:
            self._owner = False
            seen = None if row is None else row.ownership
            if self._claims.may_take("", seen):
                self._owner = await self._store.claim(self._partition, self._me, seen)
        if self._owner:
            self._beaten = time.monotonic()
            self._claims.forget("")
            row = await self._store.partition(self._partition)
        self._row = row
        return row

    def _agreed(self) -> None:
        self._told = ""
        self._instruments.unresolved.labels(LABEL).set(0)
        self._scheduler.gate.open(SCHEDULES)

    def _forget(self) -> None:
        self._row, self._owner, self._beaten = None, False, float("-inf")

    def _tell(self, verdict: Verdict) -> None:
        if verdict.kind != self._told and verdict.kind not in {"healthy", "new"}:
            log.warning("schedules and archive differ", verdict=verdict.kind, reason=verdict.reason)
        self._told = verdict.kind

    async def _without_archive(self, error: ArchiveFailed) -> None:
        """Nobody can say whether Redis has lost something; after a while what it says itself must do."""
        now = time.monotonic()
        self._trouble = now if self._trouble is None else self._trouble
        if now - self._trouble < PATIENCE:
            return
        # Asks for nothing and marks nothing: facts are answered to whoever names no mark.
        tail = await self._context.links.send(
            schedules_tail(self._namespace, self._store.archive_id, "", "", FROM_START, most=0)
        )
        whole = tail.facts.state == "ok" and not tail.facts.missing
        if whole and tail.facts.archive_id == self._store.archive_id:
            self._scheduler.gate.open(SCHEDULES)
        else:
            self._scheduler.gate.close(SCHEDULES, str(error))


class ForeignSchedules(ReclaimdError):
    """Another archive has the schedules of this Redis. Nothing is touched."""

    def __init__(self, namespace: str, archive_id: str) -> None:
        super().__init__(namespace, archive_id)
        self.namespace = namespace
        self.archive_id = archive_id

    def __str__(self) -> str:
        return (
            f"the schedules of namespace {self.namespace} belong to archive {self.archive_id}: "
            "correct archive.url or redis_url, or give this daemon a namespace of its own"
        )


def _new_id() -> str:
    return secrets.token_hex(8)

"""`rebuild`: bring back from the archive what Redis has lost, say what would come back, or take Redis as it is."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import anyio
import msgspec

from reclaimd.daemon.archive.progress import RESTORING_TASKS, Progress, Step
from reclaimd.daemon.cli.archives import new_id, open_archive, open_archive_first, shown
from reclaimd.daemon.cli.complaints import UsageProblem
from reclaimd.daemon.cli.flags import Flags
from reclaimd.daemon.cli.output import Output
from reclaimd.daemon.cli.output import Report as Bar
from reclaimd.daemon.cli.running import DONE, PROBLEM, run, run_alone
from reclaimd.daemon.cli.words import instant, plural
from reclaimd.daemon.inspect.source import Source
from reclaimd.daemon.rebuild.values import DEAD, Report, Verdict
from reclaimd.streams.errors import ReclaimdError, RedisUnreachable
from reclaimd.streams.keys import Partition

if TYPE_CHECKING:
    from reclaimd.daemon.archive.store import Store

TRIES: Final = 20
PAUSE: Final = 0.25
SCHEDULES: Final = ""
"""In place of a queue's name."""
_UNREAD: Final = frozenset({"foreign", "new", "archive_behind"})
_FROZEN: Final = frozenset({"lost", "rebuilding"})


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one queue, or of the schedules (`queue` is empty).

    `action`: none (nothing is lost), planned, rebuilt, accepted, refused (it is another archive's) or failed.
    """

    queue: str
    verdict: str
    reason: str = ""
    action: str = "none"
    report: Report | None = None


class Wanted(msgspec.Struct, frozen=True):
    """What to do. `queue`: None for all, and the schedules. `from_archive`: whose data are accepted too."""

    queue: str | None = None
    dry_run: bool = False
    accept: bool = False
    from_archive: str | None = None


def rebuild(
    flags: Flags, queue: str | None, *, dry_run: bool, accept: bool, from_archive: str | None, last: bool, yes: bool
) -> int:
    """Look at every queue that the archive knows, and do what is wanted of those that lost data."""
    if dry_run + accept + last > 1:
        raise UsageProblem("--dry-run, --accept and --last exclude each other: give one of them")
    if from_archive is not None and not accept:
        raise UsageProblem("--from says whose data to accept: give --accept with it")
    if last:
        return _last(flags, queue)
    settings = flags.settings()
    wanted = Wanted(queue, dry_run, accept, from_archive)

    async def work(source: Source, out: Output) -> int:
        async with open_archive(settings, "read" if dry_run else "write") as store:
            if from_archive == store.archive_id:
                raise UsageProblem("--from names the archive that is open: leave it out")
            if accept and not yes and not out.ask(_question(from_archive)):
                out.note("nothing was changed")
                return PROBLEM
            reached = _Reached()
            try:
                with out.progress() as bar:
                    results = await _Rebuilder(store, source, wanted, settings.archive.events_limit, bar, reached).all()
            except anyio.get_cancelled_exc_class():
                if not dry_run and not accept:
                    out.note(f"{reached}: run it again, and it goes on from there")
                raise
            return _tell(out, results, wanted)

    return run(flags, work)


def _question(from_archive: str | None) -> str:
    if from_archive is None:
        return "Forget what the archive knows of queues that lost data?"
    return f"Is the archive {from_archive} gone for good, and is Redis right as it is?"


class _Reached:
    """How far the rebuild of a queue has come, for whoever interrupts it."""

    def __init__(self) -> None:
        self._queue = ""
        self._tasks: Step | None = None

    def begin(self, queue: str) -> None:
        """The next queue."""
        self._queue, self._tasks = queue, None

    def beside(self, show: Progress) -> Progress:
        """Remembers what `show` shows."""

        def told(step: Step) -> None:
            if step.what == RESTORING_TASKS:
                self._tasks = step
            show(step)

        return told

    def __str__(self) -> str:
        if self._tasks is None:
            return "interrupted"
        total = "" if self._tasks.total is None else f" of {self._tasks.total:,}"
        return f"interrupted when {self._tasks.done:,}{total} tasks of {self._queue} were back"


class _Rebuilder:
    """Does it, one after another."""

    def __init__(
        self, store: "Store", source: Source, wanted: Wanted, events_cap: int, bar: Bar, reached: _Reached
    ) -> None:
        self._store = store
        self._source = source
        self._wanted = wanted
        self._events_cap = events_cap
        self._bar = bar
        self._reached = reached

    async def all(self) -> list[Result]:
        """Schedules first: daemons fire by them as soon as the queues are open."""
        known = [row.queue for row in await self._store.partitions(self._source.namespace)]
        if self._wanted.from_archive is not None:
            # A new archive knows none.
            known = sorted({*known, *await self._source.queues()})
        if self._wanted.queue is not None:
            if self._wanted.queue not in known:
                names = ", ".join(known[:10]) or "none"
                raise UsageProblem(f"the archive knows no queue {self._wanted.queue!r}: choose one of {names}")
            return [await self._tried(self._wanted.queue, self._partition)]
        results = [await self._tried(SCHEDULES, self._schedules)]
        return results + [await self._tried(queue, self._partition) for queue in known]

    async def _tried(self, queue: str, act: Callable[[str], Awaitable[Result]]) -> Result:
        """A daemon may do the same meanwhile; then look again at what it has left."""
        from reclaimd.daemon.archive.job import Overtaken
        from reclaimd.daemon.archive.restoring_schedules import SchedulesChanged

        self._reached.begin(queue)
        for attempt in range(TRIES):
            try:
                return await act(queue)
            except (Overtaken, SchedulesChanged) as error:
                if attempt == TRIES - 1:
                    return Result(queue=queue, verdict="", reason=str(error), action="failed")
                await anyio.sleep(PAUSE)
            except RedisUnreachable:
                raise
            except ReclaimdError as error:
                return Result(queue=queue, verdict="", reason=str(error), action="failed")
        raise AssertionError("the last attempt returns")

    async def _partition(self, queue: str) -> Result:
        from reclaimd.daemon.archive.rebuilding import accept_partition, plan_rebuild, rebuild_partition
        from reclaimd.daemon.loops.catching_up import look
        from reclaimd.daemon.loops.ownership import my_name

        partition = Partition(self._source.namespace, queue)
        verdict, seen, row = await look(self._store, self._source, partition)
        unread = seen.epoch and (row is None or not row.epoch_id)
        if self._succeeds(seen.archive_id, unread=unread):
            from reclaimd.daemon.archive.taking_over import take_over_partition

            me, gone = my_name(new_id()), self._wanted.from_archive or ""
            await take_over_partition(
                self._store, self._source, partition, gone, seen, me=me, events_cap=self._events_cap
            )
            return _result(queue, verdict, "accepted", None)
        if (untouched := _untouched(queue, verdict)) is not None:
            return untouched
        store, source, ids = self._store, self._source, new_id
        if self._wanted.dry_run:
            report = await plan_rebuild(store, source, partition, verdict, progress=shown(self._bar, queue))
            return _result(queue, verdict, "planned", report)
        if self._wanted.accept:
            report = await accept_partition(
                store, source, partition, verdict, seen, me=my_name(ids()), new_id=ids, events_cap=self._events_cap
            )
            return _result(queue, verdict, "accepted", report)
        report = await rebuild_partition(
            store,
            source,
            partition,
            verdict,
            seen,
            new_id=ids,
            events_cap=self._events_cap,
            progress=self._reached.beside(shown(self._bar, queue)),
        )
        return _result(queue, verdict, "rebuilt", report)

    def _succeeds(self, archive_id: str, *, unread: bool) -> bool:
        """Whether this is to be taken over, or was when somebody who did so was killed. `unread`: it is there, and the
        archive has read nothing of it.
        """
        if self._wanted.from_archive is None:
            return False
        return archive_id == self._wanted.from_archive or (unread and archive_id in {"", self._store.archive_id})

    async def _schedules(self, queue: str) -> Result:
        from reclaimd.daemon.archive import restoring_schedules as schedules
        from reclaimd.daemon.archive.records import schedules_of
        from reclaimd.daemon.loops.ownership import my_name
        from reclaimd.daemon.schedules.overdue import judge

        store, source, namespace = self._store, self._source, self._source.namespace
        self._bar("schedules", 0, None)
        verdict, facts = await schedules.look_at_schedules(store, source, namespace)
        unread = facts.state != "absent" and verdict.kind in {"new", "archive_behind"}
        if self._succeeds(facts.archive_id, unread=unread):
            from reclaimd.daemon.archive.taking_over import take_over_schedules

            gone = self._wanted.from_archive or ""
            await take_over_schedules(store, source, namespace, gone, facts, me=my_name(new_id()))
            return _result(queue, verdict, "accepted", None)
        if (untouched := _untouched(queue, verdict)) is not None:
            return untouched
        if self._wanted.dry_run:
            report = await schedules.plan_schedules(store, source, namespace, verdict, judge=judge)
            return _result(queue, verdict, "planned", report)
        if self._wanted.accept:
            nonce, partition = new_id(), schedules_of(namespace)
            me = my_name(nonce)
            row = await store.partition(partition)
            owned = await store.claim(partition, me, None if row is None else row.ownership)
            if not owned or not await schedules.adopt_schedules(store, source, namespace, me, facts, nonce[:8]):
                raise schedules.SchedulesChanged
            return _result(queue, verdict, "accepted", None)
        report = await schedules.rebuild_schedules(store, source, namespace, verdict, facts, new_id=new_id, judge=judge)
        return _result(queue, verdict, "rebuilt", report)


def _untouched(queue: str, verdict: Verdict) -> Result | None:
    """None for what has lost something."""
    if verdict.is_loss or verdict.kind in _FROZEN:
        return None
    action = "refused" if verdict.kind == "foreign" else "none"
    return Result(queue=queue, verdict=verdict.kind, reason=verdict.reason, action=action)


def _result(queue: str, verdict: Verdict, action: str, report: Report | None) -> Result:
    return Result(queue=queue, verdict=verdict.kind, reason=verdict.reason, action=action, report=report)


def _tell(out: Output, results: list[Result], wanted: Wanted) -> int:
    bad = any(one.action in {"refused", "failed"} for one in results)
    left_out = sum(one.report.unrestorable_count for one in results if one.report is not None)
    if out.json:
        out.document({"dry_run": wanted.dry_run, "results": results})
        return PROBLEM if bad or left_out else DONE
    for one in results:
        _tell_one(out, one)
    if all(one.action == "none" for one in results):
        out.line("Nothing is lost: Redis holds what the archive knows.")
    elif wanted.dry_run:
        out.line("Nothing was changed.")
    return PROBLEM if bad or left_out else DONE


def _tell_one(out: Output, one: Result) -> None:
    name = one.queue or "schedules"
    why = f" ({one.reason})" if one.reason else ""
    if one.action == "refused":
        out.line(f"{name}: {one.verdict}{why}; nothing was touched.")
    elif one.action == "failed":
        out.line(f"{name}: failed: {one.reason}")
    elif one.action == "accepted":
        # The reason of a foreign one says what was to be done; of what was taken over by halves, why it would be.
        why = "" if one.verdict in _UNREAD else why
        out.line(f"{name}: {one.verdict}{why}. Redis is taken as it is; the archive reads everything again.")
    elif one.report is not None:
        out.line(f"{name}: {one.verdict}{why}. {_summary(one.report)}")
        _tell_left_out(out, name, one.report)


def _summary(report: Report) -> str:
    would = "would restore" if report.dry_run else "restored"
    if not report.queue:
        text = f"{would} {plural(report.schedules, 'schedule')}, {plural(report.overdue, 'occurrence')} overdue"
    else:
        letters = report.restored.get(DEAD, 0)
        parts = [f"{would} {plural(report.tasks_restored, 'task')}", plural(letters, "dead letter")]
        parts += [
            f"{number} {place}" for place, number in sorted(report.restored.items()) if place in {"delayed", "queued"}
        ]
        parts.append(f"keep {report.kept}" if report.dry_run else f"kept {report.kept}")
        parts += [f"remove {number} {why}" for why, number in sorted(report.dropped.items())]
        parts.append(plural(report.fired_rows, "row") + " of schedules")
        text = ", ".join(parts)
    took = "" if report.dry_run else f" in {report.seconds:.1f} s ({report.rate:,.0f}/s)"
    return f"{text[0].upper()}{text[1:]}{took}."


def _tell_left_out(out: Output, name: str, report: Report) -> None:
    for one in report.unrestorable:
        out.line(f"{name}: {one.what} cannot be restored: {one.reason}")
    more = report.unrestorable_count - len(report.unrestorable)
    if more > 0:
        out.line(f"{name}: and {more} more")


def _last(flags: Flags, queue: str | None) -> int:
    """The newest report of each queue, or of the chosen one. Redis knows nothing of it, and may be away."""
    settings = flags.settings()

    async def work(out: Output) -> int:
        async with open_archive_first(settings, out) as (store, source):
            reports = await _newest(store, settings.namespace, queue)
        if out.json:
            out.document({"redis": "unreachable" if source is None else "reachable", "reports": reports})
        else:
            _tell_last(out, reports)
        return DONE

    return run_alone(flags, work)


async def _newest(store: "Store", namespace: str, queue: str | None) -> list[Report]:
    newest: dict[str, Report] = {}
    for report in await store.rebuilds(namespace, queue, limit=1000):
        newest.setdefault(report.queue, report)
    return [newest[name] for name in sorted(newest)]


def _tell_last(out: Output, reports: list[Report]) -> None:
    for report in reports:
        name = report.queue or "schedules"
        if not report.ended_ms:
            out.line(f"{name}: {report.verdict}, begun {instant(report.begun_ms)}, has not ended.")
            continue
        out.line(f"{name}: {report.verdict}, {instant(report.ended_ms)}. {_summary(report)}")
        _tell_left_out(out, name, report)
    if not reports:
        out.line("There was no rebuild.")

"""`schedules list`, `show`, `add`, `remove`, `pause`, `resume`, `run`, `clear`."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from reclaimd.daemon.cli.complaints import UsageProblem
from reclaimd.daemon.cli.flags import Flags
from reclaimd.daemon.cli.output import Output
from reclaimd.daemon.cli.running import DONE, PROBLEM, run
from reclaimd.daemon.cli.words import instant, plural
from reclaimd.daemon.inspect.reports import SourceProblem
from reclaimd.daemon.inspect.schedules import (
    LOST_CHANGE,
    LOST_FIELD,
    Instant,
    Known,
    coming,
    read_fired,
    read_known,
    read_lost,
    schedule_of,
    state_of,
)
from reclaimd.daemon.inspect.source import Source
from reclaimd.daemon.sources.reconcile import owned
from reclaimd.daemon.sources.rows import Wanted, read_row
from reclaimd.streams.errors import UnknownSchedule
from reclaimd.streams.keys import schedule_problems_key
from reclaimd.streams.occurrence_scripts import Fired
from reclaimd.streams.redis_log import AsyncClient
from reclaimd.streams.schedules.calculus import explain
from reclaimd.streams.schedules.client import ScheduleClient
from reclaimd.streams.schedules.events import Event, SchedulePaused, ScheduleRemoved, ScheduleResumed, upserted
from reclaimd.streams.schedules.log import PAGE, ScheduleLog
from reclaimd.streams.schedules.model import Once, Schedule
from reclaimd.streams.schedules.plain import to_plain

USAGE = 2
Change = Literal["created", "changed", "unchanged"]


class Which(NamedTuple):
    """Which schedules are meant; all conditions at once."""

    source: str | None = None
    queue: str | None = None


def show_list(flags: Flags, which: Which, *, count: int) -> int:
    """Print one row for each, with the next `count` occurrences."""

    async def work(source: Source, out: Output) -> int:
        known = await read_known(source)
        found = _infos(known, await _fired(source, known), _chosen(known, which), count)
        if out.json:
            out.document({"schedules": found})
        else:
            _print_list(out, found, count)
        _note_damage(out, known)
        return DONE

    return run(flags, work)


def show_problems(flags: Flags) -> int:
    """Print what is wrong with schedules and sources."""

    async def work(source: Source, out: Output) -> int:
        known = await read_known(source)
        troubles = [*known.troubles(), *await read_lost(source, known)]
        if out.json:
            sources = [msgspec.structs.replace(report, problems=[]) for report in known.reports]
            out.document({"problems": troubles, "sources": sources, "damage": known.damage})
            return PROBLEM if troubles or known.damage else DONE
        if troubles:
            rows = [
                (one.name or f"row {one.row}", one.field, one.reason, one.source, one.row or None) for one in troubles
            ]
            out.table(("schedule", "field", "reason", "source", "row"), rows)
        for report in known.reports:
            how = "failed" if report.failed else f"{plural(report.rows, 'row')}, {report.enabled} enabled"
            out.line(f"Source {report.source}: read {instant(report.at_ms)}, {how}.")
        out.line(f"{plural(len(troubles), 'problem')}.")
        _note_damage(out, known)
        return PROBLEM if troubles or known.damage else DONE

    return run(flags, work)


def show(flags: Flags, name: str, *, count: int) -> int:
    """Print one schedule whole."""

    async def work(source: Source, out: Output) -> int:
        known = await read_known(source)
        if name not in known.fold.rows and name not in known.fold.problems:
            raise UnknownSchedule(name)
        [info] = _infos(known, await _fired(source, known, [name]), [name], count)
        if out.json:
            out.document(info)
        else:
            _print_one(out, info)
        return DONE

    return run(flags, work)


def add(flags: Flags, name: str, given: Mapping[str, Any], *, dry_run: bool, count: int) -> int:
    """Create or change one. `given`: its plain form, None for what was not said."""
    found = read_row(0, {"name": name, **given}, "")
    if not isinstance(found, Wanted):
        return refuse(Output(flags.json), found)
    wanted = found

    async def work(source: Source, out: Output) -> int:
        known = await read_known(source)
        problem = owner_problem(known, wanted)
        if problem is not None:
            return refuse(out, [problem], code=PROBLEM)
        change = change_of(known, wanted.schedule)
        if change != "unchanged" and not coming(wanted.schedule, None, None, known.now_ms, 1):
            field = "at" if isinstance(wanted.schedule.trigger, Once) else "end"
            return refuse(out, [SourceProblem(0, name, field, "lies in the past, so that it would never fire")])
        if change != "unchanged" and not dry_run:
            await append(source, [upserted(wanted.schedule)])
        row = known.fold.rows.get(name) if change == "unchanged" else None
        following = coming(wanted.schedule, row, None, known.now_ms, count)
        if out.json:
            out.document({"name": name, "change": change, "dry_run": dry_run, "next": following})
            return DONE
        out.line(f"{name}: {'would be ' if dry_run and change != 'unchanged' else ''}{change}")
        out.line(f"{explain(wanted.schedule.trigger)}.")
        _print_next(out, following)
        return DONE

    return run(flags, work)


def remove(flags: Flags, names: Sequence[str]) -> int:
    """Remove these; what they have enqueued runs."""
    return _change(flags, names, [ScheduleRemoved(name=name) for name in dict.fromkeys(names)], "removed")


def pause(flags: Flags, names: Sequence[str], *, paused: bool) -> int:
    """Pause or resume these."""
    event = SchedulePaused if paused else ScheduleResumed
    word = "paused" if paused else "resumed"
    return _change(flags, names, [event(name=name) for name in dict.fromkeys(names)], word)


def run_now(flags: Flags, name: str, request_id: str | None) -> int:
    """Enqueue the task of a schedule once, now."""
    settings = flags.settings()

    async def work(_: Source, out: Output) -> int:
        task_id = await ScheduleClient(lambda: settings, {}).run_now(name, request_id)
        if out.json:
            out.document({"name": name, "task_id": task_id})
        else:
            out.line(task_id)
        return DONE

    return run(flags, work)


def clear(flags: Flags, source_name: str | None, *, yes: bool) -> int:
    """Remove all schedules, or those of one source, after asking."""
    if not yes and (flags.json or not sys.stdin.isatty()):
        raise UsageProblem("clear removes schedules for good and there is nobody to ask: add --yes")

    async def work(source: Source, out: Output) -> int:
        known = await read_known(source)
        fold = known.fold
        names = sorted({*fold.rows, *fold.problems} if source_name is None else owned(source_name, fold))
        if names and not yes and not out.ask(f"Remove {plural(len(names), 'schedule')} for good?"):
            out.note("nothing was removed")
            return PROBLEM
        with out.progress() as report:
            for i in range(0, len(names), PAGE):
                some = names[i : i + PAGE]
                await append(
                    source, [ScheduleRemoved(name=name, source=_owner_named(known, name, source_name)) for name in some]
                )
                report("removing", i + len(some), len(names))
        if source_name is not None:
            key = schedule_problems_key(source.namespace)
            await source.read(lambda pipe: pipe.hdel(key, source_name))
        if out.json:
            out.document({"removed": names})
        else:
            out.line(f"Removed {plural(len(names), 'schedule')}.")
        return DONE

    return run(flags, work)


def _owner_named(known: Known, name: str, source_name: str | None) -> str:
    """A removal with an owner does nothing once somebody else owns it; but it would wait in a suspended schedule."""
    row = known.fold.rows.get(name)
    return "" if source_name is None or row is None or row.suspended else source_name


async def append(source: Source, events: Sequence[Event]) -> None:
    """Add events to the log."""

    async def write(client: AsyncClient) -> None:
        await ScheduleLog(client, source.namespace).append(events)

    await source.use(write)


def change_of(known: Known, schedule: Schedule) -> Change:
    """What putting this schedule does."""
    row = known.fold.rows.get(schedule.name)
    if row is None:
        return "created"
    before = schedule_of(row)
    if before is None:
        return "changed"
    return "unchanged" if msgspec.structs.replace(before, source="") == schedule else "changed"


def owner_problem(known: Known, wanted: Wanted) -> SourceProblem | None:
    """Why this schedule cannot be changed by hand."""
    name = wanted.schedule.name
    row = known.fold.rows.get(name)
    if row is None:
        return None
    if row.suspended:
        why = "it is suspended, and what is sent now would wait too: remove it first, or upgrade the daemon"
        return SourceProblem(wanted.row, name, "name", why)
    before = schedule_of(row)
    if before is None or not before.source or change_of(known, wanted.schedule) == "unchanged":
        return None
    return SourceProblem(wanted.row, name, "name", f"it belongs to source {before.source}: change it there")


def refuse(out: Output, problems: Sequence[SourceProblem], *, code: int = USAGE) -> int:
    """Say everything that is wrong, a line each, and return the exit code."""
    for one in problems:
        where = f"schedule {one.name!r}" if one.name else "a schedule"
        place = f" (number {one.row})" if one.row else ""
        out.note(f"{where}{place}: {one.field}: {one.reason}")
    if out.json:
        cure = "correct what is listed in errors"
        head = f"{plural(len(problems), 'mistake')}, nothing was changed"
        out.document({"error": head, "cure": cure, "errors": problems})
    return code


def _change(flags: Flags, names: Sequence[str], events: Sequence[Event], word: str) -> int:
    async def work(source: Source, out: Output) -> int:
        known = await read_known(source)
        for name in names:
            if name not in known.fold.rows and name not in known.fold.problems:
                raise UnknownSchedule(name)
        await append(source, events)
        chosen = list(dict.fromkeys(names))
        if out.json:
            out.document({word: chosen})
        else:
            for name in chosen:
                out.line(f"{name} is {word}.")
        if word == "removed":
            _note_sources(out, known, chosen)
        return DONE

    return run(flags, work)


def _note_sources(out: Output, known: Known, names: Sequence[str]) -> None:
    for name in names:
        row = known.fold.rows.get(name)
        schedule = None if row is None else schedule_of(row)
        if schedule is not None and schedule.source:
            out.note(f"{name} belongs to source {schedule.source}, which brings it back unless it is gone there too")


def _chosen(known: Known, which: Which) -> list[str]:
    names = []
    for name in sorted({*known.fold.rows, *known.fold.problems}):
        row = known.fold.rows.get(name)
        schedule = None if row is None else schedule_of(row)
        if which.source is not None and (schedule is None or schedule.source != which.source):
            continue
        if which.queue is not None and (schedule is None or schedule.queue != which.queue):
            continue
        names.append(name)
    return names


async def _fired(source: Source, known: Known, names: Sequence[str] | None = None) -> dict[str, Fired]:
    rows = known.fold.rows
    chosen = rows if names is None else [name for name in names if name in rows]
    schedules = [schedule for name in chosen if (schedule := schedule_of(rows[name])) is not None]
    return await read_fired(source, schedules)


def _infos(known: Known, fired: Mapping[str, Fired], names: Sequence[str], count: int) -> list[dict[str, Any]]:
    return [_info(known, name, fired.get(name), count) for name in names]


def _info(known: Known, name: str, fired: Fired | None, count: int) -> dict[str, Any]:
    row, problem = known.fold.rows.get(name), known.fold.problems.get(name)
    info: dict[str, Any] = {"name": name, "state": "unusable" if row is None else state_of(row)}
    if problem is not None:
        info["problem"] = {"field": problem.field, "reason": problem.reason}
    schedule = None if row is None else schedule_of(row)
    if row is None or schedule is None:
        return info
    info["source"] = schedule.source
    try:
        info |= to_plain(schedule)
        info["explanation"] = explain(schedule.trigger)
    except ValueError as error:
        info["problem"] = {"field": "tz", "reason": str(error)}
    if fired is not None and known.fold.has_lost(name, fired.generation):
        info["problem"] = {"field": LOST_FIELD, "reason": LOST_CHANGE}
        row = row.at_least(fired.generation)
    current = fired if fired is not None and fired.generation == row.generation else None
    firing = state_of(row) == "enabled"
    return info | {
        "generation": row.generation,
        "since": instant(row.since_ms),
        "last": instant(current.last) if current and current.last else None,
        "count": current.count if current else 0,
        "open": (fired.open or None) if fired else None,
        "next": coming(schedule, row, fired, known.now_ms, count) if firing else [],
    }


def _print_list(out: Output, found: Sequence[Mapping[str, Any]], count: int) -> None:
    columns = ("schedule", "state", "queue", "task", "when", "source", *(["next"] * (count > 0)))
    rows = [
        (
            info["name"],
            info["state"],
            info.get("queue", ""),
            info.get("task", ""),
            when(info),
            info.get("source", ""),
            *(["; ".join(_both(one) for one in info.get("next", []))] * (count > 0)),
        )
        for info in found
    ]
    if rows:
        out.table(columns, rows)
    out.line(f"{plural(len(found), 'schedule')}.")


def when(plain: Mapping[str, Any]) -> str:
    """The trigger in short."""
    if "cron" in plain:
        return f"{plain['cron']} {plain.get('tz', 'UTC')}"
    return f"every {plain['every']}" if "every" in plain else str(plain.get("at", ""))


def _print_one(out: Output, info: Mapping[str, Any]) -> None:
    for key, value in info.items():
        if key in {"next", "problem"} or value in (None, "", {}):
            continue
        shown = msgspec.json.encode(value).decode() if isinstance(value, dict) else str(value)
        out.line(f"{key.replace('_', ' '):<15} {shown}")
    problem = info.get("problem")
    if problem:
        out.line(f"{'problem':<15} {problem['field']}: {problem['reason']}")
    _print_next(out, info.get("next", []))


def _print_next(out: Output, following: Sequence[Instant]) -> None:
    for one in following:
        out.line(f"{'next':<15} {_both(one)}")


def _both(one: Instant) -> str:
    return one.utc if one.local.endswith("+00:00") else f"{one.local} ({one.utc})"


def _note_damage(out: Output, known: Known) -> None:
    for sentence in known.damage:
        out.note(sentence)

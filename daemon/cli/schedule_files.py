"""`schedules import` and `export`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reclaimd.daemon.cli.complaints import UsageProblem
from reclaimd.daemon.cli.flags import Flags
from reclaimd.daemon.cli.output import Output
from reclaimd.daemon.cli.running import DONE, PROBLEM, run
from reclaimd.daemon.cli.schedules import append, change_of, owner_problem, refuse
from reclaimd.daemon.cli.words import plural
from reclaimd.daemon.inspect.schedules import Known, read_known, schedule_of
from reclaimd.daemon.inspect.source import Source
from reclaimd.daemon.sources.documents import FORMATS, Format, dump
from reclaimd.daemon.sources.errors import SourceFailed
from reclaimd.daemon.sources.file import FileReader
from reclaimd.daemon.sources.rows import Wanted, read_rows, row_of
from reclaimd.streams.schedules.events import Event, SchedulePaused, ScheduleResumed, upserted
from reclaimd.streams.schedules.log import PAGE

READING_TIMEOUT = 60.0


def import_file(flags: Flags, file: Path, *, dry_run: bool) -> int:
    """Create and change what the file holds, all of it or, if anything is wrong, nothing; removes nothing."""
    try:
        rows = FileReader(str(file), READING_TIMEOUT).read()
    except SourceFailed as error:
        raise UsageProblem(str(error)) from None
    wanted, problems = read_rows(rows)
    if problems:
        return refuse(Output(flags.json), problems)

    async def work(source: Source, out: Output) -> int:
        known = await read_known(source)
        owned = [problem for one in wanted if (problem := owner_problem(known, one)) is not None]
        if owned:
            return refuse(out, owned, code=PROBLEM)
        changes = {one.schedule.name: _change(known, one) for one in wanted}
        if not dry_run:
            await _append(source, out, [event for one in wanted for event in _events(known, one)])
        _report(out, changes, dry_run=dry_run)
        return DONE

    return run(flags, work)


def export_file(flags: Flags, file: Path | None, form: str | None, source_name: str | None) -> int:
    """Write all schedules, or those of one source, in the form that `import` reads."""
    chosen = _form(file, form)

    async def work(source: Source, out: Output) -> int:
        known = await read_known(source)
        rows, left_out = _exported(known, source_name)
        if file is not None:
            _write(file, dump(rows, chosen))
        if out.json:
            out.document({"schedules": rows, "file": None if file is None else str(file), "left_out": left_out})
        elif file is not None:
            out.line(f"Wrote {plural(len(rows), 'schedule')} to {file}.")
        else:
            for line in dump(rows, chosen).splitlines():
                out.line(line)
        for name in left_out:
            out.note(f"schedule {name} was left out, as this version cannot read it: upgrade")
        return PROBLEM if left_out else DONE

    return run(flags, work)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageProblem(f"cannot write {file}: {error.strerror}") from None


def _form(file: Path | None, form: str | None) -> Format:
    if form is None and file is not None and file.suffix not in FORMATS:
        raise UsageProblem(f"{file} is neither TOML nor YAML by its name: add --format toml or --format yaml")
    named = form or (FORMATS[file.suffix] if file is not None else "toml")
    for known in FORMATS.values():
        if named == known:
            return known
    raise UsageProblem(f"there is no format {named!r}: say toml or yaml")


def _exported(known: Known, source_name: str | None) -> tuple[list[dict[str, Any]], list[str]]:
    rows, left_out = [], []
    for name, row in sorted(known.fold.rows.items()):
        schedule = None if row.suspended else schedule_of(row)
        if schedule is None:
            left_out.append(name)
            continue
        if source_name is not None and schedule.source != source_name:
            continue
        try:
            rows.append(row_of(schedule, paused=row.paused))
        except ValueError:
            left_out.append(name)
    return rows, left_out


def _change(known: Known, one: Wanted) -> str:
    change = change_of(known, one.schedule)
    return "changed" if change == "unchanged" and _events(known, one) else change


def _events(known: Known, one: Wanted) -> list[Event]:
    name = one.schedule.name
    row = known.fold.rows.get(name)
    events: list[Event] = [] if change_of(known, one.schedule) == "unchanged" else [upserted(one.schedule)]
    paused = row is not None and row.paused
    if one.enabled is False and not paused:
        events.append(SchedulePaused(name=name))
    elif one.enabled and paused:
        events.append(ScheduleResumed(name=name))
    return events


async def _append(source: Source, out: Output, events: Sequence[Event]) -> None:
    with out.progress() as report:
        for i in range(0, len(events), PAGE):
            await append(source, events[i : i + PAGE])
            report("importing", min(i + PAGE, len(events)), len(events))


def _report(out: Output, changes: dict[str, str], *, dry_run: bool) -> None:
    by_change = {
        word: sorted(n for n, change in changes.items() if change == word)
        for word in ("created", "changed", "unchanged")
    }
    if out.json:
        out.document({**by_change, "dry_run": dry_run})
        return
    for word in ("created", "changed"):
        for name in by_change[word]:
            out.line(f"{word:<9} {name}")
    counts = ", ".join(f"{len(names)} {word}" for word, names in by_change.items())
    out.line(f"{'Would be' if dry_run else 'Done'}: {counts}.")

"""One row of a source or of a document as a schedule, or everything that is wrong with it. Pure."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from reclaimd.daemon.inspect.reports import SourceProblem
from reclaimd.streams.errors import InvalidSchedule
from reclaimd.streams.schedules.checks import SCHEDULE_NAME
from reclaimd.streams.schedules.model import Schedule
from reclaimd.streams.schedules.plain import KEYS, from_plain, to_plain

NAME: Final = "name"
ENABLED: Final = "enabled"
ROW_KEYS: Final = (NAME, ENABLED, *KEYS)
"""What a row may say: the keys of the plain form, and these two."""

_TRIGGER_KEYS = ("cron", "every", "at", "anchor")
# Stand-ins for what was wrong, so that what else is wrong comes to light. The interval is the longest there is: with it
# no jitter and no end is wrong that was right with what stood there.
_STAND_INS = {"task": "x", "queue": "x"}
_STAND_IN_TRIGGER = {"every": "36500d"}
_YES_NO = {"true": True, "false": False, True: True, False: False}


class Wanted(msgspec.Struct, frozen=True):
    """A row that can be used. `enabled`: whether it is to fire; None leaves that to whoever pauses and resumes."""

    row: int
    schedule: Schedule
    enabled: bool | None = None


def read_rows(
    rows: Iterable[Mapping[str, Any]], *, source: str = "", queue: str | None = None, only_known: bool = False
) -> tuple[list[Wanted], list[SourceProblem]]:
    """Read all rows; a name that stands twice makes neither of them usable, because nobody can tell which is meant.

    `source`: who owns the schedules; `queue`: of rows that name none. `only_known`: other keys are left out, as a table
    has columns of its own.
    """
    wanted: list[Wanted] = []
    problems: list[SourceProblem] = []
    places: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        plain = {key: value for key, value in row.items() if not only_known or key in ROW_KEYS}
        if queue is not None and plain.get("queue") is None:
            plain["queue"] = queue
        name = plain.get(NAME)
        before = places.setdefault(name, number) if isinstance(name, str) else number
        if before != number:
            problems.append(SourceProblem(number, str(name), NAME, f"row {before} has the same name: neither is used"))
            continue
        found = read_row(number, plain, source)
        if isinstance(found, Wanted):
            wanted.append(found)
        else:
            problems += found
    twice = {problem.name for problem in problems if problem.row != places.get(problem.name, problem.row)}
    problems += [
        SourceProblem(one.row, one.schedule.name, NAME, "another row has the same name: neither is used")
        for one in wanted
        if one.schedule.name in twice
    ]
    return [one for one in wanted if one.schedule.name not in twice], sorted(problems, key=lambda one: one.row)


def read_row(number: int, row: Mapping[str, Any], source: str) -> Wanted | list[SourceProblem]:
    """One row as a schedule, or its problems, one for each wrong field."""
    rest = {key: value for key, value in row.items() if value is not None}
    problems: list[SourceProblem] = []
    given = rest.pop(NAME, None)
    name = given if isinstance(given, str) else ""

    def wrong(field: str, reason: str) -> None:
        problems.append(SourceProblem(number, name, field, reason))

    if given is None:
        wrong(NAME, "it is missing")
    elif not isinstance(given, str):
        wrong(NAME, "expected a text, in quotes")
    elif not SCHEDULE_NAME.match(given):
        wrong(NAME, "use 1 to 80 of A-Z a-z 0-9 . _ -")
    enabled = rest.pop(ENABLED, None)
    if enabled is not None:
        text = enabled.lower() if isinstance(enabled, str) else enabled
        enabled = _YES_NO.get(text) if isinstance(text, str | int) else None
        if enabled is None:
            wrong(ENABLED, "say true or false")
    if isinstance(rest.get("args"), str):
        try:
            rest["args"] = msgspec.json.decode(rest["args"])
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
            wrong("args", f"it is not JSON ({error})")
            del rest["args"]
    schedule = _read("x" if problems else name, rest, source, wrong)
    return problems if problems or schedule is None else Wanted(number, schedule, enabled)


def row_of(schedule: Schedule, *, paused: bool) -> dict[str, Any]:
    """The row that `read_row` makes the same of; a schedule that is not paused says nothing of it."""
    return {NAME: schedule.name, **({ENABLED: False} if paused else {}), **to_plain(schedule)}


def _read(name: str, rest: dict[str, Any], source: str, wrong: Callable[[str, str], None]) -> Schedule | None:
    """Read again without each wrong key until nothing is wrong any more; a schedule only if nothing was."""
    schedule: Schedule | None = None
    for attempt in range(2 * len(ROW_KEYS)):
        try:
            schedule = from_plain(name, rest, source=source)
        except InvalidSchedule as error:
            wrong(error.field, error.why)
            before = dict(rest)
            _mend(rest, error.field)
            if rest == before:
                return None
            continue
        return schedule if attempt == 0 else None
    return None


def _mend(rest: dict[str, Any], field: str) -> None:
    if field in _TRIGGER_KEYS:
        for key in _TRIGGER_KEYS:
            rest.pop(key, None)
        rest.update(_STAND_IN_TRIGGER)
    elif field in _STAND_INS:
        rest[field] = _STAND_INS[field]
    else:
        rest.pop(field, None)

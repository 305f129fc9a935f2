"""Cron against three oracles: a dumb model of our own, croniter, and cronsim's walk. docs/schedules.md has the table.

From the model nothing may differ. What differs from the libraries must be of a class that the table explains, and every
class of the table must occur.
"""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from croniter import croniter
from cronsim import CronSim

from reclaimd.streams.errors import InvalidSchedule
from reclaimd.streams.schedules.calculus import LATEST_MS, count_between, due_between, last_before
from reclaimd.streams.schedules.checks import check
from reclaimd.streams.schedules.model import Cron, Schedule
from support.cron_expressions import generated, written
from support.cron_model import Model, wall_clock

GENERATED, INSTANTS = 2_000, 3
STARTS = (
    ("Australia/Lord_Howe", "2027-04-03T01:00"),
    ("Pacific/Apia", "2011-12-29T01:30"),
    ("Europe/Paris", "2027-03-27T14:00"),
    ("America/New_York", "2027-11-06T14:00"),
    ("Africa/Casablanca", "2027-02-06T12:00"),
    ("Asia/Kathmandu", "2027-05-01T00:00"),
    ("Australia/Lord_Howe", "2027-10-02T02:00"),
    ("Europe/Paris", "2027-10-30T23:50"),
    ("America/New_York", "2027-03-14T06:59"),
    ("Africa/Casablanca", "2027-03-13T12:00"),
    ("Pacific/Apia", "2012-03-31T10:00"),
    ("UTC", "2027-12-30T00:00"),
    ("Europe/Paris", "2027-10-31T00:30"),
)
WINDOW_HOURS = 40
DOCS = Path(__file__).parents[3] / "docs" / "schedules.md"


class Change(NamedTuple):
    """Clocks go by `shift` seconds, forward if it is positive, at `at` UTC seconds."""

    at: int
    shift: int


@cache
def expressions() -> tuple[str, ...]:
    """All that can be used. Of the generated ones some name the 30th of February."""
    found = [expr for expr in generated(GENERATED + 100) if fires(expr)]
    assert len(found) >= GENERATED
    assert len(written()) >= 200
    assert all(fires(expr) for expr in written())
    return (*found, *written())


def fires(expr: str) -> bool:
    try:
        check(Schedule(name="n", task="t", queue="q", trigger=Cron(expr)))
    except InvalidSchedule as error:
        if "never fires" in error.why:
            return False
        raise
    return True


def test_equals_a_dumb_model_around_clock_changes() -> None:
    fired = 0
    for number, expr in enumerate(expressions()):
        model = Model(expr)
        for tz, start in (STARTS[number % len(STARTS)], STARTS[(number * 7 + 3) % len(STARTS)])[: 2 - number % 2]:
            hours = wall_clock(tz, start, WINDOW_HOURS)
            after, until = hours[0].minutes[0].at * 1_000 - 1, hours[-1].minutes[-1].at * 1_000 + 59_999
            expected = [seconds * 1_000 for seconds in model.instants(hours)]
            most = min(len(expected) + 1, 40)
            found = due_between(Cron(expr, tz), after, until, anchor_ms=0, most=most)
            assert found == expected[:most], (expr, tz, start)
            assert count_between(Cron(expr, tz), after, until, anchor_ms=0, most=10**6) == len(expected), (expr, tz)
            last = last_before(Cron(expr, tz), until + 1, anchor_ms=0)
            assert not expected or last == expected[-1], (expr, tz, start)
            fired += len(expected)
    assert fired > 50_000


def test_differs_from_cronsim_only_as_the_table_says() -> None:
    compare("cronsim", by_cronsim, cronsim_class)


def test_differs_from_croniter_only_as_the_table_says() -> None:
    compare("croniter", by_croniter, croniter_class)


def compare(
    oracle: str,
    instants: Callable[[str, str, datetime], list[int]],
    class_of: Callable[[str, str, int], str | None],
) -> None:
    table = explained(oracle)
    seen: set[str] = set()
    unexplained: list[str] = []
    for number, expr in enumerate(expressions()):
        tz, start = STARTS[number % len(STARTS)]
        if oracle == "croniter" and tz == "Pacific/Apia" and number % 5:
            continue  # it takes 100 ms to get over the lost day
        begin = datetime.fromisoformat(start).replace(tzinfo=UTC)
        after = int(begin.timestamp()) * 1_000
        ours = [ms // 1_000 for ms in due_between(Cron(expr, tz), after, LATEST_MS, anchor_ms=0, most=INSTANTS)]
        theirs = instants(expr, tz, begin)
        if ours == theirs:
            continue
        odd = next(min(pair) for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]) if theirs else 0
        kind = class_of(expr, tz, odd)
        if kind in table:
            seen.add(kind)
        else:
            unexplained.append(f"{expr} in {tz} from {start}: {kind}: {local(ours, tz)} theirs {local(theirs, tz)}")
    assert unexplained == []
    assert seen == table


def explained(oracle: str) -> set[str]:
    """The classes of the table: its rows are `| oracle | class | ...`."""
    return set(re.findall(rf"^\| {oracle} \| ([^|]+?) \|", DOCS.read_text(), re.MULTILINE))


def by_cronsim(expr: str, tz: str, begin: datetime) -> list[int]:
    walk = CronSim(expr, begin.astimezone(ZoneInfo(tz)))
    return [int(next(walk).timestamp()) for _ in range(INSTANTS)]


def by_croniter(expr: str, tz: str, begin: datetime) -> list[int]:
    """It writes the last Friday as L5, and has no last workday."""
    if "LW" in expr:
        return []
    fields = expr.split()
    dow = re.sub(r"\b([0-7])L\b", r"L\1", fields[-1])
    walk = croniter(" ".join((*fields[:-1], dow)), begin.astimezone(ZoneInfo(tz)), second_at_beginning=len(fields) == 6)
    return [int(walk.get_next(float)) for _ in range(INSTANTS)]


def cronsim_class(expr: str, tz: str, odd: int) -> str | None:
    if range_of_one(expr, with_step=True):
        return "range of one with a step"
    if len(expr.split()) == 6 and Model(expr).names_times and change_at(tz, odd, before=0, behind=0):
        return "times of the day with seconds"
    change = change_at(tz, odd, before=0, behind=86_400)
    if change and abs(change.shift) not in {0, 3_600}:
        return "shift that is not an hour"
    return None


def croniter_class(expr: str, tz: str, odd: int) -> str | None:
    if "LW" in expr:
        return "LW"
    if range_of_one(expr, with_step=False):
        return "range of one"
    dom, _, dow = expr.split()[-3:]
    if re.fullmatch(r"[0-6]/\d+", dow):
        return "day of week from N with a step"
    if "*" not in {dom, dow} and "*" in dom[0] + dow[0]:
        return "both days, one with a star and a step"
    change = change_at(tz, odd, before=0, behind=3_600)
    if change is None:
        return None
    return "hour that does not exist" if change.shift > 0 else "hour that comes twice"


def range_of_one(expr: str, *, with_step: bool) -> bool:
    pattern = r"(?<![\w])(\w+)-\1/\d" if with_step else r"(?<![\w])(\w+)-\1(?!\w)"
    return re.search(pattern, expr) is not None


def change_at(tz: str, seconds: int, *, before: int, behind: int) -> Change | None:
    """The clock change whose hour, widened by so many seconds, holds the instant."""
    for change in changes(tz, datetime.fromtimestamp(seconds, UTC).year):
        if change.at - before <= seconds <= change.at + abs(change.shift) + behind:
            return change
    return None


@cache
def changes(tz: str, year: int) -> list[Change]:
    return list(_changes(ZoneInfo(tz), datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)))


def _changes(zone: ZoneInfo, moment: datetime, end: datetime) -> Iterator[Change]:
    step = timedelta(minutes=30)
    while moment < end:
        then, now = (moment - step).astimezone(zone).utcoffset(), moment.astimezone(zone).utcoffset()
        if then is not None and now is not None and then != now:
            yield Change(int(moment.timestamp()), int((now - then).total_seconds()))
        moment += step


def local(instants: list[int], tz: str) -> str:
    return " ".join(datetime.fromtimestamp(at, ZoneInfo(tz)).isoformat() for at in instants)

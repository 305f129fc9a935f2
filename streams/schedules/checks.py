"""What a schedule must be to be used; one wrong field makes one InvalidSchedule that names it. Pure.

The same schedule passes or fails wherever and whenever it is looked at: no verdict here depends on the time of day.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final, get_args

import msgspec

from reclaimd.streams.durations import LONGEST_MS, format_duration
from reclaimd.streams.errors import InvalidSchedule
from reclaimd.streams.ids import NAME, QUEUE_NAME
from reclaimd.streams.keys import LANES
from reclaimd.streams.schedules.calculus import LATEST_MS, next_after, next_of
from reclaimd.streams.schedules.cron import LONGEST_EXPRESSION, BadCron, read
from reclaimd.streams.schedules.hints import nearest, nearest_zone
from reclaimd.streams.schedules.model import Cron, Every, Misfire, Once, Overlap, Schedule
from reclaimd.streams.schedules.walk import shortest_gap
from reclaimd.streams.schedules.zones import UnknownZone, year_start, zone_of

SCHEDULE_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,80}\Z")
SHORTEST_INTERVAL_MS: Final = 1_000
MOST_MISFIRES: Final = 10_000
MOST_DELIVERIES: Final = 1_000
LONGEST_DRIP_MS: Final = 86_400_000
DEFAULT_PAYLOAD_LIMIT: Final = 1_000_000
MOST_LEVELS: Final = 100
"""How deep arguments may be nested. Whether much deeper ones can be read hangs on the reader's own stack."""

USER_FIELDS: Final = {
    "expr": "cron",
    "every_ms": "every",
    "anchor_ms": "anchor",
    "at_ms": "at",
    "drip_ms": "drip",
    "jitter_ms": "jitter",
    "start_ms": "start",
    "end_ms": "end",
}
"""The names that people know, of those fields that are called otherwise in events."""

_TRIGGERS: Final[dict[str, type[msgspec.Struct]]] = {"cron": Cron, "every": Every, "once": Once}
_WORDS: Final = {"misfire": get_args(Misfire), "overlap": get_args(Overlap)}
_LONGEST_ZONE: Final = 100
_SAMPLE_FROM_MS: Final = year_start(2027) * 1_000
_PATH: Final = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING: Final = re.compile(r"missing required field `(\w+)`")


def check(schedule: Schedule, *, payload_limit: int = DEFAULT_PAYLOAD_LIMIT) -> None:
    """Raises InvalidSchedule with the user-facing field. `payload_limit`: bytes that the encoded arguments may have."""
    if not SCHEDULE_NAME.match(schedule.name):
        raise InvalidSchedule(schedule.name, "name", "use 1 to 80 of A-Z a-z 0-9 . _ -")
    for field, why in _problems(schedule, payload_limit):
        if why:
            raise InvalidSchedule(schedule.name, field, why)


def parse_schedule(raw: bytes | dict[str, Any], *, payload_limit: int = DEFAULT_PAYLOAD_LIMIT) -> Schedule:
    """Decode and check the JSON form of a schedule, which any client may have written.

    Raises InvalidSchedule, whose name is empty if none could be read. A key that is not known is an error: what it asks
    for would silently not happen.
    """
    try:
        plain = msgspec.json.decode(raw) if isinstance(raw, bytes) else raw
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidSchedule("", "schedule", f"it is not JSON ({error})") from None
    if not isinstance(plain, dict):
        raise InvalidSchedule("", "schedule", "it is not a JSON object")
    name = plain.get("name")
    shown = name if isinstance(name, str) else ""
    _refuse_unknown_keys(shown, plain, Schedule)
    trigger = plain.get("trigger")
    kind = trigger.get("type") if isinstance(trigger, dict) else None
    if isinstance(trigger, dict) and isinstance(kind, str) and kind in _TRIGGERS:
        _refuse_unknown_keys(shown, trigger, _TRIGGERS[kind])
    try:
        schedule = msgspec.convert(plain, Schedule)
    except msgspec.ValidationError as error:
        raise InvalidSchedule(shown, *_located(str(error))) from None
    check(schedule, payload_limit=payload_limit)
    return schedule


def _problems(schedule: Schedule, payload_limit: int) -> tuple[tuple[str, str], ...]:
    """Field and what is wrong, in the order in which people fill them in; the trigger first proves fit for the rest."""
    trigger_problem = _trigger_problem(schedule)
    if trigger_problem[1]:
        return (trigger_problem,)
    return (
        ("task", "" if NAME.match(schedule.task) else "use 1 to 128 of A-Z a-z 0-9 . _ : -"),
        ("queue", "" if QUEUE_NAME.match(schedule.queue) else "use 1 to 64 of A-Z a-z 0-9 . _ -"),
        ("args", _args_problem(schedule.args, payload_limit)),
        ("lane", _word_problem(schedule.lane, LANES)),
        ("max_deliveries", _range_problem(schedule.max_deliveries, 1, MOST_DELIVERIES)),
        ("misfire", _word_problem(schedule.misfire, _WORDS["misfire"])),
        ("misfire_cap", _range_problem(schedule.misfire_cap, 1, MOST_MISFIRES)),
        ("drip", _length_problem(schedule.drip_ms, 0, LONGEST_DRIP_MS)),
        ("overlap", _word_problem(schedule.overlap, _WORDS["overlap"])),
        ("limit", "" if schedule.limit is None else _range_problem(schedule.limit, 1, 2**53)),
        ("start", _instant_problem(schedule.start_ms)),
        ("end", _instant_problem(schedule.end_ms) or _end_problem(schedule)),
        ("jitter", _jitter_problem(schedule)),
        ("source", "" if len(schedule.source) <= 200 else "use at most 200 characters"),
    )


def _trigger_problem(schedule: Schedule) -> tuple[str, str]:
    trigger = schedule.trigger
    if isinstance(trigger, Cron):
        return _cron_problem(trigger.expr[: LONGEST_EXPRESSION + 1], trigger.tz[:_LONGEST_ZONE])
    if isinstance(trigger, Once):
        return "at", _instant_problem(trigger.at_ms)
    if trigger.every_ms < SHORTEST_INTERVAL_MS:
        return "every", "use 1s or more: firing goes by the second, and a worker can loop by itself"
    if trigger.every_ms > LONGEST_MS:
        return "every", f"use at most {format_duration(LONGEST_MS)}"
    return "anchor", _instant_problem(trigger.anchor_ms)


@lru_cache(maxsize=16_384)
def _cron_problem(expr: str, tz: str) -> tuple[str, str]:
    try:
        read(expr)
    except BadCron as error:
        return "cron", str(error)
    try:
        zone_of(tz)
    except UnknownZone:
        return "tz", f"{tz[:40]!r} is no IANA zone: use one such as Europe/Paris{nearest_zone(tz)}"
    if next_after(Cron(expr, tz), _SAMPLE_FROM_MS, anchor_ms=0) is None:
        return "cron", f"{expr!r} never fires: no date matches its day, month and day of week"
    return "cron", ""


def _jitter_problem(schedule: Schedule) -> str:
    if schedule.jitter_ms == 0:
        return ""
    if schedule.jitter_ms < 0 or schedule.jitter_ms > LONGEST_MS:
        return f"use 0s to {format_duration(LONGEST_MS)}"
    interval = _shortest_interval(schedule.trigger)
    if interval is not None and schedule.jitter_ms >= interval:
        return f"use less than {format_duration(interval)}, the shortest time between two occurrences"
    return ""


def _shortest_interval(trigger: Cron | Every | Once) -> int | None:
    """In milliseconds, where clocks do not change; None if there are no two."""
    if isinstance(trigger, Cron):
        return shortest_gap(read(trigger.expr)) * 1_000
    return trigger.every_ms if isinstance(trigger, Every) else None


def _end_problem(schedule: Schedule) -> str:
    start, end = schedule.start_ms, schedule.end_ms
    if start is not None and end is not None and end <= start:
        return "it must be later than start"
    if (start is None and end is None) or (isinstance(schedule.trigger, Every) and schedule.trigger.anchor_ms is None):
        return ""
    if next_of(schedule, -1 if start is None else start - 1, created_ms=0) is None:
        return "no instant lies between start and end"
    return ""


def _args_problem(args: dict[str, Any], payload_limit: int) -> str:
    try:
        size = len(msgspec.json.encode(args))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return f"JSON cannot carry them ({error})"
    if _is_deeper(args, MOST_LEVELS):
        return f"they are nested more than {MOST_LEVELS} levels deep"
    if size > payload_limit:
        return f"they are {size} bytes and the limit is {payload_limit}: store the data elsewhere and pass a reference"
    return ""


def _is_deeper(value: object, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return False
    return any(isinstance(value, dict | list | tuple) for value in level)


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _word_problem(word: str, words: tuple[str, ...]) -> str:
    return "" if word in words else f"{word[:40]!r}: say one of {', '.join(words)}"


def _range_problem(number: int, least: int, most: int) -> str:
    return "" if least <= number <= most else f"say {least} to {most}"


def _length_problem(ms: int, least: int, most: int) -> str:
    return "" if least <= ms <= most else f"say {format_duration(least)} to {format_duration(most)}"


def _instant_problem(ms: int | None) -> str:
    return "" if ms is None or 0 <= ms <= LATEST_MS else "it must lie between 1970 and the year 9000"


def _refuse_unknown_keys(name: str, plain: dict[str, Any], struct: type[msgspec.Struct]) -> None:
    known = (*struct.__struct_encode_fields__, *(("type",) if struct is not Schedule else ()))
    for key in plain:
        if key not in known:
            raise InvalidSchedule(name, str(key)[:40], f"there is no such field{nearest(str(key), known)}")


def _located(message: str) -> tuple[str, str]:
    """Field and reason from msgspec's words: "Expected `int`, got `str` - at `$.trigger.every_ms`"."""
    match = _PATH.match(message)
    what, path = (match["what"], match["path"] or "$") if match else (message, "$")
    if missing := _MISSING.search(what):
        field = "trigger" if missing[1] == "type" else USER_FIELDS.get(missing[1], missing[1])
        return field, "it is missing"
    if path == "$.trigger.type":
        return "trigger", f"its type must be one of {', '.join(_TRIGGERS)}"
    steps = re.findall(r"[A-Za-z_]+", path)
    if steps[:1] == ["trigger"] and len(steps) > 1:
        steps = steps[1:]
    field = steps[0] if steps else "schedule"
    if field in _WORDS:
        return field, f"say one of {', '.join(_WORDS[field])}"
    return USER_FIELDS.get(field, field), what[:1].lower() + what[1:].replace("`", "")

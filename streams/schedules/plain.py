"""Schedules as people write them in TOML and YAML files: durations and instants as text, one key per trigger. Pure."""

from collections.abc import Mapping
from typing import Any, Final, cast, get_args

import msgspec

from reclaimd.streams.durations import format_duration, parse_duration
from reclaimd.streams.errors import InvalidDuration, InvalidSchedule
from reclaimd.streams.schedules.checks import DEFAULT_PAYLOAD_LIMIT, check
from reclaimd.streams.schedules.hints import nearest, nearest_zone
from reclaimd.streams.schedules.instants import BadInstant, format_instant, parse_instant
from reclaimd.streams.schedules.model import Cron, Every, Misfire, Once, Overlap, Schedule, Trigger
from reclaimd.streams.schedules.zones import UnknownZone, zone_of

_TRIGGER_KEYS: Final = ("cron", "every", "at")
_TEXTS: Final = ("task", "queue", "lane", "misfire", "overlap")
_NUMBERS: Final = ("max_deliveries", "misfire_cap", "limit")
_DURATIONS: Final = {"drip": "drip_ms", "jitter": "jitter_ms"}
_INSTANTS: Final = {"start": "start_ms", "end": "end_ms"}
KEYS: Final = (
    "task",
    "queue",
    "cron",
    "every",
    "anchor",
    "at",
    "tz",
    "args",
    "lane",
    "max_deliveries",
    "misfire",
    "misfire_cap",
    "drip",
    "overlap",
    "jitter",
    "start",
    "end",
    "limit",
)
"""All keys, in the order in which `to_plain` writes them."""


def to_plain(schedule: Schedule) -> dict[str, Any]:
    """What `from_plain` makes the same schedule of; name and source stand elsewhere, and defaults are left out.

    Values are texts, whole numbers and the arguments. Instants carry the offset of the schedule's zone. Raises
    UnknownZone.
    """
    written: dict[str, Any] = {"task": schedule.task, "queue": schedule.queue, **_trigger_to_plain(schedule.trigger)}
    tz = schedule.trigger.tz if isinstance(schedule.trigger, Cron) else "UTC"
    for field in msgspec.structs.fields(Schedule):
        value, key = getattr(schedule, field.name), field.name.removesuffix("_ms")
        if field.name == "args":
            if value:
                written[key] = value
        elif key in KEYS and key not in written and value != field.default:
            if key in _DURATIONS:
                value = format_duration(value)
            elif key in _INSTANTS:
                value = format_instant(value, tz)
            written[key] = value
    return {key: written[key] for key in KEYS if key in written}


def from_plain(
    name: str, plain: Mapping[str, Any], *, source: str = "", payload_limit: int = DEFAULT_PAYLOAD_LIMIT
) -> Schedule:
    """Read and check. Instants without an offset are in `tz`; `None` counts as not given.

    `source`: who owns it; `payload_limit`: bytes of the encoded arguments. Raises InvalidSchedule.
    """
    given = {str(key): value for key, value in plain.items() if value is not None}
    for key in plain:
        if key not in KEYS:
            raise InvalidSchedule(name, str(key)[:40], f"there is no such key{nearest(str(key), KEYS)}")
    reader = _Reader(name, given)
    fields: dict[str, Any] = {"name": name, "source": source, "trigger": reader.trigger()}
    for key in ("task", "queue"):
        if key not in given:
            raise InvalidSchedule(name, key, "it is missing")
    fields |= {key: reader.text(key) for key in _TEXTS if key in given}
    for key, words in (("misfire", Misfire), ("overlap", Overlap)):
        if key in given and given[key] not in get_args(words):
            raise InvalidSchedule(name, key, f"{given[key][:40]!r}: say one of {', '.join(get_args(words))}")
    fields |= {key: reader.number(key) for key in _NUMBERS if key in given}
    fields |= {field: reader.duration(key) for key, field in _DURATIONS.items() if key in given}
    fields |= {field: reader.instant(key) for key, field in _INSTANTS.items() if key in given}
    if "args" in given:
        fields["args"] = reader.arguments()
    schedule = Schedule(**fields)
    check(schedule, payload_limit=payload_limit)
    return schedule


class _Reader:
    """Reads single keys; every complaint names the schedule and the key."""

    def __init__(self, name: str, given: Mapping[str, Any]) -> None:
        self._name = name
        self._given = given
        self._tz = self.text("tz") if "tz" in given else "UTC"
        try:
            zone_of(self._tz)
        except UnknownZone:
            why = f"{self._tz[:40]!r} is no IANA zone: use one such as Europe/Paris{nearest_zone(self._tz)}"
            raise self._error("tz", why) from None

    def trigger(self) -> Trigger:
        """From the one of `cron`, `every` and `at` that is given."""
        keys = [key for key in _TRIGGER_KEYS if key in self._given]
        if not keys:
            raise self._error("cron", "say when: one of cron, every, at is missing")
        if len(keys) > 1:
            raise self._error(keys[1], f"{' and '.join(keys)} exclude each other: leave one")
        if "anchor" in self._given and keys != ["every"]:
            raise self._error("anchor", "it belongs to every")
        if keys == ["cron"]:
            return Cron(self.text("cron"), self._tz)
        if keys == ["at"]:
            return Once(self.instant("at"))
        return Every(self.duration("every"), self.instant("anchor") if "anchor" in self._given else None)

    def text(self, key: str) -> str:
        value = self._given[key]
        if not isinstance(value, str):
            raise self._error(key, f"expected a text{' in quotes' if key == 'cron' else ''}")
        return value

    def number(self, key: str) -> int:
        value = self._given[key]
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._error(key, "expected a whole number")
        return value

    def duration(self, key: str) -> int:
        value = self._given[key]
        if not isinstance(value, str):
            raise self._error(key, "expected a duration such as 5m or 1h30m, in quotes")
        try:
            return parse_duration(value)
        except InvalidDuration as error:
            raise self._error(key, str(error)) from None

    def instant(self, key: str) -> int:
        try:
            return parse_instant(self._given[key], self._tz)
        except BadInstant as error:
            raise self._error(key, str(error)) from None

    def arguments(self) -> dict[str, Any]:
        """The arguments as JSON has them: dates and times, which TOML and YAML know, become texts."""
        value = self._given["args"]
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise self._error("args", "expected a table of names and values")
        try:
            return cast("dict[str, Any]", msgspec.to_builtins(value, str_keys=True))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise self._error("args", f"JSON cannot carry them ({error})") from None

    def _error(self, key: str, why: str) -> InvalidSchedule:
        return InvalidSchedule(self._name, key, why)


def _trigger_to_plain(trigger: Trigger) -> dict[str, str]:
    if isinstance(trigger, Cron):
        return {"cron": trigger.expr} | ({"tz": trigger.tz} if trigger.tz != "UTC" else {})
    if isinstance(trigger, Once):
        return {"at": format_instant(trigger.at_ms)}
    anchor = {} if trigger.anchor_ms is None else {"anchor": format_instant(trigger.anchor_ms)}
    return {"every": format_duration(trigger.every_ms)} | anchor

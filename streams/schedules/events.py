"""What happens to schedules, as values: the events of `{ns:schedules}:events`. Pure.

Fields that a newer program added are ignored. A type or a version that is not known here, and bytes that are no event,
become `Unreadable`: never an error, because one bad event must not stop the reading of the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from reclaimd.streams.schedules.model import Schedule

NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,80}\Z")


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag=True, tag_field="type"):
    v: int = 1


class ScheduleUpserted(_Event, frozen=True):
    """A schedule was created or changed. `schedule`: its definition as JSON, as it was written; see `upserted`."""

    schedule: msgspec.Raw

    @property
    def name(self) -> str:
        """The name in the definition; empty when there is none that can be used."""
        return _name_in(bytes(self.schedule))


class ScheduleRemoved(_Event, frozen=True):
    """A schedule is to go; with `source`, only if it belongs to that one."""

    name: str
    source: str = ""


class SchedulePaused(_Event, frozen=True):
    """A schedule fires nothing until it is resumed."""

    name: str


class ScheduleResumed(_Event, frozen=True):
    """A paused schedule fires again; what came due meanwhile is skipped."""

    name: str


class ScheduleRejected(_Event, frozen=True):
    """Somebody could not use a definition. `entry`: the ID of the upsert, empty when it never became one."""

    name: str
    field: str
    reason: str
    entry: str = ""


Event: TypeAlias = ScheduleUpserted | ScheduleRemoved | SchedulePaused | ScheduleResumed | ScheduleRejected


class Unreadable(msgspec.Struct, frozen=True):
    """An event that this program cannot read. `name`: the schedule that it is about, empty when unknown.

    `raw`: its bytes as they were, for a program that can.
    """

    name: str
    raw: bytes
    why: str


VERSIONS: Final[Mapping[str, int]] = {
    "ScheduleUpserted": 1,
    "ScheduleRemoved": 1,
    "SchedulePaused": 1,
    "ScheduleResumed": 1,
    "ScheduleRejected": 1,
}
"""The newest version of each type that this program knows, which is the one that it writes."""

Upcaster: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]

UPCASTERS: Final[Mapping[tuple[str, int], Upcaster]] = {}
"""(type, v) → the fields of that version made those of v + 1. Every version below the newest has one."""


class _Named(msgspec.Struct, frozen=True):
    name: str = ""


class _Header(msgspec.Struct, frozen=True):
    type: str = ""
    v: int = 1


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_header = msgspec.json.Decoder(_Header)
_named = msgspec.json.Decoder(_Named)
# UnicodeDecodeError is no MsgspecError; RecursionError comes from JSON that is nested too deeply.
_BROKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
# What an upcaster may stumble over in an event that was damaged.
_UNLIFTABLE = (LookupError, TypeError, ValueError, AttributeError)


def upserted(schedule: Schedule) -> ScheduleUpserted:
    """The event that creates or changes this schedule; raises TypeError for arguments that JSON cannot carry."""
    return ScheduleUpserted(schedule=msgspec.Raw(_encoder.encode(schedule)))


def encode(event: Event) -> bytes:
    """JSON."""
    return _encoder.encode(event)


def decode(
    raw: bytes, versions: Mapping[str, int] = VERSIONS, upcasters: Mapping[tuple[str, int], Upcaster] = UPCASTERS
) -> Event | Unreadable:
    """Read one event; never an error. Older versions are lifted to the newest."""
    try:
        header = _header.decode(raw)
    except _BROKEN as error:
        return _unreadable(raw, f"no event: {error}")
    newest = versions.get(header.type)
    if newest is None:
        return _unreadable(raw, f"unknown type {header.type[:80]!r}")
    if not 1 <= header.v <= newest:
        return _unreadable(raw, f"{header.type} has version {header.v}, this program knows 1 to {newest}")
    try:
        event = _decoder.decode(raw if header.v == newest else _lifted(raw, header, newest, upcasters))
    except (*_BROKEN, *_UNLIFTABLE) as error:
        return _unreadable(raw, f"{header.type}: {error}")
    if not NAME.match(event.name):
        return Unreadable("", raw, f"{header.type}: name: use 1 to 80 of A-Z a-z 0-9 . _ -")
    return event


def _lifted(raw: bytes, header: _Header, newest: int, upcasters: Mapping[tuple[str, int], Upcaster]) -> bytes:
    fields: dict[str, Any] = msgspec.json.decode(raw)
    for version in range(header.v, newest):
        fields = upcasters[header.type, version](fields)
    return _encoder.encode({**fields, "type": header.type, "v": newest})


def _unreadable(raw: bytes, why: str) -> Unreadable:
    return Unreadable(_name_in(raw) or _name_of_definition(raw), raw, why)


class _Defining(msgspec.Struct, frozen=True):
    schedule: msgspec.Raw = msgspec.Raw(b"")


_defining = msgspec.json.Decoder(_Defining)


def _name_of_definition(raw: bytes) -> str:
    try:
        return _name_in(bytes(_defining.decode(raw).schedule))
    except _BROKEN:
        return ""


def _name_in(raw: bytes) -> str:
    try:
        name = _named.decode(raw).name
    except _BROKEN:
        return ""
    return name if NAME.match(name) else ""

"""One setting, described once: its names in file and environment, its unit, bounds, default and meaning.

The description stands beside the field of the Struct that holds the value (`streams.settings`); decoding, error
messages, the sample file and the documentation are all made from it.
"""

from collections.abc import Callable
from enum import StrEnum
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from reclaimd.streams.addresses import redacted
from reclaimd.streams.durations import format_duration, parse_duration
from reclaimd.streams.errors import InvalidDuration, InvalidSetting, InvalidSize
from reclaimd.streams.sizes import format_size, parse_size

ENV_PREFIX = "RECLAIMD_"


class Kind(StrEnum):
    """How a setting is written."""

    DURATION = "duration"
    SIZE = "size"
    INTEGER = "integer"
    TEXT = "text"
    CHOICE = "choice"
    BOOLEAN = "boolean"


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """A setting. `field`: the Struct's attribute; durations are kept there in milliseconds and end in `_ms`, sizes in
    bytes and end in `_bytes`.

    `value_type` is what msgspec checks; `check` returns what is wrong with a text that has the right type, or None.
    `flag`: how its flag is called, if not as the setting.
    """

    section: str
    field: str
    kind: Kind
    value_type: Any
    default: int | str | None
    doc: str
    least: int | None = None
    most: int | None = None
    choices: tuple[str, ...] = ()
    example: str = ""
    when_unset: str = ""
    check: Callable[[str], str | None] | None = None
    secret: bool = False
    flag: str = ""

    @property
    def name(self) -> str:
        """The key inside its section, without a unit: `lease`."""
        return self.field.removesuffix(_SUFFIXES.get(self.kind, ""))

    @property
    def flag_name(self) -> str:
        """Its flag, if it has one: `--redis-url`."""
        return "--" + (self.flag or self.name.replace("_", "-"))

    @property
    def key(self) -> str:
        """The full key: `worker.lease`, or `redis_url` at the top level."""
        return f"{self.section}.{self.name}" if self.section else self.name

    @property
    def variable(self) -> str:
        """The environment variable: `RECLAIMD_WORKER_LEASE`."""
        return ENV_PREFIX + self.key.replace(".", "_").upper()

    def decode(self, raw: object, *, lax: bool) -> int | str:
        """Turn what was written into the value that the Struct holds.

        `lax`: a number may come as text, as it does from the environment and from flags; TOML has types. Raises
        InvalidSetting, which names what is expected but neither the value nor where it came from: the caller does.
        """
        value = raw
        if self.kind is Kind.DURATION:
            if not isinstance(raw, str):
                hint = f": say {raw}s, or {raw}ms" if isinstance(raw, int) and not isinstance(raw, bool) else ""
                raise InvalidSetting(self.key, f"a number has no unit{hint}" if hint else f"expected {self.expected}")
            try:
                value = parse_duration(raw)
            except InvalidDuration as error:
                raise InvalidSetting(self.key, error.cure) from None
        if self.kind is Kind.SIZE:
            try:
                value = parse_size(raw if isinstance(raw, str) else str(raw))
            except InvalidSize as error:
                raise InvalidSetting(self.key, error.cure) from None
        return self.checked(value, strict=not (lax and self.kind is Kind.INTEGER))

    def checked(self, value: object, *, strict: bool = True) -> int | str:
        """Check a value of the Struct's own unit; raises InvalidSetting."""
        try:
            checked: int | str = msgspec.convert(value, self.value_type, strict=strict)
        except msgspec.ValidationError:
            raise InvalidSetting(self.key, f"expected {self.expected}") from None
        problem = self.check(checked) if self.check is not None and isinstance(checked, str) else None
        if problem is not None:
            raise InvalidSetting(self.key, problem)
        return checked

    @property
    def expected(self) -> str:
        """What is allowed, in words: `a duration such as 15s, from 500ms to 1d`."""
        if self.kind is Kind.CHOICE:
            return "one of " + ", ".join(self.choices)
        if self.kind is Kind.TEXT:
            return "a text, not empty"
        if self.kind is Kind.BOOLEAN:
            return "true or false"
        bounds = [
            f"{word} {self._plain(bound)}"
            for word, bound in (("from", self.least), ("to", self.most))
            if bound is not None
        ]
        noun = {Kind.DURATION: "a duration such as 15s", Kind.SIZE: "a size such as 2GiB"}.get(
            self.kind, "a whole number"
        )
        return f"{noun}, {' '.join(bounds)}" if bounds else noun

    def shown(self, value: int | str | None) -> str:
        """The value as a person writes it, safe to print; empty when there is none."""
        if value is None:
            return ""
        return redacted(str(value)) if self.secret else self._plain(value)

    def _plain(self, value: int | str) -> str:
        if self.kind is Kind.BOOLEAN:
            return "true" if value else "false"
        form = _FORMS.get(self.kind)
        return form(value) if form is not None and isinstance(value, int) else str(value)


_SUFFIXES = {Kind.DURATION: "_ms", Kind.SIZE: "_bytes"}
_FORMS: dict[Kind, Callable[[int], str]] = {Kind.DURATION: format_duration, Kind.SIZE: format_size}


def duration(doc: str, *, least: int, most: int, **extra: Any) -> msgspec.Meta:
    """Describe a field in milliseconds; `least` and `most` are inclusive. `extra`: see Option."""
    return msgspec.Meta(ge=least, le=most, description=doc, extra={"duration": True, **extra})


def size(doc: str, *, least: int, most: int, **extra: Any) -> msgspec.Meta:
    """Describe a field in bytes; `least` and `most` are inclusive. `extra`: see Option."""
    return msgspec.Meta(ge=least, le=most, description=doc, extra={"size": True, **extra})


def integer(doc: str, *, least: int, most: int, **extra: Any) -> msgspec.Meta:
    """Describe a whole number; `least` and `most` are inclusive."""
    return msgspec.Meta(ge=least, le=most, description=doc, extra=extra)


def text(doc: str, **extra: Any) -> msgspec.Meta:
    """Describe a text that is not empty."""
    return msgspec.Meta(min_length=1, description=doc, extra=extra)


def choice(doc: str, **extra: Any) -> msgspec.Meta:
    """Describe a Literal."""
    return msgspec.Meta(description=doc, extra=extra)


def boolean(doc: str, **extra: Any) -> msgspec.Meta:
    """Describe a yes or no."""
    return msgspec.Meta(description=doc, extra=extra)


def options_of(struct: type[msgspec.Struct], section: str) -> tuple[Option, ...]:
    """The options of a Struct in the order of its fields, those without a description left out."""
    hints = get_type_hints(struct, include_extras=True)
    described = ((field, _described(hints[field.name])) for field in msgspec.structs.fields(struct))
    return tuple(_option(section, field, value_type) for field, value_type in described if value_type is not None)


def _described(hint: Any) -> Any:
    """The `Annotated` part of `Annotated[...]` or `Annotated[...] | None`; None when there is no such part."""
    candidates = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return next((part for part in candidates if get_origin(part) is Annotated), None)


def _option(section: str, field: msgspec.structs.FieldInfo, value_type: Any) -> Option:
    base, meta = value_type.__origin__, value_type.__metadata__[0]
    extra = dict(meta.extra or {})
    choices = get_args(base) if get_origin(base) is Literal else ()
    if extra.pop("duration", False):
        kind = Kind.DURATION
    elif extra.pop("size", False):
        kind = Kind.SIZE
    elif base is bool:
        kind = Kind.BOOLEAN
    elif choices:
        kind = Kind.CHOICE
    else:
        kind = Kind.INTEGER if base is int else Kind.TEXT
    return Option(
        section=section,
        field=field.name,
        kind=kind,
        value_type=value_type,
        default=None if field.required else field.default,
        doc=meta.description,
        least=meta.ge,
        most=meta.le,
        choices=choices,
        **extra,
    )

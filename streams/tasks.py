"""A task definition: a function, the check of its arguments, and how it is run."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

import msgspec

from reclaimd.streams.codec import Body, encode_body
from reclaimd.streams.context import Context
from reclaimd.streams.durations import parse_duration
from reclaimd.streams.errors import InvalidArguments, InvalidTask, PayloadTooLarge
from reclaimd.streams.ids import NAME, check_queue
from reclaimd.streams.keys import LANES, SENTINEL
from reclaimd.streams.policy import Retry

P = ParamSpec("P")
R = TypeVar("R")

Duration = float | int | str | timedelta

# `enqueue(task, **arguments, delay=…)` mixes the two; a parameter of the same name could never be given.
RESERVED = frozenset({"delay", "unique", "lane", "queue", "task_id", "max_deliveries", "durability"})


def to_ms(value: Duration, what: str) -> int:
    """Seconds, `"10m"` or a timedelta to milliseconds; raises InvalidTask for negative and endless ones."""
    if isinstance(value, str):
        return parse_duration(value)
    try:
        ms = round((value.total_seconds() if isinstance(value, timedelta) else value) * 1000)
    except (ValueError, OverflowError) as error:
        raise InvalidTask(f"{what} is no number of seconds: {value}") from error
    if ms < 0:
        raise InvalidTask(f"{what} is negative: {value}")
    return ms


class TaskOptions(NamedTuple):
    """How a task is run. `timeout_ms`: None for no limit."""

    queue: str
    lane: str
    timeout_ms: int | None
    max_deliveries: int | None
    retry: Retry


class TaskCall(NamedTuple):
    """A task with its arguments, checked and encoded, not yet enqueued. `delay_ms`: 0 for at once."""

    task: Task[Any, Any]
    body: bytes
    delay_ms: int = 0
    unique: str = ""
    lane: str | None = None
    queue: str | None = None
    task_id: str | None = None
    max_deliveries: int | None = None
    durability: str | None = None

    def options(
        self,
        *,
        delay: Duration = 0,
        unique: str = "",
        lane: str | None = None,
        queue: str | None = None,
        task_id: str | None = None,
        max_deliveries: int | None = None,
        durability: str | None = None,
    ) -> TaskCall:
        """The same call, enqueued in another way."""
        return self._replace(
            delay_ms=to_ms(delay, "delay"),
            unique=unique,
            lane=lane,
            queue=queue,
            task_id=task_id,
            max_deliveries=max_deliveries,
            durability=durability,
        )


class Task(Generic[P, R]):
    """A registered function. Calling it runs the function itself, here and now."""

    def __init__(self, function: Callable[P, R], name: str, options: TaskOptions) -> None:
        if not NAME.match(name):
            raise InvalidTask(f"task name {name!r}: use 1 to 128 of A-Z a-z 0-9 . _ : -")
        check_queue(options.queue)
        check_lane(options.lane)
        if options.max_deliveries is not None:
            check_deliveries(options.max_deliveries)
        self.function = function
        self.name = name
        self.opts = options
        self.is_async = inspect.iscoroutinefunction(function)
        self.signature = inspect.signature(function)
        self.context_parameter, self._arguments = _argument_struct(function, name, self.signature)
        self._decoder = msgspec.json.Decoder(self._arguments)
        self._field_names = tuple(self._arguments.__struct_fields__)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.name} on {self.opts.queue}>"

    def call(self, *args: Any, **kwargs: Any) -> TaskCall:
        """Check and encode arguments; raises InvalidArguments when they do not fit the signature or JSON."""
        return TaskCall(self, self.encode(args, kwargs))

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """The body for these arguments. What a worker would refuse is refused here."""
        try:
            arguments = self._bind(args, kwargs)
            encoded = msgspec.json.encode(arguments)
            self._decoder.decode(encoded)
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            raise InvalidArguments(self.name, str(error)) from error
        return encode_body(Body(name=self.name, args=arguments))

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if not args:
            return kwargs
        if len(args) > len(self._field_names):
            raise TypeError(f"{len(args)} positional arguments, it takes {len(self._field_names)}")
        named = dict(zip(self._field_names, args, strict=False))
        twice = named.keys() & kwargs.keys()
        if twice:
            raise TypeError(f"given twice: {', '.join(sorted(twice))}")
        return named | kwargs

    def decode(self, raw: bytes | msgspec.Raw) -> dict[str, Any]:
        """Keyword arguments from a body's `args`; raises InvalidArguments."""
        try:
            arguments = self._decoder.decode(raw)
        except msgspec.MsgspecError as error:
            raise InvalidArguments(self.name, str(error)) from error
        return {name: getattr(arguments, name) for name in self._field_names}


def _same(value: Any) -> Any:
    return value


def check_lane(lane: str) -> str:
    """Returns it, or raises InvalidTask."""
    if lane not in LANES:
        raise InvalidTask(f"lane {lane!r}: say one of {', '.join(LANES)}")
    return lane


def check_deliveries(number: int) -> int:
    """Returns it, or raises InvalidTask: 1 to 1,000."""
    if not 1 <= number <= 1000:
        raise InvalidTask(f"max_deliveries {number}: say 1 to 1000")
    return number


def check_unique(key: str) -> str:
    """Returns it, or raises InvalidTask: at most 512 characters that UTF-8 can carry, and not `{archive}`."""
    if len(key) > 512 or not key.isprintable():
        raise InvalidTask(f"unique key {key[:80]!r}: use at most 512 printable characters")
    if key == SENTINEL:
        raise InvalidTask(f"unique key {key!r}: archives use that name, choose another")
    return key


def check_size(body: bytes, limit: int) -> None:
    """Raises PayloadTooLarge when the encoded body has more than `limit` bytes."""
    if len(body) > limit:
        raise PayloadTooLarge(len(body), limit)


def _argument_struct(
    function: Callable[..., Any], name: str, signature: inspect.Signature
) -> tuple[str | None, type[msgspec.Struct]]:
    """The name of the Context parameter, and a Struct with the other parameters as fields."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise InvalidTask(f"task {name}: an annotation cannot be resolved: {error}") from error
    context = None
    fields: list[Any] = []
    for parameter in signature.parameters.values():
        kind = parameter.kind
        if kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise InvalidTask(f"task {name}: parameter {parameter} has no name to be sent under; name each one")
        hint = hints.get(parameter.name, Any)
        if hint is Context or Context in typing.get_args(hint):
            context = parameter.name
        elif parameter.name in RESERVED:
            raise InvalidTask(f"task {name}: parameter {parameter.name} means something else to enqueue; rename it")
        elif parameter.default is parameter.empty:
            fields.append((parameter.name, hint))
        else:
            fields.append((parameter.name, hint, msgspec.field(default_factory=partial(_same, parameter.default))))
    try:
        struct = msgspec.defstruct(f"{name}_arguments", fields, kw_only=True, forbid_unknown_fields=True)
        msgspec.json.Decoder(struct)
    except TypeError as error:
        raise InvalidTask(f"task {name}: arguments of these types cannot be sent as JSON: {error}") from error
    return context, struct

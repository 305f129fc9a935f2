"""Envelopes as they lie in streams, hashes and dead letters, made readable."""

import re
from typing import Any, Literal

import msgspec

from reclaimd.streams.codec import decode_body

TaskState = Literal["waiting", "active", "delayed", "dead"]
Whereabouts = Literal[TaskState, "queued"]
"""One that is queued waits for the open task of its schedule to end; it is in no stream."""
ENTRY_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")


class Past(msgspec.Struct, frozen=True):
    """One row of the history that travels with a task."""

    at_ms: int
    what: str
    worker: str
    cause: str


class TaskInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One task where it is now. `stream` and `entry_id` are empty while it is delayed or queued.

    `since_ms`: when it was enqueued (waiting), delivered (active) or died (dead); `due_ms`: for delayed ones; wall
    milliseconds. `worker`: who has it (active) or had it last (dead). `name` is empty for what is not a task of ours.
    """

    task_id: str
    queue: str
    state: Whereabouts
    stream: str = ""
    entry_id: str = ""
    lane: str = ""
    name: str = ""
    enqueued_at_ms: int | None = None
    since_ms: int | None = None
    due_ms: int | None = None
    worker: str = ""
    deliveries: int = 0
    attempts: int = 0
    handbacks: int = 0
    max_deliveries: int | None = None
    unique: str = ""
    schedule: str = ""
    cause: str = ""
    error: str = ""


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A task with all that it carries: arguments (as far as they are JSON), history, fields of a foreign entry."""

    task: TaskInfo
    args: Any = None
    history: list[Past] = []
    fields: dict[str, str] = {}


def task_info(
    fields: dict[bytes, bytes], *, queue: str, state: Whereabouts, stream: str = "", entry_id: str = "", **more: Any
) -> TaskInfo:
    """Read an envelope. `more`: fields of TaskInfo that are not in it. Takes foreign entries too."""
    dead_at = number(fields.get(b"dead_at"))
    enqueued_at = number(fields.get(b"at"))
    default_since = dead_at if state == "dead" else enqueued_at
    return TaskInfo(
        task_id=text(fields.get(b"task", f"foreign:{stream}:{entry_id}".encode())),
        queue=queue,
        state=state,
        stream=stream,
        entry_id=entry_id,
        lane=text(fields.get(b"lane", b"")),
        name=_name(fields.get(b"body", b"")),
        enqueued_at_ms=enqueued_at,
        since_ms=more.pop("since_ms", default_since),
        worker=more.pop("worker", text(fields.get(b"worker", b""))),
        deliveries=number(fields.get(b"deliveries")) or 0,
        attempts=number(fields.get(b"attempts")) or 0,
        handbacks=number(fields.get(b"handbacks")) or 0,
        max_deliveries=number(fields.get(b"max")),
        unique=text(fields.get(b"unique", b"")),
        schedule=text(fields.get(b"schedule", b"")),
        cause=text(fields.get(b"cause", b"")),
        error=text(fields.get(b"error", b"")),
        **more,
    )


def letter(fields: dict[bytes, bytes], task: TaskInfo) -> Letter:
    """Everything of an entry whose `task_info` was read."""
    foreign = {text(name): text(value) for name, value in fields.items() if name == b"x" or name.startswith(b"x:")}
    return Letter(task=task, args=_args(fields.get(b"body", b"")), history=history(fields), fields=foreign)


def history(fields: dict[bytes, bytes]) -> list[Past]:
    """The rows that travel with the task, oldest first; unreadable ones are left out."""
    rows = []
    for line in fields.get(b"history", b"").splitlines():
        try:
            at, *words = msgspec.json.decode(line)
            what, worker, cause = (str(word) for word in words[:3])
            rows.append(Past(int(at), what, worker, cause))
        except (ValueError, TypeError, msgspec.MsgspecError):
            continue
    return rows


def delayed_fields(body: bytes) -> dict[bytes, bytes]:
    """An element of `:delayed:body` or `:fired:queued`, a flat JSON array; empty when it is not one."""
    try:
        flat = msgspec.json.decode(body, type=list[str | int | float])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    plain = [str(value).encode() for value in flat]
    return dict(zip(plain[::2], plain[1::2], strict=False))


def text(value: bytes) -> str:
    """Bytes that may be anything, readable."""
    return value.decode(errors="backslashreplace")


def number(value: bytes | None) -> int | None:
    """A decimal as scripts write it; None for anything else."""
    try:
        return None if value is None else int(float(value))
    except (ValueError, OverflowError):
        return None


def _name(body: bytes) -> str:
    try:
        return decode_body(body).name
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def _args(body: bytes) -> Any:
    try:
        return msgspec.json.decode(decode_body(body).args)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return text(body) if body else None

"""What an enqueue waits for beyond its answer: a replica (WAIT), or the disk (WAITAOF). Commands and replies, no IO.

Both commands count only what the same connection wrote before, and inside a script or MULTI neither waits: so they
follow the script, on its connection. https://redis.io/commands/wait, https://redis.io/commands/waitaof

A connection that has written nothing is told that all is safe. The enqueue script writes whatever its answer is (it
counts duplicates too), so that to send a task again and wait covers the first time as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

import redis

from reclaimd.streams.durations import format_duration
from reclaimd.streams.errors import DurabilityUnavailable, InvalidTask

Durability = Literal["async", "replicated", "fsync"]
"""`async`: the server's answer is enough. `replicated`: one replica has it. `fsync`: it is on the server's disk."""

LEVELS: Final[tuple[str, ...]] = get_args(Durability)

Command = tuple[str | int, ...]

_RIGHTS = {
    "replicated": "give this user the rights +wait and +role",
    "fsync": "give this user the right +waitaof",
}


def check_durability(level: str) -> str:
    """Returns it, or raises InvalidTask."""
    if level not in LEVELS:
        raise InvalidTask(f"durability {level!r}: say one of {', '.join(LEVELS)}")
    return level


def probes(level: str) -> list[Command]:
    """Commands that write nothing, whose replies tell whether the server can give this level at all."""
    if level == "replicated":
        return [("WAIT", 0, 1), ("ROLE",)]
    return [("WAITAOF", 1, 0, 1)] if level == "fsync" else []


def check_probes(level: str, replies: Sequence[Any]) -> None:
    """Raises DurabilityUnavailable when the replies (or errors) to `probes` say that waiting is of no use.

    A user who may not ask for the role learns only by waiting whether there is a replica. Other errors are raised.
    """
    for reply in replies:
        if isinstance(reply, redis.exceptions.NoPermissionError) and _is_about(reply, "role"):
            continue
        if isinstance(reply, redis.RedisError):
            raise unavailable(level, reply) or reply
        if isinstance(reply, list | tuple) and reply and reply[0] in (b"master", "master") and not reply[2]:
            raise DurabilityUnavailable(level, "no replica is connected", "connect one, or ask for less")


def unavailable(level: str, error: redis.RedisError) -> DurabilityUnavailable | None:
    """What the server's refusal of WAIT or WAITAOF means; None for errors that are about something else."""
    text = str(error)
    if isinstance(error, redis.exceptions.NoPermissionError):
        return DurabilityUnavailable(level, f"its ACL forbids it ({text})", _RIGHTS[level])
    if "unknown command" in text.lower():
        return DurabilityUnavailable(level, "the server does not know WAITAOF", "use Redis 7.2 or later, or Valkey")
    if "appendonly is disabled" in text:
        return DurabilityUnavailable(level, "the server keeps no append-only file", "set appendonly yes")
    return None


def waiting(level: str, timeout_ms: int) -> Command:
    """The command that waits; `timeout_ms` must not be 0, which is for ever."""
    return ("WAIT", 1, timeout_ms) if level == "replicated" else ("WAITAOF", 1, 0, timeout_ms)


def shortfall(level: str, reply: Any, timeout_ms: int) -> str:
    """Why the reply to `waiting` is not enough, in words with what to do; empty when it is."""
    within = f"within {format_duration(timeout_ms)}"
    if level == "replicated":
        return "" if reply >= 1 else f"no replica acknowledged it {within}, look at their lag"
    if reply[0] >= 1:
        return ""
    return f"the server did not fsync it {within}, see that appendfsync is not `no` and look at its disk"


def told_in_waiting(error: redis.ResponseError, level: str) -> str:
    """What a refusal of WAIT or WAITAOF says, after the tasks were accepted, in words."""
    known = unavailable(level, error)
    return f"{known.why}, {known.cure}" if known is not None else f"the server says: {error}"


def _is_about(error: redis.RedisError, command: str) -> bool:
    return f"'{command}'" in str(error).lower()

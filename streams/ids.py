"""Names and identities: task IDs, worker IDs, nonces, tokens, entry IDs. Pure: randomness is an argument."""

from __future__ import annotations

import re
from typing import NamedTuple

from reclaimd.streams.errors import InvalidTask

NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}\Z")
QUEUE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")


class EntryID(NamedTuple):
    """A stream entry ID, ordered as Redis orders it."""

    ms: int
    seq: int

    @classmethod
    def parse(cls, text: str | bytes) -> EntryID:
        """`"1700000000000-3"`; raises ValueError for anything else."""
        ms, _, seq = (text.decode() if isinstance(text, bytes) else text).partition("-")
        return cls(int(ms), int(seq))

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"


class Token(NamedTuple):
    """One incarnation of a worker ID in one partition: a counter that only grows, and a nonce."""

    counter: int
    nonce: str

    @classmethod
    def parse(cls, text: str) -> Token:
        """`"1700000000000-0123456789abcdef"`; raises ValueError for anything else."""
        counter, _, nonce = text.partition("-")
        return cls(int(counter), nonce)

    def __str__(self) -> str:
        return f"{self.counter}-{self.nonce}"


def task_id_from(now_ms: int, random: bytes) -> str:
    """A UUIDv7-shaped task ID (RFC 9562 §5.7): sorts by creation, 74 random bits. `random`: 10 bytes."""
    value = (now_ms & (1 << 48) - 1) << 80 | int.from_bytes(random, "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def check_task_id(task_id: str) -> str:
    """Returns it, or raises InvalidTask: scripts refuse what does not match."""
    if not NAME.match(task_id):
        raise InvalidTask(f"task ID {task_id[:140]!r}: use 1 to 128 of A-Z a-z 0-9 . _ : -")
    return task_id


def check_worker_id(worker: str) -> str:
    """Returns it, or raises InvalidTask; worker IDs share the characters of task IDs."""
    if not NAME.match(worker):
        raise InvalidTask(f"worker ID {worker[:140]!r}: use 1 to 128 of A-Z a-z 0-9 . _ : -")
    return worker


def check_queue(queue: str) -> str:
    """Returns it, or raises InvalidTask; braces and colons would break the keys."""
    if not QUEUE_NAME.match(queue):
        raise InvalidTask(f"queue name {queue[:80]!r}: use 1 to 64 of A-Z a-z 0-9 . _ -")
    return queue

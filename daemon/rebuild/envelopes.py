"""Envelopes as the archive keeps them: the flat JSON array of docs/protocol.md, whatever bytes are in it. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import msgspec

from reclaimd.streams.keys import LANES

HISTORY_ROWS = 20
"""The first row and the last 19 are kept, as the scripts do."""

_words = msgspec.json.Decoder(list[str], strict=False)
_OPTIONAL = (b"deliveries", b"attempts", b"handbacks", b"token", b"unique", b"schedule", b"history")
_OF_LETTERS = (b"cause", b"error", b"worker", b"dead_at")
_COUNTS = frozenset(_OPTIONAL[:4])
_LANES = frozenset(lane.encode() for lane in LANES)
_is_name = re.compile(rb"[A-Za-z0-9_.:-]{1,128}").fullmatch


def pack(fields: Sequence[bytes]) -> bytes:
    """Stream fields to a JSON array; bytes that are not UTF-8 stay as they are."""
    try:
        return msgspec.json.encode([field.decode() for field in fields])
    except UnicodeDecodeError:
        words = [field.decode(errors="surrogateescape") for field in fields]
        return json.dumps(words, ensure_ascii=False).encode(errors="surrogateescape")


def unpack(envelope: bytes) -> list[bytes]:
    """Stream fields of what `pack` or a script wrote. ValueError when it is no flat JSON array of pairs."""
    try:
        fields = [word.encode() for word in _words.decode(envelope)]
    except (msgspec.MsgspecError, UnicodeError):
        fields = _unpack_slowly(envelope)
    if len(fields) % 2:
        raise ValueError("an envelope with a field that has no value")
    return fields


def _unpack_slowly(envelope: bytes) -> list[bytes]:
    try:
        words = json.loads(envelope.decode(errors="surrogateescape"))
    except RecursionError:
        raise ValueError("not a flat JSON array") from None
    if not isinstance(words, list) or not all(isinstance(word, str | int) for word in words):
        raise ValueError("not a flat JSON array")
    return [str(word).encode(errors="surrogateescape") for word in words]


def is_whole(fields: Sequence[bytes]) -> bool:
    """Whether the scripts take it for a task: in the order of the protocol, with a lane and a name that exist."""
    return (
        len(fields) >= 10
        and fields[0] == b"task"
        and fields[2] == b"at"
        and fields[4] == b"lane"
        and fields[6] == b"max"
        and fields[-2] == b"body"
        and fields[5] in _LANES
        and _is_name(fields[1]) is not None
    )


def is_well_formed(fields: Sequence[bytes]) -> bool:
    """Whether workers take it: the scripts refuse and bury anything else."""
    if not is_whole(fields):
        return False
    optional = zip(fields[8:-2:2], fields[9:-2:2], strict=True)
    numbers = [fields[3], fields[7], *(value for name, value in optional if name in _COUNTS)]
    return all(_is_count(number) for number in numbers)


def _is_count(text: bytes) -> bool:
    return 0 < len(text) <= 15 and text.isdigit()


def count(text: bytes | None) -> int:
    """A number of the protocol, at most 15 digits; 0 for what is none."""
    return int(text) if text and _is_count(text) else 0


def mapping(fields: Sequence[bytes]) -> dict[bytes, bytes]:
    """Values by field."""
    each = iter(fields)
    return dict(zip(each, each, strict=True))


def token(e: dict[bytes, bytes]) -> int:
    """The fencing token."""
    returns = count(e.get(b"deliveries")) + count(e.get(b"attempts")) + count(e.get(b"handbacks"))
    return (count(e.get(b"token")) or 1) + returns


def flat(e: dict[bytes, bytes]) -> list[bytes]:
    """Fields in the order of the protocol, without those that have their default."""
    fields = [b"task", e[b"task"], b"at", e[b"at"], b"lane", e[b"lane"], b"max", e[b"max"]]
    for name in _OPTIONAL:
        value = e.get(name, b"")
        if value not in {b"", b"0"}:
            fields += (name, value)
    fields += (b"body", e[b"body"])
    return fields


def is_letter(fields: Sequence[bytes]) -> bool:
    """Whether they are those of a dead letter."""
    return tuple(fields[-8::2]) == _OF_LETTERS


def letter(fields: Sequence[bytes], cause: str, error: str, dead_at: int) -> list[bytes]:
    """A task as its dead letter. `dead_at`: wall ms."""
    told = (cause.encode(), error.encode(), b"", b"%d" % dead_at)
    return [*fields, *(part for pair in zip(_OF_LETTERS, told, strict=True) for part in pair)]


def redriven(fields: list[bytes], at_ms: int) -> list[bytes]:
    """The task that a dead letter becomes when it is redriven; what is no letter stays as it is."""
    if not is_letter(fields) or not is_well_formed(fields[:-8]):
        return fields
    e = mapping(fields)
    e[b"token"] = b"%d" % (token(e) + 1)
    for name in (b"deliveries", b"attempts", b"handbacks"):
        e.pop(name, None)
    row = history_row(at_ms, "redriven", e[b"cause"].decode(errors="replace"), "")
    e[b"history"] = remember(e.get(b"history", b""), row)
    return flat(e)


def remember(history: bytes, row: bytes) -> bytes:
    """A history with one more row. The first names the first entry of the task, so it stays for good."""
    if not history:
        return row
    rows = history.split(b"\n")
    if len(rows) >= HISTORY_ROWS:
        del rows[1]
    return b"\n".join([*rows, row])


def history_row(at_ms: int, what: str, cause: str, entry_id: str) -> bytes:
    """A row of a history that no worker wrote. `entry_id`: of the entry that ended with it."""
    return msgspec.json.encode([at_ms, what, "", cause, entry_id])


def first_entry(history: bytes) -> str:
    """The first entry that carried a task, from its history; empty when that does not tell."""
    return _row(history.partition(b"\n")[0])[1]


def last_letter(history: bytes) -> str:
    """The dead letter that a task was redriven from last, from its history; empty when that does not tell."""
    rows = (_row(row) for row in reversed(history.split(b"\n")) if b'"redriven"' in row)
    return next((entry for what, entry in rows if what == "redriven"), "")


def _row(row: bytes) -> tuple[str, str]:
    """What happened, and the entry that ended with it; both empty when it is no row of a history."""
    try:
        words = json.loads(row or b"[]")
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(words, list) or len(words) < 5:
        return "", ""
    what, entry = words[1], words[4]
    return what if isinstance(what, str) else "", entry if isinstance(entry, str) else ""

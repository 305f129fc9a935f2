"""Where one message of the Redis protocol (RESP2 and RESP3) ends and the next begins. Nothing is decoded."""

_LINE = frozenset(b"+-:_#,(")
_BULK = frozenset(b"$=!")
_AGGREGATE = frozenset(b"*~>")
_MAPPING = frozenset(b"%|")
_ATTRIBUTE = ord("|")


class UnreadableError(Exception):
    """Bytes that are no RESP message, such as an inline command."""


def message_end(data: bytes | bytearray, start: int = 0) -> int | None:
    """The index just behind the message that begins at `start`; None when it is not complete yet."""
    missing = 1
    at = start
    while missing:
        head_end = data.find(b"\r\n", at)
        if head_end < 0:
            return None
        kind = data[at]
        head = bytes(data[at + 1 : head_end])
        at = head_end + 2
        missing -= 1
        if kind in _LINE:
            continue
        if kind in _BULK:
            if (size := _count(kind, head)) >= 0:
                at += size + 2
                if at > len(data):
                    return None
        elif kind in _AGGREGATE:
            missing += max(_count(kind, head), 0)
        elif kind in _MAPPING:
            # Attributes precede the reply that they describe, so one more message follows them.
            missing += 2 * _count(kind, head) + (kind == _ATTRIBUTE)
        else:
            raise UnreadableError(f"not RESP: {bytes(data[start : start + 40])!r}")
    return at


def arguments(message: bytes) -> tuple[bytes, ...]:
    """The words of a complete request, which clients send as an array of bulk strings."""
    words: list[bytes] = []
    at = message.index(b"\r\n") + 2
    while at < len(message):
        head_end = message.index(b"\r\n", at)
        size = _count(message[at], message[at + 1 : head_end])
        words.append(message[head_end + 2 : head_end + 2 + size])
        at = head_end + 2 + size + 2
    return tuple(words)


def _count(kind: int, head: bytes) -> int:
    try:
        return int(head)
    except ValueError:
        raise UnreadableError(f"not a length: {chr(kind)}{head!r}") from None

"""Times and spans in words for a person."""

from datetime import UTC, datetime

_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000))


def instant(ms: int | None) -> str:
    """Wall milliseconds as `2026-01-31 12:00:00.123Z`; empty for None."""
    if ms is None:
        return ""
    try:
        moment = datetime.fromtimestamp(ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"
    return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def span(ms: int | None) -> str:
    """Milliseconds as `340 ms`, `12.3 s`, `5.0 min`; empty for None."""
    if ms is None:
        return ""
    for unit, size in _UNITS:
        if abs(ms) >= size:
            return f"{ms / size:.1f} {unit}"
    return f"{ms} ms"


def plural(count: int, noun: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

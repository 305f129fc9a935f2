"""Durations as people write them: `250ms`, `15s`, `2m`, `1h30m`, `7d`."""

import re

from reclaimd.streams.errors import InvalidDuration

UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))
"""Unit and its milliseconds, in the order in which the parts of a duration must stand."""

LONGEST_MS = 36_500 * 86_400_000
"""A hundred years: longer ones are typing mistakes, and their sum with a wall clock would not fit Redis's doubles."""

_DURATION = re.compile("".join(f"(?:([0-9]{{1,15}}){unit})?" for unit, _ in UNITS))
_BARE_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]+)?")
_DECIMAL = re.compile(r"[0-9]+\.[0-9]+\s*[a-z]+")
_EXAMPLES = "say 250ms, 15s, 2m, 1h30m or 7d"


def parse_duration(text: str) -> int:
    """Read a duration such as `1h30m`.

    Whole numbers with the units d, h, m, s, ms, each at most once and the largest first; space around it is ignored.
    Returns milliseconds. Raises InvalidDuration.
    """
    stripped = text.strip()
    parts = _DURATION.fullmatch(stripped)
    if not stripped or parts is None:
        raise InvalidDuration(text, _cure(stripped))
    total = sum(int(count) * ms for count, (_, ms) in zip(parts.groups(), UNITS, strict=True) if count)
    if total > LONGEST_MS:
        raise InvalidDuration(text, f"say at most {format_duration(LONGEST_MS)}")
    return total


def format_duration(ms: int) -> str:
    """Write milliseconds (0 or more) in the shortest form that `parse_duration` reads back; raises InvalidDuration."""
    if ms < 0:
        raise InvalidDuration(f"{ms}ms", "a duration is not negative")
    rest, parts = ms, []
    for unit, size in UNITS:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def _cure(text: str) -> str:
    if _BARE_NUMBER.fullmatch(text):
        whole = text.partition(".")[0]
        return f"a bare number has no unit: say {whole}s, or {whole}ms"
    if _DECIMAL.fullmatch(text):
        return "use whole numbers: say 1s500ms for one and a half seconds"
    if text != text.lower() and _DURATION.fullmatch(text.lower()):
        return f"units are lower case: say {text.lower()}"
    if text.startswith("-"):
        return "a duration is not negative"
    return f"{_EXAMPLES} (largest unit first, each unit once)"

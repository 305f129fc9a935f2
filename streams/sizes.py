"""Sizes as people write them: `500MiB`, `2GiB`, `10GB`."""

import re

from reclaimd.streams.errors import InvalidSize

UNITS = (
    ("TiB", 2**40),
    ("GiB", 2**30),
    ("MiB", 2**20),
    ("KiB", 2**10),
    ("TB", 10**12),
    ("GB", 10**9),
    ("MB", 10**6),
    ("kB", 10**3),
    ("B", 1),
)
"""Unit and its bytes; those of 1024 first, in which sizes are shown."""

LARGEST = 2**50

_SIZE = re.compile(r"([0-9]{1,16})\s*([A-Za-z]+)")
_EXAMPLES = "say 500MiB, 2GiB or 10GB"


def parse_size(text: str) -> int:
    """Read a size such as `2GiB`: a whole number and one unit. Returns bytes. Raises InvalidSize."""
    stripped = text.strip()
    parts = _SIZE.fullmatch(stripped)
    if parts is None:
        bare = re.fullmatch(r"[0-9]{1,16}", stripped)
        raise InvalidSize(text, f"a bare number has no unit: say {stripped}B" if bare else _EXAMPLES)
    bytes_of = {unit.lower(): size for unit, size in UNITS}
    unit = parts[2].lower()
    if unit not in bytes_of:
        raise InvalidSize(text, f"{_EXAMPLES} (units: {', '.join(name for name, _ in UNITS)})")
    size = int(parts[1]) * bytes_of[unit]
    if size > LARGEST:
        raise InvalidSize(text, f"say at most {format_size(LARGEST)}")
    return size


def format_size(size: int) -> str:
    """Write bytes (0 or more) in a form that `parse_size` reads back: the largest unit that divides them."""
    for unit, bytes_of in UNITS:
        if size and size % bytes_of == 0:
            return f"{size // bytes_of}{unit}"
    return "0B"

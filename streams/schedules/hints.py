"""The nearest right word for a wrong one, as the end of an error message. Pure."""

from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from zoneinfo import available_timezones


def nearest(wrong: str, right: Iterable[str]) -> str:
    """`; did you mean misfire?`, or nothing if none is near."""
    words = {word.lower(): word for word in right}
    close = get_close_matches(wrong.lower()[:80], words, n=1, cutoff=0.6)
    return f"; did you mean {words[close[0]]}?" if close else ""


def nearest_zone(wrong: str) -> str:
    """The same for an IANA zone; a bare city counts as near."""
    cities = {zone.rpartition("/")[2].lower(): zone for zone in _zones()}
    city = cities.get(wrong.lower().replace(" ", "_"))
    return f"; did you mean {city}?" if city else nearest(wrong, _zones())


@lru_cache(maxsize=1)
def _zones() -> tuple[str, ...]:
    return tuple(sorted(available_timezones()))

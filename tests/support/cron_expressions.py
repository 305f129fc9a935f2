"""Cron expressions to try: generated ones from a seed, and those that people write."""

import random
from pathlib import Path

CRONTAB = Path(__file__).parents[1] / "data" / "schedules" / "crontab.txt"


def written() -> list[str]:
    """A comment begins with a blank and `# `; a `#` inside an expression has neither."""
    return [line.partition(" # ")[0].strip() for line in CRONTAB.read_text().splitlines()]


def generated(count: int, seed: int = 20_270_328) -> list[str]:
    """Distinct ones, one in eight with seconds; hours lean towards those at which clocks change."""
    choice = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        minute, hour = _field(choice, 0, 59), _field(choice, 0, 23)
        if choice.random() < 0.3:
            hour = choice.choice(("1", "2", "3", "0-3", "1,2", "2-3", "0,2", "23,0"))
        day = "*" if choice.random() < 0.7 else _field(choice, 1, 31)
        weekday = "*" if choice.random() < 0.7 else _field(choice, 0, 7)
        month = "*" if choice.random() < 0.85 else _field(choice, 1, 12)
        second = f"{choice.choice(('0', '30', '*/20', '10,50', '59'))} " if choice.random() < 0.125 else ""
        found[f"{second}{minute} {hour} {day} {month} {weekday}"] = None
    return list(found)


def _field(choice: random.Random, least: int, most: int) -> str:
    kind = choice.random()
    first, last = sorted((choice.randint(least, most), choice.randint(least, most)))
    if kind < 0.12:
        return "*"
    if kind < 0.28:
        return f"*/{choice.choice((2, 3, 4, 5, 6, 7, 10, 15, 20, 30))}"
    if kind < 0.6:
        return str(first)
    if kind < 0.75:
        return f"{first},{last}"
    if kind < 0.88:
        return f"{first}-{last}"
    return f"{first}-{last}/{choice.randint(1, 9)}" if kind < 0.95 else f"{first}/{choice.randint(1, 20)}"

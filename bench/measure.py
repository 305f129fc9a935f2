"""Figures: what was measured, beside the floor that the server itself set in the same run, and the table of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of all are not above."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


MEDIAN = 0.5
WORST = 1.0
_SHARES = {0.99: "p99 ", WORST: "every run "}


@dataclass(frozen=True, slots=True)
class Aim:
    """What the figure should reach. `of_floor`: the number judges the ratio to the floor instead of the median.

    `share`: judge that percentile (0 to 1) instead of the median.
    """

    number: float
    of_floor: bool = False
    at_most: bool = False
    share: float = MEDIAN

    def text(self, unit: str) -> str:
        """For people."""
        sign = "≤" if self.at_most else "≥"
        if self.of_floor:
            return (
                f"{sign} {self.number:.0%} of the floor" if self.number < 1 else f"{sign} {self.number:g} × the floor"
            )
        return f"{_SHARES.get(self.share, '')}{sign} {pretty(self.number)} {unit}"

    def met(self, runs: Sequence[float], ratio: float | None) -> bool | None:
        """Whether these runs reach it; None when there is no floor to compare with."""
        value = statistics.median(runs) if self.share == MEDIAN else percentile(runs, self.share)
        judged = ratio if self.of_floor else value
        if judged is None:
            return None
        return judged <= self.number if self.at_most else judged >= self.number


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `runs` and `floors`: one value a run, in `unit`; `ratio` is to the first of the floors."""

    case: str
    name: str
    unit: str
    runs: list[float]
    floors: dict[str, list[float]] = field(default_factory=dict)
    aim: Aim | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """Of the runs."""
        return statistics.median(self.runs)

    @property
    def ratio(self) -> float | None:
        """Median of each run's value over its own floor; None without one."""
        for floor in self.floors.values():
            return statistics.median(value / base for value, base in zip(self.runs, floor, strict=True) if base)
        return None

    @property
    def met(self) -> bool | None:
        """Whether the aim was reached; None without one."""
        return None if self.aim is None else self.aim.met(self.runs, self.ratio)

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        floors = {name: {"median": statistics.median(v), "runs": rounded(v)} for name, v in self.floors.items()}
        return {
            "case": self.case,
            "name": self.name,
            "unit": self.unit,
            "median": self.median,
            "p99": percentile(self.runs, 0.99),
            "min": min(self.runs),
            "max": max(self.runs),
            "runs": rounded(self.runs),
            "floors": floors,
            "ratio": self.ratio,
            "aim": None if self.aim is None else self.aim.text(self.unit),
            "met": self.met,
            "note": self.note,
            "row": self.as_row(),
        }

    def as_row(self) -> list[str]:
        """Cells of the Markdown table: case, what, runs, median, range, floors, ratio, aim."""
        floors = "; ".join(f"{name}: {pretty(statistics.median(values))}" for name, values in self.floors.items())
        spread = f"{pretty(min(self.runs))} – {pretty(max(self.runs))}"
        if len(self.runs) >= 20:
            spread += f", p99 {pretty(percentile(self.runs, 0.99))}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        aim = "" if self.aim is None else f"{self.aim.text(self.unit)} {'✓' if self.met else '✗'}"
        name = f"{self.name} ({self.note})" if self.note else self.name
        return [self.case, name, str(len(self.runs)), f"{pretty(self.median)} {self.unit}", spread, floors, ratio, aim]


HEADINGS = ["", "what", "runs", "median", "range", "floor in the same runs", "of the floor", "aim"]


def pretty(value: float) -> str:
    """Three significant digits, thousands separated."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def rounded(values: Sequence[float]) -> list[float]:
    """For the JSON file."""
    return [float(f"{value:.6g}") for value in values]


def markdown(cases: Mapping[str, dict[str, Any]]) -> str:
    """The page, of the parts of a document: what was measured, then how."""
    what = (
        "Medians of the runs. A floor is what the server itself, or the bare client, does for the same data in the "
        "same run; *of the floor* is the median of each run's own ratio. Nothing is persisted by the server unless the "
        "line says so."
    )
    lines = [
        "# Benchmarks",
        "",
        what,
        "",
        _row(HEADINGS),
        _row(["---"] * len(HEADINGS)),
        *(_row(figure["row"]) for case in cases.values() for figure in case["figures"]),
        "",
        "How they were measured; the load is the machine's, of one minute:",
        "",
        _row(HOW),
        _row(["---"] * len(HOW)),
        *(_row(_how(letter, case)) for letter, case in cases.items()),
        "",
    ]
    return "\n".join(lines)


HOW = ["", "when", "server", "CPUs", "Python", "load before", "after", "by"]


def _how(letter: str, case: dict[str, Any]) -> list[str]:
    names = ("date", "server", "cpus", "python", "load_before", "load_after")
    return [letter, *(str(case[name]) for name in names), f"`{case['command']}`"]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"

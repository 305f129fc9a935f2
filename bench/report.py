"""What a person sees: progress while it measures, the table at the end."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Self

from measure import HEADINGS
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table


class Progress:
    """A bar over the cases on a terminal, one line a step elsewhere; on standard error."""

    def __init__(self, letters: Sequence[str]) -> None:
        console = Console(stderr=True)
        self._live = console.is_terminal
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bars = Bars(*columns, TimeElapsedColumn(), console=console, disable=not self._live)
        self._task = self._bars.add_task("bench", total=len(letters))
        self._letter = ""

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, letter: str) -> None:
        """A case begins."""
        self._letter = letter
        self.say("begins")

    def say(self, text: str) -> None:
        """What is being done now."""
        if self._live:
            self._bars.update(self._task, description=f"({self._letter}) {text}")
        else:
            print(f"({self._letter}) {text}", file=sys.stderr, flush=True)

    def done(self, letter: str) -> None:
        """A case has ended."""
        self._letter = letter
        self._bars.advance(self._task)


def show(cases: Mapping[str, dict[str, Any]]) -> None:
    """Print the table."""
    table = Table()
    for heading in HEADINGS:
        table.add_column(heading)
    for case in cases.values():
        for figure in case["figures"]:
            table.add_row(*figure["row"])
    Console().print(table) if sys.stdout.isatty() else Console(width=220).print(table)

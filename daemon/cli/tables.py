"""Tables and progress bars, drawn by rich."""

import sys
from collections.abc import Sequence
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from reclaimd.daemon.cli import OutputClosed

# Tables in a pipe are for grep: no cell may be cut there.
_ENDLESS = 10_000


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        raise OutputClosed


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> None:
    """Print on standard output; `numeric`: which columns to align to the right."""
    width = None if sys.stdout.isatty() else _ENDLESS
    console = _Console(markup=False, highlight=False, emoji=False, width=width)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column, is_numeric in zip(columns, numeric, strict=True):
        table.add_column(column, justify="right" if is_numeric and rows else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def progress_bar() -> Progress:
    """A bar on standard error that leaves nothing behind."""
    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    columns = TextColumn("{task.description}"), BarColumn(), _Count(), TimeElapsedColumn()
    return Progress(*columns, console=console, transient=True)


class _Count(ProgressColumn):
    """How much is done, and of how much, if that is known."""

    def render(self, task: Task) -> Text:
        total = "" if task.total is None else f"/{task.total:,.0f}"
        return Text(f"{task.completed:,.0f}{total}", no_wrap=True)

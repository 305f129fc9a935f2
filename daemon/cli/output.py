"""What commands print: a JSON document, or lines and tables for a person. Progress only where a person waits."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import msgspec
from rich.console import Console
from rich.table import Table

from reclaimd.daemon.cli import OutputClosed

Cell = str | int | None
Report = Callable[[str, int, int | None], object]
"""Called with what is going on, how much is done, and of how much, if that is known."""

# Tables in a pipe are for grep: no cell may be cut there.
_ENDLESS = 10_000


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        raise OutputClosed


class Output:
    """Standard output for the result, standard error for everything else. `json`: the result is one JSON document."""

    def __init__(self, as_json: bool) -> None:
        self.json = as_json
        width = None if sys.stdout.isatty() else _ENDLESS
        self._console = _Console(markup=False, highlight=False, emoji=False, width=width, soft_wrap=False)
        self._errors = _Console(stderr=True, markup=False, highlight=False, emoji=False)

    def document(self, value: Any) -> None:
        """The JSON document."""
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
        try:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            raise OutputClosed from None

    def line(self, text: str) -> None:
        """One line for a person; never wrapped."""
        self._console.print(clean(text), soft_wrap=True)

    def note(self, text: str) -> None:
        """One line on standard error, beside the result."""
        self._errors.print(f"reclaimd: {clean(text)}", soft_wrap=True)

    def ask(self, question: str) -> bool:
        """A yes or no from the terminal; no unless it is a clear yes."""
        # asyncio turns the first Ctrl-C into a cancellation, which does not reach a blocking read.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            sys.stderr.write(f"{clean(question)} [y/N] ")
            sys.stderr.flush()
            return sys.stdin.readline().strip().lower() in ("y", "yes")
        finally:
            signal.signal(signal.SIGINT, before)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """A table; columns of numbers are aligned to the right, None is empty."""
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for index, column in enumerate(columns):
            numeric = all(isinstance(row[index], int) or row[index] is None for row in rows)
            table.add_column(column, justify="right" if numeric and rows else "left", overflow="fold")
        for row in rows:
            table.add_row(*("" if cell is None else clean(str(cell)) for cell in row))
        self._console.print(table)

    @contextmanager
    def progress(self) -> Iterator[Report]:
        """Show a bar on standard error while the block runs; nothing when that is no terminal."""
        if not sys.stderr.isatty():
            yield lambda _what, _done, _of: None
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,}"), TimeElapsedColumn()
        with Progress(*columns, console=self._errors, transient=True) as bar:
            shown = bar.add_task("", total=None)
            yield lambda what, done, of: bar.update(shown, description=clean(what), completed=done, total=of)


def clean(text: str) -> str:
    """Without control characters: what a task put into its error must not drive the terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)

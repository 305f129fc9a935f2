"""What commands print: a JSON document, or lines and tables for a person. Progress only where a person waits."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from reclaimd.daemon.cli import OutputClosed

Cell = str | int | None
Report = Callable[[str, int, int | None], object]
"""Called with what is going on, how much is done, and of how much, if that is known."""


class Output:
    """Standard output for the result, standard error for everything else. `json`: the result is one JSON document."""

    def __init__(self, as_json: bool) -> None:
        self.json = as_json

    def document(self, value: Any) -> None:
        """The JSON document."""
        _write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")

    def record(self, value: Any) -> None:
        """One of many JSON documents, each on a line of its own."""
        _write(msgspec.json.encode(value).decode() + "\n")

    def line(self, text: str) -> None:
        """One line for a person; never wrapped."""
        _write(clean(text) + "\n")

    def note(self, text: str) -> None:
        """One line on standard error, beside the result."""
        print(f"reclaimd: {clean(text)}", file=sys.stderr)

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
        # Late, like the progress bar: programs that ask for JSON do not wait for rich to be imported.
        from reclaimd.daemon.cli.tables import print_table

        numeric = [all(isinstance(row[i], int) or row[i] is None for row in rows) for i in range(len(columns))]
        cells = [["" if cell is None else clean(str(cell)) for cell in row] for row in rows]
        print_table(columns, cells, numeric)

    @contextmanager
    def progress(self) -> Iterator[Report]:
        """Show a bar on standard error while the block runs; nothing when that is no terminal."""
        if not sys.stderr.isatty():
            yield lambda _what, _done, _of: None
            return
        from reclaimd.daemon.cli.tables import progress_bar

        with progress_bar() as bar:
            shown = bar.add_task("", total=None)
            yield lambda what, done, of: bar.update(shown, description=clean(what), completed=done, total=of)


def clean(text: str) -> str:
    """Without control characters: what a task put into its error must not drive the terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise OutputClosed from None

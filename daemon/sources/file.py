"""A source of kind file: the document as it is now."""

from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from reclaimd.daemon.sources.documents import FORMATS, BadDocument, parse
from reclaimd.daemon.sources.errors import SourceFailed

LARGEST_FILE = 64_000_000
"""Bytes."""


class FileReader:
    """Reads a file, and decodes it anew only when its content has changed. `timeout`: seconds."""

    def __init__(self, path: str, timeout: float) -> None:
        self._path = Path(path)
        self._timeout = timeout
        self._content = b""
        self._rows: list[dict[str, Any]] | None = None

    async def rows(self) -> list[dict[str, Any]]:
        """The schedules as rows, unchecked. Raises SourceFailed."""
        try:
            with anyio.fail_after(self._timeout):
                return await anyio.to_thread.run_sync(self.read, abandon_on_cancel=True)
        except TimeoutError:
            raise SourceFailed(f"{self._path} could not be read in time: raise timeout, or look at its disk") from None

    def read(self) -> list[dict[str, Any]]:
        """The same, at once."""
        try:
            if not self._path.is_file() and self._path.exists():
                raise SourceFailed(f"{self._path} is no file: name one")
            if self._path.stat().st_size > LARGEST_FILE:
                raise SourceFailed(f"{self._path} is larger than {LARGEST_FILE} bytes: split it into several sources")
            content = self._path.read_bytes()
        except OSError as error:
            raise SourceFailed(f"cannot read {self._path}: {error.strerror}") from None
        if self._rows is None or content != self._content:
            self._rows = None
            self._rows = _decode(self._path, content)
            self._content = content
        return self._rows


def _decode(path: Path, content: bytes) -> list[dict[str, Any]]:
    form = FORMATS.get(path.suffix)
    if form is None:
        raise SourceFailed(f"{path} is neither TOML nor YAML by its name: call it .toml, .yaml or .yml")
    try:
        return parse(content.decode(), form)
    except UnicodeDecodeError:
        raise SourceFailed(f"{path} is not UTF-8 text: save it as such") from None
    except BadDocument as error:
        raise SourceFailed(f"{path}: {error}") from None

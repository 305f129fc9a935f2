"""What a source holds now, whatever kind it is of."""

from typing import Any, Protocol

import anyio.to_thread

from reclaimd.daemon.inspect.reports import SourceProblem
from reclaimd.daemon.sources.file import FileReader
from reclaimd.daemon.sources.rows import Wanted, read_rows
from reclaimd.streams.source_settings import SourceSettings


class Reader(Protocol):
    """Reads the rows of a source; raises SourceFailed."""

    async def rows(self) -> list[dict[str, Any]]: ...


def reader_of(settings: SourceSettings) -> Reader:
    """The reader that the settings ask for."""
    if settings.kind == "file":
        return FileReader(settings.path or "", timeout=settings.timeout_ms / 1000)
    # SQLAlchemy doubles the time that a daemon takes to start, and most have no use for it.
    from reclaimd.daemon.sources.sql import SqlReader

    return SqlReader(
        settings.query or "", url=settings.url, url_file=settings.url_file, timeout=settings.timeout_ms / 1000
    )


async def read_source(reader: Reader, settings: SourceSettings) -> tuple[list[Wanted], list[SourceProblem], int]:
    """What a source holds now, what of it cannot be used, and how many rows it has. Raises SourceFailed."""
    rows = await reader.rows()
    # Thousands of cron expressions take a while to check.
    wanted, problems = await anyio.to_thread.run_sync(
        lambda: read_rows(rows, source=settings.name, queue=settings.queue, only_known=settings.kind == "sql")
    )
    return wanted, problems, len(rows)

"""The archive as commands use it: opened, and the errors of a command that has none."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from reclaimd.daemon.archive.progress import Progress, Step
from reclaimd.daemon.cli.complaints import UsageProblem
from reclaimd.daemon.cli.output import Output
from reclaimd.daemon.cli.output import Report as Bar
from reclaimd.daemon.inspect.source import Source, open_source
from reclaimd.streams.configure import Config

if TYPE_CHECKING:
    from reclaimd.daemon.archive.store import Store


@asynccontextmanager
async def open_archive(settings: Config, access: Literal["write", "read", "copy"]) -> AsyncIterator["Store"]:
    """The archive of the settings, which must be there whatever it is opened for. Raises UsageProblem, ArchiveFailed.

    Only to `write` it is brought up to date if an older version wrote it; to `copy` it may be of any version.
    """
    url = settings.archive.url
    if url is None:
        raise UsageProblem("there is no archive: name it with archive.url (--archive-url, RECLAIMD_ARCHIVE_URL)")
    # SQLAlchemy takes a third of a second to import.
    from reclaimd.daemon.archive.engine import Access
    from reclaimd.daemon.archive.errors import ArchiveFailed, ArchiveMissing, Trouble
    from reclaimd.daemon.archive.store import open_store
    from reclaimd.daemon.databases import read_url

    try:
        parsed = read_url(url)
    except ValueError as error:
        raise ArchiveFailed(Trouble.URL, url, str(error)) from None
    if parsed.drivername.startswith("sqlite") and not _exists(parsed.database):
        raise ArchiveMissing(Trouble.ABSENT, url)
    async with open_store(url, Access(access)) as store:
        yield store


@asynccontextmanager
async def open_archive_first(settings: Config, out: Output) -> AsyncIterator[tuple["Store", Source | None]]:
    """The archive, to read what it tells by itself, and Redis: None while that is away, which `out` says.

    Raises as `open_archive` does, and RedisUnusable where waiting does not help.
    """
    async with open_archive(settings, "read") as store, open_source(settings, check=False) as source:
        away = await source.absence()
        if away is not None:
            out.note(f"what follows is from the archive alone: {away}")
        yield store, source if away is None else None


def _exists(path: str | None) -> bool:
    try:
        Path(path or "").stat()
    except FileNotFoundError:
        return False
    except OSError:
        # What is wrong with it is told when it is opened.
        return True
    return True


def new_id() -> str:
    """For rebuilds and epochs."""
    return secrets.token_hex(8)


def shown(bar: Bar, queue: str) -> Progress:
    """Shows the steps of a rebuild, with the rate and what is left."""

    def show(step: Step) -> None:
        rate = f", {step.rate:,.0f}/s" if step.rate else ""
        left = step.seconds_left
        bar(f"{queue}: {step.what}{rate}{f', {left:.0f} s left' if left is not None else ''}", step.done, step.total)

    return show

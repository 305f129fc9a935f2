"""Every kind of loss on real servers: what the archive knew is back, in order, and what had ended is not."""

from pathlib import Path

import pytest

from support.daemons import in_loop
from support.partitions import assert_same
from support.rebuilds import ward
from support.servers import Server


def url_in(folder: Path) -> str:
    """Of a SQLite archive."""
    return f"sqlite:///{folder}/archive.db"


@in_loop
async def test_flushall(server: Server, tmp_path: Path) -> None:
    async with ward(server, url_in(tmp_path)) as one:
        one.fill()
        await one.archive()
        before = one.held()
        one.client.flushall()
        assert await one.kind() == "empty"
        report = await one.rebuild()
        assert_same(before, one.held())
        assert report.unrestorable_count == 0
        assert await one.kind() == "healthy"

"""What all chaos tests share: a fleet of real processes on the session's server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fleet import Fleet
from support.servers import Server


@pytest.fixture
def fleet(server: Server, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(server, tmp_path) as fleet:
        yield fleet

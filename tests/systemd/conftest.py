"""One booted container for all tests of this folder."""

import os
from collections.abc import Iterator

import pytest

from systemd.container import Container, why_not

if os.environ.get("CI") == "true" and os.geteuid() != 0:
    # Nothing may be skipped in CI, and without root there is nothing to run.
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A running systemd with the units, none of them started. Skips where none can be booted."""
    reason = why_not()
    if reason is not None:
        pytest.skip(f"booting a real systemd {reason}")
    with Container(tmp_path_factory.mktemp("systemd")) as booted:
        yield booted

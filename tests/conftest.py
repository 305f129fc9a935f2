"""Servers as fixtures. `server` runs a test on every flavour that is installed, `fresh_server` makes one to break."""

import itertools
import os
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

pytest.register_assert_rewrite("support")

from support.servers import FLAVOURS, FreshServer, Option, Server, available_flavours  # noqa: E402  (after the rewrite hook)

hypothesis.settings.register_profile("short", deadline=None, print_blob=True)
hypothesis.settings.load_profile("short")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--flavour", action="append", choices=FLAVOURS, help="run on this server only (repeatable)")
    parser.addoption("--soak-minutes", type=float, default=10.0, help="how long `make soak` runs each soak test")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "flavour" not in metafunc.fixturenames:
        return
    wanted = metafunc.config.getoption("--flavour") or available_flavours()
    marker = metafunc.definition.get_closest_marker("flavours")
    if marker is not None:
        if unknown := set(marker.args) - set(FLAVOURS):
            raise pytest.UsageError(f"{metafunc.definition.nodeid}: no such flavours: {sorted(unknown)}")
        wanted = [flavour for flavour in wanted if flavour in marker.args]
    metafunc.parametrize("flavour", wanted, scope="session")


ONE_AFTER_ANOTHER = {"chaos", "systemd"}
# Of the rest, what takes longest begins first, so that no process of pytest-xdist is left alone with it at the end.
LONGEST = (
    "integration/test_bench.py",
    "model/test_conformance.py",
    "property",
    "integration/test_archiver.py",
    "integration/test_cli_drill.py",
    "model",
    "integration/test_worker_deaths.py",
    "integration/test_schedule_archive_firing.py",
    "integration/test_cli_rebuild.py",
    "integration",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a process of pytest-xdist the long tests come first."""
    if hasattr(config, "workerinput"):
        here = Path(__file__).parent
        items.sort(key=lambda item: _rank(item.path.relative_to(here)))


class FoldersTogether(LoadScopeScheduling):  # type: ignore[misc]
    """What kills, freezes and measures real processes runs in one process for each folder, one after another.

    Not by `xdist_group` marks: pytest-xdist 3.8 appends those to the IDs of tests, which pytest 9.2 does not let it do.
    """

    def _split_scope(self, nodeid: str) -> str:
        folder = Path(nodeid.partition("::")[0]).parent.name
        return folder if folder in ONE_AFTER_ANOTHER else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FoldersTogether | None:
    """For `--dist loadgroup`; otherwise pytest-xdist's own."""
    return FoldersTogether(config, log) if config.getvalue("dist") == "loadgroup" else None


def _rank(place: Path) -> int:
    if place.parts[0] in ONE_AFTER_ANOTHER:
        return -1
    return next((rank for rank, long in enumerate(LONGEST) if place.is_relative_to(long)), len(LONGEST))


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """The session's servers by flavour, started when first asked for."""
    started: dict[str, Server] = {}
    yield started
    for server in started.values():
        server.stop()


@pytest.fixture(scope="session")
def server(flavour: str, servers: dict[str, Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A running server, shared by the session and empty at the start of each test."""
    if flavour not in servers:
        servers[flavour] = Server(flavour, tmp_path_factory.mktemp(flavour)).start()
    return servers[flavour]


@pytest.fixture(autouse=True)
def _empty_server(request: pytest.FixtureRequest) -> None:
    if "server" in request.fixturenames:
        shared = request.getfixturevalue("server")
        assert isinstance(shared, Server)
        shared.flush()


@pytest.fixture
def fresh_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FreshServer]:
    """Make servers that end with the test, of the test's `flavour` (if it asks for that fixture) or the first one."""
    default = request.getfixturevalue("flavour") if "flavour" in request.fixturenames else available_flavours()[0]
    started: list[Server] = []

    def make(flavour: str | None = None, **options: Option) -> Server:
        fresh = Server(flavour or default, tmp_path / f"server-{len(started)}", **options)
        started.append(fresh)
        return fresh.start()

    yield make
    for fresh in started:
        fresh.stop()


@pytest.fixture
def soak_rounds(request: pytest.FixtureRequest) -> Iterator[int]:
    """Numbers of rounds, until a soak test has used up its time; at least one."""
    seconds = float(request.config.getoption("--soak-minutes")) * 60
    began = time.monotonic()
    return itertools.takewhile(lambda number: number == 0 or time.monotonic() - began < seconds, itertools.count())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the servers' logs beside a failure; let no test be skipped in CI."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be: {report.longreprtext}"
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, Server):
                report.sections.append((f"log of {name} ({value.flavour}, {value.folder})", value.log_tail()))
    return report

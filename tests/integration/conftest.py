"""What several files here stand on: a PostgreSQL, an archive of either kind, a queue for commands, one for scripts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from property.archived_lab import Archived
from support.cli import Scene
from support.postgres import Postgres
from support.servers import Server


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[Postgres]:
    """One for all tests of a file that need it."""
    server = Postgres().create()
    yield server
    server.remove()


@pytest.fixture
def postgres(postgres_server: Postgres) -> Postgres:
    """Running and empty, whatever the test before did to it."""
    if not postgres_server.running:
        postgres_server.start()
    postgres_server.sql("DROP SCHEMA public CASCADE", "CREATE SCHEMA public", "DROP ROLE IF EXISTS reader")
    return postgres_server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an archive that does not exist yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/archive.db"
    postgres = request.getfixturevalue("postgres")
    assert isinstance(postgres, Postgres)
    return postgres.url()


@pytest.fixture
def scene(server: Server) -> Iterator[Scene]:
    """What commands are run on."""
    scene = Scene(server.url)
    yield scene
    scene.close()


@pytest.fixture
def lab(server: Server) -> Iterator[Archived]:
    """A partition in the hands of the test, which has an archive when the test adopts it."""
    lab = Archived(server)
    yield lab
    lab.close()


@pytest.fixture
def frozen(lab: Archived) -> Archived:
    """Adopted, emptied, and a rebuild `r1` has begun."""
    lab.adopt()
    lab.do("FLUSHALL")
    assert lab.freeze()[:2] == ("ok", "")
    return lab

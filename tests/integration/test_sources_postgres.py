"""A source in PostgreSQL: a real server, with passwords, permissions and types of its own."""

import subprocess
from pathlib import Path

import pytest

from reclaimd.daemon.sources.errors import SourceFailed
from reclaimd.daemon.sources.sql import SqlReader
from reclaimd.streams.schedules.model import Cron, Every
from reclaimd.streams.source_settings import SourceSettings
from support.daemons import captured, in_loop
from support.postgres import PASSWORD, Postgres
from support.servers import Server
from support.sources import daemon_with
from support.waiting import await_until

pytestmark = pytest.mark.flavours("valkey")

TABLE = """
CREATE TABLE jobs (
    id serial, name text, task text NOT NULL, queue text, cron text, tz text, every interval, start timestamptz,
    args jsonb, enabled boolean NOT NULL DEFAULT true, updated_at timestamptz DEFAULT now()
)
"""
ROWS = """
INSERT INTO jobs (name, task, queue, cron, tz, every, start, args, enabled) VALUES
    ('digest', 'send', 'mail', '0 9 * * 1-5', 'Europe/Paris', NULL, NULL, '{"to": [1, null]}', true),
    ('sweep', 'sweep', NULL, NULL, NULL, '90 minutes', '2030-01-01 00:00:00+01', NULL, false),
    ('bad', 'send', 'mail', '0 9 * * *', 'Nowhere', NULL, NULL, NULL, true)
"""


@pytest.fixture
def postgres(postgres: Postgres) -> Postgres:
    """With one table of three rows and a reader who may do nothing yet."""
    postgres.sql(TABLE, ROWS, "CREATE ROLE reader LOGIN PASSWORD 'hunter3'", "GRANT USAGE ON SCHEMA public TO reader")
    return postgres


def source(url: str | None, url_file: Path | None = None) -> SourceSettings:
    return SourceSettings(
        name="app",
        kind="sql",
        url=url,
        url_file=None if url_file is None else str(url_file),
        query="SELECT * FROM jobs ORDER BY id",
        queue="default",
        interval_ms=1_000,
    )


@in_loop
async def test_a_table_is_followed_through_an_outage(server: Server, postgres: Postgres, tmp_path: Path) -> None:
    url_file = tmp_path / "url"
    url_file.write_text(postgres.url() + "\n")
    async with daemon_with(server, source(None, url_file)) as (daemon, eyes):
        await eyes.until_names("digest", "sweep")
        report = await eyes.until_report("the bad row", "app", problem_count=1)
        assert [(one.row, one.name, one.field) for one in report.problems] == [(3, "bad", "tz")]
        state = await eyes.fold()
        digest, sweep = (state.rows[name].schedule() for name in ("digest", "sweep"))
        assert (digest.trigger, digest.args, digest.queue) == (
            Cron("0 9 * * 1-5", "Europe/Paris"),
            {"to": [1, None]},
            "mail",
        )
        assert (sweep.trigger, sweep.queue, sweep.start_ms) == (Every(5_400_000), "default", 1_893_452_400_000)
        assert state.rows["sweep"].paused
        postgres.stop()
        failed = await await_until(lambda: eyes.failed("app"), "the poll to fail")
        assert "the database cannot be reached" in failed
        assert await eyes.names() == ["digest", "sweep"]
        assert (await daemon.get("/readyz"))[0] == 200
        postgres.start()
        postgres.sql("DELETE FROM jobs WHERE name = 'sweep'")
        await eyes.until_names("digest")
        await eyes.until_report("the poll to work again", "app", failed="")


@in_loop
async def test_a_reader_without_permission_is_told_and_let_in_later(server: Server, postgres: Postgres) -> None:
    with captured() as lines:
        async with daemon_with(server, source(postgres.url("reader", "hunter3"))) as (_, eyes):
            failed = await await_until(lambda: eyes.failed("app"), "the poll to fail")
            assert failed == "permission denied for table jobs"
            postgres.sql("GRANT SELECT ON jobs TO reader")
            await eyes.until_names("digest", "sweep")
    assert "permission denied" in str(lines)
    assert "hunter3" not in str(lines)


@in_loop
@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("SELECT * FROM nope", 'relation "nope" does not exist'),
        ("DELETE FROM jobs RETURNING *", "cannot execute DELETE in a read-only transaction"),
        ("SELEC", "syntax error"),
        ("SELECT pg_sleep(60)", "no answer from the database within 500ms"),
        ("SELECT 1 AS name, 2 AS name", "the column name twice"),
    ],
)
async def test_queries_that_give_nothing(postgres: Postgres, query: str, why: str) -> None:
    with pytest.raises(SourceFailed) as caught:
        await SqlReader(query, url=postgres.url(), url_file=None, timeout=0.5 if "sleep" in query else 10).rows()
    assert why in str(caught.value)
    assert postgres.sql("SELECT count(*) FROM jobs").strip() == "3"


@in_loop
async def test_queries_stand_as_they_are(postgres: Postgres) -> None:
    query = "SELECT '{\"a\":1}'::text AS args, '10:30 %s %% :x'::text AS odd, 5::numeric AS limit, 1.5::numeric AS half"
    [row] = await SqlReader(query, url=postgres.url(), url_file=None, timeout=10).rows()
    assert row == {"args": '{"a":1}', "odd": "10:30 %s %% :x", "limit": 5, "half": 1.5}


@in_loop
async def test_a_wrong_password_is_never_shown(postgres: Postgres, tmp_path: Path) -> None:
    url_file = tmp_path / "url"
    for text, why in (
        (postgres.url("reader", "hunter2"), "password authentication failed"),
        (postgres.url("reader", "hunter2").replace("@127", "@127:x:"), "cannot be read"),
        (postgres.url("reader", "hunter2") + "?sslmode=verify", "sslmode"),
        (postgres.url("reader", "hunter2") + "?colour=red", "colour"),
        ("mysql://reader:hunter2@h/db", "a database URL begins with"),
    ):
        url_file.write_text(text)
        with pytest.raises(SourceFailed) as caught:
            await SqlReader("SELECT 1", url=None, url_file=str(url_file), timeout=10).rows()
        assert why in str(caught.value)
        assert "hunter2" not in str(caught.value)
    assert PASSWORD not in repr(source(postgres.url()))


@in_loop
async def test_a_server_that_asks_for_no_tls_is_taken_at_its_word(postgres: Postgres) -> None:
    rows = await SqlReader("SELECT 1 AS one", url=postgres.url() + "?sslmode=disable", url_file=None, timeout=10).rows()
    assert rows == [{"one": 1}]


def test_the_server_is_not_run_by_root(postgres: Postgres) -> None:
    owner = subprocess.run(
        ["stat", "-c", "%u", str(postgres.folder / "data")], capture_output=True, text=True, check=True
    ).stdout
    assert int(owner) != 0

"""Sources in a running daemon: a file and SQLite, what they bring in and take away, and what is wrong with them."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reclaimd.streams.source_settings import SourceSettings
from support.daemons import Daemon, captured, in_loop, lines_of
from support.servers import Server
from support.sources import daemon_with
from support.waiting import await_until

pytestmark = pytest.mark.flavours("valkey")

SECOND = 1_000


def row(name: str, **more: object) -> str:
    fields = {"name": name, "task": "send", "queue": "mail", "every": "1h", **more}
    return "".join(["[[schedules]]\n", *(f"{key} = {msgspec.json.encode(v).decode()}\n" for key, v in fields.items())])


def file_source(path: Path, name: str = "ops", **more: Any) -> SourceSettings:
    return SourceSettings(name=name, kind="file", path=str(path), interval_ms=SECOND, **more)


async def metric(daemon: Daemon, name: str) -> float:
    _, text = await daemon.get("/metrics")
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name + " "))


@in_loop
async def test_a_file_is_followed(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(row("a") + row("b", enabled=False))
    with captured() as lines:
        async with daemon_with(server, file_source(path)) as (daemon, eyes):
            await eyes.until_names("a", "b")
            await eyes.until_report("the first report", rows=2, enabled=1, problem_count=0)
            state = await eyes.fold()
            assert (state.rows["a"].paused, state.rows["b"].paused) == (False, True)
            assert state.rows["a"].schedule().source == "ops"
            generation = state.rows["a"].generation
            path.write_text(row("a", args='{"x": 1}') + row("c"))
            await eyes.until_names("a", "c")
            state = await eyes.fold()
            assert state.rows["a"].generation == generation
            assert state.rows["a"].schedule().args == {"x": 1}
            before = state.position
            await eyes.until_report("another poll", at_ms=(await eyes.next_report()).at_ms)
            assert (await eyes.fold()).position == before
            assert await metric(daemon, 'reclaimd_source_schedules{source="ops"}') == 2
            assert await metric(daemon, 'reclaimd_source_drift{source="ops"}') == 0
    assert [line["source"] for line in lines_of(lines, "source has enabled schedules and Redis has none")] == ["ops"]


@in_loop
async def test_rows_that_cannot_be_used_are_told_and_the_others_go_in(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(row("a") + row("bad", tz="Nowhere", every="x") + row("a2") + row("twice") + row("twice"))
    with captured() as lines:
        async with daemon_with(server, file_source(path)) as (daemon, eyes):
            await eyes.until_names("a", "a2")
            report = await eyes.until_report("the problems", problem_count=4)
            found = {(one.row, one.name, one.field) for one in report.problems}
            assert found == {(2, "bad", "tz"), (2, "bad", "every"), (4, "twice", "name"), (5, "twice", "name")}
            assert await metric(daemon, 'reclaimd_source_problems{source="ops"}') == 4
            await eyes.next_report()
            # What was there keeps its last good form while its row is broken.
            path.write_text(row("a", every="never"))
            await eyes.until_names("a")
            path.write_text(row("a"))
            await eyes.until_report("all to be well", problem_count=0)
            assert (await daemon.get("/readyz"))[0] == 200
    assert len(lines_of(lines, "row of a source cannot be used")) == 5


@in_loop
async def test_a_file_that_cannot_be_read_changes_nothing(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("schedules:\n- {name: a, task: t, queue: q, every: 1h}\n")
    with captured() as lines:
        async with daemon_with(server, file_source(path)) as (daemon, eyes):
            await eyes.until_names("a")
            for text, why in (
                ("schedules: [", "not valid YAML"),
                ("\udcff", "is not UTF-8 text"),
                (None, "No such file"),
            ):
                path.unlink(missing_ok=True)
                if text is not None:
                    path.write_bytes(text.encode(errors="surrogateescape"))

                async def told(why: str = why) -> bool:
                    return why in (await eyes.report()).failed

                await await_until(told, f"the report to say {why}")
                assert await eyes.names() == ["a"]
            await eyes.next_report()
            assert await metric(daemon, 'reclaimd_source_polls_total{result="failed",source="ops"}') >= 3
            path.write_text("schedules:\n- {name: b, task: t, queue: q, every: 1h}\n")
            await eyes.until_names("b")
            await eyes.until_report("all to be well", failed="")
    told_lines = lines_of(lines, "source cannot be read; its schedules stay as they are")
    assert len({line["reason"] for line in told_lines}) == len(told_lines)
    assert len(lines_of(lines, "source can be read again")) == 1


@in_loop
async def test_a_source_that_is_suddenly_empty_removes_nothing(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(row("a") + row("b"))
    async with daemon_with(server, file_source(path)) as (daemon, eyes):
        await eyes.until_names("a", "b")
        path.write_text("")
        await await_until(lambda: eyes.held("2 schedules of it stay"), "the report to say that they stay")
        assert await eyes.names() == ["a", "b"]
        assert await metric(daemon, 'reclaimd_source_drift{source="ops"}') == 2
    async with daemon_with(server, file_source(path, allow_empty=True)) as (_, eyes):
        await eyes.until_names()


@in_loop
async def test_what_redis_has_lost_comes_back_with_a_warning(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(row("a") + row("b"))
    warning = "source has enabled schedules and Redis has none"
    with captured() as lines:
        async with daemon_with(server, file_source(path)) as (daemon, eyes):
            await eyes.until_names("a", "b")
            await eyes.next_report()
            assert await metric(daemon, 'reclaimd_source_unmet{source="ops"}') == 0
            told = len(lines_of(lines, warning))
            with server.client() as client:
                client.flushall()
            await eyes.until_names("a", "b")
            assert len(lines_of(lines, warning)) == told + 1


@in_loop
async def test_two_daemons_with_one_source_do_no_harm(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text("".join(row(f"s{i}", enabled=i % 2 == 0) for i in range(40)))
    async with daemon_with(server, file_source(path)) as (_, eyes), daemon_with(server, file_source(path)):
        await eyes.until_names(*(f"s{i}" for i in range(40)))
        await eyes.next_report()
        generations = {name: one.generation for name, one in (await eyes.fold()).rows.items()}
        for _ in range(3):
            await eyes.next_report()
        state = await eyes.fold()
        assert {name: one.generation for name, one in state.rows.items()} == generations
        assert sorted(name for name, one in state.rows.items() if one.paused) == sorted(
            f"s{i}" for i in range(1, 40, 2)
        )
        assert state.problems == {}


def make_table(path: Path, rows: Sequence[Sequence[object]]) -> None:
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE IF EXISTS jobs")
        db.execute(
            "CREATE TABLE jobs (id INTEGER, name TEXT, task TEXT, Cron TEXT, tz TEXT, args TEXT, enabled BOOLEAN)"
        )
        db.executemany("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    db.close()


def sql_source(path: Path, query: str = "SELECT * FROM jobs", **more: Any) -> SourceSettings:
    more.setdefault("url", f"sqlite:///{path}")
    return SourceSettings(name="ops", kind="sql", query=query, queue="mail", interval_ms=SECOND, **more)


@in_loop
async def test_sqlite_is_followed(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "app 1%.db"
    make_table(
        path,
        [
            (1, "a", "send", "0 9 * * *", "Asia/Kathmandu", '{"to": 1}', 1),
            (2, "off", "send", "0 9 * * *", None, None, 0),
            (3, "bad", "send", "0 0 30 2 *", None, None, 1),
            (4, None, "send", "0 9 * * *", None, None, 1),
            (5, "args", "send", "0 9 * * *", None, "[", 1),
        ],
    )
    # Paths in URLs are percent-encoded.
    async with daemon_with(server, sql_source(tmp_path / "app 1%25.db")) as (_, eyes):
        await eyes.until_names("a", "off")
        report = await eyes.until_report("the problems", rows=5)
        assert {(one.row, one.field) for one in report.problems} == {(3, "cron"), (4, "name"), (5, "args")}
        state = await eyes.fold()
        assert state.rows["a"].schedule().args == {"to": 1}
        assert state.rows["off"].paused
        make_table(path, [(2, "off", "send", "0 9 * * *", None, None, 1)])
        await eyes.until_names("off")
        assert not (await eyes.fold()).rows["off"].paused
        path.rename(tmp_path / "elsewhere.db")
        assert "No such file" in (await await_until(eyes.failed, "the poll to fail"))
        assert not path.exists()
        assert await eyes.names() == ["off"]


@in_loop
@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("SELECT * FROM nope", "no such table: nope"),
        ("SELECT 'a' AS name, 'b' AS name", "the column name twice"),
        ("DELETE FROM jobs", "readonly database"),
        ("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c", "within 300ms"),
    ],
)
async def test_queries_that_give_nothing(server: Server, tmp_path: Path, query: str, why: str) -> None:
    make_table(tmp_path / "app.db", [(1, "a", "send", "0 9 * * *", None, None, 1)])
    async with daemon_with(server, sql_source(tmp_path / "app.db", query, timeout_ms=300)) as (_, eyes):
        assert why in await await_until(eyes.failed, "the poll to fail")
        assert await eyes.names() == []


@in_loop
async def test_a_missing_column_makes_every_row_unusable_and_removes_nothing(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    make_table(path, [(1, "a", "send", "0 9 * * *", None, None, 1)])
    async with daemon_with(server, sql_source(path)) as (_, eyes):
        await eyes.until_names("a")
    async with daemon_with(server, sql_source(path, "SELECT name, cron FROM jobs")) as (_, eyes):
        report = await eyes.until_report("the problem", problem_count=1)
        assert [(one.field, one.reason) for one in report.problems] == [("task", "it is missing")]
        assert await eyes.names() == ["a"]
    async with daemon_with(server, sql_source(path, "SELECT task, cron FROM jobs")) as (_, eyes):
        await await_until(lambda: eyes.held("a row has no name that can be read"), "the removal to be held")
        assert await eyes.names() == ["a"]

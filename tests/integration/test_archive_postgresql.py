"""What is tried on SQLite elsewhere, and by hand of an operator, with a real PostgreSQL for the archive."""

import json
import re
from typing import Any

import pytest
from sqlalchemy import text

from reclaimd.daemon.archive import writing
from reclaimd.daemon.archive.engine import Access
from reclaimd.daemon.archive.errors import ArchiveFailed, ArchiveMissing, Trouble
from reclaimd.daemon.archive.store import open_store
from reclaimd.daemon.rebuild.values import Changes
from reclaimd.streams.schedules.log import ScheduleLog
from support.archive_rows import MAIL, ME, event, task, upserts
from support.cli import Done, reclaimd
from support.daemons import in_loop
from support.partitions import assert_same
from support.postgres import Postgres
from support.rebuilds import NAMESPACE, ward
from support.schedule_archives import archived, loaded, same
from support.schedule_logs import opened, raised, upsert
from support.servers import Server

pytestmark = pytest.mark.flavours("valkey")


@in_loop
async def test_who_only_reads_needs_no_more_than_that(postgres: Postgres) -> None:
    with pytest.raises(ArchiveMissing, match=r"is empty: correct archive\.url"):
        async with open_store(postgres.url(), Access.READ):
            pass
    assert postgres.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == "0\n"
    async with open_store(postgres.url()) as store:
        assert await store.claim(MAIL, ME, None)
        await store.commit(MAIL, ME, Changes(events=(event(1),), upserts=(task(1),)), {})
    postgres.sql(
        "CREATE ROLE reader LOGIN PASSWORD 'hunter3'",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader",
        "GRANT USAGE ON SCHEMA public TO reader",
    )
    async with open_store(postgres.url("reader", "hunter3"), Access.READ) as store:
        assert await store.count_tasks(MAIL) == {"lane:normal": 1}
        assert [row.task_id for row in await store.tasks_after(MAIL, None, 10)] == ["t1"]
        assert [one.entry_id async for one in store.events(MAIL)] == ["1-0"]
    async with open_store(postgres.url(), Access.READ) as store:
        with pytest.raises(ArchiveFailed) as caught:
            async with store._database.reading() as connection:
                await connection.execute(text("DELETE FROM reclaimd_tasks"))
        assert caught.value.trouble is Trouble.READ_ONLY
        assert await store.count_tasks(MAIL) == {"lane:normal": 1}
    postgres.sql("DROP OWNED BY reader")


@in_loop
async def test_who_may_not_read_is_told_what_is_missing_for_that(server: Server, postgres: Postgres) -> None:
    async with ward(server, postgres.url()) as one:
        one.enqueue("task")
        await one.archive()
    postgres.sql("CREATE ROLE reader LOGIN PASSWORD 'hunter3'", "GRANT USAGE ON SCHEMA public TO reader")
    as_reader = ("--namespace", NAMESPACE, "--archive-url", postgres.url("reader", "hunter3"))

    def run(*args: str) -> Done:
        return reclaimd(*args, "--redis-url", server.url, *as_reader)

    reads = [("archive", "status"), ("rebuild", "--dry-run"), ("rebuild", "--last"), ("events", "tail")]
    cure = "does not let this user read it ({}): grant it USAGE on the schema and SELECT on the tables there"
    for denied, forbid in (
        ("permission denied for table reclaimd_meta", "GRANT USAGE ON SCHEMA public TO reader"),
        ("no schema of its search_path can be used", "REVOKE USAGE ON SCHEMA public FROM reader, PUBLIC"),
    ):
        postgres.sql(forbid)
        for args in [*reads, ("explain", "task")]:
            done = run(*args)
            assert cure.format(denied) in " ".join(done.err.split()), done
            assert "create" not in done.err
            # Those go on without it.
            assert done.code == (0 if args[0] in {"events", "explain"} else 1), done
    postgres.sql("GRANT USAGE ON SCHEMA public TO reader", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    assert [run(*args).code for args in [*reads, ("explain", "task")]] == [0] * 5
    done = run("snapshot")
    assert "forbids what the archive needs" in done.err, done
    assert "let this user create tables and use them" in " ".join(done.err.split()), done
    postgres.sql("DROP OWNED BY reader")


@in_loop
async def test_what_has_ended_is_looked_up_however_little_is_known_of_the_table(postgres: Postgres) -> None:
    async with open_store(postgres.url()) as store:
        assert await store.claim(MAIL, ME, None)
        await store.commit(MAIL, ME, upserts(*map(task, range(5_000))), {})
        async with store._database.writing() as connection:
            assert await connection.scalar(text("SHOW plan_cache_mode")) == "force_custom_plan"
            await connection.execute(text("SELECT set_config('plan_cache_mode', 'force_generic_plan', true)"))
            names = '["t1","t3"]'
            written = str(writing._delete_open("postgresql").compile(dialect=connection.dialect))
            await connection.exec_driver_sql(f"PREPARE gone AS {written}")
            found = await connection.exec_driver_sql(f"EXPLAIN EXECUTE gone ('{names}', 1, '')")
            plan = "\n".join(line for (line,) in found)
        assert "task_id = listed.value" in " ".join(re.findall("Index Cond: .*", plan)), plan
        assert not re.search("Filter:|Seq Scan", plan), plan


@in_loop
async def test_schedules_follow_and_come_back(server: Server, postgres: Postgres) -> None:
    async with archived(server, postgres.url()) as to, opened(server) as (log, client):
        await raised(log, 1_200)
        await to.caught_up()
        assert await log.write_snapshot((await log.load()).state)
        await raised(log, 1_300, first=2_000)
        await log.append([upsert("s1", 5_000)])
        await to.caught_up()
        before = (await log.load()).state
        same(await to.fold(), before)
        await client.flushall()
        await log.append([upsert("after")])
        await to.caught_up()
        after = (await loaded(server)).state
        assert set(after.rows) == {*before.rows, "after"}
        same(await to.fold(), after)
        report = to.archiver.last_report
        assert report is not None
        assert (report.verdict, report.schedules) == ("empty", 2_500)


@in_loop
async def test_commands_tell_and_restore(server: Server, postgres: Postgres) -> None:
    url = postgres.url()

    def run(*args: str) -> Done:
        return reclaimd(*args, "--redis-url", server.url, "--namespace", NAMESPACE, "--archive-url", url)

    async with ward(server, url) as one:
        one.fill()
        await one.links.use(lambda client: ScheduleLog(client, NAMESPACE).append([upsert("daily")]))
        snapshot = run("snapshot", "--json")
        assert (snapshot.code, snapshot.json["archived"]) == (0, {"mail": "healthy"}), snapshot
        before = one.held()
        one.client.flushall()
        planned = result(run("rebuild", "--dry-run", "--json"))
        assert (planned["verdict"], planned["action"], one.client.dbsize()) == ("empty", "planned", 0)
        rebuilt = result(run("rebuild", "--json"))
        assert rebuilt["report"]["restored"] == planned["report"]["restored"]
        assert_same(before, one.held())
        assert result(run("rebuild", "--last", "--json"), "reports")["verdict"] == "empty"
        status = run("archive", "status", "--json")
        assert "p%40ss" not in status.out
        [queue] = status.json["queues"]
        assert (status.code, queue["verdict"], queue["tasks"]["dead"]) == (0, "healthy", 2), status
        life = run("explain", "dead-1", "--json").json["lives"][0]
        steps = [step["what"] for step in life["steps"]]
        assert steps == ["enqueued", "started", "died", "restored"], steps
        tail = run("events", "tail", "--since", "1h", "--type", "died", "--type", "restored", "--json")
        assert {json.loads(line)["type"] for line in tail.out.splitlines()} == {"Died", "Restored"}, tail


def result(done: Done, name: str = "results") -> dict[str, Any]:
    """What became of the queue."""
    assert done.code == 0, done
    [found] = [one for one in done.json[name] if one["queue"] == "mail"]
    assert isinstance(found, dict)
    return found

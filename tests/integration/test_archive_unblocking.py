"""Whoever holds what an archive in PostgreSQL waits for: ended when it stands still, left alone when it works."""

import asyncio
import logging
import time
from typing import Any

import pytest

from reclaimd.daemon.archive import unblocking
from reclaimd.daemon.archive.migrations import _LOCK
from reclaimd.daemon.archive.store import Store, open_store
from reclaimd.daemon.rebuild.values import Changes, Ownership
from support.archive_rows import MAIL, ME
from support.daemons import in_loop
from support.holders import ROW, holder
from support.postgres import Postgres
from support.waiting import await_until

SOON = 3.0
"""Seconds; two looks, and the time of a machine that has other things to do."""
OTHER = "another-daemon"


def told(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The fields of what was logged about holders."""
    found = [vars(record) for record in caplog.records if record.name.endswith(".unblocking")]
    assert all(record["levelno"] == logging.WARNING for record in found)
    return found


async def ownership(store: Store) -> Ownership:
    row = await store.partition(MAIL)
    assert row is not None
    return row.ownership


@in_loop
@pytest.mark.parametrize("write", ["claim", "commit"])
async def test_who_stands_still_within_an_exchange_is_ended(
    postgres: Postgres, caplog: pytest.LogCaptureFixture, write: str
) -> None:
    async with open_store(postgres.url()) as store:
        assert await store.claim(MAIL, ME, None)
        async with holder(postgres) as silent:
            await silent.fall_silent()
            began = time.monotonic()
            if write == "claim":
                assert await store.claim(MAIL, OTHER, await ownership(store))
            else:
                await store.commit(MAIL, ME, Changes(), {"events": "1-0"})
            assert time.monotonic() - began < SOON
            assert not await silent.is_there()
    [line] = told(caplog)
    assert (line["queue"], line["pid"]) == ("mail", silent.pid)
    assert "stands still" in line["msg"]


@in_loop
async def test_who_stands_still_in_a_migration_keeps_nobody_from_opening(postgres: Postgres) -> None:
    async with holder(postgres, f"SELECT pg_advisory_xact_lock({_LOCK})") as silent:
        await silent.fall_silent()
        began = time.monotonic()
        async with open_store(postgres.url()) as store:
            assert time.monotonic() - began < SOON
            assert await store.claim(MAIL, ME, None)
        assert not await silent.is_there()


@in_loop
async def test_who_stands_still_is_found_behind_others_who_wait_too(postgres: Postgres) -> None:
    async with open_store(postgres.url()) as store:
        assert await store.claim(MAIL, ME, None)
        async with holder(postgres) as silent, holder(postgres, "") as between:
            waiting = asyncio.create_task(between.connection.execute(f"{ROW}; COMMIT"))
            await between.wait_waiting()
            await silent.fall_silent()
            assert await store.claim(MAIL, OTHER, await ownership(store))
            await waiting
            assert not await silent.is_there()
            assert await between.is_there()


@in_loop
async def test_one_look_ends_nobody(
    postgres: Postgres, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unblocking, "LOOK_SECONDS", 2.0)
    seen = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_blocking_pids%' AND application_name <> 'psql'"
    async with open_store(postgres.url()) as store:
        assert await store.claim(MAIL, ME, None)
        async with holder(postgres) as silent:
            await silent.fall_silent()
            claiming = asyncio.create_task(store.claim(MAIL, OTHER, await ownership(store)))
            await await_until(lambda: postgres.sql(f"{seen} AND state = 'idle'") == "1\n", "the first look")
            silent.connection.terminate()
            assert await claiming
    assert told(caplog) == []


@in_loop
async def test_who_works_for_long_is_waited_for(postgres: Postgres, caplog: pytest.LogCaptureFixture) -> None:
    async with open_store(postgres.url()) as store:
        assert await store.claim(MAIL, ME, None)
        seen = await ownership(store)
        async with holder(postgres) as busy:
            working = asyncio.create_task(busy.connection.execute("SELECT pg_sleep(6)"))
            claiming = asyncio.create_task(store.claim(MAIL, OTHER, seen))
            await working
            assert not claiming.done()
            await busy.connection.execute("COMMIT")
            assert await claiming
            assert await busy.is_there()
    assert told(caplog) == []


@in_loop
@pytest.mark.parametrize("who", ["another user", "another program"])
async def test_whom_it_does_not_know_it_ends_not_but_names(
    postgres: Postgres, caplog: pytest.LogCaptureFixture, who: str
) -> None:
    account = {"user": "reader", "password": "hunter3"} if who == "another user" else {}
    async with open_store(postgres.url()) as store:
        assert await store.claim(MAIL, ME, None)
        postgres.sql(
            "CREATE ROLE reader LOGIN PASSWORD 'hunter3'",
            "GRANT USAGE ON SCHEMA public TO reader",
            "GRANT SELECT, UPDATE ON reclaimd_partitions TO reader",
        )
        seen = await ownership(store)
        async with holder(postgres, program="reclaimd" if account else "psql", **account) as stranger:
            await stranger.begin_half()
            claiming = asyncio.create_task(store.claim(MAIL, OTHER, seen))
            await await_until(lambda: told(caplog), "it to say who holds the row", 15)
            assert not claiming.done()
            assert await stranger.is_there()
            [line] = told(caplog)
            assert (line["queue"], line["pid"]) == ("mail", stranger.pid)
            assert (line["user"], line["program"]) == (("reader", "reclaimd") if account else ("tester", "psql"))
            postgres.sql(f"SELECT pg_terminate_backend({stranger.pid})")
            assert await claiming
        postgres.sql("DROP OWNED BY reader")

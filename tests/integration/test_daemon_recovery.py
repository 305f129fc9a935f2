"""The daemon on a real server: what dies comes back, in time and told."""

import asyncio
import time

import pytest

from reclaimd.daemon.loops import narrator
from reclaimd.streams import scripts
from support.archives import verdict_on
from support.daemons import Daemon, Queue, captured, in_loop, lines_of, queue_on, running, settings_for
from support.servers import Server
from support.waiting import await_until

LEASE = 500
OVER = 150
"""Redis trims streams by nodes of a hundred entries."""


def orphans(queue: Queue, worker: str, count: int, lease_ms: int = LEASE) -> None:
    """Tasks that a worker took before it fell silent."""
    queue.enqueue(count)
    token = queue.join(worker, lease_ms)
    assert len(queue.take(worker, token, count)) == count


def bury(queue: Queue, worker: str, count: int) -> None:
    """So many dead letters of a worker that lives on, and at least so many events."""
    token = queue.join(worker, 60_000)
    for _ in range(count):
        queue.enqueue()
    taken = queue.take(worker, token, count)
    verdicts = [verdict_on(delivery, "dead") for delivery in taken]
    queue.call(scripts.turn(queue.partition, worker, token, scripts.Turn(0, False, verdicts)))
    assert queue.length("dead") == count


@in_loop
async def test_recovery_at_start_comes_first_and_is_told_task_by_task(server: Server) -> None:
    async with queue_on(server) as mail, queue_on(server, "sms") as sms:
        orphans(mail, "w1", 3)
        orphans(sms, "w2", 2)
        # Lease time only advances with scripts: these looks bring it to the leases' ends.
        await await_until(lambda: mail.view()["expired"] == sms.view()["expired"] == 1, "the workers to expire")
        with captured() as lines:
            async with running(settings_for(server)):
                pass
        told = lines_of(lines, "task recovered")
        assert [(line["queue"], line["task"]) for line in told] == [
            *((("mail", f"mail-{i}")) for i in range(3)),
            *((("sms", f"sms-{i}")) for i in range(2)),
        ]
        assert all(line["attempt"] == 1 and line["cause"] == "lease_expired" for line in told)
        assert {line["worker"] for line in told} == {"w1", "w2"}
        (total,) = lines_of(lines, "recovery at start done")
        assert (total["queues"], total["tasks"], total["failed"]) == (2, 5, ())
        names = [line["event"] for line in lines]
        assert names.index("recovery at start done") < names.index("ready")
        assert names.index("task recovered") < names.index("recovery at start done")
        assert mail.length("recovered:normal") == 3


@in_loop
async def test_the_total_at_start_is_a_metric(server: Server) -> None:
    async with queue_on(server) as mail:
        orphans(mail, "w1", 3)
        await await_until(lambda: mail.view()["expired"] == 1, "the worker to expire")
        async with running(settings_for(server)) as daemon:
            _, text = await daemon.get("/metrics")
        assert 'reclaimd_recovered_at_start_entries{queue="mail"} 3.0' in text
        assert 'reclaimd_entries_reclaimed_total{cause="lease_expired",queue="mail"} 3.0' in text
        assert 'reclaimd_reclaim_latency_seconds_count{cause="lease_expired",queue="mail"} 3.0' in text
        assert 'reclaimd_redis_round_trip_seconds_count{script="reclaim"}' in text
        assert 'reclaimd_loop_steps_total{loop="partition"}' in text


@in_loop
async def test_a_worker_that_falls_silent_is_reclaimed_when_its_lease_ends(server: Server) -> None:
    async with queue_on(server) as mail, running(settings_for(server)) as daemon:
        mail.register()
        await await_until(lambda: view_seen(daemon), "the queue to be found")
        with captured() as lines:
            silent_since = time.monotonic()
            orphans(mail, "w1", 2)
            await await_until(lambda: mail.length("recovered:normal") == 2, "the tasks to come back")
            took = time.monotonic() - silent_since
            await await_until(lambda: lines_of(lines, "task recovered"), "the recovery to be told")
        # The worker joined while the partition slept for seconds: its event woke the loop.
        assert LEASE / 1000 <= took < LEASE / 1000 + 0.3
        assert all(line["late_ms"] <= 100 for line in lines_of(lines, "task recovered"))


async def view_seen(daemon: Daemon) -> bool:
    _, text = await daemon.get("/metrics")
    return 'reclaimd_tasks_dead{queue="mail"}' in text


@in_loop
async def test_a_task_delayed_while_the_daemon_sleeps_is_promoted_in_time(server: Server) -> None:
    async with queue_on(server) as mail:
        mail.enqueue()
        async with running(settings_for(server)):
            await asyncio.sleep(0)
            added = time.monotonic()
            mail.enqueue(delay_ms=700)
            await await_until(lambda: mail.length("lane:normal") == 2, "the task to be promoted")
            assert 0.7 <= time.monotonic() - added < 1.0


@in_loop
async def test_a_new_queue_is_found_and_served(server: Server) -> None:
    async with running(settings_for(server, discover_every_ms=100)) as daemon, queue_on(server) as mail:
        mail.enqueue(delay_ms=100)
        await await_until(lambda: mail.length("lane:normal") == 1, "the task to be promoted")
        body = await daemon.wait_page("/readyz", 200)
        assert body == {"ready": True, "problems": []}


@in_loop
async def test_a_lost_ring_costs_about_a_second(server: Server) -> None:
    async with queue_on(server) as mail, running(settings_for(server, discover_every_ms=100)):
        mail.enqueue()
        mail.raw("DEL", mail.partition.key("bell"))
        lost = time.monotonic()
        await await_until(lambda: mail.view()["bell"], "the daemon to ring")
        assert time.monotonic() - lost < 2.0


@in_loop
async def test_entries_of_consumers_that_never_joined_come_back(server: Server) -> None:
    async with queue_on(server) as mail:
        mail.enqueue(2)
        mail.join("w1", 60_000)
        key = mail.partition.key("lane:normal")
        async with running(settings_for(server, unknown_scan_every_ms=1_000)):
            mail.raw("XREADGROUP", "GROUP", "workers", "stranger", "COUNT", 2, "STREAMS", key, ">")
            with captured() as lines:
                await await_until(lambda: mail.length("recovered:normal") == 2, "the tasks to come back")
                await await_until(lambda: len(lines_of(lines, "task recovered")) == 2, "the recovery to be told")
            assert {line["cause"] for line in lines_of(lines, "task recovered")} == {"unknown"}


@in_loop
async def test_many_recovered_tasks_are_all_told_in_order(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # A short memory: most of the batches have to be read again when it is their turn.
    monkeypatch.setattr(narrator, "KEPT_LINES", 10)
    async with queue_on(server) as mail:
        orphans(mail, "w1", 400)
        await await_until(lambda: mail.view()["expired"] == 1, "the worker to expire")
        with captured() as lines:
            async with running(settings_for(server)):
                pass
        told = [line["task"] for line in lines_of(lines, "task recovered")]
        assert told == [f"mail-{i}" for i in range(400)]


@in_loop
async def test_two_daemons_side_by_side_do_no_harm(server: Server) -> None:
    async with queue_on(server) as mail:
        settings = settings_for(server)
        async with running(settings), running(settings):
            for round_number in range(3):
                orphans(mail, f"w{round_number}", 100)
            total = 300
            await await_until(lambda: mail.length("recovered:normal") == total, "all tasks to come back")
            await await_until(lambda: mail.view()["gone"] == 3, "all workers to be gone")
            counters = mail.view()["counters"]
            assert counters["reclaimed:lease_expired"] == total
            assert counters["fenced_workers:lease_expired"] == 3
            rows = mail.raw("XRANGE", mail.partition.key("recovered:normal"), "-", "+")
            assert len({fields[b"task"] if isinstance(fields, dict) else fields[1] for _, fields in rows}) == total


@in_loop
async def test_what_is_over_the_limits_goes(server: Server) -> None:
    async with queue_on(server) as mail:
        orphans(mail, "w1", 1)
        await await_until(lambda: mail.view()["expired"] == 1, "the worker to expire")
        bury(mail, "w2", OVER)
        limits = {"gone_retention_ms": 0, "dead_retention_ms": 1_000, "events_retention_ms": 1_000}
        with captured() as lines:
            async with running(settings_for(server, **limits)):
                await await_until(lambda: mail.view()["gone"] == 0, "the worker's row to be forgotten")
                await await_until(lambda: lines_of(lines, "workers forgotten"), "that to be told")
                await await_until(lambda: mail.length("dead") < OVER, "dead letters to be trimmed")
                await await_until(lambda: mail.length("events") < OVER, "events to be trimmed")
        assert list(mail.raw("HGETALL", mail.partition.key("workers"))) == [b"w2"]

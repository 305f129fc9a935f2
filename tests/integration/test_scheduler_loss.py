"""The scheduler when what it stands on goes: Redis emptied, the log trimmed past a sleeper, snapshots that fail."""

from typing import Any

import msgspec

from reclaimd.streams.schedules.model import Every, Once
from reclaimd.streams.settings import Settings
from support.daemons import captured, in_loop, lines_of, running, settings_for
from support.schedules import born, check_exactly_once, instants, schedules_on
from support.servers import Server
from support.waiting import await_until


def scheduling(server: Server, **scheduler: int) -> Settings:
    settings = settings_for(server)
    return msgspec.structs.replace(settings, scheduler=msgspec.structs.replace(settings.scheduler, **scheduler))


@in_loop
async def test_an_emptied_redis_is_told_and_new_schedules_end_the_alarm(server: Server) -> None:
    with schedules_on(server) as schedules, captured() as lines:
        async with running(settings_for(server)) as daemon:
            schedules.put("a", overlap="allow")
            await schedules.wait_tasks()
            schedules.client.flushall()
            body = await daemon.wait_page("/readyz", 503)
            [lost] = [problem for problem in body["problems"] if problem["what"] == "schedules_lost"]
            assert "there were 1" in lost["detail"]
            _, metrics = await daemon.get("/metrics")
            assert "reclaimd_schedules_lost 1.0" in metrics
            schedules.put("b", Once(schedules.now_ms() + 300))
            await schedules.wait_tasks()
            await daemon.wait_page("/readyz", 200)
            assert not instants(schedules.tasks(), "a")
    assert lines_of(lines, "redis holds no schedules any more")[0]["known_before"] == 1


@in_loop
async def test_a_stop_leaves_a_snapshot_and_a_stop_without_changes_leaves_none(server: Server) -> None:
    with schedules_on(server) as schedules:
        async with running(settings_for(server)):
            schedules.put("a", Every(60_000))
            await await_until(lambda: schedules.client.exists(schedules.events_key), "the event")
            assert not schedules.client.exists(schedules.snapshots_key)
            await await_until(lambda: schedules.fired() or True, "a moment")
        length = schedules.client.xlen(schedules.snapshots_key)
        async with running(settings_for(server)) as daemon:
            _, metrics = await daemon.get("/metrics")
            assert 'reclaimd_schedules{state="enabled"} 1.0' in metrics
        assert schedules.client.xlen(schedules.snapshots_key) == max(length, 3)


@in_loop
async def test_snapshots_come_after_so_many_events_and_the_log_is_trimmed(server: Server) -> None:
    with schedules_on(server) as schedules:

        def newest() -> object:
            """The newest that has been ended."""
            entries: Any = schedules.client.xrevrange(schedules.snapshots_key)
            return next((entry_id for entry_id, fields in entries if fields[b"kind"] == b"commit"), None)

        async with running(scheduling(server, snapshot_events=10)) as daemon:
            for _ in range(4):
                before = newest()
                for number in range(12):
                    schedules.put(f"s{number}", Every(60_000), max_deliveries=3)
                await await_until(lambda seen=before: newest() != seen, "a snapshot")  # type: ignore[misc]
            await await_until(lambda: len(schedules.entries()) <= 36, "the log to be trimmed")
            _, metrics = await daemon.get("/metrics")
            assert 'reclaimd_snapshots_total{result="written"}' in metrics
        async with running(settings_for(server)) as daemon:
            _, metrics = await daemon.get("/metrics")
            assert 'reclaimd_schedules{state="enabled"} 12.0' in metrics


@in_loop
async def test_a_snapshot_that_fails_is_told_and_stops_nothing(server: Server) -> None:
    with schedules_on(server) as schedules, captured() as lines:
        schedules.put("first", Every(60_000))
        async with running(scheduling(server, snapshot_events=10)) as daemon:
            schedules.client.hset(schedules.snapshots_key, "not", "a stream")
            for number in range(12):
                schedules.put(f"s{number}", Every(1_000), overlap="allow")
            await await_until(lambda: lines_of(lines, "snapshot of schedules failed"), "the failure")
            await schedules.wait_tasks(12)
            await daemon.wait_page("/readyz", 200)
            _, metrics = await daemon.get("/metrics")
            assert 'reclaimd_snapshots_total{result="failed"} 1.0' in metrics
            schedules.client.delete(schedules.snapshots_key)


@in_loop
async def test_a_restarted_server_with_nothing_lost_goes_on(server: Server) -> None:
    with schedules_on(server) as schedules:
        generation = schedules.put("a", overlap="allow")
        async with running(settings_for(server)):
            await schedules.wait_tasks()
            schedules.client.client_kill_filter(_type="normal", skipme=True)
            await schedules.wait_tasks(3)
            check_exactly_once(schedules, "a", generation, 1_000)
        async with running(settings_for(server)):
            tasks = await schedules.wait_tasks(5)
    assert instants(tasks, "a")[:5] == [born(generation) + n * 1_000 for n in range(1, 6)]

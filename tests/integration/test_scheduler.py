"""A daemon fires schedules that clients put into the log: when, how often, and what becomes of changes."""

import msgspec

from reclaimd.streams import scripts
from reclaimd.streams.codec import Settlement
from reclaimd.streams.schedules.model import Cron, Every, Once
from reclaimd.streams.settings import Settings
from support.daemons import captured, in_loop, lines_of, queue_on, running, settings_for
from support.schedules import born, instants, schedules_on
from support.servers import Server
from support.waiting import await_until


def scheduling(server: Server, **scheduler: object) -> Settings:
    settings = settings_for(server)
    return msgspec.structs.replace(settings, scheduler=msgspec.structs.replace(settings.scheduler, **scheduler))


@in_loop
async def test_a_schedule_fires_at_its_instants_and_not_before(server: Server) -> None:
    with schedules_on(server) as schedules:
        async with running(settings_for(server)):
            created = born(schedules.put("tick", overlap="allow"))
            tasks = await schedules.wait_tasks(3)
    assert instants(tasks, "tick")[:3] == [created + 1000, created + 2000, created + 3000]
    assert all(0 <= task.at - task.nominal < 500 for task in tasks)


@in_loop
async def test_a_queue_that_nobody_has_used_begins_with_its_first_occurrence(server: Server) -> None:
    with schedules_on(server) as schedules:
        async with running(settings_for(server)) as daemon:
            schedules.put("first", Once(schedules.now_ms() + 300), queue="untouched")
            await await_until(lambda: schedules.tasks("untouched"), "the occurrence")
            await daemon.wait_page("/readyz", 200)
        assert schedules.client.sismember("{t}:queues", "untouched")
        assert schedules.client.hget("{t:untouched:0}:epoch", "state") == b"ok"


@in_loop
async def test_one_that_was_removed_fires_no_more_and_its_queued_occurrence_is_dropped(server: Server) -> None:
    with schedules_on(server) as schedules:
        async with running(settings_for(server)):
            schedules.put("q", overlap="queue_one")
            await await_until(lambda: schedules.happened("OccurrenceQueued"), "an occurrence behind another")
            removed = schedules.remove("q")
            row = await await_until(lambda: [r for r in schedules.fired().values() if r.generation == removed], "fence")
        assert row
        assert schedules.client.hlen("{t:mail:0}:fired:queued") == 0
        assert [skip[5] for skip in schedules.happened("OccurrenceSkipped")][-1] == "removed"
        assert len(schedules.tasks()) == 1


@in_loop
async def test_what_was_queued_of_one_that_was_removed_while_no_daemon_ran_is_dropped(server: Server) -> None:
    with schedules_on(server) as schedules:
        async with running(settings_for(server)):
            schedules.put("q", overlap="queue_one")
            await await_until(lambda: schedules.happened("OccurrenceQueued"), "an occurrence behind another")
        schedules.remove("q")
        assert schedules.client.hlen("{t:mail:0}:fired:queued") == 1
        async with running(settings_for(server)):
            await await_until(lambda: not schedules.client.hlen("{t:mail:0}:fired:queued"), "it to be dropped")


@in_loop
async def test_a_pause_skips_what_comes_due_in_it_and_says_so(server: Server) -> None:
    with schedules_on(server) as schedules:
        async with running(settings_for(server)):
            created = born(schedules.put("p", overlap="allow"))
            await await_until(lambda: schedules.tasks(), "an occurrence")
            paused = born(schedules.pause("p"))
            await await_until(lambda: schedules.now_ms() > paused + 2_100, "two instants to pass")
            before = instants(schedules.tasks(), "p")
            resumed = born(schedules.resume("p"))
            tasks = await schedules.wait_tasks(len(before) + 1)
            [skip] = schedules.happened("OccurrenceSkipped")
    assert skip[2:] == [before[-1], skip[3], 2, "paused"]
    assert skip[3] <= resumed
    assert [(nominal - created) % 1000 for nominal in instants(tasks, "p")] == [0] * len(tasks)
    assert instants(tasks, "p")[len(before)] == skip[3] + 1000


@in_loop
async def test_one_that_moves_to_another_queue_is_retired_in_the_old_one_first(server: Server) -> None:
    with schedules_on(server) as schedules:
        async with running(settings_for(server)):
            schedules.put("m", queue="a")
            await await_until(lambda: schedules.tasks("a"), "an occurrence in a")
            moved = schedules.put("m", queue="b")
            await await_until(lambda: schedules.tasks("b"), "an occurrence in b")
            assert schedules.fired("a")["m"].generation == moved
            assert len(schedules.tasks("a")) == 1


@in_loop
async def test_one_that_moved_while_no_daemon_ran_is_retired_at_the_start(server: Server) -> None:
    with schedules_on(server) as schedules:
        async with running(settings_for(server)):
            schedules.put("m", queue="a")
            await await_until(lambda: schedules.tasks("a"), "an occurrence in a")
        moved = schedules.put("m", queue="b")
        async with running(settings_for(server)):
            await await_until(lambda: schedules.tasks("b"), "an occurrence in b")
            assert schedules.fired("a")["m"].generation == moved


@in_loop
async def test_one_that_is_removed_and_put_again_fires_afresh(server: Server) -> None:
    with schedules_on(server) as schedules:
        async with running(settings_for(server)):
            schedules.put("r", limit=1, overlap="allow")
            await await_until(lambda: schedules.tasks(), "its only occurrence")
            schedules.remove("r")
            again = schedules.put("r", limit=1, overlap="allow")
            tasks = await schedules.wait_tasks(2)
            assert tasks[1].generation == again


@in_loop
async def test_a_bad_definition_is_rejected_in_the_log_and_nothing_else_is_affected(server: Server) -> None:
    with schedules_on(server) as schedules, captured() as lines:
        async with running(settings_for(server)) as daemon:
            schedules.put("good", overlap="allow")
            bad = schedules.put("bad", Cron("0 0 30 2 *"))
            [rejected] = await await_until(schedules.rejected, "the rejection")
            await await_until(lambda: schedules.tasks(), "the good one to fire")
            await daemon.wait_page("/readyz", 200)
            _, metrics = await daemon.get("/metrics")
        assert (rejected.name, rejected.entry, rejected.field) == ("bad", bad, "cron")
        assert "reclaimd_schedules_rejected_total 1.0" in metrics
        assert "reclaimd_schedule_problems 1.0" in metrics
        assert 'reclaimd_schedules{state="enabled"} 1.0' in metrics
        assert lines_of(lines, "schedule rejected")[0]["schedule"] == "bad"
        async with running(settings_for(server)):
            pass
        assert len(schedules.rejected()) == 1


@in_loop
async def test_a_broken_partition_does_not_stop_the_others(server: Server) -> None:
    with schedules_on(server) as schedules:
        schedules.client.set("{t:sick:0}:fired", "not a hash")
        async with running(settings_for(server)) as daemon:
            schedules.put("a", queue="sick", overlap="allow")
            schedules.put("b", queue="well", overlap="allow")
            await await_until(lambda: schedules.tasks("well"), "the healthy one to fire")
            body = await daemon.wait_page("/readyz", 503)
            assert ("firing", "sick") in {(problem["what"], problem["queue"]) for problem in body["problems"]}
            schedules.client.delete("{t:sick:0}:fired")
            await await_until(lambda: schedules.tasks("sick"), "the cured one to fire")
            await daemon.wait_page("/readyz", 200)


@in_loop
async def test_a_queue_that_is_being_rebuilt_fires_when_it_is_done(server: Server) -> None:
    async with queue_on(server) as queue:
        queue.enqueue(1)
        with schedules_on(server) as schedules:
            queue.raw("HSET", queue.partition.key("epoch"), "state", "rebuilding")
            async with running(settings_for(server)) as daemon:
                due = schedules.now_ms() + 200
                schedules.put("s", Once(due))

                async def is_told() -> bool:
                    _, body = await daemon.get("/readyz")
                    return "schedules_frozen" in {problem["what"] for problem in body["problems"]}

                await await_until(is_told, "/readyz to say so")
                await await_until(lambda: schedules.now_ms() > due + 500, "its instant to pass")
                assert not schedules.tasks()
                queue.raw("HSET", queue.partition.key("epoch"), "state", "ok")
                await await_until(schedules.tasks, "it to fire")


@in_loop
async def test_what_came_due_while_no_daemon_ran_is_treated_by_its_misfire_policy(server: Server) -> None:
    settings = scheduling(server, misfire_after_ms=1_000)
    with schedules_on(server) as schedules:
        created = born(schedules.put("skip", misfire="skip", overlap="allow"))
        schedules.put("once", misfire="run_once", overlap="allow")
        schedules.put("all", misfire="run_all", misfire_cap=2, drip_ms=100, overlap="allow")
        await await_until(lambda: schedules.now_ms() > created + 5_200, "instants to be missed")
        async with running(settings):
            await await_until(lambda: len(instants(schedules.tasks(), "skip")) >= 2, "the daemon to catch up")
            skipped = {row[0]: row for row in schedules.happened("OccurrenceSkipped")}
            tasks = schedules.tasks()
    assert (skipped["skip"][4], skipped["skip"][5]) == (4, "misfire")
    assert (skipped["once"][4], skipped["once"][5]) == (3, "misfire")
    assert (skipped["all"][4], skipped["all"][5]) == (2, "cap")
    assert instants(tasks, "once")[0] == skipped["once"][3] + 1000


@in_loop
async def test_a_backlog_drips_behind_the_task_before(server: Server) -> None:
    settings = scheduling(server, misfire_after_ms=1_000)
    async with queue_on(server) as queue:
        token = queue.join("w", 10_000)
        with schedules_on(server) as schedules:
            created = born(schedules.put("all", misfire="run_all", drip_ms=1, end_ms=schedules.now_ms() + 3_100))
            await await_until(lambda: schedules.now_ms() > created + 5_000, "instants to be missed")
            async with running(settings):
                seen: list[int] = []
                while len(seen) < 3:
                    [task] = await await_until(schedules.tasks, "the next of the backlog")
                    seen.append(task.nominal)
                    [delivery] = queue.take("w", token, 1)
                    done = Settlement(
                        delivery.stream, delivery.entry_id, "succeeded", delivery.task_id, schedule=delivery.schedule
                    )
                    queue.call(scripts.turn(queue.partition, "w", token, scripts.Turn(0, True, [done])))
    assert seen == [created + 1_000, created + 2_000, created + 3_000]


@in_loop
async def test_a_daemon_may_leave_schedules_alone(server: Server) -> None:
    with schedules_on(server) as schedules:
        created = born(schedules.put("s", Once(schedules.now_ms() + 100)))
        async with running(scheduling(server, enabled="no")) as daemon:
            await daemon.wait_page("/readyz", 200)
            await await_until(lambda: schedules.now_ms() > created + 500, "its instant to pass")
            assert not schedules.tasks()


@in_loop
async def test_an_interval_beside_the_second_keeps_its_beat_to_the_millisecond(server: Server) -> None:
    with schedules_on(server) as schedules:
        async with running(settings_for(server)):
            created = born(schedules.put("beat", Every(1_337, anchor_ms=7), overlap="allow"))
            tasks = await schedules.wait_tasks(2)
    assert all((task.nominal - 7) % 1_337 == 0 and task.nominal > created for task in tasks)

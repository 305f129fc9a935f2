"""A daemon fires schedules that clients put into the log: when, how often, and what becomes of changes."""

from support.daemons import in_loop, running, settings_for
from support.schedules import born, instants, schedules_on
from support.servers import Server
from support.waiting import await_until

from reclaimd.streams.schedules.model import Every, Once


@in_loop
async def test_a_schedule_fires_at_its_instants_and_not_before(server: Server) -> None:
    with schedules_on(server) as schedules:
        async with running(settings_for(server)):
            created = born(schedules.put("tick", overlap="allow"))
            tasks = await await_until(lambda: t if len(t := schedules.tasks()) >= 3 else None, "three occurrences")
    assert instants(tasks, "tick") == [created + 1000, created + 2000, created + 3000][: len(tasks)]
    assert all(0 <= task.at - task.nominal < 500 for task in tasks)

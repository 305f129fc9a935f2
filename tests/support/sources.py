"""A daemon with sources of schedules, and what is in Redis because of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from reclaimd.daemon.inspect.reports import SourceReport, decode_reports
from reclaimd.streams.keys import schedule_problems_key
from reclaimd.streams.redis_log import connect
from reclaimd.streams.schedules.fold import Schedules
from reclaimd.streams.schedules.log import ScheduleLog
from reclaimd.streams.source_settings import SourceSettings
from support.daemons import NAMESPACE, Daemon, running, settings_for
from support.servers import Server
from support.waiting import await_until


class Eyes:
    """Reads what is in Redis beside the daemon."""

    def __init__(self, server: Server) -> None:
        self._client = connect(server.url)
        self._log = ScheduleLog(self._client, NAMESPACE)

    async def fold(self) -> Schedules:
        """The schedules as events make them."""
        return (await self._log.load()).state

    async def names(self) -> list[str]:
        """Names of schedules."""
        return sorted((await self.fold()).rows)

    async def report(self, source: str = "ops") -> SourceReport:
        """What the daemon last said of a source; at_ms is 0 if it said nothing."""
        reply: Any = self._client.hgetall(schedule_problems_key(NAMESPACE))
        found = [one for one in decode_reports(await reply) if one.source == source]
        return found[0] if found else SourceReport(source=source, at_ms=0)

    async def until_names(self, *names: str) -> None:
        """Until there are exactly these schedules."""

        async def there() -> bool:
            return await self.names() == sorted(names)

        await await_until(there, f"the schedules to be {names}")

    async def until_report(self, what: str, source: str = "ops", **fields: object) -> SourceReport:
        """Until the report has these fields."""

        async def told() -> SourceReport | None:
            report = await self.report(source)
            return report if report.at_ms and all(getattr(report, key) == v for key, v in fields.items()) else None

        found = await await_until(told, what)
        assert found is not None
        return found

    async def failed(self, source: str = "ops") -> str:
        """Why the last poll failed, empty if it did not."""
        return (await self.report(source)).failed

    async def held(self, why: str) -> bool:
        """Whether the removal of what is gone is held for this reason."""
        return why in (await self.report()).held

    async def next_report(self, source: str = "ops") -> SourceReport:
        """That of the next poll to end."""
        last = (await self.report(source)).at_ms

        async def newer() -> SourceReport | None:
            report = await self.report(source)
            return report if report.at_ms > last else None

        found = await await_until(newer, "the next poll")
        assert found is not None
        return found

    async def aclose(self) -> None:
        await self._client.aclose()


@asynccontextmanager
async def daemon_with(server: Server, *sources: SourceSettings) -> AsyncIterator[tuple[Daemon, Eyes]]:
    """A daemon that has these sources, and eyes beside it."""
    eyes = Eyes(server)
    try:
        async with running(msgspec.structs.replace(settings_for(server), sources=sources)) as daemon:
            yield daemon, eyes
    finally:
        await eyes.aclose()

"""Sources that have enabled schedules while Redis has none: data were lost, or no daemon brings them in."""

from collections.abc import Iterable

import msgspec

from reclaimd.daemon.inspect.schedules import Known
from reclaimd.daemon.sources.errors import SourceFailed
from reclaimd.streams.source_settings import SourceSettings

PATIENCE_MS = 2_000


async def unmet_sources(known: Known, sources: Iterable[SourceSettings]) -> list[str]:
    """A warning for each; none while Redis has any enabled schedule.

    What a daemon reported is in Redis, and goes with it: sources in this configuration are read here.
    """
    if known.totals.enabled:
        return []
    enabled = {report.source: report.enabled for report in known.reports}
    for settings in sources:
        # Late: the database library takes its time, and `status` mostly needs none.
        from reclaimd.daemon.sources.reading import read_source, reader_of

        hurried = msgspec.structs.replace(settings, timeout_ms=min(settings.timeout_ms, PATIENCE_MS))
        try:
            wanted, _, _ = await read_source(reader_of(hurried), hurried)
        except SourceFailed:
            # That it cannot be read is told by the daemon, among the problems.
            continue
        enabled[settings.name] = sum(one.enabled is not False for one in wanted)
    return [
        f"source {name} has {count} enabled schedules and Redis has none: see that a daemon runs with this source"
        for name, count in sorted(enabled.items())
        if count
    ]

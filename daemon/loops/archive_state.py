"""How the archive is, for people: asked once, without a daemon."""

from typing import TYPE_CHECKING, Any, Final

import anyio
import msgspec

from reclaimd.daemon.archive.errors import ArchiveFailed, ArchiveUnreachable, Trouble
from reclaimd.daemon.inspect.source import Source
from reclaimd.daemon.loops.catching_up import look
from reclaimd.daemon.rebuild.values import EVENTS, entry_ms
from reclaimd.streams.addresses import redacted
from reclaimd.streams.redis_log import AsyncClient
from reclaimd.streams.settings import Settings

if TYPE_CHECKING:
    from reclaimd.daemon.archive.store import Store

PATIENCE_SECONDS: Final = 5.0
HEALTHY: Final = "healthy"
UNREACHABLE: Final = "unreachable"
_WORST_FIRST: Final = (
    "foreign", "empty", "rolled_back", "partial", "lost", "rebuilding", "archive_behind", "new", HEALTHY
)  # fmt: skip


class ArchiveState(msgspec.Struct, frozen=True):
    """`state`: the worst verdict on a queue or the schedules, or unreachable. `lag_seconds`: age of the oldest event
    that is not archived, None when nobody can tell. `url`: without password. `queues`: those that are not healthy, and
    why; `schedules`: why these are not, else empty.
    """

    state: str
    lag_seconds: float | None
    url: str
    queues: dict[str, str] = {}
    problem: str = ""
    schedules: str = ""


async def archive_state(settings: Settings, source: Source, queues: list[str]) -> ArchiveState | None:
    """Hold every queue against its archive; None when there is none. Changes nothing."""
    url = settings.archive.url
    if url is None:
        return None
    from reclaimd.daemon.archive.engine import Access
    from reclaimd.daemon.archive.store import open_store

    try:
        with anyio.fail_after(PATIENCE_SECONDS):
            async with open_store(url, Access.READ) as store:
                return await _state(store, source, queues, redacted(url))
    except TimeoutError:
        return _unreachable(url, ArchiveUnreachable(Trouble.SLOW, url))
    except ArchiveFailed as error:
        return _unreachable(url, error)


def _unreachable(url: str, error: ArchiveFailed) -> ArchiveState:
    return ArchiveState(UNREACHABLE, None, redacted(url), problem=str(error))


async def _state(store: "Store", source: Source, queues: list[str], url: str) -> ArchiveState:
    from reclaimd.daemon.archive.restoring_schedules import look_at_schedules

    verdicts: dict[str, str] = {}
    reasons: dict[str, str] = {}
    lag = 0.0
    known = {row.queue for row in await store.partitions(source.namespace) if row.epoch_id}
    for queue in sorted(known | set(queues)):
        partition = source.partition(queue)
        found = await look(store, source, partition)
        verdicts[queue] = found.verdict.kind
        if found.verdict.kind != HEALTHY:
            reasons[queue] = f"{found.verdict.kind}: {found.verdict.reason}"
        elif found.row is not None:
            lag = max(lag, await _lag(source, partition.key("events"), found.row.positions.get(EVENTS, "0-0")))
    of_schedules, facts = await look_at_schedules(store, source, source.namespace)
    schedules = ""
    if of_schedules.kind != HEALTHY and (of_schedules.kind, facts.state) != ("new", "absent"):
        verdicts[""] = of_schedules.kind
        schedules = f"{of_schedules.kind}: {of_schedules.reason}"
    state = next((kind for kind in _WORST_FIRST if kind in verdicts.values()), HEALTHY)
    return ArchiveState(state, round(lag, 3), url, reasons, schedules=schedules)


async def _lag(source: Source, key: str, position: str) -> float:
    async def ask(client: AsyncClient) -> tuple[Any, Any]:
        return await client.xrange(key, f"({position}", count=1), await client.time()

    entries, (seconds, micros) = await source.use(ask)
    if not entries:
        return 0.0
    return max(0.0, int(seconds) + int(micros) / 1e6 - entry_ms(entries[0][0].decode()) / 1000)

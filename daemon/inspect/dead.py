"""Finding dead letters: by task ID, entry ID, cause and age, a page at a time."""

from collections.abc import AsyncIterator, Iterable, Sequence

import msgspec

from reclaimd.daemon.inspect.letters import ENTRY_ID, Letter, letter, task_info
from reclaimd.daemon.inspect.source import Source
from reclaimd.daemon.inspect.tasks import entries


class DeadFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters are meant: all conditions at once.

    `ids`: task IDs or entry IDs (what looks like `1700000000000-0` is one), empty for any.
    """

    ids: Sequence[str] = ()
    cause: str = ""
    older_than_ms: int = 0

    def accepts(self, found: Letter, now_ms: int) -> bool:
        """Whether this letter is meant."""
        task = found.task
        if self.ids and task.task_id not in self.ids and task.entry_id not in self.ids:
            return False
        if self.cause and task.cause != self.cause:
            return False
        return not self.older_than_ms or (task.since_ms is not None and now_ms - task.since_ms >= self.older_than_ms)


async def find_dead(
    source: Source, queues: Iterable[str], wanted: DeadFilter, *, newest: bool = False
) -> AsyncIterator[Letter]:
    """The dead letters meant, queue by queue, oldest first unless `newest`; those that die meanwhile not among them.

    Only entry IDs can be looked up; a task ID, or anything else, needs a walk through the stream.
    """
    direct = [wanted_id for wanted_id in dict.fromkeys(wanted.ids) if ENTRY_ID.fullmatch(wanted_id)]
    for queue in queues:
        key = source.partition(queue).key("dead")
        (seconds, micros), last = await source.read(lambda pipe, key=key: [pipe.time(), pipe.xrevrange(key, count=1)])  # type: ignore[misc]
        now = seconds * 1000 + micros // 1000
        ranges = [(entry_id, entry_id) for entry_id in direct]
        if last and len(direct) < len(set(wanted.ids) or {""}):
            ranges = [("-", last[0][0].decode())]
        for low, high in ranges:
            async for entry_id, fields in entries(source, key, low=low, high=high, newest=newest):
                found = _letter(queue, entry_id, fields)
                if wanted.accepts(found, now):
                    yield found


def _letter(queue: str, entry_id: str, fields: dict[bytes, bytes]) -> Letter:
    return letter(fields, task_info(fields, queue=queue, state="dead", stream="dead", entry_id=entry_id))

"""What a partition holds now, read a page at a time. Nothing leaves it meanwhile: its state is not `ok`."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Protocol, TypeAlias, TypeVar, cast

from reclaimd.daemon.rebuild import envelopes
from reclaimd.daemon.rebuild.rows import FOREIGN, stored_task
from reclaimd.daemon.rebuild.values import DEAD, DELAYED, QUEUED, Present, entry_ms
from reclaimd.streams import keys
from reclaimd.streams.keys import STREAMS, Partition
from reclaimd.streams.redis_log import AsyncClient
from reclaimd.streams.scripts import Call

T = TypeVar("T")
_Entry: TypeAlias = tuple[bytes, dict[bytes, bytes]]

FIRST_PAGE: Final = 50
PAGE: Final = 1_000
PAGE_BYTES: Final = 4 * 1024 * 1024
"""About what one page may come to: bodies may have megabytes."""
SENTINEL: Final = keys.SENTINEL.encode()
"""A field or member that the archiver planted; it is no task."""


class Redis(Protocol):
    """What a rebuild needs of Redis: `Links` of the daemon and `Source` of the command line both have it."""

    async def send(self, call: Call[T]) -> T:
        """Run a script."""
        ...

    async def use(self, ask: Callable[[AsyncClient], Awaitable[T]], /) -> T:
        """Run commands that may be run twice."""
        ...


async def server_ms(redis: Redis) -> int:
    """The server's wall clock."""

    async def ask(client: AsyncClient) -> int:
        seconds, micros = await client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    return await redis.use(ask)


class Scan:
    """One look at everything that `partition` holds. Read `tasks` to its end before `strays`.

    `strays`: delayed tasks whose instant is gone, task ID and envelope; the first `REMEMBERED` of them.
    """

    REMEMBERED: Final = 10_000

    def __init__(self, redis: Redis, partition: Partition) -> None:
        self._redis = redis
        self._partition = partition
        self.strays: dict[str, bytes] = {}

    async def tasks(self) -> AsyncIterator[list[Present]]:
        """All tasks by pages, each of one place: queued ones first, streams in reading order, delayed, dead letters."""
        async for page in self.queued():
            yield page
        for name in STREAMS:
            async for page in self._entries(name):
                yield page
        async for page in self.delayed():
            yield page
        async for page in self._entries(DEAD):
            yield page

    async def _entries(self, name: str) -> AsyncIterator[list[Present]]:
        key, low, count = self._partition.key(name), "-", FIRST_PAGE
        while True:

            async def ask(client: AsyncClient, low: str = low, count: int = count) -> list[_Entry]:
                return cast("list[_Entry]", await client.xrange(key, low, "+", count=count))

            rows = await self._redis.use(ask)
            yield [_present(fields or {}, name, entry_id.decode()) for entry_id, fields in rows]
            if len(rows) < count:
                return
            low = f"({rows[-1][0].decode()}"
            count = _next_count(count, sum(len(fields.get(b"body", b"")) for _, fields in rows))

    async def delayed(self) -> AsyncIterator[list[Present]]:
        """Only what has an instant and an envelope; of the rest nobody can say more than the archive."""
        due = set[bytes]()
        async for members in self._scan("delayed", "zscan"):
            due.update(member for member, _ in members)
        async for bodies in self._scan("bodies", "hscan"):
            page = []
            for task_id, body in bodies:
                if task_id == SENTINEL:
                    continue
                if task_id in due:
                    page.append(_stored(body, DELAYED, task_id.decode(errors="replace")))
                elif len(self.strays) < self.REMEMBERED:
                    self.strays[task_id.decode(errors="replace")] = body
            yield page

    async def unique(self) -> AsyncIterator[list[tuple[str, str]]]:
        """Unique keys that are held, each with the ID of its task."""
        async for held in self._scan("unique", "hscan"):
            pairs = ((key.decode(errors="replace"), task.decode(errors="replace")) for key, task in held)
            yield [(key, task) for key, task in pairs if key != keys.SENTINEL]

    async def queued(self) -> AsyncIterator[list[Present]]:
        """What waits for the open task of its schedule."""
        async for kept in self._scan("queued", "hscan"):
            page = [
                _stored(body, QUEUED, stored_task(body), schedule.decode(errors="replace"))
                for schedule, body in kept
                if schedule != SENTINEL
            ]
            yield [task for task in page if task.task_id]

    async def _scan(self, name: str, command: str) -> AsyncIterator[Iterable[tuple[bytes, Any]]]:
        key, cursor = self._partition.key(name), 0
        while True:

            async def ask(client: AsyncClient, cursor: int = cursor) -> tuple[int, Any]:
                return cast("tuple[int, Any]", await getattr(client, command)(key, cursor, count=PAGE))

            cursor, found = await self._redis.use(ask)
            yield found.items() if isinstance(found, Mapping) else found
            if int(cursor) == 0:
                return


def _next_count(count: int, size: int) -> int:
    return max(1, min(PAGE, count * 4, PAGE_BYTES * count // max(1, size)))


def _present(fields: Mapping[bytes, bytes], place: str, entry_id: str) -> Present:
    """Of an entry; somebody else's has the name that it has in the archive."""
    flat = [part for pair in fields.items() for part in pair]
    if place == DEAD:
        name = fields.get(b"task", b"").decode(errors="replace")
    elif not envelopes.is_whole(flat):
        return Present(task_id=f"{FOREIGN}{place}:{entry_id}", place=place, entry_id=entry_id)
    else:
        name = flat[1].decode()
    first = entry_ms(envelopes.first_entry(fields.get(b"history", b"")) or entry_id)
    if place == DEAD:
        died = envelopes.count(fields.get(b"dead_at"))
        return _task(fields, place, name, entry_id=entry_id, birth_ms=died, began_ms=first)
    return _task(fields, place, name, entry_id=entry_id, birth_ms=first)


def _stored(body: bytes, place: str, task_id: str, schedule: str = "") -> Present:
    """Of an envelope that a hash keeps, readable or not."""
    try:
        fields = envelopes.mapping(envelopes.unpack(body))
    except ValueError:
        return Present(task_id=task_id, place=place, schedule=schedule)
    first = envelopes.first_entry(fields.get(b"history", b""))
    birth = entry_ms(first) if first else envelopes.count(fields.get(b"at"))
    return _task(fields, place, task_id, birth_ms=birth, schedule=schedule)


def _task(
    fields: Mapping[bytes, bytes],
    place: str,
    task_id: str,
    *,
    birth_ms: int,
    began_ms: int = 0,
    entry_id: str = "",
    schedule: str = "",
) -> Present:
    return Present(
        task_id=task_id,
        place=place,
        entry_id=entry_id,
        birth_ms=birth_ms,
        began_ms=began_ms,
        token=envelopes.token(dict(fields)),
        base=envelopes.count(fields.get(b"token")) or 1,
        redriven_ms=entry_ms(envelopes.last_letter(fields.get(b"history", b""))),
        unique=fields.get(b"unique", b"").decode(errors="replace"),
        schedule=schedule or fields.get(b"schedule", b"").decode(errors="replace"),
    )

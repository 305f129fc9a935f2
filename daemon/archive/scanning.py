"""What a partition holds now, read a page at a time. Nothing leaves it meanwhile: its state is not `ok`."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Protocol, TypeVar

import msgspec

from reclaimd.daemon.rebuild.values import Present
from reclaimd.streams.ids import EntryID
from reclaimd.streams.keys import STREAMS, Partition
from reclaimd.streams.redis_log import AsyncClient
from reclaimd.streams.scripts import Call

T = TypeVar("T")

PAGE: Final = 1_000
PAGE_BYTES: Final = 4 * 1024 * 1024
"""About what one page may come to: bodies may have megabytes."""
SENTINEL: Final = b"{archive}"
"""A field or member that the archiver planted; it is no task."""


class Redis(Protocol):
    """What a rebuild needs of Redis: `Links` of the daemon and `Source` of the command line both have it."""

    async def send(self, call: Call[T]) -> T:
        """Run a script."""
        ...

    async def use(self, ask: Callable[[AsyncClient], Awaitable[T]], /) -> T:
        """Run commands that may be run twice."""
        ...


class Scan:
    """One look at everything that `partition` holds. Read `tasks` to its end before the other two.

    `ghosts`: delayed without an envelope, `strays`: envelopes of delayed tasks without an instant; task_ids, the first
    `REMEMBERED` of them.
    """

    REMEMBERED: Final = 1_000

    def __init__(self, redis: Redis, partition: Partition) -> None:
        self._redis = redis
        self._partition = partition
        self.ghosts: list[str] = []
        self.strays: list[str] = []

    async def tasks(self) -> AsyncIterator[list[Present]]:
        """All tasks by pages, each of one place: queued ones first, streams in reading order, delayed, dead letters."""
        async for page in self._queued():
            yield page
        for name in STREAMS:
            async for page in self._entries(name):
                yield page
        async for page in self._delayed():
            yield page
        async for page in self._entries("dead"):
            yield page

    async def _entries(self, name: str) -> AsyncIterator[list[Present]]:
        key, low, count = self._partition.key(name), "-", 50
        while True:

            def ask(client: AsyncClient, low: str = low, count: int = count) -> Awaitable[Any]:
                return client.xrange(key, low, "+", count=count)

            rows: list[tuple[bytes, dict[bytes, bytes]]] = await self._redis.use(ask)
            yield [task for entry_id, fields in rows if (task := _present(fields or {}, name, entry_id.decode()))]
            if len(rows) < count:
                return
            low = f"({rows[-1][0].decode()}"
            count = _next_count(count, sum(len(fields.get(b"body", b"")) for _, fields in rows))

    async def _delayed(self) -> AsyncIterator[list[Present]]:
        due: dict[bytes, float] = {}
        async for members in self._scan("delayed", "zscan"):
            due.update(members)
        due.pop(SENTINEL, None)
        async for bodies in self._scan("bodies", "hscan"):
            page = []
            for task_id, body in dict(bodies).items():
                if task_id == SENTINEL:
                    continue
                if due.pop(task_id, None) is None:
                    self._note(self.strays, task_id)
                elif task := _present(_fields(body), "delayed", ""):
                    page.append(task)
            yield page
        for task_id in due:
            self._note(self.ghosts, task_id)

    async def _queued(self) -> AsyncIterator[list[Present]]:
        async for kept in self._scan("queued", "hscan"):
            found = (_present(_fields(body), "queued", "") for name, body in dict(kept).items() if name != SENTINEL)
            yield [task for task in found if task]

    async def _scan(self, name: str, command: str) -> AsyncIterator[Iterable[tuple[bytes, Any]]]:
        key, cursor = self._partition.key(name), 0
        while True:

            async def ask(client: AsyncClient, cursor: int = cursor) -> tuple[int, Any]:
                found: tuple[int, Any] = await getattr(client, command)(key, cursor, count=PAGE)
                return found

            cursor, found = await self._redis.use(ask)
            yield found.items() if isinstance(found, Mapping) else found
            if cursor == 0:
                return

    def _note(self, names: list[str], task_id: bytes) -> None:
        if len(names) < self.REMEMBERED:
            names.append(task_id.decode(errors="replace"))


def _next_count(count: int, size: int) -> int:
    return max(1, min(PAGE, count * 4, PAGE_BYTES * count // max(1, size)))


def _fields(stored: bytes) -> dict[bytes, bytes]:
    """An envelope that is kept as a JSON array; what cannot be read is nobody's task."""
    try:
        flat = msgspec.json.decode(stored, type=list[str | int | float])
    except msgspec.MsgspecError:
        return {}
    words = [str(word).encode() for word in flat]
    return dict(zip(words[::2], words[1::2], strict=False))


def _present(fields: Mapping[bytes, bytes], place: str, entry_id: str) -> Present | None:
    """None for an entry of somebody else's."""
    task_id = fields.get(b"task")
    if task_id is None:
        return None
    try:
        return Present(
            task_id=task_id.decode(),
            place=place,
            entry_id=entry_id,
            birth_ms=_birth(fields, entry_id),
            token=_token(fields),
            unique=fields.get(b"unique", b"").decode(),
            schedule=fields.get(b"schedule", b"").decode(),
        )
    except ValueError:
        return None


def _token(fields: Mapping[bytes, bytes]) -> int:
    counted = sum(int(fields.get(name, b"0")) for name in (b"deliveries", b"attempts", b"handbacks"))
    return int(fields.get(b"token", b"1")) + counted


def _birth(fields: Mapping[bytes, bytes], entry_id: str) -> int:
    """Wall ms of the first entry that carried the task: its history names it."""
    first = fields.get(b"history", b"").partition(b"\n")[0]
    if first:
        row = msgspec.json.decode(first)
        if isinstance(row, list) and len(row) > 4 and row[4]:
            return EntryID.parse(str(row[4])).ms
    return EntryID.parse(entry_id).ms if entry_id else int(fields.get(b"at", b"0"))

"""What happened between the archive's last look and the loss, where Redis can still tell.

It can where the last event that the archive knows is in Redis too: what follows that one is how things went on. After a
rebuild the archive has read none yet; then it can where Redis still has the mark that the archive knows.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final, cast

import msgspec

from reclaimd.daemon.archive.job import Job
from reclaimd.daemon.rebuild.occurrences import FiredFold
from reclaimd.daemon.rebuild.values import DEAD, EVENTS, QUEUED, EndedWhy, FiredRow
from reclaimd.streams import events as ev
from reclaimd.streams.redis_log import AsyncClient

EVENT_PAGE: Final = 100
_WHYS: Final[dict[str, EndedWhy]] = {"Settled": "settled", "Purged": "purged"}
_batch = msgspec.json.Decoder(list[dict[str, Any]])


async def note_what_followed(job: Job) -> None:
    """What ended is not restored, what was fired of schedules counts as fired, what was delayed has its instant."""
    key, position = job.partition.key("events"), job.row.positions.get(EVENTS, "")
    if not position and not await goes_on(job):
        return
    low = position or "-"

    async def ask(client: AsyncClient) -> Any:
        return await client.xrange(key, low, "+", count=EVENT_PAGE)

    fold, rows = _Fold(job), _Rows()
    while True:
        found = await job.redis.use(ask)
        if position and low == position and (not found or found[0][0].decode() != position):
            return
        read = [(entry_id.decode(), fields.get(b"e", b"")) for entry_id, fields in found]
        for _, e in read:
            rows.take(e)
            for why, row in endings(e):
                for letter in rows.of(row[0], row[1] if why == "purged" else ""):
                    job.kept.cover(row[0], letter)
            for task_id in _begun(e):
                job.kept.uncover(task_id, "")
            job.kept.due.update(_delays(e))
        await fold.take(entry for entry in read if entry[0] != position)
        if len(found) < EVENT_PAGE:
            break
        low = f"({read[-1][0]}"
    job.kept.fired.update((row.schedule, row) for row in fold.rows())


async def goes_on(job: Job) -> bool:
    """Whether these are the data that the archive knows, and not older ones: what their events say is what happened."""

    async def ask(client: AsyncClient) -> list[bytes | None]:
        return cast("list[bytes | None]", await client.hmget(job.partition.key("epoch"), ["mark", "mark_before"]))

    return bool(job.row.mark) and job.row.mark.encode() in await job.redis.use(ask)


def endings(e: bytes) -> Iterator[tuple[EndedWhy, list[Any]]]:
    """Rows of a batch that tell that a task ended, or that a dead letter did."""
    if b'"Settled"' not in e and b'"Purged"' not in e:
        return
    try:
        events = _batch.decode(e)
    except msgspec.MsgspecError:
        return
    for event in events:
        why = _WHYS.get(event.get("type", ""))
        if why is not None:
            yield from ((why, row) for row in event.get("tasks", ()))


def _begun(e: bytes) -> Iterator[str]:
    """Tasks that begin with a batch, or come back: what ended before was another life of theirs."""
    if b'"Enqueued"' not in e and b'"Restored"' not in e and b'"OccurrenceFired"' not in e:
        return
    for event in ev.decode_batch("0", e, "").events:
        match event:
            case ev.Enqueued(tasks=begun) | ev.OccurrenceFired(tasks=begun):
                yield from (row.task_id for row in begun)
            case ev.Restored(tasks=restored):
                yield from (row.task_id for row in restored if row.place != DEAD)


class _Rows:
    """By which names the archive may have a task that Redis tells of: a letter by any that it had since, and as open
    what died. It may have read some of that, and a rebuild may have told it some.
    """

    def __init__(self) -> None:
        self._before: dict[str, dict[str, str]] = {}

    def take(self, e: bytes) -> None:
        """A batch, in order; before what ends by it."""
        for task_id in _begun(e):
            # It comes of none of its letters, and goes on when one of these is purged.
            before = self._before.get(task_id, {})
            self._before[task_id] = {to: letter for to, letter in before.items() if to and letter}
        for task_id, letter, to in _moves(e):
            self._before.setdefault(task_id, {})[to] = letter

    def of(self, task_id: str, letter: str) -> set[str]:
        """Of what is this letter now, or open (empty)."""
        before, found = self._before.get(task_id, {}), {letter}
        while (letter := before.get(letter, letter)) not in found:
            found.add(letter)
        return found


def _moves(e: bytes) -> Iterator[tuple[str, str, str]]:
    """Task ID and the letters from which and to which a batch brings it; empty: it is open."""
    if b'"Restored"' not in e and b'"Died"' not in e and b'"Redriven"' not in e:
        return
    for event in ev.decode_batch("0", e, "").events:
        match event:
            case ev.Restored(tasks=restored):
                yield from ((row.task_id, row.old_entry_id, row.entry_id) for row in restored if row.place == DEAD)
            case ev.Died(tasks=dead):
                yield from ((row.task_id, "", row.entry_id) for row in dead)
            case ev.Redriven(tasks=redriven):
                yield from ((row.task_id, row.old_entry_id, "") for row in redriven)


def _delays(e: bytes) -> Iterator[tuple[str, int]]:
    """Tasks that a batch delays, and until when."""
    if b'"Enqueued"' not in e and b'"Retried"' not in e and b'"Restored"' not in e:
        return
    for event in ev.decode_batch("0", e, "").events:
        match event:
            case ev.Enqueued(tasks=accepted):
                yield from ((row.task_id, row.due) for row in accepted if row.due > 0)
            case ev.Retried(tasks=retried):
                yield from ((row.task_id, row.due) for row in retried)
            case ev.Restored(tasks=restored):
                yield from ((row.task_id, row.due) for row in restored if row.due > 0)


class _Fold:
    """Rows of `:fired`, from where the archive has them."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._asked = set[str]()
        self._archived: dict[str, FiredRow] = {}
        self._fold = FiredFold(self._archived, {}, self._drop)

    def rows(self) -> tuple[FiredRow, ...]:
        """Those that went on."""
        return self._fold.rows()

    async def take(self, entries: Iterable[tuple[str, bytes]]) -> None:
        """Fold a page of (entry ID, batch)."""
        read = [
            ev.decode_batch("0", e, entry_id) for entry_id, e in entries if b'"Occurrence' in e or b'"Restored"' in e
        ]
        names = {name for batch in read for event in batch.events for name in _schedules(event)} - self._asked
        if names:
            self._asked |= names
            self._archived.update(await self._job.store.fired(self._job.partition, names))
        for batch in read:
            self._fold.take(batch.events)
            for event in batch.events:
                self._end(event)

    def _end(self, event: ev.Event | ev.Unreadable) -> None:
        match event:
            case ev.OccurrenceClosed(schedules=closed):
                for row in closed:
                    self._fold.close(row.schedule, row.task_id)
            case ev.OccurrenceRetired(schedules=retired):
                for told in retired:
                    self._fold.retire(told)
            case ev.Restored(tasks=restored):
                for back in restored:
                    if back.place == QUEUED:
                        self._fold.queue(_schedule_of(back.task_id), back.task_id)
                    elif back.place != DEAD:
                        self._fold.reopen(_schedule_of(back.task_id), back.task_id)

    def _drop(self, task_id: str) -> None:
        self._job.kept.cover(task_id, "")


def _schedules(event: ev.Event | ev.Unreadable) -> Iterator[str]:
    """Whose rows it may change."""
    match event:
        case ev.OccurrenceFired(tasks=fired):
            yield from (row.schedule for row in fired)
        case ev.OccurrenceQueued(tasks=queued):
            yield from (row.schedule for row in queued)
        case ev.OccurrenceSkipped(occurrences=skipped):
            yield from (row.schedule for row in skipped)
        case ev.OccurrenceClosed(schedules=closed):
            yield from (row.schedule for row in closed)
        case ev.OccurrenceRetired(schedules=retired):
            yield from (row.schedule for row in retired)
        case ev.Restored(tasks=restored):
            yield from (name for row in restored if row.place != DEAD and (name := _schedule_of(row.task_id)))


def _schedule_of(task_id: str) -> str:
    """Of an occurrence's task; of others empty, or the name of none."""
    name, _, rest = task_id.partition(":")
    return name if rest else ""

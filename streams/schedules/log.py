"""The log of schedules in Redis: events appended, folded, snapshotted, trimmed.

Every write here may be sent twice. An event that is appended again does nothing that the first did not: an equal
definition keeps its generation, a pause of what is paused or a resume of what runs is nothing. A snapshot that broke
off is never committed, and so never read.

Trimming goes no further than the oldest snapshot that is kept, and leaves the event that this one covers: whoever has
folded up to an event reads on from it inclusively, and learns from its absence that events may have been trimmed
away before it read them. No clock and no counter could tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple, TypeAlias

import redis

from reclaimd.streams.ids import EntryID
from reclaimd.streams.keys import schedule_epoch_key, schedule_events_key, schedule_snapshots_key
from reclaimd.streams.redis_log import AsyncClient, send
from reclaimd.streams.schedules import snapshot
from reclaimd.streams.schedules.archive_scripts import SnapshotEnd, event_of, schedules_commit
from reclaimd.streams.schedules.events import Event, encode
from reclaimd.streams.schedules.fold import START, Applied, Schedules, apply, revive
from reclaimd.streams.schedules.snapshot import Commit, Damaged, Whole, read_commit

PAGE: Final = 500
"""Events read at once."""
CHUNKS: Final = 4
"""Entries of a snapshot read or written at once, of up to a megabyte each."""
KEPT: Final = 3
WAITING: Final = 200_000
"""Events that may wait for the archive at most; beyond that they are trimmed, and the archive reads all again."""
_ATTEMPTS: Final = 5

_Entry: TypeAlias = tuple[str, Mapping[bytes, bytes]]


@dataclass(slots=True)
class Loaded:
    """The schedules as the log has them, and how they came about.

    `snapshot_id`: the header of the snapshot that it began with, None for none; `snapshot_age_ms`: in server time;
    `folded`: events applied since that snapshot; `problems`: sentences about damage. `anchored`: the event at
    `position` is in the log, or was when it was last read.
    """

    state: Schedules
    snapshot_id: str | None = None
    snapshot_age_ms: int | None = None
    problems: list[str] = field(default_factory=list)
    folded: int = 0
    anchored: bool = True
    restored: str = ""

    @property
    def position(self) -> EntryID:
        """The last event applied."""
        return self.state.position


class Written(NamedTuple):
    """A committed snapshot. `covers`: its last event; `payload`: bytes."""

    snapshot_id: str
    covers: str
    rows: int
    chunks: int
    payload: int


class Unfinished(NamedTuple):
    """A snapshot without its commit. `end`: what that has to say; `covers`: its last event; `payload`: bytes."""

    end: SnapshotEnd
    covers: str
    payload: int


class Trimmed(NamedTuple):
    """Entries deleted."""

    snapshots: int
    events: int


class ScheduleLog:
    """The two streams of a namespace. One call at a time on one connection; raises the client library's errors."""

    def __init__(self, client: AsyncClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._epoch = schedule_epoch_key(namespace)
        self._events = schedule_events_key(namespace)
        self._snapshots = schedule_snapshots_key(namespace)

    async def append(self, events: Iterable[Event]) -> list[str]:
        """Add events in order, in as few round trips as fit; returns their IDs.

        When it raises, the first of them may have been added: appending them all again is harmless.
        """
        ids: list[str] = []
        encoded = iter([encode(event) for event in events])
        while batch := list(islice(encoded, PAGE)):
            ids += await self._add(self._events, [{"e": event} for event in batch])
        return ids

    async def load(self) -> Loaded:
        """The newest whole snapshot and what came after it; without one, all events.

        Begins again when what it is reading was trimmed meanwhile, behind a snapshot newer than its own.
        """
        tried: list[str | None] = []
        for _ in range(_ATTEMPTS):
            # Read before the log: one that is restored meanwhile is then seen to be another.
            restored: Any = await self._client.hget(self._epoch, "restored")
            loaded = await self._base()
            loaded.restored = (restored or b"").decode()
            if loaded.snapshot_id in tried:
                loaded.anchored = False
                loaded.problems.append(_gap(loaded))
            if await self._catch_up(loaded):
                return loaded
            tried.append(loaded.snapshot_id)
            del loaded  # or two states would be held while the next is read
        raise redis.TimeoutError(f"{self._events} was trimmed {_ATTEMPTS} times while it was read")

    async def _catch_up(self, loaded: Loaded) -> bool:
        while True:
            applied = await self.follow(loaded)
            if applied is None or len(applied) < PAGE:
                return applied is not None

    async def follow(self, loaded: Loaded) -> list[Applied] | None:
        """Fold what comes next, at most PAGE events: fewer when that was all. Every event has one result.

        None: events may have been trimmed before they were read, or Redis has lost data. Load again.
        """
        entries = await self._next(loaded)
        if entries is None:
            return None
        applied = [apply(loaded.state, entry_id, event_of(fields)) for entry_id, fields in entries]
        loaded.folded += len(applied)
        loaded.anchored = loaded.anchored or bool(applied)
        return applied

    async def _next(self, loaded: Loaded) -> list[_Entry] | None:
        """The next entries; None when the one at the position is not there any more."""
        position = loaded.position
        if not loaded.anchored:
            return await self._range(self._events, f"({position}", "+", PAGE)
        if position > START:
            found = await self._range(self._events, str(position), "+", PAGE + 1)
            return found[1:] if found and found[0][0] == str(position) else None
        found = await self._range(self._events, "-", "+", PAGE)
        # Nothing was read yet, so there is nothing to begin at. A snapshot of events says that there were some, and
        # it was there before anything was trimmed behind it.
        newest = await self._commits(1)
        return None if newest and EntryID.parse(newest[0].covers) > START else found

    async def _base(self) -> Loaded:
        """The newest whole snapshot as a state."""
        problems: list[str] = []
        end, count = "+", 1
        while entries := await self._reversed(end, count):
            for entry_id, fields in entries:
                if fields.get(b"kind") != b"commit":
                    continue
                found = await self._snapshot_of(entry_id, fields)
                if isinstance(found, Whole):
                    revive(found.state)
                    age = await self._now_ms() - EntryID.parse(found.of).ms
                    return Loaded(found.state, found.of, max(0, age), problems)
                problems.append(f"snapshot {found.of or entry_id} is damaged and was not used: {found.why}")
            end, count = f"({entries[-1][0]}", CHUNKS
        return Loaded(Schedules(), problems=problems)

    async def _snapshot_of(self, commit_id: str, fields: Mapping[bytes, bytes]) -> Whole | Damaged:
        commit = read_commit(fields)
        if commit is None:
            return Damaged("", "its commit cannot be read")
        decoder = snapshot.Decoder(commit.of)
        start = commit.of
        while entries := await self._range(self._snapshots, start, commit_id, CHUNKS):
            for entry_id, entry in entries:
                found = decoder.feed(entry_id, entry)
                if found is not None:
                    return found
            start = f"({entries[-1][0]}"
        return Damaged(commit.of, "its entries are gone")

    async def write_snapshot(self, state: Schedules, *, restored: str = "") -> Written | None:
        """Write the state as it is now, whatever becomes of it meanwhile; None when it was overtaken.

        Overtaken: others have written so many meanwhile that the beginning of this one is trimmed already, or the log
        was restored from the archive since the state was loaded. `restored`: the restoration it stands on.
        """
        end, covers, payload = await self.begin_snapshot(state.copy())
        status = await send(self._client, schedules_commit(self._namespace, restored, end, covers))
        return Written(end.of, covers, end.rows, end.chunks, payload) if status == "ok" else None

    async def begin_snapshot(self, frozen: Schedules) -> Unfinished:
        """Write all of a snapshot but its commit, without which nobody reads it. The state must not change."""
        [of] = await self._add(self._snapshots, [snapshot.header(frozen)])
        payload = 0
        parts = snapshot.rest(frozen, of)
        while True:
            batch = list(islice(parts, CHUNKS))
            commits = batch[-1]["kind"] == "commit"
            sent = batch[:-1] if commits else batch
            await self._add(self._snapshots, sent)
            payload += sum(len(fields["rows"]) for fields in sent)
            if commits:
                end = batch[-1]
                found = SnapshotEnd(of, int(end["chunks"]), int(end["rows"]), str(end["checksum"]))
                return Unfinished(found, str(frozen.position), payload)

    async def is_frozen(self) -> bool:
        """Whether it has lost something and waits to be restored from the archive."""
        state: Any = await self._client.hget(self._epoch, "state")
        return state is not None and state != b"ok"

    async def kept(self, until: EntryID) -> list[tuple[str, bytes]]:
        """All events up to and with this one that are still there, as their bytes."""
        found: list[tuple[str, bytes]] = []
        low = "-"
        while page := await self._range(self._events, low, str(until), PAGE):
            found += [(entry_id, event_of(fields)) for entry_id, fields in page]
            low = f"({page[-1][0]}"
        return found

    async def archived(self) -> EntryID | None:
        """Up to where an archive has read the log, None when there is none or too much waits for it."""
        found: Any = await self._client.hmget(self._epoch, ["archive_id", "position"])
        if not found[0]:
            return None
        if await self._client.xlen(self._events) > WAITING:
            # The archive learns by it that it has missed some.
            await self._client.hset(self._epoch, "gap", "1")
            return None
        return EntryID.parse(found[1] or b"0-0")

    async def trim(self, *, keep: int = KEPT, limit: EntryID | None = None) -> Trimmed:
        """Delete snapshots before the newest `keep`, and events that all of those cover; nothing while there are fewer.

        `limit`: no event from this one on is deleted, whatever the snapshots cover (the archive's position).
        """
        kept = await self._commits(keep)
        if len(kept) < keep:
            return Trimmed(0, 0)
        # Snapshots first: a reader whose snapshot is still there can then count on the events after it.
        first = min(EntryID.parse(commit.of) for commit in kept)
        snapshots = await self._client.xtrim(self._snapshots, minid=str(first), approximate=False)
        covered = min(EntryID.parse(commit.covers) for commit in kept)
        bound = covered if limit is None else min(covered, limit)
        events = await self._client.xtrim(self._events, minid=str(bound), approximate=False)
        return Trimmed(int(snapshots), int(events))

    async def _commits(self, count: int) -> list[Commit]:
        """The newest commits, at most `count`, reading one entry of each snapshot instead of all of it."""
        commits: list[Commit] = []
        end = "+"
        while len(commits) < count and (entries := await self._reversed(end, 1)):
            [(entry_id, fields)] = entries
            commit = read_commit(fields)
            if commit is not None:
                commits.append(commit)
            end = f"({_before(entry_id, fields)}"
        return commits

    async def _now_ms(self) -> int:
        seconds, micros = await self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def _add(self, key: str, entries: Sequence[Mapping[str, str | bytes]]) -> list[str]:
        """XADD each, in one round trip, not atomically."""
        if not entries:
            return []
        pipeline: Any = self._client.pipeline(transaction=False)
        for fields in entries:
            pipeline.xadd(key, dict(fields))
        return [reply.decode() for reply in await pipeline.execute()]

    async def _range(self, key: str, start: str, end: str, count: int) -> list[_Entry]:
        return _entries(await self._client.xrange(key, start, end, count=count))

    async def _reversed(self, end: str, count: int) -> list[_Entry]:
        return _entries(await self._client.xrevrange(self._snapshots, end, "-", count=count))


def _entries(reply: Any) -> list[_Entry]:
    return [(entry_id.decode(), fields) for entry_id, fields in reply or ()]


def _before(entry_id: str, fields: Mapping[bytes, bytes]) -> str:
    """Where the snapshot of this entry begins; the entry itself when it does not say."""
    try:
        of = EntryID.parse(fields.get(b"of", b""))
    except ValueError:
        return entry_id
    return str(min(of, EntryID.parse(entry_id)))


def _gap(loaded: Loaded) -> str:
    if loaded.snapshot_id is None:
        return "no snapshot can be used and events before those that are left may be gone"
    return f"event {loaded.position}, up to which snapshot {loaded.snapshot_id} counts, is gone: later ones may be too"

"""What is restored is the fold of what the archive had seen and of what clients appended since, whatever was lost when.

Against the simple model of schedules; the server, its data being copied back, deleted or left alone, is a real one.
"""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from property.test_schedule_fold import EVENTS, plain
from reclaimd.streams.errors import RedisUnreachable
from reclaimd.streams.keys import schedule_epoch_key, schedule_events_key, schedule_snapshots_key
from support.daemons import NAMESPACE
from support.schedule_archives import archived, loaded
from support.schedule_logs import opened
from support.schedule_model import Entry, expected
from support.servers import Server

LOG = schedule_events_key(NAMESPACE)
SNAPSHOTS = schedule_snapshots_key(NAMESPACE)
EPOCH = schedule_epoch_key(NAMESPACE)
KEYS = (LOG, SNAPSHOTS, EPOCH)

losses = st.sampled_from(["nothing", "everything", "back", "back", LOG, SNAPSHOTS, EPOCH, f"{LOG} {EPOCH}"])
kills = st.tuples(st.integers(0, 9), st.booleans())
operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(EVENTS, min_size=1, max_size=3)),
        st.tuples(st.just("append"), st.lists(EVENTS, min_size=1, max_size=3)),
        st.tuples(st.just("archive"), st.none()),
        st.tuples(st.just("snapshot"), st.none()),
        st.tuples(st.just("save"), st.none()),
        st.tuples(st.just("lose"), losses),
        st.tuples(st.just("kill"), kills),
    ),
    min_size=4,
    max_size=18,
)


class World:
    """A server, an archive, and what there must be. `true`: the events that count; `seen`: how many the archive has."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.true: list[Entry] = []
        self.seen = 0
        self.lost = False
        self.saved: tuple[int, list[bytes | None]] | None = None

    async def run(self, steps: list[tuple[str, Any]]) -> None:
        await self.archive(None)
        for what, how in steps:
            await getattr(self, what)(how)
        await self.archive(None)
        self.check((await loaded(self.server)).state)
        assert (await loaded(self.server)).problems == []
        async with archived(self.server, self.folder) as to:
            self.check(await to.fold())

    def check(self, state: Any) -> None:
        found, wanted = plain(state), expected(self.true)
        for what in ("rows", "problems", "unreadable"):
            assert found[what] == wanted[what]

    async def append(self, raws: list[bytes]) -> None:
        async with opened(self.server) as (_log, client):
            for raw in raws:
                entry_id: Any = await client.xadd(LOG, {"e": raw})
                self.true.append((entry_id.decode(), raw))

    async def archive(self, _: None) -> None:
        async with archived(self.server, self.folder) as to:
            await to.caught_up()
        self.seen, self.lost = len(self.true), False

    async def kill(self, how: tuple[int, bool]) -> None:
        """A daemon dies on the way."""
        async with archived(self.server, self.folder) as to:
            to.links.at, to.links.after = how
            try:
                await to.caught_up()
            except RedisUnreachable:
                if not self.lost:
                    # How much it has committed only it knows.
                    self.seen = len([event async for event in to.store.schedules.events(NAMESPACE)])
                return
        self.seen, self.lost = len(self.true), False

    async def snapshot(self, _: None) -> None:
        async with opened(self.server) as (log, _client):
            now = await log.load()
            await log.write_snapshot(now.state, restored=now.restored)
            if not self.lost:
                await log.trim(keep=1, limit=await log.archived())

    async def save(self, _: None) -> None:
        if not self.lost:
            async with opened(self.server) as (_log, client):
                self.saved = len(self.true), [await client.dump(key) for key in KEYS]

    async def lose(self, what: str) -> None:
        if self.lost or (what == "back" and self.saved is None):
            return
        left = len(self.true)
        async with opened(self.server) as (_log, client):
            if what == "everything":
                await client.flushall()
                left = 0
            elif what == "back" and self.saved is not None:
                left, dumps = self.saved
                for key, dump in zip(KEYS, dumps, strict=True):
                    await client.delete(key)
                    if dump is not None:
                        await client.restore(key, 0, dump)
            elif what != "nothing":
                await client.delete(*what.split())
                left = 0 if LOG in what else left
        self.true = self.true[: max(left, self.seen)]
        self.lost, self.saved = what != "nothing", None


def explore(server: Server, examples: int) -> None:
    """Play so many histories, each on an empty server with an archive of its own."""

    @settings(max_examples=examples, suppress_health_check=[HealthCheck.too_slow])
    @given(steps=operations)
    def histories(steps: list[tuple[str, Any]]) -> None:
        server.flush()
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(World(server, Path(folder)).run(steps))

    histories()


@pytest.mark.flavours("valkey")
def test_restored_is_the_fold_of_archive_and_clients(server: Server) -> None:
    explore(server, 30)


@pytest.mark.soak
def test_soak(server: Server, soak_rounds: Iterator[int]) -> None:
    for _ in soak_rounds:
        explore(server, 200)

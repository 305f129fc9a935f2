"""A rebuild that is killed, doubled, repeated, and one that producers do not wait for."""

import asyncio
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reclaimd.daemon.archive import removing, restoring, restoring_fired, sending
from reclaimd.daemon.archive.job import Overtaken
from reclaimd.daemon.archive.progress import RESTORING_TASKS, Step
from reclaimd.daemon.archive.rebuilding import accept_partition, freeze_partition, plan_rebuild
from reclaimd.daemon.connectivity import Connectivity
from reclaimd.daemon.links import Links
from reclaimd.daemon.loops.catching_up import look
from reclaimd.daemon.rebuild.values import Changes
from reclaimd.streams.errors import RedisUnreachable
from support.daemons import in_loop
from support.partitions import assert_same
from support.rebuilds import EVENTS_CAP, ME, Meddling, Ward, at, ward
from support.servers import FreshServer, Server

STEPS = ("freeze", "restore", "drop", "finish")


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sending, removing):
        monkeypatch.setattr(module, "RESTORE_ROWS", 3)
    for module in (restoring, sending):
        monkeypatch.setattr(module, "PAGE", 5)
    monkeypatch.setattr(restoring_fired, "ROWS", 1)


class Killed(Exception):
    """The process that rebuilt is no more."""


async def finish(one: Ward) -> None:
    """Rebuild until it is whole."""
    for _ in range(10):
        if await one.kind() == "healthy":
            return
        await one.rebuild()
    raise AssertionError("it does not come to an end")


@pytest.mark.parametrize("rolled_back", [False, True], ids=["empty", "rolled back"])
@in_loop
async def test_killed_at_every_step(fresh_server: FreshServer, url: str, rolled_back: bool) -> None:
    server = fresh_server("valkey")
    async with ward(server, url) as one:
        await one.archived(paused=False)
        if rolled_back:
            one.client.save()
            token = one.join("second", "w2")
            for task in one.take("second", token, 2):
                one.settle("second", token, task, "succeeded", run_ms=1)
            one.enqueue("one-more", delay_ms=5_000_000)
            await one.archive()
        before = one.held()
        server.kill9()
        server.start()
        lives, patience, stood = 0, 0, None
        while await one.kind() != "healthy":
            lives += 1
            assert lives < 100
            # One step further each time, if that is a step further; its reply is lost with the process.
            stands = one.client.hmget(one.partition.key("epoch"), "cursor", "state")
            patience = patience + 1 if stands == stood else 0
            stood = stands
            left = [2 + patience if lives > 1 else 1]

            def die(name: str, left: list[int] = left) -> None:
                left[0] -= name in STEPS
                if left[0] == 0:
                    raise Killed

            with suppress(Killed):
                await one.rebuild(Meddling(one.links, after=die))
        assert lives > 8
        assert_same(before, one.held(), ordered=not rolled_back)
        last = await one.store.last_rebuild(one.partition)
        assert last is not None
        assert last.verdict == ("rolled_back" if rolled_back else "empty")


@in_loop
async def test_two_at_once(fresh_server: FreshServer, url: str) -> None:
    server = fresh_server("valkey")
    other = Links(server.url, Connectivity())
    async with ward(server, url) as one:
        before = await one.archived()
        for _ in range(5):
            one.client.flushall()
            results = await asyncio.gather(one.rebuild(), one.rebuild(other), return_exceptions=True)
            assert not [r for r in results if isinstance(r, BaseException) and not isinstance(r, Overtaken)], results
            await finish(one)
            assert_same(before, one.held())
            await one.archive()
        await other.aclose()


@in_loop
async def test_one_who_sleeps_and_goes_on_when_all_is_done(server: Server, tmp_path: Path) -> None:
    async with ward(server, f"sqlite:///{tmp_path}/a.db") as one:
        before = await one.archived(paused=False)
        for stop_at in range(1, 14):
            one.client.flushall()
            asleep, woken = asyncio.Event(), asyncio.Event()
            links = _Sleepy(one.links, stop_at, asleep, woken)
            sleeper = asyncio.create_task(one.rebuild(links))
            waiting = asyncio.create_task(asleep.wait())
            await asyncio.wait({sleeper, waiting}, return_when="FIRST_COMPLETED")
            await finish(one)
            token = one.join("quick", f"q{stop_at}")
            assert_same(before, one.held())
            woken.set()
            waiting.cancel()
            [result] = await asyncio.gather(sleeper, return_exceptions=True)
            assert not isinstance(result, BaseException) or isinstance(result, Overtaken), result
            assert await one.kind() == "healthy"
            assert_same(before, one.held())
            assert token
            await one.archive()


class _Sleepy(Meddling):
    """Sleeps before one step."""

    def __init__(self, links: Links, stop_at: int, asleep: asyncio.Event, woken: asyncio.Event) -> None:
        super().__init__(links)
        self._left = stop_at
        self._asleep = asleep
        self._woken = woken

    async def send(self, call):  # type: ignore[no-untyped-def]
        if call.script.name in STEPS:
            self._left -= 1
            if self._left == 0:
                self._asleep.set()
                await self._woken.wait()
        return await super().send(call)


@in_loop
async def test_batches_that_overtake_each_other(server: Server, tmp_path: Path) -> None:
    async with ward(server, f"sqlite:///{tmp_path}/a.db") as one:
        before = await one.archived()
        row = await one.store.partition(one.partition)
        assert row is not None
        rows = await one.store.tasks_after(one.partition, None, 1_000)
        good = next(task for task in rows if task.place == "lane:high")
        # Redis refuses it once the batch in front is done, and all of its own batch with it.
        fields = good.envelope.replace(good.task_id.encode(), b"odd")
        odd = msgspec.structs.replace(good, task_id="odd", entry_id="not one", envelope=fields)
        await one.store.commit(one.partition, ME, Changes(upserts=(odd,)), row.positions)
        one.client.flushall()
        links = _Overtaking(one.links, last=rows[-1].task_id)
        report = await one.rebuild(links)
        assert links.overtaken >= len(rows) // 6
        assert [left_out.what for left_out in report.unrestorable] == ["odd"]
        assert_same(before, one.held())
        assert await one.kind() == "healthy"


class _Overtaking(Meddling):
    """Holds a batch of tasks back until the next one was answered; not that with the `last` task."""

    def __init__(self, links: Links, last: str) -> None:
        super().__init__(links)
        self.overtaken = 0
        # What was sent before is sent again when the one in front of it is done: nothing comes behind it meanwhile.
        self._sent: set[str] = set()
        self._last = last
        self._held: asyncio.Event | None = None

    async def send(self, call):  # type: ignore[no-untyped-def]
        is_batch = call.script.name == "restore" and "tasks" in call.args and str(call.args[3]).startswith("tasks|")
        if not is_batch:
            return await super().send(call)
        to = call.args[3]
        is_again = to in self._sent
        self._sent.add(to)
        if self._held is None and not is_again and not to.endswith(f"|{self._last}"):
            self._held = asyncio.Event()
            await self._held.wait()
            self._held = None
            return await super().send(call)
        reply = await super().send(call)
        if self._held is not None:
            self.overtaken += reply.status == "moved"
            self._held.set()
        return reply


@in_loop
async def test_producers_go_on(server: Server, tmp_path: Path) -> None:
    async with ward(server, f"sqlite:///{tmp_path}/a.db") as one:
        before = await one.archived()
        one.client.flushall()
        new: list[str] = []

        def produce(name: str) -> None:
            if name in STEPS[1:]:
                new.append(f"new-{len(new)}")
                assert one.enqueue(new[-1], delay_ms=len(new) % 2 * 3_600_000) == ["ok"]
                # Sent again without end: those that are on their way back, and those that have settled.
                one.enqueue("normal-1", "normal-2", "done-1", "done-2")

        report = await one.rebuild(Meddling(one.links, before=produce, after=produce))
        assert report.dropped["settled"] == 2
        after = one.held()
        assert_same(before, after, new=frozenset(new), ordered=False)
        await one.archive()


@in_loop
async def test_who_goes_on_shows_what_is_back_already(server: Server, tmp_path: Path) -> None:
    """Else the bar of the second run would never come to its end."""
    async with ward(server, f"sqlite:///{tmp_path}/a.db") as one:
        await one.archived()
        one.client.flushall()
        steps = list[Step]()

        def watch(step: Step) -> None:
            if step.what == RESTORING_TASKS:
                steps.append(step)

        def die_halfway(step: Step) -> None:
            watch(step)
            if steps and steps[-1].done >= 9:
                raise Killed

        with suppress(Killed):
            await one.rebuild(progress=die_halfway)
        reached = steps[-1]
        steps.clear()
        await one.rebuild(progress=watch)
        assert reached.total is not None
        assert 9 <= reached.done < reached.total
        # The call that was under way may have come through.
        assert reached.done <= steps[0].done < reached.total, (reached, steps)
        assert steps[-1][1:3] == (reached.total, reached.total)


@in_loop
async def test_again_changes_nothing(server: Server, tmp_path: Path) -> None:
    async with ward(server, f"sqlite:///{tmp_path}/a.db") as one:
        await one.archived()
        one.client.flushall()
        judged, seen, _ = await look(one.store, one.links, one.partition)
        await one.rebuild()
        there = _everything(one)
        with pytest.raises(Overtaken):
            await freeze_partition(one.store, one.links, one.partition, judged, seen, new_id=lambda: "0" * 16)
        assert _everything(one) == there
        assert await one.kind() == "healthy"


def _everything(one: Ward) -> dict[bytes, Any]:
    """All keys. In the dump of a hash or a set the order may change while nothing is written."""
    readers: dict[bytes | str, Any] = {b"hash": one.client.hgetall, b"set": one.client.smembers}
    return {key: readers.get(one.client.type(key), one.client.dump)(key) for key in one.client.scan_iter()}


@in_loop
async def test_a_dry_run_says_what_a_rebuild_then_does(server: Server, tmp_path: Path) -> None:
    async with ward(server, f"sqlite:///{tmp_path}/a.db") as one:
        await one.archived()
        one.client.flushall()
        one.enqueue("normal-1", "done-1", "new")
        judged, _, _ = await look(one.store, one.links, one.partition)
        dumped = {key: one.client.dump(key) for key in one.client.scan_iter()}
        planned = await plan_rebuild(one.store, one.links, one.partition, judged)
        assert {key: one.client.dump(key) for key in one.client.scan_iter()} == dumped
        assert planned.dry_run
        report = await one.rebuild()
        for name in ("verdict", "restored", "kept", "dropped", "fired_rows", "unrestorable"):
            assert getattr(planned, name) == getattr(report, name), name


@in_loop
async def test_frozen_until_somebody_decides(server: Server, tmp_path: Path) -> None:
    async with ward(server, f"sqlite:///{tmp_path}/a.db") as one:
        before = await one.archived()
        one.client.flushall()
        judged, seen, _ = await look(one.store, one.links, one.partition)
        await freeze_partition(one.store, one.links, one.partition, judged, seen, new_id=lambda: secrets.token_hex(8))
        assert await one.kind() == "lost"
        assert one.enqueue("new") == ["ok"]
        report = await one.rebuild()
        assert report.verdict == "empty"
        assert_same(before, one.held(), new=frozenset({"new"}), ordered=False)


@in_loop
async def test_accepting_redis_as_it_is(server: Server, tmp_path: Path) -> None:
    async with ward(server, f"sqlite:///{tmp_path}/a.db") as one:
        await one.archived()
        one.client.flushall()
        one.enqueue("new")
        judged, seen, _ = await look(one.store, one.links, one.partition)
        report = await accept_partition(
            one.store,
            one.links,
            one.partition,
            judged,
            seen,
            me=ME,
            new_id=lambda: secrets.token_hex(8),
            events_cap=EVENTS_CAP,
        )
        assert report.verdict == "accepted"
        assert set(one.held().tasks) == {"new"}
        assert await one.kind() == "healthy"
        await one.archive()
        assert await one.store.count_tasks(one.partition) == {"lane:normal": 1}


@in_loop
async def test_data_that_came_back_before_their_rebuild_are_archived_on(server: Server, tmp_path: Path) -> None:
    """The archive was told of a rebuild, and Redis never was: it was only away."""
    async with ward(server, f"sqlite:///{tmp_path}/a.db") as one:
        await one.archived()
        before = await one.store.count_tasks(one.partition)
        await one.store.begin_rebuild(one.partition, "0" * 16, "1" * 16, "empty", "rebuilding")
        one.enqueue("new", lane="low")
        await one.archive()
        row = await one.store.partition(one.partition)
        assert row is not None
        assert row.state == "archiving"
        assert await one.store.count_tasks(one.partition) == {**before, "lane:low": before["lane:low"] + 1}


@in_loop
async def test_a_second_loss_while_it_runs(server: Server, tmp_path: Path) -> None:
    async with ward(server, f"sqlite:///{tmp_path}/a.db") as one:
        before = await one.archived()
        one.client.flushall()
        with pytest.raises(Overtaken):
            await one.rebuild(Meddling(one.links, after=at(4, "restore", one.client.flushall)))
        await finish(one)
        assert_same(before, one.held())


@in_loop
async def test_no_answer_is_no_end(server: Server, tmp_path: Path) -> None:
    async with ward(server, f"sqlite:///{tmp_path}/a.db") as one:
        before = await one.archived()
        one.client.flushall()

        def lose() -> None:
            raise RedisUnreachable("redis://test", "the reply was lost")

        with pytest.raises(RedisUnreachable):
            await one.rebuild(Meddling(one.links, after=at(3, "restore", lose)))
        assert await one.kind() == "rebuilding"
        await finish(one)
        assert_same(before, one.held())

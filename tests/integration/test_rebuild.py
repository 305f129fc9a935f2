"""Every kind of loss on real servers: what the archive knew is back, in order, and what had ended is not."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclaimd.daemon.archive.items import Maker
from reclaimd.daemon.archive.job import Job
from reclaimd.daemon.archive.progress import Meter, silent
from reclaimd.daemon.archive.scanning import Scan
from reclaimd.daemon.rebuild import envelopes
from reclaimd.daemon.rebuild.plan import restorable
from reclaimd.daemon.rebuild.values import RANKS, Changes, PartitionRow, Restorable, TaskRow, sort_of_entry
from reclaimd.streams import scripts
from reclaimd.streams.keys import Partition
from reclaimd.streams.occurrence_scripts import retire
from support.daemons import in_loop
from support.partitions import assert_same
from support.rebuilds import ME, Meddling, Ward, deleted, ward
from support.servers import FreshServer, Server
from support.waiting import await_until

GUARDED = (
    "suspect",
    "recovered:normal",
    "lane:high",
    "lane:normal",
    "lane:low",
    "dead",
    "events",
    "delayed",
    "bodies",
    "fired",
    "queued",
    "unique",
    "control",
    "counters",
    "epoch",
)
CURED = ("workers", "leases", "clock", "bell", "seen_even")
"""Keys whose loss the protocol itself cures."""


def url_in(folder: Path) -> str:
    """Of a SQLite archive."""
    return f"sqlite:///{folder}/archive.db"


async def assert_whole(one: Ward, kind: str) -> None:
    """The loss is over, a second rebuild is not due, and the archive agrees with Redis again."""
    assert one.held().state == "ok"
    assert await one.kind() == "healthy"
    rows = await one.store.tasks_after(one.partition, None, 1000)
    await one.archive()
    archived = await one.store.tasks_after(one.partition, None, 1000)
    held = one.held()
    assert sorted(row.task_id for row in archived) == sorted(held.tasks), f"archive after {kind}, was {rows}"
    assert {row.task_id: row.token for row in archived} == held.tokens
    last = await one.store.last_rebuild(one.partition)
    assert last is not None
    assert last.ended_ms > 0
    assert last.verdict == kind


@pytest.mark.parametrize("command", ["flushall", "flushdb"])
@in_loop
async def test_everything_is_gone(server: Server, tmp_path: Path, command: str) -> None:
    async with ward(server, url_in(tmp_path)) as one:
        before = await one.archived()
        getattr(one.client, command)()
        assert await one.kind() == "empty"
        report = await one.rebuild()
        assert_same(before, one.held())
        assert report.unrestorable_count == 0
        assert sum(report.restored.values()) == len(before.tasks)
        assert one.client.smembers("{t}:queues") == {b"mail"}
        await assert_whole(one, "empty")


@pytest.mark.parametrize("name", GUARDED)
@in_loop
async def test_one_key_is_gone(server: Server, tmp_path: Path, name: str) -> None:
    async with ward(server, url_in(tmp_path)) as one:
        before = await one.archived()
        deleted(one.client, one.partition.key(name))
        assert await one.kind() == "partial"
        await one.rebuild()
        assert_same(before, one.held(), ordered=name != "lane:high")
        await assert_whole(one, "partial")


@pytest.mark.flavours("valkey")
@pytest.mark.parametrize("name", ["lane:low", "dead", "delayed", "fired", "counters", "control"])
@in_loop
async def test_one_key_is_gone_while_a_rebuild_runs(server: Server, tmp_path: Path, name: str) -> None:
    async with ward(server, url_in(tmp_path)) as one:
        before = await one.archived()
        one.client.flushall()
        steps: list[str] = []

        def lose(step: str) -> None:
            steps.append(step)
            state, cursor = one.client.hmget(one.partition.key("epoch"), "state", "cursor")
            if (state, cursor) == (b"rebuilding", b"done|"):
                deleted(one.client, one.partition.key(name))

        await one.rebuild(Meddling(one.links, after=lose))
        assert steps[-1] == "finish"
        assert await one.kind() == "partial"
        await one.rebuild()
        assert_same(before, one.held())
        await assert_whole(one, "partial")


@pytest.mark.parametrize("name", CURED)
@in_loop
async def test_a_key_that_nobody_misses(server: Server, tmp_path: Path, name: str) -> None:
    async with ward(server, url_in(tmp_path)) as one:
        before = await one.archived()
        one.client.delete(one.partition.key(name))
        assert await one.kind() == "healthy"
        assert_same(before, one.held())


@in_loop
async def test_a_restart_without_persistence(fresh_server: FreshServer, flavour: str, tmp_path: Path) -> None:
    server = fresh_server()
    async with ward(server, url_in(tmp_path)) as one:
        before = await one.archived()
        server.kill9()
        server.start()
        assert await one.kind() == "empty"
        await one.rebuild()
        assert_same(before, one.held())
        await assert_whole(one, "empty")


@in_loop
async def test_traffic_after_the_loss_begins_a_new_epoch(server: Server, tmp_path: Path) -> None:
    async with ward(server, url_in(tmp_path)) as one:
        before = await one.archived()
        one.client.flushall()
        assert one.enqueue("new-1", "new-2") == ["ok", "ok"]
        # A producer that got no answer sends these again: one is open, one has settled.
        assert one.enqueue("normal-1", "done-1") == ["ok", "ok"]
        assert await one.kind() == "empty"
        report = await one.rebuild()
        assert report.dropped == {"settled": 1}
        after = one.held()
        assert_same(before, after, new=frozenset({"new-1", "new-2"}), ordered=False)
        assert one.enqueue("normal-2", "done-2") == ["duplicate", "duplicate"]
        await assert_whole(one, "empty")


async def _go_on(one: Ward) -> None:
    """After the copy was made: tasks end, come back, are retried, buried, purged, fired, enqueued."""
    token = one.join("second", "w2")
    high = {task.task_id: task for task in one.take("second", token, 2)}
    one.settle("second", token, high["high-1"], "succeeded", run_ms=1)
    one.settle("second", token, high["high-2"], "retry", run_ms=1, cause="E", error="e", delay_ms=9_000_000)
    one.enqueue("high-3", lane="high")
    [last] = one.take("second", token, 1)
    one.settle("second", token, last, "failed", run_ms=1, cause="E", error="e")
    one.enqueue("high-4", lane="high", unique="u:4")


async def _see_rolled_back(one: Ward, before_ids: set[str]) -> None:
    assert await one.kind() == "rolled_back"
    await one.rebuild()
    assert set(one.held().tasks) == before_ids


@in_loop
async def test_a_restart_from_an_old_dump(fresh_server: FreshServer, flavour: str, tmp_path: Path) -> None:
    server = fresh_server()
    async with ward(server, url_in(tmp_path)) as one:
        await one.archived(paused=False)
        one.client.save()
        await _go_on(one)
        await one.archive()
        before = one.held()
        server.kill9()
        server.start()
        assert {"high-1", "high-2"} <= set(one.held().tasks)
        await _see_rolled_back(one, set(before.tasks))
        assert_same(before, one.held(), ordered=False)
        await assert_whole(one, "rolled_back")


@in_loop
async def test_a_truncated_append_only_file(fresh_server: FreshServer, flavour: str, tmp_path: Path) -> None:
    server = fresh_server(appendonly=True, appendfsync="always")
    async with ward(server, url_in(tmp_path)) as one:
        await one.archived(paused=False)
        size = newest_log(server).stat().st_size
        await _go_on(one)
        await one.archive()
        before = one.held()
        server.kill9()
        with newest_log(server).open("rb+") as log:
            log.truncate(size)
        server.start()
        await _see_rolled_back(one, set(before.tasks))
        assert_same(before, one.held(), ordered=False)
        await assert_whole(one, "rolled_back")


@in_loop
async def test_a_lagging_replica_is_promoted(fresh_server: FreshServer, flavour: str, tmp_path: Path) -> None:
    """With traffic on it before anybody looks; what the archive saw on the old primary counts."""
    primary = fresh_server()
    replica = fresh_server(replicaof=f"127.0.0.1 {primary.port}")
    async with ward(primary, url_in(tmp_path)) as one:
        await one.archived(paused=False)
        await in_sync(one)
        replica.freeze()
        # Nothing may lie in its socket: frozen, it does not connect again.
        one.client.client_kill_filter(_type="replica")
        await _go_on(one)
        assert one.fire("report", "7-1", 4_000, after=3_000, overlap="allow") == "fired"
        await one.archive()
        before = one.held()
    primary.kill9()
    replica.thaw()
    async with ward(replica, url_in(tmp_path)) as one:
        one.client.replicaof("NO", "ONE")
        assert {"high-1", "high-2"} <= set(one.held().tasks), "it was to lag"
        assert one.enqueue("new") == ["ok"]
        assert await one.kind() == "rolled_back"
        await one.rebuild()
        assert_same(before, one.held(), new=frozenset({"new"}), ordered=False)
        assert one.enqueue("high-1", "high-4", "new") == ["duplicate"] * 3
        assert one.fire("report", "7-1", 4_000, after=3_000, overlap="allow") == "duplicate"
        await assert_whole(one, "rolled_back")


async def in_sync(one: Ward) -> None:
    """Until a replica has all that was written so far."""
    await await_until(lambda: one.client.execute_command("ROLE")[2], "the replica to be online")  # type: ignore[no-untyped-call]
    # Its first acknowledgement may take a second.
    one.client.set("something", 1)
    await await_until(lambda: one.client.wait(1, 100), "the replica to have everything")
    one.client.delete("something")
    await await_until(lambda: one.client.wait(1, 100), "the replica to have that too")


def newest_log(server: Server) -> Path:
    """The append-only file that grows."""
    return max(server.folder.glob("**/*.aof"), key=lambda path: path.stat().st_mtime_ns)


@in_loop
async def test_evicted_keys(fresh_server: FreshServer, flavour: str, tmp_path: Path) -> None:
    server = fresh_server()
    async with ward(server, url_in(tmp_path)) as one:
        before = await one.archived()
        keys = one.client.dbsize()
        one.client.config_set("maxmemory-policy", "allkeys-random")
        while one.client.dbsize() >= keys - 2:
            one.client.config_set("maxmemory", one.client.info("memory")["used_memory"] - 1)
            one.client.lpush("filler", "x" * 1000)
            one.client.config_set("maxmemory", 0)
        one.client.config_set("maxmemory-policy", "noeviction")
        if await one.kind() in {"partial", "empty"}:
            await one.rebuild()
        assert_same(before, one.held(), ordered=False)
        assert await one.kind() == "healthy"


@in_loop
async def test_the_redis_of_another_team_is_left_alone(server: Server, tmp_path: Path) -> None:
    async with ward(server, url_in(tmp_path)) as one:
        await one.archived()
        (tmp_path / "other").mkdir()
        one.client.flushall()
        async with ward(server, url_in(tmp_path / "other")) as other:
            other.enqueue("theirs")
            await other.archive()
            theirs = other.held()
            assert await one.kind() == "foreign"
            assert other.held() == theirs
            assert await other.kind() == "healthy"


@in_loop
async def test_what_redis_refuses_is_left_out_and_told(server: Server, tmp_path: Path) -> None:
    async with ward(server, url_in(tmp_path)) as one:
        before = await one.archived()
        row = await one.store.partition(one.partition)
        assert row is not None
        good = next(task for task in await one.store.tasks_after(one.partition, None, 100) if task.place == "lane:high")
        fields = good.envelope.replace(good.task_id.encode(), b"odd")
        odd = msgspec.structs.replace(good, task_id="odd", entry_id="not one", envelope=fields)
        unread = msgspec.structs.replace(good, task_id="unread", envelope=b"{")
        await one.store.commit(one.partition, ME, Changes(upserts=(odd, unread)), row.positions)
        one.client.flushall()
        report = await one.rebuild()
        assert_same(before, one.held())
        assert report.unrestorable_count == 2
        assert {one.what for one in report.unrestorable} == {"odd", "unread"}
        assert all(one.reason for one in report.unrestorable)


@given(
    task_id=st.text("abcZ09_.:-", min_size=1, max_size=20),
    lane=st.sampled_from(["high", "normal", "low", "odd"]),
    numbers=st.tuples(*[st.from_regex(r"[0-9]{1,16}|x|٣", fullmatch=True)] * 2),
    body=st.text(max_size=20),
    extra=st.sampled_from([[], ["deliveries", "1"], ["unique", "u"], ["handbacks", "0"]]),
    at=st.integers(0, 2_000),
)
def test_the_short_way_is_the_long_way(
    task_id: str, lane: str, numbers: tuple[str, str], body: str, extra: list[str], at: int
) -> None:
    words = ["task", task_id, "at", numbers[0], "lane", lane, "max", numbers[1], *extra, "body", body]
    row = TaskRow(
        task_id=task_id,
        place="lane:normal",
        rank=RANKS["lane:normal"],
        sort=sort_of_entry("5-1"),
        envelope=envelopes.pack([word.encode() for word in words]),
        entry_id="5-1",
        lane=lane,
        at=at,
    )
    job = Job(None, None, Partition("t", "mail"), PartitionRow(namespace="t", queue="mail"), "empty", 77, Meter(silent))  # type: ignore[arg-type]
    short = Maker(job, seen_since_ms=1_000).plain(row)
    long = restorable(row, verdict="empty", now_ms=77, seen_since_ms=1_000)
    if short is None:
        return
    assert isinstance(long, Restorable)
    assert list(short.fields) == [field.decode() for field in envelopes.unpack(long.envelope)]
    assert (short.task_id, short.place, short.due, short.unique, short.seen, short.old_entry_id) == (
        long.task_id,
        long.place,
        long.due,
        long.unique,
        long.seen,
        long.old_entry_id,
    )


@in_loop
async def test_what_ended_after_the_last_look_does_not_come_back(server: Server, tmp_path: Path) -> None:
    async with ward(server, url_in(tmp_path)) as one:
        await one.archived(paused=False)
        token = one.join("second", "w2")
        for task in one.take("second", token, 2):
            one.settle("second", token, task, "succeeded", run_ms=1)
        letters: Any = one.client.xrange(one.partition.key("dead"), count=1)
        letter = letters[0][0].decode()
        assert one.call(scripts.purge(one.partition, [letter])) == 1
        before = one.held()
        deleted(one.client, one.partition.key("lane:low"))
        assert await one.kind() == "partial"
        await one.rebuild()
        assert_same(before, one.held(), ordered=False)
        await assert_whole(one, "partial")


@in_loop
async def test_what_fired_after_the_last_look_does_not_fire_again(server: Server, tmp_path: Path) -> None:
    async with ward(server, url_in(tmp_path)) as one:
        one.fill(paused=False)
        for generation in ("3-0", "4-0"):
            assert one.fire("old", generation, 1_000) in {"fired", "queued"}
        await one.archive()
        assert one.fire("fresh", "9-0", 5_000) == "fired"
        assert one.fire("fresh", "9-0", 6_000, after=5_000) == "queued"
        assert one.fire("report", "7-1", 4_000, after=3_000, overlap="allow") == "fired"
        token = one.join("second", "w2")
        first = "digest:5-0:1000"
        task = next(task for _ in range(20) for task in one.take("second", token, 1) if task.task_id == first)
        one.settle("second", token, task, "succeeded", run_ms=1)
        assert one.fire("digest", "5-0", 3_000, after=2_000, overlap="skip") == "skipped"
        assert one.call(retire(one.partition, [("old", "5-0")])).status == "ok"
        before = one.held()
        deleted(one.client, one.partition.key("fired"))
        assert await one.kind() == "partial"
        await one.rebuild()
        assert_same(before, one.held(), ordered=False)
        for schedule, generation, nominal, after in (
            ("fresh", "9-0", 5_000, 0),
            ("fresh", "9-0", 6_000, 5_000),
            ("report", "7-1", 4_000, 3_000),
            ("digest", "5-0", 3_000, 2_000),
        ):
            assert one.fire(schedule, generation, nominal, after, "allow") == "duplicate"
        assert one.fire("old", "4-0", 9_000, 1_000) == "stale"
        await assert_whole(one, "partial")


@pytest.mark.parametrize("remembered", [2, 10_000])
@in_loop
async def test_what_was_delayed_after_the_last_look_keeps_its_instant(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered: int
) -> None:
    monkeypatch.setattr(Scan, "REMEMBERED", remembered)
    async with ward(server, url_in(tmp_path)) as one:
        await one.archived(paused=False)
        one.enqueue("later-3", delay_ms=5_000_000, unique="u:3")
        token = one.join("second", "w2")
        for task in one.take("second", token, 2):
            one.settle("second", token, task, "retry", run_ms=1, cause="E", error="e", delay_ms=9_000_000)
        before = one.held()
        deleted(one.client, one.partition.key("delayed"))
        assert await one.kind() == "partial"
        report = await one.rebuild()
        assert report.restored["delayed"] == len(before.order["delayed"])
        assert_same(before, one.held(), ordered=False)
        await assert_whole(one, "partial")


@in_loop
async def test_a_task_that_is_lost_for_good_bars_nobody(server: Server, tmp_path: Path) -> None:
    async with ward(server, url_in(tmp_path)) as one:
        one.fill()
        await one.archive()
        assert one.enqueue("lost", delay_ms=3_600_000, unique="u:lost") == ["ok"]
        one.client.delete(one.partition.key("bodies"))
        await one.rebuild()
        assert one.enqueue("other", unique="u:later") == ["exists"]
        assert one.enqueue("next", unique="u:lost") == ["ok"]

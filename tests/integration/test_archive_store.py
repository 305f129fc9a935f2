"""The archive on SQLite and on a real PostgreSQL: what a commit leaves, who may write, what is forgotten."""

import asyncio

import pytest
from sqlalchemy import Connection, text

from reclaimd.daemon.archive import migrations
from reclaimd.daemon.archive.errors import (
    ArchiveFailed,
    ArchiveTooNew,
    OwnerLost,
)
from reclaimd.daemon.archive.records import schedules_of
from reclaimd.daemon.archive.schedule_records import ScheduleEntry
from reclaimd.daemon.archive.statements import CHUNK
from reclaimd.daemon.archive.store import Store, open_store
from reclaimd.daemon.loops.ownership import TAKE_OVER_SECONDS, Claims
from reclaimd.daemon.rebuild.values import (
    DEAD,
    FOLDED,
    Carried,
    Changes,
    Cursor,
    FiredRow,
    Ownership,
    PartitionRow,
    Report,
    TaskRow,
)
from reclaimd.streams.keys import Partition
from support.archive_rows import MAIL, ME, event, task, upserts
from support.daemons import in_loop

KINDS = ("sqlite", "postgresql")


async def row_of(store: Store, partition: Partition = MAIL) -> PartitionRow:
    row = await store.partition(partition)
    assert row is not None
    return row


async def all_tasks(store: Store, limit: int = 100) -> list[TaskRow]:
    rows: list[TaskRow] = []
    cursor: Cursor | None = None
    while page := await store.tasks_after(MAIL, cursor, limit):
        rows += page
        cursor = Cursor(page[-1].rank, page[-1].sort, page[-1].task_id)
    return rows


async def names(store: Store) -> list[str]:
    return [f"{row.task_id} {row.place}" for row in await all_tasks(store)]


@in_loop
async def test_a_commit_leaves_everything_at_once_and_it_is_there_at_the_next_start(url: str) -> None:
    rows = (task(3), task(1), task(2, "lane:high"), task(4, "delayed", entry_id="", due=7, lane="low", unique="u"))
    async with open_store(url) as store:
        first_id = store.archive_id
        assert len(first_id) == 32
        assert await store.partition(MAIL) is None
        assert await store.claim(MAIL, ME, None)
        await store.reset(MAIL, ME, "epoch-1", "1:aa")
        fired = FiredRow(schedule="nightly", generation="5-0", last=9, count=2, open="t1")
        changes = Changes(events=(event(5, b"abc"),), upserts=rows, fired=(fired,), counters={"open": 3}, paused=True)
        await store.commit(MAIL, ME, changes, {"events": "5-0"}, "2:bb")
    async with open_store(url) as store:
        assert store.archive_id == first_id
        row = await row_of(store)
        assert row == PartitionRow(
            namespace="t",
            queue="mail",
            epoch_id="epoch-1",
            mark="2:bb",
            positions={"events": "5-0"},
            paused=True,
            counters={"open": 3},
            ownership=Ownership(ME, 4),
            events_bytes=3,
        )
        assert await all_tasks(store, limit=2) == [rows[2], rows[1], rows[0], rows[3]]
        assert await store.count_tasks(MAIL) == {"lane:high": 1, "lane:normal": 2, "delayed": 1}
        assert await store.fired(MAIL) == {"nightly": fired}
        assert await store.fired(MAIL, ["nightly", "other"]) == {"nightly": fired}
        assert await store.fired(MAIL, []) == {}
        assert sorted(await store.tasks_by_id(MAIL, {"t3", "t9"}), key=str) == [rows[0]]
        assert [kept async for kept in store.events(MAIL)] == [("5-0", 5, b"abc")]
        assert await store.partitions("t") == [row]
        assert await store.partitions("other") == []


@in_loop
async def test_changes_apply_in_their_order(url: str) -> None:
    async with open_store(url) as store:
        assert await store.claim(MAIL, ME, None)
        open_rows = [task(number) for number in range(1, 8)]
        await store.commit(MAIL, ME, upserts(*open_rows, task(20, DEAD), task(21, DEAD, task_id="t20")), {})
        changes = Changes(
            carried=(
                Carried("t1", "", DEAD, "30-0"),
                Carried("t20", "20-0", "lane:low", "31-0"),
                Carried("t5", "", "recovered:normal", "32-0"),
                Carried("unknown", "", DEAD, "33-0"),
            ),
            gone=((open_rows[1].rank, open_rows[1].sort),),
            deletes=(("t3", ""), ("t20", "21-0"), ("unknown", "")),
            upserts=(task(3, "lane:high"), task(4, "lane:normal", token=9), task(40, DEAD), task(41, DEAD)),
            dead_from=task(41, DEAD).sort,
        )
        for _ in range(2):
            await store.commit(MAIL, ME, changes, {})
            assert await names(store) == [
                "t3 lane:high",
                "t5 recovered:normal",
                "t4 lane:normal",
                "t6 lane:normal",
                "t7 lane:normal",
                "t20 lane:low",
                "t41 dead",
            ]
        [carried] = await store.tasks_by_id(MAIL, ["t20"])
        assert carried == task(20, "lane:low", entry_id="31-0", sort=carried.sort)
        assert [row.token for row in await store.tasks_by_id(MAIL, ["t4"])] == [9]


@in_loop
async def test_a_row_that_is_carried_to_where_one_is_goes(url: str) -> None:
    async with open_store(url) as store:
        assert await store.claim(MAIL, ME, None)
        letter = task(9, DEAD, task_id="t1", envelope=b"newer")
        await store.commit(MAIL, ME, upserts(task(1), letter), {})
        await store.commit(MAIL, ME, Changes(carried=(Carried("t1", "", DEAD, "9-0"),)), {})
        assert await all_tasks(store) == [letter]


@in_loop
async def test_many_rows_in_one_commit(url: str) -> None:
    async with open_store(url) as store:
        assert await store.claim(MAIL, ME, None)
        rows = [task(number, f"{'recovered' if number % 2 else 'lane'}:low") for number in range(12_345)]
        await store.commit(MAIL, ME, upserts(*rows), {})
        read = await all_tasks(store, limit=1_000)
        assert read == sorted(rows, key=lambda row: (row.rank, row.sort))
        gone = tuple((row.task_id, "") for row in rows[5:])
        await store.commit(MAIL, ME, Changes(deletes=gone), {})
        assert len(await all_tasks(store)) == 5
        await store.commit(MAIL, ME, upserts(*rows), {})
        await store.reset(MAIL, ME, "e", "7:x")
        assert await all_tasks(store) == []
        assert (await row_of(store)).mark == "7:x"


@in_loop
async def test_of_rows_with_the_same_name_in_one_commit_the_last_one_stays(url: str) -> None:
    async with open_store(url) as store:
        assert await store.claim(MAIL, ME, None)
        rows = [task(number, "lane:high", envelope=b"%d" % number) for number in range(CHUNK + 5)]
        again = [task(number, "lane:low", token=number + 2, lane="low") for number in (0, 3, CHUNK - 1, CHUNK)]
        letters = (task(3, DEAD), task(3, DEAD, entry_id="77-0", letter="77-0", envelope=b"newer"))
        old, new = (FiredRow(schedule="s", generation="5-0", last=last, open=f"t{last}") for last in (1, 2))
        todo = Changes(upserts=(*rows[:9], *again, *letters, *rows[9:], *again[::-1]), fired=(old, new))
        for _ in range(2):
            await store.commit(MAIL, ME, todo, {})
            kept = {row.task_id: row for row in (*rows, *again)}
            assert sorted(await all_tasks(store), key=repr) == sorted((*kept.values(), *letters), key=repr)
            assert await store.fired(MAIL) == {"s": new}


@in_loop
async def test_batches_that_are_read_again_are_kept_once(url: str) -> None:
    async with open_store(url) as store:
        assert await store.claim(MAIL, ME, None)
        await store.commit(MAIL, ME, Changes(events=tuple(event(n, b"%d" % n) for n in range(10, 200))), {})
        before = await row_of(store)
        await store.reset(MAIL, ME, "e", "1:a")
        await store.commit(MAIL, ME, Changes(events=tuple(event(n, b"%d" % n) for n in range(10, 201))), {})
        assert (await row_of(store)).events_bytes == before.events_bytes + 3
        kept = [one.entry_id async for one in store.events(MAIL, "99-0", until="110-0")]
        assert kept == [f"{number}-0" for number in range(100, 111)]
        assert [one.e async for one in store.events(MAIL, contains=b"19")] == [
            b"19", *[b"%d" % n for n in range(119, 200) if b"19" in b"%d" % n]
        ]  # fmt: skip


@in_loop
async def test_only_the_owner_writes_and_only_who_saw_it_takes_over(url: str) -> None:
    async with open_store(url) as one, open_store(url) as two:
        assert one.archive_id == two.archive_id
        claims = await asyncio.gather(one.claim(MAIL, "one", None), two.claim(MAIL, "two", None))
        assert sorted(claims) == [False, True]
        seen = (await row_of(one)).ownership
        old, new = (one, two) if claims[0] else (two, one)
        me, other = seen.owner, "two" if seen.owner == "one" else "one"
        await old.commit(MAIL, me, upserts(task(1)), {})
        assert await old.beat(MAIL, me)
        assert not await new.claim(MAIL, other, seen)
        assert await new.claim(MAIL, other, (await row_of(new)).ownership)
        assert not await old.beat(MAIL, me)
        with pytest.raises(OwnerLost, match="another daemon archives mail:0"):
            await old.commit(MAIL, me, Changes(events=(event(1),), upserts=(task(2),)), {"events": "1-0"})
        with pytest.raises(OwnerLost):
            await old.reset(MAIL, me, "e", "1:a")
        assert await names(new) == ["t1 lane:normal"]
        assert [kept async for kept in new.events(MAIL)] == []
        assert (await row_of(new)).positions == {}


@in_loop
async def test_who_commits_without_a_rest_is_seen_to_live(url: str) -> None:
    now = 0.0
    claims = Claims(clock=lambda: now, dead=lambda _: False)
    async with open_store(url) as store:
        assert await store.claim(MAIL, ME, None)
        while now < 3 * TAKE_OVER_SECONDS:
            await store.commit(MAIL, ME, upserts(task(1)), {})
            assert not claims.may_take(MAIL.queue, (await row_of(store)).ownership)
            now += TAKE_OVER_SECONDS / 2
        now += TAKE_OVER_SECONDS
        assert claims.may_take(MAIL.queue, (await row_of(store)).ownership)


@in_loop
async def test_a_failed_commit_leaves_nothing(url: str) -> None:
    async with open_store(url) as store:
        assert await store.claim(MAIL, ME, None)
        await store.commit(MAIL, ME, upserts(task(1)), {"events": "1-0"}, "1:a")
        broken = task(2, token=1 << 70)
        with pytest.raises((ArchiveFailed, OverflowError)):
            await store.commit(
                MAIL, ME, Changes(events=(event(2),), deletes=(("t1", ""),), upserts=(broken,)), {}, "2:b"
            )
        assert await names(store) == ["t1 lane:normal"]
        row = await row_of(store)
        assert (row.mark, row.positions, row.events_bytes) == ("1:a", {"events": "1-0"}, 0)


@in_loop
async def test_many_open_the_same_new_archive_at_once(url: str) -> None:
    async def open_and_claim(number: int) -> tuple[str, bool]:
        async with open_store(url) as store:
            return store.archive_id, await store.claim(MAIL, f"daemon-{number}", None)

    opened = await asyncio.gather(*(open_and_claim(number) for number in range(6)))
    assert len({archive_id for archive_id, _ in opened}) == 1
    assert sum(mine for _, mine in opened) == 1


@in_loop
async def test_a_rebuild_that_was_begun_for_nothing_leaves_all_as_it_was(url: str) -> None:
    async with open_store(url) as store:
        assert await store.claim(MAIL, ME, None)
        await store.reset(MAIL, ME, "e1", "4:a")
        await store.commit(MAIL, ME, upserts(task(1)), {"events": "1-0"}, "5:b")
        before = await row_of(store)
        await store.begin_rebuild(MAIL, "r1", "e2", "empty", "rebuilding")
        assert not await store.cancel_rebuild(MAIL, "r1", "somebody")
        assert not await store.cancel_rebuild(MAIL, "r0", ME)
        assert (await row_of(store)).state == "rebuilding"
        assert await store.cancel_rebuild(MAIL, "r1", ME)
        now = await row_of(store)
        assert (now.state, now.epoch_id, now.mark, now.positions) == ("archiving", "e1", "5:b", before.positions)
        assert (now.new_epoch_id, await store.count_tasks(MAIL)) == ("", {"lane:normal": 1})
        assert await store.last_rebuild(MAIL) is None
        assert not await store.cancel_rebuild(MAIL, "r1", ME)


@in_loop
async def test_rebuilds_are_remembered(url: str) -> None:
    async with open_store(url) as store:
        assert await store.claim(MAIL, ME, None)
        await store.reset(MAIL, ME, "e1", "4:a")
        await store.commit(MAIL, ME, upserts(task(1)), {"events": "1-0"})
        await store.begin_rebuild(MAIL, "r1", "e2", "empty", "lost")
        await store.begin_rebuild(MAIL, "r1", "e2", "empty", "rebuilding")
        row = await row_of(store)
        assert (row.state, row.rebuild_id, row.new_epoch_id, row.verdict) == ("rebuilding", "r1", "e2", "empty")
        [begun] = await store.rebuilds("t")
        assert (begun.rebuild_id, begun.verdict, begun.ended_ms) == ("r1", "empty", 0)
        report = Report(rebuild_id="r1", verdict="empty", namespace="t", queue="mail", restored={"lane:normal": 1})
        assert not await store.end_rebuild(MAIL, "r0", "e2", "5:b", report)
        assert await store.end_rebuild(MAIL, "r1", "e2", "5:b", report)
        row = await row_of(store)
        assert (row.state, row.epoch_id, row.mark, row.positions, row.new_epoch_id) == (
            "archiving",
            "e2",
            "5:b",
            {FOLDED: "1-0"},
            "",
        )
        last = await store.last_rebuild(MAIL)
        assert last is not None
        assert last.tasks_restored == 1
        assert last.ended_ms > 0
        assert await names(store) == ["t1 lane:normal"]
        # Another daemon did the same and is late: what was archived since stays.
        await store.commit(MAIL, ME, upserts(task(2)), {"events": "2-0"}, "6:c")
        assert not await store.end_rebuild(MAIL, "r1", "e2", "5:b", report)
        row = await row_of(store)
        assert (row.mark, row.positions) == ("6:c", {"events": "2-0"})


@in_loop
async def test_history_is_forgotten_by_age_and_size_but_tasks_never(url: str) -> None:
    news = Partition("t", "news")
    async with open_store(url) as store:
        for partition, first in ((MAIL, 0), (news, 500)):
            assert await store.claim(partition, ME, None)
            batches = tuple(event(n, b"x" * 100) for n in range(first, first + 1_000))
            await store.commit(partition, ME, Changes(events=batches, upserts=(task(1),)), {})
        done = await store.retain(age_ms=100, most_bytes=1 << 30, now_ms=350)
        assert (done.batches, done.freed) == (250, 25_000)
        assert [one.at async for one in store.events(MAIL)] == list(range(250, 1_000))
        await store.retain(age_ms=1_000_000, most_bytes=100_000, now_ms=350)
        kept = {str(one): [e.at async for e in store.events(one)] for one in (MAIL, news)}
        assert sum(map(len, kept.values())) == 1_000
        assert abs(kept["mail:0"][0] - kept["news:0"][0]) <= 200
        for partition in (MAIL, news):
            assert (await row_of(store, partition)).events_bytes == 100 * len(kept[str(partition)])
            assert await store.count_tasks(partition) == {"lane:normal": 1}
        await store.retain(age_ms=0, most_bytes=0, now_ms=0)
        assert await names(store) == ["t1 lane:normal"]
        assert (await row_of(store)).events_bytes == 0


@in_loop
async def test_the_history_of_what_is_being_rebuilt_is_not_forgotten(url: str) -> None:
    news = Partition("t", "news")
    async with open_store(url) as store:
        for partition, first in ((MAIL, 1), (news, 10)):
            assert await store.claim(partition, ME, None)
            await store.commit(partition, ME, Changes(events=(event(first, b"x" * 100),)), {})
        await store.begin_rebuild(MAIL, "r1", "e2", "rolled_back", "rebuilding")
        done = await store.retain(age_ms=0, most_bytes=1 << 30, now_ms=5)
        assert done.batches == 0
        done = await store.retain(age_ms=1_000, most_bytes=0, now_ms=5)
        assert done.batches == 1
        assert [[e.at async for e in store.events(one)] for one in (MAIL, news)] == [[1], []]
        assert await store.cancel_rebuild(MAIL, "r1", ME)
        assert (await store.retain(age_ms=0, most_bytes=1 << 30, now_ms=5)).batches == 1


@in_loop
async def test_schedules_are_kept_beside_the_partitions(url: str) -> None:
    one = schedules_of("t")
    async with open_store(url) as store:
        kept = store.schedules
        with pytest.raises(OwnerLost):
            await kept.append("t", ME, [ScheduleEntry("1-0", b"a")], "1-0", "1:a")
        assert await store.claim(one, ME, None)
        await kept.reset("t", ME, "", "1:a")
        assert await kept.newest_snapshot("t") is None
        events = [ScheduleEntry(f"{number}-0", b'{"n":%d}' % number) for number in range(1, 2_001)]
        await kept.append("t", ME, events, "2000-0", "2:b")
        await kept.append("t", ME, events[-5:], "2000-0")
        row = await row_of(store, one)
        assert (row.mark, row.positions) == ("2:b", {"events": "2000-0"})
        assert [entry async for entry in kept.events("t")] == events
        assert [entry async for entry in kept.events("t", "1990-0")] == events[1990:]
        for covers in (100, 300, 300, 700):
            await kept.keep_snapshot(
                "t", ME, f"{covers}-0", [{"kind": "header", "n": str(n)} for n in range(covers // 100)]
            )
        newest = await kept.newest_snapshot("t")
        assert newest is not None
        assert newest.covers == "700-0"
        assert newest.entries == [{"kind": b"header", "n": b"%d" % n} for n in range(7)]
        assert [entry async for entry in kept.events("t")] == events[300:]
        assert await store.partitions("t") == []
        assert await kept.newest_snapshot("other") is None
        await kept.reset("t", ME, "", "3:c")
        assert [entry async for entry in kept.events("t")] == []


def _add_column(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE reclaimd_meta ADD COLUMN note TEXT NOT NULL DEFAULT 'old'"))


@in_loop
async def test_an_older_archive_is_brought_up_to_date_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_store(url) as store:
        old_id = store.archive_id
        assert await store.claim(MAIL, ME, None)
    monkeypatch.setattr(migrations, "STEPS", (*migrations.STEPS, _add_column))

    async def opened() -> tuple[str, PartitionRow]:
        async with open_store(url) as store:
            return store.archive_id, await row_of(store)

    for archive_id, row in await asyncio.gather(opened(), opened(), opened()):
        assert archive_id == old_id
        assert row.ownership.owner == ME
    monkeypatch.undo()
    with pytest.raises(ArchiveTooNew) as caught:
        await opened()
    said = str(caught.value)
    assert "was written by a newer reclaimd (schema 2, this program knows 1): run that version, or point" in said
    assert "p%40ss" not in said


@in_loop
async def test_a_step_that_fails_changes_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: Connection) -> None:
        _add_column(connection)
        connection.execute(text("SELECT * FROM no_such_table"))

    async with open_store(url) as store:
        assert await store.claim(MAIL, ME, None)
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "STEPS", (*migrations.STEPS, fail))
        with pytest.raises(ArchiveFailed):
            async with open_store(url):
                pass
    monkeypatch.setattr(migrations, "STEPS", (*migrations.STEPS, _add_column))
    async with open_store(url) as store:
        assert (await row_of(store)).ownership.owner == ME


@in_loop
async def test_nothing_is_left_of_a_cancelled_commit_or_all(url: str) -> None:
    async with open_store(url) as store:
        assert await store.claim(MAIL, ME, None)
        rows = [task(number) for number in range(3_000)]
        for delay in (0.0, 0.002, 0.01, 0.03):
            commit = asyncio.create_task(store.commit(MAIL, ME, upserts(*rows), {"events": "1-0"}))
            await asyncio.wait({commit}, timeout=delay)
            commit.cancel()
            await asyncio.wait({commit})
            written = (await row_of(store)).positions == {"events": "1-0"}
            assert sum((await store.count_tasks(MAIL)).values()) == (3_000 if written else 0)
            await store.reset(MAIL, ME, "e", "1:a")

"""`rebuild`, `archive backup`, `archive status` and `snapshot`, by the real program."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reclaimd.daemon.archive.job import Overtaken
from reclaimd.daemon.archive.restoring_schedules import fold_of
from reclaimd.daemon.archive.taking_over import take_over_partition
from reclaimd.daemon.loops.catching_up import look
from reclaimd.streams.keys import schedule_epoch_key
from reclaimd.streams.schedules.log import ScheduleLog
from support.cli import Done, command, environment, reclaimd
from support.daemons import in_loop
from support.partitions import assert_same, held
from support.rebuilds import NAMESPACE, Ward, ward
from support.schedule_logs import upsert
from support.servers import Server
from support.waiting import wait_until

pytestmark = pytest.mark.flavours("valkey")


class Program:
    """The program, pointed at one server and one archive."""

    def __init__(self, server: Server, archive: Path) -> None:
        self.flags = ["--redis-url", server.url, "--namespace", "t", "--archive-url", f"sqlite:///{archive}"]

    def __call__(self, *args: str, **more: str) -> Done:
        return reclaimd(*args, *self.flags, **more)  # type: ignore[arg-type]


async def archived(one: Ward) -> None:
    """A queue with everything in it, archived."""
    one.fill()
    await one.archive()


@in_loop
async def test_rebuild_says_what_it_would_do_does_it_and_remembers(server: Server, tmp_path: Path) -> None:
    run = Program(server, tmp_path / "a.db")
    async with ward(server, f"sqlite:///{tmp_path}/a.db") as one:
        await archived(one)
        before = one.held()
        done = run("rebuild", "--json")
        assert (done.code, [r["action"] for r in done.json["results"]]) == (0, ["none", "none"]), done
        assert "Nothing is lost" in run("rebuild").out
        one.client.flushall()
        planned = run("rebuild", "--dry-run", "--json")
        assert planned.code == 0, planned
        [plan] = [r for r in planned.json["results"] if r["queue"] == "mail"]
        assert (plan["verdict"], plan["action"]) == ("empty", "planned")
        assert one.client.dbsize() == 0
        text = run("rebuild", "--dry-run", "--queue", "mail")
        assert "Would restore 18 tasks, 2 dead letters" in text.out, text
        assert "Nothing was changed" in text.out
        done = run("rebuild", "--json")
        assert done.code == 0, done
        [result] = [r for r in done.json["results"] if r["queue"] == "mail"]
        assert result["action"] == "rebuilt"
        assert result["report"]["restored"] == plan["report"]["restored"]
        assert_same(before, one.held())
        last = run("rebuild", "--last", "--json")
        assert [r["rebuild_id"] for r in last.json["reports"]] == [result["report"]["rebuild_id"]]
        assert "mail: empty" in run("rebuild", "--last").out
        assert run("archive", "status").code == 0


@in_loop
async def test_a_copied_archive_fills_an_empty_redis(server: Server, tmp_path: Path) -> None:
    async with ward(server, f"sqlite:///{tmp_path}/a.db") as one:
        await archived(one)
        before = one.held()
        run = Program(server, tmp_path / "a.db")
        copied = run("archive", "backup", os.fspath(tmp_path / "copy.db"), "--json")
        assert copied.code == 0, copied
        assert copied.json["bytes"] == (tmp_path / "copy.db").stat().st_size
        again = run("archive", "backup", os.fspath(tmp_path / "copy.db"))
        assert (again.code, "exists" in again.err) == (2, True), again
        one.client.flushall()
        shutil.move(tmp_path / "copy.db", tmp_path / "elsewhere.db")
        done = Program(server, tmp_path / "elsewhere.db")("rebuild")
        assert done.code == 0, done
        assert_same(before, held(one.client, one.partition.tag))


@in_loop
async def test_accept_asks_first(server: Server, tmp_path: Path) -> None:
    run = Program(server, tmp_path / "a.db")
    async with ward(server, f"sqlite:///{tmp_path}/a.db") as one:
        await archived(one)
        one.client.flushall()
        one.enqueue("new")
        asked = run("rebuild", "--accept", stdin="n\n")
        assert (asked.code, one.held().state) == (1, "ok"), asked
        assert await one.kind() == "empty"
        done = run("rebuild", "--accept", "--yes", "--json")
        assert done.code == 0, done
        assert {r["action"] for r in done.json["results"]} <= {"accepted", "none"}
        assert set(one.held().tasks) == {"new"}
        assert await one.kind() == "healthy"
        assert run("snapshot").code == 0
        assert await one.store.count_tasks(one.partition) == {"lane:normal": 1}


@in_loop
async def test_anothers_redis_is_refused(server: Server, tmp_path: Path) -> None:
    run = Program(server, tmp_path / "a.db")
    async with ward(server, f"sqlite:///{tmp_path}/a.db") as one:
        await archived(one)
        one.client.hset(one.partition.key("epoch"), "archive_id", "0123456789abcdef")
        done = run("rebuild", "--json")
        assert done.code == 1, done
        [refused] = [r for r in done.json["results"] if r["queue"] == "mail"]
        assert refused["action"] == "refused"
        assert "if it is gone for good, reclaimd rebuild --accept --from 0123456789abcdef" in refused["reason"]
        assert run("archive", "status").code == 1


@in_loop
async def test_an_archive_that_is_gone_for_good_is_succeeded(server: Server, tmp_path: Path) -> None:
    """Its file was deleted, and the daemon has made a new one."""
    async with ward(server, f"sqlite:///{tmp_path}/a.db") as one:
        await archived(one)
        await one.links.use(lambda client: ScheduleLog(client, NAMESPACE).append([upsert("daily")]))
        gone = one.store.archive_id
        one.client.hset(schedule_epoch_key(NAMESPACE), mapping={"archive_id": gone, "state": "lost", "mark": "7:a"})
        before = one.held()
    run = Program(server, tmp_path / "b.db")
    async with ward(server, f"sqlite:///{tmp_path}/b.db") as other:
        assert await other.kind() == "foreign"
        accept = ("rebuild", "--accept", "--yes", "--json", "--from")
        done = run(*accept, "0123456789abcdef")
        assert (done.code, {r["action"] for r in done.json["results"]}) == (1, {"refused"}), done
        assert run(*accept, other.store.archive_id).code == 2
        done = run(*accept, gone)
        assert (done.code, {r["action"] for r in done.json["results"]}) == (0, {"accepted"}), done
        assert_same(before, other.held())
        assert await other.kind() == "healthy"
        await other.archive()
        assert sum((await other.store.count_tasks(other.partition)).values()) == len(before.tasks)
        assert set((await fold_of(other.store, NAMESPACE)).rows) == {"daily"}


@in_loop
@pytest.mark.parametrize("known", [False, True])
async def test_what_the_archive_that_is_gone_had_frozen_is_opened(server: Server, tmp_path: Path, known: bool) -> None:
    """Also where this one has older data of it, which are not brought back."""
    async with ward(server, f"sqlite:///{tmp_path}/a.db") as one:
        if known:
            one.enqueue("of-old")
            await one.archive()
            one.client.flushall()
        one.enqueue("new")
        theirs: dict[Any, Any] = {
            "archive_id": "0123456789abcdef",
            "state": "rebuilding",
            "rebuild": "r",
            "cursor": "tasks|",
        }
        one.client.hset(one.partition.key("epoch"), mapping=theirs)
        judged, seen, _ = await look(one.store, one.links, one.partition)
        assert judged.kind == "foreign"
        how: dict[str, Any] = {"me": "me", "events_cap": 1_000}
        with pytest.raises(Overtaken):
            await take_over_partition(one.store, one.links, one.partition, "another", seen, **how)
        await take_over_partition(one.store, one.links, one.partition, seen.archive_id, seen, **how)
        assert (await one.kind(), one.held().state) == ("healthy", "ok")
        await one.archive()
        assert await one.store.count_tasks(one.partition) == {"lane:normal": 1}
        assert set(one.held().tasks) == {"new"}


@in_loop
async def test_snapshot_archives_what_nobody_else_does(server: Server, tmp_path: Path) -> None:
    run = Program(server, tmp_path / "a.db")
    async with ward(server, f"sqlite:///{tmp_path}/a.db") as one:
        one.fill()
        done = run("snapshot", "--json")
        assert done.code == 0, done
        assert done.json["archived"] == {"mail": "healthy"}
        counts = await one.store.count_tasks(one.partition)
        assert sum(counts.values()) == len(one.held().tasks)


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["rebuild"], 2, "there is no archive: name it"),
        (["archive", "backup", "x"], 2, "there is no archive"),
        (["rebuild", "--dry-run", "--accept"], 2, "exclude each other"),
        (["rebuild", "--from", "0123456789abcdef"], 2, "give --accept with it"),
        (["rebuild", "--archive-url", "sqlite:////nowhere/a.db"], 2, "is not there"),
        (["rebuild", "--archive-url", "mysql://x/y"], 2, "archive"),
    ],
)
def test_usage(server: Server, args: list[str], code: int, said: str) -> None:
    done = reclaimd(*args, "--redis-url", server.url)
    assert (done.code, said in done.err) == (code, True), done


def test_redis_is_away(tmp_path: Path) -> None:
    done = reclaimd("rebuild", "--redis-url", "redis://127.0.0.1:1/0", "--archive-url", f"sqlite:///{tmp_path}/a.db")
    assert done.code == 3, done


AWAY = ("--redis-url", "redis://127.0.0.1:1/0")


@in_loop
async def test_while_redis_is_away_the_archive_answers_alone_and_says_so(server: Server, tmp_path: Path) -> None:
    run = Program(server, tmp_path / "a.db")
    async with ward(server, f"sqlite:///{tmp_path}/a.db") as one:
        await archived(one)
        one.client.flushall()
        assert run("rebuild").code == 0
        with_redis = {args: run(*args, "--json") for args in (("rebuild", "--last"), ("archive", "status"))}

    def without(*args: str) -> Done:
        return reclaimd(*args, *run.flags, *AWAY)

    for args, there in with_redis.items():
        assert (there.code, there.json["redis"], there.err) == (0, "reachable", ""), there
        away = without(*args, "--json")
        assert (away.code, away.json["redis"]) == (0, "unreachable"), away
        assert "what follows is from the archive alone: cannot reach Redis" in away.err
        told = without(*args)
        assert (told.code, "from the archive alone" in told.err) == (0, True), told
        expected = {**there.json, "redis": "unreachable"}
        for queue in expected.get("queues", ()):
            assert queue["verdict"] == "healthy"
            queue["verdict"] = ""
        assert away.json == expected
    assert "mail: empty" in without("rebuild", "--last").out
    assert "unreachable" in without("archive", "status").out
    assert without("rebuild", "--dry-run").code == 3


@in_loop
async def test_interrupted_it_goes_on(server: Server, tmp_path: Path) -> None:
    archive = tmp_path / "a.db"
    run = Program(server, archive)
    async with ward(server, f"sqlite:///{archive}") as one:
        for start in range(0, 30_000, 500):
            one.enqueue(*(f"task-{i}" for i in range(start, start + 500)))
        await one.archive()
        before = one.held()
        one.client.flushall()
        process = subprocess.Popen(
            command("rebuild", *run.flags), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        # Some batches: what is on its way is not counted yet.
        back = one.partition.key("recovered:normal")
        wait_until(lambda: one.client.xlen(back) >= 2_000, "tasks to come back", timeout=60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (130, ""), err
        said = re.fullmatch(
            r"reclaimd: interrupted when ([\d,]+) of 30,000 tasks of mail were back: "
            r"run it again, and it goes on from there\n",
            err,
        )
        assert said, err
        assert 0 < int(said[1].replace(",", "")) < 30_000
        assert await one.kind() == "rebuilding"
        done = run("rebuild", "--json")
        assert done.code == 0, done
        [result] = [r for r in done.json["results"] if r["queue"] == "mail"]
        assert result["verdict"] == "rebuilding"
        assert result["report"]["restored"] == {"recovered:normal": 30_000}
        assert_same(before, one.held())

"""`explain` and `events tail` over a loss of Redis: what the archive kept and what the stream has, none of it twice."""

import asyncio
import json
import signal
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from reclaimd.daemon.archive.store import open_store
from reclaimd.daemon.rebuild.values import RANKS, Changes, EventEntry, TaskRow, sort_of_entry
from reclaimd.streams.ids import task_id_from
from support.cli import Done, Scene, command, environment
from support.servers import FreshServer
from support.waiting import wait_until

pytestmark = pytest.mark.flavours("valkey")

ME = "daemon-1"


class Archived:
    """A scene with an archive, which is filled by hand."""

    def __init__(self, scene: Scene, file: Path) -> None:
        self.scene = scene
        self.url = f"sqlite:///{file}"

    def commit(self, changes: Changes) -> None:
        async def write() -> None:
            async with open_store(self.url) as store:
                row = await store.partition(self.scene.partition)
                if row is None:
                    assert await store.claim(self.scene.partition, ME, None)
                await store.commit(self.scene.partition, ME, changes, {}, "1:x")

        asyncio.run(write())

    def take_events(self) -> None:
        """All that the stream holds now."""
        rows: Any = self.scene.client.xrange(self.scene.partition.key("events"))
        self.commit(Changes(events=tuple(EventEntry(id_.decode(), int(row[b"at"]), row[b"e"]) for id_, row in rows)))

    def tell(self, *events: dict[str, Any]) -> None:
        """Write a batch to the stream, as a script would."""
        line = json.dumps([{"v": 1, **event} for event in events])
        self.scene.client.xadd(self.scene.partition.key("events"), {"at": self.scene.now, "e": line})

    def run(self, *args: str, **more: Any) -> Done:
        return self.scene.run("--archive-url", self.url, *args, **more)

    def life(self, task_id: str) -> dict[str, Any]:
        done = self.run("explain", task_id, "--json")
        assert done.code == 0, done.err
        [life] = done.json["lives"]
        assert isinstance(life, dict)
        return life

    def steps(self, task_id: str) -> list[str]:
        return [step["what"] for step in self.life(task_id)["steps"]]

    def tail(self, *args: str) -> list[dict[str, Any]]:
        done = self.run("events", "tail", "--since", "1h", "--json", *args)
        assert done.code == 0, done.err
        return [json.loads(line) for line in done.out.splitlines()]


@pytest.fixture
def archived(scene: Scene, tmp_path: Path) -> Archived:
    return Archived(scene, tmp_path / "archive.db")


def fresh_id(ago_s: float = 600.0) -> str:
    return task_id_from(int((time.time() - ago_s) * 1000), uuid.uuid4().bytes[:10])


def test_what_is_in_both_is_told_once_and_what_was_trimmed_is_told(archived: Archived) -> None:
    scene, task = archived.scene, fresh_id()
    scene.join("w1", lease_ms=3_600_000)
    scene.enqueue(task)
    [delivery] = scene.take("w1")
    archived.take_events()
    scene.settle("w1", delivery, "succeeded", run_ms=7)
    assert archived.steps(task) == ["enqueued", "started", "succeeded"]
    scene.client.xtrim(scene.partition.key("events"), maxlen=1, approximate=False)
    life = archived.life(task)
    assert [step["what"] for step in life["steps"]] == ["enqueued", "started", "succeeded"]
    assert (life["complete"], life["now"]["state"]) == (True, "succeeded")
    assert scene.run("explain", task, "--json").json["lives"][0]["complete"] is False, "without the archive"


def test_a_life_over_a_loss_and_a_rebuild(archived: Archived) -> None:
    """Enqueued and begun before, restored, taken by another worker and settled after."""
    scene, task = archived.scene, fresh_id()
    scene.join("w1", lease_ms=3_600_000)
    scene.enqueue(task)
    scene.take("w1")
    archived.take_events()
    scene.client.flushall()
    scene.client.sadd(f"{{{scene.namespace}}}:queues", "mail")
    scene.join("w2", lease_ms=3_600_000)
    restored = [task, "recovered:normal", "9-0", 0, 1, "8-0"]
    archived.tell({"type": "Restored", "tasks": [restored]})
    archived.tell({"type": "Started", "worker": "w2", "token": "5-ab", "tasks": [[task, 3, "9-0"]]})
    archived.tell({"type": "Settled", "worker": "w2", "token": "5-ab", "tasks": [[task, 20, "send"]]})
    assert archived.steps(task) == ["enqueued", "started", "restored", "started", "succeeded"]
    told = archived.run("explain", task).out
    assert "restored from the archive to recovered:normal as 9-0" in told
    assert "because Redis had lost it; it had been 8-0" in told
    assert "started by w2 (incarnation 5-ab)" in told
    assert told.index("started by w1") < told.index("restored") < told.index("started by w2")


def test_what_an_older_dataset_showed_again_is_told_as_removed(archived: Archived) -> None:
    scene, task = archived.scene, fresh_id()
    scene.join("w1", lease_ms=3_600_000)
    scene.enqueue(task)
    [delivery] = scene.take("w1")
    scene.settle("w1", delivery, "succeeded", run_ms=7)
    archived.take_events()
    archived.tell({"type": "Dropped", "tasks": [[task, "lane:normal", "7-0", "settled"]]})
    life = archived.life(task)
    assert [step["what"] for step in life["steps"]] == ["enqueued", "started", "succeeded", "dropped"]
    assert life["now"]["state"] == "succeeded"
    assert "removed from lane:normal by a rebuild: Redis showed it again" in archived.run("explain", task).out


def test_a_task_that_redis_has_lost_and_nobody_has_restored(archived: Archived) -> None:
    scene, task = archived.scene, fresh_id()
    scene.enqueue(task)
    archived.take_events()
    row = TaskRow(
        task_id=task,
        place="lane:high",
        rank=RANKS["lane:high"],
        sort=sort_of_entry("7-0"),
        entry_id="7-0",
        envelope=json.dumps(["task", task, "lane", "high", "at", "5"]).encode(),
    )
    archived.commit(Changes(upserts=(row,)))
    scene.client.flushall()
    life = archived.life(task)
    assert life["now"]["state"] == "archived"
    assert (life["now"]["task"]["lane"], life["now"]["task"]["entry_id"]) == ("high", "7-0")
    assert "reclaimd rebuild" in archived.run("explain", task).out
    assert scene.run("explain", task).code == 1, "without the archive nothing is known"


@pytest.mark.parametrize(
    "task", ["mine", str(uuid.UUID(int=0x0FFF << 112 | 7 << 76 | 2 << 62))], ids=["name", "future"]
)
def test_an_id_that_does_not_tell_when_it_was_made(archived: Archived, task: str) -> None:
    """One of somebody's own making, and one of a producer whose clock is far ahead."""
    archived.scene.enqueue(task)
    archived.take_events()
    archived.scene.client.xtrim(archived.scene.partition.key("events"), maxlen=0, approximate=False)
    assert archived.steps(task) == ["enqueued"]


@pytest.mark.flavours("valkey")
def test_an_archive_that_cannot_be_read_is_said_and_redis_is_told(archived: Archived, tmp_path: Path) -> None:
    archived.scene.enqueue("t-1")
    away = archived.run("explain", "t-1")
    assert away.code == 0
    assert "from Redis alone" in away.err
    assert "is not there" in away.err
    assert not (tmp_path / "archive.db").exists(), "a look makes no archive"
    assert "enqueued in lane normal" in away.out
    (tmp_path / "archive.db").write_bytes(b"no database at all" * 100)
    broken = archived.run("events", "tail", "--since", "1h")
    assert broken.code == 0
    assert "from Redis alone" in broken.err
    assert "t-1" in broken.out


def test_the_tail_begins_where_it_is_told_to_and_tells_nothing_twice(archived: Archived) -> None:
    scene = archived.scene
    other = Scene(scene.url, queue="other")
    scene.enqueue("t-1")
    scene.client.execute_command("XTRIM", scene.partition.key("events"), "MAXLEN", "=", "1")  # type: ignore[no-untyped-call]
    archived.take_events()
    scene.enqueue("t-2")
    other.enqueue("o-1")
    scene.bury("t-3")
    told = archived.tail()
    assert [one["type"] for one in told if one["queue"] == "other"] == ["Enqueued"]
    accepted = [row["task_id"] for one in told if one["type"] == "Enqueued" for row in one["tasks"]]
    assert accepted == ["t-1", "t-2", "o-1", "t-3"]
    assert [one["event_id"] for one in told] == sorted(one["event_id"] for one in told)
    [died] = archived.tail("--type", "died")
    assert (died["tasks"][0]["task_id"], died["tasks"][0]["cause"]) == ("t-1", "ValueError")
    assert [one["queue"] for one in archived.tail("--queue", "other")] == ["other"]
    later = archived.run("events", "tail", "--since", "2099-01-01", "--json")
    assert (later.code, later.out) == (0, "")
    lines = archived.run("events", "tail", "--type", "Enqueued").out.splitlines()
    assert len(lines) == 4
    assert "mail  Enqueued: 1 task accepted: t-1 (normal)" in lines[0]
    other.close()


@pytest.mark.flavours("valkey")
def test_a_tail_that_is_asked_for_wrongly(archived: Archived) -> None:
    wrong = archived.run("events", "tail", "--type", "Diet")
    assert (wrong.code, "did you mean Died?" in wrong.err) == (2, True)
    for since in ("yesterday", "5", "2026-13-01"):
        done = archived.run("events", "tail", "--since", since)
        assert (done.code, "--since" in done.err) == (2, True), since
    assert archived.run("events", "tail", "--queue", "nowhere").code == 1


def test_a_tail_that_follows_sees_what_comes_and_ends_by_ctrl_c(archived: Archived, tmp_path: Path) -> None:
    scene = archived.scene
    scene.enqueue("t-1")
    archived.take_events()
    args = ("--redis-url", scene.url, "--namespace", scene.namespace, "--archive-url", archived.url)
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        following = subprocess.Popen(
            command(*args, "events", "tail", "--since", "1h", "--follow"),
            stdout=stdout,
            stderr=stderr,
            env=environment(),
            start_new_session=True,
        )
    try:
        wait_until(lambda: "t-1" in out.read_text(), "what is kept", 20)
        scene.enqueue("t-2")
        wait_until(lambda: "t-2" in out.read_text(), "what comes")
        other = Scene(scene.url, queue="new")
        other.enqueue("n-1")
        other.close()
        wait_until(lambda: "n-1" in out.read_text(), "a queue that is new")
        scene.client.flushall()
        scene.enqueue("t-3")
        wait_until(lambda: "t-3" in out.read_text(), "what comes after a loss")
        following.send_signal(signal.SIGINT)
        assert following.wait(10) == 130
    finally:
        following.kill()
        following.wait()
    assert err.read_text() == ""
    assert [out.read_text().count(task) for task in ("t-1", "t-2", "n-1", "t-3")] == [1, 1, 1, 1]


AWAY = ("--redis-url", "redis://127.0.0.1:1/0")


def test_while_redis_is_away_the_archive_answers_alone_and_says_so(archived: Archived) -> None:
    scene, done, waits = archived.scene, fresh_id(), fresh_id()
    scene.join("w1", lease_ms=3_600_000)
    scene.enqueue(done)
    [delivery] = scene.take("w1")
    scene.settle("w1", delivery, "succeeded", run_ms=7)
    scene.enqueue(waits)
    archived.take_events()
    envelope = json.dumps(["task", waits, "lane", "normal", "at", "5"]).encode()
    place: dict[str, Any] = {"place": "lane:normal", "rank": RANKS["lane:normal"]}
    place |= {"entry_id": "7-0", "sort": sort_of_entry("7-0")}
    archived.commit(Changes(upserts=(TaskRow(task_id=waits, envelope=envelope, **place),)))
    told = archived.run("explain", done, "--json", *AWAY)
    assert (told.code, told.json["redis"], told.json["archive"]) == (0, "unreachable", True), told
    assert "what follows is from the archive alone: cannot reach Redis" in told.err
    [life] = told.json["lives"]
    assert [step["what"] for step in life["steps"]] == ["enqueued", "started", "succeeded"]
    assert (life["complete"], life["now"]["state"]) == (True, "succeeded")
    text = archived.run("explain", waits, *AWAY)
    assert text.code == 0
    assert "saw it last among the waiting ones; where it is now only Redis knows" in text.out
    assert archived.run("explain", waits, "--json").json["redis"] == "reachable"
    tail = archived.run("events", "tail", "--since", "1h", "--json", *AWAY)
    assert tail.code == 0
    assert "from the archive alone" in tail.err
    with_redis = [{**one, "redis": "unreachable"} for one in archived.tail()]
    assert [json.loads(line) for line in tail.out.splitlines()] == with_redis


def test_what_neither_the_archive_nor_an_absent_redis_can_tell(archived: Archived) -> None:
    archived.scene.enqueue("t-1")
    archived.take_events()
    for args in (
        ("explain", "t-2"),
        ("events", "tail", "--queue", "other"),
    ):
        done = archived.run(*args, *AWAY)
        assert (done.code, done.out) == (3, ""), done
        assert "cannot reach Redis" in done.err
    assert archived.scene.run("explain", "t-1", *AWAY).code == 3, "without the archive"


def test_the_tail_goes_on_when_redis_is_back(archived: Archived, fresh_server: FreshServer) -> None:
    own = fresh_server("valkey")
    there = Archived(Scene(own.url), Path(archived.url.removeprefix("sqlite:///")))
    there.scene.enqueue("t-1")
    there.take_events()
    there.scene.close()
    own.stop()
    flags = ["--redis-url", own.url, "--namespace", there.scene.namespace, "--archive-url", there.url]
    process = subprocess.Popen(
        command("events", "tail", "--since", "1h", "--follow", *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    try:
        assert "t-1" in process.stdout.readline()
        own.start()
        Scene(own.url).enqueue("t-2")
        assert "t-2" in process.stdout.readline()
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert "from the archive alone" in err
    assert "Redis is back" in err

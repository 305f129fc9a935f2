"""`status`, `workers`, `queues`: what they count, against states made by script calls."""

import pytest

from support.cli import Scene
from support.servers import Server


def a_full_queue(scene: Scene) -> None:
    """Two wait, one is with a live worker, one with an expired one, one delayed, one dead, one done."""
    scene.bury("t-dead")
    scene.join("expired")
    scene.join("gone")
    scene.enqueue("t-lost", "t-done")
    scene.take("expired")
    [delivery] = scene.take("gone")
    scene.settle("gone", delivery, "succeeded", run_ms=5)
    scene.pass_time(2 * 1_000)
    scene.enqueue("t-later", delay_ms=3_600_000)
    scene.enqueue("t-held", lane="high")
    scene.join("live", lease_ms=3_600_000)
    scene.take("live")
    scene.enqueue("t-1", "t-2")


def test_status_counts_tasks_and_workers(scene: Scene) -> None:
    a_full_queue(scene)
    done = scene.run("status", "--json")
    assert (done.code, done.err) == (0, "")
    mail = done.json["queues"]["mail"]
    counted = {name: mail[name] for name in ("waiting", "active", "delayed", "completed", "failed", "dead")}
    assert counted == {"waiting": 2, "active": 2, "delayed": 1, "completed": 1, "failed": 1, "dead": 1}
    assert mail["paused"] is False
    assert mail["state"] == "ok"
    assert done.json["workers"] == {"live": 2, "dead": 2}
    table = scene.run("status")
    assert table.code == 0
    assert table.out.splitlines()[1].split()[:7] == ["mail", "2", "2", "1", "1", "1", "1"]
    assert "Workers: 2 live, 2 dead." in table.out


@pytest.mark.flavours("valkey")
def test_a_worker_of_two_queues_counts_once(scene: Scene) -> None:
    other = Scene(scene.url, "other")
    for one in (scene, other):
        one.join("w1", lease_ms=3_600_000)
        one.join("w2")
        one.pass_time(2_000)
    other.join("w2", "n2", lease_ms=3_600_000)
    done = scene.run("status", "--json")
    assert done.json["workers"] == {"live": 2, "dead": 0}
    assert list(done.json["queues"]) == ["mail", "other"]
    other.close()


@pytest.mark.flavours("valkey")
def test_status_of_nothing(server: Server) -> None:
    scene = Scene(server.url, namespace="elsewhere")
    scene.client.flushall()
    assert scene.run("status", "--json").json == {
        "queues": {},
        "workers": {"live": 0, "dead": 0},
        "schedules": {"enabled": 0, "paused": 0, "problems": 0},
        "repeatable": 0,
        "archive": None,
        "warnings": [],
    }
    assert scene.run("status").out.startswith("No queues yet.")
    scene.close()


@pytest.mark.flavours("valkey")
def test_workers_tells_who_holds_what_and_who_is_dead_why(scene: Scene) -> None:
    a_full_queue(scene)
    scene.join("fenced")
    scene.client.hset(
        scene.partition.key("workers"), "fenced", f"!released|{scene.now}|{scene.tokens['fenced']}|1000|{{}}"
    )
    scene.client.zadd(scene.partition.key("leases"), {"fenced": 0})
    scene.client.xadd(scene.partition.key("lane:low"), {"task": "t-strange"})
    scene.client.xreadgroup("workers", "stranger", {scene.partition.key("lane:low"): ">"}, count=1)
    done = scene.run("workers", "--json")
    assert done.code == 0
    rows = {row["worker"]: row for row in done.json["workers"]}
    assert {name: row["state"] for name, row in rows.items()} == {
        "live": "live",
        "undertaker": "live",
        "expired": "expired",
        "gone": "expired",
        "fenced": "fenced",
        "stranger": "unknown",
    }
    assert {name: row["pending"] for name, row in rows.items()} == {
        "live": 1,
        "undertaker": 0,
        "expired": 1,
        "gone": 0,
        "fenced": 0,
        "stranger": 1,
    }
    live = rows["live"]
    assert (live["host"], live["pid"], live["queue"]) == ("h1", 77, "mail")
    assert live["token"] == scene.tokens["live"]
    assert 0 < live["lease_left_ms"] <= 3_600_000
    assert rows["expired"]["lease_left_ms"] is None
    assert rows["fenced"]["cause"] == "released"
    assert "stranger" in scene.run("workers", "--queue", "mail").out


@pytest.mark.flavours("valkey")
def test_queues_are_paused_and_resumed(scene: Scene) -> None:
    scene.enqueue("t-1")
    first = scene.run("queues", "pause", "mail", "--json")
    assert first.json == {"queues": [{"queue": "mail", "paused": True, "changed": True}]}
    assert "mail is already paused" in scene.run("queues", "pause", "mail").out
    assert scene.run("status", "--json").json["queues"]["mail"]["paused"] is True
    [row] = scene.run("queues", "list", "--json").json["queues"]
    assert (row["queue"], row["paused"], row["waiting"]) == ("mail", True, 1)
    assert "mail is now running" in scene.run("queues", "resume", "mail").out
    absent = scene.run("queues", "pause", "male")
    assert absent.code == 1
    assert "there is no queue 'male': choose one of mail" in absent.err

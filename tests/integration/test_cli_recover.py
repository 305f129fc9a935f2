"""`recover`, `cleanup`, `release`: what they bring back, from whom, and that a dry run changes nothing."""

import pytest

from support.cli import Scene


def two_die_holding_three(scene: Scene) -> None:
    scene.join("w1")
    scene.join("w2")
    scene.join("w3", lease_ms=3_600_000)
    scene.enqueue("t-1", "t-2", "t-3", "t-4")
    scene.enqueue("t-last", most=1)
    scene.take("w1", 2)
    scene.take("w2", 1)
    scene.take("w3", 1)
    scene.take("w2", 1)
    scene.pass_time(2_000)
    scene.reach_the_present()


@pytest.mark.flavours("valkey")
def test_a_dry_run_says_what_would_come_back_and_changes_nothing(scene: Scene) -> None:
    two_die_holding_three(scene)
    before = scene.snapshot()
    done = scene.run("recover", "--dry-run", "--json")
    assert done.code == 0
    assert done.json["dry_run"] is True
    assert done.json["recovered"] == 4
    assert done.json["workers"] == [
        {"worker": "w1", "queue": "mail", "cause": "lease_expired", "tasks": 2, "state": "expired"},
        {"worker": "w2", "queue": "mail", "cause": "lease_expired", "tasks": 2, "state": "expired"},
    ]
    assert "Would bring back 4 tasks from 2 dead workers. Nothing was changed." in scene.run("recover", "--dry-run").out
    assert scene.snapshot() == before


def test_recover_brings_tasks_back_and_names_each(scene: Scene) -> None:
    two_die_holding_three(scene)
    done = scene.run("recover", "--json")
    assert done.code == 0
    result = done.json
    assert (result["recovered"], result["dead"], result["moved"], result["errors"]) == (3, 1, 4, [])
    assert result["fenced"] == ["w1", "w2"]
    back = [
        (t["task_id"], t["queue"], t["worker"], t["deliveries"], t["cause"]) for t in result["tasks"] if not t["dead"]
    ]
    assert sorted(back) == [
        ("t-1", "mail", "w1", 1, "lease_expired"),
        ("t-2", "mail", "w1", 1, "lease_expired"),
        ("t-3", "mail", "w2", 1, "lease_expired"),
    ]
    [buried] = [task for task in result["tasks"] if task["dead"]]
    assert (buried["task_id"], buried["cause"], buried["worker"]) == ("t-last", "max_deliveries", "w2")
    mail = scene.run("status", "--json").json["queues"]["mail"]
    assert (mail["waiting"], mail["active"], mail["dead"]) == (3, 1, 1)
    again = scene.run("recover", "--queue", "mail")
    assert (again.code, again.out) == (0, "Brought back 0 tasks in 1 queue.\n")


@pytest.mark.flavours("valkey")
def test_recover_in_words(scene: Scene) -> None:
    two_die_holding_three(scene)
    done = scene.run("recover")
    assert "mail: t-1 from w1 (lease_expired) to recovered:normal, deliveries 1\n" in done.out
    assert done.out.endswith("Brought back 3 tasks, 1 dead letter in 1 queue.\n")


@pytest.mark.flavours("valkey")
def test_a_silent_worker_is_recovered_when_its_lease_has_ended(scene: Scene) -> None:
    scene.join("w1")
    scene.enqueue("t-1")
    scene.take("w1")
    [planned] = scene.run("recover", "--dry-run", "--json").json["workers"]
    assert (planned["worker"], planned["state"], planned["tasks"]) == ("w1", "silent", 1)
    assert scene.run("recover", "--no-wait", "--json").json["recovered"] == 0
    scene.now -= 60_000
    scene.client.hset(scene.partition.key("clock"), "wall", scene.now)
    done = scene.run("recover", "--json")
    assert [task["task_id"] for task in done.json["tasks"]] == ["t-1"]


@pytest.mark.flavours("valkey")
def test_what_a_stranger_holds_comes_back_too(scene: Scene) -> None:
    scene.join("w1", lease_ms=3_600_000)
    scene.enqueue("t-1")
    scene.client.xreadgroup("workers", "stranger", {scene.partition.key("lane:normal"): ">"}, count=1)
    [planned] = scene.run("recover", "--dry-run", "--json").json["workers"]
    assert (planned["worker"], planned["cause"], planned["tasks"]) == ("stranger", "unknown", 1)
    [task] = scene.run("recover", "--json").json["tasks"]
    assert (task["task_id"], task["worker"], task["cause"]) == ("t-1", "stranger", "unknown")


@pytest.mark.flavours("valkey")
def test_one_broken_queue_does_not_keep_the_others_from_recovery(scene: Scene) -> None:
    broken = Scene(scene.url, "broken")
    broken.client.hset(broken.partition.key("epoch"), mapping={"layout": "99", "state": "ok", "id": "x"})
    two_die_holding_three(scene)
    done = scene.run("recover", "--json")
    assert done.code == 3
    assert done.json["recovered"] == 3
    assert [error["queue"] for error in done.json["errors"]] == ["broken"]
    assert "another layout" in done.err
    broken.close()


@pytest.mark.flavours("valkey")
@pytest.mark.parametrize("state", ["lost", "rebuilding"])
def test_a_queue_that_is_lost_is_named_once(scene: Scene, state: str) -> None:
    scene.enqueue("t-1")
    scene.client.hset(scene.partition.key("epoch"), "state", state)
    done = scene.run("recover")
    assert (done.code, done.err.count("queue mail")) == (1, 1), done
    assert done.err.startswith(f"reclaimd: queue mail is {state}"), done
    [error] = scene.run("recover", "--json").json["errors"]
    assert error["queue"] == "mail"


@pytest.mark.flavours("valkey")
def test_cleanup_forgets_the_gone(scene: Scene) -> None:
    two_die_holding_three(scene)
    scene.run("recover")
    assert scene.run("workers", "--json").json["workers"][0]["state"] == "gone"
    planned = scene.run("cleanup", "--dry-run", "--json").json
    assert [row["worker"] for row in planned["workers"]] == ["w1", "w2"]
    young = scene.run("cleanup", "--older-than", "1h", "--json").json
    assert young["workers"] == []
    assert "Removed 2 workers and 0 consumers." in scene.run("cleanup").out
    assert [row["worker"] for row in scene.run("workers", "--json").json["workers"]] == ["w3"]


@pytest.mark.flavours("valkey")
def test_release_by_nonce_hands_back_that_incarnation_only(scene: Scene) -> None:
    scene.join("w1", "abc", lease_ms=3_600_000)
    scene.enqueue("t-1")
    scene.take("w1")
    other = scene.run("release", "w1", "--nonce", "older", "--json")
    assert (other.code, other.json) == (0, {"released": []})
    done = scene.run("release", "w1", "--nonce", "abc", "--json")
    assert done.json == {"released": [{"worker": "w1", "tasks": 1}]}
    assert scene.run("status", "--json").json["queues"]["mail"]["waiting"] == 1

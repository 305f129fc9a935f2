"""`enqueue`, `tasks list` and `explain`: a task from its beginning to its end."""

import json
from typing import Any

import pytest

from reclaimd.streams import scripts
from support.cli import Scene


def listed(scene: Scene, state: str, *more: str) -> list[dict[str, Any]]:
    done = scene.run("tasks", "list", "--state", state, "--json", *more)
    assert done.code == 0
    tasks: list[dict[str, Any]] = done.json["tasks"]
    return tasks


def explained(scene: Scene, task_id: str) -> dict[str, Any]:
    done = scene.run("explain", task_id, "--json")
    assert done.code == 0, done.err
    [life] = done.json["lives"]
    assert isinstance(life, dict)
    return life


def test_tasks_are_listed_by_state_in_reading_order(scene: Scene) -> None:
    scene.join("w1", lease_ms=3_600_000)
    scene.enqueue("t-low", lane="low")
    scene.enqueue("t-1", "t-2")
    scene.enqueue("t-high", lane="high")
    scene.take("w1", 2)
    scene.enqueue("t-later", "t-much-later", delay_ms=3_600_000)
    assert [task["task_id"] for task in listed(scene, "waiting")] == ["t-2", "t-low"]
    assert [task["task_id"] for task in listed(scene, "waiting", "--newest", "-n", "1")] == ["t-low"]
    active = listed(scene, "active")
    assert [(task["task_id"], task["worker"], task["stream"]) for task in active] == [
        ("t-high", "w1", "lane:high"),
        ("t-1", "w1", "lane:normal"),
    ]
    delayed = listed(scene, "delayed", "--queue", "mail")
    assert [(task["task_id"], task["name"], task["due_ms"] - scene.now) for task in delayed] == [
        ("t-later", "send", 3_600_000),
        ("t-much-later", "send", 3_600_000),
    ]
    table = scene.run("tasks", "list", "--state", "waiting", "--limit", "1")
    assert "t-2" in table.out
    assert "there are more: raise --limit" in table.out


@pytest.mark.flavours("valkey")
def test_long_lists_are_paged(scene: Scene) -> None:
    scene.join("w1", lease_ms=3_600_000)
    names = [f"t-{number:03d}" for number in range(120)]
    scene.enqueue(*names)
    scene.take("w1", 60)
    assert [task["task_id"] for task in listed(scene, "active")] == names[:60]
    assert [task["task_id"] for task in listed(scene, "waiting")] == names[60:]
    assert [task["task_id"] for task in listed(scene, "active", "--newest")] == names[:60][::-1]


def test_explain_tells_the_whole_life(scene: Scene) -> None:
    scene.join("w1")
    scene.enqueue("t-1")
    scene.take("w1")
    scene.pass_time(2_000)
    scene(scripts.reclaim(scene.partition, now=scene.now))
    scene.join("w2", lease_ms=3_600_000)
    [delivery] = scene.take("w2")
    scene.settle("w2", delivery, "retry", run_ms=7, delay_ms=1_000, cause="ValueError", error="try again")
    assert explained(scene, "t-1")["now"]["state"] == "delayed"
    scene.now += 1_000
    scene(scripts.promote(scene.partition, now=scene.now))
    waiting = explained(scene, "t-1")["now"]
    assert (waiting["state"], waiting["ahead"]) == ("waiting", 0)
    [delivery] = scene.take("w2")
    active = explained(scene, "t-1")["now"]
    assert (active["state"], active["task"]["worker"], active["worker_state"]) == ("active", "w2", "live")
    scene.settle("w2", delivery, "succeeded", run_ms=3)
    life = explained(scene, "t-1")
    assert (life["queue"], life["now"]["state"], life["complete"]) == ("mail", "succeeded", True)
    told = [(step["what"], step.get("worker"), step.get("cause")) for step in life["steps"]]
    assert told == [
        ("enqueued", None, None),
        ("started", "w1", None),
        ("moved", "w1", "lease_expired"),
        ("started", "w2", None),
        ("retried", "w2", "ValueError"),
        ("promoted", None, None),
        ("started", "w2", None),
        ("succeeded", "w2", None),
    ]
    assert life["steps"][1]["token"] == scene.tokens["w1"]
    words = scene.run("explain", "t-1")
    assert words.out.startswith("Task t-1 in queue mail: it succeeded.\n")
    assert f"started by w1 (incarnation {scene.tokens['w1']})" in words.out
    assert "taken back from w1 (lease_expired" in words.out


@pytest.mark.flavours("valkey")
def test_explain_a_dead_letter_and_a_refused_settlement(scene: Scene) -> None:
    scene.bury("t-1")
    life = explained(scene, "t-1")
    assert (life["now"]["state"], life["now"]["task"]["cause"]) == ("dead", "ValueError")
    assert "reclaimd dead redrive" in scene.run("explain", "t-1").out

    scene.join("w1")
    scene.enqueue("t-2")
    [delivery] = scene.take("w1")
    scene.pass_time(2_000)
    scene(scripts.reclaim(scene.partition, now=scene.now))
    assert scene.settle("w1", delivery, "succeeded").status == "fenced"
    life = explained(scene, "t-2")
    assert [step["what"] for step in life["steps"]] == ["enqueued", "started", "moved", "refused"]
    assert (life["now"]["state"], life["now"]["task"]["stream"]) == ("waiting", "recovered:normal")


@pytest.mark.flavours("valkey")
def test_explain_says_that_older_events_are_gone(scene: Scene) -> None:
    scene.join("w1")
    scene.enqueue("t-1", "t-2")
    scene.take("w1")
    scene.pass_time(2_000)
    scene(scripts.reclaim(scene.partition, now=scene.now))
    scene.client.xtrim(scene.partition.key("events"), maxlen=0, approximate=False)
    moved = explained(scene, "t-1")
    assert (moved["complete"], moved["now"]["state"], moved["now"]["task"]["stream"]) == (
        False,
        "waiting",
        "recovered:normal",
    )
    assert [(step["what"], step["detail"], step["cause"]) for step in moved["steps"]] == [
        ("remembered", "reclaimed", "lease_expired")
    ]
    words = scene.run("explain", "t-2")
    assert words.code == 0
    assert "waiting in lane:normal, about 1 before it." in words.out
    assert "Older events are gone" in words.out


@pytest.mark.flavours("valkey")
def test_explain_an_unknown_task(scene: Scene) -> None:
    scene.enqueue("t-1")
    done = scene.run("explain", "t-9", "--json")
    assert (done.code, done.json["found"], done.json["searched"]) == (1, False, ["mail"])
    assert "nothing is known of task t-9" in done.err


@pytest.mark.flavours("valkey")
def test_enqueue_prints_the_task_id(scene: Scene) -> None:
    done = scene.run("enqueue", "send", "--queue", "mail", "--args", '{"to": "b"}', "--lane", "high", "--unique", "u")
    assert (done.code, done.err) == (0, "")
    task_id = done.out.strip()
    [task] = listed(scene, "waiting")
    assert (task["task_id"], task["name"], task["lane"], task["max_deliveries"]) == (task_id, "send", "high", 5)
    again = scene.run("enqueue", "send", "--queue", "mail", "--unique", "u", "--json")
    assert (again.code, again.json) == (0, {"task_id": task_id, "status": "exists", "queue": "mail"})
    late = scene.run("enqueue", "send", "-q", "mail", "--args", "-", "--delay", "1h", "--task-id", "mine", stdin="{}")
    assert late.out == "mine\n"
    assert [task["task_id"] for task in listed(scene, "delayed")] == ["mine"]
    twice = scene.run("enqueue", "send", "-q", "mail", "--task-id", "mine")
    assert (twice.code, twice.out) == (0, "mine\n")
    assert "was enqueued before" in twice.err


@pytest.mark.flavours("valkey")
@pytest.mark.parametrize(
    "wrong",
    [
        ["send", "--args", "[1]"],
        ["send", "--args", "{"],
        ["send", "--lane", "urgent"],
        ["send", "--queue", "a{b}"],
        ["send", "--delay", "5"],
        ["send", "--task-id", "a b"],
        ["two words"],
    ],
)
def test_enqueue_refuses_what_no_worker_could_run(scene: Scene, wrong: list[str]) -> None:
    done = scene.run("enqueue", *wrong, "--json")
    assert done.code == 2
    assert done.err.startswith("reclaimd: ")
    assert done.err.count("\n") == 1
    assert set(json.loads(done.out)) == {"error", "cure"}
    assert list(scene.client.scan_iter(match="*:lane:*")) == []

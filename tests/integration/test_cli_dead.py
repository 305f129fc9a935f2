"""`dead list`, `show`, `redrive`, `purge`."""

import pytest

from support.cli import Scene

pytestmark = pytest.mark.flavours("valkey")


def test_list_filters_and_pages(scene: Scene) -> None:
    scene.bury("t-1", "t-2")
    scene.bury("t-3", cause="TypeError", error="not\x1b[31m a number")
    whole = scene.run("dead", "list", "--json").json
    assert [row["task_id"] for row in whole["dead"]] == ["t-1", "t-2", "t-3"]
    assert whole["more"] is False
    first = whole["dead"][0]
    assert (first["queue"], first["name"], first["cause"], first["error"], first["worker"], first["attempts"]) == (
        "mail",
        "send",
        "ValueError",
        "no such address",
        "undertaker",
        1,
    )
    newest = scene.run("dead", "list", "--newest", "--limit", "1", "--json").json
    assert ([row["task_id"] for row in newest["dead"]], newest["more"]) == (["t-3"], True)
    by_cause = scene.run("dead", "list", "--cause", "TypeError")
    assert "t-3" in by_cause.out
    assert "t-1" not in by_cause.out
    assert "\x1b" not in by_cause.out
    assert scene.run("dead", "list", "--older-than", "1h", "--json").json["dead"] == []


def test_show_tells_everything_and_who_is_missing(scene: Scene) -> None:
    scene.bury("t-1")
    done = scene.run("dead", "show", "t-1", "t-9", "--json")
    assert done.code == 1
    [letter] = done.json["dead"]
    assert letter["args"] == {"to": "a@example.org"}
    assert [past["what"] for past in letter["history"]] == ["failed"]
    assert done.json["missing"] == ["t-9"]
    assert "no dead letter t-9" in done.err
    by_entry = scene.run("dead", "show", letter["task"]["entry_id"])
    assert by_entry.code == 0
    assert 'arguments   {"to":"a@example.org"}' in by_entry.out


def test_a_foreign_entry_is_shown_and_not_redriven(scene: Scene) -> None:
    scene.join("w1", lease_ms=3_600_000)
    scene.client.xadd(scene.partition.key("lane:normal"), {b"what": b"\xff\x00"})
    scene.take("w1")
    [row] = scene.run("dead", "list", "--json").json["dead"]
    assert row["cause"] == "foreign"
    [letter] = scene.run("dead", "show", row["task_id"], "--json").json["dead"]
    assert letter["fields"] == {"x:what": "\\xff\x00"}
    done = scene.run("dead", "redrive", row["task_id"], "--json")
    assert (done.code, done.json["redriven"], done.json["results"][0]["status"]) == (1, 0, "foreign")


def test_redrive_by_id_by_cause_and_all(scene: Scene) -> None:
    scene.bury("t-1", "t-2", "t-4")
    scene.bury("t-3", cause="TypeError")
    one = scene.run("dead", "redrive", "t-1", "--json")
    assert one.code == 0
    assert [(r["task_id"], r["status"], r["queue"]) for r in one.json["results"]] == [("t-1", "ok", "mail")]
    assert scene.run("dead", "redrive", "--cause", "TypeError", "--json").json["redriven"] == 1
    assert "Redrove 2 dead letters." in scene.run("dead", "redrive", "--all").out
    mail = scene.run("status", "--json").json["queues"]["mail"]
    assert (mail["waiting"], mail["dead"]) == (4, 0)
    gone = scene.run("dead", "redrive", "t-1", "--json")
    assert (gone.code, gone.json["missing"]) == (1, ["t-1"])


def test_a_letter_whose_unique_key_is_taken_stays(scene: Scene) -> None:
    scene.join("w1", lease_ms=3_600_000)
    scene.enqueue("t-1", unique="hi:a")
    [delivery] = scene.take("w1")
    scene.settle("w1", delivery, "failed", cause="ValueError", error="no")
    scene.enqueue("t-2", unique="hi:a")
    done = scene.run("dead", "redrive", "t-1")
    assert done.code == 1
    assert "mail: t-1 stays: task t-2 holds its unique key" in done.out


def test_purge_asks_first(scene: Scene) -> None:
    scene.bury("t-1", "t-2")
    refused = scene.run("dead", "purge", "--all")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == "reclaimd: purge deletes for good and there is nobody to ask: add --yes\n"
    assert scene.run("dead", "purge", "t-1", "--yes", "--json").json == {"purged": 1, "missing": []}
    assert "Purged 1 dead letter." in scene.run("dead", "purge", "--all", "--yes").out
    assert scene.run("dead", "list", "--json").json["dead"] == []


@pytest.mark.parametrize("verb", ["redrive", "purge"])
def test_nothing_said_is_not_everything(scene: Scene, verb: str) -> None:
    done = scene.run("dead", verb)
    assert done.code == 2
    assert "name IDs, or say --cause, --older-than or --all" in done.err


def test_more_letters_than_a_batch(scene: Scene) -> None:
    scene.bury(*(f"t-{number}" for number in range(250)))
    assert scene.run("dead", "redrive", "--all", "--json").json["redriven"] == 250
    assert len(scene.run("tasks", "list", "--state", "waiting", "-n", "300", "--json").json["tasks"]) == 250

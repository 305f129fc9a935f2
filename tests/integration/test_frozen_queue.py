"""What people and programs are told by a queue whose data were lost, until it is mended."""

import asyncio
import threading

import pytest
import structlog

from reclaimd.streams import archive_scripts as arc
from reclaimd.streams import scripts
from reclaimd.streams.errors import PartitionFrozen
from reclaimd.streams.keys import Partition
from reclaimd.streams.redis_log import send_sync, translated
from reclaimd.streams.worker.joining import join_all
from support.cli import Scene
from support.servers import Server
from support.waiting import wait_until

OURS = "a" * 16
MARK = "1:00000000"

pytestmark = pytest.mark.flavours("valkey")


def adopt(scene: Scene) -> None:
    call = arc.adopt(
        scene.partition, archive_id=OURS, seen_epoch_id="e1", new_epoch_id="e9", mark=MARK, events_cap=1_000
    )
    assert scene(call).status == "ok"


def freeze(scene: Scene, state: str = "lost") -> None:
    ids = {"archive_id": OURS, "seen_epoch_id": "e1", "seen_mark": MARK, "new_epoch_id": "e2", "rebuild_id": "r1"}
    assert scene(arc.freeze(scene.partition, **ids, state=state)).status == "ok"  # type: ignore[arg-type]


def thaw(scene: Scene) -> None:
    freeze(scene, "rebuilding")
    assert scene(arc.finish(scene.partition, "r1", cursor="", mark="2:00000000", events_cap=1_000)).status == "ok"


def test_a_worker_waits_and_says_so_once(scene: Scene, server: Server) -> None:
    """It keeps its lease in the queue that is open meanwhile."""
    scene.enqueue("t")
    adopt(scene)
    freeze(scene)
    side = Partition(scene.namespace, "side")
    who = scripts.Identity("w", "n" * 16, 400, "{}")
    joined = []
    with structlog.testing.capture_logs() as lines:
        thread = threading.Thread(
            target=lambda: joined.append(asyncio.run(join_all(server.url, [side, scene.partition], who)))
        )
        thread.start()
        ends = set[float | None]()

        def renewed_for_longer_than_a_lease() -> bool:
            ends.add(scene.client.zscore(side.key("leases"), "w"))
            return len(ends) > 10

        wait_until(renewed_for_longer_than_a_lease, "the worker to wait", 20)
        assert scene.client.hexists(scene.partition.key("workers"), "w") is False
        thaw(scene)
        thread.join(20)
    assert [held.partition.queue for held in joined[0].held] == ["side", "mail"]
    tokens = {held.partition.queue: held.token for held in joined[0].held}
    assert scene(scripts.beat(side, "w", tokens["side"]))
    told = [line for line in lines if line["event"] == "cannot join yet"]
    assert {line["queue"] for line in told} == {"mail"}
    assert "reclaimd rebuild" in told[0]["error"]
    # Opening it again goes through "rebuilding", which is told too by a worker that happens to ask just then.
    assert ["rebuilding" in line["error"] for line in told] in ([False], [False, True])
    assert int(scene.client.hget(side.key("counters"), "joined") or 0) == 1


@pytest.mark.parametrize("state", ["lost", "rebuilding"])
def test_commands_that_move_tasks_say_what_is_the_matter(scene: Scene, state: str) -> None:
    scene.bury("letter")
    adopt(scene)
    freeze(scene, state)
    for arguments in (
        ("recover",),
        ("dead", "redrive", "letter"),
        ("dead", "purge", "letter", "--yes"),
    ):
        done = scene.run(*arguments)
        assert done.code == 1, done
        (line,) = done.err.strip().splitlines()
        assert f"queue mail is {state}" in line
        assert "`reclaimd rebuild`" in line
    assert [row["task_id"] for row in scene.run("dead", "list", "--json").json["dead"]] == ["letter"]
    assert scene.run("recover", "--dry-run").code == 0
    thaw(scene)
    assert scene.run("dead", "redrive", "letter").code == 0


def test_the_error_names_the_queue(scene: Scene, server: Server) -> None:
    scene.enqueue("t")
    adopt(scene)
    freeze(scene)
    with pytest.raises(PartitionFrozen) as caught, translated(server.url):
        send_sync(scene.client, scripts.purge(scene.partition, ["1-0"]))
    assert (caught.value.queue, caught.value.state) == ("mail", "lost")


def test_lists_do_not_show_what_an_archive_planted(scene: Scene) -> None:
    scene.enqueue("later", delay_ms=3_600_000)
    adopt(scene)
    done = scene.run("tasks", "list", "--state", "delayed", "--json")
    assert [task["task_id"] for task in done.json["tasks"]] == ["later"]
    assert scene.run("status", "--json").json["queues"]["mail"]["delayed"] == 1
    for state in ("waiting", "active", "dead"):
        assert scene.run("tasks", "list", "--state", state, "--json").json["tasks"] == []
    assert scene.run("explain", "later").code == 0
